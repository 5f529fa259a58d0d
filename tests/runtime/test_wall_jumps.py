"""Ten thousand jumps of the wall clock by an hour: not one decision is another."""

from __future__ import annotations

import random

from tests.agents import make_tower
from towerkit.core.env import BootTime, VirtualEnv
from towerkit.core.errors import ControlError
from towerkit.core.types import Response, Usage
from towerkit.cost.budget import Limits
from towerkit.cost.plan import PERIOD_NS, Budget, Window
from towerkit.reliability.breaker import Limits as BreakerLimits
from towerkit.reliability.policy import Policy
from towerkit.runtime import models
from towerkit.runtime.shared_budgets import SqliteBudgets

HOUR = PERIOD_NS["hour"]
BUDGET = Budget(
    run=Limits(cost_usd=0.3, calls=18, wall_s=55, working_s=30),
    tools={"look": Limits(tool_calls=6)},
    above=(
        Window(scope="tenant", per="hour", limits=Limits(calls=40)),
        Window(scope="service", per="day", limits=Limits(cost_usd=1.6)),
    ),
    short=("clamp", "cheaper"), ladder=True,
)  # fmt: skip


class Jumping(VirtualEnv):
    """A clock whose wall is set ahead or back by an hour before each reading, once told to."""

    def __init__(self, seed):
        """Start calm."""
        super().__init__(seed)
        self.rng = random.Random(seed)
        self.jumps, self.jumpy, self._apart = 0, False, 0

    def wall_ns(self):
        """Return what somebody has set the wall to."""
        if self.jumpy:
            apart = self.rng.choice([step for step in (-HOUR, 0, HOUR) if step != self._apart])
            self.jumps, self._apart = self.jumps + 1, apart
        return super().wall_ns() + self._apart

    def boot(self):
        """Return what the machine says of its time."""
        return BootTime("one", 10**12 + self.mono_ns(), self.wall_ns())


class Failed(Exception):
    """What an SDK raises."""

    def __init__(self, status, wait_s):
        """Say a status, and how long to wait."""
        super().__init__(f"status {status}")
        self.status_code = status
        headers = {"retry-after": str(wait_s)} if wait_s else {}
        self.response = type("R", (), {"headers": headers, "status_code": status})()


def provider(env, seed):
    """Return a model that answers, is slow, throttles, or is down for a while."""
    rng = random.Random(seed)

    def complete(_request):
        env.sleep(rng.choice([0.2, 0.2, 0.5, 0.5, 4, 7, 9.5, 13]))
        down = env.mono_ns() // (900 * 10**9) % 5 == seed
        status = rng.choice([500, 503, 529] if down else [200] * 18 + [429, 500])
        if status != 200:
            raise Failed(status, rng.choice([0, 1, 20]))
        return Response(
            content="done", usage=Usage(input_tokens=90, output_tokens=rng.randrange(900))
        )

    return complete


def decided(store, *, jumpy):
    """Return what a day of runs came to, run by run, and how often the wall jumped."""
    env = Jumping(5)
    chain = [
        models.function(provider(env, n), name=name, provider="simulated", simulated=True)
        for n, name in enumerate(("sim-clerk-large", "sim-clerk-small"))
    ]
    tower = make_tower(
        store, budget_usd=None, budget=BUDGET, models=chain,
        budgets=SqliteBudgets(store / "b.sqlite", clock=env.boot),
        policy=Policy(deadline_s=40, attempt_timeout_s=10),
        breaker=BreakerLimits(window=6, min_calls=3, open_s=40, slow_call_s=9),
    )  # fmt: skip
    found, rng = [], random.Random(9)
    for n in range(500):
        said = None
        run = tower.run("day", env=env, keep=False, tenant="acme")
        try:
            with run:
                for i in range(rng.randrange(1, 9)):
                    if rng.random() < 0.3:
                        run.tool(env.sleep, {"seconds": rng.random()}, name="look", idempotent=True)
                    run.model([{"role": "user", "content": f"number {n}.{i}"}])
        except (ControlError, Failed) as error:
            said = (type(error).__name__, str(error))
        spans = run.recorder._spans
        assert all(span.duration_ns >= 0 for span in spans)
        begin = spans[0].start_unix_ns
        found.append((
            env.mono_ns(), said, run.ledger.spent, run.budgets.purse.run.spent,
            [(s.name, s.kind, s.status, s.fields.get("error_class"), s.fields.get("attempt"),
              s.fields.get("fallback_tier"), s.start_unix_ns - begin, s.duration_ns, s.events,
              s.attributes) for s in spans],
            [(row[0], row[1], row[7:10]) for row in run.recorder._inputs],
            {key: breaker.state(env.mono_ns()) for key, breaker in tower._breakers.items()},
        ))  # fmt: skip
        env.sleep(rng.choice([10, 60, 300, 700]))
        env.jumpy = jumpy  # a wall that is wrong when the machine starts is another matter
    return found, env.jumps


def test_ten_thousand_jumps_of_the_wall_change_no_decision(tmp_path):
    """Retries, waits, deadlines, breakers, limits on time, windows of hours and days: all alike."""
    calm, none = decided(tmp_path / "calm", jumpy=False)
    wild, jumps = decided(tmp_path / "wild", jumpy=True)
    assert (none, jumps >= 10_000) == (0, True), jumps
    for ours, theirs in zip(calm, wild, strict=True):
        assert ours == theirs
    # And they were decisions: each kind was made.
    said = " ".join(str(run[1]) for run in calm)
    for kind in (
        "tenant=acme/hour",
        "service=agent/day",
        "working_s",
        "tool look",
        "DeadlineExceeded",
    ):
        assert kind in said, kind
    states = {state for run in calm for state in run[-1].values()}
    assert states == {"closed", "open", "half_open"}

"""Cancellation at any await: a seeded schedule of interleaved agents, and what must hold after it.

Coroutines are stepped by hand, each in a context of its own, so a schedule is a function of its
seed: which of three agents goes on next, what models and tools do, and where one is cancelled.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import random

from towerkit.core.env import VirtualEnv
from towerkit.core.errors import ControlError
from towerkit.core.types import Model, Response, Usage
from towerkit.cost.budget import Limits
from towerkit.cost.plan import Budget
from towerkit.privacy.keys import simulated_redactor
from towerkit.reliability.breaker import Limits as BreakerLimits
from towerkit.reliability.policy import Policy
from towerkit.runtime.tower import Tower

# Held by the ledger alone, by accounts, and by accounts with all attempts set aside at once.
LIMITS = Limits(cost_usd=1e6, calls=10**6, working_s=1e6)
BUDGETS = (
    Budget(run=Limits(cost_usd=1e6)), Budget(run=LIMITS), Budget(run=LIMITS, ladder=True),
)  # fmt: skip
HELLO = [{"role": "user", "content": "hello"}]
USAGE = Usage(input_tokens=10, output_tokens=5)
FAILURES = ("overloaded", "rate_limited", "timeout_read", "auth_failed", "tool_failed", "unknown")


class World:
    """Models and tools that wait, fail and answer as a random stream says."""

    def __init__(self, rng: random.Random, env: VirtualEnv) -> None:
        self.rng, self.env = rng, env

    async def pause(self) -> None:
        """Wait a little, or for simulated seconds."""
        for _ in range(self.rng.randrange(3)):
            await asyncio.sleep(0)
        if self.rng.random() < 0.3:
            await self.env.asleep(self.rng.choice([0.1, 3.0, 20.0]))

    async def trouble(self) -> None:
        """Wait, then fail or not."""
        await self.pause()
        if self.rng.random() < 0.4:
            raise ControlError("on purpose", error_class=self.rng.choice(FAILURES))

    async def complete(self, request, timeout_s):
        """Answer whole."""
        await self.trouble()
        return Response(content=str(self.rng.random()), usage=USAGE)

    async def stream(self, request, timeout_s):
        """Answer in pieces, now and then not to the end."""
        for _ in range(self.rng.randrange(4)):
            await self.trouble()
            yield "piece"
        if self.rng.random() < 0.8:
            yield Response(content="whole", usage=USAGE)

    async def tool(self, number):
        """Answer with the number."""
        await self.trouble()
        return number

    def model(self, name, provider):
        """Return a model of this world, whose credential is renewed now and then."""

        def renew():
            if self.rng.random() < 0.5:
                raise PermissionError("no fresh key")

        return Model(name=name, provider=provider, complete=lambda r, t: None, simulated=True,
                     acomplete=self.complete, astream=self.stream, renew=renew)  # fmt: skip


async def agent(run, world, numbers):
    """Do a few guarded things; go on after each failure."""
    for _ in range(6):
        kind = world.rng.randrange(4)
        try:
            async with contextlib_step(run, kind):
                if kind == 0:
                    await run.amodel(HELLO)
                elif kind == 1:
                    async for _ in run.astream(HELLO):
                        await asyncio.sleep(0)
                else:
                    await run.atool(world.tool, {"number": next(numbers)}, idempotent=kind == 2)
        except ControlError:
            continue


class contextlib_step:  # noqa: N801  reads as what it is where it is used
    """A step around some of the calls."""

    def __init__(self, run, kind):
        self.step = run.step(f"step {kind}") if kind % 2 else None

    async def __aenter__(self):
        if self.step is not None:
            self.step.__enter__()

    async def __aexit__(self, *error):
        if self.step is not None:
            self.step.__exit__(*error)


def schedule(seed, store):
    """Run one schedule and check it; return how many awaits it made and whether it cancelled."""
    rng = random.Random(seed)
    env = VirtualEnv(seed)
    world = World(rng, env)
    limits = BreakerLimits(window=6, min_calls=2, open_s=2.0, probes=2, lease_s=1e9)
    tower = Tower(
        store=store, models=[world.model("a", "p"), world.model("b", "q")], breaker=limits,
        redactor=simulated_redactor(), environment=lambda: env, budget=BUDGETS[seed % 3],
        policy=Policy(max_stale=99),
    )  # fmt: skip
    victim, at, steps, cancelled = rng.randrange(3), rng.randrange(24), 0, False
    numbers = itertools.count()
    with tower.run("x", keep=False) as run:
        agents = [(i, agent(run, world, numbers), contextvars.copy_context()) for i in range(3)]
        while agents:
            i, coroutine, context = agents[rng.randrange(len(agents))]
            steps += 1
            try:
                if i == victim and steps >= at and not cancelled:
                    cancelled = True
                    context.run(coroutine.throw, asyncio.CancelledError())
                else:
                    context.run(coroutine.send, None)
            except (StopIteration, asyncio.CancelledError):
                agents = [a for a in agents if a[0] != i]
    recorder = run.recorder
    ended = [span.seq for span in recorder._spans]
    assert sorted(ended) == list(range(recorder.next_seq)), "each span ends exactly once"
    assert run.ledger.reserved == 0, "every reservation is settled"
    assert run.ledger.spent >= 0
    if run.budgets is not None:
        account = run.budgets.purse.run
        assert account.reserved == [0] * 5, "every claim is settled"
        assert (account._waiting, account._under_way) == (0, 0), "nothing waits or goes on"
    for breaker in tower._breakers.values():
        assert not breaker._leases, "every permit is given back"
    return steps, cancelled

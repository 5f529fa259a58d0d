"""A seeded night of traffic that can really be run under any policy.

What attempt k of a call on a model brings, and the jitter after it, is a pure function of seed,
run, call, model and k: two policies meet one world. What the agent does next depends on what it
got: another answer, or a failure, sends it down another path.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import Any

import msgspec

from towerkit.core.env import VIRTUAL_EPOCH_NS, VirtualEnv, derive_seed
from towerkit.core.errors import ControlError, FaultInjected
from towerkit.core.types import Model, Request, Response, Usage
from towerkit.cost.plan import read_budget
from towerkit.packs.store import Pack
from towerkit.privacy.keys import simulated_redactor
from towerkit.reliability.breaker import Limits
from towerkit.reliability.policy import Policy
from towerkit.runtime import models
from towerkit.runtime.tower import Tower

NS = 1_000_000_000
LARGE, SMALL = "simulated/sim-clerk-large", "simulated/sim-clerk-small"
# What an attempt may fail with: class, weight, the wait it asks for.
_MODEL_FAULTS = (
    ("overloaded", 5, None), ("upstream_5xx", 4, None), ("upstream_5xx", 2, 6.0),
    ("rate_limited", 3, 4.0), ("rate_limited", 2, 40.0), ("ramp_too_fast", 3, None),
    ("model_error", 2, None), ("slow", 5, None), ("stalled", 3, None),
    ("content_filtered", 1, None), ("invalid_request", 1, None), ("quota_exhausted", 1, None),
)  # fmt: skip
_TOOL_FAULTS = (("tool_failed", 4, None), ("stalled", 2, None), ("mcp_transport", 2, None))


CALLS = {"run": {"calls": 6}, "tools": {"work": {"tool_calls": 2}}}
CHEAPER = {"run": {"cost_usd": 0.003}, "short": ["cheaper"]}
CLAMP = {"run": {"cost_usd": 0.003, "output_tokens": 900}, "short": ["clamp", "cheaper"]}
TIMED = {"run": {"wall_s": 30.0}, "tools": {"work": {"working_s": 8.0}}}


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Under what a night is run."""

    policy: Policy = Policy()
    budget_usd: float | None = None
    chain: tuple[str, ...] = (LARGE, SMALL)
    breaker: Limits = Limits()
    plan: dict[str, Any] | None = None  # limits beside the cost of the run, and ways out


def _budget(settings: Settings) -> dict[str, Any]:
    if settings.plan is None:
        return {"budget_usd": settings.budget_usd}
    short = settings.plan.get("short", ())
    compact = (lambda messages: messages[-1:]) if "compact" in short else None
    return {"budget": read_budget(settings.plan, compact=compact)}


def budget_asked(settings: Settings) -> float | None:
    """Return the budget that a world names for settings: a plan stays as it was recorded."""
    return None if settings.plan is not None else settings.budget_usd or 0.0


class NightEnv(VirtualEnv):
    """A virtual clock that starts at a run's place in the night; jitter belongs to its attempt."""

    where: tuple[Any, ...] = ()

    def random(self) -> float:
        """Return the jitter of the attempt made last."""
        return derive_seed("jitter", self.seed, *self.where) / 2**64


class Night:
    """The same traffic each time it is run: `runs` of one agent, `apart_s` seconds apart."""

    def __init__(
        self, seed: int, *, runs: int, faults: float = 0.2, apart_s: float = 400.0, personal=False
    ) -> None:
        self.seed, self.runs, self.faults, self.apart_s = seed, runs, faults, apart_s
        self.personal = personal  # addresses in the messages, which are redacted
        self._env: NightEnv
        self._made: Counter[tuple[Any, ...]] = Counter()
        self._run = 0

    def play(self, store, settings: Settings) -> dict[str, Pack]:
        """Run the whole night under `settings`; return the packs by case."""
        self._made.clear()
        tower = Tower(
            store=store, models=[self._model(name) for name in settings.chain],
            policy=settings.policy, redactor=simulated_redactor(), breaker=settings.breaker,
            durable=False, **_budget(settings),
        )  # fmt: skip
        packs = {}
        for number in range(self.runs):
            self._run = number
            env = self._env = NightEnv(self.seed, start_ns=VIRTUAL_EPOCH_NS)
            env.advance_to(round(self._run * self.apart_s * NS))
            case = f"case-{self._run}"
            run = tower.run("night", task={"case": case}, env=env, identity={"case_id": case})
            with contextlib.suppress(ControlError), run:  # the agent may give up
                self._agent(run)
            packs[case] = run.pack
        return packs

    # -- the world ---------------------------------------------------------------------------------

    def _draw(self, *parts: Any) -> float:
        return derive_seed(self.seed, self._run, *parts) / 2**64

    def _outcome(self, kind: str, call: str, name: str) -> None:
        """Take the time of an attempt, and fail if it is to fail."""
        k = self._made[self._run, call, name] = self._made[self._run, call, name] + 1
        where = (self._run, call, name, k)
        self._env.where = where
        took = 0.2 + 3 * self._draw("took", *where[1:])
        if self._draw("fails", *where[1:]) >= self.faults * (1 if k == 1 else 2):
            self._env.sleep(took)
            return
        table = _MODEL_FAULTS if kind == "model" else _TOOL_FAULTS
        each = [(fault, asked) for fault, weight, asked in table for _ in range(weight)]
        fault, asked = each[int(self._draw("fault", *where[1:]) * len(each))]
        if fault in {"slow", "stalled"}:
            self._env.sleep(7 + 4 * self._draw("slow", *where[1:]) if fault == "slow" else 60.0)
            return
        self._env.sleep(took / 4)
        raise FaultInjected(f"simulated {fault}", error_class=fault, retry_after_s=asked)

    def _model(self, key: str) -> Model:
        provider, _, name = key.partition("/")

        def complete(request: Request) -> Response:
            call = str(request.messages[-1]["content"]).split("|")[0]
            self._outcome("model", call, name)
            tokens = 50 + int(100 * self._draw("tokens", call, name))
            return Response(
                content=f"{name} says {derive_seed(call, name) % 97}",
                # Four characters a token, as the guard takes it for its reservation.
                usage=Usage(input_tokens=len(str(request.messages)) // 4, output_tokens=tokens),
            )

        return models.function(complete, name=name, provider=provider, simulated=True)

    # -- the agent ---------------------------------------------------------------------------------

    def _agent(self, run: Any) -> None:
        """Take some steps; what each brings decides how it goes on."""
        path, steps = "start", 3 + int(4 * self._draw("steps"))
        step = 0
        while step < steps:
            call = f"{path}.{step}"
            step += 1
            if self._draw("tool", step) < 0.35:
                path += self._tool_step(run, call)
                continue
            try:
                who = f" for ann.{self._run}@example.com" if self.personal else ""
                text = f"{call}|please go on{who}"
                reply = run.model([{"role": "user", "content": text}], max_tokens=200)
            except ControlError:
                if self._draw("gives up", call) < 0.5:
                    raise
                path, steps = path + "f", steps + 1
                continue
            run.env.sleep(0.05)
            if "small" in reply.content and self._draw("longer", call) < 0.5:
                path, steps = path + "s", steps + 1
        run.finish({"path": path})

    def _tool_step(self, run: Any, call: str) -> str:
        idempotent = self._draw("idempotent", call) < 0.6

        def work(call: str) -> str:
            self._outcome("tool", call, "work")
            return f"done {call}"

        try:
            run.tool(work, {"call": call}, idempotent=idempotent, timeout_s=12.0)
        except ControlError:
            return "t"
        return ""


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What a run really came to."""

    cost_nanousd: int
    latency_ns: int
    calls_failed: int
    fallbacks: int
    budget_breach: int
    run_success: int


def truth_of(pack: Pack) -> Truth:
    """Return what a pack says of its run, counted from its rows."""
    calls = pack.spans.filter(kind="call").rows(named=True)
    return Truth(
        cost_nanousd=pack.frame("costs")["cost_nanousd"].sum(),
        latency_ns=pack.manifest["duration_ns"],
        calls_failed=sum(c["status"] == "error" for c in calls),
        fallbacks=sum('"fallback"' in c["events"] for c in calls),
        budget_breach=int(any(c["error_class"] == "budget_exceeded" for c in calls)),
        run_success=int(pack.manifest["status"] == "completed"),
    )

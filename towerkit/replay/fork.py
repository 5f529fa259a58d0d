"""A recorded run taken up again in the middle: what came before from the tape, the rest live.

Rule: the fork is a run of its own, kept as any other, and its manifest names the run it was taken
from. What the tape does not hold before the fork is a divergence, never a live call.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import ExitStack
from typing import Any

import msgspec

from towerkit.core.env import Env, SystemEnv, VirtualEnv
from towerkit.core.errors import ReplayDiverged, UsageError
from towerkit.core.types import Response
from towerkit.cost.budget import Shortage
from towerkit.faults.plan import FaultPlan
from towerkit.packs.store import Pack, Store
from towerkit.privacy.safe_text import safe_text
from towerkit.reliability.breaker import Breaker, Permit, Refusal, RetryBudget
from towerkit.replay.agents import Agent
from towerkit.replay.every import named_agent
from towerkit.replay.recording import RecordedCall, Row
from towerkit.replay.replay import (
    exceptions_of,
    redactor_of,
    scenario_agent,
    scenario_of,
)
from towerkit.replay.stage import Stage
from towerkit.replay.tape import Tape
from towerkit.replay.turns import ReplayEnv
from towerkit.runtime.executor import Attempt, Live
from towerkit.runtime.models import parse_model
from towerkit.runtime.run import Run
from towerkit.runtime.tower import Tower
from towerkit.scenarios import SUITES, Case, Scenario

Change = Callable[[Any, str], Any]


class Fork(msgspec.Struct, frozen=True, kw_only=True):
    """A fork that was made: its run and pack, and how much of it came from the tape."""

    run_id: str
    parent: str
    fork_at: int
    pack: str
    status: str
    from_tape: int
    live: int
    simulated: bool

    def lines(self) -> list[str]:
        """Return the report as a person reads it."""
        where = f"run={self.run_id} parent={self.parent} at span {self.fork_at}"
        told = f"{self.from_tape} calls from the tape, {self.live} live"
        lines = [f"[fork] {self.status} {where}: {told}", f"pack: {safe_text(self.pack)}"]
        return [*lines, "simulated: no provider was called"] if self.simulated else lines


class _ForkTape(Tape):
    """The tape before the fork, the world after it. `change` is made to the answer of the fork."""

    enforces = True
    at: int
    change: Change | None
    world: Live
    again = False  # tools before the fork are run once more, in a world of the fork's own

    def __init__(
        self, pack: Pack, env: VirtualEnv, *, exceptions: Mapping[str, type[BaseException]]
    ) -> None:
        """Read the tape."""
        super().__init__(pack, env, exceptions=exceptions)
        self.live: set[int] = set()
        self.begun = False

    def short(self, what: Attempt) -> Shortage | None:
        """Return a recorded refusal of the budget; live calls have none."""
        return None if what.span_seq in self.live else super().short(what)

    def admit(
        self, what: Attempt, breaker: Breaker, now_ns: int
    ) -> Permit | Refusal | Shortage | None:
        """Decide who answers the call, when it begins."""
        seq = what.span_seq
        if seq not in self.claimed and seq not in self.live:
            key = what.kind, what.name, what.path, what.request_digest
            call = self.recording.claim(*key)
            if call is not None and self._on_tape(call):
                self.claimed[seq] = call
            elif call is not None or self.begun:
                self.begun = True
                self.live.add(seq)
            else:
                raise self.diverged(seq, what.kind, what.name, what.request_digest)
        if seq in self.live:
            return self.world.admit(what, breaker, now_ns)
        return super().admit(what, breaker, now_ns)

    def _on_tape(self, call: RecordedCall) -> bool:
        seq = int(call.span["seq"])
        return seq < self.at or (seq == self.at and self.change is not None)

    def attempt(self, what: Attempt, call: Callable[[], Any]) -> Any:
        """Answer from the tape, or from the world."""
        if what.span_seq in self.live:
            return self.world.attempt(what, call)
        failed = self._fails(what)
        if self.again and what.kind == "tool" and not failed:
            call()
        return super().attempt(what, call)

    async def aattempt(self, what: Attempt, call: Callable[[], Awaitable[Any]]) -> Any:
        """Do the same on an event loop."""
        if what.span_seq in self.live:
            return await self.world.aattempt(what, call)
        return await super().aattempt(what, call)

    def _fails(self, what: Attempt) -> bool:
        row = self.claimed[what.span_seq].peek()
        return row is not None and row["outcome"] != "ok"

    def granted(self, what: Attempt, budget: RetryBudget, cost: int) -> int:
        """Ask the tape, or the budget."""
        if what.span_seq in self.live:
            return self.world.granted(what, budget, cost)
        return super().granted(what, budget, cost)

    def renewed(self, what: Attempt, renew: Callable[[], object]) -> bool:
        """Ask the tape, or for a credential."""
        if what.span_seq in self.live:
            return self.world.renewed(what, renew)
        return super().renewed(what, renew)

    def reading(self, kind: str, name: str, path: str, read: Callable[[], Any]) -> Any:
        """Read the tape, or the world."""
        if self.begun:
            return self.world.reading(kind, name, path, read)
        return super().reading(kind, name, path, read)

    def answer_of(self, row: Row) -> Any:
        """Return the recorded answer, changed where the fork changes it."""
        value = super().answer_of(row)
        owner = self.recording.call_of(row["seq"])
        if self.change is None or owner is None or owner.span["seq"] != self.at:
            return value
        self.begun = True
        return self.change(value, row["kind"])


def fork(
    store: Store, run_id: str, at: int, *, agent: str | Callable[..., Any] | None = None,
    tower: Tower | None = None, model: str | None = None, change: Change | None = None,
) -> Fork:  # fmt: skip
    """Run a recorded agent again, live from the call with span number `at` on; keep it as a run.

    With `change`, that call is still answered from the tape, changed, and the rest is live. `agent`
    is a function, its name or None for a scenario's; an agent of your own needs a tower: its
    module's, `tower`, or `model` (`openai:NAME`). Raises `UsageError` and `ReplayDiverged`.
    """
    pack = store.pack(run_id)
    start, seed = pack.manifest["started_unix_ns"], int(pack.manifest["seed"], 16)
    with ExitStack() as stack:
        if agent is None:
            scenario = scenario_of(pack)
            world = stack.enter_context(scenario.world(_case_of(scenario, pack).world))
            fn: Callable[..., Any] = scenario_agent(scenario, world, scenario.prompt())
            env: Env = SystemEnv() if model else VirtualEnv(seed, start_ns=start)
            models = [parse_model(model)] if model else scenario.models(seed=seed, env=env)
            tape = _tape(pack, at, change, env, exceptions_of(scenario))
            tape.again = True
        else:
            fn, own = named_agent(agent) if isinstance(agent, str) else (agent, None)
            tower, env = tower or own, SystemEnv()
            models = [parse_model(model)] if model else []
            tape = _tape(pack, at, change, env, {})
        tower = tower if tower is not None and not model else _tower(store, pack, models)
        if not tower.models and any(pack.manifest["identity"]["models"]):
            raise UsageError("a fork goes on live: give --model PROVIDER:NAME, or a tower")
        return _forked(pack, Agent(fn), tower, env, tape)


def _tape(
    pack: Pack, at: int, change: Change | None, env: Env, exceptions: Mapping[str, Any]
) -> _ForkTape:
    clock = env if isinstance(env, VirtualEnv) else ReplayEnv(0)
    tape = _ForkTape(pack, clock, exceptions=exceptions)
    calls = [call.span["seq"] for call in tape.recording.calls()]
    if at not in calls:
        raise UsageError(f"expected --fork-at the number of a call's span, one of {calls[:20]}")
    tape.at, tape.change, tape.world = at, change, Live(env, FaultPlan())
    return tape


def _tower(store: Store, pack: Pack, models: Any) -> Tower:
    identity, limit = pack.manifest["identity"], pack.manifest["budget"]["limit_nanousd"]
    return Tower(
        store=store.root, models=models, service=identity["service"],
        release=identity["release"], budget_usd=None if limit is None else limit / 1e9,
        redactor=redactor_of(pack),
    )  # fmt: skip


def _case_of(scenario: Scenario, pack: Pack) -> Case:
    """Return the case a run was of: its world is not in the pack."""
    wanted = pack.manifest["identity"].get("case_id")
    cases = [scenario.ticket(None), *(case for suite in SUITES for case in scenario.suite(suite))]
    found = next((case for case in cases if case.case_id == wanted), None)
    if found is None:
        raise UsageError(f"run {pack.run_id} is of case {wanted!r}, which is not here any more")
    return found


def _forked(pack: Pack, agent: Agent, tower: Tower, env: Env, tape: _ForkTape) -> Fork:
    source = {
        "kind": "fork", "parent": pack.run_id, "parent_digest": pack.digest, "fork_at": tape.at,
        "changed": tape.change is not None,
    }  # fmt: skip

    def made(tower: Tower, name: str, options: Mapping[str, Any]) -> Run:
        kept = {k: v for k, v in pack.manifest["identity"].items() if k in {"case_id", "trial"}}
        return Run(
            tower, name, task=options["task"], env=env, identity={**options["identity"], **kept},
            source=source, executor=tape,
        )  # fmt: skip

    stage = Stage(tower, pack.manifest["identity"]["scenario"], made=made)
    ended = stage.perform(agent, tape.task())
    if tape.divergence is not None and not tape.begun:
        raise ReplayDiverged(f"before the fork: {tape.divergence.reason}")
    run = stage.run
    if run is None or run.pack is None:
        raise UsageError(stage.problem or str(ended or "the agent opened no run of a tower"))
    return Fork(
        run_id=run.run_id, parent=pack.run_id, fork_at=tape.at, pack=str(run.pack.folder),
        status=run.pack.manifest["status"], from_tape=len(tape.claimed), live=len(tape.live),
        simulated=bool(run.pack.manifest["simulated"]),
    )  # fmt: skip


def edited(changes: tuple[str, ...], text: str | None) -> Change | None:
    """Return the change that `--set path=value` and `--edit FILE` make; None for none.

    A path goes by dots into the answer: a tool's result, or a model's `content`, `tool_calls.0.…`.
    """
    if not changes and text is None:
        return None
    pairs = [change.partition("=") for change in changes]
    if any(not found or not path for path, found, _ in pairs):
        raise UsageError(f"expected --set PATH=VALUE, got {', '.join(changes)}")

    def change(value: Any, kind: str) -> Any:
        answer = value["result"] if kind == "tool" else value.get("response", value)
        if text is not None:
            answer = _merged(answer, _value(text), kind)
        for path, _, new in pairs:
            answer = _put(answer, path.split("."), _value(new), path)
        if kind == "tool":
            return {"result": answer}
        msgspec.convert(answer, Response)
        if "pieces" not in value:
            return answer
        if value.get("http"):
            raise UsageError("an answer over HTTP cannot be changed: fork at the call after it")
        return {"pieces": [answer["content"]], "response": answer}

    return change


def _merged(answer: Any, new: Any, kind: str) -> Any:
    if kind == "tool":
        return new
    return {**answer, **(new if isinstance(new, dict) else {"content": str(new)})}


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _put(value: Any, path: list[str], new: Any, said: str) -> Any:
    """Return `value` with what is at a path replaced."""
    if not path:
        return new
    first, rest = path[0], path[1:]
    if isinstance(value, dict):
        return {**value, first: _put(value.get(first), rest, new, said)}
    if isinstance(value, list) and first.isdecimal() and int(first) < len(value):
        at = int(first)
        return [*value[:at], _put(value[at], rest, new, said), *value[at + 1 :]]
    raise UsageError(f"--set {said}: there is nothing at {first!r} in the recorded answer")

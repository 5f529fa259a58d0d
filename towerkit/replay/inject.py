"""A fault put into a recording, to see whether the policy would have coped.

Rule: offline and without a token. The fault is raised where the recorded attempt would have been
answered; the policy decides what follows, and the call's recorded answer answers it. Where the
agent is handed the failure and asks for something new, the tape cannot know: that is unknown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from towerkit.core.errors import FaultInjected, UsageError
from towerkit.packs.store import Pack
from towerkit.privacy.safe_text import safe_text
from towerkit.reliability.policy import Policy
from towerkit.reliability.taxonomy import TAXONOMY, error_class
from towerkit.replay.agents import Agent
from towerkit.replay.every import named_agent
from towerkit.replay.recording import RecordedCall, Row
from towerkit.replay.replay import (
    Performance,
    exceptions_of,
    scenario_agent,
    scenario_of,
)
from towerkit.replay.tape import Tape
from towerkit.runtime.executor import Attempt
from towerkit.runtime.tower import Tower

NOT_INJECTED = frozenset({"replay", "budget"})
"""Families that no call fails with by itself: a replay's own, and the ledger's."""


class Injected(msgspec.Struct, frozen=True, kw_only=True):
    """What a fault would have come to. `coped` None: the tape cannot tell.

    `attempts` and `waited_s` are of the call that failed; `tier` is who answered at last, and
    `assumed` says that another model than the recorded one gives the recorded answer there.
    """

    run_id: str
    span: int
    name: str
    error_class: str
    coped: bool | None
    why: str
    attempts: int
    waited_s: float
    tier: int
    assumed: bool

    def lines(self) -> list[str]:
        """Return the report as a person reads it."""
        word = {True: "COPED", False: "FAILED", None: "UNKNOWN"}[self.coped]
        told = f"attempts={self.attempts} waited={self.waited_s:.2f}s tier={self.tier}"
        lines = [
            (
                f"[inject] {word} {self.error_class} at span {self.span} ({safe_text(self.name)}): "
                f"{safe_text(self.why)}"
            ),
            f"  {told}",
        ]
        if self.assumed:
            lines.append("  another model answers: its answer is assumed to be the recorded one")
        return lines


class _FaultyTape(Tape):
    """A tape on which one call fails before it is answered."""

    target: int  # the number of the call
    error: str
    times: int
    assumed = False
    failed = False  # the call has, at least once

    def attempt(self, what: Attempt, call: Callable[[], Any]) -> Any:
        """Fail, or answer."""
        self._fail(what)
        return super().attempt(what, call)

    async def aattempt(self, what: Attempt, call: Callable[[], Awaitable[Any]]) -> Any:
        """Do the same on an event loop."""
        self._fail(what)
        return await super().aattempt(what, call)

    def _fail(self, what: Attempt) -> None:
        if self.claimed[what.span_seq].number == self.target and self.times > 0:
            self.times -= 1
            self.failed = True
            raise FaultInjected(f"injected: {self.error}", error_class=self.error)

    def answers(self, row: Row, what: Attempt) -> bool:
        """Have the next tier give the recorded answer, and remember that it is assumed."""
        if super().answers(row, what):
            return True
        aimed = self.claimed[what.span_seq].number == self.target
        self.assumed = self.assumed or aimed
        return aimed and row["kind"] == what.kind


def inject(
    pack: Pack, where: str, *, agent: str | Callable[..., Any] | None = None,
    tower: Tower | None = None, policy: Policy | None = None,
    exceptions: Mapping[str, type[BaseException]] | None = None,
) -> Injected:  # fmt: skip
    """Return what `CLASS@SPAN` (or `CLASS*TIMES@SPAN`) would have come to in a recorded run.

    SPAN is the number of a call's span, or of an attempt's. `agent` is a function, its name, or
    None for a scenario's. Raises `UsageError` for a class or a call that is not there.
    """
    name, times, seq = _parsed(where)
    if agent is None:
        scenario = scenario_of(pack)
        with scenario.world({}) as world:
            fn = scenario_agent(scenario, world, scenario.prompt())
            return _injected(pack, fn, name, times, seq, tower, policy, exceptions_of(scenario))
    if isinstance(agent, str):
        agent, tower = named_agent(agent)
    return _injected(pack, agent, name, times, seq, tower, policy, exceptions or {})


def _parsed(where: str) -> tuple[str, int, int]:
    what, _, seq = where.rpartition("@")
    name, _, times = what.partition("*")
    if not seq.isdecimal() or not (times or "1").isdecimal():
        raise UsageError(
            f"expected --inject CLASS@SPAN or CLASS*TIMES@SPAN, such as overloaded@4, got {where!r}"
        )
    if error_class(name).family in NOT_INJECTED:
        raise UsageError(f"{name} is the tower's own decision: no call fails with it by itself")
    return name, int(times or 1), int(seq)


def _injected(
    pack: Pack, agent: Callable[..., Any], name: str, times: int, seq: int, tower: Tower | None,
    policy: Policy | None, exceptions: Mapping[str, type[BaseException]],
) -> Injected:  # fmt: skip
    act = Performance(
        pack,
        exceptions=exceptions,
        policy=policy,
        tower=tower,
        tape=_FaultyTape,
        lets_go=False,
        limited=True,
    )
    tape = act.tape
    assert isinstance(tape, _FaultyTape)  # noqa: S101  made of it above
    target = tape.recording.call_at(seq)
    if target is None or not target.rows:
        calls = [c.span["seq"] for c in tape.recording.calls() if c.rows][:20]
        raise UsageError(f"span {seq} is no call that was made; calls are {calls}")
    tape.target, tape.error, tape.times = target.number, name, times
    act.perform(Agent(agent))
    coped, why = _verdict(act, tape, target)
    mine = tape.claimed_as(target.number)
    made = [] if act.run is None else act.record.sides()[0]
    told = _told(made, mine)
    return Injected(
        run_id=pack.run_id, span=target.span["seq"], name=target.span["name"], error_class=name,
        coped=coped, why=why, attempts=told[0], waited_s=told[1], tier=told[2],
        assumed=tape.assumed,
    )  # fmt: skip


def _verdict(act: Performance, tape: _FaultyTape, target: RecordedCall) -> tuple[bool | None, str]:
    recorded = act.pack.manifest["error_class"]
    now = act.run.error_class if act.run is not None else "agent_bug"
    if tape.divergence is not None:
        return None, (
            "the agent is handed the failure and goes another way at "
            f"{tape.divergence.span}: only a live run can tell"
        )
    if now != recorded and now == "budget_exceeded" and not tape.failed:
        return None, "the run is so near its budget that its redacted requests may not fit it"
    if now != recorded:
        row = TAXONOMY.get(str(now))
        said = f" ({row.summary})" if row is not None else ""
        return False, f"the run ends with {now or 'no error'}{said}, recorded: {recorded or 'none'}"
    if tape.times > 0 and tape.claimed_as(target.number) is None:
        return None, "the replayed run never came to this call"
    if tape.left_over():
        return None, "the run ends well without the rest of what was recorded"
    if not _plain(act.pack.manifest["budget"].get("plan") or {}):
        return None, (
            "the run ends as recorded, but what the attempts more would leave of its limits on "
            "parts, tools, tokens or time is not decided upon again"
        )
    return True, "the run ends as it was recorded"


def _plain(plan: Mapping[str, Any]) -> bool:
    """Return whether a recorded budget limits nothing but the run's cost, and has no way out."""
    return set(plan) <= {"run"} and set(plan.get("run", {})) <= {"cost_usd"}


def _told(rows: Sequence[Row], seq: int | None) -> tuple[int, float, int]:
    """Return attempts, seconds waited and tier of a replayed call."""
    call = next((r for r in rows if r["seq"] == seq), None)
    if call is None:
        return 0, 0.0, 0
    tries = [r for r in rows if r["parent_span_id"] == call["span_id"] and r["kind"] == "attempt"]
    waits = [e.get("wait_s", 0.0) for e in msgspec.json.decode(call["events"])]
    return len(tries), float(sum(waits)), int(call["fallback_tier"] or 0)

"""Which failures a scenario can meet: classes, calls, and how long each lasts.

Rule: a class is injected where the world could produce it. The tower's own decisions are not
injected, they are provoked elsewhere; `OURS` says which and why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from towerkit.reliability.taxonomy import ErrorClass

OURS = {
    "budget_exceeded": "the ledger's own refusal", "timeout_total": "the run's own deadline",
    "no_progress": "the tower's own count of calls", "circuit_open": "the breaker's own refusal",
    "throttled_locally": "the tower's own limit", "cancelled": "whoever runs the agent cancels",
    "replay_miss": "a replay's", "replay_diverged": "a replay's",
    "storage_failed": "the store's, after the run", "redaction_failed": "the recorder's",
    "agent_bug": "the agent's own code, outside of calls",
}  # fmt: skip
"""Classes that no call can be made to fail with, and where they come from."""

TOOLS_ONLY = frozenset({
    "tool_failed", "tool_timeout", "mcp_transport", "mcp_protocol", "permission_needed",
})  # fmt: skip
MODELS_ONLY = frozenset({
    "ramp_too_fast", "model_error", "timeout_read", "stream_interrupted", "stream_truncated",
    "malformed_response", "model_not_found", "context_too_long", "output_truncated",
    "content_filtered", "output_invalid",
})  # fmt: skip
ASKED = frozenset({"rate_limited", "ramp_too_fast", "overloaded", "conflict"})
ASKED_S = 2.0  # what a provider asks to wait where its class is one that is asked
LATE_S = 30.0  # later than any time-out of an attempt
FOR_GOOD = 40


class Boundary(msgspec.Struct, frozen=True, kw_only=True):
    """A call of the clean run: the n-th attempt on its target, and whether it may be run twice."""

    kind: str
    name: str
    nth: int
    idempotent: bool


class Injection(msgspec.Struct, frozen=True, kw_only=True):
    """One failure: `times` attempts in a row fail with `name`, beginning at the boundary.

    `late` answers too late instead of failing. `other` gives the next tier another provider.
    """

    name: str
    at: Boundary
    times: int
    late: bool = False
    other: bool = False

    def plan(self) -> list[dict[str, Any]]:
        """Return the fault plan that does it."""
        at = list(range(self.at.nth, self.at.nth + self.times))
        target = f"{self.at.kind}:{self.at.name}"
        if self.late:
            return [{"target": target, "at": at, "kind": "slow", "delay_s": LATE_S}]
        entry = {"target": target, "at": at, "kind": "class", "error_class": self.name}
        return [entry | {"delay_s": self.asked_s}]

    @property
    def asked_s(self) -> float:
        """What the failure asks to wait, seconds."""
        return ASKED_S if self.name in ASKED else 0.0

    def __str__(self) -> str:
        """Name it for a person."""
        how = "late" if self.late else self.name
        often = "for good" if self.times == FOR_GOOD else f"{self.times}×"
        chain = ", next tier of another provider" if self.other else ""
        return f"{how} {often} at {self.at.kind}:{self.at.name} #{self.at.nth}{chain}"


def can_occur(row: ErrorClass, kind: str) -> bool:
    """Say whether a call of that kind can fail with that class."""
    if row.name in OURS:
        return False
    return row.name not in (TOOLS_ONLY if kind == "model" else MODELS_ONLY)


def injections(rows: Sequence[ErrorClass], boundaries: Sequence[Boundary]) -> Iterator[Injection]:
    """Yield every class at every boundary: once, until its attempts are used up, and for good."""
    for row in rows:
        for at in boundaries:
            if not can_occur(row, at.kind):
                continue
            for times in sorted({1, row.attempts, FOR_GOOD}):
                yield Injection(name=row.name, at=at, times=times)
            if row.scope == "other_provider" and at.kind == "model":
                yield Injection(name=row.name, at=at, times=1, other=True)
            if row.name == ("timeout_read" if at.kind == "model" else "tool_timeout"):
                yield Injection(name=row.name, at=at, times=1, late=True)


def first_of_each(boundaries: Sequence[Boundary]) -> list[Boundary]:
    """Return the first model call, and the first tools that may and may not be run twice."""
    found: dict[tuple[str, bool], Boundary] = {}
    for at in boundaries:
        found.setdefault((at.kind, at.idempotent), at)
    return list(found.values())

"""What every foreign format is read into: a trace of what was said, asked and done, and its scores.

Rule: a format module only translates into this vocabulary; only `ingest.build` makes packs from it.
Offsets are nanoseconds since the run began, and 0 throughout when the source recorded no times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Literal

import msgspec

from towerkit.core.types import ToolCall, Usage
from towerkit.ingest.source import BadRecord
from towerkit.telemetry.foreign import Emitted

By = Literal["agent", "user_simulator"]


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """A message nobody generated during the run: a system prompt, a user's task, a greeting."""

    message: dict[str, Any]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One answer of a model: the agent's, or the simulated user's around it."""

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    by: By = "agent"
    model: str | None = None
    answered_by: str | None = None
    usage: Usage | None = None
    cost_nanousd: int | None = None
    finish_reason: str | None = None
    response_id: str | None = None
    start_ns: int = 0
    end_ns: int = 0


class ToolUse(msgspec.Struct, frozen=True, kw_only=True):
    """One tool call that was carried out, and what it returned."""

    name: str
    arguments: Any
    result: Any
    call_id: str | None = None
    by: By = "agent"
    error_class: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    start_ns: int = 0
    end_ns: int = 0


Event = Said | Turn | ToolUse


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One score as the source gives it."""

    metric: str
    value: float | None
    suite: str = "golden"
    primary: bool = False
    contradicted: bool = False
    note: str | None = None


class Trace(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded run. `timing` says in words what is known of its times.

    A source has `events`, or it has `spans`.
    """

    record_id: str | None
    scenario: str
    case_id: str
    trial: int
    task: Any
    task_digest: str | None
    prompt_digest: str | None = None
    policy_digest: str | None = None
    models: tuple[str, ...] = ()
    started_unix_ns: int
    duration_ns: int = 0
    clock: Literal["recorded", "none"] = "none"
    timing: str = "not recorded: every duration is 0 and means nothing"
    status: str = "completed"
    error_class: str | None = None
    error_message: str | None = None
    attributes: dict[str, Any] = {}
    events: tuple[Event, ...]
    spans: tuple[Emitted, ...] = ()
    scores: tuple[Score, ...]


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One record to admit: its bytes, and what only the whole file can say about it."""

    index: int
    raw: bytes
    trial: int = 0
    scenario: str | None = None
    task: bytes | None = None


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What the whole file says: its jobs, what is wrong already, and what all records share."""

    jobs: list[Job]
    broken: list[BadRecord]
    seen: int
    shared: bytes = b"null"
    release: str | None = None


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """One foreign format. `looks_like` says from a record's top-level fields whether it is this."""

    name: str
    summary: str
    looks_like: Callable[[Sequence[str]], bool]
    survey: Callable[[bytes], Survey]
    trace: Callable[[Job, bytes], Trace]


class PendingCalls:
    """Pairs tool results with the calls of the turn before them.

    By id within that turn, because sources reuse ids in one run; else by name, else nothing.
    """

    def __init__(self) -> None:
        """Start with no call open."""
        self._open: list[ToolCall] = []

    def ask(self, calls: Sequence[ToolCall]) -> None:
        """Open the calls of a turn; what an earlier turn asked and nobody answered is dropped."""
        self._open = list(calls)

    def answer(self, call_id: str | None, name: str | None) -> ToolCall | None:
        """Return and close the call that a result answers."""
        by_id = [c for c in self._open if call_id and c.id == call_id]
        by_name = [c for c in self._open if c.name == name]
        call = next(iter(by_id or by_name), None)
        if call is not None:
            self._open.remove(call)
        return call


def nanousd(amount: float) -> int:
    """Return dollars as nano-dollars, rounded once, from the shortest decimal of the number."""
    scaled = Decimal(repr(amount)).scaleb(9)
    return int(scaled.to_integral_value(rounding=ROUND_HALF_EVEN))


def unit_interval(value: float, field: str) -> float:
    """Return `value`, or raise `BadRecord` when it is not a number from 0 to 1 (NaN is not)."""
    if not 0.0 <= value <= 1.0:
        raise BadRecord(field, f"expected a number from 0 to 1, got {value!r}")
    return value

"""The words of a script: what a simulated provider answers, and what becomes of the answer.

Rule: a step is one answer, at most one end, and modifiers; each word is a frozen value. Chunks are
server-sent events of a stream, or eighths of a body that is not streamed.

    answers    Reply  Status  MalformedJson  HtmlPage  Refuse
    ends       Cut  CleanEnd  Stall  SseError
    modifiers  Delay  WrongUsage

`Reply(text="Sent.").with_(Delay(between_chunks_s=0.05), Cut(at_chunk=2))` is a step; an end or a
modifier alone is a step on the default `Reply()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec

from towerkit.core.errors import UsageError
from towerkit.core.types import ToolCall, Usage

WRONG_USAGE = ("missing", "zero", "negative", "huge", "text", "total")
Finish = Literal[
    "stop", "length", "content_filter", "tool_calls", "malformed_tool_call", "failed"
]  # fmt: skip
Port = Literal["open", "refused", "silent"]


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a step sends. `with_` composes it with an end and modifiers."""

    def with_(self, *parts: End | Delay | WrongUsage) -> Step:
        """Return this answer as a step in which `parts` happen to it."""
        return Step(answer=self).with_(*parts)  # type: ignore[arg-type]  # the union is closed


class Reply(_Answer, frozen=True, kw_only=True):
    """A good answer. `finish` is worked out from the tool calls unless given.

    `text` streams word by word. A tool call's `raw` text, where it has one, is sent in place of its
    arguments. `model` is the one asked for unless given.
    """

    text: str = "All is well."
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage = Usage(input_tokens=12, output_tokens=5)
    finish: Finish | None = None
    model: str | None = None


class Status(_Answer, frozen=True, kw_only=True):
    """An HTTP error. `error` is the provider's own word for it, such as `insufficient_quota`.

    Without `error`, the usual one of that status; `body` (text or a JSON value) replaces it.
    """

    code: int
    error: str | None = None
    body: Any = None
    headers: Mapping[str, str] = {}


class MalformedJson(_Answer, frozen=True, kw_only=True):
    """Status 200 and a body, or the events of a stream, that say JSON and are not."""


class HtmlPage(_Answer, frozen=True, kw_only=True):
    """A web page where JSON was asked for, as a captive portal or a proxy answers."""

    code: int = 200


class Refuse(_Answer, frozen=True, kw_only=True):
    """The request is read and the connection closed without one byte of an answer.

    For a port that nobody listens on, see `Script.port`.
    """


class Delay(msgspec.Struct, frozen=True, kw_only=True):
    """Waits: before the status line, and between chunks."""

    before_headers_s: float = 0.0
    between_chunks_s: float = 0.0


class WrongUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts that are not true: one of `WRONG_USAGE`.

    `missing` leaves them out, `total` makes the sum not add up, `text` writes numbers as strings.
    """

    how: Literal["missing", "zero", "negative", "huge", "text", "total"]


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """The connection breaks after `at_chunk` chunks (negative: counted from the end).

    With `reset` the peer gets a TCP RST, else a close that HTTP framing shows to be early. With
    `inside`, half of the next chunk is sent first.
    """

    at_chunk: int
    reset: bool = False
    inside: bool = False


class CleanEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The answer ends in good order after `at_chunk` chunks: for HTTP nothing is missing."""

    at_chunk: int
    inside: bool = False


class Stall(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing more comes after `at_chunk` chunks until the server is closed; None: no headers."""

    at_chunk: int | None = None


class SseError(msgspec.Struct, frozen=True, kw_only=True):
    """The stream, status 200, tells an error after `at_chunk` chunks and ends in good order.

    `error` is the provider's own word; `body` replaces the error object. Asked without streaming,
    the same error comes with its own status, as it does from a provider.
    """

    at_chunk: int = 0
    error: str | None = None
    body: Any = None


Answer = Reply | Status | MalformedJson | HtmlPage | Refuse
End = Cut | CleanEnd | Stall | SseError
_ENDS = (Cut, CleanEnd, Stall, SseError)
_ENDABLE = (Reply, Status, MalformedJson, HtmlPage)


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to one request."""

    answer: Answer = Reply()
    delay: Delay = Delay()
    end: End | None = None
    wrong_usage: WrongUsage | None = None

    def with_(self, *parts: End | Delay | WrongUsage) -> Step:
        """Return the step with `parts` added; raise `UsageError` where they contradict it."""
        step = self
        for part in parts:
            step = _added(step, part)
        return step


def _added(step: Step, part: object) -> Step:
    if isinstance(part, Delay):
        return msgspec.structs.replace(step, delay=part)
    if isinstance(part, WrongUsage):
        _require(isinstance(step.answer, Reply), "WrongUsage belongs to a Reply", step.answer)
        _require(part.how in WRONG_USAGE, f"how is one of {', '.join(WRONG_USAGE)}", part.how)
        return msgspec.structs.replace(step, wrong_usage=part)
    _require(isinstance(part, _ENDS), "expected an end or a modifier", part)
    _require(step.end is None, "a step has one end", step.end)
    _require(isinstance(step.answer, _ENDABLE), "nothing is sent that could end", step.answer)
    is_reply = isinstance(step.answer, Reply)
    _require(is_reply or not isinstance(part, SseError), "SseError belongs to a Reply", step.answer)
    return msgspec.structs.replace(step, end=part)


def _require(holds: bool, rule: str, got: object) -> None:  # noqa: FBT001  a condition, not a flag
    if not holds:
        raise UsageError(f"fault script: {rule}, got {got!r}")


def step_of(part: object) -> Step:
    """Return `part` as a step; raise `UsageError` when it is no word of a script."""
    if isinstance(part, Step):
        return part
    if isinstance(part, _Answer):
        return part.with_()
    return Step().with_(part)  # type: ignore[arg-type]  # _added refuses what is no part


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """One step a request, in order of arrival, then `default` for every further one.

    `port` is "open", "refused" (nobody listens) or "silent" (connections are never accepted).
    `stream` says that the fault needs a streamed answer, or must not have one.
    """

    name: str = ""
    steps: tuple[Step, ...] = ()
    default: Step = Step()
    port: Port = "open"
    stream: bool | None = None


def script_of(given: Script | Iterable[object], *, default: object = None) -> Script:
    """Return a script from one, or from its parts."""
    if isinstance(given, Script):
        _require(default is None, "a Script brings its own default", default)
        return given
    last = Step() if default is None else step_of(default)
    return Script(steps=tuple(step_of(part) for part in given), default=last)

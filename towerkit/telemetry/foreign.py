"""What a span of another library says, in our words.

Rule: one vocabulary for every emitter, and nothing is taken away: a span's own attributes are kept
beside the columns made of them. Tokens count where they were spent: of two spans that tell of one
model call, the innermost has them, and the guard's own record comes before both.

    an emitter's span                       in the pack
    a model call                            call, and one attempt with its tokens and its charge
    … with a model call inside it           step: its numbers are shown and not counted
    … that the guard, or another span, has  step, `towerkit.same_as` naming that one
    a tool call                             call, and one attempt
    anything else                           step; counted only where nothing inside it counts
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from towerkit.core.canonical import canonical_json
from towerkit.core.env import Env
from towerkit.core.types import Usage
from towerkit.cost.prices import Price
from towerkit.privacy.redact import Redactor
from towerkit.reliability.classify import classify_log
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.telemetry import names
from towerkit.telemetry.recorder import OpenSpan, Recorder

What = Literal["model", "tool", "agent", "step"]

MOST_TOKENS = 10**12  # per call; what is beyond is damage, kept as an attribute and not counted
INLINE_BYTES = 2_000  # a longer text goes to the content table, once, and its digest stands for it
_OPERATIONS = {
    "model": "chat", "tool": "execute_tool", "agent": "invoke_agent", "step": "step",
}  # fmt: skip
COUNT_COLUMNS = tuple(names.COUNTS)
_WRONG_ARGUMENTS = re.compile(r"unexpected keyword argument|missing \d+ required|validation error")
_TOOL_CLASSES = frozenset(n for n, row in TAXONOMY.items() if row.family == "tool") | {
    "tool_args_invalid", "tool_unknown", "cancelled",
}  # fmt: skip


class Place(NamedTuple):
    """Where in a run a span begins: under which span, and on which clock."""

    recorder: Recorder
    parent: OpenSpan
    env: Env
    start_wall_ns: int
    start_mono_ns: int

    @property
    def simulated(self) -> bool:
        """Whether the run's clock is simulated."""
        return self.env.kind == "virtual"

    def mono_ns(self, unix_ns: int | None) -> int:
        """Return a wall time on the run's clock; now, where there is none or time is simulated."""
        if unix_ns is None or self.simulated:
            return self.env.mono_ns()
        return self.start_mono_ns + unix_ns - self.start_wall_ns

    def wall_ns(self, mono_ns: int) -> int:
        """Return a time of the run's clock as a wall time."""
        return self.start_wall_ns + mono_ns - self.start_mono_ns


class Happened(msgspec.Struct, frozen=True):
    """An event of a span."""

    name: str
    unix_ns: int
    attributes: dict[str, Any]


class Emitted(msgspec.Struct, frozen=True, kw_only=True):
    """A span as some library emitted it; ids in hexadecimal.

    Without an end it was still open when it was written down; `good` is its emitter's "ok".
    """

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    start_unix_ns: int
    end_unix_ns: int | None
    attributes: dict[str, Any] = {}
    events: tuple[Happened, ...] = ()
    failed: bool = False
    good: bool = False
    message: str | None = None
    scope: str = ""
    resource: dict[str, Any] = {}

    @property
    def last_unix_ns(self) -> int:
        """The last moment that is known of it."""
        return max(self.start_unix_ns, self.end_unix_ns or 0)


class Failed(msgspec.Struct, frozen=True):
    """The error a span ended with."""

    error_class: str
    error_type: str | None
    message: str | None


def ending(failed: Failed | None, redactor: Redactor) -> dict[str, Any]:
    """Return how a span ends, as `Recorder.end` takes it; the message is redacted there."""
    if failed is None:
        return {"status": "ok"}
    kind = None if failed.error_type is None else redactor.text(failed.error_type)
    return {"status": "error", "error_class": failed.error_class, "error_type": kind,
            "error_message": failed.message}  # fmt: skip


# -- reading ---------------------------------------------------------------------------------------


def what_is(attributes: Mapping[str, Any]) -> What:
    """Return what a span is, by its emitter's own word for it, else by what it reports."""
    for name, words in names.KINDS.items():
        found = words.get(str(attributes.get(name, "")).strip())
        found = found or words.get(str(attributes.get(name, "")).strip().lower())
        if found is not None:
            return found  # type: ignore[return-value]  # the table's values are these four
    if attributes.get(names.OPERATION):
        return "step"  # an operation newer than the table: whatever it is, it is not called a chat
    if _first(attributes, names.spellings("gen_ai_tool_name")) is not None:
        return "tool"
    reports = usage_of(attributes) is not None
    model = _first(attributes, names.spellings("gen_ai_request_model"))
    return "model" if reports and model is not None else "step"


def columns_of(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of the spans table that a span's attributes fill, unredacted."""
    found: dict[str, Any] = {}
    for column in names.TEXTS:
        value = _first(attributes, names.spellings(column))
        if value is not None:
            found[column] = str(value)[:500]
    for column in COUNT_COLUMNS:
        count = _count(attributes, names.spellings(column))
        if count is not None:
            found[column] = count
    reason = _first(attributes, names.FINISH)
    if isinstance(reason, str) and reason.startswith("["):
        reason = _parsed(reason)
    if isinstance(reason, list | tuple):
        reason = next(iter(reason), None)
    if reason is not None:
        found["gen_ai_response_finish_reason"] = str(reason)[:100]
    return found


def usage_of(attributes: Mapping[str, Any]) -> Usage | None:
    """Return what a span says was used; None where it says nothing of input and output."""
    counts = {c: _count(attributes, names.spellings(c)) for c in COUNT_COLUMNS}
    usage = usage_in(counts)
    return None if usage.input_tokens is None and usage.output_tokens is None else usage


def usage_in(columns: Mapping[str, Any]) -> Usage:
    """Return the counts of columns as usage."""
    counts: dict[str, Any] = {
        c.removeprefix("gen_ai_usage_"): columns.get(c) for c in COUNT_COLUMNS
    }
    return Usage(**counts)


def _first(attributes: Mapping[str, Any], spellings: Sequence[str]) -> Any:
    for name in spellings:
        value = attributes.get(name)
        if value is not None and value != "":
            return value
    return None


def _count(attributes: Mapping[str, Any], spellings: Sequence[str]) -> int | None:
    """Return the first spelling that is a count. Some emitters write numbers as text."""
    for name in spellings:
        value: Any = attributes.get(name)
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,13}", value):
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is int and 0 <= value <= MOST_TOKENS:
            return int(value)
    return None


def cost_of(attributes: Mapping[str, Any]) -> Price | None:
    """Return what the emitter says a call cost; 0 for tokens that were used is a price unknown."""
    amounts = [a for a in (_dollars(attributes.get(n)) for n in names.COST_USD) if a]
    for parts in names.COST_PARTS_USD:
        known = [a for a in (_dollars(attributes.get(n)) for n in parts) if a is not None]
        amounts += [sum(known)] if sum(known) else []
    ours = attributes.get(names.COST)
    if type(ours) is int and ours >= 0:
        return Price(nanousd=ours, ref="recorded in source", date=None)
    if not amounts:
        return None
    return Price(nanousd=amounts[0], ref="recorded in source", date=None)


def _dollars(value: Any) -> int | None:
    """Return dollars as nano-dollars."""
    if type(value) not in {int, float, str}:
        return None
    try:
        amount = float(value)
    except (ValueError, OverflowError):
        return None
    return round(amount * 1e9) if 0 <= amount < 1e9 else None


def failure_of(span: Emitted, what: What) -> Failed | None:
    """Return the error a span ended with; an exception that was only noted is an event."""
    if not span.failed:
        return None
    noted: Mapping[str, Any] = next(
        (e.attributes for e in reversed(span.events) if e.name == names.EXCEPTION), {}
    )
    kind = _first(span.attributes, names.ERROR_TYPES) or noted.get(names.EXCEPTION_TYPE)
    said = (
        span.message or noted.get(names.EXCEPTION_MESSAGE)
        or span.attributes.get(names.EXCEPTION_MESSAGE)
    )  # fmt: skip
    text = ": ".join(str(part)[:4000] for part in (kind, said) if part)
    return Failed(
        _error_class(span.attributes, text, what), None if kind is None else str(kind)[:200],
        None if said is None else str(said),
    )  # fmt: skip


def _error_class(attributes: Mapping[str, Any], text: str, what: What) -> str:
    ours = str(attributes.get(names.WRITTEN["error_class"], ""))
    if ours in TAXONOMY:
        return ours
    status = _count(attributes, names.HTTP_STATUS)
    provider = _first(attributes, names.spellings("gen_ai_provider_name"))
    name = classify_log(
        text, http_status=status, provider=None if provider is None else str(provider)
    ).error_class
    if what == "tool" and name not in _TOOL_CLASSES:
        return "tool_args_invalid" if _WRONG_ARGUMENTS.search(text) else "tool_failed"
    # A log does not say whose code raised: only of our own runs is that known.
    return "unknown" if what == "model" and name == "agent_bug" else name


def said(span: Emitted, what: What, *, answered: bool) -> Any:
    """Return what went into a span, or came out of it; None where it does not say."""
    table = (names.ANSWERED if answered else names.ASKED).get(what, ())
    for name in table or (("output.value",) if answered else ("input.value",)):
        if name.endswith("."):
            found = _numbered(span.attributes, name)
        else:
            found = span.attributes.get(name)
            found = _parsed(found) if isinstance(found, str) else found
        if found is not None and found not in ("", [], {}):
            return found
    return _in_events(span, answered=answered) if what == "model" else None


def _numbered(attributes: Mapping[str, Any], prefix: str) -> list[dict[str, Any]] | None:
    """Return messages spelt as `prefix.0.role`, `prefix.0.content`, … in their order."""
    found: dict[int, dict[str, Any]] = {}
    for name, value in attributes.items():
        if name.startswith(prefix):
            number, _, field = name[len(prefix) :].partition(".")
            if number.isdecimal() and field:
                found.setdefault(int(number), {})[field.removeprefix("message.")] = value
    return [found[i] for i in sorted(found)] or None


_ASKING = re.compile(r"gen_ai\.(system|user|assistant|tool)\.message|gen_ai\.content\.prompt")


def _in_events(span: Emitted, *, answered: bool) -> list[dict[str, Any]] | None:
    """Return messages that an older emitter wrote as events."""
    wanted = [
        {"event": e.name, **e.attributes} for e in span.events
        if (e.name in {"gen_ai.choice", "gen_ai.content.completion"} if answered
            else _ASKING.fullmatch(e.name))
    ]  # fmt: skip
    return wanted or None


def _parsed(text: str) -> Any:
    """Return JSON written into a text; the text itself where it is none."""
    if text[:1] not in {"{", "[", '"'}:
        return text
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return text


# -- recording -------------------------------------------------------------------------------------


def fill(recorder: Recorder, span: OpenSpan, emitted: Emitted) -> Failed | None:
    """Give a span that was started what its emitter says of it; return the error it ended with.

    The span is not ended here: what its end means is the caller's clock's.
    """
    what = what_is(emitted.attributes)
    clean = recorder.redactor.text
    span.kind = "call" if what in {"model", "tool"} else "step"
    span.operation = _OPERATIONS[what]
    span.fields.update({
        column: clean(value) if isinstance(value, str) else value
        for column, value in columns_of(emitted.attributes).items()
    })  # fmt: skip
    for column, answered in (("request_digest", False), ("response_digest", True)):
        value = said(emitted, what, answered=answered)
        if value is not None:
            span.fields[column] = _kept(recorder, value, messages=not answered)
    if span.kind == "call":  # the column must not be null, and zeros are no content's digest
        span.fields["request_digest"] = span.fields.get("request_digest") or "0" * 32
    span.attributes |= kept_attributes(recorder, emitted.attributes)
    span.attributes[names.FOREIGN] = emitted.scope or "unknown"
    span.events += tuple(_event(recorder, e) for e in emitted.events)
    return failure_of(emitted, what)


def _kept(recorder: Recorder, value: Any, *, messages: bool) -> str | None:
    """Keep content; a conversation each message once, as that of a guarded call."""
    if messages and isinstance(value, list) and all(isinstance(m, dict) for m in value):
        return recorder.request(value, {}) if recorder.redactor.capture != "off" else None
    return recorder.content(value)


def kept_attributes(recorder: Recorder, attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what may be kept of a span's attributes; how many may not is one of them."""
    whole = recorder.redactor.capture == "redacted"
    kept: dict[str, Any] = {}
    dropped = 0
    for name, value in attributes.items():
        if not whole and not (names.is_plain(name) or isinstance(value, bool | int | float)):
            dropped += 1
            continue
        kept[name] = _short(recorder, value)
    return {**kept, names.CONTENT_DROPPED: dropped} if dropped else kept


def _short(recorder: Recorder, value: Any) -> Any:
    """Return a value, or where it is long the digest under which the pack keeps it."""
    if isinstance(value, bool | int | float) or value is None:
        return value
    if not isinstance(value, str) and len(canonical_json(value)) <= INLINE_BYTES:
        return value
    if isinstance(value, str) and len(value) <= INLINE_BYTES:
        return value
    digest = recorder.content(value)
    return {"content": digest} if digest is not None else None


def _event(recorder: Recorder, event: Happened) -> dict[str, Any]:
    return {
        "name": event.name, "unix_ns": event.unix_ns,
        "attributes": kept_attributes(recorder, event.attributes),
    }  # fmt: skip

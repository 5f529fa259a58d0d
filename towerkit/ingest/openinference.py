"""Dumps of spans as JSON: what SDKs, Phoenix and trace collections write, one span an object.

Rule: the same few facts under many names; the tables below are the one place that reads them, and a
field that is in no table is kept as an attribute. A record with a list of spans stands for itself;
single spans belong to the trace they name, wherever in the file they stand.

Seen: `ReadableSpan.to_json` of the OpenTelemetry SDK, Phoenix's API, any-agent, the span fixtures
of Strands, TRAIL (nested `child_spans`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from towerkit.core.canonical import canonical_text
from towerkit.ingest.source import BadRecord
from towerkit.ingest.spans import (
    Piece,
    duration_ns,
    end_ns,
    hex_id,
    instant_ns,
    listed,
    mapping,
    objects,
    survey_of,
    trace_of,
)
from towerkit.ingest.trace import Format, Job, Survey, Trace
from towerkit.telemetry.foreign import Emitted, Happened

_LISTS = ("spans", "data")  # fields that hold a record's spans

# A span's facts, and where they stand; a dot leads into an object.
_TRACE = ("trace_id", "traceId", "context.trace_id")
_SPAN = ("span_id", "spanId", "context.span_id")
_PARENT = ("parent_span_id", "parentSpanId", "parent_id", "parent.span_id")
_NAME = ("name", "span_name")
_START = ("start_time", "startTime", "start_time_unix_nano", "startTimeUnixNano", "timestamp")
_END = ("end_time", "endTime", "end_time_unix_nano", "endTimeUnixNano")
_DURATION = ("duration",)
_CODE = ("status.status_code", "status.code", "status_code")
_MESSAGE = ("status.description", "status.message", "status_message")
_ATTRIBUTES = ("attributes", "span_attributes")
_EVENTS = ("events", "span_events")
_CHILDREN = ("child_spans",)
_SCOPE = ("scope.name", "scope_name", "instrumentation_scope.name")
_VERSION = ("scope.version", "scope_version", "instrumentation_scope.version")
_RESOURCE = ("resource.attributes", "resource_attributes")
_KIND = ("span_kind", "kind")
_EVENT_TIME = ("timestamp", "Timestamp", "time_unix_nano", "timeUnixNano", "time")

_READ = frozenset(
    name.partition(".")[0]
    for table in (
        _TRACE, _SPAN, _PARENT, _NAME, _START, _END, _DURATION, _CODE, _MESSAGE, _ATTRIBUTES,
        _EVENTS, _CHILDREN, _SCOPE, _VERSION, _RESOURCE, _KIND,
    )
    for name in table
)  # fmt: skip
# Families some writers nest where the conventions have dots.
_NESTED = ("llm", "gen_ai", "openinference", "input", "output", "tool", "embedding", "retrieval")


def looks_like(fields: Sequence[str]) -> bool:
    """Return whether a record with these fields is a span, or holds a list of them."""
    own = set(fields)
    span = bool(own & {"trace_id", "traceId", "context"}) and bool(own & {*_NAME, *_ATTRIBUTES})
    listing = "spans" in own or own in ({"data", "next_cursor"}, {"data"})
    return listing or (span and bool(own & {*_START, *_ATTRIBUTES}))


def survey(data: bytes) -> Survey:
    """Return one job a trace: of each record that lists spans, and over all single spans."""
    groups: list[tuple[Mapping[str, Any], list[Piece]]] = []
    single: list[Piece] = []
    broken: list[BadRecord] = []
    unsure: BadRecord | None = None  # a record that may have held a span of any trace
    for index, record in objects(data):
        if isinstance(record, BadRecord):
            broken.append(record)
            unsure = unsure or record
            continue
        held = next((n for n in _LISTS if isinstance(record.get(n), list)), None)
        try:
            if held is None:
                single.append(_piece(record, index, "the span"))
                continue
            around = {k: v for k, v in record.items() if k not in {held, "trace_id"}}
            own = [_piece(mapping(s, f"{held}[{n}]"), index, f"{held}[{n}]")
                   for n, s in enumerate(record[held])]  # fmt: skip
        except BadRecord as bad:
            here = BadRecord(bad.field, bad.problem, index=index)
            broken.append(here)
            unsure = here if held is None else unsure
        else:
            if own:
                groups.append((around, own))
            else:
                broken.append(BadRecord(str(held), "expected spans, got none", index=index))
    if unsure is not None and (single or not groups):
        raise unsure
    return survey_of([*groups, ({}, single)], broken)


def _piece(span: dict[str, Any], index: int, at: str) -> Piece:
    trace = hex_id(_of(span, _TRACE), 32, f"{at}.trace_id")
    resource = mapping(_of(span, _RESOURCE), f"{at}.resource")
    return Piece(trace, index, span, resource, {})


def _of(span: Mapping[str, Any], table: Sequence[str]) -> Any:
    for name in table:
        outer, _, inner = name.partition(".")
        value = span.get(outer)
        if inner:
            value = value.get(inner) if isinstance(value, dict) else None
        if value is not None and value != "":
            return value
    return None


def trace(job: Job, shared: bytes) -> Trace:  # noqa: ARG001  one signature for every format
    """Return the run of one trace."""
    return trace_of(job, _read)


def _read(piece: Piece) -> Iterator[Emitted]:
    """Yield a span and those nested in it, however deep."""
    waiting: list[tuple[dict[str, Any], str | None]] = [(piece.span, None)]
    while waiting:
        span, above = waiting.pop()
        own = _emitted(span, above)
        yield own
        for n, child in enumerate(listed(_of(span, _CHILDREN), f"span {own.span_id}: child_spans")):
            at = f"span {own.span_id}: child_spans[{n}]"
            inside = mapping(child, at)
            if hex_id(_of(inside, _TRACE) or own.trace_id, 32, f"{at}.trace_id") != own.trace_id:
                raise BadRecord(f"{at}.trace_id", "expected its parent's trace, got another")
            waiting.append(({"trace_id": own.trace_id, **inside}, own.span_id))


def _emitted(span: dict[str, Any], above: str | None) -> Emitted:
    own = hex_id(_of(span, _SPAN), 16, "span_id")
    at = f"span {own}: "
    parent = _of(span, _PARENT) or above
    start = instant_ns(_of(span, _START), f"{at}{_START[0]}")
    code = str(_of(span, _CODE) or "").upper()
    message = _of(span, _MESSAGE)
    return Emitted(
        trace_id=hex_id(_of(span, _TRACE), 32, f"{at}trace_id"),
        span_id=own,
        parent_span_id=hex_id(parent, 16, f"{at}parent_span_id") if parent else None,
        name=str(_of(span, _NAME) or "span"),
        start_unix_ns=start,
        end_unix_ns=_end(span, start, at),
        attributes=_attributes(span, at),
        events=tuple(_events(span, at)),
        failed=code in {"2", "ERROR"} or code.endswith((".ERROR", "_ERROR")),
        good=code in {"1", "OK"} or code.endswith((".OK", "_OK")),
        message=None if message is None else str(message),
        scope=str(_of(span, _SCOPE) or ""),
        resource=mapping(_of(span, _RESOURCE), f"{at}resource"),
    )


def _end(span: Mapping[str, Any], start: int, at: str) -> int | None:
    lasted = _of(span, _DURATION)
    if lasted is not None and _of(span, _END) is None:
        return start + duration_ns(lasted, f"{at}duration")
    return end_ns(_of(span, _END), f"{at}{_END[0]}")


def _attributes(span: Mapping[str, Any], at: str) -> dict[str, Any]:
    """Return a span's attributes, and as attributes what has no other place."""
    found = dict(_flat(mapping(_of(span, _ATTRIBUTES), f"{at}attributes")))
    kind, version = _of(span, _KIND), _of(span, _VERSION)
    if kind is not None:
        found["otel.kind"] = str(kind).removeprefix("SpanKind.").upper()
        # Phoenix has OpenInference's kind where others have OpenTelemetry's.
        if found["otel.kind"] in {"LLM", "TOOL", "AGENT", "CHAIN", "RETRIEVER", "EMBEDDING"}:
            found.setdefault("openinference.span.kind", found["otel.kind"])
    if version is not None:
        found["otel.scope.version"] = str(version)
    found |= {f"otel.{k}": v for k, v in span.items() if k not in _READ and k and _says(v)}
    return found


def _says(value: Any) -> bool:
    return value is not None and value not in ("", [], {})


def _flat(attributes: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield attributes with nested families spelt with dots."""
    waiting = list(attributes.items())[::-1]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict) and name.partition(".")[0] in _NESTED:
            waiting += [(f"{name}.{k}", v) for k, v in list(value.items())[::-1]]
        elif value is not None:
            yield name, value


def _events(span: Mapping[str, Any], at: str) -> Iterator[Happened]:
    for n, event in enumerate(listed(_of(span, _EVENTS), f"{at}events")):
        own = mapping(event, f"{at}events[{n}]")
        when = _of(own, _EVENT_TIME)
        attributes = mapping(_of(own, ("attributes", "Attributes")), f"{at}events[{n}].attributes")
        yield Happened(
            str(_of(own, ("name", "Name")) or "event"),
            0 if when in (None, 0) else instant_ns(when, f"{at}events[{n}].timestamp"),
            {k: v if isinstance(v, str | int | float) else canonical_text(v)
             for k, v in attributes.items()},
        )  # fmt: skip


FORMAT = Format(
    name="openinference",
    summary="dumps of spans as JSON: OpenInference, GenAI and others",
    looks_like=looks_like,
    survey=survey,
    trace=trace,
)

"""OTLP in JSON, as the OpenTelemetry Collector's file exporter and OTLP/HTTP write it.

Rule: the protocol's own mapping: ids in hexadecimal, 64-bit integers as text, unknown fields
ignored. A trace may be spread over many records; so a record that cannot be read refuses the file,
because nobody knows whose spans it held.

Format: opentelemetry.io/docs/specs/otlp, `ExportTraceServiceRequest`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from towerkit.ingest.source import BadRecord
from towerkit.ingest.spans import (
    Piece,
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
from towerkit.telemetry import names
from towerkit.telemetry.foreign import Emitted, Happened

_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_RESOURCES = ("resourceSpans", "resource_spans")
_SCOPES = ("scopeSpans", "scope_spans", "instrumentationLibrarySpans")


def looks_like(fields: Sequence[str]) -> bool:
    """Return whether a record with these fields is an OTLP export of spans."""
    return bool(set(_RESOURCES) & set(fields))


def survey(data: bytes) -> Survey:
    """Return one job a trace of the file."""
    pieces: list[Piece] = []
    for index, record in objects(data):
        if isinstance(record, BadRecord):
            raise record
        try:
            pieces += _pieces(record, index)
        except BadRecord as bad:
            raise BadRecord(bad.field, bad.problem, index=index) from None
    if not pieces:
        raise BadRecord("resourceSpans", "expected spans, got none")
    return survey_of([({}, pieces)], [])


def _pieces(record: dict[str, Any], index: int) -> Iterator[Piece]:
    for r, group in enumerate(listed(_of(record, _RESOURCES), "resourceSpans")):
        at = f"resourceSpans[{r}]"
        resource = attributes_of(
            mapping(mapping(group, at).get("resource"), f"{at}.resource").get("attributes"),
            f"{at}.resource.attributes",
        )
        for s, scoped in enumerate(listed(_of(group, _SCOPES), f"{at}.scopeSpans")):
            here = f"{at}.scopeSpans[{s}]"
            scope = mapping(
                mapping(scoped, here).get("scope") or scoped.get("instrumentationLibrary"),
                f"{here}.scope",
            )
            for n, span in enumerate(listed(scoped.get("spans"), f"{here}.spans")):
                field = f"{here}.spans[{n}]"
                own = mapping(span, field)
                trace = hex_id(_of(own, ("traceId", "trace_id")), 32, f"{field}.traceId")
                yield Piece(trace, index, {**own, "": field}, resource, scope)


def _of(record: dict[str, Any], spellings: Sequence[str]) -> Any:
    return next((record[n] for n in spellings if n in record), None)


def trace(job: Job, shared: bytes) -> Trace:  # noqa: ARG001  one signature for every format
    """Return the run of one trace."""
    return trace_of(job, _read)


def _read(piece: Piece) -> Iterator[Emitted]:
    span, at = piece.span, str(piece.span[""])
    own = hex_id(_of(span, ("spanId", "span_id")), 16, f"{at}.spanId")
    at = f"span {own}: {at}"
    parent = _of(span, ("parentSpanId", "parent_span_id"))
    status = mapping(span.get("status"), f"{at}.status")
    attributes = attributes_of(span.get("attributes"), f"{at}.attributes")
    yield Emitted(
        trace_id=hex_id(_of(span, ("traceId", "trace_id")), 32, f"{at}.traceId"),
        span_id=own,
        parent_span_id=hex_id(parent, 16, f"{at}.parentSpanId") if _is_id(parent) else None,
        name=str(span.get("name") or "span"),
        start_unix_ns=instant_ns(
            _of(span, ("startTimeUnixNano", "start_time_unix_nano")), f"{at}.startTimeUnixNano"
        ),
        end_unix_ns=end_ns(
            _of(span, ("endTimeUnixNano", "end_time_unix_nano")), f"{at}.endTimeUnixNano"
        ),
        attributes=attributes | dict(_more(span, at, piece.scope)),
        events=tuple(_events(span, at)),
        failed=status.get("code") in {2, "2", "STATUS_CODE_ERROR"},
        good=status.get("code") in {1, "1", "STATUS_CODE_OK"},
        message=str(status["message"]) if status.get("message") else None,
        scope=str(piece.scope.get("name") or ""),
        resource=piece.resource,
    )


def _is_id(value: Any) -> bool:
    """Return whether a parent is named: an empty id, or one of zeros, is none."""
    return value not in (None, "") and bool(str(value).strip("0A="))


def _more(span: dict[str, Any], at: str, scope: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what has no attribute of its own, as one."""
    kind = span.get("kind")
    if kind is not None:
        known = type(kind) is int and 0 <= kind < len(_KINDS)
        yield "otel.kind", _KINDS[kind] if known else str(kind).removeprefix("SPAN_KIND_")
    for field, name in (
        ("traceState", "otel.trace_state"),
        ("droppedAttributesCount", "otel.dropped_attributes"),
        ("droppedEventsCount", "otel.dropped_events"),
        ("droppedLinksCount", "otel.dropped_links"),
    ):
        if span.get(field):
            yield name, span[field]
    if scope.get("version"):
        yield "otel.scope.version", str(scope["version"])
    links = [
        {**mapping(link, f"{at}.links"),
         "attributes": attributes_of(link.get("attributes"), f"{at}.links")}
        for link in listed(span.get("links"), f"{at}.links")
    ]  # fmt: skip
    if links:
        yield "otel.links", links


def _events(span: dict[str, Any], at: str) -> Iterator[Happened]:
    for n, event in enumerate(listed(span.get("events"), f"{at}.events")):
        own = mapping(event, f"{at}.events[{n}]")
        when = _of(own, ("timeUnixNano", "time_unix_nano"))
        yield Happened(
            str(own.get("name") or "event"),
            0 if when in (None, 0, "0", "") else instant_ns(when, f"{at}.events[{n}].timeUnixNano"),
            attributes_of(own.get("attributes"), f"{at}.events[{n}].attributes"),
        )


def attributes_of(value: Any, field: str) -> dict[str, Any]:
    """Return a list of key and value as a dictionary."""
    found: dict[str, Any] = {}
    for n, pair in enumerate(listed(value, field)):
        own = mapping(pair, f"{field}[{n}]")
        key = own.get("key")
        if not isinstance(key, str):
            raise BadRecord(f"{field}[{n}].key", f"expected text, got {str(key)[:60]!r}")
        found[key] = _value(own.get("value"), f"{field}[{n}].value", 0)
    return found


def _value(value: Any, field: str, depth: int) -> Any:
    """Return what an `AnyValue` holds."""
    if depth > names.DEEPEST:
        raise BadRecord(field, "nested too deeply to be read")
    of = mapping(value, field)
    if "intValue" in of:
        number = of["intValue"]
        if isinstance(number, str) and number.removeprefix("-").isdecimal() and len(number) < 25:
            return int(number)
        if type(number) is int:
            return number
        raise BadRecord(f"{field}.intValue", f"expected an integer, got {str(number)[:60]!r}")
    if "arrayValue" in of:
        items = listed(mapping(of["arrayValue"], field).get("values"), field)
        return [_value(v, f"{field}[{n}]", depth + 1) for n, v in enumerate(items)]
    if "kvlistValue" in of:
        pairs = listed(mapping(of["kvlistValue"], field).get("values"), field)
        return {
            str(mapping(p, field).get("key")): _value(p.get("value"), field, depth + 1)
            for p in pairs
        }
    return next((of[k] for k in ("stringValue", "boolValue", "doubleValue", "bytesValue")
                 if k in of), None)  # fmt: skip


FORMAT = Format(
    name="otlp",
    summary="OpenTelemetry spans: OTLP as JSON",
    looks_like=looks_like,
    survey=survey,
    trace=trace,
)

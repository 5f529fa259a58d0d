"""Spans out to OpenTelemetry, in the vocabulary of its GenAI conventions.

Rule: the pack is the evidence and OpenTelemetry is an export of it: what an exporter loses is still
in the store. Without being asked for, no content leaves: only names, counts, timings and error
classes. Nothing is sent on the agent's thread, and nothing here raises into it.

A retried logical call is one span of the conventions; the attempts below it are exported as its
children. Tokens are on the attempts only, where they were spent: a backend that adds up every span
comes to the right sum.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import msgspec
from opentelemetry.context import (
    _SUPPRESS_INSTRUMENTATION_KEY,
    attach,
    detach,
    set_value,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from towerkit.core.canonical import canonical_text
from towerkit.packs.store import Pack
from towerkit.privacy.log import log
from towerkit.telemetry import names
from towerkit.telemetry.messages import Bodies, model_content, run_content, tool_content

BATCH = 512  # spans a request, as OpenTelemetry's own processors send them
_DEFAULT_SERVICE = "agent"
_COUNTS = frozenset(s for c in names.COUNTS for s in names.spellings(c))
# Facts of an event that hold no content: the guard's own notes.
_NOTED = frozenset({
    "name", "reason", "wait_s", "tier", "on", "max_tokens", names.EXCEPTION_TYPE, "unix_ns",
})  # fmt: skip


class _Packed:
    """A pack, read for export."""

    def __init__(self, pack: Pack, *, content: bool) -> None:
        self.run_id, self.content = pack.run_id, content
        self.bodies = Bodies(pack.bodies if content else {})
        self.resource = _resource(pack.manifest["identity"])
        self.costs: dict[str, Mapping[str, Any]] = {
            row["span_id"]: row for row in pack.frame("costs").iter_rows(named=True)
        }
        tasks = pack.frame("inputs").filter(kind="task")
        self.task = tasks["response_digest"][0] if tasks.height else None
        self.rows = pack.frame("spans").sort("seq").to_dicts()


@cache
def detected() -> Resource:
    """Return what OpenTelemetry's detectors say of this process.

    They run on threads, which an interpreter that is ending has not: ask for it before.
    """
    return Resource.create()


def _resource(identity: Mapping[str, Any]) -> Resource:
    """Return who speaks; the environment's own OTEL_SERVICE_NAME wins over a name not given."""
    service = str(identity.get("service") or _DEFAULT_SERVICE)
    known: dict[str, str] = {"service.version": str(identity.get("release") or "dev")}
    if service != _DEFAULT_SERVICE or not os.environ.get("OTEL_SERVICE_NAME"):
        known["service.name"] = service
    return detected().merge(Resource(known))


def spans_of(pack: Pack, *, content: bool = False) -> list[ReadableSpan]:
    """Return the pack's spans as OpenTelemetry spans; the trace id is the run id.

    With `content`, what was said goes with them, as redacted as the pack has it.
    """
    packed = _Packed(pack, content=content)
    return [_span(row, packed) for row in packed.rows]


def _context(run_id: str, span_id: str) -> SpanContext:
    return SpanContext(
        trace_id=int(run_id.replace("-", ""), 16),
        span_id=int(span_id, 16),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def _span(row: dict[str, Any], packed: _Packed) -> ReadableSpan:
    more = msgspec.json.decode(row["attributes"])
    end = row["start_unix_ns"] + row["duration_ns"]
    failed = row["status"] != "ok"
    parent = row["parent_span_id"]
    return ReadableSpan(
        name=_name(row),
        context=_context(row["run_id"], row["span_id"]),
        parent=_context(row["run_id"], parent) if parent else None,
        resource=packed.resource,
        attributes=_attributes(row, more, packed),
        events=list(_events(row, end, packed)),
        links=list(_links(more)),
        kind=_kind(row, more),
        status=Status(StatusCode.ERROR, row["error_class"]) if failed else Status(StatusCode.UNSET),
        start_time=row["start_unix_ns"],
        end_time=end,
        instrumentation_scope=InstrumentationScope("towerkit", schema_url=names.SCHEMA_URL),
    )


def _name(row: Mapping[str, Any]) -> str:
    operation = str(row["gen_ai_operation_name"])
    if row["kind"] != "run" or str(row["name"]).startswith(operation):
        return str(row["name"])
    return f"{operation} {row['name']}"


def _kind(row: Mapping[str, Any], more: Mapping[str, Any]) -> SpanKind:
    """Return CLIENT for what asks another service: a model, an HTTP service, an MCP server."""
    asks = row["kind"] in {"call", "attempt"} and (
        row["gen_ai_operation_name"] == "chat"
        or "http.request.method" in more or "mcp.method.name" in more
    )  # fmt: skip
    return SpanKind.CLIENT if asks else SpanKind.INTERNAL


def _attributes(row: Mapping[str, Any], more: Mapping[str, Any], packed: _Packed) -> dict[str, Any]:
    found = dict(_more(more, packed))
    spent = row["kind"] == "attempt" or row["span_id"] in packed.costs
    for column, name in names.WRITTEN.items():
        # The emitter's own word for what it did is finer than the column's.
        finer = column == "gen_ai_operation_name" and name in found
        if row[column] is not None and not finer and (spent or column not in names.COUNTS):
            found[name] = row[column]
    if row["gen_ai_response_finish_reason"] is not None:
        found[names.FINISH_REASONS] = [row["gen_ai_response_finish_reason"]]
    found |= {names.KIND: row["kind"], names.STATUS: row["status"]}
    cost = packed.costs.get(row["span_id"])
    if cost is not None:
        found |= {names.ESTIMATED: cost["estimated"], names.WASTED: cost["wasted"]}
        if cost["cost_nanousd"] is not None:
            found[names.COST] = cost["cost_nanousd"]
    return found | (_content(row, packed) if packed.content else {})


def _more(more: Mapping[str, Any], packed: _Packed) -> Iterator[tuple[str, Any]]:
    """Yield the attributes that have no column; counts have theirs, and would count twice."""
    for name, value in more.items():
        if name in _COUNTS or name == names.LINK or value is None:
            continue
        if not packed.content and not names.is_plain(name):
            continue
        if isinstance(value, dict) and set(value) == {"content"}:
            kept = packed.bodies.of(value["content"])
            if kept is not None:
                yield name, _plain(kept)
        else:
            yield name, _plain(value)


def _plain(value: Any) -> Any:
    """Return a value every exporter takes: JSON text for what has structure or does not fit."""
    if isinstance(value, str | bool | float):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else str(value)
    if isinstance(value, list) and all(isinstance(v, str) for v in value):
        return value
    return canonical_text(value)


def _content(row: Mapping[str, Any], packed: _Packed) -> dict[str, str]:
    """Return what was said; of a call, its attempts say it."""
    asked, answer = row["request_digest"], row["response_digest"]
    if row["kind"] == "run":
        return run_content(packed.bodies, packed.task, answer)
    if row["kind"] != "attempt":
        return {}
    read = model_content if row["gen_ai_operation_name"] == "chat" else tool_content
    return read(packed.bodies, asked, answer)


def _events(row: Mapping[str, Any], end: int, packed: _Packed) -> Iterator[Event]:
    """Yield the span's error as an exception, and what was noted on it: waits, fallbacks, flags."""
    noted = msgspec.json.decode(row["events"])
    for event in noted:
        facts = event.get("attributes")
        facts = event if not isinstance(facts, dict) else facts
        shown = {
            k: _plain(v) for k, v in facts.items()
            if k not in {"name", "unix_ns"} and v is not None and (packed.content or k in _NOTED)
        }  # fmt: skip
        at = event.get("unix_ns")
        yield Event(str(event.get("name", "event")), shown, at if isinstance(at, int) else end)
    if row["status"] != "ok" and not any(e.get("name") == names.EXCEPTION for e in noted):
        detail = {names.EXCEPTION_TYPE: row["error_type"] or row["error_class"] or row["status"]}
        if packed.content and row["error_message"] is not None:
            detail[names.EXCEPTION_MESSAGE] = row["error_message"]
        yield Event(names.EXCEPTION, detail, end)


def _links(more: Mapping[str, Any]) -> Iterator[Link]:
    """Yield the caller's span, where a `traceparent` named it."""
    link = more.get(names.LINK)
    if isinstance(link, dict):
        yield Link(
            SpanContext(
                trace_id=int(link["trace_id"], 16), span_id=int(link["span_id"], 16),
                is_remote=True, trace_flags=TraceFlags(link["flags"]),
            )
        )  # fmt: skip


def export(pack: Pack, exporter: SpanExporter, *, content: bool = False) -> bool:
    """Give the pack's spans to `exporter`; return whether it took them all. Never raises."""
    # An instrumented HTTP library must not make spans of the export itself.
    token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # noqa: FBT003
    try:
        spans = spans_of(pack, content=content)
        batches = [spans[i : i + BATCH] for i in range(0, len(spans), BATCH)]
        results = [exporter.export(batch) for batch in batches]  # each, though one is refused
        taken = all(result is SpanExportResult.SUCCESS for result in results)
    except Exception:
        log.exception("run %s: the OpenTelemetry exporter raised; the pack is whole", pack.run_id)
        return False
    finally:
        detach(token)
    if not taken:
        log.warning("run %s: the OpenTelemetry exporter refused its spans", pack.run_id)
    return taken

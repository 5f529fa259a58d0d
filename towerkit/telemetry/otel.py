"""Spans out to OpenTelemetry, in the vocabulary of its GenAI conventions.

Rule: the pack is the evidence and OpenTelemetry is an export of it: what an exporter loses is still
in the store. No content leaves, only names, counts, timings and error classes.

Conventions: github.com/open-telemetry/semantic-conventions-genai, schema gen-ai-dev/1.42.0-dev. A
retried logical call is one span there; the attempts below it are exported as its children.
"""

from __future__ import annotations

import logging
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from towerkit.packs.store import Pack

SCHEMA_URL = "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"
log = logging.getLogger("towerkit")

# Column of the spans table -> attribute of the conventions.
ATTRIBUTES = {
    "gen_ai_operation_name": "gen_ai.operation.name",
    "gen_ai_provider_name": "gen_ai.provider.name",
    "gen_ai_request_model": "gen_ai.request.model",
    "gen_ai_response_model": "gen_ai.response.model",
    "gen_ai_response_id": "gen_ai.response.id",
    "gen_ai_usage_input_tokens": "gen_ai.usage.input_tokens",
    "gen_ai_usage_output_tokens": "gen_ai.usage.output_tokens",
    "gen_ai_usage_cache_read_tokens": "gen_ai.usage.cache_read.input_tokens",
    "gen_ai_usage_cache_write_tokens": "gen_ai.usage.cache_write.input_tokens",
    "gen_ai_usage_reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "gen_ai_tool_name": "gen_ai.tool.name",
    "gen_ai_tool_call_id": "gen_ai.tool.call.id",
    "error_type": "error.type",
    "error_class": "towerkit.error.class",
    "attempt": "towerkit.attempt",
    "fallback_tier": "towerkit.fallback.tier",
    "fallback_reason": "towerkit.fallback.reason",
    "simulated": "towerkit.simulated",
}


def spans_of(pack: Pack) -> list[ReadableSpan]:
    """Return the pack's spans as OpenTelemetry spans; the trace id is the run id."""
    resource = Resource.create(
        {"service.name": str(pack.manifest["identity"].get("service") or "agent")}
    )
    return [_span(row, resource) for row in pack.frame("spans").iter_rows(named=True)]


def _context(run_id: str, span_id: str) -> SpanContext:
    return SpanContext(
        trace_id=int(run_id.replace("-", ""), 16),
        span_id=int(span_id, 16),
        is_remote=False,
        trace_flags=TraceFlags(TraceFlags.SAMPLED),
    )


def _span(row: dict[str, Any], resource: Resource) -> ReadableSpan:
    attributes = {
        name: row[column] for column, name in ATTRIBUTES.items() if row[column] is not None
    }
    if row["gen_ai_response_finish_reason"] is not None:
        attributes["gen_ai.response.finish_reasons"] = [row["gen_ai_response_finish_reason"]]
    attributes["towerkit.kind"] = row["kind"]
    remote = row["kind"] in {"call", "attempt"} and row["gen_ai_operation_name"] == "chat"
    end = row["start_unix_ns"] + row["duration_ns"]
    failed = row["status"] != "ok"
    events = []
    if failed:
        detail = {"exception.type": row["error_type"] or "", "towerkit.status": row["status"]}
        events = [Event("exception", detail, end)]
    parent = row["parent_span_id"]
    return ReadableSpan(
        name=row["name"],
        context=_context(row["run_id"], row["span_id"]),
        parent=_context(row["run_id"], parent) if parent else None,
        resource=resource,
        attributes=attributes,
        events=events,
        kind=SpanKind.CLIENT if remote else SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, row["error_class"]) if failed else Status(StatusCode.UNSET),
        start_time=row["start_unix_ns"],
        end_time=end,
        instrumentation_scope=InstrumentationScope("towerkit", schema_url=SCHEMA_URL),
    )


def export(pack: Pack, exporter: SpanExporter) -> bool:
    """Give the pack's spans to `exporter`; return whether it took them. Never raises."""
    try:
        taken = exporter.export(spans_of(pack)) is SpanExportResult.SUCCESS
    except Exception:
        log.exception("run %s: the OpenTelemetry exporter raised; the pack is whole", pack.run_id)
        return False
    if not taken:
        log.warning("run %s: the OpenTelemetry exporter refused its spans", pack.run_id)
    return taken

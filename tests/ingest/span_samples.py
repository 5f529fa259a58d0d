"""Small traces as emitters of spans write them, made for these tests."""

from __future__ import annotations

from typing import Any

START = 1_750_000_000_000_000_000
MS = 1_000_000


def trace_id(n: int) -> str:
    return f"{0xABC0 + n:032x}"


def dumped(
    n: int, number: int, name: str, attributes: dict[str, Any], *, parent: int | None = 1,
    at_ms: int = 0, took_ms: int = 100, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return one span of trace `n` as an SDK dumps it."""
    return {
        "name": name, "trace_id": trace_id(n), "span_id": f"{number:016x}",
        "parent_span_id": None if parent is None else f"{parent:016x}",
        "start_time": START + at_ms * MS, "end_time": START + (at_ms + took_ms) * MS,
        "attributes": attributes, "scope": {"name": "some.library", "version": "1"},
        "status": {"code": "UNSET"}, "span_events": [], **more,
    }  # fmt: skip


def dump_record(n: int = 0) -> dict[str, Any]:
    """Return a record with the spans of an agent that asks a model and a tool that fails."""
    said = {"llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": "Mail ada@example.com about order 7",
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.content": "It was sent."}  # fmt: skip
    problem = {"name": "exception", "timestamp": START + 250 * MS, "attributes": {
        "exception.type": "KeyError", "exception.message": "'7'"}}  # fmt: skip
    return {
        "case": f"c{n}",
        "spans": [
            dumped(n, 1, "agent", {"openinference.span.kind": "AGENT", "input.value": "order 7?"},
                   parent=None, took_ms=400),
            dumped(n, 2, "ChatCompletion", {
                "openinference.span.kind": "LLM", "llm.model_name": "gpt-9",
                "llm.provider": "openai", "llm.token_count.prompt": 100,
                "llm.token_count.completion": "20", "llm.token_count.total": 120,
                "llm.token_count.prompt_details.cache_read": 64, "my.own": {"a": [1, None]}, **said,
            }, at_ms=10),
            dumped(n, 3, "look_up", {"openinference.span.kind": "TOOL", "tool.name": "look_up",
                                     "input.value": '{"order": 7}'},
                   at_ms=200, status={"code": "ERROR", "message": "'7'"}, span_events=[problem]),
        ],
    }  # fmt: skip


def _any(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [_any(v) for v in value]}}
    return {"stringValue": value}


def pairs(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    """Return attributes as OTLP has them."""
    return [{"key": k, "value": _any(v)} for k, v in attributes.items()]


def otlp_span(
    n: int, number: int, name: str, attributes: dict[str, Any], *, parent: int | None = 1,
    at_ms: int = 0, took_ms: int = 100, **more: Any,
) -> dict[str, Any]:  # fmt: skip
    """Return one span of trace `n` as OTLP in JSON."""
    return {
        "traceId": trace_id(n), "spanId": f"{number:016x}",
        "parentSpanId": "" if parent is None else f"{parent:016x}", "name": name, "kind": 3,
        "startTimeUnixNano": str(START + at_ms * MS),
        "endTimeUnixNano": str(START + (at_ms + took_ms) * MS),
        "attributes": pairs(attributes), "status": {}, **more,
    }  # fmt: skip


def otlp_export(*spans: dict[str, Any], **resource: Any) -> dict[str, Any]:
    """Return one export of spans."""
    scoped = {"scope": {"name": "some.library"}, "spans": list(spans)}
    return {"resourceSpans": [{"resource": {"attributes": pairs(resource)},
                               "scopeSpans": [scoped]}]}  # fmt: skip


def otlp_record(n: int = 0) -> dict[str, Any]:
    """Return an export of an agent's span and its model call."""
    return otlp_export(
        otlp_span(n, 1, "invoke_agent desk", {"gen_ai.operation.name": "invoke_agent"},
                  parent=None, took_ms=400),
        otlp_span(n, 2, "chat gpt-9", {
            "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-9", "gen_ai.usage.input_tokens": 100,
            "gen_ai.usage.output_tokens": 20, "gen_ai.response.finish_reasons": ["stop"],
            "gen_ai.response.id": f"r{n}",
        }, at_ms=10),
        **{"service.name": "desk"},
    )  # fmt: skip

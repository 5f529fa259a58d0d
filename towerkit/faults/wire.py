"""Four wire formats, as their providers write them: bodies, streams and errors.

Rule: bytes out, nothing else: no socket, no clock, no state. Shapes follow recorded exchanges; ids
say that they are simulated.

    openai_chat       …/chat/completions
    openai_responses  …/responses
    anthropic         …/messages
    gemini            …/models/NAME:generateContent and :streamGenerateContent?alt=sse
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from towerkit.core.env import VIRTUAL_EPOCH_NS
from towerkit.core.errors import UsageError
from towerkit.core.types import ToolCall, Usage
from towerkit.faults import provider_errors as errors
from towerkit.faults.steps import Reply, WrongUsage

Format = Literal["openai_chat", "openai_responses", "anthropic", "gemini"]
Json = dict[str, Any]

CREATED = VIRTUAL_EPOCH_NS // 1_000_000_000  # simulated answers are made when simulated time begins

# Neutral finish -> the word of each format. A format that lacks the key cannot say it.
FINISH: dict[str, dict[str, str]] = {
    "openai_chat": {
        "stop": "stop", "length": "length", "content_filter": "content_filter",
        "tool_calls": "tool_calls",
    },
    "openai_responses": {
        "stop": "completed", "length": "incomplete", "content_filter": "incomplete",
        "tool_calls": "completed", "failed": "failed",
    },
    "anthropic": {
        "stop": "end_turn", "length": "max_tokens", "content_filter": "refusal",
        "tool_calls": "tool_use",
    },
    "gemini": {
        "stop": "STOP", "length": "MAX_TOKENS", "content_filter": "SAFETY", "tool_calls": "STOP",
        "malformed_tool_call": "MALFORMED_FUNCTION_CALL",
    },
}  # fmt: skip


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a request says that its answer depends on. `number` makes ids differ."""

    format: Format
    model: str = "simulated-model"
    stream: bool = False
    include_usage: bool = False
    number: int = 1


class Wire(msgspec.Struct, frozen=True, kw_only=True):
    """One format: how it answers whole, how it streams, how it tells errors."""

    reply: Callable[[Reply, Asked, Json | None], Json]
    events: Callable[[Reply, Asked, Json | None], list[bytes]]
    usage: Callable[[Usage], Json]
    error_rows: tuple[errors.ProviderError, ...]
    error: Callable[[errors.ProviderError], Json]
    error_body: Callable[[Json, Asked], Json]
    error_event: Callable[[Json, int], bytes]
    request_id_header: str | None


def words(text: str) -> list[str]:
    """Return `text` in the pieces it is streamed in; joined they are `text`."""
    return re.findall(r"\s*\S+|\s+$", text)


def wrong(usage: Json, how: WrongUsage | None) -> Json | None:
    """Return token counts as they are, or wrong in the way asked for; None leaves them out."""
    if how is None:
        return usage
    if how.how == "missing":
        return None
    if how.how == "total":
        key = next((k for k in usage if "total" in k.lower()), "cache_creation_input_tokens")
        return {**usage, key: usage[key] + 1000}
    changes: dict[str, Callable[[int], Any]] = {
        "zero": lambda _: 0,
        "negative": lambda n: -1 - n,
        "huge": lambda n: n + 10**15,
        "text": str,
    }
    change = changes[how.how]

    def over(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: over(v) for k, v in value.items()}
        return change(value) if isinstance(value, int) else value

    return over(usage)  # type: ignore[no-any-return]  # a dict in, a dict out


def _finish(reply: Reply, asked: Asked) -> str:
    neutral = reply.finish or ("tool_calls" if reply.tool_calls else "stop")
    table = FINISH[asked.format]
    if neutral not in table:
        raise UsageError(
            f"fault script: expected a finish that {asked.format} can say "
            f"({', '.join(table)}), got {neutral!r}"
        )
    return table[neutral]


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def body_bytes(value: Any) -> bytes:
    """Return a JSON body; text is sent as it is."""
    return (value if isinstance(value, str) else _dump(value)).encode()


def _data(value: Any) -> bytes:
    return f"data: {_dump(value)}\n\n".encode()


def _event(name: str, value: Mapping[str, Any]) -> bytes:
    return f"event: {name}\n".encode() + _data(value)


def _arguments(call: ToolCall) -> str:
    return _dump(call.arguments) if call.raw is None else call.raw


def _object(call: ToolCall, asked: Asked) -> Json:
    if call.raw is not None:
        raise UsageError(
            f"fault script: {asked.format} sends tool arguments as an object here, not as text: "
            f"give {call.name!r} arguments, or stream in the anthropic format"
        )
    return call.arguments


def _halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [part for part in (text[:middle], text[middle:]) if part]


# --- OpenAI chat completions


def _chat_usage(usage: Usage) -> Json:
    given, made = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "prompt_tokens": given, "completion_tokens": made, "total_tokens": given + made,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read_tokens or 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens or 0, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    }  # fmt: skip


def _chat_call(call: ToolCall, arguments: str) -> Json:
    return {
        "id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments},
    }  # fmt: skip


def _chat_head(reply: Reply, asked: Asked, kind: str) -> Json:
    return {
        "id": f"chatcmpl-simulated-{asked.number}", "object": kind, "created": CREATED,
        "model": reply.model or asked.model, "service_tier": "default",
        "system_fingerprint": "fp_simulated",
    }  # fmt: skip


def _chat_reply(reply: Reply, asked: Asked, usage: Json | None) -> Json:
    message: Json = {"role": "assistant", "content": reply.text or None, "refusal": None}
    if reply.tool_calls:
        message["tool_calls"] = [_chat_call(c, _arguments(c)) for c in reply.tool_calls]
    choice = {
        "index": 0, "message": message, "logprobs": None, "finish_reason": _finish(reply, asked),
    }  # fmt: skip
    body = {**_chat_head(reply, asked, "chat.completion"), "choices": [choice]}
    return body if usage is None else {**body, "usage": usage}


def _chat_events(reply: Reply, asked: Asked, usage: Json | None) -> list[bytes]:
    deltas: list[Json] = [{"role": "assistant", "content": "", "refusal": None}]
    deltas += [{"content": word} for word in words(reply.text)]
    for index, call in enumerate(reply.tool_calls):
        deltas.append({"tool_calls": [{"index": index, **_chat_call(call, "")}]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": part}}]}
            for part in _halves(_arguments(call))
        ]
    choices: list[list[Json]] = [
        [{"index": 0, "delta": d, "logprobs": None, "finish_reason": None}] for d in deltas
    ]
    finish = _finish(reply, asked)
    choices.append([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}])
    head = _chat_head(reply, asked, "chat.completion.chunk")
    extra: Json = {"usage": None} if asked.include_usage else {}
    events = [_data({**head, "choices": c, **extra}) for c in choices]
    if asked.include_usage and usage is not None:
        events.append(_data({**head, "choices": [], "usage": usage}))
    return [*events, b"data: [DONE]\n\n"]


# --- OpenAI responses


def _responses_usage(usage: Usage) -> Json:
    given, made = usage.input_tokens or 0, usage.output_tokens or 0
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": usage.cache_read_tokens or 0},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": given + made,
    }


def _text_part(text: str) -> Json:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _responses_output(reply: Reply, asked: Asked) -> list[Json]:
    n, output = asked.number, []
    if reply.text:
        output.append({
            "id": f"msg_simulated_{n}", "type": "message", "status": "completed",
            "content": [_text_part(reply.text)], "role": "assistant",
        })  # fmt: skip
    for index, call in enumerate(reply.tool_calls):
        output.append({
            "id": f"fc_simulated_{n}_{index}", "type": "function_call", "status": "completed",
            "arguments": _arguments(call), "call_id": call.id, "name": call.name,
        })  # fmt: skip
    return output


def _responses_reply(reply: Reply, asked: Asked, usage: Json | None) -> Json:
    status, neutral = _finish(reply, asked), reply.finish
    reason = "max_output_tokens" if neutral == "length" else "content_filter"
    row = errors.find(errors.OPENAI, word="server_error", status=None)
    failed = {"code": "server_error", "message": row.message}
    return {
        "id": f"resp_simulated_{asked.number}", "object": "response", "created_at": CREATED,
        "status": status, "background": False, "error": failed if status == "failed" else None,
        "incomplete_details": {"reason": reason} if status == "incomplete" else None,
        "instructions": None, "max_output_tokens": None, "max_tool_calls": None,
        "model": reply.model or asked.model,
        "output": [] if status == "failed" else _responses_output(reply, asked),
        "parallel_tool_calls": True, "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None}, "service_tier": "default", "store": True,
        "temperature": 1.0, "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto", "tools": [], "top_logprobs": 0, "top_p": 1.0,
        "truncation": "disabled", "usage": None if status == "failed" else usage, "user": None,
        "metadata": {},
    }  # fmt: skip


def _responses_item(item: Json, index: int) -> list[Json]:
    """Return the events of one output item, without sequence numbers."""
    at: Json = {"item_id": item["id"], "output_index": index}
    inside: Json = {"logprobs": []}
    empty: Json
    if item["type"] == "function_call":
        empty, kind, full = {"arguments": ""}, "response.function_call_arguments", item["arguments"]
        inner = [{"type": f"{kind}.delta", **at, "delta": part} for part in _halves(full)]
        inner.append({"type": f"{kind}.done", **at, "arguments": full})
    else:
        empty, text = {"content": []}, item["content"][0]["text"]
        at_text = {**at, "content_index": 0}
        part, text_event = "response.content_part", "response.output_text"
        inner = [{"type": f"{part}.added", **at_text, "part": _text_part("")}]
        inner += [
            {"type": f"{text_event}.delta", **at_text, **inside, "delta": w} for w in words(text)
        ]
        inner.append({"type": f"{text_event}.done", **at_text, **inside, "text": text})
        inner.append({"type": f"{part}.done", **at_text, "part": _text_part(text)})
    start = {**item, "status": "in_progress", **empty}
    return [
        {"type": "response.output_item.added", "output_index": index, "item": start},
        *inner,
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]


def _responses_events(reply: Reply, asked: Asked, usage: Json | None) -> list[bytes]:
    final = _responses_reply(reply, asked, usage)
    begun = {
        **final, "status": "in_progress", "output": [], "usage": None, "error": None,
        "incomplete_details": None,
    }  # fmt: skip
    events: list[Json] = [
        {"type": f"response.{word}", "response": begun} for word in ("created", "in_progress")
    ]
    for index, item in enumerate(final["output"]):
        events += _responses_item(item, index)
    events.append({"type": f"response.{final['status']}", "response": final})
    return [_event(e["type"], {**e, "sequence_number": n}) for n, e in enumerate(events)]


def _responses_error_event(error: Json, sequence: int) -> bytes:
    flat = {
        "type": "error", "sequence_number": sequence, "code": error["code"] or error["type"],
        "message": error["message"], "param": error["param"],
    } if {"code", "type", "message", "param"} <= set(error) else {
        "type": "error", "sequence_number": sequence, **error,
    }  # fmt: skip
    return _event("error", flat)


# --- Anthropic messages


def _anthropic_usage(usage: Usage) -> Json:
    read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
    return {
        "input_tokens": (usage.input_tokens or 0) - read - written,
        "cache_creation_input_tokens": written, "cache_read_input_tokens": read,
        "cache_creation": {"ephemeral_5m_input_tokens": written, "ephemeral_1h_input_tokens": 0},
        "output_tokens": usage.output_tokens or 0, "service_tier": "standard",
    }  # fmt: skip


def _anthropic_head(reply: Reply, asked: Asked) -> Json:
    return {
        "id": f"msg_simulated_{asked.number}", "type": "message", "role": "assistant",
        "model": reply.model or asked.model, "content": [], "stop_reason": None,
        "stop_sequence": None,
    }  # fmt: skip


def _anthropic_reply(reply: Reply, asked: Asked, usage: Json | None) -> Json:
    content: list[Json] = [{"type": "text", "text": reply.text}] if reply.text else []
    content += [
        {"type": "tool_use", "id": c.id, "name": c.name, "input": _object(c, asked)}
        for c in reply.tool_calls
    ]
    head = _anthropic_head(reply, asked)
    body = {**head, "content": content, "stop_reason": _finish(reply, asked)}
    return body if usage is None else {**body, "usage": usage}


def _anthropic_block(index: int, start: Json, deltas: list[Json]) -> list[Json]:
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": d} for d in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def _anthropic_events(reply: Reply, asked: Asked, usage: Json | None) -> list[bytes]:
    head = _anthropic_head(reply, asked)
    blocks: list[tuple[Json, list[Json]]] = []
    if reply.text:
        deltas: list[Json] = [{"type": "text_delta", "text": w} for w in words(reply.text)]
        blocks.append(({"type": "text", "text": ""}, deltas))
    for call in reply.tool_calls:
        start: Json = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
        parts = ["", *_halves(_arguments(call))]
        blocks.append((start, [{"type": "input_json_delta", "partial_json": p} for p in parts]))
    begun: Json = {} if usage is None else {"usage": {**usage, "output_tokens": 1}}
    events: list[Json] = [{"type": "message_start", "message": {**head, **begun}}]
    for index, (start, deltas) in enumerate(blocks):
        events += _anthropic_block(index, start, deltas)
    events.insert(min(2, len(events)), {"type": "ping"})
    made = {} if usage is None else {"usage": {"output_tokens": usage["output_tokens"]}}
    stop = {"stop_reason": _finish(reply, asked), "stop_sequence": None}
    events += [{"type": "message_delta", "delta": stop, **made}, {"type": "message_stop"}]
    return [_event(e["type"], e) for e in events]


def _anthropic_error_body(error: Json, asked: Asked) -> Json:
    return {"type": "error", "error": error, "request_id": f"req_simulated_{asked.number}"}


# --- Gemini


def _gemini_usage(usage: Usage) -> Json:
    given, made, thought = (
        n or 0 for n in (usage.input_tokens, usage.output_tokens, usage.reasoning_tokens)
    )
    counts = {"promptTokenCount": given, "candidatesTokenCount": made - thought}
    if thought:
        counts["thoughtsTokenCount"] = thought
    if usage.cache_read_tokens:
        counts["cachedContentTokenCount"] = usage.cache_read_tokens
    return {**counts, "totalTokenCount": given + made}


def _gemini_body(parts: list[Json], finish: str | None, reply: Reply, asked: Asked) -> Json:
    candidate: Json = {"index": 0}
    if parts or finish is None:
        candidate["content"] = {"parts": parts, "role": "model"}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate], "modelVersion": reply.model or asked.model,
        "responseId": f"simulated-{asked.number}",
    }  # fmt: skip


def _gemini_calls(reply: Reply, asked: Asked) -> list[Json]:
    return [
        {"functionCall": {"name": c.name, "args": _object(c, asked), "id": c.id}}
        for c in reply.tool_calls
    ]


def _gemini_reply(reply: Reply, asked: Asked, usage: Json | None) -> Json:
    parts: list[Json] = [{"text": reply.text}] if reply.text else []
    parts += _gemini_calls(reply, asked)
    body = _gemini_body(parts, _finish(reply, asked), reply, asked)
    return body if usage is None else {**body, "usageMetadata": usage}


def _gemini_events(reply: Reply, asked: Asked, usage: Json | None) -> list[bytes]:
    parts = [{"text": word} for word in words(reply.text)] + _gemini_calls(reply, asked)
    bodies = [_gemini_body([part], None, reply, asked) for part in parts]
    last = [{"text": ""}] if reply.finish in {None, "stop", "tool_calls"} else []
    bodies.append(_gemini_body(last, _finish(reply, asked), reply, asked))
    extra: Json = {} if usage is None else {"usageMetadata": usage}
    return [_data({**body, **extra}) for body in bodies]


def _enveloped(error: Json, _: Asked) -> Json:
    return {"error": error}


def _data_error_event(error: Json, _: int) -> bytes:
    return _data({"error": error})


def _anthropic_error_event(error: Json, _: int) -> bytes:
    return _event("error", {"type": "error", "error": error})


WIRES: dict[Format, Wire] = {
    "openai_chat": Wire(
        reply=_chat_reply, events=_chat_events, usage=_chat_usage,
        error_rows=errors.OPENAI, error=errors.openai_error, error_body=_enveloped,
        error_event=_data_error_event, request_id_header="x-request-id",
    ),
    "openai_responses": Wire(
        reply=_responses_reply, events=_responses_events, usage=_responses_usage,
        error_rows=errors.OPENAI, error=errors.openai_error, error_body=_enveloped,
        error_event=_responses_error_event, request_id_header="x-request-id",
    ),
    "anthropic": Wire(
        reply=_anthropic_reply, events=_anthropic_events, usage=_anthropic_usage,
        error_rows=errors.ANTHROPIC, error=errors.anthropic_error,
        error_body=_anthropic_error_body, error_event=_anthropic_error_event,
        request_id_header="request-id",
    ),
    "gemini": Wire(
        reply=_gemini_reply, events=_gemini_events, usage=_gemini_usage,
        error_rows=errors.GEMINI, error=errors.gemini_error, error_body=_enveloped,
        error_event=_data_error_event, request_id_header=None,
    ),
}  # fmt: skip

_GEMINI_PATH = re.compile(r"/models/([^/:]+):(generateContent|streamGenerateContent)$")
_SUFFIXES: tuple[tuple[str, Format], ...] = (
    ("/chat/completions", "openai_chat"),
    ("/responses", "openai_responses"),
    ("/messages", "anthropic"),
)


def asked_by(target: str, body: Any, *, number: int) -> Asked | None:
    """Return what a request to `target` (path and query) asks for; None: no endpoint we speak."""
    path, _, query = target.partition("?")
    fields = body if isinstance(body, Mapping) else {}
    match = _GEMINI_PATH.search(path)
    if match:
        stream = match[2].startswith("stream")
        if stream and "alt=sse" not in query.split("&"):
            return None
        return Asked(format="gemini", model=match[1], stream=stream, number=number)
    for suffix, name in _SUFFIXES:
        if path.endswith(suffix):
            options = fields.get("stream_options")
            return Asked(
                format=name, model=str(fields.get("model", "simulated-model")), number=number,
                stream=fields.get("stream") is True,
                include_usage=isinstance(options, Mapping) and options.get("include_usage") is True,
            )  # fmt: skip
    return None

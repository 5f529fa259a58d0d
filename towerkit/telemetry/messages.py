"""Kept content as the GenAI conventions spell it: messages of `{role, parts}`.

Rule: what a pack keeps is translated and never added to; a part of no kind known here stays as it
is, as a part. Everything here was redacted before it was kept.

Schemas: gen-ai-input-messages.json and gen-ai-output-messages.json of the conventions. Read are
the chat vocabulary and the wire formats of OpenAI (both), Anthropic and Gemini, as the guard keeps
them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from towerkit.core.canonical import canonical_text
from towerkit.telemetry import names

_ROLES = {"model": "assistant", "developer": "system", "ai": "assistant", "human": "user"}
_SYSTEM = ("system", "instructions", "systemInstruction", "system_instruction")
_TEXTS = frozenset({"text", "input_text", "output_text"})


class Bodies:
    """The content of a pack, by digest."""

    def __init__(self, bodies: Mapping[str, bytes]) -> None:
        """Take the redacted bytes."""
        self._bodies = bodies

    def of(self, digest: str | None) -> Any:
        """Return what stands under a digest: parsed, or as text; None where nothing was kept."""
        body = self._bodies.get(digest or "")
        if body is None:
            return None
        try:
            return msgspec.json.decode(body)
        except (msgspec.MsgspecError, RecursionError):
            return body.decode("utf-8", "backslashreplace")


def model_content(bodies: Bodies, request: str | None, response: str | None) -> dict[str, str]:
    """Return a model call's content as attributes."""
    asked, found = bodies.of(request), {}
    if isinstance(asked, dict):
        listed = asked.get("messages")
        whole = [bodies.of(m) if isinstance(m, str) else m for m in listed or ()]
        if whole:
            found[names.INPUT_MESSAGES] = [message_of(m) for m in whole if m is not None]
        system = next((asked[k] for k in _SYSTEM if asked.get(k)), None)
        if system is not None:
            found[names.SYSTEM_INSTRUCTIONS] = list(_parts(system))
    elif asked is not None:
        found[names.INPUT_MESSAGES] = [{"role": "user", "parts": list(_parts(asked))}]
    answer = bodies.of(response)
    if isinstance(answer, dict) and "pieces" in answer:
        answer = answer.get("response") or {"content": "".join(map(str, answer["pieces"]))}
    if answer is not None:
        listed = answer if isinstance(answer, list) else [answer]
        found[names.OUTPUT_MESSAGES] = [_answer(m) for m in listed]
    return {name: canonical_text(value) for name, value in found.items()}


def tool_content(bodies: Bodies, request: str | None, response: str | None) -> dict[str, str]:
    """Return a tool call's content as attributes."""
    asked, answer = bodies.of(request), bodies.of(response)
    if isinstance(asked, dict) and "arguments" in asked:
        asked = asked["arguments"]
    if isinstance(answer, dict) and "result" in answer:
        answer = answer["result"]
    pairs = ((names.TOOL_ARGUMENTS, asked), (names.TOOL_RESULT, answer))
    return {name: _text(value) for name, value in pairs if value is not None}


def run_content(bodies: Bodies, task: str | None, result: str | None) -> dict[str, str]:
    """Return a run's task and result as attributes."""
    pairs = (
        (names.INPUT_MESSAGES, "user", bodies.of(task)),
        (names.OUTPUT_MESSAGES, "assistant", bodies.of(result)),
    )
    return {
        name: canonical_text([{"role": role, "parts": [_said(_text(value))]}])
        for name, role, value in pairs if value is not None
    }  # fmt: skip


def _text(value: Any) -> str:
    return value if isinstance(value, str) else canonical_text(value)


def _said(text: str) -> dict[str, Any]:
    return {"type": "text", "content": text}


def message_of(message: Any) -> dict[str, Any]:
    """Return one message as the conventions have it."""
    if not isinstance(message, dict):
        return {"role": "user", "parts": list(_parts(message))}
    role = str(message.get("role") or _role_of_item(message))
    role = _ROLES.get(role, role)
    if role == "tool" and "parts" not in message:
        answer = _answered(message.get("tool_call_id"), message.get("content"))
        return {"role": "tool", "parts": [answer]}
    if "role" not in message and "type" in message:  # an item of OpenAI's responses
        return {"role": role, "parts": list(_parts(message))}
    parts = list(_parts(message.get("parts") or message.get("content")))
    parts += [_call(c) for c in message.get("tool_calls") or () if isinstance(c, dict)]
    return {"role": role, "parts": parts}


def _role_of_item(item: Mapping[str, Any]) -> str:
    kind = str(item.get("type", ""))
    if kind.endswith("_output"):
        return "tool"
    return "assistant" if kind in {"function_call", "reasoning"} else "user"


def _answer(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        message = {"content": message}
    made = message_of({"role": "assistant", **message})
    reason = message.get("finish_reason")
    return {**made, "finish_reason": str(reason)} if reason else made


def _parts(content: Any) -> Iterable[dict[str, Any]]:
    """Yield the parts of a message's content."""
    if isinstance(content, dict):
        inside = content.get("parts")
        content = inside if isinstance(inside, list) else [content]
    if isinstance(content, list):
        for item in content:
            yield _part(item)
    elif content not in (None, ""):
        yield _said(_text(content))


def _part(item: Any) -> dict[str, Any]:
    if not isinstance(item, dict):
        return _said(_text(item))
    kind = item.get("type")
    if kind == "text" and "content" in item:
        return item
    if kind in _TEXTS or (kind is None and "text" in item):
        return _said(_text(item.get("text")))
    if kind in {"tool_use", "function_call"} or "functionCall" in item or "function_call" in item:
        return _call(item.get("functionCall") or item.get("function_call") or item)
    if kind in {"tool_result", "function_call_output"}:
        said = item.get("content") if kind == "tool_result" else item.get("output")
        return _answered(item.get("tool_use_id") or item.get("call_id"), said)
    response = item.get("functionResponse") or item.get("function_response")
    if isinstance(response, dict):
        return _answered(response.get("id") or response.get("name"), response.get("response"))
    return item if kind is not None else {"type": "unknown", **item}


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function")
    of: Mapping[str, Any] = function if isinstance(function, dict) else call
    arguments = next((of[k] for k in ("arguments", "input", "args") if k in of), None)
    made = {"type": "tool_call", "name": of.get("name"), "arguments": arguments}
    number = call.get("call_id") or call.get("id")
    return made if number is None else {**made, "id": number}


def _answered(number: Any, response: Any) -> dict[str, Any]:
    made = {"type": "tool_call_response", "response": response}
    return made if number is None else {**made, "id": number}

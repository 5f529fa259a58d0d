"""Anthropic's messages API.

Rule: translates, nothing else. The terminal event of a stream is `message_stop`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec

from towerkit.core.errors import MalformedResponse
from towerkit.core.types import Message, Model, Request, Response, Usage
from towerkit.cost.usage import field
from towerkit.runtime.models import reading
from towerkit.runtime.models.adapter import apieces, pieces, twins, two_clients
from towerkit.runtime.models.reading import get, text, word


def anthropic(
    name: str, *, base_url: str | None = None, client: Any = None, aclient: Any = None
) -> Model:
    """Return a Claude model through the anthropic SDK, which reads `ANTHROPIC_API_KEY`.

    With `client` alone, awaited calls run it in a thread; `aclient` is the asynchronous one.
    """
    sdk, asdk = two_clients("anthropic", ("Anthropic", "AsyncAnthropic"), base_url, client, aclient)

    def messages(of: Any, timeout_s: float) -> Any:
        return of.with_options(max_retries=0, timeout=timeout_s).messages

    def complete(request: Request, timeout_s: float) -> Response:
        return read(messages(sdk, timeout_s).create(**_body(name, request)))

    async def acomplete(request: Request, timeout_s: float) -> Response:
        return read(await messages(asdk, timeout_s).create(**_body(name, request)))

    def stream(request: Request, timeout_s: float) -> Iterator[str | Usage | Response]:
        events = messages(sdk, timeout_s).create(**_body(name, request), stream=True)
        with events:
            yield from pieces(events, Events())

    async def astream(request: Request, timeout_s: float) -> AsyncIterator[str | Usage | Response]:
        events = await messages(asdk, timeout_s).create(**_body(name, request), stream=True)
        async with events:
            async for piece in apieces(events, Events()):
                yield piece

    return twins("anthropic", name, complete, stream, asdk and (acomplete, astream))


def _body(name: str, request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {"model": name, "max_tokens": request.max_tokens}
    system = "\n\n".join(m["content"] for m in request.messages if m["role"] == "system")
    if system:
        body["system"] = system
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.tools:
        body["tools"] = [
            {"name": t["name"], "description": t["description"], "input_schema": t["parameters"]}
            for t in request.tools
        ]
    return body | {"messages": _messages(request.messages)}


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Translate; tool results that follow each other become one user turn, as the API asks."""
    out: list[dict[str, Any]] = []
    for m in messages:
        if m["role"] == "system":
            continue
        if m["role"] == "tool":
            block = {"type": "tool_result", "tool_use_id": m["tool_call_id"],
                     "content": m["content"]}  # fmt: skip
            if out and out[-1]["role"] == "user" and isinstance(out[-1]["content"], list):
                out[-1]["content"].append(block)
            else:
                out.append({"role": "user", "content": [block]})
            continue
        blocks: list[dict[str, Any]] = []
        if m.get("content"):
            blocks.append({"type": "text", "text": m["content"]})
        blocks += [
            {"type": "tool_use", "id": c["id"], "name": c["name"], "input": c["arguments"]}
            for c in m.get("tool_calls", ())
        ]
        out.append({"role": m["role"], "content": blocks})
    return out


def read(answer: Any) -> Response:
    """Return a whole answer; raise `MalformedResponse` when it is none."""
    blocks = get(answer, "content")
    if not isinstance(blocks, list):  # an HTML page behind a 200 comes as a plain `str`
        raise MalformedResponse("expected a message, got an answer without content")
    said = word(get(answer, "stop_reason"))
    response = Response(
        content="".join(text(get(b, "text")) for b in blocks if get(b, "type") == "text"),
        tool_calls=tuple(
            reading.tool_call(get(b, "id"), get(b, "name"), get(b, "input"))
            for b in blocks
            if get(b, "type") == "tool_use"
        ),
        finish_reason=said or "stop",
        usage=reading.usage("anthropic", get(answer, "usage")),
        model=word(get(answer, "model")),
        response_id=word(get(answer, "id")),
    )
    return reading.answered(response, api="a message", said=said)


class _Both(msgspec.Struct, frozen=True):
    """Counts at the start of a stream and at its end, where some servers correct the input too.

    What the start says of the output is only begun.
    """

    start: Any
    end: Any


def _later(of: Any, names: str) -> Any:
    if not isinstance(of, _Both):
        return field(of, names)
    later = field(of.end, names)
    return field(of.start, names) if later is None and names != "output_tokens" else later


class Events:
    """Events of a streamed message."""

    def __init__(self) -> None:
        """Start empty."""
        self._text: list[str] = []
        self._calls: dict[int, list[str]] = {}
        self._finish = "stop"
        self._message: Any = None
        self._end: Any = None
        self.counted: Usage | None = None
        self.final = False

    def feed(self, event: Any) -> str:
        """Take an event."""
        kind, index = get(event, "type"), get(event, "index")
        if kind == "message_start":
            self._message = get(event, "message")
            # What the start says of the output is only begun.
            begun = reading.usage("anthropic", get(self._message, "usage"))
            self.counted = begun and msgspec.structs.replace(begun, output_tokens=None)
        elif kind == "content_block_start" and get(event, "content_block", "type") == "tool_use":
            block = get(event, "content_block")
            if isinstance(index, int):
                self._calls[index] = [text(get(block, "id")), text(get(block, "name")), ""]
        elif kind == "content_block_delta":
            return self._delta(index, get(event, "delta"))
        elif kind == "message_delta":
            self._finish = word(get(event, "delta", "stop_reason")) or self._finish
            self._end = get(event, "usage")
        elif kind == "message_stop":
            self.final = self._message is not None
        return ""

    def _delta(self, index: Any, delta: Any) -> str:
        if get(delta, "type") == "input_json_delta":
            self._calls.get(index, ["", "", ""])[2] += text(get(delta, "partial_json"))
        if get(delta, "type") != "text_delta":
            return ""
        piece = text(get(delta, "text"))
        self._text.append(piece)
        return piece

    def finish(self) -> Response | None:
        """Return the answer once `message_stop` came."""
        if not self.final:
            return None
        return Response(
            content="".join(self._text),
            tool_calls=tuple(reading.tool_call(*self._calls[i]) for i in sorted(self._calls)),
            finish_reason=self._finish,
            usage=reading.usage(
                "anthropic", _Both(get(self._message, "usage"), self._end), get=_later
            ),
            model=word(get(self._message, "model")), response_id=word(get(self._message, "id")),
        )  # fmt: skip

"""OpenAI's responses API.

Rule: translates, nothing else. The terminal event of a stream is `response.completed` or
`response.incomplete`. `response.failed` and `error` are data to the SDK; here they raise
`AnswerFailed`, which carries the provider's error object. Nothing is kept at the provider
(`store` is off): the whole conversation is sent each time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from towerkit.core.canonical import canonical_text
from towerkit.core.errors import AnswerFailed, MalformedResponse
from towerkit.core.types import Message, Model, Request, Response, Usage
from towerkit.runtime.models import reading
from towerkit.runtime.models.adapter import apieces, pieces, twins, two_clients
from towerkit.runtime.models.reading import get, rows, text, word


def openai_responses(
    name: str, *, base_url: str | None = None, client: Any = None, aclient: Any = None
) -> Model:
    """Return a model of OpenAI's responses API, through the openai SDK.

    Clients and environment are as with `openai`. A finish reason is the word of
    `incomplete_details` or, of an answer that is complete, "completed".
    """
    sdk, asdk = two_clients("openai", ("OpenAI", "AsyncOpenAI"), base_url, client, aclient)

    def responses(of: Any, timeout_s: float) -> Any:
        return of.with_options(max_retries=0, timeout=timeout_s).responses

    def complete(request: Request, timeout_s: float) -> Response:
        return read(responses(sdk, timeout_s).create(**_body(name, request)))

    async def acomplete(request: Request, timeout_s: float) -> Response:
        return read(await responses(asdk, timeout_s).create(**_body(name, request)))

    def stream(request: Request, timeout_s: float) -> Iterator[str | Usage | Response]:
        events = responses(sdk, timeout_s).create(**_body(name, request), stream=True)
        with events:
            yield from pieces(events, Events())

    async def astream(request: Request, timeout_s: float) -> AsyncIterator[str | Usage | Response]:
        events = await responses(asdk, timeout_s).create(**_body(name, request), stream=True)
        async with events:
            async for piece in apieces(events, Events()):
                yield piece

    return twins("openai", name, complete, stream, asdk and (acomplete, astream))


def _body(name: str, request: Request) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": name, "input": _input(request.messages), "max_output_tokens": request.max_tokens,
        "store": False,
    }  # fmt: skip
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.tools:
        # Strict is this API's default, and would refuse a schema with an optional property.
        body["tools"] = [{"type": "function", "strict": False, **t} for t in request.tools]
    return body


def _input(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Translate: calls and their results are items of their own beside the messages."""
    items: list[dict[str, Any]] = []
    for m in messages:
        if m["role"] == "tool":
            items.append({"type": "function_call_output", "call_id": m["tool_call_id"],
                          "output": m["content"]})  # fmt: skip
            continue
        if m.get("content"):
            items.append({"role": m["role"], "content": m["content"]})
        items += [
            {"type": "function_call", "call_id": c["id"], "name": c["name"],
             "arguments": canonical_text(c["arguments"])}
            for c in m.get("tool_calls", ())
        ]  # fmt: skip
    return items


def read(answer: Any) -> Response:
    """Return a whole answer; raise `MalformedResponse` when it is none, `AnswerFailed` if failed.

    An answer that is still being made in the background is none.
    """
    if word(get(answer, "status")) == "failed":
        raise failed(get(answer, "error"))
    items = rows(get(answer, "output"))
    if not items and word(get(answer, "status")) not in _ENDED:
        raise MalformedResponse("expected a response, got an answer without output")
    return _response(answer, items)


_ENDED = frozenset({"completed", "incomplete"})


def failed(error: Any) -> AnswerFailed:
    """Return what to raise for the provider's error object, an event or a field of an answer."""
    body = {name: said for name in ("code", "type", "message", "param")
            if (said := word(get(error, name))) and said != "error"}  # fmt: skip
    says = body.get("message") or body.get("code") or "no reason given"
    return AnswerFailed(f"the provider answered 200 and then failed: {says}", body=body)


def _response(answer: Any, items: list[Any], *, streamed: str = "") -> Response:
    parts = [p for i in items if get(i, "type") == "message" for p in rows(get(i, "content"))]
    refusal = "".join(text(get(p, "refusal")) for p in parts)
    said = word(get(answer, "incomplete_details", "reason")) or word(get(answer, "status"))
    response = Response(
        content=streamed or "".join(text(get(p, "text")) for p in parts) or refusal,
        tool_calls=tuple(
            reading.tool_call(get(i, "call_id"), get(i, "name"), get(i, "arguments"))
            for i in items
            if get(i, "type") == "function_call"
        ),
        finish_reason="refusal" if refusal else said or "stop",
        usage=reading.usage("responses", get(answer, "usage")),
        model=word(get(answer, "model")),
        response_id=word(get(answer, "id")),
    )
    return reading.answered(response, api="a response", said=said)


class Events:
    """Events of a streamed response. Its terminal event holds the whole of it once more."""

    def __init__(self) -> None:
        """Start empty."""
        self._text: list[str] = []
        self._items: list[Any] = []
        self._response: Any = None
        self.final = False

    counted = None  # it is all at the end

    def feed(self, event: Any) -> str:
        """Take an event; raise `AnswerFailed` where it tells a failure."""
        kind = get(event, "type")
        if kind in {"response.output_text.delta", "response.refusal.delta"}:
            piece = text(get(event, "delta"))
            self._text.append(piece)
            return piece
        if kind == "response.output_item.done":
            self._items.append(get(event, "item"))
        elif kind in {"response.completed", "response.incomplete"}:
            self._response, self.final = get(event, "response"), True
        elif kind == "response.failed":
            raise failed(get(event, "response", "error"))
        elif kind == "error":
            raise failed(event)
        return ""

    def finish(self) -> Response | None:
        """Return the answer once its terminal event came."""
        if not self.final:
            return None
        items = rows(get(self._response, "output")) or self._items
        return _response(self._response, items, streamed="".join(self._text))

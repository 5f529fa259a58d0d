"""OpenAI's chat completions, which most other servers speak too.

Rule: translates, nothing else. The terminal event of a stream is the chunk with a `finish_reason`;
the usage asked for comes in a chunk of its own after it, and ends the answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from towerkit.core.canonical import canonical_text
from towerkit.core.errors import MalformedResponse
from towerkit.core.types import Message, Model, Request, Response, Usage
from towerkit.runtime.models import reading
from towerkit.runtime.models.adapter import apieces, pieces, twins, two_clients
from towerkit.runtime.models.reading import get, rows, text, word


def openai(
    name: str, *, base_url: str | None = None, client: Any = None, aclient: Any = None
) -> Model:
    """Return a chat model of any OpenAI-compatible endpoint, through the openai SDK.

    Without clients of yours, the SDK reads `OPENAI_API_KEY` and `OPENAI_BASE_URL`. With `client`
    alone, awaited calls run it in a thread; `aclient` is the asynchronous one.
    """
    sdk, asdk = two_clients("openai", ("OpenAI", "AsyncOpenAI"), base_url, client, aclient)

    def body(request: Request, *, stream: bool = False) -> dict[str, Any]:
        # `max_tokens` is the name that compatible servers know.
        own = "api.openai.com" in str(sdk.base_url)
        return _body(name, request, "max_completion_tokens" if own else "max_tokens", stream=stream)

    def chat(of: Any, timeout_s: float) -> Any:
        return of.with_options(max_retries=0, timeout=timeout_s).chat.completions

    def complete(request: Request, timeout_s: float) -> Response:
        return read(chat(sdk, timeout_s).create(**body(request)))

    async def acomplete(request: Request, timeout_s: float) -> Response:
        return read(await chat(asdk, timeout_s).create(**body(request)))

    def stream(request: Request, timeout_s: float) -> Iterator[str | Usage | Response]:
        events = chat(sdk, timeout_s).create(**body(request, stream=True))
        with events:
            yield from pieces(events, Chunks())

    async def astream(request: Request, timeout_s: float) -> AsyncIterator[str | Usage | Response]:
        events = await chat(asdk, timeout_s).create(**body(request, stream=True))
        async with events:
            async for piece in apieces(events, Chunks()):
                yield piece

    return twins("openai", name, complete, stream, asdk and (acomplete, astream))


def _body(name: str, request: Request, limit: str, *, stream: bool) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": name, "messages": [_message(m) for m in request.messages],
        limit: request.max_tokens,
    }  # fmt: skip
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.tools:
        body["tools"] = [{"type": "function", "function": dict(t)} for t in request.tools]
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


def _message(message: Message) -> dict[str, Any]:
    out = {k: message[k] for k in ("role", "content", "name", "tool_call_id") if k in message}
    if message.get("tool_calls"):
        out["tool_calls"] = [
            {"id": c["id"], "type": "function",
             "function": {"name": c["name"], "arguments": canonical_text(c["arguments"])}}
            for c in message["tool_calls"]
        ]  # fmt: skip
    return out


def read(answer: Any) -> Response:
    """Return a whole answer; raise `MalformedResponse` when it is none."""
    choices = rows(get(answer, "choices"))
    message = get(choices[0], "message") if choices else None
    if message is None:  # an HTML page behind a 200 comes as a plain `str`
        raise MalformedResponse("expected a chat completion, got an answer without a choice")
    refusal, said = text(get(message, "refusal")), word(get(choices[0], "finish_reason"))
    response = Response(
        content=text(get(message, "content")) or refusal,
        tool_calls=tuple(
            reading.tool_call(get(c, "id"), get(c, "function", "name"),
                              get(c, "function", "arguments"))
            for c in rows(get(message, "tool_calls")) if get(c, "function") is not None
        ),
        finish_reason="refusal" if refusal else said or "stop",
        usage=reading.usage("chat", get(answer, "usage")), model=word(get(answer, "model")),
        response_id=word(get(answer, "id")),
    )  # fmt: skip
    return reading.answered(response, api="a chat completion", said=said)


class Chunks:
    """Chat completion chunks."""

    def __init__(self) -> None:
        """Start empty."""
        self._text: list[str] = []
        self._calls: dict[int, list[str]] = {}
        self._finish: str | None = None
        self._refused = False
        self._model: str | None = None
        self._id: str | None = None
        self.counted: Usage | None = None
        self.final = False

    def feed(self, event: Any) -> str:
        """Take a chunk."""
        self._model = word(get(event, "model")) or self._model
        self._id = word(get(event, "id")) or self._id
        self.counted = reading.usage("chat", get(event, "usage")) or self.counted
        choices = rows(get(event, "choices"))
        if not choices:  # the chunk of the usage, when it follows the finish reason, is the last
            self.final = self._finish is not None and get(event, "usage") is not None
            return ""
        self._finish = word(get(choices[0], "finish_reason")) or self._finish
        delta = get(choices[0], "delta")
        for part in rows(get(delta, "tool_calls")):
            self._part(part)
        refusal = text(get(delta, "refusal"))
        self._refused = self._refused or bool(refusal)
        piece = text(get(delta, "content")) or refusal
        self._text.append(piece)
        return piece

    def _part(self, part: Any) -> None:
        index = get(part, "index")
        if not isinstance(index, int):  # some servers send each call whole, without a number
            index = len(self._calls)
        call = self._calls.setdefault(index, ["", "", ""])
        call[0] = text(get(part, "id")) or call[0]
        call[1] += text(get(part, "function", "name"))
        call[2] += text(get(part, "function", "arguments"))

    def finish(self) -> Response | None:
        """Return the answer once a finish reason came."""
        if self._finish is None:
            return None
        return Response(
            content="".join(self._text),
            tool_calls=tuple(reading.tool_call(*self._calls[i]) for i in sorted(self._calls)),
            finish_reason="refusal" if self._refused else self._finish, usage=self.counted,
            model=self._model, response_id=self._id,
        )  # fmt: skip

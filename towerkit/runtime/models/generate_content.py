"""Google's Gemini API, through the google-genai SDK.

Rule: translates, nothing else. What the SDK would do by itself is off: retries (of its transport
too), calling functions, continuing an answer. A stream is whole when it ended in good order and a
chunk had a finish reason or said that the prompt is blocked; no event says that it is the last.
"""

from __future__ import annotations

import math
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, closing, contextmanager
from typing import Any

from towerkit.core.errors import MalformedResponse
from towerkit.core.types import Message, Model, Request, Response, ToolCall, Usage
from towerkit.runtime.models import reading
from towerkit.runtime.models.adapter import apieces, make_client, pieces, twins
from towerkit.runtime.models.reading import get, rows, text, word

ONE_ATTEMPT = {"attempts": 1}  # absent, the SDK's asynchronous transport retries once by itself


def gemini(name: str, *, base_url: str | None = None, client: Any = None) -> Model:
    """Return a Gemini model through the google-genai SDK, which is installed apart.

    Without a client of yours, the SDK reads `GEMINI_API_KEY` or `GOOGLE_API_KEY`. One client has
    both sides: `client.models`, and `client.aio.models` for awaited calls.
    """
    options = {"retry_options": ONE_ATTEMPT, **({"base_url": base_url} if base_url else {})}
    sdk = client or make_client(
        "google.genai", "Client", package="google-genai", http_options=options
    )
    ask = _asker(name, signatures := Signatures())

    def complete(request: Request, timeout_s: float) -> Response:
        asked, generate = ask(request, timeout_s), sdk.models.generate_content
        with _readable():
            answer = generate(**asked)
        return read(answer, signatures)

    async def acomplete(request: Request, timeout_s: float) -> Response:
        asked, generate = ask(request, timeout_s), sdk.aio.models.generate_content
        with _readable():
            answer = await generate(**asked)
        return read(answer, signatures)

    def stream(request: Request, timeout_s: float) -> Iterator[str | Usage | Response]:
        with closing(sdk.models.generate_content_stream(**ask(request, timeout_s))) as chunks:
            yield from pieces(_chunks(chunks), Chunks(signatures))

    async def astream(request: Request, timeout_s: float) -> AsyncIterator[str | Usage | Response]:  # noqa: ARG001  the SDK's would be one for the whole stream; the guard's is one a piece
        chunks = await sdk.aio.models.generate_content_stream(**ask(request, None))
        async with aclosing(chunks):
            async for piece in apieces(_achunks(chunks), Chunks(signatures)):
                yield piece

    return twins("gcp.gemini", name.removeprefix("models/"), complete, stream, (acomplete, astream))


class Signatures:
    """Signatures of the thoughts behind tool calls: the API demands them back with its own calls.

    The chat vocabulary has no place for it, so it is remembered by the id of the call, the last
    `LIMIT` of them. A call that came from elsewhere has none; the models that insist on one (the
    third generation and later) take a word of Google's instead.
    """

    LIMIT = 1000
    NONE = b"skip_thought_signature_validator"

    def __init__(self) -> None:
        """Start empty."""
        self._by_id: dict[str, bytes] = {}

    def keep(self, call_id: str, signature: Any) -> None:
        """Remember the signature that came with a call, where one came."""
        if isinstance(signature, bytes) and signature:
            self._by_id[call_id] = signature
            for old in list(self._by_id)[: -self.LIMIT]:
                self._by_id.pop(old, None)

    def of(self, call_id: str, *, model: str, first: bool) -> bytes | None:
        """Return what to send with a call; only the first of a turn must have one."""
        generation = re.search(r"gemini-(\d+)", model)
        insists = first and generation is not None and int(generation[1]) >= 3
        return self._by_id.get(call_id, self.NONE if insists else None)


def _asker(name: str, signatures: Signatures) -> Callable[[Request, float | None], dict[str, Any]]:
    """Return the function that makes the SDK's arguments, typed: what fails later is the answer."""

    def ask(request: Request, timeout_s: float | None) -> dict[str, Any]:
        from google.genai import types  # noqa: PLC0415  loaded when the client was made

        http = {"retry_options": ONE_ATTEMPT}
        if timeout_s is not None:
            http["timeout"] = math.ceil(timeout_s * 1000)  # type: ignore[assignment]
        config: dict[str, Any] = {
            "http_options": http, "max_output_tokens": request.max_tokens,
            "automatic_function_calling": {"disable": True},
        }  # fmt: skip
        if "automatic_continuation" in types.GenerateContentConfig.model_fields:
            config["automatic_continuation"] = False
        system = "\n\n".join(m["content"] for m in request.messages if m["role"] == "system")
        if system:
            config["system_instruction"] = system
        if request.temperature is not None:
            config["temperature"] = request.temperature
        if request.tools:
            config["tools"] = [{"function_declarations": [
                {"name": t["name"], "description": t["description"],
                 "parameters_json_schema": t["parameters"]} for t in request.tools
            ]}]  # fmt: skip
        contents = _contents(request.messages, name, signatures)
        return {
            "model": name, "config": types.GenerateContentConfig.model_validate(config),
            "contents": [types.Content.model_validate(c) for c in contents],
        }  # fmt: skip

    return ask


def _contents(
    messages: Sequence[Message], model: str, signatures: Signatures
) -> list[dict[str, Any]]:
    """Translate; tool results that follow each other become one user turn, and carry the name."""
    out: list[dict[str, Any]] = []
    names: dict[str, str] = {}
    results = False
    for m in messages:
        if m["role"] == "system":
            continue
        if m["role"] == "tool":
            call_id = m["tool_call_id"]
            part = {"function_response": {"id": call_id, "name": names.get(call_id, call_id),
                                          "response": {"result": m["content"]}}}  # fmt: skip
            if results:
                out[-1]["parts"].append(part)
            else:
                out.append({"role": "user", "parts": [part]})
            results = True
            continue
        results = False
        parts: list[dict[str, Any]] = [{"text": m["content"]}] if m.get("content") else []
        for index, c in enumerate(m.get("tool_calls", ())):
            names[c["id"]] = c["name"]
            call = {"id": c["id"], "name": c["name"], "args": c["arguments"]}
            signature = signatures.of(c["id"], model=model, first=index == 0)
            parts.append({"function_call": call, "thought_signature": signature})
        out.append({"role": "model" if m["role"] == "assistant" else "user", "parts": parts})
    return out


@contextmanager
def _readable() -> Iterator[None]:
    """Say `MalformedResponse` where the SDK breaks on an answer: it does not expect every shape."""
    from pydantic import ValidationError  # noqa: PLC0415  the SDK's own dependency

    try:
        yield
    except (AttributeError, KeyError, TypeError, ValidationError) as error:
        raise MalformedResponse(
            f"expected a Gemini answer, got one the SDK cannot read ({type(error).__name__})"
        ) from error


def _chunks(chunks: Iterator[Any]) -> Iterator[Any]:
    while True:
        with _readable():
            chunk = next(chunks, None)
        if chunk is None:
            return
        yield chunk


async def _achunks(chunks: AsyncIterator[Any]) -> AsyncIterator[Any]:
    while True:
        with _readable():
            chunk = await anext(chunks, None)
        if chunk is None:
            return
        yield chunk


def read(answer: Any, signatures: Signatures) -> Response:
    """Return a whole answer; raise `MalformedResponse` when it is none."""
    chunks = Chunks(signatures)
    chunks.feed(answer)
    response = chunks.finish()
    if response is None and not chunks.said_something:
        raise MalformedResponse("expected a Gemini answer, got one without a candidate")
    return response or chunks.so_far()


class Chunks:
    """Chunks of an answer; a whole one is one chunk."""

    final = False  # a chunk with a finish reason need not be the last

    def __init__(self, signatures: Signatures) -> None:
        """Start empty."""
        self._signatures = signatures
        self._text: list[str] = []
        self._calls: list[ToolCall] = []
        self._finish: str | None = None
        self.counted: Usage | None = None
        self._model: str | None = None
        self._id: str | None = None

    @property
    def said_something(self) -> bool:
        """Whether there is a text or a tool call."""
        return bool(self._calls) or any(self._text)

    def feed(self, event: Any) -> str:
        """Take a chunk. Thoughts are no part of the answer."""
        self._model = word(get(event, "model_version")) or self._model
        self._id = word(get(event, "response_id")) or self._id
        self.counted = reading.usage("gemini", get(event, "usage_metadata")) or self.counted
        candidates = rows(get(event, "candidates"))
        blocked = word(get(event, "prompt_feedback", "block_reason"))
        if not candidates:
            self._finish = blocked or self._finish
            return ""
        self._finish = word(get(candidates[0], "finish_reason")) or self._finish
        parts = rows(get(candidates[0], "content", "parts"))
        for part in parts:
            self._call(part)
        piece = "".join(text(get(p, "text")) for p in parts if not get(p, "thought"))
        self._text.append(piece)
        return piece

    def _call(self, part: Any) -> None:
        call = get(part, "function_call")
        if call is None:
            return
        # An id of our own where the API gave none: it has to tell calls apart within a run.
        call_id = word(get(call, "id")) or f"{self._id or 'call'}-{len(self._calls)}"
        self._signatures.keep(call_id, get(part, "thought_signature"))
        self._calls.append(reading.tool_call(call_id, get(call, "name"), get(call, "args") or {}))

    def finish(self) -> Response | None:
        """Return the answer once a finish reason came, or that the prompt is blocked."""
        return None if self._finish is None else self.so_far()

    def so_far(self) -> Response:
        """Return what has come."""
        return Response(
            content="".join(self._text), tool_calls=tuple(self._calls),
            finish_reason=self._finish or "stop", usage=self.counted, model=self._model,
            response_id=self._id,
        )  # fmt: skip

"""Models: one function a provider, each returning a tier of a fallback chain.

Rule: an adapter translates and does nothing else. SDK retries are off: the guard is the one retry
owner. SDKs are imported when a model of theirs is made.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from towerkit.core.canonical import canonical_text
from towerkit.core.errors import MalformedResponse, UsageError
from towerkit.core.types import Message, Model, Request, Response, ToolCall
from towerkit.runtime.stand_ins import cache, human, template
from towerkit.runtime.streams import (
    AnthropicMessages,
    OpenAIChat,
    anthropic_usage,
    apieces,
    openai_usage,
    pieces,
)
from towerkit.runtime.tool_calls import parse_tool_call


def function(
    fn: Callable[[Request], Response | str], *, name: str = "function", provider: str = "local",
    simulated: bool = False,
) -> Model:  # fmt: skip
    """Return a model that is a plain function of the request; it may return text or a Response."""

    def complete(request: Request, timeout_s: float) -> Response:  # noqa: ARG001  the guard bounds it
        answer = fn(request)
        return Response(content=answer) if isinstance(answer, str) else answer

    return Model(name=name, provider=provider, complete=complete, simulated=simulated)


def openai(  # noqa: C901  four twins of one call
    name: str, *, base_url: str | None = None, client: Any = None, aclient: Any = None
) -> Model:
    """Return a chat model of any OpenAI-compatible endpoint, through the openai SDK.

    Without clients of yours, the SDK reads `OPENAI_API_KEY` and `OPENAI_BASE_URL`. With `client`
    alone, awaited calls run it in a thread; `aclient` is the asynchronous one.
    """
    sdk = client or _client("openai", "OpenAI", base_url)
    asdk = aclient or (None if client else _client("openai", "AsyncOpenAI", base_url))

    def body(request: Request, *, stream: bool = False) -> dict[str, Any]:
        options: dict[str, Any] = {"max_completion_tokens": request.max_tokens}
        if "api.openai.com" not in str(sdk.base_url):
            options = {"max_tokens": request.max_tokens}  # the name compatible servers know
        if request.temperature is not None:
            options["temperature"] = request.temperature
        if request.tools:
            options["tools"] = [{"type": "function", "function": dict(t)} for t in request.tools]
        if stream:
            options |= {"stream": True, "stream_options": {"include_usage": True}}
        return {"model": name, "messages": [_openai_message(m) for m in request.messages]} | options

    def chat(of: Any, timeout_s: float) -> Any:
        return of.with_options(max_retries=0, timeout=timeout_s).chat.completions

    def complete(request: Request, timeout_s: float) -> Response:
        return _from_openai(chat(sdk, timeout_s).create(**body(request)))

    async def acomplete(request: Request, timeout_s: float) -> Response:
        return _from_openai(await chat(asdk, timeout_s).create(**body(request)))

    def stream(request: Request, timeout_s: float) -> Iterator[str | Response]:
        events = chat(sdk, timeout_s).create(**body(request, stream=True))
        with events:
            yield from pieces(events, OpenAIChat())

    async def astream(request: Request, timeout_s: float) -> AsyncIterator[str | Response]:
        events = await chat(asdk, timeout_s).create(**body(request, stream=True))
        async with events:
            async for piece in apieces(events, OpenAIChat()):
                yield piece

    return _twins("openai", name, complete, stream, (acomplete, astream) if asdk else (None, None))


def _twins(provider: str, name: str, complete: Any, stream: Any, awaited: Any) -> Model:
    return Model(
        name=name, provider=provider, complete=complete, stream=stream, acomplete=awaited[0],
        astream=awaited[1],
    )  # fmt: skip


def _client(module: str, name: str, base_url: str | None) -> Any:
    import importlib  # noqa: PLC0415

    try:
        factory = getattr(importlib.import_module(module), name)
        return factory(max_retries=0, **({"base_url": base_url} if base_url else {}))
    except ImportError:
        raise UsageError(f"this model needs the {module} package: pip install {module}") from None
    except Exception as error:
        raise UsageError(f"cannot make the {module} client: {error}") from error


def _openai_message(message: Message) -> dict[str, Any]:
    out = {k: message[k] for k in ("role", "content", "name", "tool_call_id") if k in message}
    if message.get("tool_calls"):
        out["tool_calls"] = [
            {"id": c["id"], "type": "function",
             "function": {"name": c["name"], "arguments": canonical_text(c["arguments"])}}
            for c in message["tool_calls"]
        ]  # fmt: skip
    return out


def _from_openai(answer: Any) -> Response:
    if not getattr(answer, "choices", None):  # an HTML page behind a 200 comes as a plain `str`
        raise MalformedResponse("expected a chat completion, got an answer without a choice")
    choice = answer.choices[0]
    calls = tuple(
        parse_tool_call(c.id, c.function.name, c.function.arguments)
        for c in choice.message.tool_calls or ()
        if c.type == "function"
    )
    return Response(
        content=choice.message.content or "", tool_calls=calls,
        finish_reason=choice.finish_reason or "stop",
        usage=None if answer.usage is None else openai_usage(answer.usage), model=answer.model,
        response_id=answer.id,
    )  # fmt: skip


def anthropic(  # noqa: C901  four twins of one call
    name: str, *, base_url: str | None = None, client: Any = None, aclient: Any = None
) -> Model:
    """Return a Claude model through the anthropic SDK, which reads `ANTHROPIC_API_KEY`."""
    sdk = client or _client("anthropic", "Anthropic", base_url)
    asdk = aclient or (None if client else _client("anthropic", "AsyncAnthropic", base_url))

    def body(request: Request) -> dict[str, Any]:
        options: dict[str, Any] = {"model": name, "max_tokens": request.max_tokens}
        system = "\n\n".join(m["content"] for m in request.messages if m["role"] == "system")
        if system:
            options["system"] = system
        if request.temperature is not None:
            options["temperature"] = request.temperature
        if request.tools:
            options["tools"] = [
                {"name": t["name"], "description": t["description"],
                 "input_schema": t["parameters"]} for t in request.tools
            ]  # fmt: skip
        return options | {"messages": _anthropic_messages(request.messages)}

    def messages(of: Any, timeout_s: float) -> Any:
        return of.with_options(max_retries=0, timeout=timeout_s).messages

    def complete(request: Request, timeout_s: float) -> Response:
        return _from_anthropic(messages(sdk, timeout_s).create(**body(request)))

    async def acomplete(request: Request, timeout_s: float) -> Response:
        return _from_anthropic(await messages(asdk, timeout_s).create(**body(request)))

    def stream(request: Request, timeout_s: float) -> Iterator[str | Response]:
        events = messages(sdk, timeout_s).create(**body(request), stream=True)
        with events:
            yield from pieces(events, AnthropicMessages())

    async def astream(request: Request, timeout_s: float) -> AsyncIterator[str | Response]:
        events = await messages(asdk, timeout_s).create(**body(request), stream=True)
        async with events:
            async for piece in apieces(events, AnthropicMessages()):
                yield piece

    return _twins(
        "anthropic", name, complete, stream, (acomplete, astream) if asdk else (None, None)
    )


def _anthropic_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
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


def _from_anthropic(answer: Any) -> Response:
    if not hasattr(answer, "content"):
        raise MalformedResponse("expected a message, got an answer without content")
    return Response(
        content="".join(b.text for b in answer.content if b.type == "text"),
        tool_calls=tuple(
            ToolCall(id=b.id, name=b.name, arguments=dict(b.input))
            for b in answer.content
            if b.type == "tool_use"
        ),
        finish_reason=answer.stop_reason or "stop",
        usage=anthropic_usage(answer.usage),
        model=answer.model,
        response_id=answer.id,
    )


__all__ = ["anthropic", "cache", "function", "human", "openai", "parse_model", "template"]

PROVIDERS: dict[str, Callable[..., Model]] = {"openai": openai, "anthropic": anthropic}


def parse_model(text: str) -> Model:
    """Return the model a command line names: `openai:NAME[@BASE_URL]` or `anthropic:NAME`."""
    provider, found, rest = text.partition(":")
    name, _, base_url = rest.partition("@")
    if not found or not name or provider not in PROVIDERS:
        raise UsageError(
            f"expected a model as simulated, openai:NAME, openai:NAME@BASE_URL or anthropic:NAME, "
            f"got {text!r}"
        )
    return PROVIDERS[provider](name, base_url=base_url or None)

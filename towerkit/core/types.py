"""Requests, responses and usage in one shape for every provider.

Messages are dictionaries in the chat vocabulary (`role`, `content`, `tool_calls`, `tool_call_id`):
what agents already hold. Everything that leaves the guard is a frozen struct.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

Message = Mapping[str, Any]


# Begins the attributes of a span that hold the classes of `Usage.details`: the table of charges has
# columns for the other five.
DETAIL = "towerkit.usage."


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts as the provider reports them. Unknown is None, never 0.

    `input_tokens` includes cached tokens and `output_tokens` includes reasoning tokens, as in the
    OpenTelemetry GenAI conventions. `details` are counts of further classes that have a price of
    their own, by the names of `cost.usage.TokenUsage`; without any, it is not stored.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None
    details: dict[str, int] | msgspec.UnsetType = msgspec.UNSET


class ToolCall(msgspec.Struct, frozen=True):
    """One tool call a model asked for. `arguments` is parsed; unparsable text is kept in `raw`."""

    id: str
    name: str
    arguments: dict[str, Any]
    raw: str | None = None


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What one model call sends, whichever provider answers."""

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    max_tokens: int = 1024
    temperature: float | None = None


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """What one model call returned.

    `tier` 0 is the first model of the chain; `fallback_reason` says why a later one answered.
    """

    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    usage: Usage | None = None
    model: str | None = None
    provider: str | None = None
    response_id: str | None = None
    tier: int = 0
    fallback_reason: str | None = None

    def as_message(self) -> dict[str, Any]:
        """Return the assistant message to append to the conversation."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [
                {"id": c.id, "name": c.name, "arguments": c.arguments} for c in self.tool_calls
            ]
        return message


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """One tier of a fallback chain: a name, whose it is, and how to call it.

    `complete(request, timeout_s)` returns a `Response` or raises what the SDK raises; it does not
    retry. `acomplete` is its asyncio twin; without one, `complete` runs in a thread. `stream`
    and `astream` yield pieces of text and, last, the `Response`: a stream that ends without one was
    truncated; a `Usage` between them is what the provider has counted so far. `simulated` marks a
    model that is not a language model: every number that comes from it says so.

    `context_tokens` is the model's window: after "too long" only a larger one is tried. `renew`
    gets a fresh credential and raises when it cannot; it is called once a call when the key is
    refused. `observe` is told every request of the chain that was answered well, and the answer.
    """

    name: str
    provider: str
    complete: Callable[[Request, float], Response]
    acomplete: Callable[[Request, float], Awaitable[Response]] | None = None
    stream: Callable[[Request, float], Iterator[str | Usage | Response]] | None = None
    astream: Callable[[Request, float], AsyncIterator[str | Usage | Response]] | None = None
    simulated: bool = False
    context_tokens: int | None = None
    renew: Callable[[], object] | None = None
    observe: Callable[[Request, Response], None] | None = None

"""Putting streamed answers together: one accumulator a wire format.

Rule: an accumulator is fed events and says which text is new; `finish` returns the whole answer, or
None when the terminal event never came. It trusts the terminal event, not the end of the loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from towerkit.core.types import Response, ToolCall, Usage
from towerkit.runtime.tool_calls import parse_tool_call


class Accumulator(Protocol):
    """Collects one streamed answer."""

    def feed(self, event: Any) -> str:
        """Take an event and return the new text in it, often none."""

    def finish(self) -> Response | None:
        """Return the answer; None when the terminal event never came."""


def pieces(events: Iterator[Any], into: Accumulator) -> Iterator[str | Response]:
    """Yield the text of a stream's events and, last, the answer if it is whole."""
    for event in events:
        text = into.feed(event)
        if text:
            yield text
    answer = into.finish()
    if answer is not None:
        yield answer


async def apieces(events: AsyncIterator[Any], into: Accumulator) -> AsyncIterator[str | Response]:
    """Do what `pieces` does, awaiting."""
    async for event in events:
        text = into.feed(event)
        if text:
            yield text
    answer = into.finish()
    if answer is not None:
        yield answer


class OpenAIChat:
    """Chat completion chunks. The terminal event is the chunk with a `finish_reason`."""

    def __init__(self) -> None:
        """Start empty."""
        self._text: list[str] = []
        self._calls: dict[int, list[str]] = {}
        self._finish: str | None = None
        self._model: str | None = None
        self._id: str | None = None
        self._usage: Usage | None = None

    def feed(self, event: Any) -> str:
        """Take a chunk."""
        self._model, self._id = event.model or self._model, event.id or self._id
        if event.usage is not None:
            self._usage = openai_usage(event.usage)
        if not event.choices:
            return ""
        choice = event.choices[0]
        self._finish = choice.finish_reason or self._finish
        for part in choice.delta.tool_calls or ():
            call = self._calls.setdefault(part.index, ["", "", ""])
            call[0] = part.id or call[0]
            if part.function is not None:
                call[1] += part.function.name or ""
                call[2] += part.function.arguments or ""
        text = choice.delta.content or ""
        self._text.append(text)
        return text

    def finish(self) -> Response | None:
        """Return the answer once a finish reason came."""
        if self._finish is None:
            return None
        calls = tuple(parse_tool_call(*self._calls[i]) for i in sorted(self._calls))
        return Response(
            content="".join(self._text), tool_calls=calls, finish_reason=self._finish,
            usage=self._usage, model=self._model, response_id=self._id,
        )  # fmt: skip


def openai_usage(usage: Any) -> Usage:
    """Return the usage of a chat completion; cached and reasoning tokens are parts of the sums."""
    return Usage(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cache_read_tokens=getattr(usage.prompt_tokens_details, "cached_tokens", None),
        reasoning_tokens=getattr(usage.completion_tokens_details, "reasoning_tokens", None),
    )


class AnthropicMessages:
    """Events of the messages API. The terminal event is `message_stop`."""

    def __init__(self) -> None:
        """Start empty."""
        self._text: list[str] = []
        self._calls: dict[int, list[str]] = {}
        self._stopped = False
        self._finish = "stop"
        self._message: Any = None
        self._output: int | None = None

    def feed(self, event: Any) -> str:
        """Take an event."""
        if event.type == "message_start":
            self._message = event.message
            self._output = event.message.usage.output_tokens
        elif event.type == "content_block_start" and event.content_block.type == "tool_use":
            self._calls[event.index] = [event.content_block.id, event.content_block.name, ""]
        elif event.type == "content_block_delta":
            return self._delta(event.index, event.delta)
        elif event.type == "message_delta":
            self._finish = event.delta.stop_reason or self._finish
            self._output = event.usage.output_tokens
        elif event.type == "message_stop":
            self._stopped = True
        return ""

    def _delta(self, index: int, delta: Any) -> str:
        if delta.type == "input_json_delta" and index in self._calls:
            self._calls[index][2] += delta.partial_json
        if delta.type != "text_delta":
            return ""
        self._text.append(delta.text)
        return str(delta.text)

    def finish(self) -> Response | None:
        """Return the answer once `message_stop` came."""
        if not self._stopped or self._message is None:
            return None
        calls: tuple[ToolCall, ...] = tuple(
            parse_tool_call(*self._calls[i]) for i in sorted(self._calls)
        )
        return Response(
            content="".join(self._text), tool_calls=calls, finish_reason=self._finish,
            usage=anthropic_usage(self._message.usage, output=self._output),
            model=self._message.model, response_id=self._message.id,
        )  # fmt: skip


def anthropic_usage(usage: Any, *, output: int | None = None) -> Usage:
    """Return the usage of a message. The API counts cached tokens apart; here input has them in."""
    read, written = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    return Usage(
        input_tokens=usage.input_tokens + read + written,
        output_tokens=usage.output_tokens if output is None else output,
        cache_read_tokens=read,
        cache_write_tokens=written,
    )

"""A guarded stream of pydantic-ai: the wrapped model's own, its events passed through the guard.

Rule: the state of the stream is the wrapped one's; only its events go through the guard. Nothing is
retried once an event was handed on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic_ai.messages import ModelResponse, ModelResponseStreamEvent
from pydantic_ai.models import ModelRequestParameters, StreamedResponse
from pydantic_ai.usage import RequestUsage

from towerkit.adapters._pydantic_ai_tape import RecordedStream, recorded_response
from towerkit.core.errors import ReplayDiverged
from towerkit.core.types import Model as Tier
from towerkit.core.types import Request, Response
from towerkit.reliability.classify import Failure
from towerkit.reliability.policy import CallState
from towerkit.reliability.probe import get, is_a, mro_names
from towerkit.runtime.calls import StreamCall, cut, kept_pieces
from towerkit.runtime.executor import Attempt
from towerkit.runtime.guard import Guard
from towerkit.runtime.native import plain
from towerkit.runtime.steps import Steps

if TYPE_CHECKING:
    from towerkit.runtime.run import Run

# Streams of APIs that say why they end: one that ends without a word was cut. pydantic-ai calls it
# "stop"; the provider's own word is among the details.
_SAY_WHY = frozenset({
    "OpenAIStreamedResponse", "OpenAIResponsesStreamedResponse", "AnthropicStreamedResponse",
    "GeminiStreamedResponse", "GroqStreamedResponse", "MistralStreamedResponse",
})  # fmt: skip


_TOLD = frozenset({"content_filter", "error"})


class Piece(str):
    """The new text in an event, and the event."""

    __slots__ = ("event",)

    event: ModelResponseStreamEvent


class PiecesCall(StreamCall):
    """A streamed request: the guard sees pieces of text, the agent their events."""

    opened: StreamedResponse | None = None

    def __init__(
        self, run: Run, opening: Callable[[], AbstractAsyncContextManager[StreamedResponse]],
        model: Tier, request: Request, digest: str, *, read: Callable[[ModelResponse], Response],
        judge: Callable[[BaseException, Failure], Failure], parameters: ModelRequestParameters,
    ) -> None:  # fmt: skip
        super().__init__(run, request, digest, models=(model,))
        self._parameters = parameters
        self._opening, self._read, self._judge = opening, read, judge
        self._context: AbstractAsyncContextManager[StreamedResponse] | None = None

    def steps(self) -> Steps:
        """Return the guarded call, to be driven."""
        model = self._models[0]
        state = CallState(operation="model", providers=(model.provider,))
        guard = Guard(self._run, self, state, self._digest)
        return guard.steps(name=f"chat {model.name}", operation="chat")

    def what(self, state: CallState, path: str, seq: int, timeout_s: float) -> Attempt:
        """Return the attempt; a tape's answer is streamed again."""
        what = super().what(state, path, seq, timeout_s)
        return msgspec.structs.replace(what, served=self._served)

    def _served(self, value: Any, sizes: list[int], error: BaseException | None) -> Any:
        if value["native"] is None:
            raise error or ReplayDiverged("the tape has no answer to this request")
        # Events without text count as pieces of none: only the others are cut anew.
        pieces = cut([p for p in value["pieces"] if p], [size for size in sizes if size])
        whole = recorded_response(value)
        opened = self.opened = RecordedStream(whole, pieces, error, self._parameters)
        opened.native = value["native"]
        return _Items(self, aiter(opened))

    async def arun(self, state: CallState, timeout_s: float) -> Any:  # noqa: ARG002  one shape
        """Open the wrapped stream."""
        await self.leave(None)  # a stream that ended before its end, when this is another try
        self.opened = None
        context = self._opening()
        opened = self.opened = await context.__aenter__()
        self._context = context
        return _Items(self, aiter(opened))

    def judge(self, error: BaseException, now_unix_s: float) -> Failure:
        """Return which row of the taxonomy the error is."""
        return self._judge(error, super().judge(error, now_unix_s))

    def answer(self) -> Response | None:
        """Return the whole answer; None when the stream ended before it did."""
        assert self.opened is not None  # noqa: S101  it is being read
        whole = self.opened.get()
        told = "finish_reason" in (whole.provider_details or {}) or whole.finish_reason in _TOLD
        ended = told or whole.state != "complete" or not _SAY_WHY & set(mro_names(self.opened))
        return self._read(whole) if ended else None

    async def leave(self, error: BaseException | None) -> bool:
        """Close the wrapped stream, if it is open; return whether it took the error."""
        context, self._context = self._context, None
        if context is None:
            return False
        kind = None if error is None else type(error)
        trace = None if error is None else error.__traceback__
        return bool(await context.__aexit__(kind, error, trace))

    def tape_value(self, value: Response | None) -> Any:
        """Return the pieces and the answer, as the tape keeps them."""
        answer = None if value is None else msgspec.to_builtins(value)
        pieces = kept_pieces([str(piece) for piece in self.pieces], self._run.recorder.redactor)
        if isinstance(self.opened, RecordedStream):
            native = self.opened.native
        else:
            native = None if self.opened is None else plain(self.opened.get())[0]
        return {"pieces": pieces, "response": answer, "native": native}


class _Items:
    """The events of one attempt as pieces and, last, the answer."""

    def __init__(self, call: PiecesCall, events: AsyncIterator[ModelResponseStreamEvent]) -> None:
        self._call, self._events = call, events

    def __aiter__(self) -> _Items:
        return self

    async def __anext__(self) -> Piece | Response:
        try:
            event = await anext(self._events)
        except StopAsyncIteration:
            answer = self._call.answer()
            if answer is None:
                raise
            return answer
        except BaseException as error:
            if not self._call.pieces:  # otherwise the agent's own `async with` closes it
                await self._call.leave(error)
            raise
        piece = Piece(_text(event))
        piece.event = event
        return piece


def _text(event: ModelResponseStreamEvent) -> str:
    if get(event, "event_kind") not in {"part_start", "part_delta"}:
        return ""
    part = get(event, "part") or get(event, "delta")
    text = get(part, "content") if get(part, "part_kind") == "text" else None
    if get(part, "part_delta_kind") == "text":
        text = get(part, "content_delta")
    return str(text) if is_a(text, str) else ""


class GuardedStream(StreamedResponse):
    """The wrapped model's stream, iterated through the guard. Everything else is its own."""

    def __init__(
        self, call: PiecesCall, first: str | Response,
        pieces: AsyncGenerator[str | Response, None],
    ) -> None:  # fmt: skip
        # No field of the parent is set: they are read from the wrapped stream, see below.
        self._call, self._first, self._pieces = call, first, pieces
        self._event_iterator = None
        self._request_deadline = None

    @property
    def _opened(self) -> StreamedResponse:
        opened = self._call.opened
        assert opened is not None  # noqa: S101  its first event is here
        return opened

    def __aiter__(self) -> AsyncIterator[ModelResponseStreamEvent]:
        """Return the events; asking again goes on where they are."""
        if self._event_iterator is None:
            events: AsyncIterator[ModelResponseStreamEvent] = self._get_event_iterator()
            if self._request_deadline is not None:
                events = self._request_deadline.iterate(events)
            self._event_iterator = events
        return self._event_iterator

    async def _get_event_iterator(self) -> AsyncGenerator[ModelResponseStreamEvent, None]:
        piece = self._first
        while isinstance(piece, Piece):
            yield piece.event
            piece = await anext(self._pieces)

    def get(self) -> ModelResponse:
        """Return what has come so far."""
        return self._opened.get()

    async def cancel(self) -> None:
        """Cancel the wrapped stream."""
        await self._opened.cancel()

    async def close_stream(self) -> None:
        """Close the wrapped stream's transport."""
        await self._opened.close_stream()

    def get_stream_cancel_errors(self) -> tuple[type[BaseException], ...]:
        """Return what the wrapped stream raises when it is cancelled."""
        return self._opened.get_stream_cancel_errors()

    @property
    def usage(self) -> RequestUsage:
        """Usage so far."""
        return self._opened.usage

    @property
    def model_name(self) -> str:
        """Name of the model that answers."""
        return self._opened.model_name

    @property
    def provider_name(self) -> str | None:
        """Name of its provider."""
        return self._opened.provider_name

    @property
    def provider_url(self) -> str | None:
        """Where the provider is."""
        return self._opened.provider_url

    @property
    def timestamp(self) -> datetime:
        """When the answer began."""
        return self._opened.timestamp


def _of_the_wrapped(name: str) -> property:
    def read(stream: GuardedStream) -> Any:
        return getattr(stream._opened, name)  # noqa: SLF001  a property of that class

    def write(stream: GuardedStream, value: Any) -> None:
        setattr(stream._opened, name, value)  # noqa: SLF001  likewise

    return property(read, write)


for _field in dataclasses.fields(StreamedResponse):
    if _field.name not in {"_event_iterator", "_request_deadline"}:
        setattr(GuardedStream, _field.name, _of_the_wrapped(_field.name))

"""Recorded answers of pydantic-ai's models, as its own objects again.

Rule: an agent gets what its model gave it, redacted: the same parts, usage, reasons. A stream has
the recorded pieces of its text; the events around them are made by pydantic-ai as for any stream.
"""

from __future__ import annotations

import dataclasses
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Iterator
from datetime import datetime
from typing import Any

from pydantic import ValidationError
from pydantic_ai.messages import (
    ModelMessagesTypeAdapter,
    ModelResponse,
    ModelResponseStreamEvent,
    TextPart,
)
from pydantic_ai.models import ModelRequestParameters, StreamedResponse

from towerkit.core.errors import ReplayDiverged

_LEFT = (GeneratorExit, CancelledError)  # the agent stopped reading, and does so again


def recorded_response(value: Any) -> ModelResponse:
    """Return the answer of a model as the tape has it; raise `ReplayDiverged` where it has not."""
    native = value.get("native") if isinstance(value, dict) else None
    if native is None:
        raise ReplayDiverged(
            "the tape has not got this answer of pydantic-ai as it was: an older towerkit kept "
            "what it said and not its parts"
        )
    try:
        (message,) = ModelMessagesTypeAdapter.validate_python([native])
    except ValidationError as error:
        raise ReplayDiverged(
            f"the answer on the tape is none of this pydantic-ai: {error.error_count()} of its "
            "fields differ; replay it with the version that recorded it"
        ) from None
    assert isinstance(message, ModelResponse)  # noqa: S101  its `kind` says so
    return message


class RecordedStream(StreamedResponse):
    """A recorded answer, streamed in its recorded pieces; `error` is what it ended with.

    `native` is the answer as the tape has it.
    """

    native: Any = None

    def __init__(
        self, whole: ModelResponse, pieces: list[str], error: BaseException | None,
        parameters: ModelRequestParameters,
    ) -> None:  # fmt: skip
        """Stream `whole`."""
        super().__init__(parameters)
        self._whole, self._pieces = whole, pieces
        self._error = None if isinstance(error, _LEFT) else error
        self._over = False

    async def _get_event_iterator(self) -> AsyncGenerator[ModelResponseStreamEvent, None]:
        texts = [part for part in self._whole.parts if isinstance(part, TextPart)]
        for i, part in enumerate(self._whole.parts):
            if isinstance(part, TextPart):
                for piece in _share(part, texts, self._pieces):
                    for event in self._parts_manager.handle_text_delta(
                        vendor_part_id=i, content=piece
                    ):
                        yield event
            else:
                yield self._parts_manager.handle_part(vendor_part_id=i, part=part)
        self.finish_reason = self._whole.finish_reason
        self.provider_details = self._whole.provider_details
        self.provider_response_id = self._whole.provider_response_id
        if self._error is not None:
            raise self._error
        self._over = True

    def get(self) -> ModelResponse:
        """Return what has come so far; in the end what was recorded."""
        if self._over:
            return self._whole
        return dataclasses.replace(
            self._whole, parts=self._parts_manager.get_parts(), state="incomplete"
        )

    @property
    def usage(self) -> Any:
        """The recorded usage."""
        return self._whole.usage

    @property
    def model_name(self) -> str:
        """Name of the model that answered."""
        return self._whole.model_name or ""

    @property
    def provider_name(self) -> str | None:
        """Name of its provider."""
        return self._whole.provider_name

    @property
    def provider_url(self) -> str | None:
        """Where the provider is."""
        return self._whole.provider_url

    @property
    def timestamp(self) -> datetime:
        """When the answer began."""
        return self._whole.timestamp


def _share(part: TextPart, texts: list[TextPart], pieces: list[str]) -> Iterator[str]:
    """Give a text as its pieces; of several texts each is one, as no piece says whose it is."""
    yield from pieces if len(texts) == 1 else (part.content,)

"""A recorded HTTP answer as the network would have given it: status, headers, chunks, its end.

Rule: what an SDK reads is what it read, redacted. Chunks end where they ended: exactly where the
recorded events have their recorded length, else at the same share of the body.
"""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from towerkit.core.errors import ReplayDiverged

# What cannot be on an answer that was decoded, and is spelled anew.
_OF_THE_WIRE = frozenset({"content-encoding", "content-length", "transfer-encoding"})
# An agent that stopped reading is not told so: it stops again.
_LEFT = (GeneratorExit,)


def recorded_answer(
    request: Any, value: Any, sizes: list[int], error: BaseException | None
) -> Callable[[], Any]:
    """Return what gives the recorded response to a `request` of a library, or raises instead.

    `value` is the answer as the tape has it, `sizes` are the lengths of the chunks it was handed on
    in, `error` is what the recorded attempt ended with.
    """
    http = None if value is None else value.get("http")

    def answer() -> Any:
        if http is None or http["status"] is None:
            raise error or ReplayDiverged("the tape has no answer to this request")
        return _Response(request, http, _chunks(http, sizes), error)

    return answer


class _Response:
    """What `HttpCall` reads of a response: its head, and the chunks of its body."""

    def __init__(
        self, request: Any, http: dict[str, Any], chunks: list[bytes], error: BaseException | None
    ) -> None:
        library = sys.modules[type(request).__module__.partition(".")[0]]
        headers = {k: v for k, v in http["headers"].items() if k not in _OF_THE_WIRE}
        self.status_code, self.headers = http["status"], library.Headers(headers)
        self.extensions: dict[str, Any] = {"http_version": b"HTTP/1.1"}
        self.stream = _Body(chunks, error)


class _Body:
    """The chunks of a recorded body, and what it ended with."""

    def __init__(self, chunks: list[bytes], error: BaseException | None) -> None:
        self._chunks, self._error = chunks, error

    def __iter__(self) -> Iterator[bytes]:
        yield from self._chunks
        self._end()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._chunks:
            yield chunk
        self._end()

    def _end(self) -> None:
        """Raise what broke the recorded stream; what is wrong with its words is found in them."""
        error = self._error
        if error is None or type(error).__qualname__ in _SAID:
            return
        if isinstance(error, _LEFT):
            raise ReplayDiverged("the recorded agent stopped reading here, this one reads on")
        raise error

    def close(self) -> None:
        """Have nothing to give back."""

    async def aclose(self) -> None:
        """Have nothing to give back."""


# Failures that the body itself tells of: judged again, not raised.
_SAID = frozenset({"HttpStatus", "HttpFailure", "StreamTruncated"})


def _chunks(http: dict[str, Any], sizes: list[int]) -> list[bytes]:
    if "events" in http:
        if http["events"] is None:
            raise ReplayDiverged(
                "the tape has not got the events of this stream: an older towerkit did not keep "
                "them where redaction reached over several"
            )
        return cut_body(_spelled(http["events"], http["bytes"]), sizes)
    if "body" not in http:
        if http["bytes"]:
            raise ReplayDiverged(f"the tape has not got this answer of {http['bytes']} bytes")
        return []
    body = http["body"]
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    return cut_body(text.encode(), sizes)


def _spelled(events: list[dict[str, Any]], size: int) -> bytes:
    """Return a stream's bytes: in the spelling whose length is the recorded one, if one is."""
    compact = b""
    for separators in ((",", ":"), (", ", ": ")):
        compact = b"".join(_event(event, separators) for event in events)
        if len(compact) == size:
            break
    return compact


def _event(event: dict[str, Any], separators: tuple[str, str]) -> bytes:
    data = event["data"]
    text = data
    if not isinstance(data, str):
        text = json.dumps(data, separators=separators, ensure_ascii=False)
    name = f"event: {event['event']}\n" if event["event"] else ""
    lines = "".join(f"data: {line}\n" for line in text.split("\n"))
    return f"{name}{lines}\n".encode()


def cut_body(body: bytes, sizes: list[int]) -> list[bytes]:
    """Return a body in chunks of these sizes, or of their shares where it is longer or shorter."""
    total = sum(sizes)
    if not total:
        return [body] if body else []
    out, at, ends = [], 0, 0
    for size in sizes[:-1]:
        ends += size
        end = ends if total == len(body) else ends * len(body) // total
        out.append(body[at:end])
        at = end
    return [chunk for chunk in (*out, body[at:]) if chunk]

"""One HTTP answer as it comes in: kept for whoever is behind, read on a copy, judged.

Rule: the bytes are handed on as they came; what is read of them is decoded from a copy, bounded,
and an answer that cannot be read is handed on all the same.
"""

from __future__ import annotations

import contextlib
import importlib
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from towerkit.core.errors import ControlError, StreamTruncated
from towerkit.core.sse import Lines
from towerkit.core.types import Response
from towerkit.reliability.classify import Failure, classify_response
from towerkit.reliability.probe import plain_headers
from towerkit.runtime.http_wire import Asked, Said, failure_inside

READ_BYTES = 8_000_000
"""How much of a model's answer is read on the side; the tape keeps no text of a longer one."""
PASSED_ON_BYTES = 1_000_000
"""From which size on another service's answer is not held until it is whole, and not kept."""
KEPT_HEADERS = (
    "content-type", "content-encoding", "retry-after", "retry-after-ms", "x-should-retry",
    "x-request-id", "request-id", "location",
)  # fmt: skip


class HttpStatus(Exception):
    """A model's endpoint answered with an error status; `response` is what classifiers look at."""

    def __init__(self, exchange: Exchange, message: str) -> None:
        """Keep the exchange: its answer is what the agent gets if this was the last try."""
        super().__init__(message)
        self.exchange, self.response = exchange, exchange.seen()


class HttpFailure(ControlError):
    """An answer without an error status of a model that is none, or another service's failure."""

    def __init__(self, exchange: Exchange, message: str, failure: Failure) -> None:
        """Keep the exchange: its answer is what the agent gets if this was the last try."""
        super().__init__(
            message, error_class=failure.error_class, retry_after_s=failure.retry_after_s
        )
        self.exchange = exchange


class Chunk:
    """A piece of a body; once taken, only its size is kept."""

    __slots__ = ("_data", "_size")

    def __init__(self, data: bytes) -> None:
        self._data, self._size = data, len(data)

    def __len__(self) -> int:
        return self._size

    def take(self) -> bytes:
        """Return the bytes and forget them."""
        data, self._data = self._data, b""
        return data


class _Seen:
    """A response as a classifier looks at it: everything is in memory, nothing is read."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status_code, self.headers, self._content = status, headers, body


class Exchange:
    """The answer to one attempt."""

    def __init__(self, asked: Asked, *, idempotent: bool, clean: Callable[[Any], Any]) -> None:
        """Start before the request is sent; `clean` takes the request's secrets out of a value."""
        self.asked, self._idempotent, self._clean = asked, idempotent, clean
        self.status: int | None = None
        self.headers: list[tuple[bytes, bytes]] = []
        self.extensions: dict[str, Any] = {}
        self.held: list[bytes] = []
        self.said = Said(asked.format, answers=asked.answers)
        self.failure: Failure | None = None
        self.size = 0
        self.whole = False
        self.response: Any = None
        self.closed = False
        self._plain: dict[str, str] = {}
        self._decode: Callable[[bytes], bytes] | None = None
        self._lines: Lines | None = None
        self._text = bytearray()
        self._events: list[tuple[str, str]] = []
        self._read = 0
        self._parsed: Any = None

    # -- reading ---------------------------------------------------------------------------------

    def opened(self, response: Any) -> None:
        """Take note of the head of the answer."""
        self.response = response
        self.status, self.headers = response.status_code, list(response.headers.raw)
        self.extensions = dict(response.extensions)
        self._plain = plain_headers(response.headers)
        self._decode = _decoder(self._plain.get("content-encoding", ""))
        if self._kind.startswith("text/event-stream") and self.status < 400:
            self._lines = Lines()

    @property
    def _kind(self) -> str:
        return self._plain.get("content-type", "").lower()

    def take(self, data: bytes) -> None:
        """Take the next piece of the body."""
        self.size += len(data)
        self.held.append(data)
        plain = self._decoded(data)
        if self._lines is not None:
            self._events_of(self._lines.feed(plain))
        else:
            self._text += plain

    def ended(self) -> None:
        """Take note that the body is whole, as far as HTTP can tell."""
        self.whole = True
        if self._lines is not None:
            self._events_of(self._lines.end())
            return
        if self._decode is not None and self.asked.format is not None:
            try:
                self._parsed = msgspec.json.decode(bytes(self._text))
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                self._parsed = None
            self.said.feed(self._parsed)
        self.failure = self._judged()

    def _decoded(self, data: bytes) -> bytes:
        """Return a decoded copy; nothing any more once it cannot be read or is too much."""
        if self._decode is None:
            return b""
        try:
            plain = self._decode(data)
        except Exception:  # noqa: BLE001  decoders of several libraries, each with its own error
            plain, self._decode = b"", None
        self._read += len(plain)
        if self._read > (READ_BYTES if self.asked.kind == "model" else PASSED_ON_BYTES):
            self._text.clear()
            if self._lines is None:
                self._decode = None
        return plain

    def _events_of(self, events: Iterator[tuple[str, str]]) -> None:
        for name, data in events:
            if self._read <= READ_BYTES:
                self._events.append((name, data))
            else:
                self._events.clear()
            if self.asked.kind == "model":
                self._event(data)

    def _event(self, data: str) -> None:
        if data.strip() == "[DONE]":
            self.said.done = True
            return
        try:
            event = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            if self.asked.format is not None:
                broken = Failure(error_class="malformed_response", error_type="stream", sent=True)
                self.failure = self.failure or broken
            return
        self.failure = self.failure or failure_inside(event)
        self.said.feed(event)

    # -- judging ---------------------------------------------------------------------------------

    @property
    def handed_on(self) -> bool:
        """Whether the agent may have the answer now, before its end: nothing is retried then."""
        if self.status is None or self.status >= 400 or self.whole:
            return False
        if self.asked.kind == "tool":
            length = self._plain.get("content-length", "")
            known = int(length) if length.isdecimal() else self.size
            return self._lines is not None or max(known, self.size) > PASSED_ON_BYTES
        if self._lines is None:
            plain = ("json", "html", "xml", "text/")
            return bool(self.held) and not any(word in self._kind for word in plain)
        readable = self._decode is not None and self.asked.format is not None
        started = bool(self._events) or self._read > READ_BYTES
        return self.failure is None and bool(self.held) and (started or not readable)

    @property
    def page(self) -> bool:
        """Whether the answer is no stream of events though its status is none of an error."""
        return self._lines is None and (self.status or 0) < 400

    @property
    def answered(self) -> bool:
        """Whether the answer has its end: the terminal event where its format has one."""
        ends = self._lines is not None and self.asked.kind == "model"
        readable = self._decode is not None and self.asked.format is not None
        return self.said.done if ends and readable else self.whole

    def error(self) -> BaseException | None:
        """Return the failure the answer is, as the guard's loop reads it; None for an answer."""
        if self.failure is None:
            if self.whole and not self.answered:
                return StreamTruncated("the stream ended before its terminal event")
            return None
        text = bytes(self._text[:500]).decode("utf-8", "replace")
        message = self._clean(f"HTTP {self.status}: {text or self.failure.error_class}")
        if self.status is not None and self.status >= 400 and self.asked.kind == "model":
            return HttpStatus(self, message)
        return HttpFailure(self, message, self.failure)

    def check(self) -> None:
        """Raise the failure the answer is."""
        error = self.error()
        if error is not None:
            raise error

    def _judged(self) -> Failure | None:
        status = self.status or 0
        body = self._parsed if isinstance(self._parsed, dict) else bytes(self._text)
        if self.asked.kind == "model":
            if self._decode is None and status < 400:
                return None  # unread: the agent's own decoder will say
            found = classify_response(status=status, headers=self._plain, body=body)
            return found or failure_inside(self._parsed)
        name = {408: "tool_timeout", 504: "tool_timeout"}.get(status)
        if name is None and status == 429:
            name = "rate_limited" if self._idempotent else "tool_failed"
        if name is None and status >= 500:
            name = "tool_failed"
        if name is None:
            return None
        told = classify_response(status=status, headers=self._plain, body=body)
        wait = told.retry_after_s if told is not None else None
        return Failure(error_class=name, error_type=str(status), retry_after_s=wait, sent=True)

    def seen(self) -> _Seen:
        """Return the answer as classifiers look at it."""
        return _Seen(self.status or 0, self._plain, bytes(self._text))

    # -- what is kept ----------------------------------------------------------------------------

    def answer(self) -> Response:
        """Return the answer in the one shape of all providers."""
        return self.said.response()

    def kept(self, redact: Callable[[Any], Any]) -> dict[str, Any]:
        """Return what the tape keeps, without the request's secrets; the recorder redacts it.

        Where redacting each event does not find what redacting their joined text does (an address
        may be cut in two by a stream), the first of them has the whole of that text, redacted.
        """
        headers = {k: self._plain[k] for k in KEPT_HEADERS if k in self._plain}
        out: dict[str, Any] = {"status": self.status, "headers": headers, "bytes": self.size}
        if self._lines is not None:
            events = [{"event": n, "data": _json_or_text(d)} for n, d in self._events]
            out["events"] = _safe_in_parts(events, self._clean, redact)
        elif self._decode is not None:
            with contextlib.suppress(UnicodeDecodeError):  # a picture, a sound: no text to keep
                out["body"] = _json_or_text(bytes(self._text).decode())
        return self._clean(out)  # type: ignore[no-any-return]  # a dict in, a dict out

    def __repr__(self) -> str:
        return f"<Exchange {self.asked.name} {self.status}>"

    # -- closing ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Give the connection back; may be called twice, and by another thread than the reader."""
        self.closed = True
        if self.response is not None:
            self.response.stream.close()

    async def aclose(self) -> None:
        """Do the same on an event loop."""
        self.closed = True
        if self.response is not None:
            await self.response.stream.aclose()


def _decoder(encoding: str) -> Callable[[bytes], bytes] | None:
    """Return what undoes a content-encoding piece by piece; None for one that is not known here.

    A client asks for `br` and `zstd` only where their libraries are installed.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return bytes
    if name in {"gzip", "x-gzip", "deflate"}:
        unpack = zlib.decompressobj(zlib.MAX_WBITS | 32)
        return lambda data: unpack.decompress(data, READ_BYTES)
    try:
        if name == "br":
            return importlib.import_module("brotli").Decompressor().process  # type: ignore[no-any-return]
        if name == "zstd":
            unpack = importlib.import_module("zstandard").ZstdDecompressor().decompressobj()
            return unpack.decompress  # type: ignore[no-any-return]
    except ImportError:
        return None
    return None


def _json_or_text(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text


def _safe_in_parts(
    events: list[dict[str, Any]], clean: Callable[[Any], Any], redact: Callable[[Any], Any]
) -> list[dict[str, Any]]:
    """Return events safe one by one: a text that is not is redacted whole, in the first."""
    joined: dict[tuple[Any, ...], list[str]] = {}
    for event in events:
        for path, text in _leaves(event["data"], ()):
            joined.setdefault(path, []).append(text)

    def safe(text: str) -> str:
        return str(redact({"text": clean(text)})["text"])

    whole: dict[tuple[Any, ...], str] = {}
    for path, parts in joined.items():
        # A field that is the same in every event is no text in parts.
        if len(set(parts)) > 1 and safe("".join(parts)) != "".join(map(safe, parts)):
            whole[path] = safe("".join(parts))
    if not whole:
        return events
    return [{**event, "data": _instead(event["data"], whole, ())} for event in events]


def _instead(value: Any, whole: dict[tuple[Any, ...], str], path: tuple[Any, ...]) -> Any:
    """Return an event with what is left of the texts in `whole`, each given out once."""
    if isinstance(value, str):
        text = whole.get(path)
        if text is not None:
            whole[path] = ""
        return value if text is None else text
    if isinstance(value, dict):
        place = _placed(value, path)
        return {key: _instead(inner, whole, (*place, key)) for key, inner in value.items()}
    if isinstance(value, list):
        return [_instead(inner, whole, (*path, at)) for at, inner in enumerate(value)]
    return value


def _leaves(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Yield the texts of an event under where they stand: parts of one text stand at one place."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        place = _placed(value, path)
        for key, inner in value.items():
            yield from _leaves(inner, (*place, key))
    elif isinstance(value, list):
        for at, inner in enumerate(value):
            yield from _leaves(inner, (*path, at))


def _placed(value: dict[str, Any], path: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return where an object stands: which choice, block or item of an answer it is a part of."""
    return (*path, value.get("index"), value.get("output_index"), value.get("item_id"))

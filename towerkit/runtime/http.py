"""The HTTP seam: an agent's own SDK under the tower, by the client that is given to it.

Rule: the SDK gets what it would have got: the provider's bytes, the library's exceptions, its own
types made of them. Between the two, each request is one guarded call of the open run; outside of
any run it becomes a run of its own, named `http`, so that no evidence is lost.

    what the guard ends with                   what the SDK gets
    an answer                                  the response
    a stream                                   the response at its first event, then its bytes
    an error status, a page, an error event    the last response, with `x-should-retry: false`
    a transport's exception                    that exception, `e.tower` attached
    our time-out of an attempt                 the library's ReadTimeout
    an open breaker, a throttle                the library's ConnectError: nothing was sent
    a stream without its terminal event        the library's RemoteProtocolError (`strict_streams`)
    a budget, the deadline, a loop             the tower's own exception: the run is to stop
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from towerkit.core.errors import UsageError
from towerkit.runtime.http_answer import Chunk
from towerkit.runtime.http_seam import AsyncGoing, Seam, SyncGoing

if TYPE_CHECKING:
    from towerkit.runtime.tower import Tower

LIBRARIES = ("httpx2", "httpx")
BODY_BYTES = 32_000_000
"""A request body that is longer, or of unknown length, is sent once, never again, and not read."""

# -- what users call -------------------------------------------------------------------------------


def client(
    tower: Tower, *, asynchronous: bool, library: str | None, strict_streams: bool,
    provider: str | None, options: dict[str, Any],
) -> Any:  # fmt: skip
    """Return a client of the library whose transports, those of proxies included, are wrapped."""
    lib = _library(library)
    made = (lib.AsyncClient if asynchronous else lib.Client)(**options)
    try:
        inner, mounts = made._transport, made._mounts  # noqa: SLF001  no public way keeps proxies
    except AttributeError:
        raise UsageError(
            f"this version of {lib.__name__} keeps its transport elsewhere: build a client of "
            f"your own with transport=tower.http_transport()"
        ) from None
    seam = Seam(tower, lib, strict_streams=strict_streams, provider=provider)
    made._transport = _around(seam, inner, asynchronous=asynchronous)  # noqa: SLF001
    made._mounts = {  # noqa: SLF001
        pattern: None if one is None else _around(seam, one, asynchronous=asynchronous)
        for pattern, one in mounts.items()
    }
    return made


def transport(
    tower: Tower, inner: Any, *, asynchronous: bool, library: str | None, strict_streams: bool,
    provider: str | None,
) -> Any:  # fmt: skip
    """Return a transport around `inner`, or around the library's default one."""
    if inner is not None and library is None:
        library = _library_of(inner)
    lib = _library(library)
    if inner is None:
        inner = lib.AsyncHTTPTransport() if asynchronous else lib.HTTPTransport()
    seam = Seam(tower, lib, strict_streams=strict_streams, provider=provider)
    return _around(seam, inner, asynchronous=asynchronous)


def _library(name: str | None) -> Any:
    if name is not None and name not in LIBRARIES:
        raise UsageError(f"expected library as one of {', '.join(LIBRARIES)}, got {name!r}")
    for known in (name,) if name else LIBRARIES:
        if importlib.util.find_spec(known) is not None:
            return importlib.import_module(known)
    raise UsageError(f"this needs {name or 'httpx2 or httpx'}: pip install {name or 'httpx2'}")


def _library_of(inner: Any) -> str | None:
    modules = (base.__module__.partition(".")[0] for base in type(inner).__mro__)
    return next((m for m in modules if m in LIBRARIES), None)


@cache
def _classes(lib: Any) -> tuple[type, type, type, type]:
    """Return our transports and streams as classes of the library, which checks for them."""
    return (
        type("TowerTransport", (_Transport, lib.BaseTransport), {}),
        type("TowerAsyncTransport", (_AsyncTransport, lib.AsyncBaseTransport), {}),
        type("TowerStream", (_Stream, lib.SyncByteStream), {}),
        type("TowerAsyncStream", (_AsyncStream, lib.AsyncByteStream), {}),
    )


def _around(seam: Seam, inner: Any, *, asynchronous: bool) -> Any:
    return _classes(seam.lib)[1 if asynchronous else 0](seam, inner)


# -- the classes -----------------------------------------------------------------------------------


class _Transport:
    """Sends each request as a guarded call."""

    def __init__(self, seam: Seam, inner: Any) -> None:
        self._seam, self._inner = seam, inner

    def handle_request(self, request: Any) -> Any:
        """Return the response of the last attempt, or raise as the library would."""
        body = request.read() if _readable(request, self._seam.lib) else None
        going = SyncGoing(self._seam, self._seam.sent(request, body), self._inner.handle_request)
        try:
            first = going.pull()
        except BaseException as error:  # noqa: BLE001  an answer of the provider's, or raised again
            return going.given_up(error)
        if first is None:
            return going.begun()
        return going.begun(_classes(self._seam.lib)[2](going, first))

    def close(self) -> None:
        """Close the transport below."""
        self._inner.close()

    def __enter__(self) -> Any:
        self._inner.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._inner.__exit__(*error)


class _AsyncTransport:
    """Does the same on an event loop."""

    def __init__(self, seam: Seam, inner: Any) -> None:
        self._seam, self._inner = seam, inner

    async def handle_async_request(self, request: Any) -> Any:
        """Return the response of the last attempt, or raise as the library would."""
        body = await request.aread() if _readable(request, self._seam.lib) else None
        send = self._inner.handle_async_request
        going = AsyncGoing(self._seam, self._seam.sent(request, body), send)
        try:
            first = await going.apull()
        except BaseException as error:  # noqa: BLE001  an answer of the provider's, or raised again
            return going.given_up(error)
        if first is None:
            return going.begun()
        return going.begun(_classes(self._seam.lib)[3](going, first))

    async def aclose(self) -> None:
        """Close the transport below."""
        await self._inner.aclose()

    async def __aenter__(self) -> Any:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._inner.__aexit__(*error)


def _readable(request: Any, lib: Any) -> bool:
    length = request.headers.get("content-length", "")
    return isinstance(request.stream, lib.ByteStream) or (
        length.isdecimal() and int(length) <= BODY_BYTES
    )


class _Stream:
    """The body of a response that goes on, chunk by chunk as it came; the client closes it."""

    def __init__(self, going: SyncGoing, first: Chunk) -> None:
        self._going, self._chunk = going, first

    def __iter__(self) -> Iterator[bytes]:
        going, chunk = self._going, self._chunk
        try:
            while chunk is not None:
                if data := chunk.take():
                    yield data
                chunk = going.pull()  # type: ignore[assignment]  # None ends the loop
        except Exception as error:  # noqa: BLE001  raised again unless its bytes have said it
            going.broke_off(error)

    def close(self) -> None:
        """End the call."""
        self._going.left()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._going.left()


class _AsyncStream:
    """Does the same on an event loop."""

    def __init__(self, going: AsyncGoing, first: Chunk) -> None:
        self._going, self._chunk = going, first

    async def __aiter__(self) -> AsyncIterator[bytes]:
        going, chunk = self._going, self._chunk
        try:
            while chunk is not None:
                if data := chunk.take():
                    yield data
                chunk = await going.apull()  # type: ignore[assignment]  # None ends the loop
        except Exception as error:  # noqa: BLE001  raised again unless its bytes have said it
            going.broke_off(error)

    async def aclose(self) -> None:
        """End the call."""
        await self._going.aleft()

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self._going.left()

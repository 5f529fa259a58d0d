"""What the adapters share: making a client, and putting a streamed answer together.

Rule: an accumulator is fed events and says which text is new; `finish` returns the whole answer, or
None when the terminal event never came. It trusts the terminal event, not the end of the loop.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from towerkit.core.errors import UsageError
from towerkit.core.types import Model, Response, Usage


def make_client(module: str, name: str, /, *, package: str, **options: Any) -> Any:
    """Return an SDK's client; raise `UsageError` where the package or its key is missing."""
    try:
        return getattr(importlib.import_module(module), name)(**options)
    except ImportError:
        raise UsageError(f"this model needs the {package} package: pip install {package}") from None
    except Exception as error:
        raise UsageError(f"cannot make the {package} client: {error}") from error


def two_clients(
    package: str, names: tuple[str, str], base_url: str | None, client: Any, aclient: Any
) -> tuple[Any, Any]:
    """Return the clients, synchronous and not, of an SDK that has two; the second may be None."""
    options = {"max_retries": 0, **({"base_url": base_url} if base_url else {})}
    sdk = client or make_client(package, names[0], package=package, **options)
    if aclient is None and client is None:
        aclient = make_client(package, names[1], package=package, **options)
    return sdk, aclient


def twins(provider: str, name: str, complete: Any, stream: Any, awaited: Any) -> Model:
    """Return the model of four functions; `awaited` is a pair, or None without such a client."""
    acomplete, astream = awaited or (None, None)
    return Model(
        name=name, provider=provider, complete=complete, stream=stream, acomplete=acomplete,
        astream=astream,
    )  # fmt: skip


class Accumulator(Protocol):
    """Collects one streamed answer."""

    @property
    def final(self) -> bool:
        """Whether the answer is whole and no later event can add to it."""

    @property
    def counted(self) -> Usage | None:
        """What the provider has counted up to here, input or output or both; None is nothing."""

    def feed(self, event: Any) -> str:
        """Take an event and return the new text in it, often none."""

    def finish(self) -> Response | None:
        """Return the answer; None when the terminal event never came."""


def pieces(events: Iterator[Any], into: Accumulator) -> Iterator[str | Usage | Response]:
    """Yield the text of a stream's events, what is counted of it, and the answer if it is whole.

    Nothing is read after the final event: what breaks there does not concern the answer.
    """
    counted = None
    for event in events:
        text = into.feed(event)
        if text:
            yield text
        if into.final:
            break
        if into.counted is not counted:
            counted = into.counted
            yield counted  # type: ignore[misc]  # what was counted once is never None again
    answer = into.finish()
    if answer is not None:
        yield answer


async def apieces(
    events: AsyncIterator[Any], into: Accumulator
) -> AsyncIterator[str | Usage | Response]:
    """Do what `pieces` does, awaiting."""
    counted = None
    async for event in events:
        text = into.feed(event)
        if text:
            yield text
        if into.final:
            break
        if into.counted is not counted:
            counted = into.counted
            yield counted  # type: ignore[misc]  # as above
    answer = into.finish()
    if answer is not None:
        yield answer

"""What answers when no model does: a cache, a fixed text, a human.

Rule: a stand-in is a tier like any other, so every answer says who gave it and why (`provider`
`cache`, `template` or `human`, `tier`, `fallback_reason`), and none of them hides a failure: the
failed attempts before it are in the pack. They cost nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

from towerkit.core.canonical import digest_of
from towerkit.core.errors import NoAnswer, UsageError
from towerkit.core.types import Model, Request, Response, Usage
from towerkit.cost.prices import FREE

# No token is bought here.
_NOTHING = Usage(input_tokens=0, output_tokens=0)


def cache(*, limit: int = 1000, name: str = "cache") -> Model:
    """Return a tier that repeats what the chain last answered to the same request, word for word.

    Keeps the `limit` requests asked for most lately, in memory, as long as the model lives. Raises
    `NoAnswer` for any other request, and the next tier is tried.
    """
    if limit < 1:
        raise UsageError(f"expected a cache limit of at least 1, got {limit}")
    known: OrderedDict[str, Response] = OrderedDict()
    lock = threading.Lock()

    def observe(request: Request, response: Response) -> None:
        if response.provider in FREE:
            return
        key = digest_of(request)
        with lock:
            known[key] = response
            known.move_to_end(key)
            if len(known) > limit:
                known.popitem(last=False)

    def complete(request: Request, timeout_s: float) -> Response:  # noqa: ARG001  no time is needed
        key = digest_of(request)
        with lock:
            found = known.get(key)
            if found is None:
                raise NoAnswer("the cache holds no answer to this request")
            known.move_to_end(key)
        return Response(
            content=found.content, tool_calls=found.tool_calls, model=found.model,
            finish_reason=found.finish_reason, usage=_NOTHING,
        )  # fmt: skip

    return Model(name=name, provider="cache", complete=complete, observe=observe)


def template(text: str | Callable[[Request], str], *, name: str = "template") -> Model:
    """Return a tier that answers `text`, or what `text(request)` returns."""

    def complete(request: Request, timeout_s: float) -> Response:  # noqa: ARG001  no time is needed
        return Response(content=text if isinstance(text, str) else text(request), usage=_NOTHING)

    return Model(name=name, provider="template", complete=complete)


def human(hand_over: Callable[[Request], str], *, name: str = "human") -> Model:
    """Return a tier that hands the request over to people.

    `hand_over(request)` files the case and returns what the agent may say meanwhile; the answer's
    finish reason is `handed_over`.
    """

    def complete(request: Request, timeout_s: float) -> Response:  # noqa: ARG001  the guard bounds it
        return Response(content=hand_over(request), finish_reason="handed_over", usage=_NOTHING)

    return Model(name=name, provider="human", complete=complete)

"""Reading answers whose shape nobody vouches for: SDKs hand on whatever JSON a server sent.

Rule: a field that is missing or of another type reads as nothing; what follows from that is the
adapter's business. A count that cannot be true is unknown: None, never 0 and never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from towerkit.core.errors import MalformedResponse
from towerkit.core.types import Response, ToolCall, Usage
from towerkit.runtime.tool_calls import parse_tool_call

# No call reads or writes as much; beyond it a charge would not fit its column either.
MOST_TOKENS = 10**9


def get(of: Any, *path: str) -> Any:
    """Return a field, or a field of a field; None when it is not there."""
    for name in path:
        of = getattr(of, name, None)
    return of


def rows(value: Any) -> list[Any]:
    """Return a list as it is, anything else as an empty one."""
    return value if isinstance(value, list) else []


def text(value: Any) -> str:
    """Return a text as it is, anything else as an empty one."""
    return value if isinstance(value, str) else ""


def word(value: Any) -> str | None:
    """Return a text that says something, or the text of an enumeration's member; else None."""
    value = getattr(value, "value", value)
    return value if isinstance(value, str) and value else None


def count(value: Any) -> int | None:
    """Return a count of tokens; None for what is no whole number or cannot be true."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MOST_TOKENS else None


def plus(total: int | None, *parts: int | None) -> int | None:
    """Return a count and those of its parts that are known; unknown stays unknown."""
    return None if total is None else total + sum(part or 0 for part in parts)


def usage(
    *, input_tokens: int | None, output_tokens: int | None, cache_read: int | None = None,
    cache_write: int | None = None, reasoning: int | None = None,
) -> Usage | None:  # fmt: skip
    """Return the usage, None when nothing is known; parts above their whole are unknown."""
    if input_tokens is None or (cache_read or 0) + (cache_write or 0) > input_tokens:
        cache_read = cache_write = None
    if output_tokens is None or (reasoning or 0) > output_tokens:
        reasoning = None
    if input_tokens is None and output_tokens is None:
        return None
    return Usage(
        input_tokens=input_tokens, output_tokens=output_tokens, cache_read_tokens=cache_read,
        cache_write_tokens=cache_write, reasoning_tokens=reasoning,
    )  # fmt: skip


def tool_call(call_id: Any, name: Any, arguments: Any) -> ToolCall:
    """Return a tool call; its arguments come as JSON text or, from some servers, as an object."""
    if isinstance(arguments, Mapping):
        return ToolCall(id=text(call_id), name=text(name), arguments=dict(arguments))
    return parse_tool_call(text(call_id), text(name), text(arguments))


def answered(response: Response, *, api: str, said: str | None) -> Response:
    """Return an answer that is one; raise `MalformedResponse` where it says nothing at all.

    `said` is the word it ended with: text, a tool call or such a word make it an answer.
    """
    if not (response.content or response.tool_calls or said):
        raise MalformedResponse(
            f"expected {api}, got an answer with neither text nor tool call nor finish reason"
        )
    return response

"""Reading answers whose shape nobody vouches for: SDKs hand on whatever JSON a server sent.

Rule: a field that is missing or of another type reads as nothing; what follows from that is the
adapter's business. How usage is counted is `cost/usage.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from towerkit.core.errors import MalformedResponse
from towerkit.core.types import Response, ToolCall, Usage
from towerkit.cost.usage import Get, field, read_counts
from towerkit.runtime.tool_calls import parse_tool_call


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


def usage(dialect: str, counts: Any, *, get: Get = field) -> Usage | None:
    """Return what an answer counts; None when nothing is known or a count cannot be true."""
    found = read_counts(counts, dialect=dialect, get=get).usage
    return None if found is None else found.plain


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

"""What recorded tool traffic means: which calls change the world, and how a failed one failed.

Rule: names and texts are all a recording leaves. The two tables below are the one place that reads
them; what they do not know is a write, and a plain tool failure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec

from towerkit.ingest.trace import Event, ToolUse

# Tools that only look, or hand over to a person.
READS = (
    "get_", "find_", "list_", "search_", "check_", "run_", "can_", "count_", "verify_",
    "calculate", "think", "transfer",
)  # fmt: skip

# Error texts, first match decides: tau-bench, tau2 and AgentDojo as their runtimes spell them.
_TEXTS = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (r"ToolNotFound|unknown action|empty function name|invalid tool\b", "tool_unknown"),
        (r"tool '?[\w.-]+'? not found|no such tool|requested function", "tool_unknown"),
        (r"ValidationError|validation errors? for", "tool_args_invalid"),
        (r"unexpected keyword argument|missing \d+ required", "tool_args_invalid"),
        (
            r"Error executing tool [\w.-]+: (?:Expecting|Extra data|Unterminated|Invalid control)",
            "tool_args_invalid",
        ),
        (r"timed? ?out", "tool_timeout"),
    )
)
_TYPE = re.compile(r"([A-Za-z_]\w*(?:Error|Exception)): ")


def is_read(name: str) -> bool:
    """Return whether a tool of this name changes nothing."""
    return name.startswith(READS)


def error_class_of(text: str) -> str:
    """Return the taxonomy row of a failed tool call's text."""
    return next((name for pattern, name in _TEXTS if pattern.search(text[:2000])), "tool_failed")


def error_type_of(text: str) -> str | None:
    """Return the exception type a text begins with, if any."""
    match = _TYPE.match(text)
    return match[1] if match else None


def reported_error(result: object) -> str | None:
    """Return the error a result reports in its own text: `Error: …`, or JSON `{"error": …}`."""
    if not isinstance(result, str):
        return None
    if result.startswith(("Error:", "Unknown action")):
        return result
    if result[:1] == "{" and '"error"' in result[:40]:
        try:
            inner = msgspec.json.decode(result)
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
            return None
        if isinstance(inner, dict) and set(inner) == {"error"} and inner["error"]:
            return str(inner["error"])
    return None


def contradiction(required: Iterable[str], events: Iterable[Event]) -> str | None:
    """Say how a full reward contradicts the run: a write is required, and none was even tried."""
    writes = sorted({name for name in required if not is_read(name)})
    if not writes or any(isinstance(e, ToolUse) and not is_read(e.name) for e in events):
        return None
    return f"the task requires a write ({', '.join(writes)}), the run made no write call"

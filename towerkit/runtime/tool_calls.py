"""Tool calls as providers send them: arguments are JSON in a string, now and then not quite.

Rule: what does not parse is kept as it came and never guessed.
"""

from __future__ import annotations

from typing import Any

import msgspec

from towerkit.core.types import ToolCall


def parse_tool_call(call_id: str, name: str, text: str) -> ToolCall:
    """Return a tool call whose arguments came as JSON text; what does not parse stays in `raw`."""
    try:
        arguments = msgspec.json.decode(text or "{}", type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeEncodeError):
        return ToolCall(id=call_id, name=name, arguments={}, raw=text)
    return ToolCall(id=call_id, name=name, arguments=arguments)

"""The only way of untrusted text to a terminal, a log line or a page.

`cli.base.say` and `emit` are the only doors to a terminal, `privacy.log` to a log, `report` to a
page; tests/test_architecture.py holds that. There is no other: towerkit writes no CSV and no chat.

Rule: what a reader sees is what is there. Terminal sequences, control characters and characters
that reorder or hide text are removed; markup is left to the escaping of whatever shows it.
"""

from __future__ import annotations

import json
import re

# CSI and OSC sequences, then any lone escape.
_TERMINAL = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-_]?"
)
# Controls but tab and newline; bidirectional marks, overrides and isolates; zero-width space and
# byte order mark; tags (U+E0000), which carry invisible text; lone surrogates.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)


def clean(text: object) -> str:
    """Return `text` without terminal sequences, control characters and bidirectional tricks.

    Line ends become newlines and stay.
    """
    plain = str(text).replace("\r\n", "\n").replace("\r", "\n")
    return _HIDDEN.sub("", _TERMINAL.sub("", plain))


def safe_text(text: object, *, limit: int = 200) -> str:
    """Return `text` cleaned, on one line, of at most `limit` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def json_text(text: str) -> str:
    """Return JSON that says the same and shows as what it is: what `clean` removes is escaped."""
    return _HIDDEN.sub(lambda m: json.dumps(m.group())[1:-1], text)

"""The only way of untrusted text to a terminal, a log line or a page.

Rule: what a reader sees is what is there. Terminal sequences, control characters and characters
that reorder or hide text are removed; markup is left to the escaping of whatever shows it.
"""

from __future__ import annotations

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


# What a spreadsheet takes for a formula when a cell begins with it (full-width forms too).
_FORMULA = "=+-@\t\r|%＝＋－＠"
# What a chat or Markdown takes for a mention, a link, a picture or markup.
_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#!|~])")
_LINK = re.compile(r"(?i)((?:https?|ftp|mailto|javascript|data|slack)):|(www)\.")


def csv_text(text: object, *, limit: int = 200) -> str:
    """Return `safe_text` for a cell: what could be a formula gets a quote in front."""
    line = safe_text(text, limit=limit)
    return f"'{line}" if line[:1] and line[0] in _FORMULA else line


def chat_text(text: object, *, limit: int = 200) -> str:
    """Return `safe_text` for a chat message: no mention, link, picture or markup works."""
    line = _LINK.sub(
        lambda m: f"{m[1]}&#58;" if m[1] else f"{m[2]}&#46;", safe_text(text, limit=limit)
    )
    line = line.replace("&", "&amp;").replace("&amp;#58;", "&#58;").replace("&amp;#46;", "&#46;")
    line = line.replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    return _MARKUP.sub(lambda m: m[1] if m[1] == "#" else f"\\{m[1]}", line)

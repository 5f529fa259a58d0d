"""The only way of untrusted text to a terminal, a log line or a page.

Rule: what comes out is one line without control characters, escape sequences or direction
overrides, and at most as long as asked.
"""

from __future__ import annotations

import unicodedata

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def safe_text(text: object, *, limit: int = 200) -> str:
    """Return `text` on one line, controls and direction marks as `·`, cut to `limit` characters."""
    plain = "".join(
        " " if c in "\n\r\t" else "·" if c in _BIDI or unicodedata.category(c) in _HIDDEN else c
        for c in str(text)[: 4 * limit]
    )
    return plain if len(plain) <= limit else plain[: limit - 1] + "…"


_HIDDEN = frozenset({"Cc", "Cs", "Zl", "Zp", "Co"})

"""Every way a text may be spelt inside another: raw, in JSON, JSON within it, URLs and base64.

Rule: each character is looked for in any of its forms, so mixed spellings are found too; what the
pattern repeats is bounded, so that the search stays linear.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from typing import Any

import msgspec

# JSON within JSON doubles its backslashes at each level: four levels.
_BACKSLASHES = rb"\\{1,16}"
_SHORT = {
    '"': b'"', "\\": rb"\\", "/": b"/", "\b": b"b", "\f": b"f", "\n": b"n", "\r": b"r", "\t": b"t",
}  # fmt: skip
_BASE64 = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")


class Spellings:
    """The forms of one value, to be found and replaced."""

    def __init__(self, value: str) -> None:
        """Prepare to look for `value`."""
        spelt = b"".join(_character(c) for c in value)
        cores = b"|".join(_base64(value.encode("utf-8", "surrogatepass")))
        self._pattern = re.compile(b"(?P<spelt>" + spelt + b")" + (b"|" + cores if cores else b""))

    def found(self, data: bytes) -> bool:
        """Say whether `data` holds the value in any form."""
        return self._pattern.search(data) is not None

    def replace(self, data: bytes, token: bytes) -> bytes:
        """Return `data` with every form of the value replaced by `token`.

        Of base64 the whole run goes: its other characters may hold bits of the value.
        """
        out, at = [], 0
        for match in self._pattern.finditer(data):
            start, end = match.span()
            if end <= at:
                continue
            if match.lastgroup != "spelt":
                start, end = _run(data, max(start, at), end, at)
            out += [data[at : max(start, at)], token]
            at = end
        return b"".join([*out, data[at:]])

    def replace_json(self, data: bytes, token: bytes) -> bytes:
        """Do what `replace` does and leave JSON valid: a number with the value becomes text."""
        replaced = self.replace(data, token)
        if replaced == data or not _is_json(data) or _is_json(replaced):
            return replaced
        return msgspec.json.encode(self._walk(msgspec.json.decode(data), token))

    def _walk(self, value: Any, token: bytes) -> Any:
        if isinstance(value, dict):
            return {self._walk(k, token): self._walk(v, token) for k, v in value.items()}
        if isinstance(value, list):
            return [self._walk(v, token) for v in value]
        if isinstance(value, bool) or value is None:
            return value
        text = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
        replaced = self.replace(text, token)
        return value if replaced == text else replaced.decode("utf-8", "replace")


def _run(data: bytes, start: int, end: int, least: int) -> tuple[int, int]:
    """Return the run of base64 characters around a match, not before `least`."""
    while start > least and data[start - 1] in _BASE64:
        start -= 1
    while end < len(data) and data[end] in _BASE64:
        end += 1
    return start, end


def _is_json(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def _character(c: str) -> bytes:
    raw = c.encode("utf-8", "surrogatepass")
    units = c.encode("utf-16-be", "surrogatepass")
    forms = [
        re.escape(raw),
        b"".join(
            _BACKSLASHES + b"u" + _hex(units[i : i + 2].hex()) for i in range(0, len(units), 2)
        ),
        b"".join(b"%(?:25)?" + _hex(f"{byte:02x}") for byte in raw),
    ]
    if c in _SHORT:
        forms.append(_BACKSLASHES + _SHORT[c])
    if c == " ":
        forms.append(rb"\+")
    return b"(?:" + b"|".join(forms) + b")"


def _hex(digits: str) -> bytes:
    return b"".join(f"[{d}{d.upper()}]".encode() if d.isalpha() else d.encode() for d in digits)


def _base64(raw: bytes) -> Iterator[bytes]:
    """Yield the base64 of `raw` at each of its three places in a longer text.

    Only characters that all stand for `raw`: the first and last depend on what stands beside it.
    """
    either = {ord("+"): b"[+-]", ord("/"): b"[/_]"}
    for place in range(3):
        text = base64.b64encode(b"\0" * place + raw)
        core = text[(place * 8 + 5) // 6 : (place + len(raw)) * 8 // 6]
        if len(core) >= 4:
            yield b"".join(either.get(c, bytes([c])) for c in core)

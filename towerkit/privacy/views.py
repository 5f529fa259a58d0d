"""How a text is looked at: as plain ASCII, with the place in the original of each character.

Rule: a view is for finding only. What is cut out is cut at offsets of the original.

`fold` makes full-width and other digits ASCII, drops accents and characters nobody sees, and turns
every dash and space into the plain one. `unescape` reads one level of HTML, URL and JSON escapes.
`joined` puts together what a line's end or wide spaces part. `blobs` reads base64, once.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

# Stands where a finding was cut out, and for what ASCII cannot show: no pattern matches it.
GAP = "\0"
_OTHER, _NOTHING, _SEVERAL = "\1", "\x80", "\x81"


class View(NamedTuple):
    """ASCII text, and where each of its characters stands in the original.

    `starts` None: at the same place. Else the character at i covers `starts[i]` to `ends[i]`.
    """

    text: str
    starts: Sequence[int] | None = None
    ends: Sequence[int] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return where `start` to `end` of the view stands in the original."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]


def _plain(char: str) -> str:
    """Return what stands for one character that is not ASCII; may be none or several."""
    kind = unicodedata.category(char)
    if kind in {"Cf", "Mn", "Me"} or char in "\u115f\u1160\u3164\u034f":
        return ""
    digit = unicodedata.digit(char, None)
    if digit is not None:
        return str(digit)
    if kind == "Pd" or char in "\u2212\u00ad":
        return "-"
    if kind in {"Zs", "Zl", "Zp"}:
        return " "
    parts = unicodedata.normalize("NFKD", char)
    shown = "".join(c for c in parts if c.isascii())
    return shown or _OTHER


class _Fold(dict[int, str]):
    """What stands for each character, worked out when it is first met; always one character."""

    def __missing__(self, code: int) -> str:
        shown = _plain(chr(code))
        mark = _NOTHING if not shown else _SEVERAL if len(shown) > 1 else shown
        self[code] = mark
        return mark


_FOLD = _Fold({i: chr(i) for i in range(128)})


def fold(text: str) -> View:
    """Return `text` as ASCII."""
    if text.isascii():
        return View(text)
    marked = text.translate(_FOLD)
    if _NOTHING not in marked and _SEVERAL not in marked:
        return View(marked)
    out: list[str] = []
    at: list[int] = []
    for i, mark in enumerate(marked):
        shown = _plain(text[i]) if mark == _SEVERAL else "" if mark == _NOTHING else mark
        out.append(shown)
        at += [i] * len(shown)
    return View("".join(out), at, [i + 1 for i in at])


ESCAPE = r"\\u[0-9A-Fa-f]{4}|\\x[0-9A-Fa-f]{2}|\\[/nrt]|&#[0-9xX]|&[A-Za-z]{2,8};|%[0-9A-Fa-f]{2}"
_ESCAPES = re.compile(
    r"(?P<json>(?:\\u[0-9A-Fa-f]{4})+)|\\x(?P<hex>[0-9A-Fa-f]{2})|\\(?P<short>[/\"\\])"
    r"|(?P<html>&#(?:[0-9]{1,7}|[xX][0-9A-Fa-f]{1,6});?|&[A-Za-z]{2,8};)|(?P<url>(?:%[0-9A-Fa-f]{2})+)"
)
# As long as what spells them: most escapes are these, and no place moves.
_LINES = (("\\n", " \n"), ("\\r", " \r"), ("\\t", " \t"))


def _read(match: re.Match[str]) -> list[tuple[str, int]]:
    """Return what an escape spells: characters, each with the length that spells it."""
    found = match.group()
    match match.lastgroup:
        case "json":
            units = [int(found[i + 2 : i + 6], 16) for i in range(0, len(found), 6)]
            return [(chr(u), 6) for u in units]
        case "hex":
            return [(chr(int(match["hex"], 16)), 4)]
        case "short":
            return [(found[1], 2)]
        case "html":
            shown = html.unescape(found)
            return (
                [(shown[0], len(found))]
                if len(shown) == 1
                else [(c, 0) for c in shown[:-1]] + [(shown[-1], len(found))]
            )
    text = bytes.fromhex(found.replace("%", "")).decode("utf-8", "replace")
    return [(c, 3 * (len(c.encode()) if c != "\ufffd" else 1)) for c in text]


def unescape(view: View) -> View | None:
    """Return the view with one level of escapes read; None where there is none."""
    plain = view.text
    for spelt, char in _LINES:
        plain = plain.replace(spelt, char)
    lines = view._replace(text=plain)
    return _unescaped(lines) or (lines if plain != view.text else None)


def _unescaped(view: View) -> View | None:
    """Return the view with those escapes read that are longer than what they spell."""
    out: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    at = 0
    for match in _ESCAPES.finditer(view.text):
        out.append(view.text[at : match.start()])
        starts += range(at, match.start())
        ends += range(at + 1, match.start() + 1)
        here = match.start()
        for char, size in _read(match):
            shown = char if char.isascii() else _plain(char)
            out.append(shown)
            starts += [here] * len(shown)
            ends += [min(here + size, match.end()) or here + 1] * len(shown)
            here = min(here + size, match.end())
        at = match.end()
    if not at:
        return None
    out.append(view.text[at:])
    starts += range(at, len(view.text))
    ends += range(at + 1, len(view.text) + 1)
    if view.starts is not None and view.ends is not None:
        starts = [view.starts[i] for i in starts]
        ends = [view.ends[max(i - 1, 0)] for i in ends]
    return View("".join(out), starts, ends)


# Between two letters or digits: wide spaces, a line's end with what begins the next one where text
# is quoted or commented out, and quoted-printable's soft line break; no number of a list.
WRAP = r"-?[ \t]{0,8}=?\r?\n[ \t>#*|/]{0,16}"
_JOINT = re.compile(
    rf"(?<=[0-9A-Za-z])(?:(?P<soft>=\r?\n)|(?P<line>{WRAP})|(?P<wide> {{2,3}}))"
    r"(?=[0-9A-Za-z])(?![0-9]{1,3}[.):][ \n])"
)
_DIGIT, _LETTER = re.compile("[0-9]"), re.compile("[A-Za-z]")
_COLUMNS = re.compile(r"[0-9](?: {2,}|\t)[0-9]")


def joined(view: View) -> View | None:
    """Return the view with values put together that are parted; None where nothing is.

    Not where lines of numbers follow each other, or the columns of a table.
    """
    text, out = view.text, list[str]()
    starts: list[int] = []
    ends: list[int] = []
    at = 0
    for match in _JOINT.finditer(text):
        start, end = match.span()
        if not _DIGIT.search(text, max(0, start - 12), end + 12) or _is_table(
            text, start, end, lines=match["line"] is not None
        ):
            continue
        shown = "" if match["soft"] else "-" if "-" in match.group() else " "
        out += [text[at:start], shown]
        starts += [*range(at, start), *[start] * len(shown)]
        ends += [*range(at + 1, start + 1), *[end] * len(shown)]
        at = end
    if not at:
        return None
    out.append(text[at:])
    starts += range(at, len(text))
    ends += range(at + 1, len(text) + 1)
    if view.starts is not None and view.ends is not None:
        starts = [view.starts[i] for i in starts]
        ends = [view.ends[i - 1] for i in ends]
    return View("".join(out), starts, ends)


_LINE_LIMIT = 200  # characters looked at to either side: no line of a table is longer than that


def _is_table(text: str, start: int, end: int, *, lines: bool) -> bool:
    """Return whether what parts two values parts the cells of a table."""
    first = text.rfind("\n", max(0, start - _LINE_LIMIT), start) + 1 or max(0, start - _LINE_LIMIT)
    last = text.find("\n", end, end + _LINE_LIMIT)
    last = last if last >= 0 else min(len(text), end + _LINE_LIMIT)
    if lines and (_LETTER.search(text, first, start) or _LETTER.search(text, end, last)):
        return False
    above = text[max(0, first - _LINE_LIMIT) : max(0, first - 1)].rpartition("\n")[2]
    below = text[last + 1 : last + _LINE_LIMIT].partition("\n")[0]
    if lines:
        return _numeric(above) or _numeric(below)
    return bool(_COLUMNS.search(above) or _COLUMNS.search(below))


def _numeric(line: str) -> bool:
    return bool(_DIGIT.search(line)) and not _LETTER.search(line)


_BLOB = re.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}")


def blobs(view: View) -> Iterator[tuple[int, int, str]]:
    """Yield where base64 of text stands in the view, and the text."""
    for match in _BLOB.finditer(view.text):
        text = _decoded(match.group())
        if text is not None:
            yield match.start(), match.end(), text


def _decoded(blob: str) -> str | None:
    """Return the text that a blob encodes; None where it does not look like base64 of text."""
    if blob.islower() or blob.isupper() or not any(c.isupper() for c in blob):
        return None
    plain = blob.rstrip("=").replace("-", "+").replace("_", "/")
    for skip in range(4):
        part = plain[skip:]
        part = part[: len(part) - (len(part) % 4 == 1)]
        try:
            data = base64.b64decode(part + "=" * (-len(part) % 4), validate=True)
        except binascii.Error:
            continue
        # What goes before and after may be cut: up to three bytes of a character at either end.
        text = data.decode("utf-8", "replace").strip("\ufffd")
        if text and "\ufffd" not in text and _readable(text):
            return text
    return None


def _readable(text: str) -> bool:
    return sum(c.isprintable() or c in "\n\r\t" for c in text) >= 0.95 * len(text)

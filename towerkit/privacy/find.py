"""Finding: a gate in front, then the rows of `detectors` in their order.

Rule: linear in the text. The gate (one RE2 set of small patterns) lets most texts pass untouched;
what it names decides which rows run. Findings are looked for again where the earlier ones were cut
out, until nothing is new: so redacting twice changes nothing, whatever stands next to a token.

Words near a number are the six before and the three after it, six in the same sentence; not
characters: a token counts as none, so replacing one finding moves no other into or out of reach.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

from towerkit.privacy.detectors import LATE, STRONG, UNDERSCORE, WEAK, Detector
from towerkit.privacy.gate import TRIGGERS, compiled, gate, pattern_set, triggers_of
from towerkit.privacy.views import GAP, View, blobs, fold, joined, unescape

TOKEN = r"<[A-Z][A-Z0-9_]{1,30}:[a-z0-9]{1,16}:[A-Z2-7]{16}>"  # noqa: S105  a pattern
_TOKENS = re.compile(TOKEN)
_JSON_NUMBER = re.compile(r'(?P<text>"(?:[^"\\]|\\.)*+")|-?[0-9][0-9.eE+-]*+')
_NAMES = tuple(TRIGGERS)
_LONG, _ESCAPE, _PARTED = map(_NAMES.index, ("long", "escape", "parted"))
_ROUNDS = 8  # findings that uncover findings: more is no text that anybody wrote
_EFFORT = 60_000  # matches looked at in a text, of each row by what its check costs
_BLOB_COST = 3
_SHORT = 4096  # bytes
_FEW = 3  # rows that cost less to run than to rule out
_ALONE = 300  # characters: the longest message that may be nothing but numbers
_BEFORE, _AFTER, _AFTER_IN_SENTENCE = 6, 3, 6  # words


class Found(NamedTuple):
    """One finding: where in the text, by which row, and the value as its view showed it."""

    start: int
    end: int
    row: Detector | None  # None: a token that was there already
    value: str


class Unreadable(Exception):
    """A text that cannot be searched to the end: the field goes as a whole."""


# Rows that need nothing else; rows that need a word, or that stand alone; rows that come late.
_ROWS = (STRONG, WEAK, LATE)


@cache
def _narrow(kind: int) -> Callable[[bytes], list[int] | None]:
    return pattern_set([row.pattern for row in _ROWS[kind]])


@lru_cache(maxsize=512)
def _triggered(kind: int, fired: tuple[int, ...]) -> tuple[Detector, ...]:
    names = {_NAMES[i] for i in fired if i < len(_NAMES)}
    return tuple(row for row in _ROWS[kind] if names & set(triggers_of(row)))


class _Data(NamedTuple):
    """A view in bytes.

    To RE2 an underscore belongs to a word, to who writes `id_4111…` it ends one: rows whose pattern
    has none read `plain`, where another character stands for it.

    """

    whole: bytes
    plain: bytes

    @classmethod
    def of(cls, text: str) -> _Data:
        whole = text.encode("ascii", "replace")
        return cls(whole, whole.replace(b"_", UNDERSCORE.encode()) if b"_" in whole else whole)

    def read_by(self, row: Detector) -> bytes:
        return self.whole if "_" in row.pattern else self.plain


def _rows(kind: int, data: _Data, fired: tuple[int, ...]) -> Sequence[Detector]:
    """Return the rows worth running, in order.

    Where triggers leave many, a set of all patterns says which; its automaton could grow with a
    long text.
    """
    rows = _triggered(kind, fired)
    if len(rows) <= _FEW or len(data.whole) > _SHORT:
        return [row for row in rows if row.needs in data.whole]
    met = set(_narrow(kind)(data.whole) or ())
    if data.plain is not data.whole:
        met.update(_narrow(kind)(data.plain) or ())
    return [_ROWS[kind][i] for i in sorted(met)]


@cache
def near_words(row: Detector) -> frozenset[str]:
    """Return the words one of which must stand near what a row finds."""
    return frozenset(row.near.split("|")) if row.near else frozenset()


@cache
def close_words(row: Detector) -> frozenset[str]:
    """Return the words that count where nothing but small words stands between."""
    return frozenset(row.close.split("|")) if row.close else frozenset()


@cache
def all_words(row: Detector) -> frozenset[str]:
    """Return the words of either kind."""
    return near_words(row) | close_words(row)


@cache
def _any_word() -> Any:
    """Return the search for any word that any row needs near."""
    words = sorted(set().union(*map(all_words, (*WEAK, *LATE))))
    return compiled(rf"(?i)\b(?:{'|'.join(words)})\b").search


# A word that is part of no number: a text that has one is more than numbers.
_PROSE = re.compile(r"(?<![A-Za-z0-9])(?!and\b)[A-Za-z]{3,}(?![A-Za-z0-9])", re.IGNORECASE)
_WORDS = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2,}(?![A-Za-z0-9])")
# Between a verb and the number that it is about; what makes the two one name, or an amount.
_SMALL = frozenset({
    "me", "us", "him", "her", "them", "back", "now", "please", "at", "on", "to", "is", "or", "and",
    "my", "our", "your", "the", "this", "number", "no", "nr", "line", "for", "help", "support",
    "mich", "uns", "unter", "an", "au", "sur", "al", "il", "numero",
})  # fmt: skip
_NAMED = re.compile(r"[_$/={}\[\]]")
_STOP = re.compile(r"[.!?;:](?=\s)|\n")


class _Near:
    """The words of a view, and which stand near a place."""

    def __init__(self, text: str, hint: str) -> None:
        found = list(_WORDS.finditer(text))
        self._text = text
        self._words = [m.group().lower() for m in found]
        self._starts = [m.start() for m in found]
        self._ends = [m.end() for m in found]
        self._hint = frozenset(_WORDS.findall(hint.lower()))
        self.all = self._hint.union(self._words)

    def at(self, start: int, end: int, row: Detector) -> bool:
        """Return whether a word of the row stands near `start` to `end`."""
        wanted, close = near_words(row), close_words(row)
        before = bisect_right(self._ends, start)
        if close and self._close(before, start, close):
            return True
        after = bisect_left(self._starts, end)
        near = self._words[max(0, before - _BEFORE) : before] + self._words[after : after + _AFTER]
        if not wanted.isdisjoint(near) or not wanted.isdisjoint(self._hint):
            return True
        rest = self._words[after + _AFTER : after + _AFTER_IN_SENTENCE]
        if wanted.isdisjoint(rest):
            return False
        # As in "123 es mi numero de pasaporte".
        last = after + _AFTER + min(rest.index(word) for word in wanted.intersection(rest))
        return _STOP.search(self._text, end, self._starts[last]) is None

    def _close(self, before: int, start: int, close: frozenset[str]) -> bool:
        """Return whether a word of `close` stands before `start` with small words between."""
        if not close.isdisjoint(self._hint):
            return True
        for i in range(before - 1, max(-1, before - 1 - _BEFORE), -1):
            if self._words[i] in close:
                return not _NAMED.search(self._text, self._ends[i], start)
            if self._words[i] not in _SMALL:
                return False
        return False


def _part(row: Detector, found: str) -> str:
    """Return what of a greedy match the row means; nothing where its check does not hold."""
    if row.fit is not None:
        found = row.fit(found)
    while found:
        if row.valid is None or row.valid(found):
            return found
        if not row.trim:
            break
        found = found[: max(found.rfind(" "), found.rfind("-"), 0)]
    return ""


_CHAIN = "-./"


def _apart(text: str, start: int, end: int) -> bool:
    """Return whether a match is no part of a longer chain of numbers."""
    before = text[max(0, start - 2) : start]
    after = text[end : end + 2]
    if before and before[-1].isdigit() and text[start].isdigit():
        return False
    if len(before) > 1 and before[1] in _CHAIN and before[0].isdigit():
        return False
    return not (after[:1] and after[0] in _CHAIN and after[1:].isdigit())


def stands(row: Detector, text: str, start: int, end: int) -> bool:
    """Return whether a match stands by itself: no part of a chain, a fraction or a list."""
    if row.edges and not _apart(text, start, end):
        return False
    found = text[start:end]
    if found.isdigit():
        return not (
            text[start - 1 : start] == "." and text[max(0, start - 2) : start - 1].isdigit()
        )
    return not (row.listed and " " in found and _in_list(text, start, end))


_AROUND = 24  # characters


# One or two numbers that end, and that begin, a text.
_BEFORE_IT = re.compile(r"(?:^|(?<=\s))([0-9.]*[0-9][ \t])?[0-9.]*[0-9][ \t]$")
_AFTER_IT = re.compile(r"[ \t][0-9.]*[0-9]([ \t][0-9.]*[0-9])?(?=\s|$)")


def _in_list(text: str, start: int, end: int) -> bool:
    """Return whether groups with spaces between are some of more numbers."""
    before = _BEFORE_IT.search(text[max(0, start - _AROUND) : start])
    after = _AFTER_IT.match(text[end : end + _AROUND])
    left = 0 if before is None else 1 + (before[1] is not None)
    right = 0 if after is None else 1 + (after[1] is not None)
    return left + right >= 2


def _step(found: str) -> int:
    """Return how far to go on after a false start: past its first separator."""
    for i, c in enumerate(found):
        if not c.isalnum():
            return i + 1
    return max(1, len(found))


def _alone(text: str, spans: list[tuple[int, int]]) -> bool:
    """Return whether a short text is nothing but these findings."""
    if len(text) > _ALONE:
        return False
    rest = list(text)
    for start, end in spans:
        rest[start:end] = " " * (end - start)
    words = "".join(c if c.isalnum() or c == GAP else " " for c in rest).split()
    return all(word.lower() == "and" for word in words)


class _Effort:
    """What may still be spent on a text; a text that takes more was made to take time."""

    def __init__(self) -> None:
        self.left = _EFFORT

    def spend(self, cost: int) -> None:
        """Take off what looking at a match costs, or raise `Unreadable`."""
        self.left -= cost
        if self.left < 0:
            raise Unreadable(f"more than {_EFFORT} numbers")


class _Round:
    """One pass over a text in which earlier findings are gaps."""

    def __init__(
        self, text: str, hint: str, *, alone: bool, deep: bool, effort: _Effort | None = None
    ) -> None:
        self.text, self.hint, self.may_be_alone, self.deep = text, hint, alone, deep
        self.taken = bytearray(len(text))
        self.found: list[Found] = []
        self.effort = effort or _Effort()

    def run(self, fired: Sequence[int] | None = None) -> list[Found]:
        """Return the new findings, in no order; `fired` is what the gate said, if it was asked."""
        view = fold(self.text)
        if fired is None:
            shown = f"{self.hint} {view.text}" if self.hint else view.text
            fired = gate()(shown.encode("ascii", "replace"))
        if not fired:
            return []
        self._view(view, fired)
        if _LONG in fired and self.deep:
            self._blobs(view)
        if _ESCAPE in fired and (plain := unescape(view)):
            view, fired = plain, gate()(plain.text.encode("ascii", "replace")) or ()
            self._view(view, fired)
        if _PARTED in fired and (whole := joined(view)):
            self._view(whole, gate()(whole.text.encode("ascii", "replace")) or ())
        return self.found

    def _view(self, view: View, fired: Sequence[int]) -> None:
        """Run the rows: those that need no word, those whose word is near, what stands alone."""
        data = _Data.of(view.text)
        of = tuple(sorted(fired))
        for row in _rows(0, data, of):
            for start, end in self.candidates(row, view.text, data):
                self._take(view, row, start, end)
        self._worded(view, data, of)

    def _worded(self, view: View, data: _Data, of: tuple[int, ...]) -> None:
        if not _triggered(1, of) and not _triggered(2, of):
            return
        worded = bool(self.hint) or _any_word()(data.plain) is not None
        lonely = self.may_be_alone and len(view.text) <= _ALONE and not _PROSE.search(view.text)
        any_near = worded or lonely
        late = [row for row in _rows(2, data, of) if any_near or not row.near]
        weak = _rows(1, data, of) if any_near else ()
        if not weak and not late:
            return
        near = _Near(view.text, self.hint)
        for row in weak:
            if not all_words(row).isdisjoint(near.all):
                for start, end in self.candidates(row, view.text, data):
                    if near.at(start, end, row):
                        self._take(view, row, start, end)
        for row in weak:
            if row.alone and lonely:
                self._last(view, data, row, near, lonely=True)
        for row in late:
            self._last(view, data, row, near, lonely=lonely and row.alone)

    def _last(self, view: View, data: _Data, row: Detector, near: _Near, *, lonely: bool) -> None:
        worded = row.late and not all_words(row).isdisjoint(near.all)
        if row.near and not lonely and not worded:
            return
        spans = list(self.candidates(row, view.text, data))
        alone = lonely and bool(spans) and _alone(view.text, spans)
        for start, end in spans:
            if alone or not row.near or (worded and near.at(start, end, row)):
                self._take(view, row, start, end)

    def candidates(self, row: Detector, text: str, read: _Data) -> Iterator[tuple[int, int]]:
        """Yield where a row's pattern and check hold, words near or not."""
        search, data = compiled(row.pattern).search, read.read_by(row)
        group = int("(?P<value>" in row.pattern)  # the only group a pattern has
        at = 0
        while (match := search(data, at)) is not None:
            start, end = match.span(group)
            self.effort.spend(row.cost)
            part = _part(row, text[start:end])
            start += text[start:end].find(part)
            if part and stands(row, text, start, start + len(part)):
                yield start, start + len(part)
                at = start + len(part)
                continue
            at = end if row.run else start + _step(text[start:end])

    def _take(self, view: View, row: Detector, start: int, end: int) -> None:
        first, last = view.span(start, end)
        if self.taken.find(1, first, last) >= 0:
            return
        self.taken[first:last] = b"\1" * (last - first)
        self.found.append(Found(first, last, row, view.text[start:end]))

    def _blobs(self, view: View) -> None:
        for start, end, text in blobs(view):
            self.effort.spend(_BLOB_COST)
            inner = find(text, deep=False)
            if inner and inner[0].row is not None:
                first, last = view.span(start, end)
                if self.taken.find(1, first, last) < 0:
                    self.taken[first:last] = b"\1" * (last - first)
                    self.found.append(Found(first, last, inner[0].row, inner[0].value))


def find(
    text: str, *, hint: str = "", alone: bool = False, known: list[Found] | None = None,
    deep: bool = True, fired: Sequence[int] | None = None,
) -> list[Found]:  # fmt: skip
    """Return the findings in `text` by place, tokens among them; none overlap.

    `hint` is the name of the field, `alone` whether the text may be nothing but a number, `known`
    what was found before. Raises `Unreadable`.
    """
    claims = list(known or ())
    if "<" in text:
        taken = bytearray(len(text))
        for one in claims:
            taken[one.start : one.end] = b"\1" * (one.end - one.start)
        claims += [
            Found(m.start(), m.end(), None, "")
            for m in _TOKENS.finditer(text)
            if taken.find(1, m.start(), m.end()) < 0
        ]
    effort = _Effort()
    for _ in range(_ROUNDS):
        claims.sort()
        shown, starts, at = _gapped(text, claims)
        search = _Round(shown, hint, alone=alone, deep=deep, effort=effort)
        new = search.run(None if claims else fired)
        if not new:
            return claims
        claims += [_moved(one, starts, at) for one in new]
    raise Unreadable(f"findings behind findings, {_ROUNDS} deep")


def _gapped(text: str, claims: list[Found]) -> tuple[str, list[int], list[int]]:
    """Return `text` with each claim as one gap, and where its pieces begin there and here."""
    if not claims:
        return text, [0], [0]
    pieces: list[str] = []
    starts, at, length, last = [0], [0], 0, 0
    for claim in claims:
        pieces += [text[last : claim.start], GAP]
        length += claim.start - last + 1
        last = claim.end
        starts.append(length)
        at.append(last)
    pieces.append(text[last:])
    return "".join(pieces), starts, at


def _moved(found: Found, starts: list[int], at: list[int]) -> Found:
    """Return a finding with its place in the text that has no gaps."""

    def back(offset: int) -> int:
        i = bisect_right(starts, offset) - 1
        return at[i] + offset - starts[i]

    return found._replace(start=back(found.start), end=back(found.end - 1) + 1)


def tripwire(text: str) -> bool:
    """Return whether a row that needs no words finds anything in JSON that was redacted.

    It is read as its leaves were: with its escapes resolved. Rows that read a name and its value
    are left out: in JSON the two are judged apart. So are numbers that are no text: each was judged
    by itself, and digits of a measurement pass a check digit one time in ten.
    """
    strings = _JSON_NUMBER.sub(lambda m: m["text"] or GAP, text)
    one = _Round(_TOKENS.sub(GAP, strings), "", alone=False, deep=False)
    view = fold(one.text)
    view = unescape(view) or view
    data = _Data.of(view.text)
    fired = gate()(data.whole)
    return bool(fired) and any(
        True
        for row in _rows(0, data, tuple(sorted(fired or ())))
        if "(?P<value>" not in row.pattern
        for _ in one.candidates(row, view.text, data)
    )

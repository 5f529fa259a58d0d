"""A pack as what a replay serves: its logical calls, each with its attempts, and its readings.

Rule: a call is found by kind, name, place in the span tree, request digest and occurrence (the
order in which the recorded calls began), never by the order in which a replay happens to ask. Its
attempts then belong to whoever claimed it, so that two equal calls side by side keep their own.

Memory holds the numbers of spans and rows; they themselves come from the pack when asked for.
"""

from __future__ import annotations

import builtins
import sys
import threading
from array import array
from asyncio import CancelledError
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from operator import itemgetter
from typing import Any

import msgspec

from towerkit.core import errors
from towerkit.core.errors import ControlError
from towerkit.packs.bodies import Bodies
from towerkit.packs.reader import Pack
from towerkit.packs.tables import COSTS, INPUTS, SPANS, Table
from towerkit.replay import compare
from towerkit.replay.compare import CHARGED, COST_COLUMNS, charged
from towerkit.runtime.current import ABANDONED
from towerkit.telemetry.recorder import span_number

Row = dict[str, Any]
Key = tuple[str, str, str, str | None]

SPAN_COLUMNS = (
    "span_id", "parent_span_id", "seq", "name", "kind", "status", "error_class", "error_type",
    "error_message", "attributes", "gen_ai_request_model", "gen_ai_tool_name", "request_digest",
    "start_unix_ns", "duration_ns",
)  # fmt: skip
INPUT_COLUMNS = (
    "seq", "kind", "name", "span_id", "parent_path", "request_digest", "response_digest",
    "outcome", "start_offset_ns", "latency_ns", "chunks",
)  # fmt: skip


def of_columns(table: Table, columns: Iterable[str]) -> Any:
    """Return what takes these columns out of a row of `table`."""
    return itemgetter(*(table.names.index(c) for c in columns))


_SPAN, _INPUT = of_columns(SPANS, SPAN_COLUMNS), of_columns(INPUTS, INPUT_COLUMNS)
_CALLED = frozenset({"model", "tool"})  # the other kinds are readings
_SEQ = SPANS.names.index("seq")
_SPAN_ID, _START = SPANS.names.index("span_id"), SPANS.names.index("start_unix_ns")
_TREE = of_columns(SPANS, ("span_id", "parent_span_id", "seq", "kind", "attributes"))
_TAPE = of_columns(
    INPUTS,
    ("span_id", "kind", "name", "parent_path", "request_digest", "start_offset_ns", "latency_ns"),
)
_COMPARED, _COST = of_columns(SPANS, compare.SPAN_COLUMNS), of_columns(COSTS, COST_COLUMNS)
_CHARGE = of_columns(COSTS, ("span_id", "estimated", *CHARGED))


def span_row(row: tuple[Any, ...]) -> Row:
    """Return a row of the spans by name of column."""
    return dict(zip(SPAN_COLUMNS, _SPAN(row), strict=True))


class RecordedCall:
    """One logical call of the recorded run, and how much of it was served."""

    __slots__ = ("_row", "next", "number", "rows", "span_id")

    def __init__(self, number: int, row: tuple[Any, ...], rows: list[Row]) -> None:
        """Start with nothing served of `rows`, in the order of the tape; `row` is of its span."""
        self.number, self._row, self.rows, self.next = number, row, rows, 0
        self.span_id: str = row[_SPAN_ID]

    @property
    def span(self) -> Row:
        """The call's span."""
        return span_row(self._row)

    @property
    def start_unix_ns(self) -> int:
        """When it began."""
        return int(self._row[_START])

    def peek(self) -> Row | None:
        """Return the next attempt or refusal; None when the recorded call made no more."""
        return self.rows[self.next] if self.next < len(self.rows) else None

    def take(self) -> Row:
        """Return it, and go on."""
        row = self.rows[self.next]
        self.next += 1
        return row

    @property
    def left(self) -> int:
        """How many attempts were not served, of a call that was begun."""
        return len(self.rows) - self.next if self.next else 0


class _Chains:
    """Numbers by number, in the order in which they were added: four bytes each."""

    def __init__(self, count: int) -> None:
        none = array("i", [-1])
        self._first, self._last, self._next = none * count, none * count, array("i")

    def add(self, key: int) -> bool:
        """Add the next number, from 0 on, to those of `key`; return whether it is the first."""
        number, last = len(self._next), self._last[key]
        self._next.append(-1)
        if last < 0:
            self._first[key] = number
        else:
            self._next[last] = number
        self._last[key] = number
        return last < 0

    def skip(self) -> None:
        """Let the next number belong to nothing."""
        self._next.append(-1)

    def has(self, key: int) -> bool:
        """Return whether any number is of `key`."""
        return self._first[key] >= 0

    def of(self, key: int) -> Iterator[int]:
        """Give the numbers of `key`."""
        number = self._first[key]
        while number >= 0:
            yield number
            number = self._next[number]


class _Readings:
    """The rows of readings of one kind, name and place, and how many were served."""

    __slots__ = ("at", "rows")

    def __init__(self) -> None:
        self.rows, self.at = array("i"), 0


class Recording:
    """The recorded calls and readings, to be claimed once each. Threads may claim at once."""

    def __init__(self, pack: Pack, *, exceptions: Mapping[str, type[BaseException]]) -> None:
        """Read the pack; `exceptions` are the agent's own types, by name."""
        self.pack = pack
        self._types = {**_library_exceptions(), **exceptions}
        self._lock = threading.Lock()
        self._began: int = pack.manifest["started_unix_ns"]
        self.bodies = Bodies(pack)
        self.spans, self._inputs, self._costs = map(pack.rows, ("spans", "inputs", "costs"))
        # Of each span: the number of the call it is, or of the call that it is an attempt of.
        self._owner = array("i")
        self._calls = array("i")  # of each call: the place of its span
        self._odd: dict[str, int] = {}  # places of spans whose ids do not follow from the first's
        self.first_id = 0
        self.numbered = True  # whether each span's number is its place
        self.root: Row | None = None
        # What the functions of tools did: a tool is answered and not run, so nobody asks for it.
        self._within = bytearray()
        self._read_spans()
        # The places of the other spans; None where there are no such.
        self._outside: array[int] | None = None
        if any(self._within):
            self._outside = array("i", (i for i, inner in enumerate(self._within) if not inner))
        # Of each row of the tape: when it ended, in nanoseconds since the run began.
        self.ends = array("q")
        self.inner = array("i")  # rows of what the functions of tools did
        self._rows = _Chains(len(self._calls))
        self._readings: dict[tuple[str, str, str], _Readings] = {}
        # The first call of each key that nobody has claimed, by the key's hash, and the next ones.
        self._first: dict[int, int] = {}
        self._same = array("i", [-1]) * len(self._calls)
        self._claimed = bytearray(len(self._calls))
        self._read_inputs()
        self._charges = _Chains(len(self.spans))
        self._read_costs()

    def _read_spans(self) -> None:
        late: list[tuple[int, str]] = []
        place = -1
        for part in self.spans.parts():
            for row in part:
                place += 1
                span_id, parent, seq, kind, attributes = _TREE(row)
                if place == 0:
                    self.first_id = int(span_id, 16)
                if span_number(span_id, self.first_id) != place:
                    self._odd[span_id] = place
                self.numbered = self.numbered and seq == place
                above = None if parent is None else self.place_of(parent)
                if parent is not None and (above is None or above >= place):
                    late.append((place, parent))
                    above = None
                below = self._below(above)
                # An attempt's owner is its call: what is below one that has an owner, and is none
                # itself, is below an attempt.
                inner = above is not None and (
                    bool(self._within[above]) or (below < 0 <= self._owner[above])
                )
                self._within.append(inner or ABANDONED in attributes)
                if kind == "call":
                    self._owner.append(len(self._calls))
                    self._calls.append(place)
                    continue
                self._owner.append(below)
                if kind == "run" and self.root is None:
                    self.root = span_row(row)
        for at, parent in late:  # it began after what it is around, or is not there
            if self._owner[at] < 0:
                self._owner[at] = self._below(self.place_of(parent))

    def _below(self, above: int | None) -> int:
        """Return the call that a span below the one at a place is an attempt of; -1 for none."""
        if above is None or above >= len(self._owner):
            return -1
        owner = self._owner[above]
        return owner if owner >= 0 and self._calls[owner] == above else -1

    def place_of(self, span_id: str) -> int | None:
        """Return the place of a recorded span; None where there is none of this id."""
        if self._odd:
            place = self._odd.get(span_id)
            if place is not None:
                return place
        number = span_number(span_id, self.first_id)
        return number if number < len(self.spans) else None

    # -- what a replay makes again ---------------------------------------------------------------

    @property
    def whole(self) -> bool:
        """Whether every span is: no tool's function did anything under the tower."""
        return self._outside is None

    @property
    def count(self) -> int:
        """How many spans a replay makes again."""
        return len(self.spans if self._outside is None else self._outside)

    def place(self, number: int) -> int:
        """Return the place of the span that a replay makes as its `number`th, from 0 on."""
        return number if self._outside is None else self._outside[number]

    def number(self, place: int) -> int:
        """Return which span of a replay the one at a place is."""
        return place if self._outside is None else bisect_left(self._outside, place)

    # -- reading ---------------------------------------------------------------------------------

    def _read_inputs(self) -> None:
        keys = array("q", [0]) * len(self._calls)
        place = -1
        for part in self._inputs.parts():
            for row in part:
                place += 1
                span_id, kind, name, path, digest, start, latency = _TAPE(row)
                self.ends.append(start + latency)
                at = None if span_id is None else self.place_of(span_id)
                owner = -1 if at is None else self._owner[at]
                if at is not None and (self._within[at] or kind not in _CALLED):
                    self._rows.skip()
                    self.inner.append(place)
                    continue
                if owner >= 0:
                    if self._rows.add(owner):
                        keys[owner] = hash((kind, name, path, digest))
                    continue
                self._rows.skip()
                known = self._readings.get((kind, name, path))
                if known is None:
                    known = self._readings.setdefault((kind, name, path), _Readings())
                known.rows.append(place)
        self.waiting = 0  # calls with rows that nobody has claimed
        for number in reversed(range(len(self._calls))):
            self._offer(number, keys[number])

    def _offer(self, number: int, key: int) -> None:
        """Let a call be claimed, before those that were offered."""
        if self._within[self._calls[number]]:
            self._claimed[number] = 1
            return
        if not self._rows.has(number):
            call = self.call(number)
            span = call.span
            if span["gen_ai_tool_name"] is None and span["gen_ai_request_model"] is None:
                self._claimed[number] = 1  # counted from another library's: nothing of ours asks
                return
            key = hash(self._key(call))
        else:
            self.waiting += 1
        self._same[number] = self._first.get(key, -1)
        self._first[key] = number

    def _read_costs(self) -> None:
        for part in self._costs.parts():
            for row in part:
                place = self.place_of(_CHARGE(row)[0])
                if place is None:
                    self._charges.skip()
                else:
                    self._charges.add(place)

    # -- rows ------------------------------------------------------------------------------------

    def span(self, span_id: str) -> Row:
        """Return a recorded span."""
        place = self.place_of(span_id)
        assert place is not None  # noqa: S101  its id is of a row of the tape
        return span_row(self.spans[place])

    def _input(self, place: int) -> Row:
        row = dict(zip(INPUT_COLUMNS, _INPUT(self._inputs[place]), strict=True))
        row["seq"] = place  # what the order of the tape is told in
        return row

    def charges(self, place: int) -> list[tuple[Any, ...]]:
        """Return what is compared of the charges of the span at a place."""
        if not self._charges.has(place):
            return []
        rows = (_CHARGE(self._costs[number]) for number in self._charges.of(place))
        return [charged(row[2:], estimated=row[1]) for row in rows]

    def compared(self, place: int) -> Row:
        """Return what is compared of the span at a place."""
        return dict(zip(compare.SPAN_COLUMNS, _COMPARED(self.spans[place]), strict=True))

    def cost_rows(self, place: int) -> list[Row]:
        """Return the charges of the span at a place."""
        rows = (_COST(self._costs[number]) for number in self._charges.of(place))
        return [dict(zip(COST_COLUMNS, row, strict=True)) for row in rows]

    def call(self, number: int) -> RecordedCall:
        """Return a call, the first is number 0, with nothing served of it."""
        rows = [self._input(place) for place in self._rows.of(number)]
        return RecordedCall(number, self.spans[self._calls[number]], rows)

    def place_of_call(self, call: RecordedCall) -> int:
        """Return the place of a call's span."""
        return self._calls[call.number]

    def calls(self) -> Iterator[RecordedCall]:
        """Give all calls, in the order they began."""
        return map(self.call, range(len(self._calls)))

    def call_at(self, seq: int) -> RecordedCall | None:
        """Return the call that span number `seq` is, or is an attempt of; None for any other."""
        if not self.numbered:
            found = (i for i in range(len(self.spans)) if self.spans[i][_SEQ] == seq)
            place = next(found, -1)
        else:
            place = seq if 0 <= seq < len(self.spans) else -1
        number = self._owner[place] if place >= 0 else -1
        return None if number < 0 else self.call(number)

    def call_of(self, seq: int | None) -> RecordedCall | None:
        """Return the call that a row of the tape belongs to; None for a reading's."""
        span_id = None if seq is None else self._input(seq)["span_id"]
        place = None if span_id is None else self.place_of(span_id)
        number = -1 if place is None else self._owner[place]
        return None if number < 0 else self.call(number)

    def _path(self, span_id: str | None) -> str:
        """Return the names of the open steps inside a span."""
        names: list[str] = []
        while span_id is not None:
            place = self.place_of(span_id)
            if place is None:
                break
            span = span_row(self.spans[place])
            if span["kind"] == "step":
                names.append(span["name"])
            span_id = span["parent_span_id"]
        return "/".join(reversed(names))

    def _key(self, call: RecordedCall) -> Key:
        if call.rows:
            first = call.rows[0]
            return first["kind"], first["name"], first["parent_path"], first["request_digest"]
        span = call.span
        tool = span["gen_ai_tool_name"]
        name = span["gen_ai_request_model"] if tool is None else tool
        path = self._path(span["parent_span_id"])
        return "model" if tool is None else "tool", name, path, span["request_digest"]

    def began(self, call: RecordedCall) -> int:
        """Return when a recorded call began, in nanoseconds since the run did."""
        return call.start_unix_ns - self._began

    # -- claiming ----------------------------------------------------------------------------------

    def claim(self, kind: str, name: str, path: str, digest: str | None) -> RecordedCall | None:
        """Return the first such call that nobody has claimed; None where there is none."""
        key = kind, name, path, digest
        with self._lock:
            before, number = -1, self._first.get(hash(key), -1)
            while number >= 0:
                call, after = self.call(number), self._same[number]
                if self._key(call) == key:
                    break
                before, number = number, after
            else:
                return None
            if before >= 0:
                self._same[before] = after
            elif after >= 0:
                self._first[hash(key)] = after
            else:
                del self._first[hash(key)]
            self._claimed[number] = 1
            self.waiting -= bool(call.rows)
            return call

    def reading(self, kind: str, name: str, path: str) -> Row | None:
        """Return the next such reading; None where there is none."""
        with self._lock:
            known = self._readings.get((kind, name, path))
            if known is None or known.at == len(known.rows):
                return None
            known.at += 1
            return self._input(known.rows[known.at - 1])

    def unclaimed(self) -> list[Row]:
        """Return the spans of the calls that nobody has claimed, in the order they began."""
        numbers = (n for n, claimed in enumerate(self._claimed) if not claimed)
        return [self.call(number).span for number in numbers]

    def unasked(self, begun: Iterable[RecordedCall]) -> int:
        """Return how many calls and readings nobody asked for; `begun` are those partly served."""
        readings = sum(len(known.rows) - known.at for known in self._readings.values())
        return self.waiting + sum(call.left for call in begun) + readings

    # -- content -----------------------------------------------------------------------------------

    def content(self, digest: str | None) -> Any:
        """Return one piece of content, parsed; None where nothing was kept."""
        if digest is None:
            return None
        body = self.bodies[digest]
        return msgspec.json.decode(body) if self.bodies.is_json(digest) else body.decode()

    def error(self, span: Row) -> BaseException:
        """Rebuild an exception: the type by name, the text as recorded, no constructor run."""
        name, text = str(span["error_type"]), span["error_message"] or ""
        short = name.rpartition(".")[2]
        base = self._types.get(short) or _of_http(short) or ControlError
        # `__qualname__` decides how the error is classified again; `__str__` what the agent reads.
        recorded: Any = type(name, (base,), {"__str__": lambda _: text, "__qualname__": name})
        error: BaseException = recorded.__new__(recorded)
        error.from_tape = True  # type: ignore[attr-defined]
        if isinstance(error, ControlError):
            error.error_class = span["error_class"]
            error.retry_after_s = msgspec.json.decode(span["attributes"]).get("retry_after_s")
        return error


def _of_http(name: str) -> type[BaseException] | None:
    """Return an exception of the HTTP libraries that are loaded."""
    for library in ("httpx2", "httpx"):
        found = getattr(sys.modules.get(library), name, None)
        if isinstance(found, type) and issubclass(found, Exception):
            return found
    return None


@cache
def _library_exceptions() -> dict[str, type[BaseException]]:
    known: dict[str, type[BaseException]] = {
        name: value
        for module in (builtins, errors)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    return {**known, "CancelledError": CancelledError}

"""A pack as what a replay serves: its logical calls, each with its attempts, and its readings.

Rule: a call is found by kind, name, place in the span tree, request digest and occurrence (the
order in which the recorded calls began), never by the order in which a replay happens to ask. Its
attempts then belong to whoever claimed it, so that two equal calls side by side keep their own.
"""

from __future__ import annotations

import builtins
import sys
import threading
from asyncio import CancelledError
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any

import msgspec

from towerkit.core import errors
from towerkit.core.errors import ControlError
from towerkit.packs.store import Pack

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


class RecordedCall:
    """One logical call of the recorded run, and how much of it was served."""

    __slots__ = ("next", "rows", "span")

    def __init__(self, span: Row) -> None:
        """Start with no attempt; `rows` are filled in the order of the tape."""
        self.span, self.next = span, 0
        self.rows: list[Row] = []

    def peek(self) -> Row | None:
        """Return the next attempt or refusal; None when the recorded call made no more."""
        return self.rows[self.next] if self.next < len(self.rows) else None

    def take(self) -> Row:
        """Return it, and go on."""
        row = self.rows[self.next]
        self.next += 1
        return row


class Recording:
    """The recorded calls and readings, to be claimed once each. Threads may claim at once."""

    def __init__(self, pack: Pack, *, exceptions: Mapping[str, type[BaseException]]) -> None:
        """Read the pack; `exceptions` are the agent's own types, by name."""
        self.pack = pack
        self._types = {**_library_exceptions(), **exceptions}
        frame = pack.frame("spans").select(SPAN_COLUMNS).sort("seq")
        self.spans: dict[str, Row] = {row["span_id"]: row for row in frame.iter_rows(named=True)}
        self.calls: dict[str, RecordedCall] = {}
        self._open: dict[Key, deque[RecordedCall]] = defaultdict(deque)
        self._readings: dict[tuple[str, str, str], deque[Row]] = defaultdict(deque)
        self._owners: dict[int, RecordedCall] = {}
        self._lock = threading.Lock()
        self.order: list[tuple[int, int]] = []
        self._content = pack.bodies
        self._json = {
            digest for digest, media in pack.frame("content").select("digest", "media_type").rows()
            if media == "application/json"
        }  # fmt: skip
        self._fill()

    def _fill(self) -> None:
        paths, where = self._paths(), {}
        for span in self.spans.values():
            if span["kind"] == "call":
                self.calls[span["span_id"]] = RecordedCall(span)
                where[span["span_id"]] = paths.get(span["parent_span_id"], "")
        frame = self.pack.frame("inputs").select(INPUT_COLUMNS).sort("seq")
        for row in frame.iter_rows(named=True):
            self.order.append((row["seq"], row["start_offset_ns"] + row["latency_ns"]))
            owner = self._owner(row["span_id"])
            if owner is None:
                self._readings[row["kind"], row["name"], row["parent_path"]].append(row)
            else:
                owner.rows.append(row)
                self._owners[row["seq"]] = owner
        for span_id, call in self.calls.items():
            if call.span["gen_ai_tool_name"] is None and call.span["gen_ai_request_model"] is None:
                continue  # counted from another library's spans: nothing of ours asked for it
            self._open[self._key(call, where[span_id])].append(call)

    def _paths(self) -> dict[str | None, str]:
        """Return the names of the open steps inside each span."""
        paths: dict[str | None, str] = {None: ""}
        for span in self.spans.values():
            above = paths.get(span["parent_span_id"], "")
            inside = f"{above}/{span['name']}" if above else span["name"]
            paths[span["span_id"]] = inside if span["kind"] == "step" else above
        return paths

    def _owner(self, span_id: str | None) -> RecordedCall | None:
        """Return the call of an attempt's row, or of a refusal's."""
        if span_id is None:
            return None
        return self.calls.get(span_id) or self.calls.get(self.spans[span_id]["parent_span_id"])

    @staticmethod
    def _key(call: RecordedCall, path: str) -> Key:
        span = call.span
        tool = span["gen_ai_tool_name"]
        if call.rows:
            first = call.rows[0]
            return first["kind"], first["name"], first["parent_path"], first["request_digest"]
        name = span["gen_ai_request_model"] if tool is None else tool
        return "model" if tool is None else "tool", name, path, span["request_digest"]

    def call_of(self, seq: int | None) -> RecordedCall | None:
        """Return the call that a row of the tape belongs to; None for a reading's."""
        return None if seq is None else self._owners.get(seq)

    def began(self, call: RecordedCall) -> int:
        """Return when a recorded call began, in nanoseconds since the run did."""
        return int(call.span["start_unix_ns"] - self.pack.manifest["started_unix_ns"])

    # -- claiming ----------------------------------------------------------------------------------

    def claim(self, kind: str, name: str, path: str, digest: str | None) -> RecordedCall | None:
        """Return the first such call that nobody has claimed; None where there is none."""
        with self._lock:
            waiting = self._open.get((kind, name, path, digest))
            return waiting.popleft() if waiting else None

    def reading(self, kind: str, name: str, path: str) -> Row | None:
        """Return the next such reading; None where there is none."""
        with self._lock:
            waiting = self._readings.get((kind, name, path))
            return waiting.popleft() if waiting else None

    def unclaimed(self) -> list[Row]:
        """Return the spans of the calls that nobody has claimed, in the order they began."""
        calls = (call.span for waiting in self._open.values() for call in waiting)
        return sorted(calls, key=itemgetter("seq"))

    def unasked(self) -> Iterator[RecordedCall | Row]:
        """Yield what a replay has not asked for, whole calls first."""
        for waiting in self._open.values():
            yield from (call for call in waiting if call.rows)
        for call in self.calls.values():
            if 0 < call.next < len(call.rows):
                yield from call.rows[call.next :]
        for readings in self._readings.values():
            yield from readings

    # -- content -----------------------------------------------------------------------------------

    def content(self, digest: str | None) -> Any:
        """Return one piece of content, parsed; None where nothing was kept."""
        if digest is None:
            return None
        body = self._content[digest]
        return msgspec.json.decode(body) if digest in self._json else body.decode()

    def known(self) -> Iterator[tuple[tuple[bool, bytes | str], str]]:
        """Yield the recorded contents as a recorder remembers what it has seen, with digests."""
        for digest, body in self._content.items():
            if digest in self._json:
                yield (False, body), digest
                yield (True, body), digest
            else:
                yield (False, body.decode()), digest

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


def _library_exceptions() -> dict[str, type[BaseException]]:
    known: dict[str, type[BaseException]] = {
        name: value
        for module in (builtins, errors)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    }
    return {**known, "CancelledError": CancelledError}

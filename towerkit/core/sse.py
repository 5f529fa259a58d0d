"""Server-sent events, cut out of bytes as they come.

Rule: nothing is lost and nothing invented at the edges of a read: a line, or half of a line's end,
waits for the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator


class Lines:
    """Cuts a stream of bytes into the events of `text/event-stream`."""

    def __init__(self) -> None:
        """Start empty."""
        self._rest = b""
        self._name = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> Iterator[tuple[str, str]]:
        """Yield the events that `data` completes, each as its name and its data."""
        text = self._rest + data
        # A carriage return at the end may be half of a line's end.
        held = text[-1:] if text.endswith(b"\r") else b""
        lines = re.split(rb"\r\n|\n|\r", text[: len(text) - len(held)])
        self._rest = lines.pop() + held
        for line in lines:
            yield from self._line(line)

    def end(self) -> Iterator[tuple[str, str]]:
        """Yield what stands at the end without its blank line, as the SDKs do."""
        yield from self._line(self._rest.rstrip(b"\r"))
        self._rest = b""
        yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[tuple[str, str]]:
        if not line:
            if self._data:
                yield self._name, "\n".join(self._data)
            self._name, self._data = "", []
            return
        field, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        if field == b"event":
            self._name = text
        elif field == b"data":
            self._data.append(text)

"""A pack's content by its digest, the large one of it on the disk.

Rule: memory holds bodies up to a bound, and of every piece beyond it where it is: the bytes of its
digest and a number. The bodies themselves then lie, verified, in a file that has no name: it is
gone with this process, and nobody else can open or change it.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import IO

from towerkit.core.errors import PackError
from towerkit.packs.files import why
from towerkit.packs.reader import Pack
from towerkit.packs.rows import Row
from towerkit.packs.tables import CONTENT

HELD_BYTES, HELD_PIECES = 32 * 1024 * 1024, 50_000
"""What is in memory of a pack's content, at most: bytes of bodies, and pieces."""
_DIGEST, _MEDIA, _BODY = (CONTENT.names.index(c) for c in ("digest", "media_type", "body"))
_JSON = "application/json"
_BYTES = 16  # of a digest


class Bodies(Mapping[str, bytes]):
    """Redacted bytes by digest."""

    def __init__(
        self, pack: Pack, *, held_bytes: int = HELD_BYTES, held_pieces: int = HELD_PIECES
    ) -> None:
        """Read and verify the pack's content; of more than what is held, bodies go to the disk."""
        rows = pack.rows("content")
        self._held: dict[str, tuple[bool, bytes]] = {}
        self._far: _Far | None = None
        size = 0
        for part in rows.parts():
            for row in part:
                if self._far is None:
                    size += len(row[_BODY])
                    if size <= held_bytes and len(self._held) < held_pieces:
                        self._held[row[_DIGEST]] = row[_MEDIA] == _JSON, row[_BODY]
                        continue
                    self._far = _Far()
                self._far.add(row)
        if self._far is not None:
            self._far.close()

    def __len__(self) -> int:
        """Return how many pieces there are."""
        return len(self._held) + (0 if self._far is None else len(self._far.ends))

    def __iter__(self) -> Iterator[str]:
        """Give the digests."""
        yield from self._held
        if self._far is not None:
            yield from self._far.digests()

    def __contains__(self, digest: object) -> bool:
        """Return whether there is content of this digest."""
        return isinstance(digest, str) and self.is_json(digest) is not None

    def __getitem__(self, digest: str) -> bytes:
        """Return a body; raise `KeyError` where there is none."""
        held = self._held.get(digest)
        if held is not None:
            return held[1]
        place = None if self._far is None else self._far.place(digest)
        if self._far is None or place is None:
            raise KeyError(digest)
        return self._far.body(place)

    def is_json(self, digest: str) -> bool | None:
        """Return whether content is JSON, else text; None where there is none of this digest."""
        held = self._held.get(digest)
        if held is not None:
            return held[0]
        place = None if self._far is None else self._far.place(digest)
        return None if self._far is None or place is None else bool(self._far.json[place])


class _Far:
    """Bodies in a file without a name, in the order of their digests."""

    def __init__(self) -> None:
        self.ends, self.json = array("q"), bytearray()
        self._digests = bytearray()
        self._size = 0
        self._order: array[int] | None = None
        try:
            self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  as long as this object
        except OSError as error:
            raise _no_room(error) from None
        weakref.finalize(self, self._file.close)

    def add(self, row: Row) -> None:
        """Take the next piece."""
        self._digests += bytes.fromhex(row[_DIGEST])
        self.json.append(row[_MEDIA] == _JSON)
        self._size += len(row[_BODY])
        self.ends.append(self._size)
        try:
            self._file.write(row[_BODY])
        except OSError as error:
            raise _no_room(error) from None

    def close(self) -> None:
        """Take no more."""
        try:
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from None
        count = range(len(self.ends))
        if any(self._key(i - 1) >= self._key(i) for i in count[1:]):
            # Packs that others have written: ours are in the order of their digests.
            self._order = array("q", sorted(count, key=self._key))

    def _key(self, place: int) -> bytes:
        return bytes(self._digests[_BYTES * place : _BYTES * place + _BYTES])

    def digests(self) -> Iterator[str]:
        """Give the digests."""
        return (self._key(i).hex() for i in range(len(self.ends)))

    def place(self, digest: str) -> int | None:
        """Return where a piece is; None where it is not."""
        try:
            wanted = bytes.fromhex(digest)
        except ValueError:
            return None
        order = range(len(self.ends)) if self._order is None else self._order
        at = bisect_left(order, wanted, key=self._key)
        if at == len(order) or self._key(order[at]) != wanted:
            return None
        return order[at]

    def body(self, place: int) -> bytes:
        """Return a body."""
        start = self.ends[place - 1] if place else 0
        return os.pread(self._file.fileno(), self.ends[place] - start, start)


def _no_room(error: OSError) -> PackError:
    return PackError(
        "the content of this pack is larger than what is held in memory, and "
        f"{tempfile.gettempdir()} cannot take it: {why(error)}; set TMPDIR to a folder with room"
    )

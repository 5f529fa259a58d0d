"""The rows of a pack's table by their place, a bounded number of them in memory.

Rule: a row is given when what it stands in was verified. A small table is verified and kept whole.
A large one is gone through once from its start, part by part, and only then do single rows come out
of parts that are read again when they are needed.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Protocol

from towerkit.core.errors import PackError
from towerkit.packs.blocks import Blocks
from towerkit.packs.digest import GrowingRoot, leaf
from towerkit.packs.encode import framed
from towerkit.packs.files import shown
from towerkit.packs.parquet import PageAt, Pages, check_bounds, layout, read
from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.validate import check

if TYPE_CHECKING:
    import polars as pl

    from towerkit.packs.reader import Pack

Row = tuple[Any, ...]

SMALL_ROWS, SMALL_BYTES = 8192, 8 * 1024 * 1024
"""Tables up to here, in rows and bytes of their file, are kept whole."""
PART_ROWS, PART_BYTES, PARTS = 1024, 4 * 1024 * 1024, 3
"""Where a part of a large table ends, in rows or bytes, and how many parts are in memory."""


class Rows(Protocol):
    """A table's rows with their salts, in the order of `seq` where the table has one."""

    def __len__(self) -> int:
        """Return how many there are."""

    def __getitem__(self, place: int) -> Row:
        """Return one; of a large table only once it was gone through."""

    def parts(self) -> Iterator[Sequence[Row]]:
        """Go through all of them; raise `PackError` where they are not the manifest's."""


class HeldRows:
    """Rows in memory."""

    def __init__(self, rows: list[Row]) -> None:
        """Take rows that were verified."""
        self._rows = rows

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._rows)

    def __getitem__(self, place: int) -> Row:
        """Return one."""
        return self._rows[place]

    def parts(self) -> Iterator[Sequence[Row]]:
        """Give all of them."""
        yield self._rows


class FrameRows:
    """Rows of a frame that was verified: as Python objects some of them at once."""

    def __init__(self, frame: pl.DataFrame) -> None:
        """Take a frame."""
        self._frame = frame
        self._part = lru_cache(PARTS)(self._read)

    def __len__(self) -> int:
        """Return how many there are."""
        return self._frame.height

    def __getitem__(self, place: int) -> Row:
        """Return one."""
        part, at = divmod(place, PART_ROWS)
        return self._part(part)[at]

    def parts(self) -> Iterator[Sequence[Row]]:
        """Go through all of them."""
        for part in range(-(-len(self) // PART_ROWS)):
            yield self._part(part)

    def _read(self, part: int) -> list[Row]:
        return self._frame.slice(part * PART_ROWS, PART_ROWS).rows()


class PagedRows:
    """Rows of a file, of which a few pages at once are read and made a table of."""

    def __init__(self, pack: Pack, name: str, data: Blocks, columns: list[Pages]) -> None:
        """Take the file of table `name`, and where its pages are."""
        self._pack, self._table = pack, PACK_TABLES[name]
        self._path = pack.folder / f"{name}.parquet"
        self._codecs = [column.codec for column in columns]
        self._where: list[list[tuple[int, int, int]]] = []
        self._firsts = array("q", [0])
        for low, high, rows in _cut(columns):
            where = [_extent(column.pages[low:high]) for column in columns]
            self._where.append(where)
            self._firsts.append(self._firsts[-1] + rows)
        self._data = data
        self._part = lru_cache(PARTS)(self._read)

    def __len__(self) -> int:
        """Return how many there are."""
        return self._firsts[-1]

    def __getitem__(self, place: int) -> Row:
        """Return one."""
        part = bisect_right(self._firsts, place) - 1
        return self._part(part)[place - self._firsts[part]]

    def parts(self) -> Iterator[Sequence[Row]]:
        """Go through all of them, and compare them with the manifest at the end."""
        grown, name = GrowingRoot(), self._table.name
        self._last = -1
        for part in range(len(self._where)):
            rows = self._part(part)
            self._in_order(rows)
            leaves = [leaf(row[-1], row[:-1]) for row in rows]
            grown.add(self._pack.restored(name, leaves, self._firsts[part]))
            yield rows
        self._pack.check_grown(name, grown)

    def _in_order(self, rows: list[Row]) -> None:
        if "seq" not in self._table.names:
            return
        at = self._table.names.index("seq")
        for row in rows:
            if row[at] <= self._last:
                raise PackError(f"{shown(self._path)}: its rows are not in the order of `seq`")
            self._last = row[at]

    def _read(self, part: int) -> list[Row]:
        columns = [
            (codec, size, self._data[at : at + packed])
            for codec, (at, packed, size) in zip(self._codecs, self._where[part], strict=True)
        ]
        count = self._firsts[part + 1] - self._firsts[part]
        frame = read(framed(self._table, columns, count), where=str(self._path))
        return check(frame, self._table, where=shown(self._path)).rows()


def _cut(columns: list[Pages]) -> Iterator[tuple[int, int, int]]:
    """Yield the parts of a table: their first page, the one behind their last, their rows."""
    low = rows = size = 0
    count = len(columns[0].pages)
    for page in range(count):
        rows += columns[0].pages[page].rows
        size += sum(column.pages[page].size for column in columns)
        if rows >= PART_ROWS or size >= PART_BYTES or page + 1 == count:
            yield low, page + 1, rows
            low, rows, size = page + 1, 0, 0


def _extent(pages: list[PageAt]) -> tuple[int, int, int]:
    """Return where pages begin, how many bytes they take in the file, and what they become."""
    at = pages[0].begins
    return at, pages[-1].ends - at, sum(page.size for page in pages)


def rows_of(pack: Pack, name: str) -> Rows:
    """Return the rows of table `name`; raise `PackError` where its file is not the manifest's."""
    entry, path = pack.manifest["tables"][name], shown(pack.folder / f"{name}.parquet")
    ordered = "seq" in PACK_TABLES[name].names
    if entry["rows"] <= SMALL_ROWS and entry["bytes"] <= SMALL_BYTES:
        rows = pack.held_rows(name)
        if ordered:
            rows.sort(key=itemgetter(PACK_TABLES[name].names.index("seq")))
        return HeldRows(rows)
    if pack.in_files:
        data = pack.file_blocks(name)
        check_bounds(data, PACK_TABLES[name], where=path)
        columns = layout(data, PACK_TABLES[name], where=path)
        if columns is not None:
            return PagedRows(pack, name, data, columns)
    frame = pack.frame(name)
    return FrameRows(frame.sort("seq") if ordered else frame)

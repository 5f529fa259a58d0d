"""Parquet bytes into a frame, with a bound on what they may become.

Rule: no library sees a byte before the footer and every page header have been read here, and what
they announce was added up. A column is flat, of its table's type, and written in an encoding whose
result is no larger than its pages say; so the memory a file can take follows from its size. Then
Polars reads it, whose panics are exceptions: a library in C++ may end the process instead.

Format: the footer and the page headers of parquet-format 2.10.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from towerkit.core.errors import PackError
from towerkit.packs.blocks import Blocks
from towerkit.packs.encode import MAGIC, NUMBER, footer_pattern
from towerkit.packs.files import shown
from towerkit.packs.tables import Table
from towerkit.packs.thrift import Fields, read_struct, zigzag

if TYPE_CHECKING:
    import polars as pl

# What a file of n bytes may become: this and eight times n. The writer leaves a table that packs
# better than that uncompressed.
FREE_BYTES, RATIO = 32 * 1024 * 1024, 8
MAX_FOOTER_BYTES = 1024 * 1024  # a group of a million rows takes 4 KB of it
CELL_BYTES = 16  # a null takes none in the file, and this in a frame
_PHYSICAL = {"bool": 0, "int": 2, "float": 5, "str": 6, "bytes": 6}
_REPEATED = 2
_DATA, _INDEX, _DICTIONARY, _DATA_V2 = range(4)
# PLAIN, RLE, DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, BYTE_STREAM_SPLIT; not DELTA_BYTE_ARRAY,
# in which a few bytes repeat all of the value before.
_BOUNDED = frozenset({0, 3, 5, 6, 9})
_BY_DICTIONARY = frozenset({2, 8})
_SMALL = 1024 * 1024  # bytes: below it, threads cost more than they save
# The header of a page as the writer makes it: a data page of version 1, without a dictionary or a
# checksum, its statistics absent or empty. Nearly every page has it, and this takes a fraction of
# the time that parsing does.
_OUR_PAGE = re.compile(
    rb"\x15\x00\x15" + NUMBER + rb"\x15" + NUMBER + rb"\x2c\x15" + NUMBER
    + rb"\x15[\x00\x06]\x15[\x00-\x7f]\x15[\x00-\x7f](?:\x1c\x00)?\x00\x00"
)  # fmt: skip


_OUR_HEADER = 48  # bytes: no longer one is ours
_HEADER = 64 * 1024  # no header of a page is longer, whoever wrote it

Data = bytes | Blocks


class _Page(NamedTuple):
    """What a page's header says of it; `values` is 0 for what is no data page."""

    kind: int
    size: int
    packed: int
    values: int
    by_dictionary: bool


class _Chunk(NamedTuple):
    """One column of one row group: its rows, and where its pages stand."""

    rows: int
    packed: int
    start: int


class _Footer(NamedTuple):
    """What a footer says: rows, and of each row group its rows and its columns."""

    rows: int
    groups: list[tuple[int, list[_Chunk]]]


def decoded_limit(file_bytes: int) -> int:
    """Return the most bytes that a file of `file_bytes` may become."""
    return FREE_BYTES + RATIO * file_bytes


def decode(data: bytes, table: Table, *, where: str) -> pl.DataFrame:
    """Return the frame in `data`, or raise `PackError`: whatever the bytes are, nothing else."""
    check_bounds(data, table, where=shown(where))
    return read(data, where=where)


def read(data: bytes, *, where: str) -> pl.DataFrame:
    """Return the frame in `data`, whose bounds were checked, or raise `PackError`."""
    import polars as pl  # noqa: PLC0415

    try:
        return pl.read_parquet(data, parallel="auto" if len(data) > _SMALL else "none")
    # A hostile file may raise anything in the library, and a panic of it is no Exception.
    except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001
        name = type(error).__name__
        raise PackError(f"{shown(where)}: not a readable Parquet file ({name})") from None


def check_bounds(data: Data, table: Table, *, where: str) -> None:
    """Raise `PackError` for a file of other columns, or one that may become too large."""
    _check_size(_footer(data, table, where), data, table, where)


class PageAt(NamedTuple):
    """A page in a file. `size` is of its header and of what its bytes become."""

    begins: int
    ends: int
    size: int
    rows: int


class Pages(NamedTuple):
    """One column's pages, and the codec they are packed with."""

    codec: int
    pages: list[PageAt]


def layout(data: Data, table: Table, *, where: str) -> list[Pages] | None:
    """Return each column's pages; None where they are not as our writer makes them.

    That has one group, and pages of the same rows in every column, so that some pages of each are a
    table too. The bounds of `data` must have been checked.
    """
    ours = _ours(_tail(data, where), table)
    if ours is None:
        return None
    _, *numbers, _, _, _ = ours
    columns = []
    for codec, _, _, packed, start in zip(*[iter(numbers)] * 5, strict=True):
        at, pages = start, list[PageAt]()
        while at < start + packed:
            page, begins = _page(data, at, start + packed, where)
            behind = begins + page.packed
            pages.append(PageAt(at, behind, begins - at + page.size, page.values))
            at = behind
        columns.append(Pages(codec, pages))
    rows = [[page.rows for page in column.pages] for column in columns]
    return columns if rows.count(rows[0]) == len(rows) else None


def _tail(data: Data, where: str) -> bytes:
    """Return the footer's bytes."""
    size, end = int.from_bytes(data[-8:-4], "little"), len(data) - 8
    if data[:4] != MAGIC or data[-4:] != MAGIC or not 0 < size <= end - 4:
        raise PackError(f"{where}: not a Parquet file")
    if size > MAX_FOOTER_BYTES:
        raise PackError(f"{where}: a footer of more than {MAX_FOOTER_BYTES} bytes: refused")
    return data[end - size : end]


def _ours(tail: bytes, table: Table) -> list[int] | None:
    """Return the numbers of a footer of our writer; see `footer_pattern`."""
    found = footer_pattern(table).fullmatch(tail)
    return None if found is None else list(map(_number, found.groups()))


def _footer(data: Data, table: Table, where: str) -> _Footer:
    tail = _tail(data, where)
    ours = _ours(tail, table)
    if ours is not None:  # nearly always, and it takes a tenth of what parsing does
        # One below zero is refused where the pages are counted.
        rows, *columns, _, height, _ = ours
        chunks = map(_Chunk, columns[1::5], columns[3::5], columns[4::5])
        return _Footer(rows, [(height, list(chunks))])
    try:
        footer, _ = read_struct(tail, 0, len(tail))
    except PackError as error:
        raise PackError(f"{where}: {error}") from None
    _check_shape(footer, table, where)
    groups = [_group(group, table, where) for group in _items(footer, 4, where)]
    return _Footer(_int(footer, 3, where), groups)


def _int(fields: Any, number: int, where: str, least: int = 0) -> int:
    value = fields.get(number) if isinstance(fields, dict) else None
    if type(value) is not int or value < least:
        raise PackError(f"{where}: its footer lacks a number, or has none there: it was changed")
    return value


def _items(fields: Any, number: int, where: str) -> list[Any]:
    value = fields.get(number) if isinstance(fields, dict) else None
    if not isinstance(value, list):
        raise PackError(f"{where}: its footer lacks a list: the file was changed")
    return value


def _check_shape(footer: Fields, table: Table, where: str) -> None:
    """Refuse columns that are not the table's, by what the pages hold, not by what a name says."""
    root, *found = _items(footer, 2, where) or [None]
    if _int(root, 5, where) != len(found) or not all(isinstance(c, dict) for c in found):
        raise PackError(f"{where}: its columns are nested, or not all there: it was changed")
    names = [_name(c) for c in found]
    if names != list(table.names):
        odd = sorted(set(names) ^ set(table.names)) or ["their order"]
        raise PackError(
            f"{where}: expected the columns of {table.name}, got others: "
            f"{shown(', '.join(odd[:8]))}"
        )
    for column, c in zip(found, table.columns, strict=True):
        if column.get(5) or column.get(3) == _REPEATED or column.get(1) != _PHYSICAL[c.kind]:
            raise PackError(f"{where}: expected column {c.name} as flat {c.kind}, got another")


def _name(column: Fields) -> str:
    name = column.get(4)
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else ""


def _group(group: Any, table: Table, where: str) -> tuple[int, list[_Chunk]]:
    """Return the rows of a row group and its columns, which must be those of the table."""
    chunks, height = _items(group, 1, where), _int(group, 3, where)
    if len(chunks) != len(table.columns):
        raise PackError(f"{where}: a group lacks a column: the file was changed")
    out = []
    for chunk, c in zip(chunks, table.columns, strict=True):
        meta = chunk.get(3) if isinstance(chunk, dict) else None
        if _int(meta, 1, where) != _PHYSICAL[c.kind]:
            raise PackError(f"{where}: {c.name} is not as its group says: it was changed")
        rows, packed = _int(meta, 5, where), _int(meta, 7, where)
        # A table without rows has no page, and its place may be anywhere.
        start = _int(meta, 9, where) if rows or packed else len(MAGIC)
        if meta is not None and 11 in meta and (rows or packed):
            first, start = start, _int(meta, 11, where)
            if rows and start > first:
                raise PackError(f"{where}: a dictionary stands behind its values: it was changed")
        out.append(_Chunk(rows, packed, start))
    return height, out


def _check_size(footer: _Footer, data: Data, table: Table, where: str) -> None:
    limit, total, rows = decoded_limit(len(data)), 0, 0
    for height, chunks in footer.groups:
        rows += height
        total += height * len(table.columns) * CELL_BYTES
        if total > limit:
            raise PackError(f"{where}: {rows} rows in {len(data)} bytes: refused")
        for chunk, c in zip(chunks, table.columns, strict=True):
            if chunk.rows != height:
                raise PackError(f"{where}: {c.name} is not as its group says: it was changed")
            total += _chunk_bytes(chunk, data, c.kind in {"str", "bytes"}, where)
            if total > limit:
                raise PackError(
                    f"{where}: {len(data)} bytes that would become more than {limit}: refused"
                )
    if rows != footer.rows:
        raise PackError(f"{where}: its groups have {rows} rows, and its footer says otherwise")


def _chunk_bytes(chunk: _Chunk, data: Data, varies: bool, where: str) -> int:  # noqa: FBT001
    """Return the most bytes that one column of one row group can become."""
    start, end = chunk.start, chunk.start + chunk.packed
    if not len(MAGIC) <= start <= end <= len(data):
        raise PackError(f"{where}: a column lies outside the file: it was changed")
    total = values = dictionary = 0
    while start < end:
        page, start = _page(data, start, end, where)
        start += page.packed
        total += page.size
        if page.kind == _DICTIONARY:
            dictionary = max(dictionary, page.size)
        values += page.values
        total += page.values * dictionary if varies and page.by_dictionary else 0
    if values != chunk.rows:
        raise PackError(f"{where}: a column announces other rows than it holds: it was changed")
    return total


def _page(data: Data, at: int, end: int, where: str) -> tuple[_Page, int]:
    """Return the page whose header stands at `at`, and where its bytes begin."""
    ours = _OUR_PAGE.match(data[at : min(at + _OUR_HEADER, end)])
    if ours is not None:
        size, packed, values = map(_number, ours.group(1, 2, 3))
        page, at = _Page(_DATA, size, packed, values, by_dictionary=False), at + ours.end()
    else:
        try:
            header, size = read_struct(data[at : min(at + _HEADER, end)], 0, min(_HEADER, end - at))
            at += size
        except PackError as error:
            raise PackError(f"{where}: {error}") from None
        page = _said(header, where)
    if min(page.size, page.values) < 0 or not 0 <= page.packed <= end - at:
        raise PackError(f"{where}: a page is not one: the file was changed")
    return page, at


@lru_cache(maxsize=8192)
def _number(spelled: bytes) -> int:
    """Return a number of a header: those of packs are much alike."""
    return zigzag(spelled, 0, len(spelled))[0]


def _said(header: Fields, where: str) -> _Page:
    """Return what a parsed header says, or raise for a page that packs do not have."""
    kind, size, packed = header.get(1), header.get(2), header.get(3)
    if type(kind) is not int or type(size) is not int or type(packed) is not int:
        raise PackError(f"{where}: a page is not one: the file was changed")
    if kind not in {_DATA, _INDEX, _DICTIONARY, _DATA_V2}:
        raise PackError(f"{where}: a page of an unknown kind: the file was changed")
    if kind in {_INDEX, _DICTIONARY}:
        return _Page(kind, size, packed, 0, by_dictionary=False)
    page = header.get(5 if kind == _DATA else 8)
    page = page if isinstance(page, dict) else {}
    count, encoding = page.get(1), page.get(2 if kind == _DATA else 4)
    if type(count) is not int or type(encoding) is not int:
        raise PackError(f"{where}: a page is not one: the file was changed")
    if encoding not in _BOUNDED | _BY_DICTIONARY:
        raise PackError(f"{where}: a page in encoding {encoding}, which packs do not use")
    return _Page(kind, size, packed, count, by_dictionary=encoding in _BY_DICTIONARY)

"""Parquet bytes into a frame, with a bound on what they may become.

Rule: before a page is decoded, every page header has been read and what it announces added up. A
column is flat, of its table's type, and written in an encoding whose result is no larger than its
pages say; so the memory a file can take follows from its size.

Format: the Thrift compact protocol and the page headers of parquet-format 2.10.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from towerkit.core.errors import PackError
from towerkit.packs.files import shown
from towerkit.packs.tables import Table

if TYPE_CHECKING:
    import polars as pl

# What a file of n bytes may become: this and eight times n. The writer leaves a table that packs
# better than that uncompressed.
FREE_BYTES, RATIO = 32 * 1024 * 1024, 8
CELL_BYTES = 16  # a null takes none in the file, and this in a frame
_PHYSICAL = {
    "str": "BYTE_ARRAY", "bytes": "BYTE_ARRAY", "int": "INT64", "float": "DOUBLE",
    "bool": "BOOLEAN",
}  # fmt: skip
_DATA, _INDEX, _DICTIONARY, _DATA_V2 = range(4)
# PLAIN, RLE, DELTA_BINARY_PACKED, DELTA_LENGTH_BYTE_ARRAY, BYTE_STREAM_SPLIT; not DELTA_BYTE_ARRAY,
# in which a few bytes repeat all of the value before.
_BOUNDED = frozenset({0, 3, 5, 6, 9})
_BY_DICTIONARY = frozenset({2, 8})
_DEEPEST, _LONGEST = 8, 64  # of a Thrift structure: nesting, elements of a list
_SMALL = 1024 * 1024  # bytes: below it, threads cost more than they save
# The header of a page as the writer makes it: a data page of version 1, without a dictionary or a
# checksum, its statistics absent or empty. Nearly every page has it, and this takes a fraction of
# the time that parsing does.
_NUMBER = rb"([\x80-\xff]{0,4}[\x00-\x7f])"
_OUR_PAGE = re.compile(
    rb"\x15\x00\x15" + _NUMBER + rb"\x15" + _NUMBER + rb"\x2c\x15" + _NUMBER
    + rb"\x15[\x00\x06]\x15[\x00-\x7f]\x15[\x00-\x7f](?:\x1c\x00)?\x00\x00"
)  # fmt: skip


class _Page(NamedTuple):
    """What a page's header says of it; `values` is 0 for what is no data page."""

    kind: int
    size: int
    packed: int
    values: int
    by_dictionary: bool


def decoded_limit(file_bytes: int) -> int:
    """Return the most bytes that a file of `file_bytes` may become."""
    return FREE_BYTES + RATIO * file_bytes


def decode(data: bytes, table: Table, *, where: str) -> pl.DataFrame:
    """Return the frame in `data`, or raise `PackError`: whatever the bytes are, nothing else."""
    import polars as pl  # noqa: PLC0415
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    where = shown(where)
    try:
        file = pq.ParquetFile(
            pa.BufferReader(data), pre_buffer=False, arrow_extensions_enabled=False,
            thrift_string_size_limit=1_000_000, thrift_container_size_limit=100_000,
        )  # fmt: skip
        _check_shape(file, table, where)
        _check_size(file.metadata, data, table, where)
        return pl.read_parquet(data, parallel="auto" if len(data) > _SMALL else "none")
    except PackError:
        raise
    # A hostile file may raise anything in the libraries, and a panic of Polars is no Exception.
    except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001
        raise PackError(f"{where}: not a readable Parquet file ({type(error).__name__})") from None


def _check_shape(file: Any, table: Table, where: str) -> None:
    """Refuse columns that are not the table's, by what the pages hold, not by what a name says."""
    found = [file.schema.column(i) for i in range(len(file.schema))]
    names = [c.path for c in found]
    if names != list(table.names):
        odd = sorted(set(names) ^ set(table.names)) or ["their order"]
        raise PackError(
            f"{where}: expected the columns of {table.name}, got others: "
            f"{shown(', '.join(odd[:8]))}"
        )
    for column, c in zip(found, table.columns, strict=True):
        flat = column.max_repetition_level == 0 and column.max_definition_level <= 1
        if not flat or column.physical_type != _PHYSICAL[c.kind]:
            raise PackError(
                f"{where}: expected column {c.name} as {c.kind}, got {column.physical_type}"
            )


def _check_size(metadata: Any, data: bytes, table: Table, where: str) -> None:
    limit = decoded_limit(len(data))
    total = int(metadata.num_rows) * len(table.columns) * CELL_BYTES
    if not 0 <= total <= limit:
        raise PackError(f"{where}: {metadata.num_rows} rows in {len(data)} bytes: refused")
    for g in range(metadata.num_row_groups):
        group = metadata.row_group(g)
        for i, c in enumerate(table.columns):
            chunk = group.column(i)
            if chunk.num_values != group.num_rows:
                raise PackError(f"{where}: {c.name} has other rows than its group: it was changed")
            total += _chunk_bytes(chunk, data, c.kind in {"str", "bytes"}, where)
            if total > limit:
                raise PackError(
                    f"{where}: {len(data)} bytes that would become more than {limit}: refused"
                )


def _chunk_bytes(chunk: Any, data: bytes, varies: bool, where: str) -> int:  # noqa: FBT001
    """Return the most bytes that one column of one row group can become."""
    if chunk.num_values == 0 == chunk.total_compressed_size:
        return 0  # a table without rows has no page
    start = int(chunk.data_page_offset)
    if chunk.dictionary_page_offset is not None and chunk.dictionary_page_offset > 0:
        start = min(start, int(chunk.dictionary_page_offset))
    end = start + int(chunk.total_compressed_size)
    if not 4 <= start <= end <= len(data):
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
    if values != chunk.num_values:
        raise PackError(f"{where}: a column announces other rows than it holds: it was changed")
    return total


def _page(data: bytes, at: int, end: int, where: str) -> tuple[_Page, int]:
    """Return the page whose header stands at `at`, and where its bytes begin."""
    ours = _OUR_PAGE.match(data, at, end)
    if ours is not None:
        size, packed, values = (_zigzag(n, 0, len(n))[0] for n in ours.group(1, 2, 3))
        page, at = _Page(_DATA, size, packed, values, by_dictionary=False), ours.end()
    else:
        header, at = read_struct(data, at, end)
        page = _said(header, where)
    if min(page.size, page.values) < 0 or not 0 <= page.packed <= end - at:
        raise PackError(f"{where}: a page is not one: the file was changed")
    return page, at


def _said(header: dict[int, Any], where: str) -> _Page:
    """Return what a parsed header says, or raise for a page that packs do not have."""
    kind, size, packed = header.get(1), header.get(2), header.get(3)
    if type(size) is not int or type(packed) is not int:
        raise PackError(f"{where}: a page is not one: the file was changed")
    if kind not in {_DATA, _INDEX, _DICTIONARY, _DATA_V2}:
        raise PackError(f"{where}: a page of an unknown kind: the file was changed")
    if kind in {_INDEX, _DICTIONARY}:
        return _Page(kind, size, packed, 0, by_dictionary=False)
    page = header.get(5 if kind == _DATA else 8)
    page = page if isinstance(page, dict) else {}
    count, encoding = page.get(1), page.get(2 if kind == _DATA else 4)
    if type(count) is not int or encoding not in _BOUNDED | _BY_DICTIONARY:
        raise PackError(f"{where}: a page in encoding {encoding}, which packs do not use")
    return _Page(kind, size, packed, count, by_dictionary=encoding in _BY_DICTIONARY)


# -- Thrift, compact -------------------------------------------------------------------------------


def read_struct(data: bytes, at: int, end: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Return the fields of the structure at `at`, by number, and where it ends.

    Raises `PackError` for what is none. Strings are skipped: a header's are statistics.
    """
    fields: dict[int, Any] = {}
    number = 0
    if depth > _DEEPEST:
        raise PackError("a Parquet header is nested too deep: refused")
    while True:
        head, at = _byte(data, at, end)
        if head == 0:
            return fields, at
        step, kind = head >> 4, head & 15
        if step:
            number += step
        else:
            number, at = _zigzag(data, at, end)
        fields[number], at = _value(data, at, end, kind, depth)


def _value(data: bytes, at: int, end: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind in {1, 2}:
        return kind == 1, at
    if kind == 3:
        return _byte(data, at, end)
    if kind in {4, 5, 6}:
        return _zigzag(data, at, end)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        size, at = _varint(data, at, end)
        return None, at + size
    if kind in {9, 10}:
        return _list(data, at, end, depth)
    if kind == 12:
        return read_struct(data, at, end, depth + 1)
    raise PackError("a Parquet header has a field of an unknown type: refused")


def _list(data: bytes, at: int, end: int, depth: int) -> tuple[Any, int]:
    head, at = _byte(data, at, end)
    size, kind = head >> 4, head & 15
    if size == 15:
        size, at = _varint(data, at, end)
    if size > _LONGEST or depth > _DEEPEST:
        raise PackError("a Parquet header has a list that is too long: refused")
    for _ in range(size):
        # In a list a truth is a byte of its own.
        _, at = _value(data, at, end, 3 if kind in {1, 2} else kind, depth + 1)
    return None, at


def _byte(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at >= end:
        raise PackError("a Parquet header ends early: the file was changed")
    return data[at], at + 1


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte, at = _byte(data, at, end)
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise PackError("a Parquet header has a number that is too long: refused")


def _zigzag(data: bytes, at: int, end: int) -> tuple[int, int]:
    value, at = _varint(data, at, end)
    return (value >> 1) ^ -(value & 1), at

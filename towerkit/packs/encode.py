"""Rows into the bytes of a Parquet file: the one shape that packs have, and nothing else.

Rule: flat optional columns, one row group, PLAIN pages without dictionary or statistics (a footer
would repeat prompts in clear). Written here because a general writer takes three times as long for
tables of some forty rows. What it writes is read by pyarrow, Polars and DuckDB in the tests.

Format: parquet-format 2.10, the Thrift compact protocol.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import Any

from towerkit.core.errors import StoreError
from towerkit.packs.tables import Column, Table

MAGIC = b"PAR1"
PAGE_ROWS = 1024
PAGE_BYTES = 2**31 - 1  # what a header can say
# A zstd context costs 15 µs: not worth it for a column of nulls or of a few bytes.
PACKED_FROM = 400
_PHYSICAL = {"bool": 0, "int": 2, "float": 5, "str": 6, "bytes": 6}
_PLAIN, _RLE, _ZSTD, _UNCOMPRESSED, _OPTIONAL, _UTF8 = 0, 3, 6, 0, 1, 0
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12
_CREATED_BY = b"towerkit pack format 1"

Values = Sequence[Any]
Compress = Callable[[bytes], bytes]


# -- Thrift, compact -------------------------------------------------------------------------------


def _varint(n: int) -> bytes:
    out = bytearray()
    while n > 0x7F:
        out.append(n & 0x7F | 0x80)
        n >>= 7
    out.append(n)
    return bytes(out)


@lru_cache(maxsize=4096)
def _int(n: int) -> bytes:
    """Return a number as zigzag; what is written here is never negative."""
    return _varint(n << 1)


def _text(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _list(kind: int, items: Sequence[bytes]) -> bytes:
    size = len(items)
    head = bytes([size << 4 | kind]) if size < 15 else bytes([0xF0 | kind]) + _varint(size)
    return head + b"".join(items)


def _struct(*fields: tuple[int, int, bytes]) -> bytes:
    """Return a structure: number, kind and bytes of each field, in ascending order."""
    out, last = [], 0
    for number, kind, data in fields:
        out += [bytes([number - last << 4 | kind]), data]
        last = number
    return b"".join([*out, b"\x00"])


# -- values ----------------------------------------------------------------------------------------


def _texts(values: Values) -> bytes:
    if values and values.count(values[0]) == len(values):  # a run's id, a model's name
        one: bytes = values[0].encode()
        return (_LENGTH(len(one)) + one) * len(values)
    return _binaries([v.encode() for v in values])


def _binaries(values: Values) -> bytes:
    lengths = map(_LENGTH, map(len, values))
    return b"".join(chain.from_iterable(zip(lengths, values, strict=True)))


_LENGTH = struct.Struct("<I").pack


def _integers(values: Values) -> bytes:
    return struct.pack(f"<{len(values)}q", *values)


def _floats(values: Values) -> bytes:
    return struct.pack(f"<{len(values)}d", *values)


def _bits(values: Values) -> bytes:
    """Return booleans, eight a byte, the first in the lowest bit."""
    number = int("".join(["1" if v else "0" for v in reversed(values)]) or "0", 2)
    return number.to_bytes((len(values) + 7) // 8, "little")


_ENCODE: dict[str, Callable[[Values], bytes]] = {
    "str": _texts, "bytes": _binaries, "int": _integers, "float": _floats, "bool": _bits,
}  # fmt: skip


def _page(c: Column, values: Values) -> bytes:
    """Return a page's bytes before compression: which values are there, and those."""
    nulls = values.count(None)
    if nulls == 0 or nulls == len(values):
        levels = _varint(len(values) << 1) + (b"\x00" if nulls else b"\x01")
        there = () if nulls else values
    else:
        levels = _varint((len(values) + 7) // 8 << 1 | 1) + _bits([v is not None for v in values])
        there = [v for v in values if v is not None]
    return _LENGTH(len(levels)) + levels + _ENCODE[c.kind](there)


def _header(rows: int, size: int, packed: int) -> bytes:
    return b"".join([
        b"\x15\x00\x15", _int(size), b"\x15", _int(packed), b"\x2c\x15", _int(rows),
        b"\x15\x00\x15\x06\x15\x06\x00\x00",
    ])  # fmt: skip


# -- the file --------------------------------------------------------------------------------------


@cache
def _schema(table: Table) -> bytes:
    root = _struct((3, _I32, _int(0)), (4, _BINARY, _text(b"schema")),
                   (5, _I32, _int(len(table.columns))))  # fmt: skip
    return _list(_STRUCT, [root, *map(_element, table.columns)])


def _element(c: Column) -> bytes:
    string = ((6, _I32, _int(_UTF8)), (10, _STRUCT, _struct((1, _STRUCT, _struct()))))
    return _struct(
        (1, _I32, _int(_PHYSICAL[c.kind])), (3, _I32, _int(_OPTIONAL)),
        (4, _BINARY, _text(c.name.encode())), *(string if c.kind == "str" else ()),
    )  # fmt: skip


@cache
def _described(c: Column) -> bytes:
    """Return what begins every ColumnChunk of `c`: its metadata up to type, encodings and name."""
    encodings = _list(_I32, [_int(_PLAIN), _int(_RLE)])
    path = _list(_BINARY, [_text(c.name.encode())])
    kind = _struct((1, _I32, _int(_PHYSICAL[c.kind])), (2, _LIST, encodings), (3, _LIST, path))
    return _struct((2, _I64, _int(0)), (3, _STRUCT, kind[:-1]))[:-1]


def _compressor() -> Compress:
    import pyarrow as pa  # noqa: PLC0415

    codec = pa.Codec("zstd", compression_level=1)
    return lambda data: codec.compress(data, asbytes=True)


def encode(table: Table, columns: Sequence[Values], *, pack: bool = True) -> tuple[bytes, int]:
    """Return the file of a table's columns, and the bytes that its pages become.

    The values must hold the table's rules. `pack` compresses the columns where that pays. Raises
    `StoreError` for a text that UTF-8 has no bytes for, and for one too large for a page.
    """
    rows = len(columns[0])
    out, at, chunks, before = [MAGIC], len(MAGIC), [], 0
    compress = _compressor() if pack and rows else None
    for c, values in zip(table.columns, columns, strict=True):
        if values.count(None) == rows:
            codec, data, size = _UNCOMPRESSED, *_nulls(rows, PAGE_ROWS)
        else:
            codec, data, size = _column(table, c, values, compress)
        out.append(data)
        chunks.append(_chunk(c, *map(_int, (codec, rows, size, len(data), at))))
        at += len(data)
        before += size
    groups = [_group(chunks, _int(before), _int(rows), _int(at - len(MAGIC)))] if rows else []
    footer = _footer(table, _int(rows), groups)
    return b"".join([*out, footer, _LENGTH(len(footer)), MAGIC]), before


def framed(table: Table, columns: Sequence[tuple[int, int, bytes]], rows: int) -> bytes:
    """Return a file of pages that were written before: of each column codec, size and pages.

    The pages hold the same `rows` of every column; their size is what they become.
    """
    out, at, chunks, before = [MAGIC], len(MAGIC), [], 0
    for c, (codec, size, pages) in zip(table.columns, columns, strict=True):
        out.append(pages)
        chunks.append(_chunk(c, *map(_int, (codec, rows, size, len(pages), at))))
        at, before = at + len(pages), before + size
    groups = [_group(chunks, _int(before), _int(rows), _int(at - len(MAGIC)))]
    footer = _footer(table, _int(rows), groups)
    return b"".join([*out, footer, _LENGTH(len(footer)), MAGIC])


@lru_cache(maxsize=256)
def _nulls(rows: int, page_rows: int) -> tuple[bytes, int]:
    """Return the pages of a column of nothing but nulls, and their size."""
    out = []
    for at in range(0, rows, page_rows):
        count = min(page_rows, rows - at)
        levels = _varint(count << 1) + b"\x00"
        page = _LENGTH(len(levels)) + levels
        out += [_header(count, len(page), len(page)), page]
    data = b"".join(out)
    return data, len(data)


def _column(
    table: Table, c: Column, values: Values, compress: Compress | None
) -> tuple[int, bytes, int]:
    """Return a column's codec, its pages, and their size before compression."""
    codec, out, size = _UNCOMPRESSED, [], 0
    for i in range(0, len(values), PAGE_ROWS):
        part = values[i : i + PAGE_ROWS]
        try:
            page = _page(c, part)
        except (UnicodeEncodeError, struct.error) as error:
            message = f"{table.name}: {c.name} does not fit the table: {error}"
            raise StoreError(message) from error
        if len(page) > PAGE_BYTES:
            raise StoreError(f"{table.name}: {c.name} is larger than a page can be")
        if i == 0 and compress is not None and len(page) >= PACKED_FROM:
            codec = _ZSTD
        data = page if compress is None or codec == _UNCOMPRESSED else compress(page)
        header = _header(len(part), len(page), len(data))
        out += [header, data]
        size += len(header) + len(page)
    return codec, b"".join(out), size


def _chunk(c: Column, codec: bytes, rows: bytes, size: bytes, packed: bytes, at: bytes) -> bytes:
    """Return a ColumnChunk: what is the same in every file, then codec, sizes and place."""
    return b"".join([
        _described(c), b"\x15", codec, b"\x16", rows, b"\x16", size, b"\x16", packed, b"\x26", at,
        b"\x00\x00",
    ])  # fmt: skip


def _group(chunks: list[bytes], size: bytes, rows: bytes, packed: bytes) -> bytes:
    return _struct(
        (1, _LIST, _list(_STRUCT, chunks)), (2, _I64, size), (3, _I64, rows),
        (5, _I64, _int(len(MAGIC))), (6, _I64, packed),
    )  # fmt: skip


def _footer(table: Table, rows: bytes, groups: list[bytes]) -> bytes:
    return _struct(
        (1, _I32, _int(2)), (2, _LIST, _schema(table)), (3, _I64, rows),
        (4, _LIST, _list(_STRUCT, groups)), (6, _BINARY, _text(_CREATED_BY)),
    )  # fmt: skip


# -- what was written, recognised ------------------------------------------------------------------

# A number as it is spelt above: zigzag, never negative, of at most 35 bits.
NUMBER = rb"([\x80-\xff]{0,4}[\x00-\x7f])"


@cache
def footer_pattern(table: Table) -> re.Pattern[bytes]:
    """Return what matches a footer that `encode` wrote for a table with rows, and no other.

    The groups are its numbers: rows; of each column codec, rows, size, packed size and place; size,
    rows and packed size of the row group.
    """
    hole = b"\xff\x00\xff"  # in none of the names
    chunks = [_chunk(c, hole, hole, hole, hole, hole) for c in table.columns]
    footer = _footer(table, hole, [_group(chunks, hole, hole, hole)])
    return re.compile(NUMBER.join(map(re.escape, footer.split(hole))), re.DOTALL)

"""Thrift's compact protocol, read into lists that can be changed and written again.

A structure is a list of `[field, type, value]`, a list `[type, [value, …]]`; integers are `int`,
strings `bytes`. For Parquet footers and page headers that lie.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

TRUE, FALSE, BYTE, INTS, DOUBLE, BINARY, LISTS, STRUCT = 1, 2, 3, (4, 5, 6), 7, 8, (9, 10), 12


def read(data: bytes, at: int = 0) -> tuple[list, int]:
    """Return the structure at `at`, and where it ends."""
    fields, number = [], 0
    while data[at] != 0:
        step, kind = data[at] >> 4, data[at] & 15
        at += 1
        if step:
            number += step
        else:
            number, at = _signed(data, at)
        value, at = _value(data, at, kind)
        fields.append([number, kind, value])
    return fields, at + 1


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in {TRUE, FALSE}:
        return kind == TRUE, at
    if kind == BYTE:
        return data[at], at + 1
    if kind in INTS:
        return _signed(data, at)
    if kind == DOUBLE:
        return data[at : at + 8], at + 8
    if kind == BINARY:
        size, at = _unsigned(data, at)
        return data[at : at + size], at + size
    if kind == STRUCT:
        return read(data, at)
    size, inner = data[at] >> 4, data[at] & 15
    at += 1
    if size == 15:
        size, at = _unsigned(data, at)
    items = []
    for _ in range(size):
        item, at = _value(data, at, BYTE if inner in {TRUE, FALSE} else inner)
        items.append(item)
    return [inner, items], at


def _unsigned(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(data, at)
    return (value >> 1) ^ -(value & 1), at


def written(fields: list) -> bytes:
    """Return the bytes of a structure."""
    out = bytearray()
    for number, kind, value in fields:
        tag = (FALSE, TRUE)[value] if kind in {TRUE, FALSE} else kind
        out += bytes([tag]) + _signed_bytes(number) + _bytes(kind, value)
    return bytes(out) + b"\0"


def _bytes(kind: int, value: Any) -> bytes:
    if kind in {TRUE, FALSE}:
        return b""
    if kind == BYTE:
        return bytes([value])
    if kind in INTS:
        return _signed_bytes(value)
    if kind == BINARY:
        return _unsigned_bytes(len(value)) + value
    if kind in LISTS:
        inner, items = value
        each = BYTE if inner in {TRUE, FALSE} else inner
        head = bytes([0xF0 | inner]) + _unsigned_bytes(len(items))
        once = {id(item): item for item in items}  # one item a million times is written once
        made = {key: _bytes(each, item) for key, item in once.items()}
        return head + b"".join([made[id(item)] for item in items])
    return written(value) if kind == STRUCT else value


def _unsigned_bytes(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _signed_bytes(value: int) -> bytes:
    return _unsigned_bytes((value << 1) ^ (value >> 63) if value < 0 else value << 1)


def get(fields: list, number: int) -> Any:
    """Return the value of a field."""
    return next(value for n, _, value in fields if n == number)


def put(fields: list, number: int, kind: int, value: Any) -> None:
    """Set a field, keeping the order of numbers."""
    fields[:] = sorted([f for f in fields if f[0] != number] + [[number, kind, value]])


def integers(fields: list, path: tuple[int, ...] = ()) -> Iterator[Any]:
    """Yield path, holder and place of every integer of a structure, to be read or replaced."""
    for field in fields:
        yield from _within(field, 2, field[1], (*path, field[0]))


def _within(holder: list, at: int, kind: int, path: tuple[int, ...]) -> Iterator[Any]:
    value = holder[at]
    if kind in INTS:
        yield path, holder, at
    elif kind == STRUCT:
        yield from integers(value, path)
    elif kind in LISTS:
        for i in range(len(value[1])):
            yield from _within(value[1], i, value[0], (*path, i))


# -- Parquet ---------------------------------------------------------------------------------------


def footer(data: bytes) -> tuple[bytes, list]:
    """Return a Parquet file's bytes before the footer, and the footer."""
    size = int.from_bytes(data[-8:-4], "little")
    return data[: -8 - size], read(data[-8 - size : -8])[0]


def joined(body: bytes, fields: list) -> bytes:
    """Return a Parquet file of a body and a footer."""
    end = written(fields)
    return body + end + len(end).to_bytes(4, "little") + b"PAR1"

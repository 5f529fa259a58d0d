"""Thrift's compact protocol, read from bytes that may be hostile.

Rule: what any reader of the format could take differently is refused: a field twice, a number that
does not fit, a nesting or a list that is longer than Parquet needs. So what is checked here is what
Polars will read.
"""

from __future__ import annotations

from typing import Any

from towerkit.core.errors import PackError

Fields = dict[int, Any]

_DEEPEST = 12
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _STRUCT = 1, 2, 3, 4, 5, 6, 7, 8, 12
_EARLY = "a Parquet header ends early: the file was changed"


def read_struct(data: bytes, at: int, end: int, depth: int = 0) -> tuple[Fields, int]:
    """Return the fields of the structure at `at`, by number, and where it ends.

    Integers are `int`, strings `bytes`, lists `list`, a double is not looked at. Raises `PackError`
    for what is none.
    """
    fields: Fields = {}
    number = 0
    if depth > _DEEPEST:
        raise PackError("a Parquet header is nested too deep: refused")
    while True:
        if at >= end:
            raise PackError(_EARLY)
        head, at = data[at], at + 1
        if head == 0:
            return fields, at
        step, kind = head >> 4, head & 15
        if step:
            number += step
        else:
            number, at = zigzag(data, at, end)
        if number in fields or not 0 < number < 1 << 15:
            raise PackError("a Parquet header has a field twice, or one of no number: refused")
        if _I16 <= kind <= _I64:  # most fields are
            fields[number], at = zigzag(data, at, end)
        else:
            fields[number], at = _value(data, at, end, kind, depth)


def _value(data: bytes, at: int, end: int, kind: int, depth: int) -> tuple[Any, int]:
    if _I16 <= kind <= _I64:
        return zigzag(data, at, end)
    if kind == _STRUCT:
        return read_struct(data, at, end, depth + 1)
    if kind in {_TRUE, _FALSE}:
        return kind == _TRUE, at
    if kind == _BYTE:
        return _byte(data, at, end)
    if kind in {9, 10}:
        return _list(data, at, end, depth)
    if kind not in {_DOUBLE, _BINARY}:
        raise PackError("a Parquet header has a field of an unknown type: refused")
    size, at = (8, at) if kind == _DOUBLE else varint(data, at, end)
    if size > end - at:
        raise PackError(_EARLY)
    return data[at : at + size] if kind == _BINARY else None, at + size


def _list(data: bytes, at: int, end: int, depth: int) -> tuple[list[Any], int]:
    head, at = _byte(data, at, end)
    size, kind = head >> 4, head & 15
    if size == 15:
        size, at = varint(data, at, end)
    if size > end - at or depth > _DEEPEST:
        raise PackError("a Parquet header has a list that is too long: refused")
    items = []
    for _ in range(size):
        # In a list a truth is a byte of its own.
        item, at = _value(data, at, end, _BYTE if kind in {_TRUE, _FALSE} else kind, depth + 1)
        items.append(item)
    return items, at


def _byte(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at >= end:
        raise PackError(_EARLY)
    return data[at], at + 1


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the unsigned number at `at`, and where it ends."""
    value = shift = 0
    while shift < 70:
        byte, at = _byte(data, at, end)
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    if value >= 1 << 64 or shift >= 70:
        raise PackError("a Parquet header has a number that is too long: refused")
    return value, at


def zigzag(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the signed number at `at`, and where it ends."""
    if at < end and data[at] < 128:  # nearly always
        value, at = data[at], at + 1
    else:
        value, at = varint(data, at, end)
    return (value >> 1) ^ -(value & 1), at

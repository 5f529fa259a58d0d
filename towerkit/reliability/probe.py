"""Looking at objects of other people without being hurt by them.

Rule: nothing here raises, whatever the object does when it is looked at, and nothing here does I/O:
a response is read only where its bytes are already in memory. Types are taken from `type()`, never
from `__class__`, and texts are cut to their first `LIMIT` characters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from itertools import islice
from types import UnionType
from typing import Any

LIMIT = 20_000
"""How much of a text is looked at: a provider says what is wrong in its first lines."""

# What looking at an object may raise. KeyboardInterrupt and SystemExit are not among it: they come
# from a signal, not from the object, and are the program's own business.
_ANY = (Exception, GeneratorExit, asyncio.CancelledError)

_MRO = type.__dict__["__mro__"].__get__
_NAME = type.__dict__["__name__"].__get__
_QUALNAME = type.__dict__["__qualname__"].__get__
_DEEP = 16  # links of a chain looked at; real chains have at most six


def get(value: Any, name: str) -> Any:
    """Return the attribute `name`, or None when there is none or reading it raises."""
    try:
        return getattr(value, name, None)
    except _ANY:
        return None


def is_a(value: Any, kind: type | UnionType) -> bool:
    """Say whether `value` is a `kind` by its true type, whatever its `__class__` claims."""
    return issubclass(type(value), kind)


def mro_names(value: Any) -> tuple[str, ...]:
    """Return the names of the classes of `value`, most derived first."""
    return tuple(_NAME(base) for base in _MRO(type(value)))


def kind_of(value: Any) -> str:
    """Return the qualified name of the type of `value`."""
    return str(_QUALNAME(type(value)))


def whole(value: Any) -> int | None:
    """Return `value` as an integer when it is one, or is a text of a few digits."""
    if is_a(value, bool):
        return None
    if is_a(value, int):
        return int.__index__(value)
    if is_a(value, str):
        text = str.__getitem__(value, slice(0, 8)).strip()
        return int(text) if text.removeprefix("-").isdecimal() and text.isascii() else None
    return None


# Exceptions that say what their arguments say, and would ask any object for its text.
_PLAIN = frozenset({str, int, float, bool, bytes, type(None)})
_OF_ARGUMENTS: tuple[Any, ...] = (BaseException.__str__, KeyError.__str__)


def _of_arguments(error: Any) -> str:
    args: Any = get(error, "args")
    if not is_a(args, tuple):
        return ""
    # The usual exception carries its text as its one argument: no copy of it is made.
    if len(args) == 1 and is_a(args[0], str):
        return str.__getitem__(args[0], slice(0, LIMIT))
    said = [str(a) if type(a) in _PLAIN else kind_of(a) for a in args[:20]]
    return ", ".join(said)[:LIMIT]


def text_of(value: Any) -> str:
    """Return the first `LIMIT` characters of what a text, bytes or an exception says."""
    try:
        if is_a(value, str):
            return str.__getitem__(value, slice(0, LIMIT))
        if is_a(value, bytes | bytearray | memoryview):
            return bytes(memoryview(value)[:LIMIT]).decode("utf-8", "replace")
        if type(value).__str__ in _OF_ARGUMENTS:
            return _of_arguments(value)
        return str.__getitem__(str(value), slice(0, LIMIT))
    except _ANY:
        return ""


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what it comes from, nearest first: causes, contexts, groups, reasons.

    The context counts unless `raise … from None` hid it. HTTP libraries also keep the reason in
    `reason`, `os_error`, `original_exception` or among their arguments.
    """
    queue: list[BaseException] = [error]
    seen: set[int] = set()
    while queue and len(seen) < _DEEP:
        link = queue.pop(0)
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        hidden = get(link, "__suppress_context__")
        names = ["__cause__", *([] if hidden else ["__context__"])]
        names += ["reason", "os_error", "original_exception"]
        found = [get(link, name) for name in names]
        for many in (get(link, "exceptions"), get(link, "args")):
            if is_a(many, tuple):
                found += tuple.__getitem__(many, slice(0, 3))
        queue += [f for f in found if is_a(f, BaseException)]


def body_of(error: Any) -> Any:
    """Return the body an exception carries, where it is already in memory; None without one."""
    for name in ("body", "details", "error", "json_body", "response_json", "raw_body"):
        value = get(error, name)
        if value is not None and (is_a(value, Mapping | list | str | bytes)):
            return value
    response = get(error, "response")
    if response is None:
        return None
    if is_a(response, Mapping | str | bytes):
        return response
    # `.content` and `.text` may read from the network: only what is there already is taken.
    inside = get(response, "__dict__")
    for name in ("_content", "_body", "body"):
        value = inside.get(name) if is_a(inside, dict) else None
        if is_a(value, Mapping | str | bytes):
            return value
    return None


def headers_of(error: Any) -> dict[str, str]:
    """Return the response headers an exception or a mapping carries, names in lower case."""
    response = get(error, "response")
    places = [get(response, "headers"), get(error, "headers"), get(error, "response_headers")]
    if is_a(response, Mapping):  # botocore
        places.append(_item(_item(response, "ResponseMetadata"), "HTTPHeaders"))
    places.append(get(error, "litellm_response_headers"))
    for place in places:
        found = plain_headers(place)
        if found:
            return found
    return {}


def plain_headers(headers: Any) -> dict[str, str]:
    """Return `headers` (a mapping or pairs) as a dictionary of short texts."""
    found: dict[str, str] = {}
    try:
        pairs = headers.items() if hasattr(type(headers), "items") else headers or ()
        for index, (name, value) in enumerate(pairs):
            if index >= 200:
                break
            found[text_of(name).lower()] = text_of(value)[:200]
    except _ANY:
        return found
    return found


def _item(value: Any, key: str) -> Any:
    try:
        return value[key]
    except _ANY:
        return None


def fields(value: Any) -> dict[str, Any]:
    """Return the first pairs of a mapping as a plain dictionary; empty for anything else."""
    if not is_a(value, Mapping):
        return {}
    return {text_of(key): item for key, item in items(value) if is_a(key, str)}


def items(value: Any) -> list[tuple[Any, Any]]:
    """Return the first pairs of a mapping, or of a sequence with None for keys."""
    try:
        if is_a(value, dict):
            return list(islice(dict.items(value), 200))
        if is_a(value, Mapping):
            return [(key, item) for key, item in islice(value.items(), 200)]
        return [(None, item) for item in islice(value, 200)]
    except _ANY:
        return []

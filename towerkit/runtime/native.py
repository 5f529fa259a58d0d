"""Objects of other libraries as evidence: plain values, and what an SDK's answer says.

Rule: by duck typing, no SDK is imported, and nothing an object does when it is looked at reaches
the agent. What has no plain form is written as its type's name, and said to be opaque.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import pathlib
from collections.abc import Mapping
from typing import Any

import msgspec

from towerkit.core.canonical import canonical_json
from towerkit.core.types import Response, Usage
from towerkit.cost.usage import read_counts
from towerkit.reliability.probe import get, is_a, items, kind_of, text_of, whole

_DEEP, _MANY = 20, 20_000  # levels, and values in all: a graph that refers to itself ends here
_SHORT_BYTES = 100_000


class _Count:
    """How many values were looked at, and whether any of them had no plain form."""

    def __init__(self) -> None:
        self.values, self.opaque = 0, False


def plain(value: Any) -> tuple[Any, bool]:
    """Return `value` as JSON can carry it, and whether a part of it is only its type's name.

    Knows mappings, sequences, sets, dataclasses, msgspec structs, pydantic models, enums, dates and
    times, paths, decimals and UTF-8 bytes.
    """
    count = _Count()
    return _plain(value, count, 0), count.opaque


def _plain(value: Any, count: _Count, depth: int) -> Any:
    if value is None or type(value) in {bool, int, float, str}:
        return value
    count.values += 1
    if depth <= _DEEP and count.values <= _MANY:
        try:
            return _known(value, count, depth + 1)
        except Exception:  # noqa: BLE001  a stranger's object may do anything; its type is recorded
            count.opaque = True
            return f"<{kind_of(value)}>"
    count.opaque = True
    return f"<{kind_of(value)}>"


def _known(value: Any, count: _Count, depth: int) -> Any:
    if type(value) is dict:  # what most values are, first
        return {_key(k): _plain(v, count, depth) for k, v in value.items()}
    if is_a(value, list | tuple):
        return [_plain(v, count, depth) for v in value]
    if is_a(value, enum.Enum):
        return _plain(value.value, count, depth)
    for kind in (str, int, float):
        if is_a(value, kind):
            return kind(value)
    if is_a(value, Mapping):
        return {_key(k): _plain(v, count, depth) for k, v in value.items()}
    if is_a(value, set | frozenset):
        return sorted((_plain(v, count, depth) for v in value), key=canonical_json)
    if callable(get(type(value), "model_dump")):
        return _plain(_dumped(value), count, depth)
    names = _field_names(value)
    if names is None:
        return _leaf(value)
    return {name: _plain(getattr(value, name), count, depth) for name in names}


def _field_names(value: Any) -> tuple[str, ...] | None:
    if is_a(value, msgspec.Struct):
        return value.__struct_fields__  # type: ignore[no-any-return]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return None
    return tuple(f.name for f in dataclasses.fields(value) if f.repr)


def _key(key: Any) -> str:
    return key if type(key) is str else text_of(key) or f"<{kind_of(key)}>"


def _dumped(value: Any) -> Any:
    try:
        return value.model_dump(mode="json", warnings=False)
    except Exception:  # noqa: BLE001  a field without a JSON form: its own type is named one level down
        return value.model_dump()


def _leaf(value: Any) -> Any:
    if is_a(value, dt.date | dt.time):
        return value.isoformat()
    if is_a(value, dt.timedelta):
        return value.total_seconds()
    if is_a(value, decimal.Decimal | pathlib.PurePath) or kind_of(value) == "UUID":
        return str(value)
    if is_a(value, bytes | bytearray) and len(value) <= _SHORT_BYTES:
        return bytes(value).decode()
    raise TypeError("no plain form")


# -- what an answer says ---------------------------------------------------------------------------

_PLACES = ("usage", "usage_metadata")
_MODELS = ("model", "model_version", "model_name", "response_metadata.model_name")
_IDS = ("id", "response_id", "provider_response_id")
_FINISHES = (
    "choices.finish_reason", "stop_reason", "candidates.finish_reason", "finish_reason",
    "incomplete_details.reason", "response_metadata.finish_reason",
)  # fmt: skip
_TEXTS = (
    "choices.message.content", "output_text", "candidates.content.parts", "content", "text",
)  # fmt: skip


def read_answer(value: Any) -> Response:
    """Return what an answer of OpenAI, Anthropic, Gemini or LangChain says, object or JSON.

    Usage that is missing, or is no count, is None. A text is an answer without usage.
    """
    if isinstance(value, Response):
        return value
    if is_a(value, str):
        return Response(content=str.__str__(value))
    return Response(
        content=_text(next((t for p in _TEXTS if (t := _at(value, p)) is not None), "")),
        finish_reason=_word(value, _FINISHES) or "stop",
        usage=_usage(next((u for p in _PLACES if (u := _at(value, p)) is not None), None)),
        model=_word(value, _MODELS),
        response_id=_word(value, _IDS),
    )


def count_at(usage: Any, *paths: str) -> int | None:
    """Return the first of `paths` in `usage` that is a count; None when none is."""
    for path in paths:
        number = _at(usage, path)
        found = whole(number) if is_a(number, int) else None
        if found is not None and 0 <= found < 2**63:
            return found
    return None


def _usage(usage: Any) -> Usage | None:
    found = read_counts(usage, get=_field).usage
    return None if found is None else found.plain


def _field(of: Any, names: str) -> Any:
    """Return the first of the fields `a|b`; a number as a plain one, a list as nothing."""
    found = next((v for n in names.split("|") if (v := _at(of, n)) is not None), None)
    if is_a(found, int) and not is_a(found, bool):
        return whole(found)
    return None if is_a(found, list | tuple) else found


def _at(value: Any, path: str) -> Any:
    """Return what is at a dotted path of attributes or keys; of a list, its first item counts."""
    for name in path.split("."):
        if is_a(value, list | tuple):
            value = next((item for _, item in items(value)[:1]), None)
        value = dict(items(value)).get(name) if is_a(value, Mapping) else get(value, name)
    return value


def _word(value: Any, paths: tuple[str, ...]) -> str | None:
    for path in paths:
        word = _at(value, path)
        word = word.value if is_a(word, enum.Enum) else word
        if is_a(word, str) and word:
            return text_of(word)[:200]
    return None


def _text(found: Any) -> str:
    """Return a text, or the texts of a list of parts."""
    if is_a(found, str):
        return str.__str__(found)
    parts = [item for _, item in items(found)] if is_a(found, list | tuple) else []
    texts = [part if is_a(part, str) else _at(part, "text") for part in parts]
    return "".join(str.__str__(text) for text in texts if is_a(text, str))

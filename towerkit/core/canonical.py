"""Canonical bytes and the digests over them.

Rule: equal values have equal bytes, on every machine and under every library version. JSON text is
sorted, compact UTF-8; strings that UTF-8 cannot carry (lone surrogates) fall back to ASCII escapes,
so every `str` a model can produce has one spelling.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Iterator
from typing import Any

import msgspec

_encode_json = msgspec.json.Encoder(order="deterministic").encode


def canonical_json(value: Any) -> bytes:
    """Encode `value` as canonical JSON: sorted keys, no spaces, UTF-8 where UTF-8 can.

    Accepts what JSON can carry, and what msgspec knows beyond it (structs, dataclasses, dates,
    identifiers); other objects are written as their type name, never as their `repr`, which may
    hold an address, a secret or a gigabyte. Never raises.
    """
    try:
        return _encode_json(value)
    except Exception:  # noqa: BLE001  a dataclass may hold anything: then type names stand for it
        text = json.dumps(_plain(value, [_MOST]), sort_keys=True, separators=(",", ":"))
        return text.encode()


# The most values of an object that msgspec refuses: a small cycle can unfold into more than fits.
_MOST = 100_000


def _plain(value: Any, left: list[int], depth: int = 0) -> Any:
    """Return `value` as JSON can carry it, asking none of its methods: they are the user's."""
    kind, left[0] = type(value), left[0] - 1
    if value is None or issubclass(kind, bool | str | int | float):
        return _scalar(value, kind)
    if depth > 60 or left[0] < 0:
        return "<too deep>" if depth > 60 else "<too much>"
    if issubclass(kind, dict):
        return {_key(k): _plain(v, left, depth + 1) for k, v in dict.items(value)}
    if issubclass(kind, msgspec.Struct):
        return {f: _plain(getattr(value, f), left, depth + 1) for f in kind.__struct_fields__}
    items = _items(value, kind)
    if items is None:
        return f"<{kind.__qualname__}>"
    found = [_plain(v, left, depth + 1) for v in items]
    return sorted(found, key=repr) if issubclass(kind, set | frozenset) else found


def _scalar(value: Any, kind: type) -> Any:
    if value is None or kind is bool:
        return value
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        return int.__int__(value)
    number = float.__float__(value)
    return number if math.isfinite(number) else repr(number)


def _items(value: Any, kind: type) -> Iterator[Any] | None:
    for plain in (list, tuple, set, frozenset):
        if issubclass(kind, plain):
            found: Iterator[Any] = plain.__iter__(value)
            return found
    return None


def _key(key: Any) -> str:
    kind = type(key)
    if issubclass(kind, str):
        return str.__str__(key)
    if issubclass(kind, int) and kind is not bool:
        return int.__repr__(int.__int__(key))
    return f"<{kind.__qualname__}>"


def ordered_json(value: Any) -> bytes:
    """Encode `value` as JSON with keys in the order they have.

    For answers on the tape: an agent may print a dictionary, and must print the same in a replay.
    """
    try:
        return msgspec.json.encode(value)
    except Exception:  # noqa: BLE001  as above
        return json.dumps(_plain(value, [_MOST]), separators=(",", ":")).encode()


def canonical_text(value: Any) -> str:
    """Return `canonical_json` as text: what goes into JSON columns."""
    return canonical_json(value).decode()


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal, 64 characters."""
    return hashlib.sha256(data).hexdigest()


def digest_of(value: Any) -> str:
    """Return the SHA-256 over the canonical JSON of `value`: names what ran, never content."""
    return sha256_hex(canonical_json(value))


def fingerprint(key: bytes, data: bytes) -> str:
    """Return a keyed digest of content, 32 hexadecimal characters (HMAC-SHA-256, 128 bits).

    Keyed because short content (a postcode, a yes) can be guessed from an unkeyed digest.
    """
    return hmac.digest(key, data, "sha256")[:16].hex()

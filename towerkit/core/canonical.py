"""Canonical bytes and the digests over them.

Rule: equal values have equal bytes, on every machine and under every library version. JSON text is
sorted, compact UTF-8; strings that UTF-8 cannot carry (lone surrogates) fall back to ASCII escapes,
so every `str` a model can produce has one spelling.
"""

from __future__ import annotations

import hashlib
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
        text = json.dumps(_Plain().of(value), sort_keys=True, separators=(",", ":"))
        return text.encode()


# The most values and levels of an object that msgspec refuses, and the longest integer in bits
# (Python spells no longer one): what is beyond is named, not written.
_MOST, _DEEPEST, _LONGEST = 100_000, 60, 14_000


class _Plain:
    """One value, made into what JSON can carry without asking any method: they are the user's."""

    def __init__(self) -> None:
        self._left = _MOST
        self._above: set[int] = set()  # ids of the containers around the one that is looked at

    def of(self, value: Any) -> Any:
        """Return `value` as JSON can carry it."""
        kind = type(value)
        self._left -= 1
        if value is None or issubclass(kind, bool | str | int | float):
            return _scalar(value, kind)
        if self._left < 0:
            return "<too much>"
        if id(value) in self._above:
            return "<cycle>"
        if len(self._above) >= _DEEPEST:
            return "<too deep>"
        self._above.add(id(value))
        try:
            return self._container(value, kind)
        finally:
            self._above.discard(id(value))

    def _container(self, value: Any, kind: type) -> Any:
        if issubclass(kind, dict):
            return {key_text(k): self.of(v) for k, v in dict.items(value)}
        if issubclass(kind, msgspec.Struct):
            return {f: self.of(getattr(value, f)) for f in kind.__struct_fields__}
        items = _items(value, kind)
        if items is None:
            return f"<{kind.__qualname__}>"
        found = [self.of(v) for v in items]
        return sorted(found, key=repr) if issubclass(kind, set | frozenset) else found


def _scalar(value: Any, kind: type) -> Any:
    if value is None or kind is bool:
        return value
    if issubclass(kind, str):
        return str.__str__(value)
    if issubclass(kind, int):
        number = int.__int__(value)
        bits = number.bit_length()
        return number if bits <= _LONGEST else f"<integer of {bits} bits>"
    real = float.__float__(value)
    return real if math.isfinite(real) else repr(real)


def _items(value: Any, kind: type) -> Iterator[Any] | None:
    for plain in (list, tuple, set, frozenset):
        if issubclass(kind, plain):
            found: Iterator[Any] = plain.__iter__(value)
            return found
    return None


def key_text(key: Any) -> str:
    """Return a mapping's key as JSON has it; no method of it is asked."""
    kind = type(key)
    if issubclass(kind, str):
        return str.__str__(key)
    if issubclass(kind, int) and kind is not bool:
        return str(_scalar(key, kind))
    return f"<{kind.__qualname__}>"


def ordered_json(value: Any) -> bytes:
    """Encode `value` as JSON with keys in the order they have.

    For answers on the tape: an agent may print a dictionary, and must print the same in a replay.
    """
    try:
        return msgspec.json.encode(value)
    except Exception:  # noqa: BLE001  as above
        return json.dumps(_Plain().of(value), separators=(",", ":")).encode()


def read_json(data: bytes) -> Any:
    """Return what JSON `data` says; raises `ValueError` where it is none."""
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return json.loads(data)  # lone surrogates, which msgspec does not read


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
    """Return a keyed digest of content, 32 hexadecimal characters (keyed BLAKE2b, RFC 7693).

    Keyed because short content (a postcode, a yes) can be guessed from an unkeyed digest. BLAKE2b
    takes a key by itself and costs half of what HMAC does; two of them go with every call.
    """
    return hashlib.blake2b(data, key=key, digest_size=16).hexdigest()

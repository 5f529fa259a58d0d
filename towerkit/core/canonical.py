"""Canonical bytes and the digests over them.

Rule: equal values have equal bytes, on every machine and under every library version. JSON text is
sorted, compact UTF-8; strings that UTF-8 cannot carry (lone surrogates) fall back to ASCII escapes,
so every `str` a model can produce has one spelling.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import msgspec

_encode_json = msgspec.json.Encoder(order="deterministic").encode


def canonical_json(value: Any) -> bytes:
    """Encode `value` as canonical JSON: sorted keys, no spaces, UTF-8 where UTF-8 can.

    Accepts what JSON can carry plus msgspec structs; other objects are written as their type name,
    never as their `repr`, which may hold an address, a secret or a gigabyte.
    """
    try:
        return _encode_json(value)
    except (TypeError, UnicodeEncodeError, ValueError, msgspec.MsgspecError, RecursionError):
        return json.dumps(
            _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True
        ).encode()


def _plain(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else repr(value)  # noqa: PLR0124  NaN
    if depth > 60:
        return "<too deep>"
    if isinstance(value, dict):
        return {
            k if isinstance(k, str) else repr(k): _plain(v, depth + 1) for k, v in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v, depth + 1) for v in value]
    if isinstance(value, msgspec.Struct):
        return {f: _plain(getattr(value, f), depth + 1) for f in value.__struct_fields__}
    return f"<{type(value).__qualname__}>"


def ordered_json(value: Any) -> bytes:
    """Encode `value` as JSON with keys in the order they have.

    For answers on the tape: an agent may print a dictionary, and must print the same in a replay.
    """
    try:
        return msgspec.json.encode(value)
    except (TypeError, UnicodeEncodeError, ValueError, msgspec.MsgspecError, RecursionError):
        return json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=True).encode()


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

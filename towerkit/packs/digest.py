"""Logical digests: canonical row bytes, salted Merkle leaves, one root a table, one root a pack.

Rule: a digest is over values, never over Parquet bytes, so it survives compaction, another
compression and another pyarrow.

A row is the MessagePack array of its values in column order (shortest form, 64-bit floats),
without `salt`. A leaf is SHA-256(0x00 ‖ salt ‖ row), an inner node SHA-256(0x01 ‖ left ‖ right), an
odd node is carried up unchanged, and the tree over no rows is SHA-256 of nothing (in the manner of
RFC 6962, section 2.1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from towerkit.core.canonical import canonical_json

# What is said of a pack after its root is known: who sealed it, and what was redacted since.
OUTSIDE_ROOT = frozenset(
    {"root", "signature", "redactions", "redactions_digest", "redactions_signature"}
)

_pack = msgspec.msgpack.Encoder().encode


def leaf(salt: bytes, values: Sequence[Any]) -> bytes:
    """Return the leaf hash of one row."""
    return hashlib.sha256(b"\x00" + salt + _pack(values)).digest()


def merkle_root(leaves: Iterable[bytes]) -> bytes:
    """Return the Merkle root over `leaves`, 32 bytes."""
    level = list(leaves)
    if not level:
        return hashlib.sha256(b"").digest()
    while len(level) > 1:
        paired = [
            hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest()
            for i in range(0, len(level) - 1, 2)
        ]
        level = paired + level[-1:] if len(level) % 2 else paired
    return level[0]


class GrowingRoot:
    """The Merkle root over leaves that come one after the other: of the tree of `merkle_root`.

    Kept are the roots of whole subtrees, the larger ones first: one a doubling of the leaves.
    """

    def __init__(self) -> None:
        """Start with no leaf."""
        self.leaves = 0
        self._whole: list[bytes] = []

    def add(self, leaves: Iterable[bytes]) -> None:
        """Take the next leaves."""
        whole = self._whole
        for node in leaves:
            self.leaves += 1
            above, number = node, self.leaves
            while number % 2 == 0:
                above = hashlib.sha256(b"\x01" + whole.pop() + above).digest()
                number //= 2
            whole.append(above)

    def root(self) -> bytes:
        """Return the root over the leaves so far."""
        if not self._whole:
            return hashlib.sha256(b"").digest()
        node = self._whole[-1]
        for left in reversed(self._whole[:-1]):
            node = hashlib.sha256(b"\x01" + left + node).digest()
        return node


def table_root(rows: Iterable[Sequence[Any]]) -> str:
    """Return the root of a table whose rows end with their salt, in hexadecimal."""
    return merkle_root(leaf(row[-1], row[:-1]) for row in rows).hex()


def pack_root(manifest: dict[str, Any]) -> str:
    """Return the root digest of a pack: over the manifest without what depends on file bytes."""
    logical = {k: v for k, v in manifest.items() if k not in OUTSIDE_ROOT}
    logical["tables"] = {
        name: {"rows": t["rows"], "root": t["root"]} for name, t in manifest["tables"].items()
    }
    return hashlib.sha256(canonical_json(logical)).hexdigest()

"""The bytes of a large file of a pack, without holding them.

Rule: the file is read once from its start, and must be the manifest's. Blocks that are read again
later must be those that were read then, so what is used was verified, whatever is done to the file.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from functools import lru_cache
from pathlib import Path
from typing import overload

from towerkit.core.errors import PackError
from towerkit.packs.files import open_member, shown, why

_BLOCK, _BLOCKS = 64 * 1024, 32  # bytes of a block, and how many are in memory


class Blocks:
    """What `bytes` of the file would say when they are measured, indexed or cut."""

    def __init__(self, folder: Path, name: str, *, size: int, sha256: str) -> None:
        """Open and verify the file; raise `PackError` where it is not of this size and digest."""
        self._path, self._size = folder / name, size
        self._file = open_member(folder, name, size=size)
        weakref.finalize(self, self._file.close)
        self._digests: list[bytes] = []
        self._block = lru_cache(_BLOCKS)(self._read)
        whole = hashlib.sha256()
        for at in range(0, size, _BLOCK):
            block = self._pread(at)
            whole.update(block)
            self._digests.append(hashlib.blake2b(block).digest())
        if whole.hexdigest() != sha256:
            raise PackError(
                f"{shown(self._path)}: its SHA-256 is not the manifest's: the file was changed"
            )

    def _pread(self, at: int) -> bytes:
        wanted = min(_BLOCK, self._size - at)
        try:
            block = os.pread(self._file.fileno(), wanted, at)
        except OSError as error:
            raise PackError(f"cannot read {shown(self._path)}: {why(error)}") from None
        if len(block) != wanted:
            raise PackError(f"{shown(self._path)}: it is shorter now: the file was changed")
        return block

    def _read(self, number: int) -> bytes:
        block = self._pread(number * _BLOCK)
        if hashlib.blake2b(block).digest() != self._digests[number]:
            raise PackError(f"{shown(self._path)}: the file was changed since it was opened")
        return block

    def __len__(self) -> int:
        """Return the size of the file."""
        return self._size

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> bytes: ...
    def __getitem__(self, at: int | slice) -> int | bytes:
        """Return one byte, or those of a range."""
        if isinstance(at, int):
            return self._block(at // _BLOCK)[at % _BLOCK]
        start, stop, _ = at.indices(self._size)
        if stop <= start:
            return b""
        first, last = start // _BLOCK, (stop - 1) // _BLOCK
        parts = [self._block(number) for number in range(first, last + 1)]
        return b"".join(parts)[start - first * _BLOCK : stop - first * _BLOCK]

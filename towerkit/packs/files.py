"""Bytes from a folder that may be hostile: regular files only, of a bounded size, behind no link.

Rule: a name is one of the names of the format, never one from outside; it is opened relative to its
folder, and what is not a regular file is refused before it is opened (opening a device or a pipe
has effects of its own).
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from towerkit.core.errors import PackError

MAX_FILE_BYTES = 512 * 1024 * 1024
MAX_MANIFEST_BYTES = 4 * 1024 * 1024


@contextlib.contextmanager
def opened_folder(path: Path) -> Iterator[int]:
    """Open a folder that is no link; yield its descriptor. Raises `PackError` in one sentence."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise PackError(f"expected the folder of a pack, got {shown(path)}: {why(error)}") from None
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_member(
    folder: Path, name: str, *, most: int = MAX_FILE_BYTES, size: int | None = None
) -> bytes:
    """Return the bytes of the regular file `name` in `folder`; `size` is what it must have."""
    with open_member(folder, name, most=most, size=size) as file:
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise PackError(f"cannot read {shown(folder / name)}: {why(error)}") from None
    if len(data) > most:
        raise PackError(f"{shown(folder / name)}: larger than {most} bytes, refused")
    return data


def open_member(
    folder: Path, name: str, *, most: int = MAX_FILE_BYTES, size: int | None = None
) -> BinaryIO:
    """Open the regular file `name` in `folder`; `size` is what it must have."""
    with opened_folder(folder) as at:
        try:
            known = os.stat(name, dir_fd=at, follow_symlinks=False)
            _refuse(folder / name, known, most=most, size=size)
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.fdopen(os.open(name, flags, dir_fd=at), "rb")
        except OSError as error:
            raise PackError(f"cannot read {shown(folder / name)}: {why(error)}") from None
    try:
        # Again: it may have been exchanged between the look and the opening.
        _refuse(folder / name, os.fstat(file.fileno()), most=most, size=size)
    except BaseException:
        file.close()
        raise
    return file


def _refuse(path: Path, found: os.stat_result, *, most: int, size: int | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "a link" if stat.S_ISLNK(found.st_mode) else "no regular file"
        raise PackError(f"{shown(path)}: expected a regular file, got {kind}")
    if found.st_size > most:
        raise PackError(f"{shown(path)}: {found.st_size} bytes, more than {most}: refused")
    if size is not None and found.st_size != size:
        raise PackError(
            f"{shown(path)}: expected {size} bytes as the manifest says, got {found.st_size}: "
            "the file was changed"
        )


def members(folder: Path) -> set[str]:
    """Return the names in `folder`."""
    with opened_folder(folder) as at:
        return set(os.listdir(at))  # noqa: PTH208  of a descriptor


def shown(path: Path | str) -> str:
    """Return a path as a sentence can carry it."""
    text = str(path)
    return ascii(text if len(text) <= 200 else f"{text[:160]}…{text[-39:]}")[1:-1]


def why(error: OSError | ValueError) -> str:
    """Return what an error says, as part of a sentence."""
    return getattr(error, "strerror", None) or str(error)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step of the file system; return False where it has none."""
    import ctypes  # noqa: PLC0415  only who redacts pays for it

    paths = os.fsencode(one), os.fsencode(other)
    library = ctypes.CDLL(None, use_errno=True)
    if hasattr(library, "renameat2"):
        here = -100  # AT_FDCWD
        done = library.renameat2(here, paths[0], here, paths[1], 2)  # RENAME_EXCHANGE
    elif hasattr(library, "renamex_np"):
        done = library.renamex_np(paths[0], paths[1], 2)  # RENAME_SWAP
    else:
        return False
    return bool(done == 0)

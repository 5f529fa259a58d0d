"""Files of a pack are synced together: all of them, whatever happens, before anything is closed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from towerkit.packs import writer
from towerkit.packs.writer import Together

NAMES = ["a", "b", "c", "d"]


class Ending:
    """Threads of an interpreter that is ending: one more begins, then none."""

    def __init__(self, threads):
        self.threads, self.left = threads, 1

    def submit(self, *work):
        """Begin a thread, or say that it is over."""
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("cannot schedule new futures after interpreter shutdown")
        return self.threads.submit(*work)


@pytest.fixture
def synced(monkeypatch):
    """Return the names that are synced, each while it is open."""
    seen, real = [], os.fsync

    def fsync(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        seen.append(name)
        real(descriptor)
        if name == "broken":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def written(folder, names):
    """Write and sync files, and return how many descriptors that left open."""
    folder.mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    try:
        with Together(durable=True) as files:
            for name in names:
                files.add(folder / name, name.encode())
            files.sync(folder)
    finally:
        left = len(list(Path("/proc/self/fd").iterdir())) - before
    return left


@pytest.mark.parametrize("ending", [False, True])
def test_every_file_and_their_folder_are_synced(tmp_path, synced, monkeypatch, ending):
    """With threads, and where there are none any more."""
    if ending:
        threads = Ending(writer._syncing())
        monkeypatch.setattr(writer, "_syncing", lambda: threads)
    assert written(tmp_path / "pack", NAMES) == 0
    assert sorted(synced) == [*NAMES, "pack"]
    assert [(tmp_path / "pack" / n).read_text() for n in NAMES] == NAMES


@pytest.mark.parametrize("at", range(3))
def test_an_error_of_one_is_raised_when_all_are_through(tmp_path, synced, at):
    """A failed sync is not tried again, and keeps no other from being tried."""
    names = ["a", "b"]
    names.insert(at, "broken")
    with pytest.raises(OSError, match="Input/output error"):
        written(tmp_path / "pack", names)
    assert sorted(synced) == ["a", "b", "broken", "pack"]


def test_without_durability_nothing_is_synced(tmp_path, synced, monkeypatch):
    """Nor is the system asked to write at once."""
    monkeypatch.setattr(os, "posix_fadvise", None)
    with Together(durable=False) as files:
        files.add(tmp_path / "a", b"a")
        files.sync(tmp_path)
    assert synced == []

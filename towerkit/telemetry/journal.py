"""The journal: what a run has recorded so far, on disk before the agent goes on.

    <store>/journal/<run_id>.journal

Rule: nothing here ever raises into the agent. A write that fails is not tried again on that file:
the journal stops, says so, and the run goes on in memory. The file is there only while its run is:
sealing the pack removes it, a killed process leaves it for `telemetry.recover`.

The file is `MAGIC`, then frames: length and CRC-32 of what follows (little-endian, 4 bytes each),
then a MessagePack array of records. A record is an array that begins with its kind; content is
redacted before it becomes one. A torn last frame is recognised and dropped: it was never
acknowledged. The owner holds a lock on the file (flock), so that nobody recovers a run that lives.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import struct
import threading
import weakref
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from towerkit.privacy.log import log

MAGIC = b"towerkit journal 1\n"
SUFFIX = ".journal"
FRAME = struct.Struct("<II")
GROUP_S = 0.05
# Records that may wait for the writer: whoever adds more writes them, so memory is bounded and an
# agent that is faster than the disk goes at the disk's pace.
MOST_WAITING = 4096

Mode = Literal["sync", "grouped", "off"]
_encode = msgspec.msgpack.Encoder().encode


def journal_folder(store: Path) -> Path:
    """Return where the journals of a store are."""
    return store / "journal"


class Journal:
    """The journal of one run. Threads may add and flush at once.

    `sync`: `flush` returns when the operating system has the records, so a kill of the process
    loses nothing that was acknowledged. `grouped`: they are handed to a writer thread, and a kill
    may lose the last 50 ms; more than `MOST_WAITING` do not wait. In both, `durable` syncs the file
    to the disk every 50 ms, for what a power failure may take.
    """

    def __init__(self, store: Path, run_id: str, *, mode: Mode, durable: bool) -> None:
        """Create the file, locked. A store that cannot be written gives a journal that is off."""
        self.path = journal_folder(store) / f"{run_id}{SUFFIX}"
        self.error: OSError | None = None
        self.lost = 0
        self.due = False  # whether the writer knows that there is something
        self._grouped, self._durable = mode == "grouped", durable
        self._records: deque[Any] = deque()
        self._writing = threading.Lock()
        self._file: int | None = None
        self.add = self._records.append
        # Set by who records: makes a record of what is none yet; None for nothing.
        self.prepare: Callable[[Any], tuple[Any, ...] | None] = _no_record
        self._head = MAGIC  # goes with the first frame: one write less
        try:
            self._file = self._created()
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._stop(error)
        _OPEN.add(self)

    def _created(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        try:
            return os.open(self.path, flags, 0o600)
        except FileNotFoundError:  # the first run of a store
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return os.open(self.path, flags, 0o600)

    def soon(self) -> None:
        """Have what was added written within 50 ms, if nothing else writes it before."""
        if not self.due:
            _WRITER.wake(self)

    def flush(self) -> None:
        """Bring what was added to the operating system, or to the writer in grouped mode."""
        if not self._grouped or len(self._records) > MOST_WAITING:
            self.write()
        if not self.due and (self._grouped or (self._durable and self._file is not None)):
            _WRITER.wake(self)

    def write(self) -> None:
        """Write every record added so far, as one frame."""
        with self._writing:
            records = self._taken()
            if not records:
                return
            if self._file is None:
                self.lost += len(records)
                return
            try:
                payload = _encode(records)
                head, self._head = self._head, b""
                self._write(head + FRAME.pack(len(payload), zlib.crc32(payload)) + payload)
            except OSError as error:
                self.lost += len(records)
                self._stop(error)

    def _taken(self) -> list[tuple[Any, ...]]:
        """Take what was added so far, as it is written."""
        taken, added, prepare = [], self._records, self.prepare
        while added:
            record = added.popleft()
            if type(record) is tuple:
                taken.append(record)
                continue
            try:
                record = prepare(record)
            except Exception:
                self.lost += 1
                log.exception("journal %s: a record could not be made", self.path.name)
            else:
                if record is not None:
                    taken.append(record)
        return taken

    def _write(self, data: bytes) -> None:
        assert self._file is not None  # noqa: S101  the callers looked
        done = os.write(self._file, data)
        while done < len(data):
            done += os.write(self._file, data[done:])

    def sync(self) -> None:
        """Sync the file to the disk; a sync that fails is the last."""
        with self._writing:
            if self._file is not None:
                try:
                    getattr(os, "fdatasync", os.fsync)(self._file)  # macOS has no fdatasync
                except OSError as error:
                    self._stop(error)

    def close(self, *, remove: bool) -> None:
        """Write what is left and close the file; remove it where the pack has what it held."""
        self.write()
        _OPEN.discard(self)
        with self._writing:
            self._close()
        if remove:
            try:
                self.path.unlink(missing_ok=True)
            except OSError as error:
                log.warning("journal %s could not be removed: %s", self.path.name, error)

    def forget(self) -> None:
        """Let go of the file without writing: it belongs to the process we were forked from."""
        self._records.clear()
        self._writing = threading.Lock()
        self._close()

    def _stop(self, error: OSError) -> None:
        if self.error is None:
            self.error = error
            log.error("journal %s stopped: %s", self.path.name, error)
        self._close()

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            try:
                os.close(file)
            except OSError as error:
                self.error = self.error or error


def _no_record(added: Any) -> tuple[Any, ...] | None:
    raise TypeError(f"expected a record, got {type(added).__name__}")


class _Writer:
    """The thread that writes and syncs journals in groups; started when first needed."""

    def __init__(self) -> None:
        self._due: list[Journal] = []
        self._lock = threading.Lock()
        self._awake = threading.Event()
        self._thread: threading.Thread | None = None

    def wake(self, journal: Journal) -> None:
        """Have `journal` written and synced within 50 ms."""
        with self._lock:
            self._due.append(journal)
            journal.due = True
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, daemon=True, name="towerkit-journal"
                )
                self._thread.start()
        self._awake.set()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self._awake.wait()
            pause.wait(GROUP_S)
            self.drain()

    def drain(self) -> None:
        """Write and sync what is due."""
        with self._lock:
            due, self._due = self._due, []
            self._awake.clear()
        for journal in due:
            journal.due = False  # before it is written: what is added now asks again
            journal.write()
            if journal._durable:  # noqa: SLF001  one module
                journal.sync()


_OPEN: weakref.WeakSet[Journal] = weakref.WeakSet()
_WRITER = _Writer()


def _forked() -> None:
    """Keep a child, which has its parent's memory and files, from writing either twice."""
    global _WRITER  # noqa: PLW0603  threads do not survive a fork: a new writer, one a process
    _WRITER = _Writer()
    for journal in list(_OPEN):
        journal.forget()


os.register_at_fork(after_in_child=_forked)
atexit.register(lambda: _WRITER.drain())  # noqa: PLW0108  whichever writer it is then


# -- reading ---------------------------------------------------------------------------------------


def records(path: Path) -> Iterator[tuple[Any, ...]]:
    """Yield the records of a journal up to the first frame that is torn or foreign."""
    data = path.read_bytes()
    if not data.startswith(MAGIC):
        return
    at = len(MAGIC)
    while at + FRAME.size <= len(data):
        length, checksum = FRAME.unpack_from(data, at)
        payload = data[at + FRAME.size : at + FRAME.size + length]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            return
        yield from msgspec.msgpack.decode(payload, type=list[tuple[Any, ...]])
        at += FRAME.size + length


def span_ids(path: Path) -> set[str]:
    """Return the ids of the spans that a journal knows, ended or not."""
    return {r[1] if r[0] == "open" else r[1][0] for r in records(path) if r[0] in {"open", "close"}}


def abandoned(store: Path) -> Iterator[Path]:
    """Yield the journals of a store whose process is gone, each locked while it is looked at."""
    for path in sorted(journal_folder(store).glob(f"*{SUFFIX}")):
        try:
            file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue  # sealed meanwhile, or no journal
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue  # its run lives
        else:
            yield path
        finally:
            os.close(file)

"""Packs are committed off the thread of who made them, and read only once they are there.

Rule: one thread a process commits, in order. Whoever reads a store in this process first waits for
what this process is about to put into it, so nobody sees the difference; and when the interpreter
ends it ends after the last commit.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# Runs of a store that may wait for their commit. The next one waits: more would only be memory.
BACKLOG = 32


class _Committer:
    """The thread of this process; started when first needed."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="towerkit-commit")
        self._pending: dict[str, set[Future[Any]]] = {}
        self._lock = threading.Lock()
        self._thread: int | None = None

    def submit(self, root: str, work: Callable[[], T]) -> Future[T]:
        self._make_room(root)
        try:
            future = self._pool.submit(self._on_thread, work)
        except RuntimeError:  # the interpreter is ending and starts no more work: do it here
            future = Future()
            future.set_result(work())
            return future
        with self._lock:
            self._pending.setdefault(root, set()).add(future)
        future.add_done_callback(lambda done: self._forget(root, done))
        return future

    def _on_thread(self, work: Callable[[], T]) -> T:
        self._thread = threading.get_ident()
        return work()

    def _forget(self, root: str, done: Future[Any]) -> None:
        with self._lock:
            pending = self._pending.get(root, set())
            pending.discard(done)
            if not pending:
                self._pending.pop(root, None)

    def _outstanding(self, root: str) -> list[Future[Any]]:
        if root not in self._pending or threading.get_ident() == self._thread:
            return []
        with self._lock:
            return [f for f in self._pending.get(root, ()) if not f.done()]

    def _make_room(self, root: str) -> None:
        while len(outstanding := self._outstanding(root)) >= BACKLOG:
            wait(outstanding, return_when=FIRST_COMPLETED)

    def wait(self, root: str) -> None:
        """Wait for the commits into `root` that are pending now."""
        wait(self._outstanding(root))


_COMMITTER = _Committer()


def _forked() -> None:
    global _COMMITTER  # noqa: PLW0603  threads do not survive a fork; the parent commits what it has
    _COMMITTER = _Committer()


os.register_at_fork(after_in_child=_forked)


def commit_later(root: Path, work: Callable[[], T]) -> Future[T]:
    """Have `work`, a commit into the store at `root`, done on the committing thread."""
    return _COMMITTER.submit(str(root.absolute()), work)


def wait_for_commits(root: Path) -> None:
    """Return once nothing that this process has begun to put into `root` is outstanding."""
    _COMMITTER.wait(str(root.absolute()))

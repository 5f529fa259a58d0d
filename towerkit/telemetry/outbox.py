"""Packs on their way to an OpenTelemetry backend, beside the agent.

Rule: the agent never waits for a backend. A thread exports sealed packs one after another; when the
backend is slower than the runs, packs beyond the limit are not exported, and that is counted and
said: each is still in the store.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any

from towerkit.privacy.log import log

if TYPE_CHECKING:
    from towerkit.packs.store import Pack


WAITING_PACKS = 1_000
EXIT_S = 5.0  # what a process that ends gives the backend


class Outbox:
    """The packs that wait for one exporter. `exported`, `failed` and `dropped` count them."""

    def __init__(self, exporter: Any, *, content: bool) -> None:
        """Export with `exporter`; the thread starts with the first pack."""
        from towerkit.telemetry.otel import detected  # noqa: PLC0415  only for who exports

        detected()
        self._exporter, self._content = exporter, content
        self.exported = self.failed = self.dropped = 0
        self._fresh()
        _ALL.add(self)

    def _fresh(self) -> None:
        self._waiting: deque[Pack] = deque()
        self._busy = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def put(self, pack: Pack) -> None:
        """Have a pack exported, or counted as dropped."""
        with self._changed:
            if len(self._waiting) >= WAITING_PACKS:
                self.dropped += 1
                log.warning(
                    "run %s is not exported to OpenTelemetry: %d packs wait for the backend; "
                    "it is in the store", pack.run_id, WAITING_PACKS,
                )  # fmt: skip
                return
            self._waiting.append(pack)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="towerkit-otel")
                try:
                    self._thread.start()
                except RuntimeError:  # the interpreter is ending: no thread comes any more
                    self._run()
            self._changed.notify_all()

    def flush(self, timeout_s: float) -> bool:
        """Wait until every pack was handed over; return whether that was within the time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._waiting and not self._busy, timeout=timeout_s
            )

    def _run(self) -> None:
        from towerkit.telemetry.otel import export  # noqa: PLC0415  costs an agent nothing before

        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if not self._waiting:
                    self._thread = None  # the next pack starts another
                    return
                pack, self._busy = self._waiting.popleft(), True
            taken = export(pack, self._exporter, content=self._content)
            self.exported += taken
            self.failed += not taken


_ALL: weakref.WeakSet[Outbox] = weakref.WeakSet()


def _forked() -> None:
    """Leave to the parent what is the parent's: its packs are exported once."""
    for outbox in list(_ALL):
        outbox._fresh()  # noqa: SLF001  one module


def _last_call() -> None:
    for outbox in list(_ALL):
        if not outbox.flush(EXIT_S):
            log.warning("the process ended before OpenTelemetry had all runs; the store has them")


os.register_at_fork(after_in_child=_forked)
atexit.register(_last_call)

"""Which run is open here: in this thread or task, and in this process.

Rule: a run belongs to the process that opened it. A forked child has its parent's memory, open
spans included; they are its parent's to end.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import msgspec

from towerkit.cost.budget import Chain
from towerkit.telemetry.recorder import OpenSpan

if TYPE_CHECKING:
    from towerkit.runtime.run import Run
    from towerkit.runtime.tower import Tower


class Open(msgspec.Struct, frozen=True):
    """An open span of a run, the names of the steps above it, and what was open around it.

    `chain` are the accounts of the budget that were opened with it.
    """

    run: Run
    span: OpenSpan
    path: str
    outer: Open | None
    chain: Chain = ()


# Per thread and task; `Env.bounded` carries it over. Runs may be open inside each other.
OPEN: ContextVar[Open | None] = ContextVar("towerkit_open_span", default=None)
# Runs that this process has open.
LIVE: weakref.WeakSet[Run] = weakref.WeakSet()

# On a span that a tool's function began, or went on with, when its attempt was over: whose.
ABANDONED = "towerkit.abandoned_by"


def attempt_around(run: Run) -> OpenSpan | None:
    """Return the attempt of a tool whose function is at work here, over or not; None outside."""
    here = OPEN.get()
    while here is not None:
        if here.run is run and here.span.kind == "attempt":
            return here.span
        here = here.outer
    return None


def mark_abandoned(run: Run, span: OpenSpan, parent: OpenSpan) -> None:
    """Mark a span that begins here, below `parent`, if it is of a tool that was given up."""
    here = OPEN.get()
    if here is None or here.span is parent:  # nearly always
        return
    attempt = attempt_around(run)
    if attempt is not None and attempt.ended:
        span.attributes[ABANDONED] = attempt.span_id


# Makes the runs of every tower of this process while a replay lasts; see `made_by`.
Maker = Callable[["Tower", str, dict[str, Any]], "Run"]
MAKERS: list[Maker] = []
_ONE_AT_A_TIME = threading.RLock()


@contextmanager
def made_by(maker: Maker) -> Iterator[None]:
    """Have `maker(tower, name, options)` make the runs of every tower of this process.

    An agent under replay must reach the world on no thread, so this holds for the process and not
    for a context. Another thread that asks waits.
    """
    with _ONE_AT_A_TIME:
        MAKERS.append(maker)
        try:
            yield
        finally:
            MAKERS.pop()


def current_run(tower: Tower) -> Run | None:
    """Return the innermost run of `tower` that is open in this thread or task; None outside.

    A task that outlives the run it was started in is outside: what is sealed takes nothing more.
    """
    here = OPEN.get()
    while here is not None and (here.run.tower is not tower or here.run.ended):
        here = here.outer
    return None if here is None else here.run


def _forked() -> None:
    for run in list(LIVE):
        run.leave_to_parent()
    LIVE.clear()


os.register_at_fork(after_in_child=_forked)

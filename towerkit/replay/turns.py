"""Who goes on when: the recorded run's order, for threads and for event loops.

Rule: what came back first comes back first again. An agent that gathers answers as they come, or
races two calls, then sees what it saw. Nothing waits on the real clock: an event loop of a replay
that has nothing to do goes to the next thing that happened on the recorded one, be it an answer
from the tape or a timer of the agent's own.
"""

from __future__ import annotations

import asyncio
import heapq
import selectors
import threading
from array import array
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

from towerkit.core.env import VirtualEnv
from towerkit.core.errors import ReplayDiverged

T = TypeVar("T")

PATIENCE_S = 0.2
"""How long a thread waits for another one whose recorded turn comes first, once a run."""
_POLL_S = 0.002
_SLACK_S = 0.001  # timers of an event loop are late, answers are not: the answer goes first
# What runs out, in asyncio: the callbacks of its time limits. Every other timer is a wait.
_LIMITS = frozenset({"Timeout._on_timeout", "_release_waiter"})


class ReplayEnv(VirtualEnv):
    """The recorded clock. Nothing is cut here: what came too late is on the tape as such."""

    def bounded(self, call: Callable[[], T], timeout_s: float | None) -> T:  # noqa: ARG002
        """Run `call`."""
        return call()

    async def asleep(self, seconds: float) -> None:
        """Let others go on until the recorded clock is there."""
        loop = asyncio.get_running_loop()
        if isinstance(loop, ReplayLoop):
            ended = loop.turns.doomed.get(asyncio.current_task())
            if ended is not None:
                await loop.turns.never(None, ended)
            await asyncio.sleep(seconds)
        else:
            await super().asleep(seconds)

    async def abounded(self, call: Callable[[], Awaitable[T]], timeout_s: float | None) -> T:  # noqa: ARG002
        """Await `call`."""
        return await call()


class _Lost(msgspec.Struct, frozen=True):
    """A task whose recorded call was cancelled: when that was, and the row it left, if any."""

    seq: int | None
    at_ns: int
    task: asyncio.Task[Any] | None
    ends: asyncio.Future[None]


class Turns:
    """The order of the tape, and who waits for a turn. `main` is the agent's task, if any."""

    def __init__(self, env: VirtualEnv, ends: Iterable[int]) -> None:
        """Take the times at which the rows of the tape ended, the first is number 0."""
        self.env = env
        self.main: asyncio.Task[Any] | None = None
        self.cancelled_run = self.diverged = False
        self._at, self._served = 0, set[int]()
        self._ends = array("q", accumulate(ends, max))
        self._parked: list[tuple[int, int, asyncio.Future[None]]] = []
        self._lost: list[_Lost] = []
        # Tasks whose recorded calls were cancelled while they waited, and when that was.
        self.doomed: dict[asyncio.Task[Any] | None, int] = {}
        self._changed = threading.Condition()
        self._threads = threading.active_count()
        self._patient, self._waiting = True, 0

    def done(self, seq: int) -> None:
        """Say that a row was served."""
        with self._changed:
            self._served.add(seq)
            while self._at in self._served:
                self._served.discard(self._at)
                self._at += 1
            if self._waiting:
                self._changed.notify_all()

    def due(self, seq: int) -> bool:
        """Return whether everything that came before was served."""
        return self._at >= min(seq, len(self._ends))

    @property
    def next_due(self) -> int | None:
        """The first row that was not served; None at the end of the tape."""
        return self._at if self._at < len(self._ends) else None

    def wait(self, seq: int) -> None:
        """Wait for a turn, where other threads may come first."""
        alone = self.due(seq) or threading.active_count() <= self._threads
        if alone or asyncio._get_running_loop() is not None:  # noqa: SLF001  a loop must not block
            return
        with self._changed:
            self._waiting += 1
            if self._patient and not self._changed.wait_for(lambda: self.due(seq), PATIENCE_S):
                self._patient = False  # the agent does something else now: the comparison will say
            self._waiting -= 1

    def begin(self, at_ns: int, first: int | None) -> bool:
        """Wait until what ended before this time was served; return whether it was.

        `first` is the first row of what begins: what has the same time but comes later may come.

        On an event loop nothing waits here: there, who goes on is decided when answers come.
        """
        before = bisect_left(self._ends, at_ns)
        while (
            first is not None
            and before < min(first, len(self._ends))
            and self._ends[before] <= at_ns
        ):
            before += 1
        if before >= len(self._ends):
            return True
        self.wait(before)
        return self.due(before)

    async def await_turn(self, seq: int, end_ns: int) -> None:
        """Wait for a turn on the loop, which gives it when nothing else is to be done."""
        loop = asyncio.get_running_loop()
        if isinstance(loop, ReplayLoop):
            turn = loop.create_future()
            heapq.heappush(self._parked, (seq, end_ns, turn))
            await turn

    async def never(self, seq: int | None, ended_ns: int) -> None:
        """Wait for whoever cancelled the recorded call to do it again; `seq` is its row, if any."""
        loop = asyncio.get_running_loop()
        if not isinstance(loop, ReplayLoop):
            raise ReplayDiverged(
                "the recorded call was cancelled here, and this event loop is not the replay's"
            )
        lost = loop.create_future()
        entry = _Lost(seq, ended_ns, asyncio.current_task(), lost)
        self._lost.append(entry)
        try:
            await lost
        finally:
            if seq is not None:
                self.done(seq)

    def jump(self, timeout: float | None, loop: ReplayLoop) -> bool:
        """Do what comes next on the recorded clock; return whether there was anything.

        What the tape has next decides, not how long things take here: a time limit of the agent's
        runs out when the recorded call it has cut is due, or when nothing else can happen.
        """
        while self._parked and self._parked[0][2].done():  # cancelled meanwhile
            heapq.heappop(self._parked)
        self._lost = [entry for entry in self._lost if not entry.ends.done()]
        due = self.next_due
        due_ns = 1 << 62 if due is None else self._ends[self._at]
        lost = next(
            (e for e in self._lost if e.seq == due or (e.seq is None and e.at_ns <= due_ns)), None
        )
        if self._parked and self._parked[0][0] == due and lost is None:
            seconds = self._parked[0][1] / 1e9 - loop.time()
            if timeout is None or timeout >= seconds - _SLACK_S:
                return self._release()
        if lost is not None and loop.run_out(lost.task, before=timeout):
            return True
        if loop.working:
            return False
        if timeout is not None:
            self.env.advance_to(self.env.mono_ns() + round(timeout * 1e9))
            return True
        if self.diverged and self._parked:
            return self._release()  # what is due may never be asked for now
        return loop.run_out(None, before=None) or (bool(self._parked) and self._release())

    def _release(self) -> bool:
        _, end, turn = heapq.heappop(self._parked)
        self.env.advance_to(end)
        turn.set_result(None)
        return True

    def stuck(self) -> bool:
        """End a wait that nobody will: the loop has nothing to do. Return whether there was one."""
        waiting = [entry.ends for entry in self._lost if not entry.ends.done()]
        self._lost.clear()
        if not waiting:
            return False
        if self.cancelled_run and self.main is not None:
            self.main.cancel()
            return True
        for lost in waiting:
            lost.set_exception(
                ReplayDiverged("the recorded call was cancelled here, and nobody cancels it now")
            )
        return True


class _Selector(selectors.DefaultSelector):
    """Asks the recorded clock where a loop would wait for the real one."""

    loop: ReplayLoop | None = None
    idle = 0

    def select(self, timeout: float | None = None) -> Any:
        """Return what is ready; a wait is a jump of the recorded clock."""
        events = super().select(0)
        if events or self.loop is None or (timeout is not None and timeout <= 0):
            self.idle = 0
            return events
        if self.loop.turns.jump(timeout, self.loop):
            self.idle = 0
            return []
        # Threads of the agent's own may be at work. After a while nothing will come of them.
        self.idle += 1
        if self.idle * _POLL_S > PATIENCE_S and not self.loop.working:
            self.idle = 0
            self.loop.turns.stuck()
        return super().select(_POLL_S)


class ReplayLoop(asyncio.SelectorEventLoop):
    """An event loop on the recorded clock."""

    def __init__(self, turns: Turns) -> None:
        """Run on the clock of `turns`."""
        selector = _Selector()
        super().__init__(selector)
        self.turns, self.working = turns, 0
        self._limits: list[asyncio.TimerHandle] = []
        selector.loop = self

    def time(self) -> float:
        """Return the recorded clock, in seconds."""
        return self.turns.env.mono_ns() / 1e9

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> Any:
        """Do what every loop does; a time limit is kept apart until the tape says it ran out."""
        if getattr(callback, "__qualname__", "") not in _LIMITS:
            return super().call_at(when, callback, *args, context=context)
        limit = asyncio.TimerHandle(when, callback, args, self, context)
        self._limits.append(limit)
        return limit

    def run_out(self, task: asyncio.Task[Any] | None, *, before: float | None) -> bool:
        """Have a time limit run out: that of `task`, else the next one; return whether one did.

        With `before`, none does that is further away than this, in seconds.
        """
        self._limits = [limit for limit in self._limits if not limit.cancelled()]

        def rank(limit: Any) -> tuple[bool, float]:
            owner = getattr(getattr(limit._callback, "__self__", None), "_task", None)  # noqa: SLF001
            return task is None or owner is not task, limit.when()

        limit: Any = min(self._limits, key=rank, default=None)
        if limit is None:
            return False
        if before is not None and rank(limit)[0] and limit.when() - self.time() > before:
            return False
        self._limits.remove(limit)
        self.turns.env.advance_to(round(limit.when() * 1e9))
        # As every loop does with a timer whose time has come.
        self.call_soon(limit._callback, *limit._args, context=limit._context)  # noqa: SLF001
        return True

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Do what every loop does, and know how many threads are at work."""
        self.working += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._worked)
        return future

    def _worked(self, _: object) -> None:
        self.working -= 1

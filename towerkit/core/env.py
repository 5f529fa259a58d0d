"""Time, sleep, randomness and ids: the only place that knows the wall.

Rule: every clock reading, wait, random number and id in towerkit comes from an `Env`. With a
`VirtualEnv` a run takes no wall time and is the same run every time; a test fails on `time.time`,
`random`, `uuid4` or `datetime.now` anywhere else.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import math
import os
import queue
import random
import threading
import time
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from towerkit.core.errors import AttemptTimeout

T = TypeVar("T")

# Where simulated time begins: a Monday, far enough from every time zone's new year.
VIRTUAL_EPOCH_NS = 1_767_571_200_000_000_000  # 2026-01-05T00:00:00Z


class Env(Protocol):
    """What a run may know of the world outside its inputs. Times are integer nanoseconds."""

    kind: str
    seed: int

    def wall_ns(self) -> int:
        """Return nanoseconds since the Unix epoch."""

    def mono_ns(self) -> int:
        """Return nanoseconds on a clock that never steps back."""

    def sleep(self, seconds: float) -> None:
        """Wait."""

    def random(self) -> float:
        """Return a number in [0, 1) from the run's seeded stream."""

    def bits(self, n: int) -> int:
        """Return `n` random bits from the run's seeded stream."""

    def secret_bytes(self, n: int, *, purpose: str) -> bytes:
        """Return `n` bytes that the tape does not give away (a virtual run has no secrets)."""

    def bounded(self, call: Callable[[], T], timeout_s: float | None) -> T:
        """Run `call`; raise `AttemptTimeout` when it takes longer than `timeout_s`."""

    async def asleep(self, seconds: float) -> None:
        """Wait without holding the event loop."""

    async def abounded(self, call: Callable[[], Awaitable[T]], timeout_s: float | None) -> T:
        """Await `call`; raise `AttemptTimeout` when it takes longer than `timeout_s`."""

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run a blocking `call` beside the event loop."""


def derive_seed(*parts: object) -> int:
    """Return a 64-bit seed that is a function of `parts` (SHA-256 over their text)."""
    text = "\x1f".join(str(p) for p in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def uuid7(unix_ns: int, rand_bits: int) -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7) from a wall time and 74 random bits."""
    ms = (unix_ns // 1_000_000) & ((1 << 48) - 1)
    rand_a, rand_b = (rand_bits >> 62) & 0xFFF, rand_bits & ((1 << 62) - 1)
    value = (ms << 80) | (0x7 << 76) | (rand_a << 64) | (0b10 << 62) | rand_b
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class _Seeded:
    """The seeded stream both environments share. Locked: guarded calls may come from threads."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._rng = random.Random(seed)  # noqa: S311  replay needs a seeded stream, not secrecy
        self._rng_lock = threading.Lock()

    def random(self) -> float:
        with self._rng_lock:
            return self._rng.random()

    def bits(self, n: int) -> int:
        with self._rng_lock:
            return self._rng.getrandbits(n)


class SystemEnv(_Seeded):
    """The real clock, real waits, a seed drawn from the operating system unless given."""

    kind = "system"

    def __init__(self, seed: int | None = None) -> None:
        """Draw a 64-bit seed: recorded on the tape, it makes the run's randomness replayable."""
        super().__init__(int.from_bytes(os.urandom(8), "big") if seed is None else seed)
        self._wheel: _Wheel | None = None

    def secret_bytes(self, n: int, *, purpose: str) -> bytes:  # noqa: ARG002  one signature
        """Return operating-system randomness."""
        return os.urandom(n)

    wall_ns = staticmethod(time.time_ns)
    mono_ns = staticmethod(time.perf_counter_ns)  # monotonic, below a microsecond

    def sleep(self, seconds: float) -> None:
        """Sleep on the calling thread."""
        if seconds > 0:
            time.sleep(seconds)

    def bounded(self, call: Callable[[], T], timeout_s: float | None) -> T:
        """Run `call` in a daemon thread and wait `timeout_s`.

        Python cannot stop a thread: on a time-out the call goes on in the background and its
        outcome is unknown, which is what the exception says. Context variables are carried over.
        """
        if timeout_s is None:
            return call()
        answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                answers.put((True, context.run(call)))
            except BaseException as error:  # noqa: BLE001  carried to the caller, not swallowed
                answers.put((False, error))

        threading.Thread(target=work, daemon=True, name="towerkit-attempt").start()
        try:
            ok, value = answers.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            raise AttemptTimeout(
                f"no answer within {timeout_s:g} s: the outcome is unknown"
            ) from None
        if ok:
            return value  # type: ignore[no-any-return]
        raise value

    async def asleep(self, seconds: float) -> None:
        """Sleep on the event loop; a cancellation ends it at once."""
        await asyncio.sleep(max(0.0, seconds))

    async def abounded(self, call: Callable[[], Awaitable[T]], timeout_s: float | None) -> T:
        """Await `call`, cancelled once the time is up, at most 10 ms late."""
        if timeout_s is None:
            return await call()
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        wheel = self._wheel
        if wheel is None or wheel.loop is not loop:
            self._wheel = wheel = _Wheel(loop)
        assert task is not None  # noqa: S101  a coroutine is awaited by some task
        already = task.cancelling()
        waiting = _Waiting(task)
        bucket = wheel.bucket(timeout_s)
        bucket.add(waiting)
        try:
            return await call()
        except asyncio.CancelledError as error:
            # Ours, unless somebody else has cancelled the task as well (as in asyncio.timeout).
            if waiting.late and task.cancelling() - 1 <= already:
                raise AttemptTimeout(
                    f"no answer within {timeout_s:g} s: the outcome is unknown"
                ) from error
            raise
        finally:
            bucket.discard(waiting)
            if waiting.late:
                task.uncancel()

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run `call` in a worker thread, with the context of the caller."""
        return await asyncio.to_thread(call)


class _Waiting:
    """A task that awaits something within a time-out."""

    __slots__ = ("late", "task")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task, self.late = task, False


class _Wheel:
    """Time-outs of one event loop, in buckets of 10 ms: a timer a bucket, not a timer a call.

    After Varghese and Lauck, "Hashed and Hierarchical Timing Wheels" (1987). A call that answers in
    time, as nearly all do, costs one insertion into a set and one removal.
    """

    TICK_S = 0.01

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._buckets: dict[int, set[_Waiting]] = {}

    def bucket(self, timeout_s: float) -> set[_Waiting]:
        """Return the bucket of what must not last longer than `timeout_s` from now."""
        number = math.ceil((self.loop.time() + max(0.0, timeout_s)) / self.TICK_S)
        found = self._buckets.get(number)
        if found is None:
            self._buckets[number] = found = set()
            self.loop.call_at(number * self.TICK_S, self._expire, number)
        return found

    def _expire(self, number: int) -> None:
        for waiting in self._buckets.pop(number):
            waiting.late = True
            waiting.task.cancel()


class VirtualEnv(_Seeded):
    """Simulated time: a sleep returns at once and the clock has moved. One thread, one run."""

    kind = "virtual"

    def __init__(self, seed: int, *, start_ns: int = VIRTUAL_EPOCH_NS) -> None:
        """Start the clock at `start_ns`; the same seed gives the same run."""
        super().__init__(seed)
        self._start_ns = start_ns
        self._now_ns = 0
        self._limits: list[int] = []

    def secret_bytes(self, n: int, *, purpose: str) -> bytes:
        """Return bytes that are a function of the seed and `purpose`."""
        return hashlib.shake_128(f"{self.seed}\x1f{purpose}".encode()).digest(n)

    def wall_ns(self) -> int:
        """Return the simulated wall time."""
        return self._start_ns + self._now_ns

    def mono_ns(self) -> int:
        """Return simulated nanoseconds since the start of the run."""
        return self._now_ns

    def sleep(self, seconds: float) -> None:
        """Move the clock; stop at the innermost time-out that the wait would cross."""
        # Up, so that whoever waits for the rest of a wait gets somewhere: half a nanosecond is one.
        target = self._now_ns + max(0, math.ceil(seconds * 1e9))
        limit = min(self._limits, default=None)
        if limit is not None and target > limit:
            self._now_ns = max(self._now_ns, limit)
            raise AttemptTimeout("no answer within the time-out: the outcome is unknown")
        self._now_ns = target

    def advance_to(self, mono_ns: int) -> None:
        """Move the clock forward to `mono_ns`; never back. Replay follows the tape with this."""
        self._now_ns = max(self._now_ns, mono_ns)

    def bounded(self, call: Callable[[], T], timeout_s: float | None) -> T:
        """Run `call`; a simulated wait inside it that crosses `timeout_s` raises."""
        if timeout_s is None:
            return call()
        limit = self._now_ns + max(0, round(timeout_s * 1e9))
        self._limits.append(limit)
        try:
            return call()
        finally:
            self._limits.remove(limit)

    async def asleep(self, seconds: float) -> None:
        """Move the clock, and let other tasks run."""
        self.sleep(seconds)
        await asyncio.sleep(0)

    async def abounded(self, call: Callable[[], Awaitable[T]], timeout_s: float | None) -> T:
        """Await `call`; a simulated wait inside it that crosses `timeout_s` raises.

        Tasks that run at once share one simulated clock, and with it each other's time-outs.
        """
        if timeout_s is None:
            return await call()
        limit = self._now_ns + max(0, round(timeout_s * 1e9))
        self._limits.append(limit)
        try:
            return await call()
        finally:
            self._limits.remove(limit)

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Run `call` here: simulated runs have one thread."""
        return call()


class BootTime(NamedTuple):
    """What the machine says of time: which boot this is, how long ago it was, and the wall clock.

    The first two are moved by nobody; the same for every process of the machine.
    """

    boot: str
    since_boot_ns: int
    wall_ns: int


def boot_time() -> BootTime:
    """Return the time since the machine's boot, sleep included where the system counts it."""
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return BootTime(_boot(), time.clock_gettime_ns(clock), time.time_ns())


@cache  # no process outlives a boot
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""  # no Linux: a clock that is behind an earlier reading tells of another boot

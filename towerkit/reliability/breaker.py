"""The circuit breaker: stop calling what keeps failing, and find out gently when it is back.

Rule: pure but for one lock, which is held for the bookkeeping and never during a call. Time comes
in with every method. What opens it is in `Limits`. While nothing has failed lately the lock is not
taken at all: everybody shares one permit, and a good answer is one atomic append.

    closed ──failure rate or slow rate over its limit, enough calls──▶ open
    open ──`open_s` passed──▶ half_open
    half_open ──all `probes` succeeded──▶ closed
    half_open ──one failed──▶ open

After Nygard, "Release It!" (2007), and the count-based window of Resilience4j. Throttling (429) is
no failure: it is a state of its own beside these, `throttled until`, and leaves the window alone.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

import msgspec

State = Literal["closed", "open", "half_open"]
Outcome = Literal["failure", "success", "uncounted"]
_GOOD = (False, False)
# Times are floats: who waits as long as was asked may read the clock a rounding too early.
TICK_S = 1e-6


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """When a breaker opens and how it closes. Times in seconds.

    `window` 20 and `min_calls` 10: an agent's model sees tens of calls a minute, not thousands.
    `slow_call_s` counts an answer as slow, `slow_rate` of them opens like failures do. `probes`
    calls are let through at once after `open_s`; one that is not heard of for `lease_s` has lost
    its permit and counts as failed.
    """

    window: int = 20
    min_calls: int = 10
    failure_rate: float = 0.5
    slow_call_s: float = 30.0
    slow_rate: float = 0.8
    open_s: float = 30.0
    probes: int = 3
    lease_s: float = 60.0


class Permit(msgspec.Struct, frozen=True, kw_only=True):
    """Leave to make one call. `epoch` ties it to the state that gave it.

    Probes are numbered; all calls of a closed breaker share number 0.
    """

    epoch: int
    number: int = 0

    @property
    def probe(self) -> bool:
        """Whether it was given to find out if the service is back."""
        return self.number > 0


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """No call now: why, and how many seconds until it may be asked again."""

    error_class: Literal["circuit_open", "throttled_locally"]
    wait_s: float


class Breaker:
    """One breaker, for one key (a provider's model, a tool, a server)."""

    _opened_at: float  # set when it opens
    _succeeded: int  # probes that did, set when it opens half
    _window: deque[tuple[bool, bool]]  # (failed, slow) of the last calls, oldest first
    _permit: Permit  # what the calls of a closed breaker share
    _shared: Permit | None  # the same, or None where somebody has to look
    _spotless: Permit | None  # the same, while the window holds nothing bad

    def __init__(self, limits: Limits | None = None) -> None:
        """Start closed."""
        self.limits = limits or Limits()
        self._slow_call_s = self.limits.slow_call_s
        self.throttled_until = 0.0  # calls are refused before; the caller's clock, seconds
        self._epoch = 0
        self._numbers = 0
        self._leases: dict[int, float] = {}
        self._lock = threading.Lock()
        self._enter("closed")

    def state(self, now: float) -> State:
        """Return the state at `now`."""
        with self._lock:
            self._pass_time(now)
            return self._state

    def counted(self) -> tuple[int, int]:
        """Return how many calls are in the window, and how many of them failed."""
        window = tuple(self._window)
        return len(window), sum(failed for failed, _ in window)

    def acquire(self, now: float) -> Permit | Refusal:
        """Return a permit, or the refusal; never waits."""
        return self._shared or self._acquire(now)

    def _acquire(self, now: float) -> Permit | Refusal:
        with self._lock:
            self._pass_time(now)
            if self.throttled_until - now > TICK_S:
                wait = self.throttled_until - now
                return Refusal(error_class="throttled_locally", wait_s=wait)
            if self._state == "open":
                wait = self._opened_at + self.limits.open_s - now
                return Refusal(error_class="circuit_open", wait_s=wait)
            if self._state == "closed":
                self._shared = self._permit
                return self._permit
            if len(self._leases) + self._succeeded >= self.limits.probes:
                wait = min(self._leases.values()) - now
                return Refusal(error_class="circuit_open", wait_s=wait)
            self._numbers += 1
            self._leases[self._numbers] = now + self.limits.lease_s
            return Permit(number=self._numbers, epoch=self._epoch)

    def settle(self, permit: Permit, outcome: Outcome, now: float, *, duration_s: float) -> None:
        """Report a permitted call. `uncounted` gives the permit back: cancelled, or not our say.

        A report that comes after the state that permitted it has ended changes nothing.
        """
        if permit is self._spotless and outcome == "success" and duration_s <= self._slow_call_s:
            self._window.append(_GOOD)
        else:
            self._settle(permit, outcome, now, duration_s)

    def _settle(self, permit: Permit, outcome: Outcome, now: float, duration_s: float) -> None:
        with self._lock:
            self._pass_time(now)
            if permit.epoch != self._epoch:
                return
            if permit.probe:
                if self._leases.pop(permit.number, None) is not None:
                    self._probe_over(outcome, now)
            elif outcome != "uncounted":
                self._window.append((outcome == "failure", duration_s > self._slow_call_s))
                if self._too_bad():
                    self._open(now)

    def throttle(self, now: float, wait_s: float) -> None:
        """Refuse calls for `wait_s`: the provider asked to slow down. No failure."""
        with self._lock:
            self.throttled_until = max(self.throttled_until, now + wait_s)
            self._shared = None

    # -- what follows what, with the lock held -----------------------------------------------------

    def _pass_time(self, now: float) -> None:
        if self._state == "open" and now >= self._opened_at + self.limits.open_s:
            self._enter("half_open")
        if self._state == "half_open" and any(now >= end for end in self._leases.values()):
            self._open(now)

    def _probe_over(self, outcome: Outcome, now: float) -> None:
        if outcome == "failure":
            self._open(now)
        elif outcome == "success":
            self._succeeded += 1
            if self._succeeded == self.limits.probes:
                self._enter("closed")

    def _too_bad(self) -> bool:
        window = tuple(self._window)  # others may append meanwhile
        failed = sum(bad for bad, _ in window)
        slow = sum(late for _, late in window)
        self._spotless = None if failed or slow else self._permit
        n, limits = len(window), self.limits
        if n < limits.min_calls:
            return False
        return failed >= limits.failure_rate * n or slow >= limits.slow_rate * n

    def _open(self, now: float) -> None:
        self._opened_at = now
        self._enter("open")

    def _enter(self, state: State) -> None:
        self._state = state
        self._epoch += 1
        self._succeeded = 0
        self._leases.clear()
        self._window = deque(maxlen=self.limits.window)
        self._permit = Permit(epoch=self._epoch)
        self._shared = self._spotless = self._permit if state == "closed" else None


class RetryBudget:
    """How many further requests a process may send after failed ones.

    Two limits at once: retries are at most 20 % of calls with a floor of 3 (Finagle's retry
    budget), and a bucket of 500 tokens gives 14 for a retry and 5 for one after throttling, gets
    them back when the retry succeeds, and one more for each call that needed none (the AWS SDKs'
    retry quota): credit saved up on a quiet day cannot pay for a storm. Under a total outage
    requests stay below 1.2 a call.
    """

    EVERY, FLOOR, CAPACITY = 5, 3, 500  # calls that earn a retry, retries at first, tokens

    def __init__(self) -> None:
        """Start with the floor and a full bucket."""
        self._earned, self._tokens = self.FLOOR * self.EVERY, self.CAPACITY
        self._taken = False
        self._lock = threading.Lock()
        # Counts logical calls; atomic and without a lock, because every call of a process does it.
        self.call: Callable[[], int] = itertools.count(1).__next__
        self._seen = 0

    def take(self, cost: int) -> int:
        """Take one further request of `cost` tokens (14, or 5 after throttling); 0 is a refusal."""
        with self._lock:
            self._earn()
            if self._earned < self.EVERY or self._tokens < cost:
                return 0
            self._earned -= self.EVERY
            self._tokens -= cost
            self._taken = True
            return cost

    def _earn(self) -> None:
        """Credit the calls counted since the last time; looking at the counter counts one more."""
        counted = self.call() - 1
        self._earned += counted - self._seen
        self._seen = counted + 1

    def success(self, cost: int) -> None:
        """Report a call that ended well after retries of `cost` tokens in all."""
        if self._taken or cost:  # a full bucket has no room
            with self._lock:
                self._tokens = min(self.CAPACITY, self._tokens + max(1, cost))
                self._taken = self._tokens < self.CAPACITY
                if cost:
                    self._earned += self.EVERY

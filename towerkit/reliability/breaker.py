"""The circuit breaker: stop calling what keeps failing, and find out gently when it is back.

Rule: pure but for one lock, which is held for the bookkeeping and never during a call. Time comes
in with every method, in nanoseconds of the caller's clock. What opens it is in `Limits`. While
nothing has failed lately the lock is not taken at all: everybody shares one permit, and a good
answer is one atomic append.

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
NS = 1_000_000_000  # nanoseconds a second


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


def in_ns(seconds: float) -> int:
    """Return seconds as nanoseconds; for ever, or nearly, is thirty years."""
    return round(min(seconds, 1e9) * NS)


class Breaker:
    """One breaker, for one key (a provider's model, a tool, a server)."""

    _opened_ns: int  # set when it opens
    _succeeded: int  # probes that did, set when it opens half
    _window: deque[tuple[bool, bool]]  # (failed, slow) of the last calls, oldest first
    _permit: Permit  # what the calls of a closed breaker share
    shared: Permit | None  # the same, or None where `acquire` has to look
    _spotless: Permit | None  # the same, while the window holds nothing bad

    def __init__(self, limits: Limits | None = None) -> None:
        """Start closed."""
        self.limits = limits or Limits()
        self._slow_ns = in_ns(self.limits.slow_call_s)
        self._open_ns = in_ns(self.limits.open_s)
        self._lease_ns = in_ns(self.limits.lease_s)
        self.throttled_until_ns = 0  # calls are refused before
        self._epoch = 0
        self._numbers = 0
        self._leases: dict[int, int] = {}
        self._lock = threading.Lock()
        self._enter("closed")

    def state(self, now_ns: int) -> State:
        """Return the state at `now_ns`."""
        with self._lock:
            self._pass_time(now_ns)
            return self._state

    def counted(self) -> tuple[int, int]:
        """Return how many calls are in the window, and how many of them failed."""
        window = tuple(self._window)
        return len(window), sum(failed for failed, _ in window)

    def acquire(self, now_ns: int) -> Permit | Refusal:
        """Return a permit, or the refusal; never waits."""
        return self.shared or self._acquire(now_ns)

    def _acquire(self, now_ns: int) -> Permit | Refusal:
        with self._lock:
            self._pass_time(now_ns)
            if now_ns < self.throttled_until_ns:
                wait_ns = self.throttled_until_ns - now_ns
                return Refusal(error_class="throttled_locally", wait_s=wait_ns / NS)
            if self._state == "open":
                wait_ns = self._opened_ns + self._open_ns - now_ns
                return Refusal(error_class="circuit_open", wait_s=wait_ns / NS)
            if self._state == "closed":
                self.shared = self._permit
                return self._permit
            if len(self._leases) + self._succeeded >= self.limits.probes:
                wait_ns = min(self._leases.values()) - now_ns
                return Refusal(error_class="circuit_open", wait_s=wait_ns / NS)
            self._numbers += 1
            self._leases[self._numbers] = now_ns + self._lease_ns
            return Permit(number=self._numbers, epoch=self._epoch)

    def settle(self, permit: Permit, outcome: Outcome, now_ns: int, took_ns: int) -> None:
        """Report a permitted call. `uncounted` gives the permit back: cancelled, or not our say.

        A report that comes after the state that permitted it has ended changes nothing.
        """
        if permit is self._spotless and outcome == "success" and took_ns <= self._slow_ns:
            self._window.append(_GOOD)
        else:
            self._settle(permit, outcome, now_ns, took_ns)

    def _settle(self, permit: Permit, outcome: Outcome, now_ns: int, took_ns: int) -> None:
        with self._lock:
            self._pass_time(now_ns)
            if permit.epoch != self._epoch:
                return
            if permit.probe:
                if self._leases.pop(permit.number, None) is not None:
                    self._probe_over(outcome, now_ns)
            elif outcome != "uncounted":
                self._window.append((outcome == "failure", took_ns > self._slow_ns))
                if self._too_bad():
                    self._open(now_ns)

    def throttle(self, now_ns: int, wait_s: float) -> None:
        """Refuse calls for `wait_s`: the provider asked to slow down. No failure."""
        with self._lock:
            self.throttled_until_ns = max(self.throttled_until_ns, now_ns + in_ns(wait_s))
            self.shared = None

    # -- what follows what, with the lock held -----------------------------------------------------

    def _pass_time(self, now_ns: int) -> None:
        if self._state == "open" and now_ns >= self._opened_ns + self._open_ns:
            self._enter("half_open")
        if self._state == "half_open" and any(now_ns >= end for end in self._leases.values()):
            self._open(now_ns)

    def _probe_over(self, outcome: Outcome, now_ns: int) -> None:
        if outcome == "failure":
            self._open(now_ns)
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

    def _open(self, now_ns: int) -> None:
        self._opened_ns = now_ns
        self._enter("open")

    def _enter(self, state: State) -> None:
        self._state = state
        self._epoch += 1
        self._succeeded = 0
        self._leases.clear()
        self._window = deque(maxlen=self.limits.window)
        self._permit = Permit(epoch=self._epoch)
        self.shared = self._spotless = self._permit if state == "closed" else None


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
        self.below = False
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
            self.below = True
            return cost

    def _earn(self) -> None:
        """Credit the calls counted since the last time; looking at the counter counts one more."""
        counted = self.call() - 1
        self._earned += counted - self._seen
        self._seen = counted + 1

    def success(self, cost: int) -> None:
        """Report a call that ended well after retries of `cost` tokens in all.

        A bucket that is not `below` its rim has no room: then nobody need ask about a call that
        took none.
        """
        if self.below or cost:
            with self._lock:
                self._tokens = min(self.CAPACITY, self._tokens + max(1, cost))
                self.below = self._tokens < self.CAPACITY
                if cost:
                    self._earned += self.EVERY

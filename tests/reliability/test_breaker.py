"""The breaker opens on failures and slowness, probes gently, and never waits for a call."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from towerkit.reliability.breaker import Breaker, Limits, Permit, Refusal, RetryBudget, in_ns

LIMITS = Limits(window=10, min_calls=4, open_s=30.0, probes=3, lease_s=60.0, slow_call_s=5.0)


def ns(seconds):
    return round(seconds * 1e9)


def call(breaker, outcome, *, now=0.0, duration_s=0.1):
    permit = breaker.acquire(ns(now))
    assert isinstance(permit, Permit)
    breaker.settle(permit, outcome, ns(now), ns(duration_s))


def opened(now=0.0):
    breaker = Breaker(LIMITS)
    for _ in range(4):
        call(breaker, "failure", now=now)
    return breaker


def test_it_opens_at_the_failure_rate_and_not_before_the_minimum():
    """Three failures are too few to judge; two of four are half."""
    breaker = Breaker(LIMITS)
    for outcome in ("failure", "failure", "success"):
        call(breaker, outcome)
        assert breaker.state(ns(0.0)) == "closed"
    call(breaker, "success")
    assert breaker.state(ns(0.0)) == "open"
    assert breaker.acquire(ns(10.0)) == Refusal(error_class="circuit_open", wait_s=20.0)


def test_below_the_rate_it_stays_closed():
    """One failure of three, again and again."""
    breaker = Breaker(LIMITS)
    for _ in range(20):
        for outcome in ("success", "success", "failure"):
            call(breaker, outcome)
    assert breaker.state(ns(0.0)) == "closed"


def test_only_the_window_counts():
    """Old failures leave the window."""
    breaker = Breaker(Limits(window=4, min_calls=4, failure_rate=0.5))
    for outcome in ("failure", *["success"] * 20, "failure", "success"):
        call(breaker, outcome)
    assert breaker.state(ns(0.0)) == "closed"
    call(breaker, "failure")
    assert breaker.state(ns(0.0)) == "open"


def test_slow_answers_open_it_too():
    """Four of five answers later than 5 s; exactly 5 s is not slow."""
    breaker = Breaker(LIMITS)
    for _ in range(20):
        call(breaker, "success", duration_s=5.0)
    assert breaker.state(ns(0.0)) == "closed"
    breaker = Breaker(LIMITS)
    for duration in (0.1, 5.1, 5.1, 5.1):
        call(breaker, "success", duration_s=duration)
        assert breaker.state(ns(0.0)) == "closed"
    call(breaker, "success", duration_s=5.1)
    assert breaker.state(ns(0.0)) == "open"


def test_uncounted_outcomes_leave_the_window_alone():
    """Client errors and cancellations say nothing of the provider."""
    breaker = Breaker(LIMITS)
    for _ in range(50):
        call(breaker, "uncounted", duration_s=99.0)
    assert breaker.state(ns(0.0)) == "closed"


def test_after_its_time_it_lets_the_probes_through_and_closes():
    """Three probes at once, the fourth is refused; three successes close it."""
    breaker = opened()
    assert breaker.state(ns(29.9)) == "open"
    permits = [breaker.acquire(ns(30.0)) for _ in range(3)]
    assert all(isinstance(p, Permit) and p.probe for p in permits)
    assert breaker.acquire(ns(40.0)) == Refusal(error_class="circuit_open", wait_s=50.0)
    for permit in permits[:2]:
        breaker.settle(permit, "success", ns(31.0), ns(0.1))
    assert isinstance(breaker.acquire(ns(31.0)), Refusal)
    assert breaker.state(ns(31.0)) == "half_open"
    breaker.settle(permits[2], "success", ns(31.0), ns(0.1))
    assert breaker.state(ns(31.0)) == "closed"
    call(breaker, "failure", now=31.0)
    assert breaker.state(ns(31.0)) == "closed"


def test_one_failed_probe_opens_it_again_for_the_whole_time():
    """And what the other probes report afterwards changes nothing."""
    breaker = opened()
    first, second = breaker.acquire(ns(30.0)), breaker.acquire(ns(30.0))
    breaker.settle(first, "failure", ns(32.0), ns(0.1))
    assert breaker.acquire(ns(40.0)) == Refusal(error_class="circuit_open", wait_s=22.0)
    breaker.settle(second, "success", ns(41.0), ns(0.1))
    assert breaker.state(ns(61.9)) == "open"
    assert breaker.state(ns(62.0)) == "half_open"


def test_a_cancelled_probe_gives_its_permit_back():
    """The next caller gets it."""
    breaker = opened()
    permits = [breaker.acquire(ns(30.0)) for _ in range(3)]
    breaker.settle(permits[0], "uncounted", ns(30.0), ns(0.0))
    assert isinstance(breaker.acquire(ns(30.0)), Permit)
    assert isinstance(breaker.acquire(ns(30.0)), Refusal)


def test_a_probe_that_is_not_heard_of_loses_its_permit():
    """After its lease it counts as failed, and a late report is ignored."""
    breaker = opened()
    stuck = breaker.acquire(ns(30.0))
    assert breaker.state(ns(89.9)) == "half_open"
    assert breaker.state(ns(90.0)) == "open"
    breaker.settle(stuck, "success", ns(95.0), ns(65.0))
    assert breaker.state(ns(95.0)) == "open"
    assert breaker.state(ns(120.0)) == "half_open"


def test_a_permit_is_settled_once():
    """Reporting a probe twice does not count twice."""
    breaker = opened()
    permit = breaker.acquire(ns(30.0))
    for _ in range(3):
        breaker.settle(permit, "success", ns(31.0), ns(0.1))
    assert breaker.state(ns(31.0)) == "half_open"


def test_calls_of_an_earlier_time_do_not_count_in_this_one():
    """A call that began before the breaker opened reports into nothing."""
    breaker = Breaker(LIMITS)
    early = breaker.acquire(ns(0.0))
    for _ in range(4):
        call(breaker, "failure")
    breaker.settle(early, "success", ns(30.0), ns(30.0))
    assert breaker.state(ns(30.0)) == "half_open"
    assert isinstance(breaker.acquire(ns(30.0)), Permit)


def test_a_call_of_an_earlier_life_does_not_count_in_a_later_one():
    """Closed, open, closed, open, closed: a report from the second life meets a clean window."""
    breaker, now = Breaker(LIMITS), 0.0

    def live_and_die(now):
        early = breaker.acquire(ns(now))
        for _ in range(4):
            call(breaker, "failure", now=now)
        for _ in range(3):
            call(breaker, "success", now=now + 30.0)
        assert breaker.state(ns(now + 30.0)) == "closed"
        return early

    live_and_die(now)
    late = live_and_die(now + 40.0)
    for _ in range(3):
        call(breaker, "failure", now=now + 80.0)
    breaker.settle(late, "failure", ns(now + 80.0), ns(40.0))
    assert breaker.state(ns(now + 80.0)) == "closed"


def test_throttling_is_a_state_of_its_own():
    """Calls are refused for the time asked, the longest counts, and the window stays clean."""
    breaker = Breaker(LIMITS)
    breaker.throttle(ns(0.0), 10.0)
    breaker.throttle(ns(1.0), 2.0)
    assert breaker.acquire(ns(4.0)) == Refusal(error_class="throttled_locally", wait_s=6.0)
    assert breaker.state(ns(4.0)) == "closed"
    assert isinstance(breaker.acquire(ns(10.0)), Permit)


@pytest.mark.parametrize("callers", [2200])
def test_exactly_the_probes_pass_whatever_the_concurrency(callers):
    """2,200 threads at a barrier after the opening time: three permits, the rest refused."""
    breaker, barrier, got = opened(), threading.Barrier(200), []

    def work(n):
        barrier.wait()
        got.extend(breaker.acquire(ns(30.0)) for _ in range(n))

    threads = [threading.Thread(target=work, args=(callers // 200,)) for _ in range(200)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(got) == callers
    assert sum(isinstance(g, Permit) for g in got) == 3


class BreakerMachine(RuleBasedStateMachine):
    """Any order of calls, reports, cancellations and time."""

    def __init__(self):
        """Start closed at time zero."""
        super().__init__()
        self.breaker, self.now, self.held = Breaker(LIMITS), 0.0, []

    @rule()
    def acquire(self):
        """Ask; a refusal says how long."""
        got = self.breaker.acquire(ns(self.now))
        if isinstance(got, Permit):
            self.held.append((got, self.now))
        else:
            assert got.wait_s >= 0

    @rule(outcome=st.sampled_from(["failure", "success", "uncounted"]), at=st.integers(0, 20))
    def settle(self, outcome, at):
        """Report one that is held."""
        if self.held:
            permit, since = self.held.pop(at % len(self.held))
            self.breaker.settle(permit, outcome, ns(self.now), ns(self.now - since))

    @rule(seconds=st.floats(0, 70))
    def pass_time(self, seconds):
        """Wait."""
        self.now += seconds

    @rule(seconds=st.floats(0, 40))
    def throttle(self, seconds):
        """Slow down, as the provider asks."""
        self.breaker.throttle(ns(self.now), seconds)

    @invariant()
    def probes_are_bounded(self):
        """Never more probes out than allowed, and an idle breaker can always be asked again."""
        assert self.breaker.state(ns(self.now)) in {"closed", "open", "half_open"}
        assert len(self.breaker._leases) <= LIMITS.probes


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)


def test_the_retry_budget_has_a_floor_a_share_and_a_bucket():
    """Three retries from nothing; then one for every five calls; never more than the bucket."""
    budget = RetryBudget()
    assert [bool(budget.take(14)) for _ in range(5)] == [True, True, True, False, False]
    for _ in range(5):
        budget.call()
    assert [budget.take(5), budget.take(5)] == [5, 0]


def test_the_bucket_runs_dry_and_is_filled_by_success():
    """500 tokens are 35 retries of 14; a success gives its tokens and its credit back."""
    budget = RetryBudget()
    for _ in range(1000):
        budget.call()
    assert sum(bool(budget.take(14)) for _ in range(200)) == 35
    budget.success(14)
    assert budget.take(14) == 14
    assert budget.take(14) == 0
    for _ in range(3):
        budget.success(0)
    assert budget.take(14) == 0
    budget.success(0)
    assert budget.take(14) == 14


def test_a_retry_that_helped_gives_one_credit_back():
    """After the floor is spent, one success pays for one more retry, not two."""
    budget = RetryBudget()
    assert [bool(budget.take(14)) for _ in range(4)] == [True, True, True, False]
    budget.success(14)
    assert [bool(budget.take(14)) for _ in range(2)] == [True, False]


@given(st.integers(1000, 3000))
@settings(max_examples=10, deadline=None)
def test_a_total_outage_is_not_amplified(callers):
    """Every call fails and wants three tries and a second provider: 1.2 requests a call at most."""
    budget, breakers = RetryBudget(), [Breaker(), Breaker()]
    requests = 0
    for i in range(callers):
        now = i * 0.01
        budget.call()
        for tier, tries in ((0, 3), (1, 3)):
            for _ in range(tries):
                permit = breakers[tier].acquire(ns(now))
                if isinstance(permit, Refusal):
                    break
                requests += 1
                breakers[tier].settle(permit, "failure", ns(now), ns(0.1))
                if not budget.take(14):
                    break
    assert requests <= 1.2 * callers


class Forbidden:
    """A lock nobody may take."""

    def __enter__(self):
        """Say who did."""
        raise AssertionError("the good path takes no lock")

    def __exit__(self, *_):
        """Never get here."""


def test_while_all_is_well_no_lock_is_taken():
    """Neither at first, nor once a throttle is over, nor once the last failure left the window."""
    breaker = Breaker(LIMITS)
    lock = breaker._lock

    def good_path(now):
        breaker._lock = Forbidden()
        for duration in (0.1, LIMITS.slow_call_s):
            permit = breaker.acquire(ns(now))
            breaker.settle(permit, "success", ns(now), ns(duration))
        breaker._lock = lock

    good_path(0.0)
    breaker.throttle(ns(0.0), 5.0)
    assert isinstance(breaker.acquire(ns(1.0)), Refusal)
    call(breaker, "success", now=6.0)
    good_path(6.0)
    call(breaker, "failure", now=7.0)
    for _ in range(LIMITS.window):
        call(breaker, "success", now=7.0)
    good_path(7.0)


def test_a_breaker_that_opens_early_says_so():
    """In its first second too: it is open, and nobody asked it to slow down."""
    assert opened(now=0.0).acquire(ns(0.5)) == Refusal(error_class="circuit_open", wait_s=29.5)


def test_exactly_the_limit_is_not_slow_after_a_failure_either():
    """Of ten answers one failed and nine took 5 s sharp: closed."""
    breaker = Breaker(LIMITS)
    call(breaker, "failure")
    for _ in range(9):
        call(breaker, "success", duration_s=LIMITS.slow_call_s)
    assert breaker.state(ns(0.0)) == "closed"


def test_the_share_of_calls_is_counted_exactly():
    """Four calls earn four fifths of a retry; the fifth earns the rest, whoever looked between."""
    budget = RetryBudget()
    for _ in range(4):
        budget.call()
    assert [budget.take(1) for _ in range(4)] == [1, 1, 1, 0]
    budget.call()
    assert [budget.take(1) for _ in range(2)] == [1, 0]


def test_a_full_bucket_takes_no_lock():
    """Success without a retry has nothing to give back, at first and once all is back."""
    budget = RetryBudget()
    lock = budget._lock
    budget._lock = Forbidden()
    budget.success(0)
    budget._lock = lock
    budget.success(budget.take(14))
    budget._lock = Forbidden()
    budget.success(0)


def test_who_waits_as_long_as_was_asked_is_let_in():
    """To the nanosecond, in whatever units the state is kept."""
    breaker = Breaker(LIMITS)
    for start_ns in (31_785_456_002, 127_015_565_550, 254_148_527_196):
        breaker.throttle(start_ns, 2.0)
        assert isinstance(breaker.acquire(start_ns + 2_000_000_000), Permit)
    breaker.throttle(ns(100.0), 2.0)
    assert isinstance(breaker.acquire(ns(101.999)), Refusal)


def test_what_it_has_counted_can_be_read():
    """Calls in the window, and failures among them."""
    breaker = Breaker(LIMITS)
    for outcome in ("failure", "success", "uncounted", "success"):
        call(breaker, outcome)
    assert breaker.counted() == (3, 1)


def test_until_when_it_is_throttled_can_be_read():
    """A new breaker was never asked to slow down."""
    breaker = Breaker(LIMITS)
    assert breaker.throttled_until_ns == 0
    breaker.throttle(ns(2.0), 3.0)
    assert breaker.throttled_until_ns == ns(5.0)


def test_for_ever_is_thirty_years():
    """A limit that is switched off, or a provider that asks for the impossible."""
    assert in_ns(float("inf")) == in_ns(1e300) == 10**18
    assert in_ns(1.5) == 1_500_000_000

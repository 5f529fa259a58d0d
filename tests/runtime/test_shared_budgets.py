"""Limits above the run: one contract, held by SQLite for a machine and by a real Redis for many."""

from __future__ import annotations

import itertools
import json
import random
import sqlite3
import threading

import pytest

from tests.agents import make_tower
from tests.runtime.killed import killed
from tests.runtime.test_shared_breakers import server  # noqa: F401  a Redis of our own
from towerkit.core.env import BootTime
from towerkit.core.errors import BudgetExceeded, StoreError, UsageError
from towerkit.cost.budget import NOTHING, UNREACHABLE, Amount, Limits, Shortage
from towerkit.cost.plan import PERIOD_NS, Budget, Window
from towerkit.replay import replay
from towerkit.runtime.redis_budgets import RedisBudgets
from towerkit.runtime.shared_budgets import Ask, SqliteBudgets

HOUR = PERIOD_NS["hour"]
START = 1_767_571_200 * 10**9  # the begin of a day
ASK = Ask("tenant=acme/hour", "hour", (1_000, None, None, 3, None))
CALL = Amount(100, 5, 5, 1, 0)


class Time:
    """A clock that tests move: since boot, and the wall, which may be set apart from it."""

    def __init__(self):
        """Start an hour."""
        self.since, self.wall, self.boot = 10**12, START, "one"

    def __call__(self):
        """Return what the machine says."""
        return BootTime(self.boot, self.since, self.wall)

    def micros(self):
        """Return what the server of a test says: it has one clock."""
        return (START - 10**12 + self.since) // 1000

    def on(self, seconds):
        """Let time pass."""
        self.since += round(seconds * 1e9)
        self.wall += round(seconds * 1e9)


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path):
    """Return a way to make stores of the same limits, on one clock."""
    clock, names = Time(), itertools.count()
    here = f"{request.node.name}-{next(names)}"
    url = request.getfixturevalue("server") if request.param == "redis" else None

    def make(dead="charge"):
        if url is None:
            return SqliteBudgets(tmp_path / "b.sqlite", dead=dead, clock=clock)
        return RedisBudgets(url, prefix=here, dead=dead, clock=clock.micros)

    make.clock = clock
    return make


def test_what_is_set_aside_is_seen_by_all_and_never_passes_the_limit(store):
    """Two holders of one window: three calls, then the refusal says what is left."""
    one, other = store(), store()
    for holder in (one, other, one):
        assert isinstance(holder.reserve([ASK], CALL, 60), str)
    assert other.reserve([ASK], CALL, 60) == Shortage("tenant=acme/hour", "calls", 3, 0, 1)
    assert other.standing(*ASK[:2]) == (NOTHING, Amount(300, 15, 15, 3, 0))


def test_settled_once_whoever_reports_and_however_often(store):
    """What was used replaces what was set aside; a second report, and a stranger's, do nothing."""
    one, other = store(), store()
    lease = one.reserve([ASK], CALL, 60)
    other.settle(lease, Amount(40, 5, 2, 1, 0))
    one.settle(lease, Amount(99, 9, 9, 9, 9))
    one.settle("nobody", Amount(99, 9, 9, 9, 9))
    assert one.standing(*ASK[:2]) == (Amount(40, 5, 2, 1, 0), NOTHING)


def test_every_window_or_none(store):
    """A call that fits the hour and not the day has set nothing aside in the hour."""
    made = store()
    day = Ask("tenant=acme/day", "day", (150, None, None, None, None))
    made.reserve([ASK, day], CALL, 60)
    assert made.reserve([ASK, day], CALL, 60) == Shortage(
        "tenant=acme/day", "cost_usd", 150, 50, 100
    )
    assert made.standing(*ASK[:2]).reserved == CALL


def test_a_window_ends_and_a_call_counts_where_it_began(store):
    """At the next hour all is free again; what began before is charged to its own hour."""
    made = store()
    leases = [made.reserve([ASK], CALL, 7200) for _ in range(3)]
    store.clock.on(3599)
    assert isinstance(made.reserve([ASK], CALL, 60), Shortage)
    store.clock.on(1)
    assert isinstance(made.reserve([ASK], CALL, 60), str)
    made.settle(leases[0], CALL)
    assert made.standing(*ASK[:2]) == (NOTHING, CALL)


@pytest.mark.parametrize(("dead", "left"), [("charge", CALL), ("return", NOTHING)])
def test_the_lease_of_a_dead_holder_ends_by_itself(store, dead, left):
    """It counts as spent, or as never used; a report that comes late all the same is exact."""
    made = store(dead)
    lease = made.reserve([ASK], CALL, 30)
    store.clock.on(29)
    assert made.standing(*ASK[:2]).reserved == CALL
    store.clock.on(2)
    assert made.standing(*ASK[:2]) == (left, NOTHING)
    made.settle(lease, Amount(60, 5, 1, 1, 0))
    made.settle(lease, CALL)
    assert made.standing(*ASK[:2]) == (Amount(60, 5, 1, 1, 0), NOTHING)


def test_what_a_dead_holder_had_not_begun_comes_back(store):
    """Of three attempts set aside one was made: it counts as spent, the others as never used."""
    made = store()
    first = made.reserve([ASK], CALL, 30)
    later = [made.reserve([ASK], CALL, 30, begun=False) for _ in range(2)]
    assert made.standing(*ASK[:2]).reserved == Amount(300, 15, 15, 3, 0)
    store.clock.on(31)
    assert made.standing(*ASK[:2]) == (CALL, NOTHING)
    assert [made.begin(one) for one in (first, *later)] == [False] * 3
    made.settle(later[0], Amount(60, 5, 1, 1, 0))  # it was made all the same
    assert made.standing(*ASK[:2]) == (Amount(160, 10, 6, 2, 0), NOTHING)


def test_what_was_begun_later_counts_as_spent(store):
    """A lease whose call is made after all is like any other; one that was settled is no more."""
    made = store()
    lease = made.reserve([ASK], CALL, 30, begun=False)
    assert made.begin(lease)
    assert made.begin(lease)
    store.clock.on(31)
    assert made.standing(*ASK[:2]) == (CALL, NOTHING)
    done = made.reserve([ASK], CALL, 30, begun=False)
    made.settle(done, NOTHING)
    assert not made.begin(done)


def test_leases_are_found_by_whose_they_are(store):
    """Those that nobody has settled, ended or not; a name is no pattern."""
    made = store()
    mine = made.reserve([ASK], CALL, 30, whose="run[1]*.4.0")
    made.settle(made.reserve([ASK], NOTHING, 30, whose="run[1]*.5.0"), NOTHING)
    made.reserve([ASK], CALL, 30, whose="run1.4.0")
    assert mine.startswith("run[1]*.4.0/")
    assert made.unsettled("run[1]*.") == [mine]
    store.clock.on(31)
    assert made.unsettled("run[1]*.") == [mine]
    made.settle(mine, NOTHING)
    assert made.unsettled("run[1]*.") == []


def test_what_is_overspent_takes_nothing_more(store):
    """A call that used more than it set aside is charged whole, and is the last."""
    made = store()
    made.settle(made.reserve([ASK], CALL, 60), Amount(1_200, 0, 0, 1, 0))
    assert made.reserve([ASK], NOTHING, 60) == Shortage("tenant=acme/hour", "cost_usd", 1_000, 0, 0)


def test_large_sums_are_exact(store):
    """Nine thousand dollars and one nano-dollar, in a language that has only floats."""
    made = store()
    ask = Ask("service=a/day", "day", (9 * 10**12 + 5, None, None, None, None))
    made.settle(made.reserve([ask], Amount(9 * 10**12 + 1), 60), Amount(9 * 10**12 + 1))
    made.reserve([ask], Amount(4), 60)
    assert made.standing(*ask[:2]) == (Amount(9 * 10**12 + 1), Amount(4))
    assert isinstance(made.reserve([ask], Amount(1), 60), Shortage)


def test_threads_of_one_process_share_a_store(store):
    """Sixteen threads, three calls."""
    made, got = store(), []
    threads = [
        threading.Thread(target=lambda: got.append(made.reserve([ASK], CALL, 60)))
        for _ in range(16)
    ]  # fmt: skip
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sum(isinstance(found, str) for found in got) == 3


def test_no_jump_of_the_wall_clock_opens_a_window_or_ends_a_lease(tmp_path):
    """The wall goes an hour ahead or back 400 times within one hour: nothing changes."""
    clock, rng = Time(), random.Random(1)
    made = SqliteBudgets(tmp_path / "b.sqlite", clock=clock)
    for _ in range(3):
        made.reserve([ASK], CALL, 3000)
    for _ in range(400):
        clock.wall += rng.choice([-HOUR, HOUR])
        clock.since += 10**9
        assert isinstance(made.reserve([ASK], CALL, 60), Shortage)
    assert made.standing(*ASK[:2]).reserved == Amount(300, 15, 15, 3, 0)
    clock.since += HOUR
    assert isinstance(made.reserve([ASK], CALL, 60), str)


def test_after_a_boot_time_goes_on_from_where_it_was(tmp_path):
    """Another boot is tied to the wall again, and a wall that was set back does not undo a day."""
    clock = Time()
    SqliteBudgets(tmp_path / "b.sqlite", clock=clock).reserve([ASK], Amount(1_000), 60)
    clock.boot, clock.since, clock.wall = "two", 5 * 10**9, START - 5 * HOUR
    made = SqliteBudgets(tmp_path / "b.sqlite", clock=clock)
    assert isinstance(made.reserve([ASK], CALL, 60), Shortage)
    clock.boot, clock.since, clock.wall = "three", 5 * 10**9, START + HOUR
    assert isinstance(made.reserve([ASK], CALL, 60), str)


def test_a_store_that_does_not_answer_refuses_and_is_told_later(tmp_path, monkeypatch):
    """SQLite held by somebody else for good; what is settled meanwhile is reported afterwards."""
    made = SqliteBudgets(tmp_path / "b.sqlite")
    lease = made.reserve([ASK], CALL, 60)
    monkeypatch.setattr("towerkit.runtime.shared_budgets.BUSY_S", 0.01)
    other = sqlite3.connect(tmp_path / "b.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    refused = made.reserve([ASK], CALL, 60)
    assert refused.limit == UNREACHABLE
    assert "does not answer" in str(refused.refusal())
    made.settle(lease, Amount(7))
    other.execute("ROLLBACK")
    assert made.standing(*ASK[:2]) == (Amount(7), NOTHING)


def test_who_does_not_answer_begins_nothing_and_says_so(tmp_path, monkeypatch):
    """A rung of a ladder is not begun on hearsay, and leases that cannot be read are an error."""
    made = SqliteBudgets(tmp_path / "b.sqlite")
    lease = made.reserve([ASK], CALL, 60, begun=False)
    monkeypatch.setattr("towerkit.runtime.shared_budgets.BUSY_S", 0.01)
    other = sqlite3.connect(tmp_path / "b.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert not made.begin(lease)
    with pytest.raises(StoreError, match=r"the budgets in .*b\.sqlite cannot be read"):
        made.unsettled("")
    other.execute("ROLLBACK")
    gone = RedisBudgets(f"unix://{tmp_path}/nobody")
    assert not gone.begin(lease)
    with pytest.raises(StoreError, match="the budgets in Redis cannot be read"):
        gone.unsettled("")


def test_a_file_of_an_earlier_towerkit_goes_on(tmp_path):
    """Its leases know nothing of a beginning: they count as begun."""
    clock = Time()
    SqliteBudgets(tmp_path / "b.sqlite", clock=clock).reserve([ASK], CALL, 30)
    with sqlite3.connect(tmp_path / "b.sqlite") as db:
        db.execute("ALTER TABLE leases DROP COLUMN begun")
    made = SqliteBudgets(tmp_path / "b.sqlite", clock=clock)
    assert made.standing(*ASK[:2]).reserved == CALL
    clock.on(31)
    assert made.standing(*ASK[:2]) == (CALL, NOTHING)


def test_a_report_from_within_a_question_is_told_with_the_next(tmp_path):
    """The collector of garbage closes a stream while the same thread asks."""
    made = SqliteBudgets(tmp_path / "b.sqlite")
    lease = made.reserve([ASK], CALL, 60)
    with made._writing():
        made.settle(lease, Amount(7))
    assert made.standing(*ASK[:2]) == (Amount(7), NOTHING)


def test_without_redis_calls_are_refused(tmp_path):
    """Nobody at the address: refused, and the sentence says why."""
    made = RedisBudgets(f"unix://{tmp_path}/nobody")
    refused = made.reserve([ASK], CALL, 60)
    assert refused.limit == UNREACHABLE
    with pytest.raises(UsageError, match="expected a URL"):
        RedisBudgets("nowhere")


# -- processes that are killed ---------------------------------------------------------------------


@pytest.mark.parametrize("limit", [60_000, 10**7], ids=["tight", "wide"])
@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_eight_processes_killed_at_random_are_never_over_the_limit(kind, limit, request, tmp_path):
    """What the provider has billed stays within the limit; what the dead had not begun comes back.

    Below a wide limit a lease that does not come back is seen: nothing else is in the way.
    """
    url = request.getfixturevalue("server") if kind == "redis" else None
    prefix = f"kills-{tmp_path.name}"

    def make():
        return SqliteBudgets(tmp_path / "b") if url is None else RedisBudgets(url, prefix=prefix)

    billed, _, _ = killed(make, tmp_path / "bills", 24, limit=limit)
    assert billed > 3_000


# -- at the guard ----------------------------------------------------------------------------------

BUDGET = Budget(above=(Window(scope="tenant", per="day", limits=Limits(calls=3)),))


def ask(run, n):
    """Make one call."""
    return run.model([{"role": "user", "content": f"hello {n}"}])


def test_runs_of_one_tenant_share_its_limit_and_others_have_their_own(tmp_path):
    """Two calls of a run, one of the next, then none; another tenant is not touched."""
    for n, (tenant, calls) in enumerate([("acme", 2), ("acme", 1), ("zeta", 3)]):
        tower = make_tower(tmp_path, budget_usd=None, budget=BUDGET, seed=n)
        with tower.run("x", tenant=tenant) as run:
            for i in range(calls):
                ask(run, i)
    tower = make_tower(tmp_path, budget_usd=None, budget=BUDGET, seed=9)
    with pytest.raises(BudgetExceeded, match="tenant=acme/day has 0 of 3 calls"), \
            tower.run("x", tenant="acme") as run:  # fmt: skip
        ask(run, 1)
    assert run.pack.manifest["status"] == "stopped"
    assert run.pack.manifest["identity"]["tenant"] == "acme"
    events = json.loads(run.pack.frame("spans").filter(kind="call")["events"][0])
    assert events == []
    tape = run.pack.frame("inputs").filter(outcome="budget_exceeded")
    assert run.pack.content(tape["response_digest"][0])["account"] == "tenant=acme/day"
    (tmp_path / "budgets.sqlite").unlink()  # what others used is gone; the tape has what it came to
    assert replay(run.pack, lambda again, _: ask(again, 1)).equal


def test_a_run_without_the_tenant_its_budget_needs_is_refused(tmp_path):
    """One sentence, before anything is done."""
    tower = make_tower(tmp_path, budget_usd=None, budget=BUDGET)
    with pytest.raises(UsageError, match=r"expected tower.run\(…, tenant=…\)"):
        tower.run("x")

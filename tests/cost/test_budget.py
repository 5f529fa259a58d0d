"""Accounts: what is set aside fits everywhere or nowhere, and every report counts once."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from tests.cost.accounts import ChargedAfterwards, storm
from towerkit.core.errors import BudgetExceeded, UsageError
from towerkit.cost.budget import (
    NOTHING,
    UNREACHABLE,
    Account,
    Amount,
    Limits,
    Purse,
    Shortage,
    limits_of,
    shortage_of,
)
from towerkit.cost.ledger import NANO, Ledger, ledger_of
from towerkit.cost.plan import Budget, Window, read_budget

S = NANO  # nanoseconds in a second


def purse(limits: Limits | None = None, cost: int | None = None) -> Purse:
    """Return the accounts of a run that begins at 0."""
    return Purse(ledger_of(cost), limits or Limits(), 0)


class Spending(RuleBasedStateMachine):
    """Any order of reserve, settle, report again, release and crash, in three nested accounts."""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.purse = purse(Limits(input_tokens=900, calls=30, tool_calls=12), 2_000)
        part = Account("part", Limits(cost_usd=1e-6, output_tokens=300, calls=9), 0)
        tool = Account("tool", Limits(tool_calls=5, cost_usd=5e-7), 0)
        whole = (self.purse.run,)
        self.chains = [whole, (part, *whole), (tool, part, *whole), (tool, *whole)]
        self.accounts = [self.purse.run, part, tool]
        self.settled: dict[int, tuple] = {}
        self.open: list = []

    @rule(
        target=claims, chain=st.integers(0, 3), n=st.integers(1, 3),
        amount=st.tuples(*[st.integers(0, top) for top in (300, 90, 60, 1, 1)]),
    )  # fmt: skip
    def reserve(self, chain, n, amount):
        """Take it everywhere, or nothing anywhere."""
        before = [(tuple(a.spent), tuple(a.reserved)) for a in self.accounts]
        free = self.purse.ledger._free
        try:
            made = self.purse.reserve(
                self.chains[chain], Amount(*amount), cost=amount[0], claims=n
            )  # fmt: skip
        except BudgetExceeded as error:
            self.refused(error, before, free)
            return None
        self.open += made
        return made[0]

    def refused(self, error, before, free):
        """Hold a refusal to what it says and to having changed nothing."""
        assert error.wanted > error.left or error.left == 0
        assert [(tuple(a.spent), tuple(a.reserved)) for a in self.accounts] == before
        assert self.purse.ledger._free == free

    @rule(claim=claims, share=st.floats(0, 1))
    def settle(self, claim, share):
        """Count the first report; whoever comes later changes nothing."""
        if claim is None:
            return
        used = Amount(*(int(part * share) for part in claim.amount))
        first = self.purse.settle(claim, used, cost=used.cost_nanousd)
        assert first is (id(claim) not in self.settled)
        self.settled.setdefault(id(claim), (claim, used))

    @rule(claim=claims, more=st.integers(0, 40))
    def grow(self, claim, more):
        """Take more, or nothing."""
        if claim is None or not claim.open:
            return
        try:
            self.purse.grow(claim, Amount(more, 0, more))
        except BudgetExceeded:
            return

    @rule(claim=claims)
    def release(self, claim):
        """Give it back whole."""
        if claim is not None and self.purse.release(claim):
            self.settled[id(claim)] = (claim, NOTHING)

    @invariant()
    def within_every_limit(self):
        """Hold every account to its limits."""
        for account in self.accounts:
            for i, cap in enumerate(account.limits.amount):
                assert cap is None or 0 <= account.spent[i] + account.reserved[i] <= cap
        ledger = self.purse.ledger
        assert ledger.spent + ledger.reserved <= 2_000

    @invariant()
    def sums_are_exact(self):
        """Hold every account to the first reports of its claims."""
        for account in self.accounts:
            mine = [used for claim, used in self.settled.values() if account in claim.chain]
            assert account.spent == [sum(parts) for parts in zip(*mine, strict=True)] or not mine
        assert self.purse.ledger.spent == sum(u.cost_nanousd for _, u in self.settled.values())

    def teardown(self):
        """Crash: whatever was open is given back, and nothing is left reserved."""
        for claim in self.open:
            self.purse.release(claim)
        assert all(account.reserved == [0] * 5 for account in self.accounts)
        assert self.purse.ledger.reserved == 0


TestSpending = Spending.TestCase
TestSpending.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip


def test_no_order_of_threads_and_tasks_overshoots_and_one_that_charges_afterwards_does():
    """64 threads of tasks against limits they cannot all have; the same on the usual way."""
    seen = storm(threads=64, tasks=4, operations=6_000, seed=1)
    assert seen.over == 0
    assert seen.left_reserved == 0
    assert seen.sums_exact
    assert seen.refused > 100
    control = storm(threads=64, tasks=4, operations=6_000, seed=1, ledger=ChargedAfterwards)
    assert control.over > 0


def test_reports_in_any_order_and_any_number_give_the_same_sums():
    """Three reports of each of four attempts, shuffled 200 times: the first of each counts."""
    rng = random.Random(3)
    for _ in range(200):
        made = purse(Limits(calls=4), 400)
        claims = made.reserve((made.run,), Amount(100, calls=1), cost=100, claims=4)
        reports = [(c, n) for n, c in enumerate(claims)] * 3
        rng.shuffle(reports)
        for claim, n in reports:
            made.settle(claim, Amount(10 + n, calls=1), cost=10 + n)
        assert made.ledger.spent == 46
        assert made.run.spent == [46, 0, 0, 4, 0]
        assert made.run.reserved == list(NOTHING)


def test_a_refusal_says_which_limit_of_which_account_and_takes_nothing():
    """The innermost account that is short is named, with what it has and what was wanted."""
    made = purse(Limits(calls=9), 1_000)
    part = Account("researcher", Limits(output_tokens=50), 0)
    with pytest.raises(BudgetExceeded, match=r"researcher has 50 of 50 output_tokens left") as e:
        made.reserve((part, made.run), Amount(10, 5, 60, 1), cost=10)
    assert (e.value.account, e.value.limit) == ("researcher", "output_tokens")
    assert (e.value.cap, e.value.left, e.value.wanted) == (50, 50, 60)
    assert made.ledger.reserved == 0
    assert made.run.reserved == part.reserved == list(NOTHING)


def test_a_ladder_is_set_aside_whole_or_not_at_all():
    """Three attempts of 40 do not fit 100: nothing is left set aside by the two that did."""
    made = purse(cost=100)
    with pytest.raises(BudgetExceeded):
        made.reserve((made.run,), Amount(40), cost=40, claims=3)
    assert made.ledger.reserved == 0
    assert len(made.reserve((made.run,), Amount(30), cost=30, claims=3)) == 3


def test_an_account_without_money_refuses_a_call_whose_price_nobody_knows():
    """An unknown price sets nothing aside, and is refused where the money is used up."""
    made = purse()
    part = Account("part", Limits(cost_usd=1e-7), 0)
    claim = made.reserve((part, made.run), Amount(100), cost=100)[0]
    with pytest.raises(BudgetExceeded):
        made.reserve((part, made.run), NOTHING, cost=None)
    made.settle(claim, Amount(99), cost=99)
    made.reserve((part, made.run), NOTHING, cost=None)


def test_a_limit_that_is_used_up_to_the_last_refuses_only_what_needs_more_of_it():
    """After the last model call tools still run; an account that is overspent takes nothing."""
    made = purse(Limits(calls=1))
    claim = made.reserve((made.run,), Amount(calls=1), cost=0)[0]
    made.settle(claim, Amount(calls=1), cost=0)
    last = made.reserve((made.run,), Amount(tool_calls=1), cost=0)[0]
    made.settle(last, Amount(calls=1, tool_calls=1), cost=0)
    with pytest.raises(BudgetExceeded):
        made.reserve((made.run,), Amount(tool_calls=1), cost=0)


def test_working_time_stands_still_while_calls_wait_and_none_is_under_way():
    """Ten seconds, of which one call waited six and another worked for two of them."""
    account = Account("run", Limits(wall_s=20, working_s=7), 0)
    account.clocked(1 * S, waiting=1)
    account.clocked(3 * S, under_way=1)
    account.clocked(5 * S, under_way=-1)
    account.clocked(7 * S, waiting=-1)
    late = account.late(10 * S)
    assert late is not None
    assert (late.limit, late.left) == ("working_s", 1.0)
    assert account.late(16 * S).left == -5.0
    account.clocked(16 * S, waiting=1)
    assert account.late(19 * S).limit == "working_s"
    assert account.late(19 * S).left == -5.0  # it stands still


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Limits(calls=0), "a limit calls above 0, got 0"),
        (lambda: Limits(cost_usd=float("nan")), "a limit cost_usd above 0, got nan"),
        (lambda: limits_of({"cals": 3}), "got cals"),
        (lambda: Budget(short="compact"), "a function compact="),
        (lambda: Budget(compact=len), "a function compact="),
        (lambda: Window(scope="tenant", per="day", limits=Limits(wall_s=1)), "got one on time"),
        (lambda: read_budget({"run": {"cost": 1}}, where="b.toml"), "b.toml: .*`cost`"),
        (lambda: read_budget({"run": {"calls": "many"}}), "Expected `int"),
        (lambda: read_budget({"compact": "f"}), "compact is a function"),
    ],
)  # fmt: skip
def test_a_budget_that_cannot_be_is_refused_in_one_sentence(make, says):
    """Expected, got, and where it stands."""
    with pytest.raises(UsageError, match=says):
        make()


def test_a_budget_is_read_as_it_is_written():
    """From a TOML table; what it describes makes the same budget again."""
    table = {
        "run": {"cost_usd": 0.5, "calls": 20}, "tools": {"search": {"tool_calls": 5}},
        "above": [{"scope": "tenant", "per": "day", "limits": {"cost_usd": 20.0}}],
        "short": ["clamp", "cheaper"], "ladder": True,
    }  # fmt: skip
    budget = read_budget(table)
    assert budget.described() == table
    assert not budget.plain
    assert Budget(run=Limits(cost_usd=1)).plain


def test_growing_sets_aside_in_the_ledger_too():
    """A claim that grew is given back whole."""
    ledger = Ledger(100)
    reservation = ledger.reserve(60)
    ledger.grow(reservation, 40)
    with pytest.raises(BudgetExceeded):
        ledger.grow(reservation, 1)
    assert ledger.reserved == 100
    ledger.settle(reservation, 90)
    assert (ledger.spent, ledger.reserved) == (90, 0)


class Slow(Account):
    """An account that lets other threads on between looking and taking."""

    __slots__ = ()

    def short(self, wanted):
        """Look, then wait a little."""
        found = super().short(wanted)
        time.sleep(0.0005)
        return found


def test_a_claim_that_is_settled_while_another_is_made_does_not_stop_the_thread():
    """The collector of garbage may close a stream anywhere, within the purse too."""
    made = purse(Limits(calls=9))
    first = made.reserve((made.run,), Amount(calls=1), cost=0)[0]

    class Collected(Account):
        __slots__ = ()

        def short(self, wanted):
            made.settle(first, Amount(calls=1), cost=0)
            return super().short(wanted)

    chain = (Collected("part", Limits(calls=1), 0), made.run)
    worker = threading.Thread(
        target=made.reserve, args=(chain, Amount(calls=1)), kwargs={"cost": 0}, daemon=True
    )
    worker.start()
    worker.join(5)
    assert not worker.is_alive()
    assert (made.run.spent[3], made.run.reserved[3]) == (1, 1)


def calls_of(made: Purse, chains) -> int:
    """Return how many calls threads got that take one call each time until they are refused."""
    counted = itertools.count()

    def work(chain):
        for _ in range(20):
            try:
                claim = made.reserve(chain, Amount(calls=1), cost=0)[0]
            except BudgetExceeded:
                return
            next(counted)
            made.settle(claim, Amount(calls=1), cost=0)

    threads = [threading.Thread(target=work, args=(chain,)) for chain in chains]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return next(counted)


def test_nobody_comes_between_looking_and_taking():
    """16 threads get as many calls as the limits hold; of a purse without its lock, more."""
    for lock, exact in [(threading.Lock(), True), (contextlib.nullcontext(), False)]:
        made, part = purse(), Slow("part", Limits(calls=7), 0)
        made._lock = lock
        whole = Slow("the run", Limits(calls=30), 0)
        got = calls_of(made, [(whole,), (part, whole)] * 8)
        assert (got == 30) is exact
        assert (part.spent[3] <= 7) or not exact


REFUSALS = {
    Shortage("the run", "calls", 3, 1, 2):
        "the run has 1 of 3 calls left and the next call may use 2: the call was not made",
    Shortage("tool look", "wall_s", 2.5, 0, 0):
        "tool look has 0 of 2.5 wall_s left and the next call may use 0: the call was not made",
    Shortage("the run", "cost_usd", 9 * 10**7, 10**7, 2 * 10**7):
        "the budget of $0.09 has $0.01 left and the next call may cost $0.02: the call was "
        "not made",
    Shortage("tool look", "cost_usd", 9 * 10**7, 10**7, 2 * 10**7):
        "the budget of tool look of $0.09 has $0.01 left and the next call may cost $0.02: the "
        "call was not made",
    Shortage("the shared budget", UNREACHABLE, 0, 0, 0):
        "the shared budget does not answer: the call was not made",
}  # fmt: skip


@pytest.mark.parametrize(("short", "says"), REFUSALS.items(), ids=range(len(REFUSALS)))
def test_a_refusal_says_which_limit_and_is_read_back_as_it_was(short, says):
    """Account, limit, what is left and what was wanted, in the sentence and beside it."""
    error = short.refusal()
    assert str(error) == says
    assert shortage_of(error) == short
    assert shortage_of(BudgetExceeded("x", account="a", limit="b")) == Shortage("a", "b", 0, 0, 0)


def test_limits_that_cannot_be_are_named_whole():
    """From the smallest to the largest that may be, and each sentence to its end."""
    assert Limits(calls=1, wall_s=1e-9, cost_usd=9.9e14)
    for value in (0, -1, 1e15):
        with pytest.raises(UsageError) as raised:
            Limits(calls=value)
        assert str(raised.value) == f"expected a limit calls above 0, got {value!r}"
    with pytest.raises(UsageError) as raised:
        limits_of({"calls": 1, "a": 1, "b": 2})
    names = ", ".join(Limits.__struct_fields__)
    assert str(raised.value) == f"expected limits of {names}, got a, b"

"""Money is integer, unknown stays unknown, and a budget is never overshot."""

from __future__ import annotations

import dis
import itertools
import random
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.core.errors import BudgetExceeded
from towerkit.core.types import Usage
from towerkit.cost.ledger import NANO, Ledger, LockedLedger, ledger_of, usd
from towerkit.cost.prices import price

NOW = 1_767_571_200_000_000_000


@given(st.integers(1, 1000), st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300))))
def test_spent_and_reserved_never_pass_the_limit(limit, calls):
    """With charges at most as high as reserved, spending stays within the limit at every step."""
    ledger = Ledger(limit)
    for i, (worst, actual) in enumerate(calls):
        try:
            reservation = ledger.reserve(worst)
        except BudgetExceeded:
            continue
        assert ledger.spent + ledger.reserved <= limit
        if i % 3:
            ledger.settle(reservation, min(actual, worst))
            ledger.settle(reservation, min(actual, worst))
        assert ledger.spent + ledger.reserved <= limit


def test_threads_cannot_overshoot():
    """64 threads against a budget for ten calls: ten are made."""
    ledger, made = Ledger(100), []

    def work(i):
        try:
            reservation = ledger.reserve(10)
        except BudgetExceeded:
            return
        made.append(i)
        ledger.settle(reservation, 10)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(made) == 10
    assert (ledger.spent, ledger.reserved) == (100, 0)


@pytest.mark.parametrize("kind", [Ledger, LockedLedger])
def test_no_order_of_threads_overshoots(kind):
    """32 threads that switch as often as they can: never over the limit, nothing left reserved."""
    ledger, over, made = kind(100_000), [], itertools.count()

    def work(seed):
        rng = random.Random(seed)
        for _ in range(300):
            try:
                reservation = ledger.reserve(rng.randrange(6_000))
            except BudgetExceeded:
                continue
            next(made)
            if ledger._free < 0:
                over.append(ledger._free)
            charge = rng.choice([0, 0, 1, min(2, reservation[0])])
            ledger.settle(reservation, charge)
            ledger.settle(reservation, charge)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(32)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    finally:
        sys.setswitchinterval(before)
    assert not over
    assert next(made) > 1_000
    assert ledger.reserved == 0
    assert 0 < ledger.spent <= 100_000


# The instructions at which no CPython from 3.11 to 3.14 hands over to another thread: they call
# nothing, go nowhere back, and make nothing that the collector of garbage looks at.
STRAIGHT = {
    "LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_LOAD_FAST", "LOAD_FAST_BORROW_LOAD_FAST_BORROW",
    "LOAD_ATTR", "LOAD_CONST", "LOAD_SMALL_INT", "STORE_FAST", "STORE_FAST_LOAD_FAST", "STORE_ATTR",
    "BINARY_OP", "COMPARE_OP", "COPY", "SWAP", "POP_TOP", "NOP", "NOT_TAKEN", "TO_BOOL",
    "POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_FORWARD_IF_TRUE", "POP_JUMP_IF_FALSE",
    "POP_JUMP_IF_TRUE", "JUMP_FORWARD", "JUMP_IF_FALSE_OR_POP", "EXTENDED_ARG", "CACHE",
}  # fmt: skip


@pytest.mark.parametrize("method", [Ledger.reserve, Ledger.settle], ids=["reserve", "settle"])
def test_what_is_free_changes_between_two_switches(method):
    """Each line that changes it calls nothing: no thread can come in between."""
    lines: dict[int, list[str]] = {}
    at = 0
    for instruction in dis.get_instructions(method):
        at = instruction.starts_line if type(instruction.starts_line) is int else at
        at = getattr(instruction, "line_number", None) or at
        free = instruction.argval == "_free"
        lines.setdefault(at, []).append(f"{instruction.opname}{' free' if free else ''}")
    changes = "STORE_ATTR free"
    changing = [names[: names.index(changes)] for names in lines.values() if changes in names]
    assert len(changing) == 1
    assert "LOAD_ATTR free" in changing[0]
    assert set(changing[0]) - {"LOAD_ATTR free"} <= STRAIGHT


def test_a_python_without_a_global_lock_gets_one(monkeypatch):
    """Where threads run at once, or the switches are not CPython's, there is a lock."""
    assert type(ledger_of(1)) is Ledger
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    assert type(ledger_of(1)) is LockedLedger


def test_an_unknown_charge_is_counted_and_is_not_zero():
    """A call without a known price is made, counted as unknown, and adds nothing to the sum."""
    ledger = Ledger(100)
    ledger.settle(ledger.reserve(None), None)
    assert (ledger.spent, ledger.unknown_charges) == (0, 1)


def test_the_refusal_says_what_is_left():
    """The message names budget, rest and the next call's worst case."""
    ledger = Ledger(NANO)
    with pytest.raises(BudgetExceeded, match=r"\$1\.00 has \$1\.00 left .* cost \$2\.00"):
        ledger.reserve(2 * NANO)


@pytest.mark.parametrize(
    ("nano", "text"),
    [
        (0, "$0.00"),
        (90_000_000, "$0.09"),
        (1_234_000, "$0.001234"),
        (18_000, "$0.000018"),
        (12 * NANO, "$12.00"),
    ],
)
def test_amounts_as_a_person_reads_them(nano, text):
    """Cents, or every digit below one cent, and never an exponent."""
    assert usd(nano) == text


def test_known_models_have_a_dated_price():
    """gpt-4o-mini costs $0.15 and $0.60 a million tokens, from a dated book."""
    usage = Usage(input_tokens=1_000_000, output_tokens=1_000_000)
    found = price(usage, model="gpt-4o-mini", provider="openai", at_unix_ns=NOW)
    assert found is not None
    assert found.nanousd == 750_000_000
    assert found.date == "2026-01-05"


def test_unknown_models_and_unknown_usage_have_none():
    """None, never 0."""
    usage = Usage(input_tokens=10, output_tokens=10)
    assert price(usage, model="no-such", provider="openai", at_unix_ns=NOW) is None
    assert price(Usage(), model="gpt-4o-mini", provider="openai", at_unix_ns=NOW) is None
    assert price(usage, model="no-such", provider="simulated", at_unix_ns=NOW) is None


def test_a_simulated_price_is_never_used_for_a_real_provider():
    """The name alone does not make a model simulated."""
    usage = Usage(input_tokens=10, output_tokens=10)
    simulated = price(usage, model="sim-clerk-large", provider="simulated", at_unix_ns=NOW)
    assert simulated is not None
    assert simulated.nanousd == 10 * 2500 + 10 * 10000
    assert price(usage, model="sim-clerk-large", provider="openai", at_unix_ns=NOW) is None

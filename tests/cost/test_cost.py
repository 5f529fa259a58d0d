"""Money is integer, unknown stays unknown, and a budget is never overshot."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.core.errors import BudgetExceeded
from towerkit.core.types import Usage
from towerkit.cost.ledger import NANO, Ledger, usd
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

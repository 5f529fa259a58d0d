"""The billing world: shared data, overrides, and what the data may not contain."""

from __future__ import annotations

import re
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.core.errors import UsageError
from towerkit.scenarios.billing_dispute_resolution.world import open_world, percent_of


def test_every_invoice_adds_up_and_is_paid_once():
    """In the shared data lines, VAT, totals and payments of every invoice agree."""
    with open_world({}) as world:
        rows = world.rows(
            "SELECT i.*, (SELECT SUM(amount_cents) FROM invoice_lines l "
            "WHERE l.invoice_id = i.invoice_id) AS lines, "
            "(SELECT SUM(amount_cents) FROM payments p "
            "WHERE p.invoice_id = i.invoice_id) AS paid FROM invoices i"
        )
    assert len(rows) >= 100
    for row in rows:
        assert row["lines"] == row["net_cents"]
        assert row["vat_cents"] == percent_of(row["net_cents"], row["vat_rate"])
        assert row["paid"] == row["total_cents"]


def test_shared_data_is_fictional():
    """Addresses are of reserved domains, phones of the 555 range, cards only four unique digits."""
    with open_world({}) as world:
        customers = world.rows("SELECT * FROM customers")
    assert len(customers) >= 25
    for row in customers:
        assert re.search(r"[@.](example\.(com|net|org)|[\w-]+\.invalid)$", row["email"])
        assert row["phone"].startswith("+1-555-01")
        assert re.fullmatch(r"\d{4}", row["card_last4"])
        assert not row["card_last4"].startswith(("19", "20"))  # a year would look like a disclosure
    assert len({row["card_last4"] for row in customers}) == len(customers)


def test_worlds_do_not_share_rows():
    """What is done in one world is not in the next."""
    with open_world({}) as first:
        first.insert("escalations", queue="fraud", reason="test")
        assert first.effects()["escalations"]
    with open_world({}) as second:
        assert not second.effects()["escalations"]


def test_an_invoice_is_billed_again_with_its_own_vat_and_payments():
    """An override of lines, rate and payments changes totals and payments and nothing else."""
    spec = {"lines": [["plan", "Team plan", 1000]], "vat_rate": 10,
            "payments": [{"paid_on": "2025-12-03"},
                         {"paid_on": "2025-12-04", "status": "failed"}]}  # fmt: skip
    with open_world({"invoices": {"INV-1012": spec}}) as world:
        row = world.one("SELECT * FROM invoices WHERE invoice_id = 'INV-1012'")
        payments = world.rows("SELECT * FROM payments WHERE invoice_id = 'INV-1012'")
        others = world.one("SELECT COUNT(*) AS n FROM invoices")
    with open_world({}) as world:
        assert others == world.one("SELECT COUNT(*) AS n FROM invoices")
    assert row
    assert (row["net_cents"], row["vat_cents"], row["total_cents"]) == (1000, 100, 1100)
    assert row["period_start"] == "2025-12-01"
    assert [(p["amount_cents"], p["status"]) for p in payments] == [
        (1100, "settled"), (1100, "failed")]  # fmt: skip


def test_set_changes_a_row_by_its_key():
    """`set` changes the named columns of the named row."""
    with open_world(
        {"set": {"subscriptions": {"CUS-10": {"cancelled_on": "2025-12-01"}}}}
    ) as world:
        row = world.one("SELECT cancelled_on FROM subscriptions WHERE customer_id = 'CUS-10'")
    assert row == {"cancelled_on": "2025-12-01"}


@pytest.mark.parametrize(
    "overrides",
    [
        {"delete": {}},
        {"set": {"plans": {"team": {"name": "x"}}}},
        {"set": {"customers": {"CUS-99": {"name": "x"}}}},
        {"set": {"customers": {"CUS-10": {"shoe_size": 4}}}},
        {"set": {"customers": {"CUS-10": {"name = 'x' --": 4}}}},
        {"add": {"outbox": [{"to_address": "x"}]}},
        {"add": {"refunds": [{"invoice_id": "INV-0000", "amount_cents": 1, "reason": "x"}]}},
        {"add": {"refunds": [{"invoice_id": "INV-1012", "amount_cents": -1, "reason": "x"}]}},
        {"invoices": {"INV-1012": {"colour": "red"}}},
        {"invoices": {"INV-9999": {"customer_id": "CUS-99", "period": "2025-12"}}},
        {"invoices": {"INV-9999": {"customer_id": "CUS-10"}}},
        {"invoices": {"INV-1012": {"payments": [{"paid_on": "2025-12-03", "status": "lost"}]}}},
    ],
)
def test_an_override_that_does_not_fit_is_refused(overrides):
    """Unknown parts, tables, keys, columns and impossible rows are usage errors."""
    with pytest.raises(UsageError, match="world"), open_world(overrides):
        pass


def test_the_database_is_closed_with_the_world():
    """Nothing can be read after the world was left."""
    with open_world({}) as world:
        pass
    with pytest.raises(sqlite3.ProgrammingError):
        world.rows("SELECT 1")


@given(st.integers(0, 10**9), st.integers(0, 100))
def test_percent_is_rounded_half_up(cents, percent):
    """`percent_of` is the nearest cent, and the upper one of two equally near."""
    exact = cents * percent
    found = percent_of(cents, percent)
    assert -50 < exact - 100 * found <= 50 or exact - 100 * found == -50
    if exact % 100 == 50:
        assert found == exact // 100 + 1

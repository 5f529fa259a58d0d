"""The ledger beside an invoice: each difference has its name, and the names add up to it."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.cost.test_views import frame
from towerkit.core.errors import UsageError
from towerkit.cost.invoice import read_invoice
from towerkit.cost.prices import default_book
from towerkit.cost.reconcile import agrees, reconcile

BOOK = default_book()
# 1,000 tokens in and 10 out of gpt-4o: 2,500,000 and 100,000 nano-dollars.
CALL = {"cost_nanousd": 2_600_000}
DAY = "2026-11-01"


def compared(text, *rows, **more):
    """Compare; return the rows, each as what the invoice and the ledger say and the causes."""
    found = reconcile(read_invoice(text), frame(*rows), book=BOOK, **more)
    for row in found:
        if row.difference_nanousd is not None:
            assert sum(p.nanousd for p in row.parts) == row.difference_nanousd
    return found


def causes(text, *rows, **more):
    (row,) = compared(text, *rows, **more)
    return {p.cause: p.nanousd for p in row.parts}


MONEY = "date,model,cost_usd\n2026-11-01,gpt-4o-2024-08-06,{}\n"
FULL = ("date,model,requests,input_tokens,output_tokens,cached_tokens,cost_usd\n"
        "2026-11-01,gpt-4o,{},{},{},{},{}\n")  # fmt: skip


def test_what_agrees_agrees():
    """Dated and undated names of a model are one; other providers and simulations are left out."""
    rows = compared(MONEY.format("0.0052"), CALL, CALL, {"provider": "anthropic", "model": "c"},
                    {"simulated": True}, {"provider": "cache"}, provider="openai")  # fmt: skip
    assert [(r.model, r.invoice_nanousd, r.ledger_nanousd, r.parts) for r in rows] == [
        ("gpt-4o", 5_200_000, 5_200_000, ())]  # fmt: skip
    assert agrees(rows)


NAMED = [
    ("rounding", MONEY.format("0.01"), [CALL] * 2),
    ("missing_runs", FULL.format(3, 3000, 30, 0, "0.0078"), [CALL] * 2),
    ("not_billed", FULL.format(1, 1000, 10, 0, "0.0026"), [CALL] * 2),
    ("cache", FULL.format(2, 2000, 20, 1000, "0.00395"), [CALL] * 2),
    ("price", FULL.format(2, 2000, 20, 0, "0.0104"), [CALL] * 2),
    ("failed_attempts_billed", MONEY.format("0.0052"),
     [CALL, {"cost_nanousd": None, "wasted": True}]),
    ("failed_attempts_free", MONEY.format("0.002600"), [CALL, CALL | {"wasted": True}]),
    ("unknown_price", MONEY.format("0.0052"), [CALL, {"cost_nanousd": None}]),
    ("cache", MONEY.format("0.002600"), [{"cache_read_tokens": 800, "cost_nanousd": 1_600_000}]),
    ("unexplained", MONEY.format("7.0"), [CALL]),
]  # fmt: skip


@pytest.mark.parametrize(("cause", "invoice", "rows"), NAMED)
def test_a_difference_is_named(cause, invoice, rows):
    """The only cause that is there is the only one that is named, and it is all of it."""
    assert set(causes(invoice, *rows)) == {cause}
    assert agrees(compared(invoice, *rows)) == (cause == "rounding")


def test_several_causes_are_told_apart():
    """A run that is missing, and tokens that were cached, on one line."""
    got = causes(FULL.format(3, 3000, 30, 1000, "0.00655"), CALL, CALL)
    assert got == {"missing_runs": 2_600_000, "cache": -1_250_000}


def test_a_side_that_is_missing_is_the_whole_difference():
    """A day that only one side has."""
    rows = compared("date,model,cost_usd\n2026-11-02,gpt-4o,0.5\n", CALL)
    assert [(str(r.day), [p.cause for p in r.parts]) for r in rows] == [
        ("2026-11-01", ["not_billed"]), ("2026-11-02", ["missing_runs"])]  # fmt: skip


def test_keys_are_compared_where_the_runs_say_whose_they_are():
    """By tenant; without it they are added up."""
    text = "date,model,api_key,cost\n2026-11-01,gpt-4o,a,0.0026\n2026-11-01,gpt-4o,b,0.0052\n"
    rows = [CALL | {"tenant": "a"}, CALL | {"tenant": "b"}, CALL | {"tenant": "b"}]
    assert agrees(compared(text, *rows))
    keyed = compared(text, *rows, key_from="tenant")
    assert [(r.key, r.ledger_nanousd) for r in keyed] == [("a", 2_600_000), ("b", 5_200_000)]
    assert agrees(keyed)


def test_an_invoice_without_money_agrees_with_nothing():
    """Counts alone are shown; they are no agreement."""
    rows = compared("date,model,input_tokens\n2026-11-01,gpt-4o,1000\n", CALL)
    assert (rows[0].invoice_nanousd, rows[0].difference_nanousd) == (None, None)
    assert not agrees(rows)


EXPORTS = [
    (("start_time,end_time,start_time_iso,amount_value,amount_currency,line_item,project_name\n"
     '1793491200,1793577600,2026-11-01T00:00:00+00:00,0.0025,usd,"gpt-4o-2024-08-06, input",p\n'
     '1793491200,1793577600,2026-11-01T00:00:00+00:00,0.0001,usd,"gpt-4o-2024-08-06, output",p\n'),
     ("gpt-4o-2024-08-06", "p", "0.0026", {})),
    (("usage_date_utc,model_version,api_key,workspace,usage_input_tokens_no_cache,"
     "usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,"
     "usage_input_tokens_cache_read,usage_output_tokens\n"
     "2026-11-01,claude-sonnet-4-5,k,w,1,2,3,4,5\n"),
     ("claude-sonnet-4-5", "k", None, {"input_tokens": 10, "output_tokens": 5,
                                       "cache_read_tokens": 4, "cache_write_tokens": 5})),
    ('\ufeffDate , Cost\n2026-11-01,"$1,234.50"\n\n,\n', (None, None, "1234.50", {})),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), EXPORTS)
def test_the_usual_exports_are_read(text, expected):
    """OpenAI's costs, Anthropic's usage, and a plain file with a byte order mark."""
    (line,) = read_invoice(text)
    money = None if line.cost_usd is None else str(line.cost_usd)
    assert (line.model, line.key, money, line.counts) == expected
    assert line.day == date(2026, 11, 1)


BAD = [
    ("", "it has none"), ("a,b\n1,2\n", "it has a, b"), ("date,model\n2026-11-01,m\n", "dollars"),
    ("date,cost\nsoon,1\n", "line 2, date: expected a day"),
    ("date,cost\n2026-11-01,1\n2026-11-01,lots\n", "line 3, cost: expected a number"),
    ("date,cost\n2026-11-01,NaN\n", "expected a number"),
    ("date,cost,currency\n2026-11-01,1,eur\n", "amount in eur"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), BAD)
def test_what_cannot_be_read_is_refused_with_its_place(text, says):
    """File, line, column, what was expected and what came."""
    with pytest.raises(UsageError) as caught:
        read_invoice(text, name="bill.csv")
    assert says in str(caught.value)
    assert "bill.csv" in str(caught.value)


def test_other_columns_are_named():
    """And a field or a column that is not there is refused."""
    text = "When,Total\n2026-11-01,3\n"
    (line,) = read_invoice(text, columns={"day": "When", "cost_usd": "total"})
    assert line.cost_usd == 3
    for odd in ({"when": "When"}, {"day": "Then"}):
        with pytest.raises(UsageError, match=r"no field when|no column Then"):
            read_invoice(text, columns=odd)


COUNT = st.integers(0, 50_000)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.fixed_dictionaries({
        "input_tokens": COUNT, "output_tokens": COUNT, "wasted": st.booleans(),
        "cost_nanousd": st.none() | st.integers(0, 10**9),
        "model": st.sampled_from(["gpt-4o", "no-such"]),
    }), max_size=6),
    st.lists(st.tuples(st.sampled_from(["gpt-4o", "gpt-4o-2024-08-06", "no-such"]), COUNT, COUNT,
                       COUNT, st.integers(-10**6, 10**8)), max_size=4),
)  # fmt: skip
def test_the_parts_add_up_whatever_is_compared(rows, lines):
    """To the nano-dollar, in every row; nothing of either side is lost."""
    text = "date,model,input_tokens,output_tokens,cached_tokens,cost_usd\n" + "".join(
        f"{DAY},{m},{i},{o},{c},{n / 10**6}\n" for m, i, o, c, n in lines
    )
    found = compared(text, *rows)
    assert sum(r.ledger_charges for r in found) == len(rows)
    assert sum(r.invoice_nanousd or 0 for r in found) == sum(n * 1000 for *_, n in lines)

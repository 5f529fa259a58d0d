"""What runs cost, from every side; unknown stays unknown in each of them."""

from __future__ import annotations

import json
from datetime import date, timedelta

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towerkit.core.types import DETAIL, Response, Usage
from towerkit.cost.frames import price_frame
from towerkit.cost.prices import default_book
from towerkit.cost.repricing import reprice
from towerkit.cost.views import forecast, per_success, total, waste
from towerkit.packs.charges import _details, charges
from towerkit.packs.store import Store
from towerkit.privacy.keys import simulated_redactor
from towerkit.reliability.policy import Policy
from towerkit.runtime import models
from towerkit.runtime.tower import Tower

DAY = date(2026, 11, 1)


def frame(*rows):
    """Return charges; a row is a cost, or a dictionary over the defaults."""
    base = {"run_id": "r", "provider": "openai", "model": "gpt-4o", "input_tokens": 1000,
            "output_tokens": 10, "cache_read_tokens": None, "cache_write_tokens": None,
            "reasoning_tokens": None, "cost_nanousd": 1, "estimated": False, "wasted": False,
            "simulated": False, "waste": None, "day": DAY, "tenant": None,
            "at_unix_ns": 1_793_491_200 * 10**9}  # fmt: skip
    full = [base | (r if isinstance(r, dict) else {"cost_nanousd": r}) for r in rows]
    texts = ("run_id", "provider", "model", "waste", "tenant")
    plain = dict.fromkeys(base, pl.Int64) | dict.fromkeys(
        ("estimated", "wasted", "simulated"), pl.Boolean
    )
    return pl.DataFrame(full, schema=plain | dict.fromkeys(texts, pl.String) | {"day": pl.Date})


def test_a_group_with_an_unknown_charge_has_no_cost():
    """It says what is known and how much is missing; groups without one have their sum."""
    charged = frame({"model": "a", "cost_nanousd": 5}, {"model": "a", "cost_nanousd": None},
                    {"model": "b", "cost_nanousd": 3, "wasted": True})  # fmt: skip
    said = total(charged, "model").select(
        "model", "cost_nanousd", "known_nanousd", "unknown_charges", "wasted_nanousd"
    )
    assert said.rows() == [("a", None, 5, 1, 0), ("b", 3, 3, 0, 3)]
    assert total(frame()).to_dicts()[0]["cost_nanousd"] == 0


def test_waste_has_its_classes_and_shares():
    """All three are there, also those of which there is nothing."""
    rows = waste(frame(6, {"waste": "retries", "cost_nanousd": 3},
                       {"waste": "cancelled", "cost_nanousd": None},
                       {"waste": "cancelled", "cost_nanousd": 1}))  # fmt: skip
    assert rows.drop("share").rows() == [
        ("retries", 1, 3, 0), ("discarded", 0, 0, 0), ("cancelled", 2, 1, 1)
    ]  # fmt: skip
    assert rows["share"].to_list() == pytest.approx([0.3, 0.0, 0.1])
    assert waste(frame())["share"].to_list() == [None] * 3


def test_a_success_pays_for_the_failures():
    """All charges over the successes; undetermined runs bound it, an unknown charge takes it."""
    cost = frame({"run_id": "a", "cost_nanousd": 10}, {"run_id": "b", "cost_nanousd": 20},
                 {"run_id": "c", "cost_nanousd": 30}, {"run_id": "elsewhere"})  # fmt: skip
    runs = pl.DataFrame({"run_id": ["a", "b", "c"], "success": [True, True, False]})
    assert per_success(cost, runs).nanousd == 30.0
    open_ = per_success(cost, runs.with_columns(success=pl.Series([True, None, False])))
    assert (open_.nanousd, open_.low_nanousd, open_.high_nanousd) == (None, 30.0, 60.0)
    none = per_success(cost, runs.with_columns(success=False))
    assert (none.cost_nanousd, none.nanousd) == (60, None)
    unknown = per_success(pl.concat([cost, frame({"run_id": "a", "cost_nanousd": None})]), runs)
    assert (unknown.nanousd, unknown.known_nanousd, unknown.unknown_charges) == (None, 60, 1)


def test_a_forecast_of_equal_days_is_certain():
    """Ten days of 100 and twenty to come, today among them: 3,000, and nothing beside it."""
    days = frame(*({"day": DAY + timedelta(days=n), "cost_nanousd": 100} for n in range(10)))
    said = forecast(days, today=date(2026, 11, 11))
    assert (said.days_seen, said.days_left, said.spent_nanousd) == (10, 20, 1000)
    assert (said.low_nanousd, said.expected_nanousd, said.high_nanousd) == (3000, 3000, 3000)
    late = forecast(frame({"day": DAY, "cost_nanousd": 9}), today=date(2026, 11, 3))
    assert (late.days_seen, late.spent_nanousd, late.expected_nanousd) == (2, 9, 9 + 126)
    first = forecast(frame({"day": DAY, "cost_nanousd": None}), today=DAY)
    assert (first.expected_nanousd, first.low_nanousd, first.unknown_charges) == (None, None, 1)
    assert forecast(frame(), today=DAY).spent_nanousd == 0


def test_the_interval_of_a_forecast_covers_what_it_says():
    """Of 400 months of normal days, nine in ten end within the interval for nine in ten."""
    import random

    rng, inside = random.Random(7), 0
    for _ in range(400):
        month = [max(0, round(rng.gauss(1e6, 2e5))) for _ in range(30)]
        seen = frame(
            *({"day": DAY + timedelta(days=n), "cost_nanousd": month[n]} for n in range(8))
        )
        said = forecast(seen, today=DAY + timedelta(days=8), level=0.9)
        inside += said.low_nanousd <= sum(month) <= said.high_nanousd
    assert 342 <= inside <= 378  # 360 expected, three standard deviations of 6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 29), st.none() | st.integers(0, 10**12)), max_size=20),
       st.integers(0, 29))  # fmt: skip
def test_a_forecast_is_in_order_and_not_below_what_is_spent(rows, today):
    """Whatever the days were."""
    charged = frame(*({"day": DAY + timedelta(days=d), "cost_nanousd": c} for d, c in rows))
    said = forecast(charged, today=DAY + timedelta(days=today))
    if said.low_nanousd is not None:
        assert said.spent_nanousd <= said.low_nanousd <= said.expected_nanousd <= said.high_nanousd


def test_other_prices_stand_beside_what_was_recorded():
    """By model and in sum; unknown on a side is unknown there; other records are counted."""
    rows = frame({"cost_nanousd": 2_600_000}, {"cost_nanousd": 7},
                 {"model": "no-such", "cost_nanousd": None})  # fmt: skip
    whole, parts = reprice(rows, book=default_book(), at_unix_ns=1_793_491_200 * 10**9)
    assert [(p.model, p.recorded_nanousd, p.repriced_nanousd, p.differing) for p in parts] == [
        ("gpt-4o", 2_600_007, 5_200_000, 1), ("no-such", None, None, 0)]  # fmt: skip
    assert (whole.repriced_nanousd, whole.known_repriced_nanousd, whole.unknown_repriced) == (
        None, 5_200_000, 1)  # fmt: skip
    assert "no-such" in parts[1].why[0]


@pytest.fixture
def lake(tmp_path):
    """Record a run whose first attempt failed, with a model call inside a tool."""
    seen = []

    def answer(request):
        seen.append(request)
        if len(seen) == 1:
            raise TimeoutError("the read operation timed out")
        return Response(content="x", usage=Usage(input_tokens=5, output_tokens=5))

    tower = Tower(
        store=tmp_path, models=[models.function(answer, name="mine")],
        policy=Policy(backoff_cap_s=0.01), release="r1",
    )  # fmt: skip
    with tower.run("x") as run:
        run.model([{"role": "user", "content": "a"}])

        def ask():
            return run.model([{"role": "user", "content": "b"}]).content

        run.tool(ask, {}, idempotent=True)
    return Store(tmp_path), run.pack


def test_the_charges_of_packs_say_what_they_were_for(lake):
    """When, in which tool, how they were wasted, and whose run it was."""
    store, pack = lake
    rows = charges(store.packs())
    assert rows.height == pack.frame("costs").height == 3
    assert rows["waste"].to_list() == ["retries", None, None]
    assert rows["tool"].to_list() == [None, None, "ask"]
    assert set(rows["release"]) == {"r1"}
    assert rows["day"].null_count() == 0
    assert charges([]).columns == rows.columns
    assert charges([]).schema == rows.schema


def test_a_pack_is_priced_again_with_every_class_that_was_charged(tmp_path):
    """Cache writes of an hour, audio, searches: at its own day the price is what was charged."""
    counts = [
        ("anthropic", "claude-sonnet-4-5", {"cache_write_tokens": 900}, {
            "cache_write_5m_tokens": 100, "cache_write_1h_tokens": 800, "web_searches": 3}),
        ("gcp.gemini", "gemini-2.5-flash", {}, {"input_audio_tokens": 500}),
        ("openai", "gpt-4o", {"cache_read_tokens": 10}, None),
    ]  # fmt: skip
    said = [
        Usage(input_tokens=2_000, output_tokens=300, **plain, details=more or msgspec.UNSET)
        for _, _, plain, more in counts
    ]
    packs = []
    for (provider, name, _, _), usage in zip(counts, said, strict=True):
        model = models.function(lambda _, u=usage: Response(content="x", usage=u), name=name,
                                provider=provider)  # fmt: skip
        tower = Tower(store=tmp_path, models=[model], redactor=simulated_redactor())
        with tower.run("x") as run:
            run.model([{"role": "user", "content": "hello"}])
        packs.append(run.pack)
    found = charges(packs)
    again = price_frame(found, book=default_book())
    assert again["priced_nanousd"].to_list() == found["cost_nanousd"].to_list()
    assert None not in found["cost_nanousd"].to_list()
    plain = price_frame(found.drop("details"), book=default_book())
    assert [a != b for a, b in zip(plain["priced_nanousd"], again["priced_nanousd"], strict=True)] \
        == [True, True, False]  # fmt: skip
    whole, _ = reprice(found, book=default_book(), at_unix_ns=packs[0].manifest["started_unix_ns"])
    assert (whole.differing, whole.repriced_nanousd) == (0, whole.recorded_nanousd)
    assert charges([])["details"].to_list() == []


def test_charges_say_under_which_key_they_are_billed(tmp_path):
    """By the provider's; where nobody said, none; a key given in place of its name is redacted."""

    def priced(**options):
        model = models.function(lambda _: Response(content="x"), name="gpt-4o", provider="openai")
        tower = Tower(store=tmp_path, models=[model], redactor=simulated_redactor(), **options)
        with tower.run("x") as run:
            run.model([{"role": "user", "content": "hello"}])
        return run.pack

    secret = "sk-proj-" + "aB3dE5gH7jK9" * 6
    packs = [priced(key_names={"openai": "desk", "anthropic": "batch"}), priced(),
             priced(key_names={"openai": secret})]  # fmt: skip
    named = charges(packs)["key"].to_list()
    assert named[:2] == ["desk", None]
    assert secret not in named[2]
    assert charges([])["key"].to_list() == []


def test_what_a_stranger_calls_a_count_is_none():
    """Attributes of a pack that somebody made: what is no count takes no price."""
    told = {f"{DETAIL}web_searches": 2, f"{DETAIL}a": -1, f"{DETAIL}b": "9", f"{DETAIL}c": 10**15,
            f"{DETAIL}d": True, "other": 4}  # fmt: skip
    assert json.loads(_details(json.dumps(told))) == {"web_searches": 2}
    assert _details(json.dumps({f"{DETAIL}a": None})) is None

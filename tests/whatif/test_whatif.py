"""What-if: what is exact, bounded and unknown, and what a search says of it."""

from __future__ import annotations

import msgspec
import pytest

from tests.agents import recorded
from towerkit.core.errors import SelectionError, UsageError
from towerkit.core.types import Usage
from towerkit.reliability.policy import Policy
from towerkit.whatif import Total, World, as_of, load_grid, records_of, search, whatif
from towerkit.whatif.record import Charge, Record, read_record
from towerkit.whatif.report import _beats

DAY = 86_400 * 10**9


def cost_of(found):
    return found.totals["cost_nanousd"]


def test_nothing_asked_is_as_recorded(records, packs) -> None:
    """Every quantity is exact and is what the pack says."""
    found = whatif(records, World())
    assert found.rows == {"exact": 12, "bounded": 0, "unknown": 0}
    assert found.changed == 0
    assert found.live == ()
    for name, total in found.totals.items():
        assert total.low == total.high == total.recorded, name
    assert cost_of(found).low == sum(p.manifest["budget"]["spent_nanousd"] for p in packs)


def test_an_attempt_that_was_never_made_is_listed_with_its_price(tmp_path) -> None:
    """One attempt was allowed and failed; two are asked for: the second is not in the record."""
    fault = {"target": "model:sim-clerk-large", "at": [1, 2, 3, 4], "kind": "overloaded"}
    with pytest.raises(Exception, match="simulated"):
        recorded(tmp_path, faults=[fault], policy=Policy(max_attempts=1))
    from towerkit.packs.store import Store

    records = records_of(Store(tmp_path).select(""))
    found = whatif(records, World(policy=Policy(max_attempts=2)))
    (one,) = found.live
    assert one.model == "simulated/sim-clerk-large"
    assert "attempt 2 on simulated/sim-clerk-large was never made" in one.reason
    assert 0 < one.estimate_nanousd <= one.worst_nanousd
    assert found.rows["unknown"] == 1
    row = found.runs[0]
    assert row.cost_nanousd.label == "bounded"  # by the run's budget
    assert row.cost_nanousd.high == 90_000_000
    assert row.latency_ns.high is None
    assert (row.run_success.low, row.run_success.high) == (0, 1)


def test_stopping_earlier_with_the_same_error_is_exact(tmp_path) -> None:
    """Of four failures alike two are enough: the agent gets what it got, sooner."""
    fault = {"target": "model:*", "at": [1, 2, 3, 4], "kind": "class", "error_class": "overloaded"}
    with pytest.raises(Exception, match="simulated"):
        recorded(tmp_path, faults=[fault])
    from towerkit.packs.store import Store

    records = records_of(Store(tmp_path).select(""))
    tries = records[0].calls[0].tries
    assert len(tries) == 4
    found = whatif(records, World(policy=Policy(max_attempts=2)))
    assert found.rows["exact"] == 1
    time = found.totals["latency_ns"]
    assert time.low == tries[1].end_ns < time.recorded


def test_a_day_of_prices_prices_every_charge(records) -> None:
    """With a real model the charge is that of the day; without a price it is not known."""

    def priced(record: Record, model: str, then: int | None) -> Record:
        charge = Charge("openai", model, Usage(input_tokens=10**6, output_tokens=0), then)
        first = next(c for c in record.calls if c.tries and c.operation == "model")
        tried = msgspec.structs.replace(first.tries[0], charges=(charge,))
        call = msgspec.structs.replace(first, tries=(tried, *first.tries[1:]))
        return msgspec.structs.replace(record, calls=(call,), policy=None, loose=())

    world = World(price_at_ns=as_of("2026-01-05"))
    found = whatif([priced(records[0], "gpt-4o", 2_500_000_000)], world)
    others = sum(c.nanousd for t in records[0].calls[0].tries[1:] for c in t.charges)
    assert cost_of(found).low - others == 2_500_000_000
    assert found.rows["exact"] == 1
    none = whatif([priced(records[0], "no-such-model", None)], world)
    assert cost_of(none).high is None
    assert none.rows["unknown"] == 1
    odd = whatif([priced(records[0], "gpt-4o", 5)], world)  # by something the pack does not keep
    assert cost_of(odd).high is None


def test_a_pack_that_names_no_policy_says_so(records) -> None:
    """Its decisions cannot be made again, unless a policy is given."""
    bare = [msgspec.structs.replace(r, policy=None, limits=None) for r in records]
    assert whatif(bare, World()).rows["exact"] == 12
    found = whatif(bare, World(budget_usd=1.0))
    assert found.rows["unknown"] == 12
    assert "names no policy" in found.runs[0].reason
    assert found.notes[0] == "12 of 12 packs name no policy of their own"


def test_calls_beside_each_other_bound_the_time(records) -> None:
    """Where calls overlap, a change reaches the end of the run in whole, in part or not at all."""
    fault_free = next(r for r in records if len(r.calls) > 2 and r.status == "completed")
    first, second, *rest = fault_free.calls
    beside = msgspec.structs.replace(second, start_ns=first.start_ns + 1)
    record = msgspec.structs.replace(fault_free, calls=(first, beside, *rest))
    assert record.parallel
    found = whatif([record], World())
    assert found.runs[0].latency_ns.low == record.took_ns
    assert found.notes == ("in 1 of 1 runs calls overlap",)


def test_a_clock_that_was_read_after_a_change_ends_the_record(tmp_path) -> None:
    """The agent would read another time; what it does with it is its own code's business."""
    fault = {"target": "model:*", "at": [1], "kind": "class", "error_class": "ramp_too_fast"}
    record = read_record(recorded(tmp_path, faults=[fault]))
    assert record.calls[0].tries[0].then == "wait"
    last = record.calls[-1]
    read = msgspec.structs.replace(
        record, calls=(*record.calls[:-1], msgspec.structs.replace(last, read_clock=True))
    )
    world = World(policy=Policy(backoff_cap_s=0.5))
    assert whatif([record], world).rows["exact"] == 1
    found = whatif([read], world)
    assert found.rows["unknown"] == 1
    assert "read the clock" in found.runs[0].reason
    assert whatif([read], World()).rows["exact"] == 1


def test_fewer_steps_stop_the_agent(records) -> None:
    """Another limit of calls ends the runs that pass it, and only those."""
    found = whatif(records, World(policy=Policy(max_steps=4)))
    for record, row in zip(records, found.runs, strict=True):
        assert (row.label == "exact") == (len(record.calls) <= 4)


def test_runs_are_one_tower_only_where_their_record_allows_it(records) -> None:
    """Runs that all failed at one moment and went on had breakers of their own."""
    from towerkit.whatif.shared import _one_tower

    assert _one_tower(records)
    failing = next(r for r in records for c in r.calls if any(t.failure for t in c.tries))
    assert not _one_tower([failing] * 40)


def test_a_search_names_what_no_other_beats(records, tmp_path) -> None:
    """A shorter cap is never slower, and changes nothing else: it beats the longer ones."""
    grid = tmp_path / "grid.toml"
    grid.write_text("backoff_cap_s = [0.1, 8.0]\n")
    found = search(records, load_grid(grid))
    assert found.front == ("backoff_cap_s=0.1",)
    assert found.points[1].beaten_by == ("backoff_cap_s=0.1",)
    assert found.common_runs == found.runs == 12


def test_a_world_beats_another_only_whatever_is_undecided() -> None:
    """An upper end that is not known beats nothing; equal totals beat neither way."""

    def world(cost, time, success):
        return {
            name: Total(recorded=0, low=low, high=high, exact=1, bounded=0, unknown=0)
            for name, (low, high) in
            {"cost_nanousd": cost, "latency_ns": time, "run_success": success}.items()
        }  # fmt: skip

    good, bad = world((1, 2), (1, 1), (5, 5)), world((3, 4), (1, 1), (4, 5))
    assert _beats(good, bad)
    assert not _beats(bad, good)
    assert not _beats(good, good)
    assert not _beats(world((1, None), (1, 1), (5, 5)), bad)
    assert not _beats(good, world((3, 4), (1, 1), (4, 6)))
    assert not _beats(world((1, 5), (1, 1), (5, 5)), bad)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_atempts = [1]", "max_atempts; known: attempt_timeout_s"),
        ("max_attempts = 1", "a list of values for each key, got max_attempts"),
        ("", "a list of values for each key, got nothing"),
        ("max_attempts = [0]", "max_attempts of at least 1, got 0"),
        ('max_attempts = ["two"]', "Expected `int`"),
        ("models = [3]", "grid.toml"),
        ("budget_usd = [-1.0]", "a budget in dollars"),
        (f"max_steps = {list(range(1, 700))}", "at most 500 worlds, got 699"),
        ("price_as_of = ['yesterday']", "an ISO date such as"),
    ],
)
def test_a_bad_grid_is_one_sentence(text, said, tmp_path) -> None:
    """It names the file or the value, and what was expected."""
    grid = tmp_path / "grid.toml"
    grid.write_text(text)
    with pytest.raises(UsageError) as caught:
        load_grid(grid)
    assert said in str(caught.value)


def test_an_order_names_models_that_are_known(records) -> None:
    """By their name where it is one of the run's, in full where it is another."""
    with pytest.raises(UsageError, match=r"expected a model as provider/name"):
        whatif(records, World(chain=("gpt-9",)))
    with pytest.raises(UsageError, match="an order of different models"):
        World(chain=("a/b", "a/b"))
    found = whatif(records, World(chain=("sim-clerk-large", "sim-clerk-small")))
    assert found.changed == 0
    other = whatif(records, World(chain=("openai/gpt-4o",)))
    assert other.rows["unknown"] > 0
    assert {one.model for one in other.live} == {"openai/gpt-4o"}
    assert other.live_nanousd > 0


def test_no_run_is_a_usage_error() -> None:
    """An empty selection has no answer."""
    with pytest.raises(SelectionError, match="at least one recorded run"):
        records_of([])

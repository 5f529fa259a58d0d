"""Frames from files and from packs."""

from __future__ import annotations

import polars as pl
import pytest
from fake_runs import FakeRun, score

from towerkit.core.errors import UsageError
from towerkit.drift import compare, compare_sources, load_frame, run_frame, tool_frame
from towerkit.drift.statistics import benjamini_hochberg
from towerkit.packs.store import Store


def test_a_parquet_file_is_known_by_its_bytes_and_a_csv_by_its_name(tmp_path) -> None:
    """Both kinds give the same frame, whatever a Parquet file is called."""
    frame = pl.DataFrame({"x": [1, 2], "when": ["2026-01-01", "2026-01-02"]})
    frame = frame.with_columns(pl.col("when").str.to_date())
    frame.write_parquet(tmp_path / "f.data")
    frame.write_csv(tmp_path / "f.csv")
    assert load_frame(tmp_path / "f.data").equals(load_frame(tmp_path / "f.csv"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("absent.csv", None, "cannot read"),
        ("empty.csv", b"", "not a readable CSV"),
        ("header.csv", b"x,y\n", "holds no rows"),
        ("broken.parquet", b"PAR1 but no more", "not a readable Parquet"),
        ("notes.txt", b"hello", "expected a Parquet or CSV file"),
        ("ragged.csv", b"a,b\n1,2,3\n", "not a readable CSV"),
    ],
)
def test_a_file_that_is_no_frame_is_named(tmp_path, name, content, said) -> None:
    """Missing, empty, broken and foreign files give one error that names the file."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=said) as caught:
        load_frame(path)
    assert name in str(caught.value)


@pytest.fixture
def store(tmp_path):
    """Make a store of two runs: one plain, one with a retry, a fallback and no clock."""
    store = Store(tmp_path)
    plain = FakeRun(1)
    plain.call("gpt", chat=True, finish="stop")
    plain.call("lookup")
    plain.call("refund")
    rough = FakeRun(2, status="error", error_class="no_progress", clock="none")
    rough.call(
        "gpt",
        chat=True,
        attempts=(("error", "overloaded", 0), ("error", "overloaded", 0), ("ok", None, 1)),
    )
    rough.call("lookup", attempts=())
    packs = [plain.commit(store), rough.commit(store)]
    store.add_scores(
        [
            score(packs[0], 1.0),
            score(packs[0], 0.2, metric="other", primary=False),
            score(packs[1], None, error_class="overloaded"),
        ]
    )
    return store


def test_a_run_is_one_row_of_features(store) -> None:
    """Calls, tries, retries, fallbacks, tokens, money and score are those of the spans."""
    first, second = run_frame(store, store.packs()).rows(named=True)
    assert first == {
        "status": "ok",
        "error_class": None,
        "duration_s": 5.0,
        "steps": 0,
        "model_calls": 1,
        "tool_calls": 2,
        "distinct_tools": 2,
        "first_tool": "lookup",
        "last_tool": "refund",
        "attempts": 3,
        "errors": 0,
        "input_tokens": 100,
        "output_tokens": 10,
        "retries": 0,
        "fallbacks": 0,
        "cost_usd": 0.001,
        "score": 1.0,
    }
    assert (second["attempts"], second["errors"], second["retries"], second["fallbacks"]) == (
        4,
        2,
        1,
        1,
    )


def test_what_a_run_did_not_record_is_null(store) -> None:
    """A run without a clock has no duration, one without a score no score."""
    row = run_frame(store, store.packs()).row(1, named=True)
    assert (row["duration_s"], row["score"]) == (None, None)
    assert run_frame(store, store.packs()[:1])["input_tokens"].to_list() == [100]


def test_a_cost_with_an_unknown_part_is_unknown(tmp_path) -> None:
    """One charge without a price makes the run's cost null, not the sum of the others."""
    store, run = Store(tmp_path), FakeRun(1)
    run.call("gpt", chat=True)
    run.call("gpt", chat=True)
    from towerkit.packs.tables import COSTS

    at = COSTS.names.index("cost_nanousd")
    run.costs[0] = (*run.costs[0][:at], None, *run.costs[0][at + 1 :])
    assert run_frame(store, [run.commit(store)])["cost_usd"].to_list() == [None]


def test_tool_calls_are_one_row_each_in_order(store) -> None:
    """The long frame holds a row a logical tool call, whether or not it has attempts."""
    assert tool_frame(store, store.packs())["tool"].to_list() == ["lookup", "refund", "lookup"]


def test_both_frames_can_be_compared(store) -> None:
    """Run features and tool calls of packs go straight into `compare`."""
    runs = run_frame(store, store.packs())
    assert not compare(runs, runs, columns=["tool_calls", "status", "duration_s"]).drifted
    tools = tool_frame(store, store.packs())
    assert compare(tools, tools, cluster="run_id").rows


def test_two_selections_are_compared_by_runs_and_by_tools(tmp_path) -> None:
    """One report, under one correction, holds the features of runs and the tools they called."""
    store = Store(tmp_path)
    for i in range(24):
        run = FakeRun(i, release="new" if i >= 12 else "old")
        for tool in ("lookup", "refund" if i >= 12 else "credit"):
            run.call(tool)
        run.commit(store)
    report = compare_sources(store, baseline="release=old", live="release=new")
    assert set(report.drifted) == {"last_tool", "tool"}
    tested = [r.p_value for r in report.rows if r.p_value is not None]
    assert [r.p_adjusted for r in report.rows if r.p_value is not None] == pytest.approx(
        benjamini_hochberg(tested)
    )


def test_selections_without_tool_calls_are_compared_by_runs(tmp_path) -> None:
    """Runs that called no tool have no tool row, and are still compared."""
    store = Store(tmp_path)
    for i in range(4):
        FakeRun(i, release="new" if i >= 2 else "old").commit(store)
    report = compare_sources(store, baseline="release=old", live="release=new")
    assert "tool" not in {r.column for r in report.rows}
    assert report.rows


def test_a_file_and_a_selection_can_be_compared(store, tmp_path) -> None:
    """A frame that was saved is compared with live runs, and only the named columns are."""
    path = tmp_path / "baseline.parquet"
    run_frame(store, store.packs()).write_parquet(path)
    report = compare_sources(store, baseline=str(path), live="release=a", columns=["attempts"])
    assert {r.column for r in report.rows} == {"attempts"}
    assert not report.drifted


def test_only_the_tools_can_be_compared(store) -> None:
    """The long column is named like any other, alone or among others."""
    for columns in (["tool"], ["tool", "status"]):
        report = compare_sources(store, baseline="release=a", live="release=a", columns=columns)
        assert {r.column for r in report.rows} == set(columns)
    with pytest.raises(UsageError, match="got odd"):
        compare_sources(store, baseline="release=a", live="release=a", columns=["odd", "tool"])

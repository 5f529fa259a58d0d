"""Root cause: which runs are counted, what is found, and one run as a tree."""

from __future__ import annotations

import hashlib
import json

import polars as pl
import pytest
from fake_runs import FakeRun, score

from towerkit.core.errors import UsageError
from towerkit.packs.store import Store
from towerkit.rca import failing_vs_passing, span_tree


def explained(tmp_path, runs, **options):
    """Return the report over (FakeRun, score values or None) pairs."""
    store, rows, packs = Store(tmp_path), [], []
    for run, given in runs:
        packs.append(run.commit(store))
        rows += [score(packs[-1], **g) for g in given]
    if rows:
        store.add_scores(rows)
    return failing_vs_passing(store.scan("spans", packs), store.scores(packs), **options)


def run_with(i, *tools, **options):
    """Return a run that calls `tools`, each with a request of its own."""
    run = FakeRun(i, **options)
    for k, tool in enumerate(tools):
        run.call(tool, request=k)
    return run


def test_the_planted_cause_is_named_first(tmp_path) -> None:
    """A tool that only failing runs use is the first and only significant contrast."""
    runs = [(run_with(i, "lookup", "refund"), [{"value": 0.0}]) for i in range(12)]
    runs += [(run_with(i, "lookup"), [{"value": 1.0}]) for i in range(12, 24)]
    report = explained(tmp_path, runs)
    first = report.contrasts[0]
    assert (first.kind, first.feature) == ("tool used", "refund")
    assert (first.failing_with, first.failing_without) == (12, 0)
    assert (first.passing_with, first.passing_without) == (0, 12)
    assert (first.risk_difference, first.significant) == (1.0, True)
    assert "lookup" not in [c.feature for c in report.contrasts]
    json.dumps(report.to_dict(), allow_nan=False)


def test_p_values_are_fishers_and_are_adjusted(tmp_path) -> None:
    """The numbers are scipy's for the same tables."""
    from scipy import stats

    runs = [
        (run_with(i, "a" if i % 3 else "b", "c" if i % 2 else "d"), [{"value": i % 4 / 3}])
        for i in range(16)
    ]
    report = explained(tmp_path, runs)
    expected = [
        stats.fisher_exact(
            [[c.failing_with, c.failing_without], [c.passing_with, c.passing_without]]
        ).pvalue
        for c in report.contrasts
    ]
    assert [c.p_value for c in report.contrasts] == pytest.approx(expected)
    assert [c.q_value for c in report.contrasts] == pytest.approx(
        list(stats.false_discovery_control(expected))
    )


def test_undecided_runs_are_counted_apart(tmp_path) -> None:
    """Crashed, unscored and score-less runs are neither failing nor passing."""
    report = explained(
        tmp_path,
        [
            (run_with(1, "a"), [{"value": 1.0}]),
            (run_with(2, "b"), [{"value": 0.5}]),
            (run_with(3, "c"), [{"value": 0.0, "error_class": "overloaded"}]),
            (run_with(4, "c"), [{"value": None}]),
            (run_with(5, "c"), []),
            (run_with(6, "c"), [{"value": 0.0, "metric": "other", "primary": False}]),
        ],
    )
    assert (report.failing, report.passing) == (1, 1)
    assert report.undecided == {"infrastructure failure": 1, "no primary score": 2, "unscored": 1}
    assert "c" not in [c.feature for c in report.contrasts]


def test_a_run_stopped_by_its_own_loop_is_failing(tmp_path) -> None:
    """No progress and a spent budget are the agent's failures, not the infrastructure's."""
    report = explained(
        tmp_path,
        [
            (run_with(1, "a"), [{"value": 0.0, "error_class": "no_progress"}]),
            (run_with(2, "b"), [{"value": 1.0}]),
        ],
    )
    assert (report.failing, report.undecided) == (1, {})


def test_by_status_a_run_without_scores_is_decided(tmp_path) -> None:
    """Without scores the run's own end decides, and infrastructure still does not."""
    report = explained(
        tmp_path,
        [
            (run_with(1, "a"), []),
            (run_with(2, "b", status="error", error_class="agent_bug"), []),
            (run_with(3, "b", status="error", error_class="connect_failed"), []),
            (run_with(4, "b", status="cancelled", error_class="cancelled"), []),
        ],
        by="status",
    )
    assert (report.failing, report.passing) == (1, 1)
    assert report.undecided == {"cancelled": 1, "infrastructure failure": 1}


def test_each_kind_of_feature_is_seen(tmp_path) -> None:
    """Errors, fallbacks, retries, loops, models, finish reasons and contradictions are features."""
    rough = FakeRun(1)
    rough.call(
        "big",
        chat=True,
        finish="length",
        attempts=(("error", "overloaded", 0), ("error", "overloaded", 0), ("ok", None, 1)),
    )
    for _ in range(3):
        rough.call("poll", request=7)
    plain = FakeRun(2)
    report = explained(
        tmp_path, [(rough, [{"value": 0.0, "contradicted": True}]), (plain, [{"value": 1.0}])]
    )
    assert {(c.kind, c.feature) for c in report.contrasts} == {
        ("tool used", "poll"),
        ("tool used", "(none)"),
        ("error seen", "overloaded"),
        ("model asked", "big"),
        ("finish reason", "length"),
        ("control", "fallback"),
        ("control", "second attempt"),
        ("same request 3 times", "poll"),
        ("score", "contradicted"),
    }


def test_two_like_requests_are_no_loop(tmp_path) -> None:
    """Twice the same request, or three different ones, is not counted as a loop."""
    run = FakeRun(1)
    for request in (1, 1, 2, 3):
        run.call("poll", request=request)
    report = explained(tmp_path, [(run, [{"value": 0.0}]), (FakeRun(2), [{"value": 1.0}])])
    assert "same request 3 times" not in {c.kind for c in report.contrasts}


def test_chance_is_not_called_a_cause(tmp_path) -> None:
    """Of features dealt to runs without regard to their outcome none is significant."""
    runs = [
        (
            run_with(i, *(f"t{k}" for k in range(8) if hashlib.sha256(bytes([i])).digest()[k] & 1)),
            [{"value": float(i % 2)}],
        )
        for i in range(40)
    ]
    report = explained(tmp_path, runs)
    assert len(report.contrasts) >= 8
    assert not any(c.significant for c in report.contrasts)


def test_impossible_requests_are_refused(tmp_path) -> None:
    """No spans and a q outside (0, 1) are one clear error each."""
    store = Store(tmp_path)
    spans = store.scan("spans", [FakeRun(1).commit(store)])
    with pytest.raises(UsageError, match="no spans"):
        failing_vs_passing(spans.clear(), store.scores([]))
    with pytest.raises(UsageError, match="between 0 and 1"):
        failing_vs_passing(spans, store.scores([]), q=0)
    with pytest.raises(UsageError, match="score or status"):
        failing_vs_passing(spans, store.scores([]), by="luck")


def test_a_run_is_a_tree_in_the_order_it_happened(tmp_path) -> None:
    """Depth, order, times and tokens are those of the spans."""
    run = FakeRun(1)
    run.call("big", chat=True, attempts=(("error", "overloaded", 0), ("ok", None, 1)))
    run.call("lookup")
    rows = span_tree(run.commit(Store(tmp_path)).frame("spans"))
    assert [(r.depth, r.kind, r.name) for r in rows] == [
        (0, "run", "invoke_agent"),
        (1, "call", "chat big"),
        (2, "attempt", "chat big"),
        (2, "attempt", "chat big"),
        (1, "call", "execute_tool lookup"),
        (2, "attempt", "execute_tool lookup"),
    ]
    assert (rows[0].start_s, rows[1].start_s, rows[0].duration_s) == (0.0, 0.1, 5.0)
    assert (rows[3].input_tokens, rows[2].error_class) == (100, "overloaded")


def test_every_span_is_shown_once_whatever_its_links(tmp_path) -> None:
    """Orphans stand at the top and a cycle of parents ends."""
    run = FakeRun(1)
    run.call("a", attempts=())
    run.call("b", attempts=())
    frame = run.commit(Store(tmp_path)).frame("spans")
    ids = frame["span_id"].to_list()
    orphan = frame.with_columns(parent_span_id=pl.Series([None, "f" * 16, ids[0]]))
    cycle = frame.with_columns(parent_span_id=pl.Series([None, ids[2], ids[1]]))
    assert [(r.depth, r.span_id) for r in span_tree(orphan)] == [
        (0, ids[0]),
        (1, ids[2]),
        (0, ids[1]),
    ]
    assert sorted(r.span_id for r in span_tree(cycle)) == sorted(ids)
    assert span_tree(frame.clear()) == ()

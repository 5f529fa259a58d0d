"""`compare`: what each kind of column gets, and what is refused."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta

import polars as pl
import pytest

from towerkit.core.errors import UsageError
from towerkit.drift import compare

FIRST_FIELDS = ("column", "test", "statistic", "p_value", "effect", "n_baseline", "n_live", "drift")


def by_test(baseline, live, **options):
    """Compare one column `x` and return its rows by test."""
    report = compare(pl.DataFrame({"x": baseline}), pl.DataFrame({"x": live}), **options)
    return {r.test: r for r in report.rows}


def test_a_row_begins_with_the_agreed_fields_and_is_json() -> None:
    """The eight agreed names come first, in order, and the report survives JSON."""
    report = compare(pl.DataFrame({"x": [1, 2]}), pl.DataFrame({"x": [1, 3]}))
    text = json.dumps(report.to_dict(), allow_nan=False)
    assert tuple(json.loads(text)["rows"][0])[:8] == FIRST_FIELDS


@pytest.mark.parametrize(
    ("baseline", "live", "expected"),
    [
        ([1.0, 2.0], [3.0, 4.0], {"ks", "wasserstein", "psi", "js"}),
        ([True, False], [True, True], {"chi2", "fisher", "tvd", "psi", "js", "hellinger"}),
        (["a", "b", "c"], ["a"], {"chi2", "tvd", "psi", "js", "hellinger"}),
        (
            [date(2026, 1, 1)],
            [datetime(2026, 1, 2, tzinfo=UTC)],
            {"ks", "wasserstein", "psi", "js"},
        ),
        ([timedelta(1)], [timedelta(2)], {"ks", "wasserstein", "psi", "js"}),
        ([time(1)], [time(2)], {"ks", "wasserstein", "psi", "js"}),
    ],
)
def test_each_kind_of_column_gets_its_tests(baseline, live, expected) -> None:
    """Numbers, dates and times are tested as numbers, truth values and text as categories."""
    assert set(by_test(baseline, live)) == expected


def test_dates_are_numbers_on_one_scale() -> None:
    """A date and the same moment as a date-time are equal."""
    rows = by_test([date(2026, 1, 1)] * 20, [datetime(2026, 1, 1, tzinfo=UTC)] * 20)
    assert rows["ks"].statistic == 0


def test_missing_values_are_a_row_of_their_own() -> None:
    """Nulls, NaN and infinities count as missing and drift as their own share."""
    live = [None] * 20 + [float("nan")] * 5 + [float("inf")] * 5 + [1.0] * 70
    row = by_test([1.0] * 100, live)["missing"]
    assert (row.statistic, row.n_baseline, row.n_live, row.drift) == (0.3, 100, 100, True)


def test_a_column_without_missing_values_has_no_missing_row() -> None:
    """Nothing missing on either side is no hypothesis and costs no correction."""
    assert "missing" not in by_test([1, 2, 3], [1, 2, 3])


def test_missing_values_do_not_count_as_values() -> None:
    """The other tests see the values that are there, and say how many."""
    row = by_test([1.0, None, 3.0], [1.0, 2.0, float("nan")])["ks"]
    assert (row.n_baseline, row.n_live) == (2, 2)


def test_an_absent_column_is_all_missing() -> None:
    """A column that only one frame has is drift by its missing row, not an omission."""
    report = compare(pl.DataFrame({"x": range(50), "y": range(50)}), pl.DataFrame({"x": range(50)}))
    row = next(r for r in report.rows if (r.column, r.test) == ("y", "missing"))
    assert (row.drift, row.effect) == (True, 1.0)
    assert "absent from the live frame" in row.reason
    assert report.drifted == ("y",)


def test_a_constant_that_moved_is_found_and_one_that_stayed_is_not() -> None:
    """A column without spread is compared as it is, with finite answers."""
    moved, stayed = by_test([3] * 50, [4] * 50), by_test([3] * 50, [3] * 50)
    assert moved["ks"].drift
    assert moved["psi"].drift
    assert moved["wasserstein"].effect == pytest.approx(2.0)
    assert not any(r.drift for r in stayed.values())


def test_a_small_constant_change_in_a_large_window_is_no_drift() -> None:
    """An effect below the floor is not drift however small its p-value."""
    baseline, live = ["a"] * 50_000 + ["b"] * 50_000, ["a"] * 51_500 + ["b"] * 48_500
    row = by_test(baseline, live)["fisher"]
    assert row.p_value < 1e-9
    assert not row.drift
    assert "< 0.1" in row.reason


def test_too_few_rows_are_not_judged_in_bins() -> None:
    """With nine rows PSI of numbers has no p-value, no drift, and says why."""
    row = by_test([1.0] * 9, [2.0] * 9)["psi"]
    assert (row.p_value, row.drift) == (None, False)
    assert "too few" in row.reason


def test_a_large_effect_of_four_rows_is_no_drift() -> None:
    """Four rows against four prove nothing, though every distance is at its maximum."""
    assert not any(r.drift for r in by_test(["a"] * 3, ["b"] * 3).values())


def test_a_column_of_nulls_on_one_side_has_null_statistics() -> None:
    """Without values there is nothing to test but the missing share."""
    rows = by_test([1.0] * 30, [None] * 30)
    assert rows["ks"].statistic is None
    assert "no values in the live frame" in rows["ks"].reason
    assert rows["missing"].drift


def test_a_column_of_nulls_on_both_sides_has_not_drifted() -> None:
    """All missing against all missing is equal."""
    rows = by_test([None] * 30, [None] * 30)
    assert (rows["missing"].statistic, rows["missing"].drift) == (0.0, False)


def test_many_categories_become_the_top_and_all_others() -> None:
    """A new category that is frequent in the live frame is seen among hundreds of rare ones."""
    baseline = [f"c{i:03}" for i in range(100) for _ in range(4)]
    live = baseline[:300] + ["new"] * 100
    row = by_test(baseline, live)["chi2"]
    assert row.drift
    assert "20 most frequent categories and all others" in row.reason


def test_identifiers_are_no_categories() -> None:
    """A column whose every value differs has not drifted for being other identifiers."""
    rows = by_test([f"a{i}" for i in range(60)], [f"b{i}" for i in range(60)])
    assert not any(r.drift for r in rows.values())
    assert "identifiers" in rows["chi2"].reason


def test_several_columns_share_one_correction() -> None:
    """The adjusted p-value of a column grows with the number of columns tested beside it."""

    def adjusted(columns):
        frames = [
            pl.DataFrame(dict.fromkeys(columns, values))
            for values in (list(range(40)), [v + 12 for v in range(40)])
        ]
        frames[1] = frames[1].with_columns(pl.Series(c, range(40)) for c in columns[1:])
        return next(r for r in compare(*frames).rows if r.test == "ks").p_adjusted

    assert adjusted(["a"]) < adjusted(["a", "b", "c"])


def test_calls_of_one_run_are_permuted_together() -> None:
    """A tool that one run of four called often is no drift by run, though it is by call."""

    def frame(runs):
        return pl.DataFrame([{"run_id": r, "tool": t} for r, tools in runs for t in tools])

    baseline = frame([(f"b{i}", ["x", "y"]) for i in range(4)])
    live = frame([("l0", ["z"] * 60), *((f"l{i}", ["x", "y"]) for i in range(1, 4))])
    clustered = compare(baseline, live, cluster="run_id")
    assert not clustered.drifted
    assert {r.column for r in clustered.rows} == {"tool"}
    assert "permuting 8 clusters" in clustered.rows[0].reason
    assert compare(baseline, live, columns=["tool"]).drifted == ("tool",)


def test_a_tool_that_all_runs_took_up_is_drift_by_run() -> None:
    """Permuting runs still finds what most runs do differently."""

    def frame(tool):
        return pl.DataFrame(
            {"run_id": [f"{tool}{i // 3}" for i in range(60)], "tool": ["x", "y", tool] * 20}
        )

    assert compare(frame("y"), frame("z"), cluster="run_id").drifted == ("tool",)


@pytest.mark.parametrize(
    ("baseline", "live", "options", "said"),
    [
        ({"x": []}, {"x": [1]}, {}, "the baseline has no rows"),
        ({"x": [1]}, {"x": []}, {}, "the live frame has no rows"),
        ({"x": [1]}, {"x": ["1"]}, {}, "holds Int64 in the baseline and String in the live frame"),
        ({"x": [True]}, {"x": [1]}, {}, "holds Boolean in the baseline"),
        ({"x": [[1]]}, {"x": [[1]]}, {}, r"holds List\(Int64\)"),
        ({"x": [1]}, {"x": [1]}, {"columns": ["y"]}, "got y; there are: x"),
        ({"x": [1]}, {"x": [1]}, {"columns": []}, "got none"),
        ({"x": [1]}, {"x": [1]}, {"q": 1.0}, "between 0 and 1"),
        ({"x": [1]}, {"x": [1]}, {"cluster": "run"}, "no column 'run' to cluster by"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_error(baseline, live, options, said) -> None:
    """Each impossible request names what was expected and what came."""
    with pytest.raises(UsageError, match=said):
        compare(pl.DataFrame(baseline), pl.DataFrame(live), **options)

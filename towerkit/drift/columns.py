"""From a column of two frames to what a test can read.

Rule: nothing is dropped in silence. Nulls, NaN and infinities are counted as missing; a column that
stands in one frame only is missing in all rows of the other; two types that cannot be compared are
one `UsageError`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
import polars as pl

from towerkit.core.errors import UsageError
from towerkit.drift.statistics import Counts, Values

TOP_CATEGORIES = 20
MIN_SEEN = 5

Family = Literal["number", "moment", "time of day", "duration", "truth value", "text", "nothing"]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One column of both frames. `side_of` pairs each kept row with its cluster, when asked."""

    name: str
    family: Family
    baseline: pl.Series
    live: pl.Series
    missing: Counts
    note: str = ""

    @property
    def numeric(self) -> bool:
        """Return whether the values are ordered numbers."""
        return self.family in {"number", "moment", "time of day", "duration"}

    def values(self) -> tuple[Values, Values]:
        """Return both sides as finite 64-bit floats."""
        return _floats(self.baseline), _floats(self.live)


def _floats(series: pl.Series) -> Values:
    return series.cast(pl.Float64).to_numpy()


def family_of(dtype: pl.DataType, *, column: str, frame: str) -> Family:
    """Return how values of `dtype` are compared; raise `UsageError` when they cannot be."""
    if dtype.is_numeric():
        return "number"
    known: dict[Any, Family] = {
        pl.Date: "moment",
        pl.Datetime: "moment",
        pl.Time: "time of day",
        pl.Duration: "duration",
        pl.Boolean: "truth value",
        pl.String: "text",
        pl.Categorical: "text",
        pl.Enum: "text",
        pl.Null: "nothing",
    }
    family = known.get(dtype.base_type())
    if family is None:
        raise UsageError(
            f"column {column!r} of the {frame} holds {dtype}: expected numbers, dates, truth "
            "values or text; name the columns to compare"
        )
    return family


def read_column(name: str, baseline: pl.DataFrame, live: pl.DataFrame) -> Sample:
    """Return column `name` of both frames, split into values and missing counts."""
    series = [_series(name, f) for f in (baseline, live)]
    families = [
        "nothing" if s.null_count() == len(s) else family_of(s.dtype, column=name, frame=frame)
        for s, frame in zip(series, ("baseline", "live frame"), strict=True)
    ]
    present = {f for f in families if f != "nothing"}
    if len(present) > 1:
        raise UsageError(
            f"column {name!r} holds {series[0].dtype} in the baseline and {series[1].dtype} in the "
            "live frame: cast one of them, or leave the column out"
        )
    family: Any = present.pop() if present else "nothing"
    kept = [_kept(s, family) for s in series]
    counts = [[len(s) - len(k), len(k)] for s, k in zip(series, kept, strict=True)]
    absent = [
        f
        for f, frame in (("baseline", baseline), ("live frame", live))
        if name not in frame.columns
    ]
    return Sample(
        name=name,
        family=family,
        baseline=kept[0],
        live=kept[1],
        missing=np.array(counts, dtype=np.int64),
        note=f"the column is absent from the {absent[0]}" if absent else "",
    )


def _series(name: str, frame: pl.DataFrame) -> pl.Series:
    if name in frame.columns:
        return frame[name]
    return pl.Series(name, [None] * frame.height, dtype=pl.Null)


def _kept(series: pl.Series, family: Family) -> pl.Series:
    """Return the values that are there, in a form that means the same on both sides."""
    if family == "nothing":
        return pl.Series(series.name, [], dtype=pl.Float64)
    if family == "number":
        cast = series.cast(pl.Float64)
        return cast.filter(cast.is_finite().fill_null(value=False))
    there = series.drop_nulls()
    if family == "moment":
        there = there.cast(pl.Datetime("us")) if there.dtype == pl.Date else there
        return there.dt.epoch("us")
    if family == "duration":
        return there.dt.total_microseconds()
    if family == "time of day":
        return there.cast(pl.Int64)
    return there.cast(pl.String)


def category_table(baseline: pl.Series, live: pl.Series) -> tuple[Counts, list[str | None]]:
    """Count both sides by category: where there are many, the 20 most frequent and all others.

    Chosen over both sides, so that a category that is new in the live frame is not hidden; ties go
    by name, so that the order of rows decides nothing. A category seen fewer than 5 times is never
    among the 20: identifiers, which differ in every row, are all "others", whose label is None.
    """
    sides = [dict(s.value_counts().rows()) for s in (baseline, live)]
    totals = {k: sides[0].get(k, 0) + sides[1].get(k, 0) for k in sides[0] | sides[1]}
    ranked = sorted(totals, key=lambda k: (-totals[k], k))
    top, rest = ranked, []
    if len(ranked) > TOP_CATEGORIES:
        top = [k for k in ranked[:TOP_CATEGORIES] if totals[k] >= MIN_SEEN]
        rest = ranked[len(top) :]
    rows = [[side.get(k, 0) for k in top] for side in sides]
    labels: list[str | None] = list(top)
    if rest:
        for row, side in zip(rows, sides, strict=True):
            row.append(sum(side.get(k, 0) for k in rest))
        labels.append(None)
    return np.array(rows, dtype=np.int64).reshape(2, len(labels)), labels

"""What runs cost, seen from several sides: pure functions from frames to frames.

Rule: an unknown cost stays unknown. A group with a charge of unknown cost has no `cost_nanousd`;
`known_nanousd` is then what it cost at least, and `unknown_charges` says how many are missing.

A frame of charges has a row a charge, as `packs.charges` makes it: `cost_nanousd`, `wasted`,
`waste`, and what the views group by (`model`, `tool`, `tenant`, `release`, `day`, …).
"""

from __future__ import annotations

import calendar
from datetime import date, timedelta
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import polars as pl

WASTE = ("retries", "discarded", "cancelled")


class PerSuccess(msgspec.Struct, frozen=True, kw_only=True):
    """What one success cost, failures included. `nanousd` is None without a success or a whole sum.

    `undetermined` runs are neither successes nor failures: `low_nanousd` counts them as successes,
    `high_nanousd` as failures.
    """

    runs: int
    successes: int
    undetermined: int
    cost_nanousd: int | None
    known_nanousd: int
    unknown_charges: int
    nanousd: float | None
    low_nanousd: float | None
    high_nanousd: float | None


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """What a month will have cost at its end, in nano-dollars, and the interval of `level`.

    `spent_nanousd` is known spending so far. The interval is None with fewer than two whole days;
    with `unknown_charges` all of it is a lower bound.
    """

    month: str
    days_seen: int
    days_left: int
    spent_nanousd: int
    expected_nanousd: int | None
    low_nanousd: int | None
    high_nanousd: int | None
    level: float
    unknown_charges: int


def total(charges: pl.DataFrame, by: str | list[str] | None = None) -> pl.DataFrame:
    """Return what charges cost, in one row or a row a group, the dearest first.

    Columns: those of `by`, `charges`, `input_tokens`, `output_tokens`, `cost_nanousd`,
    `known_nanousd`, `unknown_charges`, `estimated_charges`, `wasted_nanousd`.
    """
    import polars as pl  # noqa: PLC0415

    unknown = pl.col("cost_nanousd").is_null().sum()
    known = pl.col("cost_nanousd").sum()
    sums = (
        pl.len().alias("charges"),
        pl.col("input_tokens").sum(),
        pl.col("output_tokens").sum(),
        pl.when(unknown == 0).then(known).alias("cost_nanousd"),
        known.alias("known_nanousd"),
        unknown.alias("unknown_charges"),
        pl.col("estimated").sum().alias("estimated_charges"),
        pl.col("cost_nanousd").filter("wasted").sum().alias("wasted_nanousd"),
    )
    if by is None:
        return charges.select(*sums)
    keys = [by] if isinstance(by, str) else by
    order = ["known_nanousd", *keys]
    return charges.group_by(keys).agg(*sums).sort(
        order, descending=[True, *[False] * len(keys)], nulls_last=True
    )  # fmt: skip


def waste(charges: pl.DataFrame) -> pl.DataFrame:
    """Return what was paid for nothing, a row a class of `WASTE`, with its share of the known cost.

    Columns: `waste`, `charges`, `known_nanousd`, `unknown_charges`, `share` (null when nothing is
    known to have been paid).
    """
    import polars as pl  # noqa: PLC0415

    paid = int(charges["cost_nanousd"].sum() or 0)
    classes = pl.DataFrame({"waste": WASTE}, schema={"waste": pl.String})
    found = charges.filter(pl.col("waste").is_not_null()).group_by("waste").agg(
        charges=pl.len(), known_nanousd=pl.col("cost_nanousd").sum(),
        unknown_charges=pl.col("cost_nanousd").is_null().sum(),
    )  # fmt: skip
    rows = classes.join(found, on="waste", how="left", maintain_order="left").fill_null(0)
    share = pl.col("known_nanousd") / paid if paid else pl.lit(None, pl.Float64)
    return rows.with_columns(share=share)


def per_success(charges: pl.DataFrame, runs: pl.DataFrame) -> PerSuccess:
    """Return what a success cost: all the runs' charges over the successes among them.

    `runs` has a row a run, `run_id` and `success` (null is undetermined). Charges of other runs are
    left out.
    """
    own = charges.join(runs.select("run_id"), on="run_id", how="semi")
    sums = total(own).row(0, named=True)
    good = int(runs["success"].sum() or 0)
    open_ = runs["success"].null_count()
    cost = sums["cost_nanousd"]
    return PerSuccess(
        runs=runs.height, successes=good, undetermined=open_, cost_nanousd=cost,
        known_nanousd=sums["known_nanousd"], unknown_charges=sums["unknown_charges"],
        nanousd=_over(cost, good) if open_ == 0 else None,
        low_nanousd=_over(cost, good + open_), high_nanousd=_over(cost, good),
    )  # fmt: skip


def _over(cost: int | None, successes: int) -> float | None:
    return None if cost is None or successes == 0 else cost / successes


def forecast(charges: pl.DataFrame, *, today: date, level: float = 0.9) -> Forecast:
    """Return what the month of `today` will have cost at its end.

    The whole days of the month before `today` are its sample, days without a charge included from
    the first charge of the month on; `today` counts as one that is still to come, and what was
    spent in it already is a lower bound. Days are taken as independent and alike: the interval is
    Student's prediction interval for the sum of the days to come. `level` is its coverage.
    """
    import polars as pl  # noqa: PLC0415

    first = today.replace(day=1)
    month = charges.filter(pl.col("day").is_between(first, today))
    by_day = dict(month.group_by("day").agg(pl.col("cost_nanousd").sum()).iter_rows())
    start = min(by_day, default=today)
    seen = [int(by_day.get(start + timedelta(days=n), 0)) for n in range((today - start).days)]
    left = calendar.monthrange(today.year, today.month)[1] - today.day + 1
    spent, now = sum(map(int, by_day.values())), int(by_day.get(today, 0))
    expected = low = high = None
    if seen:
        mean = sum(seen) / len(seen)
        expected = max(spent, sum(seen) + round(mean * left))
    if len(seen) >= 2:
        off = _half_width(seen, left, level)
        low = max(spent, sum(seen) + round(mean * left - off))
        high = max(sum(seen) + now, sum(seen) + round(mean * left + off))
    return Forecast(
        month=f"{today:%Y-%m}", days_seen=len(seen), days_left=left, spent_nanousd=spent,
        expected_nanousd=expected, low_nanousd=low, high_nanousd=high, level=level,
        unknown_charges=month["cost_nanousd"].null_count(),
    )  # fmt: skip


def _half_width(seen: list[int], left: int, level: float) -> float:
    """Return half the interval of the sum of `left` days to come, given those that were seen.

    The sum of m new days differs from m times the mean of n old ones with variance
    s² (m + m² / n).
    """
    from scipy.special import stdtrit  # noqa: PLC0415

    n, mean = len(seen), sum(seen) / len(seen)
    variance = sum((x - mean) ** 2 for x in seen) / (n - 1)
    quantile = float(stdtrit(n - 1, 0.5 + level / 2))
    return quantile * float((variance * (left + left * left / n)) ** 0.5)

"""`compare`: a row per column and test, and one decision over all of them.

Rule: every p-value of a call stands under one correction, whichever frames it came from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import polars as pl

from towerkit.core.errors import UsageError
from towerkit.drift.columns import Sample, category_table, read_column
from towerkit.drift.frames import load_frame, run_frame, tool_frame
from towerkit.drift.statistics import (
    TESTS,
    Counts,
    Outcome,
    Test,
    benjamini_hochberg,
    permuted_by_cluster,
    quantile_table,
)
from towerkit.packs.store import Store

Draft = tuple[Sample, Test, Outcome]

TOOL = "tool"
MIN_ROWS_BINNED = 10  # two bins of five


class DriftRow(msgspec.Struct, frozen=True, kw_only=True):
    """What one test says of one column. None is "cannot be said", and `reason` says why."""

    column: str
    test: str
    statistic: float | None
    p_value: float | None
    effect: float | None
    n_baseline: int
    n_live: int
    drift: bool
    p_adjusted: float | None
    threshold: float
    effect_name: str
    reason: str


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every row of one comparison, in the order of the columns and of `TESTS`."""

    rows: tuple[DriftRow, ...]
    q: float

    @property
    def drifted(self) -> tuple[str, ...]:
        """Return the columns of which at least one test says drift."""
        return tuple(dict.fromkeys(r.column for r in self.rows if r.drift))

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, as JSON can carry them."""
        return {
            "drift": bool(self.drifted),
            "drifted": list(self.drifted),
            "q": self.q,
            "rows": [msgspec.structs.asdict(r) for r in self.rows],
        }


def compare(
    baseline: pl.DataFrame,
    live: pl.DataFrame,
    *,
    columns: Sequence[str] | None = None,
    q: float = 0.05,
    cluster: str | None = None,
) -> DriftReport:
    """Compare two frames column by column; see `TESTS` for what runs on what.

    A row is drift when its p-value survives Benjamini-Hochberg at `q` over *all* p-values of this
    call and its effect reaches the test's floor. Both, because either alone is wrong most nights:
    PSI > 0.2 fires on 61 % of windows that did not drift at 200 against 50 rows, one test at 5 % is
    79 % likely to alarm within 30 nights, and a p-value alone calls any trifle in a large window.

    `cluster` names a column (such as `run_id`) whose rows belong together: then text and truth
    values are tested by permuting whole clusters, and numbers get no p-value. `columns` defaults to
    every column of either frame. Raises `UsageError` for a frame without rows, a column in neither
    frame, and types that cannot be compared.
    """
    return _report(_drafts(baseline, live, columns=columns, q=q, cluster=cluster), q)


def compare_sources(
    store: Store,
    *,
    baseline: str,
    live: str,
    columns: Sequence[str] | None = None,
    q: float = 0.05,
) -> DriftReport:
    """Compare two sources, each a SELECTION of runs or the path of a Parquet or CSV file.

    Two selections are compared by the features of their runs and, run by run, by the tools they
    called (column `tool`); all of it stands under one correction.
    """
    sides = [(text, _is_file(text)) for text in (baseline, live)]
    packs = [[] if file else store.select(text) for text, file in sides]
    frames = [
        load_frame(text) if file else run_frame(store, chosen)
        for (text, file), chosen in zip(sides, packs, strict=True)
    ]
    tools = [tool_frame(store, chosen) for chosen in packs if chosen]
    own = None if columns is None else [c for c in columns if c != TOOL]
    with_tools = len(tools) == 2 and all(t.height for t in tools)
    with_tools = with_tools and (columns is None or TOOL in columns)
    drafts = []
    if own is None or own or not with_tools:
        drafts += _drafts(*frames, columns=columns if not with_tools else own, q=q, cluster=None)
    if with_tools:
        drafts += _drafts(*tools, columns=[TOOL], q=q, cluster="run_id")
    return _report(drafts, q)


def _is_file(text: str) -> bool:
    return text.lower().endswith((".parquet", ".csv"))


def _drafts(
    baseline: pl.DataFrame,
    live: pl.DataFrame,
    *,
    columns: Sequence[str] | None,
    q: float,
    cluster: str | None,
) -> list[Draft]:
    _check(baseline, live, columns, q, cluster)
    if columns is None:
        columns = list(dict.fromkeys([*baseline.columns, *live.columns]))
    drafts: list[Draft] = []
    for name in columns:
        if name == cluster:
            continue
        sample = read_column(name, baseline, live)
        if cluster is None:
            drafts += _outcomes(sample)
        else:
            drafts += _clustered(sample, baseline, live, cluster)
    return drafts


def _report(drafts: list[Draft], q: float) -> DriftReport:
    tested = [o.p_value for _, _, o in drafts if o.p_value is not None]
    adjusted = iter(benjamini_hochberg(tested))
    return DriftReport(
        rows=tuple(
            _row(s, t, o, next(adjusted) if o.p_value is not None else None, q)
            for s, t, o in drafts
        ),
        q=q,
    )


def _check(
    baseline: pl.DataFrame,
    live: pl.DataFrame,
    columns: Sequence[str] | None,
    q: float,
    cluster: str | None,
) -> None:
    for name, frame in (("baseline", baseline), ("live frame", live)):
        if frame.height == 0:
            raise UsageError(f"the {name} has no rows: there is nothing to compare")
        if cluster is not None and cluster not in frame.columns:
            raise UsageError(
                f"the {name} has no column {cluster!r} to cluster by; "
                f"it has {', '.join(frame.columns)}"
            )
    if not 0 < q < 1:
        raise UsageError(f"expected q, the share of false alarms, between 0 and 1, got {q!r}")
    known = list(dict.fromkeys([*baseline.columns, *live.columns]))
    unknown = [c for c in columns or () if c not in known]
    if unknown or not known or (columns is not None and not columns):
        raise UsageError(
            f"expected columns of the frames, got {', '.join(unknown) or 'none'}; "
            f"there are: {', '.join(known) or 'none'}"
        )


def _outcomes(sample: Sample) -> list[Draft]:
    """Run every test that applies to the column."""
    found = []
    if sample.numeric:
        found = [(sample, t, _numeric(t, sample)) for t in TESTS if "numeric" in t.applies_to]
    elif sample.family != "nothing":
        table, labels = category_table(sample.baseline, sample.live)
        kind = "binary" if len(labels) <= 2 else "categorical"
        note = _other_note(labels)
        found = [
            (sample, t, _counted(t, _two_columns(table) if t.name == "fisher" else table, note))
            for t in TESTS
            if kind in t.applies_to
        ]
    return found + _missing(sample)


def _missing(sample: Sample) -> list[Draft]:
    if not sample.missing[:, 0].any():
        return []
    test = next(t for t in TESTS if t.name == "missing")
    outcome = test.run(sample.missing)
    return [(sample, test, msgspec.structs.replace(outcome, note=sample.note or outcome.note))]


def _numeric(test: Test, sample: Sample) -> Outcome:
    baseline, live = sample.values()
    if not len(baseline) or not len(live):
        return _nothing(baseline, live)
    if test.on == "values":
        outcome: Outcome = test.run(baseline, live)
        return outcome
    outcome = test.run(quantile_table(baseline, live))
    if outcome.p_value is not None and min(len(baseline), len(live)) < MIN_ROWS_BINNED:
        note = f"fewer than {MIN_ROWS_BINNED} rows on a side: too few to judge in bins"
        return msgspec.structs.replace(outcome, p_value=None, note=note)
    return outcome


def _counted(test: Test, table: Counts, note: str) -> Outcome:
    sizes = table.sum(1)
    if not sizes.all():
        return _nothing(range(sizes[0]), range(sizes[1]))
    outcome: Outcome = test.run(table)
    notes = "; ".join(filter(None, (outcome.note, note)))
    return msgspec.structs.replace(outcome, note=notes)


def _two_columns(table: Counts) -> Counts:
    """Return a table of one or two categories with exactly two columns."""
    missing = 2 - table.shape[1]
    return np.pad(table, ((0, 0), (0, missing)))


def _nothing(baseline: Any, live: Any) -> Outcome:
    sides = [n for n, s in (("baseline", baseline), ("live frame", live)) if not len(s)]
    return Outcome(None, None, None, f"no values in the {' and the '.join(sides)}")


def _other_note(labels: list[str | None]) -> str:
    if None not in labels:
        return ""
    if len(labels) == 1:
        return "no category is seen 5 times: identifiers, not categories"
    return f"the {len(labels) - 1} most frequent categories and all others"


def _clustered(
    sample: Sample, baseline: pl.DataFrame, live: pl.DataFrame, cluster: str
) -> list[Draft]:
    """Run the tests with p-values by permuting clusters; see `permuted_by_cluster`."""
    found = []
    for draft, test, outcome in _outcomes(sample):
        if outcome.p_value is None or test.distance is None or sample.numeric:
            note = outcome.note or f"rows of one {cluster} are not independent: no p-value"
            found.append((draft, test, msgspec.structs.replace(outcome, p_value=None, note=note)))
            continue
        counts, first = _cluster_counts(sample.name, baseline, live, cluster)
        p_value = permuted_by_cluster(counts, first, test.distance)
        note = f"p-value by permuting {len(counts)} clusters of {cluster}"
        found.append((draft, test, msgspec.structs.replace(outcome, p_value=p_value, note=note)))
    return found


def _cluster_counts(
    name: str, baseline: pl.DataFrame, live: pl.DataFrame, cluster: str
) -> tuple[Counts, int]:
    """Return counts by cluster and category, baseline clusters first, and how many those are."""
    sides = [f.select(pl.col(cluster), pl.col(name).cast(pl.String)) for f in (baseline, live)]
    _, labels = category_table(*(s[name].drop_nulls() for s in sides))
    column = {label: i for i, label in enumerate(labels)}
    blocks = []
    for side in sides:
        ids = sorted(side[cluster].unique().to_list(), key=str)
        position = {c: i for i, c in enumerate(ids)}
        block = np.zeros((len(ids), len(labels)), dtype=np.int64)
        for owner, value, n in side.drop_nulls(name).group_by(cluster, name).len().rows():
            block[position[owner], column.get(value, len(labels) - 1)] += n
        blocks.append(block)
    return np.concatenate(blocks), len(blocks[0])


def _row(
    sample: Sample, test: Test, outcome: Outcome, adjusted: float | None, q: float
) -> DriftRow:
    effect = _finite(outcome.effect)
    drift = adjusted is not None and adjusted <= q and effect is not None and effect >= test.floor
    whole = test.name == "missing"
    return DriftRow(
        column=sample.name,
        test=test.name,
        statistic=_finite(outcome.statistic),
        p_value=outcome.p_value,
        effect=effect,
        n_baseline=int(sample.missing[0].sum()) if whole else len(sample.baseline),
        n_live=int(sample.missing[1].sum()) if whole else len(sample.live),
        drift=drift,
        p_adjusted=adjusted,
        threshold=test.floor,
        effect_name=test.effect,
        reason=_reason(test, effect, adjusted, q, outcome.note),
    )


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _reason(test: Test, effect: float | None, adjusted: float | None, q: float, note: str) -> str:
    if adjusted is None:
        return note or "no p-value"
    size = "unknown" if effect is None else f"{effect:.3g}"
    reaches = effect is not None and effect >= test.floor
    parts = [
        f"adjusted p {adjusted:.3g} {'≤' if adjusted <= q else '>'} {q:g}",
        f"{test.effect} {size} {'≥' if reaches else '<'} {test.floor:g}",
    ]
    return "; ".join([*parts, note] if note else parts)

"""The drift tests: a table of names, what each applies to, its effect and its floor.

Rule: every answer is finite or null with a reason. Tests on values see two samples; tests on counts
see a 2 x k table (first row the baseline), whether its columns are categories or bins.

An empty cell counts as half an observation where a logarithm needs it (as in Jeffreys' prior), so
PSI is bounded by the sample size instead of being infinite or an arbitrary constant.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from towerkit.core.env import derive_seed

Values = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]
Tables = npt.NDArray[np.int64]

BINS = 10
MIN_PER_BIN = 5
MIN_EXPECTED = 5.0  # Cochran (1954): below it the chi-squared approximation is not trusted
PERMUTATIONS = 1999
EFFECT_FLOOR = 0.1

Kind = Literal["numeric", "categorical", "binary"]


class Outcome(msgspec.Struct, frozen=True):
    """What one test says of one column. None means it cannot be said; `note` says why."""

    statistic: float | None
    p_value: float | None
    effect: float | None
    note: str = ""


class Test(msgspec.Struct, frozen=True, kw_only=True):
    """One row of `TESTS`. `floor` is the smallest effect that is called drift."""

    __test__ = False  # a table row, not a case for pytest to collect

    name: str
    applies_to: tuple[Kind, ...]
    on: Literal["values", "counts"]
    run: Callable[..., Outcome]
    effect: str
    floor: float
    doc: str
    distance: Callable[[Tables], Values] | None = None


def ks(baseline: Values, live: Values) -> Outcome:
    """Two-sample Kolmogorov-Smirnov, two-sided: `scipy.stats.ks_2samp(method="auto")`."""
    from scipy import stats  # noqa: PLC0415  2 s of import: paid on first use

    with warnings.catch_warnings():
        # scipy announces its own switch from the exact to the asymptotic p-value; both are fine.
        warnings.simplefilter("ignore", RuntimeWarning)
        found = stats.ks_2samp(baseline, live, alternative="two-sided", method="auto")
    statistic = float(found.statistic)
    return Outcome(statistic, float(np.clip(found.pvalue, 0.0, 1.0)), statistic)


def wasserstein(baseline: Values, live: Values) -> Outcome:
    """First Wasserstein distance: how far the mass moved; the effect is in baseline deviations.

    A constant baseline has no deviation: the pooled one takes its place. There is no p-value: the
    distance says how large a change is, `ks` whether it could be chance.
    """
    from scipy import stats  # noqa: PLC0415

    scale = float(max(np.abs(baseline).max(), np.abs(live).max())) or 1.0
    low, high = baseline / scale, live / scale  # keeps 1e308 from overflowing
    distance = float(stats.wasserstein_distance(low, high))
    if distance == 0.0:
        return Outcome(0.0, None, 0.0, "a distance, not a test")
    spread = float(low.std()) or float(np.concatenate([low, high]).std())
    effect = distance / spread if spread > 0 else None
    return Outcome(distance * scale, None, effect, "a distance, not a test")


def chi2(table: Counts) -> Outcome:
    """Pearson's chi-squared on the 2 x k table: both samples are samples.

    Where an expected count is below 5 the p-value comes from seeded random tables with the same
    margins (Patefield 1981) instead of the approximation. The effect is Cramér's V as equal sample
    sizes would give it, so that it does not shrink when a small window meets a long baseline.
    """
    from scipy import stats  # noqa: PLC0415

    table = _occupied(table)
    if table.shape[1] < 2:
        return Outcome(0.0, 1.0, 0.0, "one category on both sides")
    statistic = float(pearson(table[None])[0])
    expected = np.outer(table.sum(1), table.sum(0)) / table.sum()
    if expected.min() < MIN_EXPECTED:
        p_value, note = permuted(table, pearson), "sparse: p-value by permutation"
    else:
        p_value, note = float(stats.chi2.sf(statistic, table.shape[1] - 1)), ""
    p, q = shares(table)
    effect = float(np.sqrt(0.5 * ((p - q) ** 2 / (p + q)).sum()))
    return Outcome(statistic, p_value, effect, note)


def fisher(table: Counts) -> Outcome:
    """Fisher's exact test of a 2 x 2 table; statistic and effect are the difference of shares."""
    from scipy import stats  # noqa: PLC0415

    if _occupied(table).shape[1] < 2:
        return Outcome(0.0, 1.0, 0.0, "one category on both sides")
    p, q = shares(table)
    difference = float(abs(p[0] - q[0]))
    p_value = float(stats.fisher_exact(table).pvalue)
    return Outcome(difference, min(1.0, p_value), difference)


def psi(table: Counts) -> Outcome:
    """Take the population stability index, with the p-value that its usual thresholds lack.

    Under the null PSI is about (1/n + 1/m) times chi-squared with B - 1 degrees of freedom
    (Yurdakul and Naranjo, Journal of Risk Model Validation 14(4), 2020). Sparse tables are
    permuted, as in `chi2`.
    """
    from scipy import stats  # noqa: PLC0415

    table = _occupied(table)
    if table.shape[1] < 2:
        return Outcome(0.0, 1.0, 0.0, "one bin on both sides")
    statistic = float(psi_of(table[None])[0])
    sizes = table.sum(1)
    expected = np.outer(sizes, table.sum(0)) / table.sum()
    if expected.min() < MIN_EXPECTED:
        return Outcome(
            statistic, permuted(table, psi_of), statistic, "sparse: p-value by permutation"
        )
    scaled = statistic / float((1 / sizes).sum())
    return Outcome(statistic, float(stats.chi2.sf(scaled, table.shape[1] - 1)), statistic)


def tvd(table: Counts) -> Outcome:
    """Total variation distance: the share of traffic that moved; p-value by permutation."""
    table = _occupied(table)
    statistic = float(tvd_of(table[None])[0])
    if table.shape[1] < 2:
        return Outcome(0.0, 1.0, 0.0, "one category on both sides")
    return Outcome(statistic, permuted(table, tvd_of), statistic)


def js(table: Counts) -> Outcome:
    """Jensen-Shannon distance to base 2: 0 is equal, 1 is disjoint (Endres and Schindelin 2003)."""
    p, q = shares(_occupied(table))
    middle = (p + q) / 2
    terms = _xlogy(p, p / middle) + _xlogy(q, q / middle)
    value = float(np.sqrt(max(0.0, terms.sum() / 2 / np.log(2))))
    return Outcome(value, None, value, "a distance, not a test")


def hellinger(table: Counts) -> Outcome:
    """Hellinger distance: 0 is equal, 1 is disjoint."""
    p, q = shares(_occupied(table))
    value = float(np.sqrt(0.5 * ((np.sqrt(p) - np.sqrt(q)) ** 2).sum()))
    return Outcome(value, None, value, "a distance, not a test")


def missing(table: Counts) -> Outcome:
    """Fisher's exact test of the share that is null or not a finite number.

    A side without rows of its own (an absent column) is all missing.
    """
    return fisher(table)


def shares(table: Counts) -> tuple[Values, Values]:
    """Return the two rows of a table as shares of their sums."""
    p, q = table / table.sum(1, keepdims=True)
    return p, q


def pearson(tables: Tables) -> Values:
    """Return Pearson's statistic of each of N x 2 x k tables."""
    total = tables.sum((1, 2))[:, None, None]
    expected = tables.sum(2, keepdims=True) * tables.sum(1, keepdims=True) / total
    terms = (tables - expected) ** 2 / np.where(expected > 0, expected, 1.0)
    return np.asarray(terms.sum((1, 2)), dtype=np.float64)


def psi_of(tables: Tables) -> Values:
    """Return the PSI of each of N x 2 x k tables; an empty cell counts as half an observation."""
    smoothed = np.where(tables == 0, 0.5, tables) / tables.sum(2, keepdims=True)
    p, q = smoothed[:, 0], smoothed[:, 1]
    return np.asarray(((q - p) * np.log(q / p)).sum(1), dtype=np.float64)


def tvd_of(tables: Tables) -> Values:
    """Return the total variation distance of each of N x 2 x k tables."""
    p, q = np.moveaxis(tables / tables.sum(2, keepdims=True), 1, 0)
    return np.asarray(np.abs(p - q).sum(1) / 2, dtype=np.float64)


def permuted(table: Counts, distance: Callable[[Tables], Values]) -> float:
    """Return the permutation p-value of `distance`: tables with the same margins, seeded by them.

    A table of equal shares has p = 1: nothing can be nearer.
    """
    from scipy import stats  # noqa: PLC0415

    observed = float(distance(table[None])[0])
    if observed <= 1e-12:
        return 1.0
    rows, columns = table.sum(1), table.sum(0)
    seed = derive_seed("drift", rows.tolist(), columns.tolist())
    drawn = stats.random_table(rows, columns).rvs(
        PERMUTATIONS, random_state=np.random.default_rng(seed)
    )
    return p_from(distance(drawn), observed)


def permuted_by_cluster(
    clusters: Counts, first: int, distance: Callable[[Tables], Values]
) -> float:
    """Return the p-value of `distance` when whole clusters change sides.

    `clusters` has a row of counts a cluster, the first `first` of them the baseline's. Tool calls
    of one run resemble each other: to permute single calls would call every window drifted.
    """
    total, n = clusters.sum(0), len(clusters)
    generator = np.random.default_rng(derive_seed("drift", n, first, total.tolist()))
    drawn = np.empty((PERMUTATIONS, 2, clusters.shape[1]), dtype=np.int64)
    for i in range(PERMUTATIONS):
        drawn[i, 0] = clusters[generator.permutation(n)[:first]].sum(0)
    drawn[:, 1] = total - drawn[:, 0]
    usable = drawn[(drawn.sum(2) > 0).all(1)]
    observed = np.stack([clusters[:first].sum(0), clusters[first:].sum(0)])
    return p_from(distance(usable), float(distance(observed[None])[0]))


def p_from(drawn: Values, observed: float) -> float:
    """Return the mid-p of `observed`: permutations further away, and half of those as far.

    Counts are discrete and ties common: to count all ties makes p too large, to count none too
    small (Lancaster 1961; Berry and Armitage 1995). The observed table is one of the ties, so p is
    never 0 (Phipson and Smyth 2010).
    """
    ties = np.isclose(drawn, observed, rtol=1e-9, atol=1e-12)
    further = (~ties & (drawn > observed)).sum()
    return float((further + (1 + ties.sum()) / 2) / (1 + len(drawn)))


def quantile_table(baseline: Values, live: Values) -> Counts:
    """Count both samples in bins of about equal baseline share.

    A value that holds a bin's share alone is a bin of its own, so counts and constants are binned
    as categories would be. Fewer than 5 expected rows a bin make fewer bins.
    """
    bins = int(np.clip(min(len(baseline), len(live)) // MIN_PER_BIN, 2, BINS))
    edges = np.quantile(baseline, np.arange(1, bins) / bins, method="inverted_cdf")
    values, counts = np.unique(baseline, return_counts=True)
    atoms = values[counts * bins >= len(baseline)]
    with np.errstate(over="ignore"):  # below the smallest float lies -inf: still an edge
        below = np.nextafter(atoms, -np.inf)
    edges = np.unique(np.concatenate([edges, atoms, below]))
    return np.stack(
        [
            np.bincount(np.searchsorted(edges, side, side="left"), minlength=len(edges) + 1)
            for side in (baseline, live)
        ]
    ).astype(np.int64)


def benjamini_hochberg(p_values: list[float]) -> list[float]:
    """Return the adjusted p-values of Benjamini and Hochberg (1995), in the order given."""
    if not p_values:
        return []
    p = np.asarray(p_values)
    order = np.argsort(p, kind="stable")[::-1]
    ranks = np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.minimum.accumulate(p[order] * len(p) / ranks))
    return [float(a) for a in adjusted]


def _occupied(table: Counts) -> Counts:
    kept: Counts = table[:, table.sum(0) > 0]
    return kept


def _xlogy(x: Values, y: Values) -> Values:
    positive = x > 0
    return np.where(positive, x * np.log(np.where(positive, y, 1.0)), 0.0)


def _test(name: str, on: Any, applies_to: tuple[Kind, ...], run: Any, **rest: Any) -> Test:
    floor = rest.pop("floor", EFFECT_FLOOR)
    return Test(name=name, on=on, applies_to=applies_to, run=run, floor=floor, **rest)


_COUNTED: tuple[Kind, ...] = ("numeric", "categorical", "binary")
_NAMED: tuple[Kind, ...] = ("categorical", "binary")

TESTS: tuple[Test, ...] = (
    _test(
        "ks",
        "values",
        ("numeric",),
        ks,
        effect="KS statistic",
        doc="largest gap between the two distribution functions",
    ),
    _test(
        "wasserstein",
        "values",
        ("numeric",),
        wasserstein,
        effect="baseline deviations",
        doc="how far the mass moved",
    ),
    _test(
        "chi2",
        "counts",
        _NAMED,
        chi2,
        effect="Cramér's V at equal sizes",
        distance=pearson,
        doc="do both samples have the same shares",
    ),
    _test(
        "fisher",
        "counts",
        ("binary",),
        fisher,
        effect="difference of shares",
        doc="the same for two categories, exact",
    ),
    _test(
        "tvd",
        "counts",
        _NAMED,
        tvd,
        effect="share that moved",
        distance=tvd_of,
        doc="total variation distance",
    ),
    _test(
        "psi",
        "counts",
        _COUNTED,
        psi,
        effect="PSI",
        distance=psi_of,
        doc="population stability index over ten baseline quantiles, or categories",
    ),
    _test(
        "js",
        "counts",
        _COUNTED,
        js,
        effect="Jensen-Shannon distance",
        doc="distance of the shares, 0 to 1",
    ),
    _test(
        "hellinger",
        "counts",
        _NAMED,
        hellinger,
        effect="Hellinger distance",
        doc="distance of the shares, 0 to 1",
    ),
    _test(
        "missing",
        "counts",
        (),
        missing,
        effect="difference of missing shares",
        floor=0.05,
        doc="nulls and numbers that are not finite, as their own share",
    ),
)

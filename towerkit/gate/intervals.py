"""Confidence intervals that stay honest at small n and at zero variance.

Rule: every interval has a width at every n. Wald intervals do not (they pass on no discordant pair
at n = 20), so none is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import exp, fsum, log, sqrt
from statistics import NormalDist

import msgspec


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """An estimate with its two-sided confidence interval."""

    estimate: float
    low: float
    high: float


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def wilson(mean: float, n: int, *, confidence: float) -> Interval:
    """Return the Wilson score interval (1927) of a mean of `n` values in [0, 1].

    For values between 0 and 1 it is conservative: none varies more than a Bernoulli variable of the
    same mean.
    """
    z2 = _z(confidence) ** 2
    centre = (mean + z2 / (2 * n)) / (1 + z2 / n)
    half = sqrt(z2) * sqrt(mean * (1 - mean) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    return Interval(estimate=mean, low=min(low, mean), high=max(high, mean))


def tango(better: float, worse: float, n: int, *, confidence: float) -> Interval:
    """Return the score interval of a difference of paired proportions (Tango 1998, Stat. Med. 17).

    `better` and `worse` are the sums of positive and of negative differences over `n` pairs: for
    0/1 scores the counts of discordant pairs. For fractional scores the sums make it conservative,
    because d² ≤ |d|.
    """
    z, estimate = _z(confidence), (better - worse) / n

    def statistic(delta: float) -> float:
        a = 2.0 * n
        b = -better - worse + (2 * n - better + worse) * delta
        c = -worse * delta * (1 - delta)
        q = max(0.0, (sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a))
        variance = n * (2 * q + delta * (1 - delta))
        gap = better - worse - n * delta
        if variance <= 0:
            return 0.0 if gap == 0 else (float("inf") if gap > 0 else float("-inf"))
        return gap / sqrt(variance)

    low = _root(lambda d: statistic(d) - z, -1.0, estimate)
    high = _root(lambda d: statistic(d) + z, estimate, 1.0)
    return Interval(estimate=estimate, low=low, high=high)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Return where a falling function crosses zero, by bisection to 2⁻⁵⁰ of the bracket."""
    for _ in range(60):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def geometric_ratio(ratios: Sequence[float], *, confidence: float) -> Interval:
    """Return the geometric mean of paired ratios with its Student t interval on the logarithms."""
    from scipy.stats import t  # noqa: PLC0415

    logs, n = [log(r) for r in ratios], len(ratios)
    mean = fsum(logs) / n
    spread = sqrt(fsum((x - mean) ** 2 for x in logs) / (n - 1) / n)
    half = float(t.ppf(0.5 + confidence / 2, n - 1)) * spread
    return Interval(estimate=exp(mean), low=exp(mean - half), high=exp(mean + half))

"""Intervals cover what they promise, at small n and without variance too."""

from __future__ import annotations

import random
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.gate.intervals import geometric_ratio, tango, wilson


def test_wilson_equals_the_published_example():
    """Newcombe 1998, method 3: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611."""
    i = wilson(81 / 263, 263, confidence=0.95)
    assert (round(i.low, 4), round(i.high, 4)) == (0.2553, 0.3662)
    i = wilson(0.0, 20, confidence=0.95)
    assert (round(i.low, 4), round(i.high, 4)) == (0.0, 0.1611)


def test_tango_equals_its_defining_equation():
    """At each limit the score statistic is the normal quantile: checked by its own definition."""
    n, b, c, z = 50, 12, 2, 1.959964
    i = tango(b, c, n, confidence=0.95)
    for limit in (i.low, i.high):
        # The constrained likelihood's root, from Tango 1998, equation (9).
        big_b = -b - c + (2 * n - b + c) * limit
        q = (sqrt(big_b**2 + 8 * n * c * limit * (1 - limit)) - big_b) / (4 * n)
        score = (b - c - n * limit) / sqrt(n * (2 * q + limit * (1 - limit)))
        assert abs(abs(score) - z) < 1e-4
    assert i.low < (b - c) / n < i.high


def test_no_discordant_pair_is_still_uncertain():
    """At n = 20 without a discordant pair a Wald interval has no width; this one has."""
    i = tango(0, 0, 20, confidence=0.95)
    assert i.low < -0.10
    assert i.high > 0.10
    assert i.estimate == 0


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_tango_holds_the_estimate_and_mirrors(b, c, equal):
    """The estimate lies inside, within [−1, 1], and swapping sides mirrors the interval."""
    n = b + c + equal + 1
    i, mirrored = tango(b, c, n, confidence=0.95), tango(c, b, n, confidence=0.95)
    assert -1 <= i.low <= i.estimate <= i.high <= 1
    assert i.low == pytest.approx(-mirrored.high, abs=1e-9)


def test_tango_covers_as_promised():
    """Over 2,000 simulated studies of 60 pairs the interval holds the truth 93 to 97 % of times."""
    rng, held, rounds, n = random.Random(5), 0, 2000, 60  # seeded: the same studies each time
    p_better, p_worse = 0.15, 0.08
    for _ in range(rounds):
        draws = [rng.random() for _ in range(n)]
        b = sum(d < p_better for d in draws)
        c = sum(p_better <= d < p_better + p_worse for d in draws)
        i = tango(b, c, n, confidence=0.95)
        held += i.low <= p_better - p_worse <= i.high
    assert 0.93 <= held / rounds <= 0.97


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_mean(case):
    """The estimate is inside the interval and the interval inside [0, 1]."""
    k, n = case
    i = wilson(k / n, n, confidence=0.9)
    assert 0 <= i.low <= k / n <= i.high <= 1
    assert i.high > i.low


def test_ratio_of_equal_costs_is_one():
    """Equal pairs give 1; doubled ones 2; noise gives an interval around it."""
    assert geometric_ratio([1.0] * 5, confidence=0.95).estimate == 1
    assert geometric_ratio([2.0] * 5, confidence=0.95).high == pytest.approx(2)
    i = geometric_ratio([0.5, 2.0, 1.0, 1.1, 0.9], confidence=0.95)
    assert i.low < 1 < i.high

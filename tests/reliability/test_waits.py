"""Waits in every form providers give them; nothing else is believed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.reliability.waits import asked_wait

NOW = 1_445_412_480.0  # Wed, 21 Oct 2015 07:28:00 GMT


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "120.5"}, 120.5),
        ({"retry-after": "86400"}, 86400.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "garbage", "retry-after": "9"}, 9.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:00:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "soon"}, None),
        ({"x-ratelimit-reset-requests": "1s"}, 1.0),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "20ms"}, 0.02),
        ({"x-ratelimit-reset": "1445412490"}, 10.0),
        ({"x-ratelimit-reset": "1445412490000"}, 10.0),
        ({"anthropic-ratelimit-requests-reset": "2015-10-21T07:28:05Z"}, 5.0),
        ({"x-ratelimit-reset-requests": "8s", "x-ratelimit-remaining-requests": "0",
          "x-ratelimit-reset-tokens": "20ms", "x-ratelimit-remaining-tokens": "9"}, 8.0),
        ({"retry-after": "2", "x-ratelimit-reset-requests": "8s"}, 2.0),
        ({}, None),
    ],
)  # fmt: skip
def test_headers(headers, expected):
    """Milliseconds, seconds, dates and resets are read in that order; garbage is no answer."""
    assert asked_wait(headers, now_unix_s=NOW) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("retryDelay: 37s", 37.0),
        ('"retryDelay": "1.5s"', 1.5),
        ("retry_delay { seconds: 34 }", None),
        ("estimated_time: 20.0", 20.0),
        ('{"error": {"retry_after": 7}}', 7.0),
        ("retry_after_seconds: 2.5", 2.5),
        ('"retryAfterMs": 1500', 1.5),
        ('"retry_after": "2026-01-05"', None),
        ('"retry_after": null', None),
        ("Please try again in 7.66s. Visit", 7.66),
        ("Please try again in 7m12s", 432.0),
        ("Please retry after 20 seconds.", 20.0),
        ("Please wait 5402 seconds before retrying.", 5402.0),
        ("Please try again later", None),
    ],
)
def test_bodies(text, expected):
    """Google's RetryInfo and the sentence of a message are waits too."""
    assert asked_wait({}, text) == pytest.approx(expected)


def test_a_moment_needs_a_clock():
    """A date without the current time is no answer rather than a guess."""
    assert asked_wait({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}) is None
    assert asked_wait({"x-ratelimit-reset": "1445412490"}) is None


def test_the_reset_of_a_limit_is_a_wait_only_for_a_limit():
    """Providers send reset headers with every answer; after a 400 they mean nothing."""
    assert asked_wait({"x-ratelimit-reset-requests": "8s"}, throttled=False) is None


@given(
    st.dictionaries(
        st.sampled_from(["retry-after", "retry-after-ms", "x-ratelimit-reset", "retry-after "]),
        st.text(max_size=40) | st.floats().map(str) | st.integers().map(str),
    ),
    st.text(max_size=200),
    st.none() | st.floats(allow_nan=False, allow_infinity=False, min_value=0, max_value=1e11),
)
def test_any_wait_is_finite_and_not_negative(headers, text, now):
    """Whatever is sent, a wait is None or a finite number of zero or more seconds."""
    wait = asked_wait(headers, text, now_unix_s=now)
    assert wait is None or (wait >= 0 and math.isfinite(wait))

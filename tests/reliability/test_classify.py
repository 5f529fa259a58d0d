"""Errors of any origin get one row of the taxonomy."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.core.errors import AttemptTimeout, BudgetExceeded, FaultInjected, UsageError
from towerkit.reliability.classify import CODES, NAMES, STATUSES, TEXTS, classify, classify_text
from towerkit.reliability.taxonomy import TAXONOMY, error_class


class StatusError(Exception):
    """What SDKs raise, reduced to what is looked at."""

    def __init__(self, status, body=None, headers=None):
        """Carry a status code, a parsed body and response headers."""
        super().__init__(f"Error code: {status}")
        self.status_code, self.body = status, body
        self.response = type("R", (), {"headers": headers or {}})()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StatusError(429), "rate_limited"),
        (StatusError(429, {"error": {"code": "insufficient_quota"}}), "quota_exhausted"),
        (StatusError(429, {"error": {"type": "rate_limit_error"}}), "rate_limited"),
        (StatusError(200, {"error": {"type": "overloaded_error"}}), "overloaded"),
        (StatusError(529), "overloaded"),
        (StatusError(500), "upstream_5xx"),
        (StatusError(521), "upstream_5xx"),
        (StatusError(418), "invalid_request"),
        (StatusError(401), "auth_failed"),
        (StatusError(400, {"error": {"code": "context_length_exceeded"}}), "context_too_long"),
        (
            StatusError(400, {"error": {"type": "invalid_request_error",
                                        "message": "prompt is too long: 1 > 0 tokens"}}),
            "context_too_long",
        ),
        (StatusError(400, {"error": {"type": "invalid_request_error"}}), "invalid_request"),
        (BudgetExceeded("no"), "budget_exceeded"),
        (FaultInjected("x", error_class="overloaded"), "overloaded"),
        (AttemptTimeout("x"), "timeout_read"),
        (asyncio.CancelledError(), "cancelled"),
        (KeyboardInterrupt(), "cancelled"),
        (ConnectionRefusedError(), "connect_failed"),
        (ConnectionResetError(), "stream_interrupted"),
        (TimeoutError(), "timeout_read"),
        (RuntimeError("something else"), "unknown"),
    ],
)  # fmt: skip
def test_model_errors(error, expected):
    """A status, a body's code, a class name or a text decides, in that order of closeness."""
    assert classify(error).error_class == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no such invoice"), "tool_failed"),
        (TimeoutError(), "tool_timeout"),
        (AttemptTimeout("x"), "tool_timeout"),
        (KeyboardInterrupt(), "cancelled"),
        (StatusError(500), "tool_failed"),
    ],
)
def test_tool_errors(error, expected):
    """What a tool raises is a tool's failure, whatever it looks like."""
    assert classify(error, operation="tool").error_class == expected


def test_the_cause_is_closer_to_the_truth_than_the_wrapper():
    """A connection error caused by a connect time-out is a connect time-out."""
    cause = type("ConnectTimeout", (Exception,), {})()
    wrapper = type("APIConnectionError", (Exception,), {})()
    wrapper.__cause__ = cause
    assert classify(wrapper).error_class == "timeout_connect"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Wed, 21 Oct"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "1e999"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers, expected):
    """Only a finite, non-negative wait is believed."""
    assert classify(StatusError(429, headers=headers)).retry_after_s == expected


def test_an_error_whose_text_raises_is_still_classified():
    """A user object cannot break the classification."""

    class Evil(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    assert classify(Evil()).error_class == "unknown"


@given(st.text(max_size=300))
def test_any_text_has_a_row(text):
    """Classification is total: every text ends in a row of the table."""
    assert classify_text(text) in TAXONOMY


def test_every_mapping_leads_to_a_row():
    """No code, status, name or text maps to a class that does not exist."""
    targets = {*CODES.values(), *STATUSES.values(), *NAMES.values(), *(n for _, n in TEXTS)}
    assert targets <= set(TAXONOMY)


def test_an_unknown_class_lists_the_known():
    """The error names what there is."""
    with pytest.raises(UsageError, match="rate_limited"):
        error_class("nope")

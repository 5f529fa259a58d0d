"""Objects that hurt whoever looks at them, and texts that are made to be slow."""

# ruff: noqa: E501  one case a line

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towerkit.reliability.bodies import read_body, read_text
from towerkit.reliability.classify import (
    classify,
    classify_event,
    classify_log,
    classify_response,
    classify_text,
    classify_tool_result,
    is_terminal,
)
from towerkit.reliability.taxonomy import TAXONOMY


def _raise(*_args, **_kwargs):
    raise RuntimeError("do not look at me")


class RaisingText(Exception):
    """Raises when printed."""

    __str__ = __repr__ = _raise


class RaisingAttributes(Exception):
    """Raises whatever attribute is asked for."""

    def __getattr__(self, name):
        """Raise what is no AttributeError."""
        raise RuntimeError(name)


class RaisingClass(Exception):
    """Raises when asked for its class."""

    __class__ = property(_raise)


class Everything(Exception):
    """Has every attribute, each one itself."""

    def __getattr__(self, name):
        """Return itself."""
        return self


class HostileDict(dict):
    """A body that raises when it is read."""

    items = get = __iter__ = __getitem__ = __len__ = _raise


class HostileStr(str):
    """A text that raises when it is used."""

    __slots__ = ()
    lower = strip = __len__ = __eq__ = __getitem__ = __str__ = _raise
    __hash__ = str.__hash__


class HostileArgs(Exception):
    """Has arguments that raise."""

    args = property(_raise)


class Leaving(Exception):
    """Raises what leaves a generator when it is printed."""

    def __str__(self):
        """Raise a GeneratorExit."""
        raise GeneratorExit


def _recursive():
    error = ValueError("a")
    error.__cause__ = KeyError("b")
    error.__cause__.__cause__ = error
    return error


def _nested(depth=5000):
    body = {}
    for _ in range(depth):
        body = {"error": body}
    error = ValueError()
    error.body = body
    return error


def _with(**attributes):
    error = Exception("x")
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


HOSTILE = [
    RaisingText(), RaisingAttributes(), RaisingClass(), Everything(), HostileArgs(), Leaving(), _recursive(),
    _nested(), _with(body=HostileDict(error=1)), _with(code=HostileStr("slow_down")),
    _with(response=RaisingAttributes()), _with(headers=HostileDict()), _with(status_code=10**400),
    Exception(HostileStr("overloaded")), Exception("\ud800" * 50),
    ExceptionGroup("g", [ValueError("x")]), _with(code=_raise), _with(status="9" * 5000),
    _with(exceptions=(RaisingText(),)), _with(body=b"\xff" * 100_000), _with(body={1: {None: []}}),
]  # fmt: skip


@pytest.mark.parametrize("operation", ["model", "tool", "agent"])
@pytest.mark.parametrize("index", range(len(HOSTILE)))
def test_no_object_gets_its_error_out_of_the_classifier(index, operation):
    """A hostile exception gets a row, and nothing it raises escapes."""
    assert classify(HOSTILE[index], operation=operation).error_class in TAXONOMY


def test_events_and_results_are_read_past_their_own_methods():
    """A mapping whose methods raise is read as the dictionary it is."""
    hostile = HostileDict(error={"code": 502}, isError=True)
    rows = classify_event(hostile).error_class, classify_tool_result(hostile).error_class
    assert rows == ("upstream_5xx", "tool_failed")
    assert is_terminal(hostile)


def test_only_the_beginning_of_a_text_is_looked_at():
    """Ten million characters cost no more than twenty thousand: what is behind is not seen."""
    long = "x" * 10_000_000
    assert classify_text(long + " overloaded") == "unknown"
    assert classify(Exception("overloaded " + long)).error_class == "overloaded"
    assert len(read_text(long).text) <= 20_000


SLOW = [
    "a" * 20_000, "(" * 20_000, "model " * 4000, "tool x " * 3000, "per minute quota " * 1200,
    "'code':" * 3000, "{'error': " * 2000, "connection to " * 1500, "1s" * 10_000,
    "try again in " + "1m" * 9000, "rate limit " * 2000 + "'", "a." * 10_000, "_" * 20_000,
    "blocked " * 2500, "context " * 2500, "quota " * 3300, "error code: " * 1700, '\n  File "' * 2000,
    "invalid json" * 1600, " " * 20_000, "finish_reason" * 1500, "api key" * 2800, "guardrail" * 2200,
    "AError: " * 2500, "a.b.C" * 4000, '"input": "' * 2000, "'prompt': '" * 1800, '{"a":' * 4000,
    "reached your " * 1500, "or you " * 2800, "an internal unknown " * 1000, "error (executing " * 1200,
    "invalid 'messages" * 1200, "Timeout - (" * 1800, '["\\"' * 5000, "model id " * 2200,
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(SLOW)))
def test_time_is_linear_in_the_text(index):
    """Twice the text takes about twice the time; a quadratic pattern would take four times."""
    text = SLOW[index]
    pairs = ((_seconds(text[: len(text) // 2]), _seconds(text)) for _ in range(10))
    # 3.3 lies between linear and quadratic; below 30 ms the clock's own noise decides. What is
    # quadratic is so every time, while a busy machine is slow now and then.
    assert any(whole < 0.03 or whole < 3.3 * half for half, whole in pairs)


def _seconds(text):
    best = float("inf")
    for _ in range(2):
        start = time.process_time()
        classify_log(text, http_status=None)
        best = min(best, time.process_time() - start)
    return best


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30)
    | st.sampled_from(["rate_limit_exceeded", "INTERNAL", "error", "stop", "length", "[DONE]"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["error", "code", "type", "status", "message", "details", "response",
                         "choices", "candidates", "delta", "finish_reason", "isError", "content"])
        | st.text(max_size=8), inner, max_size=5),
    max_leaves=12,
)  # fmt: skip


@given(JSON, st.integers(-5, 700), st.sampled_from(["model", "tool", "agent"]))
@settings(max_examples=200)
def test_classification_is_total(body, status, operation):
    """Any JSON as body, event or tool result, any status and any text ends in a row or in none."""
    error = _with(body=body, status_code=status)
    rows = [classify(error, operation=operation), classify_log(body, http_status=status)]
    rows += [classify_response(status=status, body=body), classify_event(body)]
    rows += [classify_tool_result(body), classify_log(repr(body))]
    assert {row.error_class for row in rows if row is not None} <= set(TAXONOMY)
    assert is_terminal(body) in {True, False}
    assert read_body(body).status is None or 400 <= read_body(body).status < 600

"""The figures: what they say, that they are SVG without an address, and what they leave out."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from towerkit.core.errors import UsageError
from towerkit.report import figures

EVIL = "<script>alert(1)</script>\u202e\x1b[31m\x00]]>&\"'"


def interval(name, estimate, **more):
    """Return a row with an interval around `estimate`."""
    sides = (
        {"low": None, "high": None}
        if estimate is None
        else {"low": estimate - 0.05, "high": estimate + 0.05}
    )
    return {
        "suite": name,
        "name": name,
        "estimate": estimate,
        "n": 60,
        "outcome": "PASS",
        **sides,
        **more,
    }


CASES = {
    "suite_scores": [interval("golden", 0.94, threshold=0.9), interval(EVIL, None)],
    "rule_intervals": [
        interval("score", 0.02, threshold=-0.05),
        interval(EVIL, 1.1, unit="ratio", outcome="HOLD"),
        interval("odd", None, outcome="?"),
    ],
    "cost_by_model": [
        {"model": "m", "cost_usd": 0.03, "wasted": False},
        {"model": "m", "cost_usd": 0.01, "wasted": True},
        {"model": EVIL, "cost_usd": None},
    ],
    "policy_front": [
        {
            "name": name,
            "front": not high,
            "cost_low": 1.0,
            "cost_high": high,
            "time_low": 2.0,
            "time_high": high,
            "success_low": 0.5,
            "success_high": 1.0,
        }
        for name, high in (("two attempts", None), (EVIL, 3.0))
    ],
    "errors_by_class": [
        {"error_class": "overloaded", "count": 3},
        {"error_class": EVIL, "count": 1},
    ],
    "drift_effects": [
        {
            "column": "x",
            "test": "ks",
            "effect": 0.3,
            "threshold": 0.1,
            "drift": True,
            "p_value": 0.001,
        },
        {
            "column": EVIL,
            "test": "js",
            "effect": 0.2,
            "threshold": 0.1,
            "drift": False,
            "p_value": None,
        },
    ],
    "latency_by_operation": [{"operation": "chat", "duration_s": i / 10} for i in range(11)]
    + [{"operation": EVIL, "duration_s": None}],
    "span_waterfall": [
        {"depth": 0, "seq": 0, "name": "run", "status": "ok", "start_s": 0.0, "duration_s": 2.0},
        {
            "seq": 1,
            "depth": 1,
            "name": EVIL,
            "status": "error",
            "start_s": 0.5,
            "duration_s": None,
            "error_class": "tool_failed",
        },
    ],
}
TITLES = {
    "suite_scores": "golden 94%,",
    "rule_intervals": "1 PASS, 1 HOLD, 1 NOT MEASURED of 3 rules",
    "cost_by_model": "$0.0400 spent, 25% of it wasted; 1 charges of unknown price left out",
    "policy_front": "1 of 2 policies are beaten by no other",
    "errors_by_class": "4 errors, most of them overloaded",
    "drift_effects": "1 of 2 columns drifted: x",
    "latency_by_operation": "slowest: chat, 0.95 s at the 95th percentile",
    "span_waterfall": "2 spans in 2.00 s, 1 of them not ok",
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_figure_says_its_finding_and_is_inert_svg(name) -> None:
    """The title is the finding, the text alternative begins with it, hostile names are text."""
    figure = getattr(figures, name)(CASES[name])
    assert figure.title.startswith(TITLES[name])
    assert figure.alt.startswith(figure.title)
    root = ET.fromstring(figure.svg)
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"script", "foreignObject", "image", "a", "use", "iframe"}
    for element in root.iter():
        assert not [a for a in element.attrib if a.startswith("on") or "href" in a]
    assert not re.search("[\x00\x1b\u202e]", figure.svg + figure.alt)


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_figure_of_nothing_still_draws(name) -> None:
    """No rows give an empty figure with a title, not an exception."""
    assert ET.fromstring(getattr(figures, name)([]).svg) is not None


@pytest.mark.parametrize("name", sorted(CASES))
def test_rows_without_a_needed_key_are_named(name) -> None:
    """A missing key is one error that lists what was expected and what came."""
    with pytest.raises(UsageError, match="expected rows with"):
        getattr(figures, name)([{"other": 1}])


def test_axes_carry_their_units() -> None:
    """Money, time and shares say what they are measured in."""
    drawn = {name: getattr(figures, name)(rows).svg for name, rows in CASES.items()}
    assert "cost, US dollars" in drawn["cost_by_model"]
    assert "duration, seconds" in drawn["latency_by_operation"]
    assert "score, share of cases" in drawn["suite_scores"]
    assert "ratio" in drawn["rule_intervals"]


def test_a_long_run_is_cut_and_says_so() -> None:
    """Forty spans are drawn of a longer run, and the title says how many there are."""
    row = {"depth": 0, "seq": 3, "name": "s", "status": "ok", "start_s": 0.0, "duration_s": 1.0}
    assert "100 spans" in figures.span_waterfall([row] * 100).title
    assert "the first 40 are drawn" in figures.span_waterfall([row] * 100).title


def test_the_same_rows_give_the_same_picture() -> None:
    """Drawing is a function of the rows."""
    assert figures.errors_by_class(CASES["errors_by_class"]) == figures.errors_by_class(
        CASES["errors_by_class"]
    )

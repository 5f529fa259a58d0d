"""The catalogue: every class of the taxonomy has a script or a reason why none can be."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
from sdks import FORMATS, seen

from towerkit.core.errors import UsageError
from towerkit.faults import NOT_OVER_HTTP, FaultServer, once, scripts
from towerkit.faults.catalogue import _TABLE
from towerkit.reliability.taxonomy import TAXONOMY

PAGE = Path(__file__).resolve().parents[2] / "docs/howto/faults.md"
EVERY = [
    (name, wire, script, stream)
    for name in _TABLE
    for wire, found in scripts(name, retry_after_s=0.05, drip_s=0.002).items()
    for script in found
    for stream in ((False, True) if script.stream is None else (script.stream,))
]
# What an agent gets without an exception, because the trouble is in what the model said.
SAID = {
    "output_truncated", "output_invalid", "tool_args_invalid", "tool_unknown", "no_progress",
    "timeout_total",
}  # fmt: skip


def test_every_class_has_a_script_or_a_reason():
    """The two tables part the taxonomy; a new class of it breaks this until it is placed."""
    assert set(_TABLE) | set(NOT_OVER_HTTP) == set(TAXONOMY)
    assert not set(_TABLE) & set(NOT_OVER_HTTP)
    assert all(NOT_OVER_HTTP.values())


@pytest.mark.parametrize("name", sorted(NOT_OVER_HTTP))
def test_a_class_that_no_provider_produces_is_refused_with_its_reason(name):
    """The sentence is that of the table."""
    with pytest.raises(UsageError, match=re.escape(NOT_OVER_HTTP[name])):
        scripts(name)


def test_an_unknown_class_is_told_with_the_known():
    """As everywhere: the names are listed."""
    with pytest.raises(UsageError, match="rate_limited"):
        scripts("rate_limit")


@pytest.mark.parametrize(
    ("name", "wire", "script", "stream"), EVERY, ids=lambda v: getattr(v, "name", str(v))
)
def test_every_script_plays_on_its_format(sdks, name, wire, script, stream):
    """Through the real SDK a fault of the wire is seen, one in the words comes as an answer."""
    with FaultServer(script) as server:
        got = seen(sdks, server, wire, stream=stream)
    assert server.hits == (1 if script.port == "open" else 0)
    said = name in SAID or script.name.startswith("finish: ") or script.name.endswith(".failed")
    assert (got == "nothing") == said, got


def test_the_wait_asked_for_is_the_one_given():
    """Retry-After stands in the header, for Gemini in the body's RetryInfo."""
    for wire, (script, *_) in scripts("rate_limited", retry_after_s=7).items():
        answer = script.default.answer
        told = str(answer.body) if wire == "gemini" else answer.headers["retry-after"]
        assert ("'7s'" in told) if wire == "gemini" else (told == "7")


def test_once_fails_between_good_answers(sdks):
    """Two good answers, one fault, and good ones for ever after."""
    script = once(scripts("overloaded")["anthropic"][0], after=2)
    with FaultServer(script) as server:
        got = [seen(sdks, server, "anthropic", stream=False) for _ in range(5)]
    assert [g == "nothing" for g in got] == [True, True, False, True, True]
    with pytest.raises(UsageError, match="refused"):
        once(scripts("connect_failed")["gemini"][0])


def test_what_the_page_shows_works_as_shown():
    """Every Python block of docs/howto/faults.md runs and prints what the page says."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
            exec(code, {"__name__": "page"})
    assert "1: 1\n2: 3 chunks, finish reason None\n3: Order 7 is on its way.\n3 [" in out.getvalue()
    assert NOT_OVER_HTTP["budget_exceeded"] in out.getvalue()


def test_formats_are_the_four():
    """A new wire wire comes with its scripts."""
    assert {f for _, f, _, _ in EVERY} == set(FORMATS)

"""`towerkit errors` answers from the table, and docs/errors.md is printed from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from towerkit.cli import cli
from towerkit.core.errors import UsageError
from towerkit.reliability.explain import errors_page, explain_line
from towerkit.reliability.taxonomy import TAXONOMY

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "errors.md"


def test_the_page_is_the_table():
    """docs/errors.md is what the table prints."""
    assert PAGE.read_text(encoding="utf-8") == errors_page(), (
        "run: towerkit errors ls --markdown > docs/errors.md"
    )


def test_every_class_is_on_the_page():
    """Each row stands in both tables of its family."""
    page = errors_page()
    assert [n for n in TAXONOMY if page.count(f"| `{n}` |") != 2] == []


def explained(*lines):
    """Run the command over lines; return its exit code and answers."""
    result = CliRunner().invoke(cli, ["errors", "explain"], input="".join(lines))
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


def test_one_answer_a_line():
    """A body and the text of an exception are answered in order, from the table."""
    raw = "Error code: 400 - {'error': {'code': 'context_length_exceeded'}}"
    code, answers = explained(
        json.dumps({"provider": "openai", "http_status": 429, "raw": '{"error": {"code": "insufficient_quota"}}'}) + "\n",  # noqa: E501
        json.dumps({"provider": "gpt-4o", "http_status": None, "raw": raw}) + "\n",
    )  # fmt: skip
    assert code == 0
    assert [a["class"] for a in answers] == ["quota_exhausted", "context_too_long"]
    assert answers[0]["retryable"] is False
    assert answers[1]["policy"]["fallback"] == "larger_window"
    assert set(answers[0]) == {
        "class", "family", "retryable", "policy", "fault", "visible_to", "action", "summary",
    }  # fmt: skip


@pytest.mark.parametrize(
    "line",
    ["x", "", "[]", "{}", '{"raw": 1}', '{"raw": "a", "http_status": "429"}',
     '{"raw": "a", "http_status": true}', '{"raw": "a", "provider": 3}', "[" * 100_000],
)  # fmt: skip
def test_a_bad_line_is_answered_on_its_line(line):
    """The bad line gets an error, the others their answer, and the exit code is 2."""
    good = '{"raw": "overloaded"}\n'
    code, answers = explained(good, line + "\n", good)
    assert code == 2
    assert [set(a) == {"error"} for a in answers] == [False, True, False]


def test_a_providers_words_are_read_as_the_providers():
    """Google says of a minute's limit what OpenAI says of a spent quota."""
    raw = "You exceeded your current quota, please check your plan and billing details."
    names = {
        provider: explain_line(json.dumps({"provider": provider, "raw": raw}).encode())[0]["class"]
        for provider in ("openai", "gemini-2.0-flash")
    }
    assert names == {"openai": "quota_exhausted", "gemini-2.0-flash": "rate_limited"}


def test_ls_and_show():
    """Both list what the table holds; an unknown class is a usage error that lists the known."""
    runner = CliRunner()
    assert len(json.loads(runner.invoke(cli, ["errors", "ls", "--json"]).stdout)) == len(TAXONOMY)
    assert len(runner.invoke(cli, ["errors", "ls"]).stdout.splitlines()) == len(TAXONOMY)
    assert runner.invoke(cli, ["errors", "ls", "--markdown"]).stdout == errors_page()
    shown = runner.invoke(cli, ["errors", "show", "overloaded"]).stdout
    assert TAXONOMY["overloaded"].action in shown
    assert json.loads(
        runner.invoke(cli, ["errors", "show", "overloaded", "--json"]).stdout
    )["class"] == "overloaded"  # fmt: skip
    assert isinstance(runner.invoke(cli, ["errors", "show", "nope"]).exception, UsageError)


@given(st.binary(max_size=200) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["raw", "provider", "http_status", "error", "code"]), inner, max_size=4),
    max_leaves=8,
).map(lambda v: json.dumps(v).encode()))  # fmt: skip
def test_any_line_gets_one_answer(line):
    """No line raises: it is explained or refused, and the answer is JSON."""
    answer, fine = explain_line(line)
    assert fine == ("class" in answer)
    assert json.dumps(answer)

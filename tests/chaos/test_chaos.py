"""Every class at every call: what the table says happens, and checks notice when it does not."""

from __future__ import annotations

import json

import msgspec
import pytest
from click.testing import CliRunner

from towerkit.chaos import chaos
from towerkit.chaos import chaos as run_chaos
from towerkit.chaos.cases import OURS, Boundary, Injection, can_occur
from towerkit.chaos.checks import expected
from towerkit.chaos.mutants import mutants
from towerkit.cli import cli
from towerkit.core.errors import UsageError
from towerkit.faults.plan import FaultPlan
from towerkit.reliability.policy import Policy
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.scenarios import load_scenario

NAME = "billing_dispute_resolution"
MODEL = Boundary(kind="model", name="m", nth=1, idempotent=True)
ONCE_ONLY = Boundary(kind="tool", name="t", nth=1, idempotent=False)


@pytest.fixture(scope="module")
def report():
    """Return one whole report."""
    return chaos(load_scenario(NAME))


def test_the_tower_copes_with_every_class_at_every_call(report):
    """No violation, nothing prescribed that was not seen, every mutant noticed."""
    assert report.violations == ()
    assert report.unseen == ()
    assert report.survivors == ()
    assert report.holds
    assert report.runs > 1_000
    assert report.mutants > 200


def test_every_class_is_injected_or_says_why_not(report):
    """The matrix and the list of the others are the whole table."""
    assert set(report.seen) | set(report.not_injected) == set(TAXONOMY)
    assert not set(report.seen) & set(report.not_injected)
    for name in report.seen:
        assert can_occur(TAXONOMY[name], "model") or can_occur(TAXONOMY[name], "tool")
        assert any(report.seen[name].values())


def test_a_broken_guard_is_noticed(monkeypatch):
    """Without its breaker's word, and with a wait forgotten, there are violations."""
    from towerkit.reliability.breaker import Breaker

    with monkeypatch.context() as patched:
        patched.setattr(Breaker, "settle", lambda *args, **kwargs: None)
        broken = run_chaos(load_scenario(NAME), mutate=False)
    assert any("breaker" in what for _, what in broken.violations)
    assert not broken.holds
    with monkeypatch.context() as patched:
        patched.setitem(TAXONOMY, "overloaded", msgspec.structs.replace(
            TAXONOMY["overloaded"], charge="usage"))  # fmt: skip
        changed = run_chaos(load_scenario(NAME), mutate=False)
    assert changed.holds  # the table is the truth: with another table, another truth


@pytest.mark.parametrize(
    ("name", "at", "times", "attempts", "answered"),
    [
        ("overloaded", MODEL, 1, ((0, True), (0, False)), True),
        ("overloaded", MODEL, 40, ((0, True),) * 3 + ((1, False),), True),
        ("content_filtered", MODEL, 1, ((0, True),), False),
        ("quota_exhausted", MODEL, 1, ((0, True),), False),
        ("tool_failed", ONCE_ONLY, 1, ((0, True),), False),
    ],
)
def test_what_is_expected_follows_from_the_row(name, at, times, attempts, answered):
    """Worked out by hand for five rows."""
    hit = Injection(name=name, at=at, times=times)
    want = expected(hit, TAXONOMY[name], tiers=2)
    assert (want.attempts, want.answered) == (attempts, answered)


def test_mutants_change_one_thing_and_leave_the_table_alone(report):
    """The table after all of it is the table before, and each mutant differs from it."""
    before = dict(TAXONOMY)
    made = list(mutants(before, Policy()))
    assert dict(TAXONOMY) == before
    assert len({str(m) for m in made}) == len(made) == report.mutants
    for mutant in made:
        rows = {name: before[name] for name in mutant.rows}
        assert mutant.rows != rows or mutant.policy != Policy()


def test_the_command_prints_the_matrix_and_exits_with_it(report):
    """Text for people, one object with --json; exit 0."""
    done = CliRunner().invoke(cli, ["chaos", "--scenario", NAME])
    assert done.exit_code == 0, done.output
    assert "0 violations" in done.output
    assert "not injected: budget_exceeded" in done.output
    matrix = [line for line in done.output.splitlines() if line.startswith("rate_limited ")]
    assert str(report.seen["rate_limited"]["throttled"]) in matrix[0]


def test_the_command_as_json(report):
    """The same report, whole."""
    done = CliRunner().invoke(cli, ["chaos", "--scenario", NAME, "--json"])
    assert json.loads(done.output)["runs"] == report.runs


def test_a_scenario_that_is_none_is_a_usage_error():
    """One sentence naming those that are."""
    done = CliRunner().invoke(cli, ["chaos", "--scenario", "nope"])
    assert isinstance(done.exception, UsageError)
    assert NAME in str(done.exception)


@pytest.mark.parametrize(
    "entry",
    [
        {"target": "model:*", "at": [1], "kind": "class"},
        {"target": "model:*", "at": [1], "kind": "error", "error_class": "overloaded"},
        {"target": "model:*", "at": [1], "kind": "class", "error_class": "nope"},
    ],
)
def test_a_plan_names_a_row_of_the_table(entry):
    """Kind `class` needs a class there is, and no other kind takes one."""
    with pytest.raises(UsageError, match=r"error_class|error class"):
        FaultPlan([entry])


def test_ours_are_rows_with_a_reason():
    """What is not injected is in the table."""
    assert set(OURS) <= set(TAXONOMY)
    assert all(OURS.values())

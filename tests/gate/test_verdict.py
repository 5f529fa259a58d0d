"""PASS, HOLD and FAIL: never a pass on what is missing, never better for being worse."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.gate.worlds import FLOOR, PAIRED, UNKNOWN, pair, side
from towerkit.core.errors import UsageError
from towerkit.gate import EXIT_CODES, METRICS, Evidence, Rule, judge, load_rules

values = st.lists(st.sampled_from([0.0, 1.0, 1.0, 1.0, 0.5, UNKNOWN, None]), max_size=60)


def alone(cases, **more):
    return Evidence(candidate=side(cases, **more), baseline=None)


@pytest.mark.parametrize(
    ("good", "bad", "word"), [(100, 0, "PASS"), (95, 5, "PASS"), (80, 20, "HOLD"), (60, 40, "FAIL")]
)
def test_a_floor_passes_holds_or_fails_by_its_interval(good, bad, word):
    """The lower end decides a pass, the upper end a failure, and between them it holds."""
    verdict = judge(alone([1.0] * good + [0.0] * bad), [FLOOR])
    assert verdict.verdict == word
    assert verdict.exit_code == EXIT_CODES[word]
    assert verdict.rules[0].estimate == good / (good + bad)


def test_a_candidate_that_is_clearly_worse_fails_and_better_passes():
    """Thirty lost cases of a hundred fail; thirty won pass; none changed passes with n = 200."""
    base = [1.0] * 60 + [0.0] * 40
    worse, better = [1.0] * 30 + [0.0] * 70, [1.0] * 90 + [0.0] * 10
    assert judge(pair(worse, base), [PAIRED]).verdict == "FAIL"
    assert judge(pair(better, base), [PAIRED]).verdict == "PASS"
    assert judge(pair(base * 2, base * 2), [PAIRED]).verdict == "PASS"


def test_the_same_results_on_twenty_cases_are_not_enough():
    """No discordant pair at n = 20 is not evidence of a margin of five points."""
    assert judge(pair([1.0] * 20, [1.0] * 20), [PAIRED]).verdict == "HOLD"


@settings(max_examples=300)
@given(values, st.data())
def test_making_a_case_worse_never_helps(cases, data):
    """Lowering, losing or unscoring any case never moves the verdict towards PASS."""
    if not cases:
        return
    at = data.draw(st.integers(0, len(cases) - 1))
    worse = data.draw(st.sampled_from([0.0, UNKNOWN] if cases[at] is not None else [None]))
    if worse is UNKNOWN and cases[at] in (0.0, 0.5):
        return
    changed = [*cases[:at], worse, *cases[at + 1 :]]
    base = [1.0] * len(cases)
    for rules, make in (([FLOOR], alone), ([PAIRED], lambda c: pair(c, base))):
        before, after = judge(make(cases), rules), judge(make(changed), rules)
        assert after.verdict != "PASS" or before.verdict == "PASS"
        assert after.verdict != "HOLD" or before.verdict != "FAIL" or worse != 0.0


@given(values)
def test_missing_evidence_never_passes(cases):
    """Too few, none, or all unknown: HOLD or FAIL, whatever the rest looks like."""
    known = [c for c in cases if c is not None and c is not UNKNOWN]
    verdict = judge(alone(cases), [FLOOR]).verdict
    if len(known) < FLOOR.min_n // 2:
        assert verdict != "PASS"


def test_unknown_outcomes_are_bounded_from_both_sides():
    """Ten crashed runs of a hundred cannot pass a floor that their failures would break."""
    verdict = judge(alone([1.0] * 90 + [UNKNOWN] * 10), [FLOOR])
    rule = verdict.rules[0]
    assert (rule.n, rule.undetermined, rule.estimate) == (100, 10, 1.0)
    assert rule.low < 0.9
    assert "10 of them undetermined" in rule.reason
    assert judge(alone([1.0] * 80 + [UNKNOWN] * 20), [FLOOR]).verdict == "HOLD"


def test_cases_missing_in_the_candidate_are_not_passed_over():
    """A candidate measured on the easy half only is held."""
    base = [1.0] * 100
    assert judge(pair([1.0] * 50 + [None] * 50, base), [PAIRED]).verdict == "HOLD"


def test_cases_of_another_definition_are_not_compared():
    """Equal ids with other tasks are undetermined pairs."""
    evidence = pair([1.0] * 100, [1.0] * 100, definition="other")
    rule = judge(evidence, [PAIRED]).rules[0]
    assert (rule.outcome, rule.undetermined) == ("hold", 100)


def test_repeats_of_a_case_count_as_one():
    """Four trials of thirty cases are thirty pairs, not a hundred and twenty."""
    cases = [[1.0, 1.0, 0.0, 1.0]] * 30
    assert judge(pair(cases, cases), [PAIRED]).rules[0].n == 30


def test_without_a_baseline_a_comparison_holds():
    """There is nothing to compare with: that is no pass."""
    assert judge(alone([1.0] * 100), [PAIRED]).verdict == "HOLD"


def test_what_neither_side_measured_is_shown_and_only_then_let_through():
    """An optional rule without evidence is not_measured; with evidence on one side it holds."""
    rule = msgspec.structs.replace(PAIRED, suite="adversarial", required=False)
    both = pair([1.0] * 200, [1.0] * 200)
    assert judge(both, [PAIRED, rule]).verdict == "PASS"
    assert judge(both, [PAIRED, rule]).rules[1].outcome == "not_measured"
    assert judge(both, [PAIRED, msgspec.structs.replace(rule, required=True)]).verdict == "HOLD"
    assert judge(both, [rule]).verdict == "HOLD"
    lost = Evidence(candidate=both.candidate, baseline=side([1.0] * 99, suite="adversarial"))
    assert judge(lost, [rule]).verdict == "HOLD"


def test_costs_are_compared_pair_by_pair_where_both_are_known():
    """A candidate at twice the cost breaks a ceiling of 1.25; unknown costs hold or are shown."""
    rule = Rule(name="cost", metric="cost_usd", kind="ratio_ceiling", threshold=1.25)
    base = [1.0] * 40
    costs = {f"b{i}": 1.0 + i / 100 for i in range(40)}
    dear = {f"c{i}": 2.0 + i / 100 for i in range(40)}
    candidate = side(base, prefix="c", runs={"cost_usd": dear})
    baseline = side(base, prefix="b", runs={"cost_usd": costs})
    assert judge(Evidence(candidate=candidate, baseline=baseline), [rule]).verdict == "FAIL"
    same = side(base, prefix="c", runs={"cost_usd": {f"c{i}": 1.0 + i / 100 for i in range(40)}})
    assert judge(Evidence(candidate=same, baseline=baseline), [rule]).verdict == "PASS"
    assert judge(pair(base, base), [rule]).verdict == "HOLD"


def test_inadmissible_runs_hold_the_release():
    """Evidence that cannot be counted is not evidence."""
    rule = Rule(name="e", metric="inadmissible", kind="ceiling", threshold=0.05)
    runs = {"inadmissible": {str(i): float(i < 30) for i in range(100)}}
    assert judge(alone([1.0] * 100, runs=runs), [rule]).verdict == "FAIL"


@given(st.permutations(range(30)))
def test_the_order_of_cases_does_not_matter(order):
    """Equal evidence gives equal bytes."""
    cases = [1.0] * 25 + [0.0] * 4 + [UNKNOWN]
    first = judge(pair(cases, [1.0] * 30), [FLOOR, PAIRED])
    evidence = pair(cases, [1.0] * 30)
    keys = list(evidence.candidate.cases["golden"].items())
    shuffled = msgspec.structs.replace(
        evidence.candidate, cases={"golden": dict(keys[i] for i in order)}
    )
    again = judge(msgspec.structs.replace(evidence, candidate=shuffled), [FLOOR, PAIRED])
    assert msgspec.json.encode(first) == msgspec.json.encode(again)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (
            'metric = "speed"\nkind = "floor"\nthreshold = 0.5',
            "unknown metric 'speed'; known: score",
        ),
        ('metric = "score"\nkind = "floor"\nthreshold = 0.5', "needs a suite"),
        ('metric = "cost_usd"\nkind = "floor"\nthreshold = 0.5', "ratio_ceiling goes with"),
        ('metric = "contradicted"\nkind = "ceiling"\nthreshold = 5', "between 0 and 1"),
        ('metric = "contradicted"\nkind = "ceiling"\nthreshold = nan', "between 0 and 1"),
        ('metric = "contradicted"\nkind = "ceiling"', "threshold"),
        ('metric = "contradicted"\nkind = "roof"\nthreshold = 0.5', "roof"),
        ('metric = "contradicted"\nkind = "ceiling"\nthreshold = 0.5\nmargin = 1', "margin"),
        ('metric = "contradicted"\nkind = "ceiling"\nthreshold = 0.5\nmin_n = 1', "min_n"),
        ("= =", "rules file"),
    ],
)
def test_a_wrong_rules_file_is_one_sentence(tmp_path, text, word):
    """File, rule and what is wrong; nothing is judged by half a file."""
    path = tmp_path / "rules.toml"
    path.write_text(f'[[rule]]\nname = "r"\n{text}\n')
    with pytest.raises(UsageError, match="rules") as caught:
        load_rules(str(path))
    assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_empty_and_doubled_rules_are_refused(tmp_path):
    """No rule is no gate."""
    with pytest.raises(UsageError, match="release"):
        load_rules("nope")
    with pytest.raises(UsageError, match="cannot read"):
        load_rules(str(tmp_path / "none.toml"))
    path = tmp_path / "r.toml"
    path.write_text("rule = []")
    with pytest.raises(UsageError, match="at least one"):
        load_rules(str(path))
    one = '[[rule]]\nname = "r"\nmetric = "contradicted"\nkind = "ceiling"\nthreshold = 0.5\n'
    path.write_text(one + one)
    with pytest.raises(UsageError, match="one name"):
        load_rules(str(path))


def test_shipped_rules_load_and_use_known_metrics():
    """Every rules file in data/gates is valid."""
    for name in ("release", "billing_dispute_resolution"):
        assert {r.metric for r in load_rules(name)} <= set(METRICS)

"""From evidence and rules to one verdict.

Rule: PASS when every rule that counts passes; FAIL when one is broken beyond its interval; HOLD in
between, and whenever evidence that is required is missing. Text, JSON and exit code all come from
the `Verdict`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Any, Literal

import msgspec

from towerkit.core.canonical import digest_of
from towerkit.gate.evidence import CaseKey, Evidence, Outcome, Side
from towerkit.gate.intervals import Interval, geometric_ratio, tango, wilson
from towerkit.gate.rules import Rule
from towerkit.privacy.safe_text import safe_text

Word = Literal["PASS", "HOLD", "FAIL"]
EXIT_CODES: dict[str, int] = {"PASS": 0, "HOLD": 3, "FAIL": 4}


class RuleResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule found. `low` and `high` bound the truth, undetermined cases included."""

    name: str
    outcome: Literal["pass", "hold", "fail", "not_measured"]
    estimate: float | None
    low: float | None
    high: float | None
    n: int
    reason: str
    metric: str
    suite: str | None
    kind: str
    threshold: float
    undetermined: int = 0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The gate's answer. `inputs` names, with digests, everything it was computed from."""

    verdict: Word
    rules: tuple[RuleResult, ...]
    inputs: dict[str, Any]

    @property
    def exit_code(self) -> int:
        """0 PASS, 3 HOLD, 4 FAIL."""
        return EXIT_CODES[self.verdict]

    def lines(self) -> list[str]:
        """Return the verdict as a person reads it: the word, then a line a rule."""
        return [
            f"[gate] {self.verdict}",
            *(f"  {r.outcome:<12} {r.name}: {r.reason}" for r in self.rules),
            *left_out(self.inputs),
        ]


def left_out(inputs: Mapping[str, Any], *, most: int = 20) -> list[str]:
    """Return a line a run that was not counted, with its reason; `inputs` is a verdict's."""
    found = [
        f"  not counted  {side} run {safe_text(run)}: {safe_text(why, limit=300)}"
        for side in ("candidate", "baseline")
        for run, why in ((inputs[side] or {}).get("inadmissible") or {}).items()
    ]
    more = [f"  not counted  and {len(found) - most} more runs"] if len(found) > most else []
    return found[:most] + more


def judge(evidence: Evidence, rules: Sequence[Rule]) -> Verdict:
    """Judge `evidence` by `rules`. Pure: the same input gives the same bytes."""
    results = tuple(_apply(rule, evidence) for rule in rules)
    outcomes = {r.outcome for r in results}
    word: Word = "FAIL" if "fail" in outcomes else "HOLD" if "hold" in outcomes else "PASS"
    if outcomes <= {"not_measured"}:
        word = "HOLD"
    inputs = {
        "candidate": _described(evidence.candidate),
        "baseline": None if evidence.baseline is None else _described(evidence.baseline),
        "rules_digest": digest_of([msgspec.to_builtins(r) for r in rules]),
    }
    return Verdict(verdict=word, rules=results, inputs=inputs)


def _described(side: Side) -> dict[str, Any]:
    return {
        "selection": side.selection,
        "runs": len(side.run_ids),
        "digest": side.digest,
        "simulated": side.simulated,
        "means": side.means,
        "undetermined": side.undetermined,
        "inadmissible": side.inadmissible,
    }


def _apply(rule: Rule, evidence: Evidence) -> RuleResult:
    if rule.kind in {"non_inferior", "ratio_ceiling"}:
        if evidence.baseline is None:
            return _missing(rule, "no baseline was given to compare with", hold=True)
        if rule.kind == "ratio_ceiling":
            return _ratio(rule, evidence.candidate, evidence.baseline)
        return _non_inferior(rule, evidence.candidate, evidence.baseline)
    return _level(rule, evidence.candidate)


def _missing(rule: Rule, why: str, *, hold: bool, n: int = 0) -> RuleResult:
    return _result(rule, "hold" if hold else "not_measured", None, n, why)


def _result(
    rule: Rule, outcome: Any, interval: Interval | None, n: int, reason: str, undetermined: int = 0
) -> RuleResult:
    return RuleResult(
        name=rule.name, outcome=outcome, reason=reason, n=n, undetermined=undetermined,
        estimate=None if interval is None else interval.estimate,
        low=None if interval is None else interval.low,
        high=None if interval is None else interval.high,
        metric=rule.metric, suite=rule.suite, kind=rule.kind, threshold=rule.threshold,
    )  # fmt: skip


# -- levels: a mean against a floor or a ceiling ---------------------------------------------------


def _level(rule: Rule, side: Side) -> RuleResult:
    if rule.metric == "score":
        cases = [_mean(o) for o in side.cases.get(rule.suite or "", {}).values()]
    else:
        values = side.runs[rule.metric].values()
        cases = [Outcome(value=v, low=v, high=v) for v in values]
    n, unknown = len(cases), sum(c.low != c.high for c in cases)
    if n == 0:
        return _missing(rule, f"no {_what(rule)} in the candidate", hold=rule.required)
    if n < rule.min_n:
        return _missing(
            rule, f"{n} of at least {rule.min_n} cases: too few to judge", hold=True, n=n
        )
    values_known = [c.value for c in cases if c.value is not None]
    low = wilson(fsum(c.low for c in cases) / n, n, confidence=rule.confidence).low
    high = wilson(fsum(c.high for c in cases) / n, n, confidence=rule.confidence).high
    if not values_known:
        return _missing(rule, f"none of {n} cases has a score", hold=True, n=n)
    interval = Interval(estimate=fsum(values_known) / len(values_known), low=low, high=high)
    return _decided(rule, interval, n, unknown)


def _decided(rule: Rule, i: Interval, n: int, unknown: int) -> RuleResult:
    limit = -rule.threshold if rule.kind == "non_inferior" else rule.threshold
    if rule.kind in {"floor", "non_inferior"}:
        outcome = "pass" if i.low >= limit else "fail" if i.high < limit else "hold"
        sign = "≥"
    else:
        outcome = "pass" if i.high <= limit else "fail" if i.low > limit else "hold"
        sign = "≤"
    said = {"pass": "holds", "fail": "is broken", "hold": "is not decided"}[outcome]
    bounded = f", {unknown} of them undetermined and bounded" if unknown else ""
    reason = (
        f"{_what(rule)} {_number(rule, i.estimate)} "
        f"[{_number(rule, i.low)}, {_number(rule, i.high)}] {sign} {_number(rule, limit)} {said} "
        f"on {n} {'pairs' if rule.kind in {'non_inferior', 'ratio_ceiling'} else 'cases'}{bounded}"
    )
    return _result(rule, outcome, i, n, reason, unknown)


def _number(rule: Rule, value: float) -> str:
    if rule.kind == "ratio_ceiling":
        return f"{value:.3g}×"
    return f"{value:+.1%}" if rule.kind == "non_inferior" else f"{value:.1%}"


def _what(rule: Rule) -> str:
    name = f"{rule.suite} score" if rule.metric == "score" else rule.metric
    return {"non_inferior": f"{name} difference", "ratio_ceiling": f"{name} ratio"}.get(
        rule.kind, name
    )


# -- pairs: candidate against baseline on the same cases -------------------------------------------


def _mean(outcomes: Sequence[Outcome]) -> Outcome:
    """Return one outcome for a case from its trials: the case, not the trial, is the unit."""
    n = len(outcomes)
    values = [o.value for o in outcomes if o.value is not None]
    return Outcome(
        value=fsum(values) / len(values) if values else None,
        low=fsum(o.low for o in outcomes) / n,
        high=fsum(o.high for o in outcomes) / n,
    )


def _non_inferior(rule: Rule, candidate: Side, baseline: Side) -> RuleResult:
    if rule.metric != "score":
        return _missing(rule, "non_inferior compares scores only", hold=True)
    ours = candidate.cases.get(rule.suite or "", {})
    theirs = baseline.cases.get(rule.suite or "", {})
    if not theirs:
        return _missing(
            rule, f"the baseline has no {rule.suite} scores", hold=rule.required or bool(ours)
        )
    if not ours:
        return _missing(rule, f"the candidate has no {rule.suite} scores", hold=True)
    pairs = [
        _pair(key, ours.get(key), outcomes, candidate, baseline) for key, outcomes in theirs.items()
    ]
    n, unknown = len(pairs), sum(p.low != p.high for p in pairs)
    if sum(key in ours for key in theirs) < rule.min_n:
        common = sum(key in ours for key in theirs)
        return _missing(
            rule, f"{common} of at least {rule.min_n} common cases", hold=True, n=common
        )
    known = [p.value for p in pairs if p.value is not None]
    if not known:
        return _missing(rule, f"none of {n} pairs is scored on both sides", hold=True, n=n)
    interval = Interval(
        estimate=fsum(known) / len(known),
        low=_paired([p.low for p in pairs], rule).low,
        high=_paired([p.high for p in pairs], rule).high,
    )
    return _decided(rule, interval, n, unknown)


def _paired(differences: Sequence[float], rule: Rule) -> Interval:
    better = fsum(d for d in differences if d > 0)
    worse = -fsum(d for d in differences if d < 0)
    return tango(better, worse, len(differences), confidence=rule.confidence)


def _pair(
    key: CaseKey, ours: Sequence[Outcome] | None, theirs: Sequence[Outcome], candidate: Side,
    baseline: Side,
) -> Outcome:  # fmt: skip
    """Return the difference candidate − baseline of one case, with the bounds it may have."""
    b = _mean(theirs)
    if ours is None:
        return Outcome(value=None, low=-b.high, high=1 - b.low)
    c = _mean(ours)
    value = None if c.value is None or b.value is None else c.value - b.value
    old, new = baseline.definitions.get(key), candidate.definitions.get(key)
    if old and new and old != new:
        return Outcome(value=value, low=-1.0, high=1.0)
    return Outcome(value=value, low=c.low - b.high, high=c.high - b.low)


def _ratio(rule: Rule, candidate: Side, baseline: Side) -> RuleResult:
    ours, theirs = _by_case(rule.metric, candidate), _by_case(rule.metric, baseline)
    if not ours and not theirs:
        return _missing(rule, f"{rule.metric} is known on neither side", hold=rule.required)
    ratios = [ours[k] / theirs[k] for k in theirs if k in ours and ours[k] > 0 and theirs[k] > 0]
    if len(ratios) < rule.min_n:
        return _missing(
            rule, f"{rule.metric} is known for {len(ratios)} of at least {rule.min_n} pairs",
            hold=True, n=len(ratios),
        )  # fmt: skip
    return _decided(rule, geometric_ratio(ratios, confidence=rule.confidence), len(ratios), 0)


def _by_case(metric: str, side: Side) -> dict[CaseKey, float]:
    found: dict[CaseKey, list[float]] = {}
    for run, value in side.runs[metric].items():
        found.setdefault(side.run_cases[run], []).append(value)
    return {key: fsum(values) / len(values) for key, values in found.items()}

"""Gate rules: reviewed text, checked before a single run is read.

Rule: a rule names an existing metric and a known kind, or it is refused; there is no default for
what a release may lose.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

import msgspec

from towerkit.core.assets import asset
from towerkit.core.errors import UsageError

Kind = Literal["floor", "ceiling", "non_inferior", "ratio_ceiling"]

# Metric -> what one value is. `suite` narrows `score`; the others are per run.
METRICS: dict[str, str] = {
    "score": "primary score of a case, 0 to 1, higher is better",
    "infrastructure_failure": "1 for a run that crashed by no fault of the agent",
    "inadmissible": "1 for a run whose pack cannot be counted",
    "contradicted": "1 for a run whose score disagrees with what it did",
    "over_budget": "1 for a run that ended because its budget was spent",
    "cost_usd": "what the agent's calls of a run cost, US dollars",
    "duration_s": "how long a run took on its own clock, seconds",
}
RATIO_METRICS = frozenset({"cost_usd", "duration_s"})


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One rule.

    `floor` and `ceiling` hold a mean against `threshold`; `non_inferior` holds the paired
    difference candidate − baseline against −`threshold`; `ratio_ceiling` holds the geometric mean
    of paired ratios against `threshold`. With `required` false, a rule that neither side has
    evidence for is shown as not measured and does not hold the release.
    """

    name: str
    metric: str
    kind: Kind
    threshold: float
    suite: Literal["golden", "adversarial"] | None = None
    min_n: int = 20
    confidence: float = 0.95
    required: bool = True


class _File(msgspec.Struct, forbid_unknown_fields=True):
    rule: list[Rule]


def load_rules(name: str) -> tuple[Rule, ...]:
    """Return the rules of `data/gates/NAME.toml`, or of a TOML file's path.

    Raises `UsageError` naming the file and what is wrong in it.
    """
    path = Path(name) if name.endswith(".toml") else asset("data", "gates", f"{name}.toml")
    try:
        rules = msgspec.convert(tomllib.loads(path.read_text()), _File).rule
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the rules file {path}: {error}") from None
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise UsageError(f"rules file {path}: {error}") from None
    if not rules:
        raise UsageError(f"rules file {path}: expected at least one [[rule]]")
    for rule in rules:
        problem = _problem(rule)
        if problem:
            raise UsageError(f"rules file {path}: rule {rule.name!r}: {problem}")
    if len({r.name for r in rules}) < len(rules):
        raise UsageError(f"rules file {path}: two rules have one name")
    return tuple(rules)


def _problem(rule: Rule) -> str | None:
    if rule.metric not in METRICS:
        return f"unknown metric {rule.metric!r}; known: {', '.join(METRICS)}"
    if (rule.metric == "score") != (rule.suite is not None):
        return "metric score needs a suite (golden or adversarial), other metrics take none"
    if (rule.kind == "ratio_ceiling") != (rule.metric in RATIO_METRICS):
        return f"kind ratio_ceiling goes with {' and '.join(sorted(RATIO_METRICS))} only"
    if not 0.5 < rule.confidence < 1 or rule.min_n < 2:
        return "expected confidence between 0.5 and 1, and min_n of at least 2"
    low, high = (1.0, 100.0) if rule.kind == "ratio_ceiling" else (0.0, 1.0)
    if not low <= rule.threshold <= high:
        return f"expected threshold between {low:g} and {high:g}, got {rule.threshold:g}"
    return None

"""The release gate: whether evidence is admissible, and what it allows.

Rule: a verdict is a pure function of packs, scores and rules. It never passes on what is missing:
an unknown outcome is bounded from both sides, and a rule passes only when both bounds do.
"""

from __future__ import annotations

from towerkit.gate.evidence import Evidence, Side, gather
from towerkit.gate.rules import METRICS, Rule, load_rules
from towerkit.gate.verdict import EXIT_CODES, RuleResult, Verdict, judge, left_out

__all__ = [
    "EXIT_CODES",
    "METRICS",
    "Evidence",
    "Rule",
    "RuleResult",
    "Side",
    "Verdict",
    "gather",
    "judge",
    "left_out",
    "load_rules",
]

"""Complete agents with real tools on a real database, each with its suites and scorer.

Rule: a scenario knows the guard only as `AgentRun`, and nothing here imports evals, replay or gate.
"""

from __future__ import annotations

from towerkit.core.errors import UsageError
from towerkit.scenarios import billing_dispute_resolution
from towerkit.scenarios.base import (
    SUITES,
    AgentRun,
    Case,
    Outcome,
    Scenario,
    Score,
    Suite,
    outcome_of,
)

__all__ = [
    "SCENARIOS",
    "SUITES",
    "AgentRun",
    "Case",
    "Outcome",
    "Scenario",
    "Score",
    "Suite",
    "load_scenario",
    "outcome_of",
]

SCENARIOS: dict[str, Scenario] = {s.name: s for s in (billing_dispute_resolution.SCENARIO,)}


def load_scenario(name: str) -> Scenario:
    """Return the scenario called `name`; raise `UsageError` listing those there are."""
    try:
        return SCENARIOS[name]
    except KeyError:
        raise UsageError(
            f"expected a scenario, got {name!r}; there are: {', '.join(sorted(SCENARIOS))}"
        ) from None

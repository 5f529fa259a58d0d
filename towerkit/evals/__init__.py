"""Measuring an agent: its suites, case by case, each run a pack and each pack a score.

Rule: a case is scored by what the run did to its world; a run that the infrastructure failed is
unscored, never failed. Golden and adversarial results never mix.
"""

from __future__ import annotations

from towerkit.evals.evaluate import CaseRun, Evaluation, ModelChoice, Setup, evaluate, run_case

__all__ = ["CaseRun", "Evaluation", "ModelChoice", "Setup", "evaluate", "run_case"]

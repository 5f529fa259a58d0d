"""The scenario under the real guard: the size of its trace and what faults do to it."""

from __future__ import annotations

from billing_desk import BILLING

from towerkit.core.env import VirtualEnv
from towerkit.runtime.tower import Tower
from towerkit.scenarios import outcome_of

FAULTS = [
    {"target": "tool:get_invoice", "at": [1], "kind": "slow", "delay_s": 30.0},
    {"target": "tool:list_payments", "at": [1], "kind": "error"},
    {"target": "model:sim-clerk-large", "at": [2, 3, 4, 5], "kind": "overloaded"},
]


def run_demo(store, faults=()):
    """Run the demonstration ticket under a tower; return the run and its first score."""
    case, env = BILLING.ticket(None), VirtualEnv(0)
    tower = Tower(store=store, models=BILLING.models(seed=0, env=env), budget_usd=0.5)
    with BILLING.world(case.world) as world:
        with tower.run(BILLING.name, task=case.task, env=env, faults=faults) as run:
            result = BILLING.agent(run, case.task, world, BILLING.prompt())
        return run, BILLING.score(case, world, outcome_of(result))[0]


def test_a_typical_ticket_makes_a_trace_one_can_read(tmp_path):
    """The demonstration ticket is resolved in 35 to 50 spans, four of them steps."""
    run, score = run_demo(tmp_path)
    spans = run.pack.frame("spans")
    assert score.value == 1.0
    assert 35 <= spans.height <= 50
    assert spans.filter(spans["kind"] == "step")["name"].to_list() == [
        "triage", "investigate", "resolve", "reply"]  # fmt: skip


def test_faults_are_survived_by_policy(tmp_path):
    """A slow tool, a failing tool and an overloaded model cost attempts, not the outcome."""
    run, score = run_demo(tmp_path, FAULTS)
    spans = run.pack.frame("spans")
    assert score.value == 1.0
    assert spans.filter(spans["kind"] == "attempt")["error_class"].drop_nulls().len() >= 3
    assert spans["fallback_tier"].max() == 1

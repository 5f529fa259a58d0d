"""Billing disputes: an agent that reads a ticket, looks into the ledger, acts and answers.

Rule: the agent's authority is written in the policy it reads by a tool; the ledger does not enforce
it, so exceeding it is possible and scored.
"""

from __future__ import annotations

from towerkit.scenarios.base import Scenario
from towerkit.scenarios.billing_dispute_resolution.agent import handle_ticket
from towerkit.scenarios.billing_dispute_resolution.scoring import score
from towerkit.scenarios.billing_dispute_resolution.simulated import simulated_models
from towerkit.scenarios.billing_dispute_resolution.suites import (
    load_suite,
    load_ticket,
    prompt_text,
)
from towerkit.scenarios.billing_dispute_resolution.tools import ToolError, policy_text, toolbox
from towerkit.scenarios.billing_dispute_resolution.world import NAME, open_world

SCENARIO = Scenario(
    name=NAME,
    summary="resolve billing disputes on a real ledger within the authority of a refund policy",
    world=open_world,
    tools=toolbox,
    agent=handle_ticket,
    prompt=prompt_text,
    policy=policy_text,
    models=simulated_models,
    suite=load_suite,
    ticket=load_ticket,
    score=score,
    exceptions=(ToolError,),
)

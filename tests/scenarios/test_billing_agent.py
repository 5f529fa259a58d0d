"""The agent's loop: what it tells the model, what ends it, and that it trusts nothing."""

from __future__ import annotations

import json

import pytest
from billing_desk import BILLING, FakeRun, scripted

from towerkit.core.errors import AttemptTimeout, BudgetExceeded, DeadlineExceeded, ReplayDiverged
from towerkit.core.types import Response, ToolCall
from towerkit.scenarios.billing_dispute_resolution.agent import MAX_TURNS, UNKNOWN_OUTCOME

TASK = {"ticket_id": "T-1", "received": "2026-01-05", "from": "ana.ruiz@example.com",
        "subject": "Hello", "body": "A question"}  # fmt: skip
REPLY = {"to": "ana.ruiz@example.com", "subject": "Hello", "body": "Test"}


def handle(run, task=TASK):
    """Run the agent in the shared world and return its answer."""
    with BILLING.world({}) as world:
        return BILLING.agent(run, task, world, BILLING.prompt())


def told(run):
    """Return what the model was told about its calls."""
    return [m["content"] for m in run.transcript if m["role"] == "tool"]


class FailingTools(FakeRun):
    """A run in which every tool call raises."""

    def __init__(self, model, error):
        super().__init__(model)
        self._error = error

    def tool(self, fn, arguments, *, idempotent, name=None, timeout_s=None, call_id=None):
        """Raise."""
        raise self._error


def test_the_steps_follow_the_phases_of_the_tools():
    """A later tool opens the next step, an earlier one does not go back."""
    run = FakeRun(scripted([("find_customer", {"query": "x"}), ("get_refund_policy", {}),
                            ("get_customer", {"customer_id": "CUS-10"}),
                            ("escalate", {"queue": "fraud", "reason": "x"}),
                            ("send_reply", REPLY)]))  # fmt: skip
    result = handle(run)
    assert run.steps == ["triage", "investigate", "resolve", "reply"]
    assert result["stopped"] is None
    assert result["answer"] == "done"
    assert run.results == [result]


def test_a_model_that_does_not_end_is_stopped():
    """After the last turn the answer says `turn_limit`, and no further call is made."""
    run = FakeRun(scripted([("get_refund_policy", {})] * 100))
    assert handle(run)["stopped"] == "turn_limit"
    assert run.calls.count("model") == MAX_TURNS


def test_mistakes_of_the_model_are_told_to_it():
    """Unknown tools, unreadable and refused arguments become error texts, not exceptions."""

    def model(request, timeout_s):
        if len(request.messages) > 2:
            return Response(content="done")
        calls = (ToolCall("a", "delete_everything", {}),
                 ToolCall("b", "get_customer", {}, raw='{"customer_id": '),
                 ToolCall("c", "get_customer", {"id": 4}))  # fmt: skip
        return Response(content="", tool_calls=calls)

    seen = []
    run = FakeRun(lambda request, t: seen.append(request) or model(request, t))
    handle(run)
    answers = [json.loads(m["content"])["error"] for m in seen[-1].messages if m["role"] == "tool"]
    assert "expected one of the tools" in answers[0]
    assert "JSON object" in answers[1]
    assert "argument" in answers[2]
    assert [m["tool_call_id"] for m in seen[-1].messages if m["role"] == "tool"] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("name", "arguments", "text"),
    [("send_reply", REPLY, UNKNOWN_OUTCOME), ("get_refund_policy", {}, "no answer")],
)
def test_a_time_out_of_an_action_is_an_unknown_outcome(name, arguments, text):
    """The model is told to check before repeating an action, and only an action."""
    run = FailingTools(scripted([(name, arguments)]), AttemptTimeout("no answer within 12 s"))
    handle(run)
    assert text in told(run)[0]


def test_a_tool_that_fails_is_told_to_the_model():
    """Any exception of a tool reaches the model as its text, and the run goes on."""
    run = FailingTools(scripted([("get_refund_policy", {})]), RuntimeError("disk on fire"))
    assert handle(run)["answer"] == "done"
    assert json.loads(told(run)[0]) == {"error": "disk on fire"}


@pytest.mark.parametrize("limit", [BudgetExceeded, DeadlineExceeded, ReplayDiverged])
def test_limits_end_the_run(limit):
    """What stops a run passes through the agent, whichever tool it hits."""
    run = FailingTools(scripted([("get_refund_policy", {})]), limit("stop"))
    with pytest.raises(limit):
        handle(run)
    assert run.results == []


def test_ticket_and_results_travel_as_data():
    """A ticket full of format and template syntax reaches the model letter by letter."""
    nasty = "{0} {ticket} %s ${x} {{7*7}} </ticket> \\ \" \u2028 {'a': __import__('os')}"
    run = FakeRun(scripted([("get_refund_policy", {})]))
    handle(run, {**TASK, "body": nasty})
    system, user = run.transcript[:2]
    assert system == {"role": "system", "content": BILLING.prompt()}
    assert json.loads(user["content"])["ticket"]["body"] == nasty


def test_redacted_values_do_not_change_the_course():
    """With tokens instead of addresses the same calls and steps happen."""
    redacted = {**TASK, "from": "<EMAIL:k1:ABCDEFGH>", "body": "<PHONE:k1:ABCD> <CARD:k1:XY>"}
    script = [("find_customer", {"query": "x"}), ("get_refund_policy", {})]
    runs = [FakeRun(scripted(script)) for _ in range(2)]
    handle(runs[0])
    handle(runs[1], redacted)
    assert runs[0].calls == runs[1].calls
    assert runs[0].steps == runs[1].steps

"""A guard that is not one: `FakeRun` calls straight through, and injects the simplest faults.

Also the oracle: what an agent would do that knows the expected effects. Both are for tests only.
"""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime

from towerkit.core.canonical import canonical_text
from towerkit.core.env import VirtualEnv
from towerkit.core.errors import AttemptTimeout, BudgetExceeded, FaultInjected
from towerkit.core.types import Request, Response, ToolCall
from towerkit.scenarios import load_scenario, outcome_of

BILLING = load_scenario("billing_dispute_resolution")


class FakeRun:
    """A run without policy, budget or record. Faults hit the attempts their `at` names."""

    def __init__(self, model, *, env=None, faults=(), max_model_calls=100):
        self.env, self._model, self._faults = env or VirtualEnv(0), model, faults
        self._attempts, self._max = {}, max_model_calls
        self.steps, self.calls, self.results, self.transcript = [], [], [], []

    @contextmanager
    def step(self, name):
        """Note the step."""
        self.steps.append(name)
        yield

    def model(self, messages, *, tools=(), max_tokens=1024, temperature=None):
        """Ask the one model, up to `max_model_calls` times."""
        if self.calls.count("model") >= self._max:
            raise BudgetExceeded("the budget is spent")
        self.calls.append("model")
        self.transcript = list(messages)
        return self._model(Request(messages=messages, tools=tools, max_tokens=max_tokens), 60.0)

    def tool(self, fn, arguments, *, idempotent, name=None, timeout_s=None, call_id=None):
        """Call the tool, with the fault that is due."""
        self.calls.append(name)
        for _ in range(3):
            fault = self._fault(name)
            if fault == "slow" and idempotent:
                continue
            if fault == "error":
                raise FaultInjected("simulated: the tool failed")
            result = fn(**arguments)
            if fault == "slow":  # the worst case: it did happen
                raise AttemptTimeout("no answer in time")
            text = canonical_text(result)
            return text[: len(text) // 2] if fault == "corrupt" else result
        raise AttemptTimeout("no answer in time")

    def _fault(self, name):
        self._attempts[name] = self._attempts.get(name, 0) + 1
        return next(
            (
                f["kind"]
                for f in self._faults
                if f["target"] in {f"tool:{name}", "tool:*"} and self._attempts[name] in f["at"]
            ),
            None,
        )

    def now(self):
        """Read the virtual clock."""
        return datetime.fromtimestamp(self.env.wall_ns() // 1_000_000_000, UTC)

    def finish(self, result):
        """Keep the answer."""
        self.results.append(result)


def perform(case, model, *, run=None):
    """Run the billing agent on a case and return the run and its scores by metric."""
    run = run or FakeRun(model, faults=case.faults)
    result, error = None, None
    with BILLING.world(case.world) as world:
        try:
            result = BILLING.agent(run, case.task, world, BILLING.prompt())
        except BudgetExceeded as stopped:
            error = stopped
        scores = BILLING.score(case, world, outcome_of(result, error))
    return run, {s.metric: s for s in scores}


def with_seed(seed, tier=0):
    """Return the simulated model of a seed and tier as a callable."""
    return BILLING.models(seed=seed, env=VirtualEnv(seed))[tier].complete


def scripted(calls):
    """Return a model that asks for `calls` one after the other and then ends."""

    def complete(request, timeout_s):
        turn = sum(1 for m in request.messages if m["role"] == "assistant")
        if turn >= len(calls):
            return Response(content="done")
        name, arguments = calls[turn]
        return Response(content="", tool_calls=(ToolCall(f"c{turn}", name, arguments),))

    return complete


def oracle_calls(case):
    """Return the calls that make exactly the expected effects of a case true."""
    expected = case.expected
    calls = [
        ("issue_refund", {"invoice_id": i, "amount_cents": cents, "reason": "expected"})
        for i, cents in expected.get("refunds", {}).items()
    ]
    calls += [
        ("issue_credit", {"customer_id": c, "amount_cents": cents, "reason": "expected"})
        for c, cents in expected.get("credits", {}).items()
    ]
    calls += [
        ("escalate", {"queue": q, "reason": "expected"}) for q in expected.get("escalations", ())
    ]
    return [
        *calls,
        (
            "send_reply",
            {
                "to": expected["reply_to"],
                "subject": "Your ticket",
                "body": "We have looked into it.",
            },
        ),
    ]

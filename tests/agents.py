"""A small agent, its tool and its models: fakes that tests of several floors share."""

from __future__ import annotations

from typing import Any

from towerkit.core.env import VirtualEnv
from towerkit.core.types import Request, Response, ToolCall, Usage
from towerkit.privacy.keys import simulated_redactor
from towerkit.runtime import models
from towerkit.runtime.run import Run
from towerkit.runtime.tower import Tower

SYSTEM = "You look orders up and answer in one sentence."


class LookupFailed(Exception):
    """What the tool raises for an order it does not have."""


def look_up(order: int) -> dict[str, Any]:
    """Return an order; 13 does not exist."""
    if order == 13:
        raise LookupFailed(f"no order {order}")
    return {"order": order, "state": "sent", "email": "ann@example.com"}


def thinker(env: VirtualEnv, *, usage: bool = True):
    """Return a model function that asks for the tool once and then answers."""

    def complete(request: Request) -> Response:
        env.sleep(0.4)
        counts = Usage(input_tokens=100 * len(request.messages), output_tokens=20)
        last = request.messages[-1]
        if last["role"] == "tool":
            return Response(
                content=f"It is {last['content'][:40]}", usage=counts if usage else None
            )
        call = ToolCall(id="c1", name="look_up", arguments={"order": 7})
        return Response(content="", tool_calls=(call,), finish_reason="tool_calls",
                        usage=counts if usage else None)  # fmt: skip

    return complete


def make_tower(store, *, seed=1, budget_usd=0.09, usage=True, **options) -> Tower:
    """Return a tower over two simulated models on one virtual clock."""
    env = VirtualEnv(seed)
    fn = thinker(env, usage=usage)
    chain = [
        models.function(fn, name=name, provider="simulated", simulated=True)
        for name in ("sim-clerk-large", "sim-clerk-small")
    ]
    options.setdefault("models", chain)
    return Tower(
        store=store, budget_usd=budget_usd, redactor=simulated_redactor(),
        environment=lambda: env, **options,
    )  # fmt: skip


def agent(run: Run, task: Any, *, system: str = SYSTEM, order: int = 7) -> None:
    """Handle one question: think, look up, answer."""
    messages = [
        {"role": "system", "content": system},
        {"role": "user", "content": str(task["question"])},
    ]
    with run.step("look"):
        reply = run.model(messages)
        messages.append(reply.as_message())
        try:
            found = str(
                run.tool(look_up, {"order": order}, idempotent=True, call_id="c1", timeout_s=12.0)
            )
        except LookupFailed as error:
            found = f"error: {error}"
    messages.append({"role": "tool", "tool_call_id": "c1", "content": found})
    answer = run.model(messages)
    run.finish({"answer": answer.content, "at": run.now().isoformat(), "n": run.random()})


# Whose code a run is of: the same for runs that are compared and opened by different modules.
CODE = {"agent_module": "tests.agents", "agent_digest": None}
TASK = {"question": "Where is order 7 of ann@example.com?"}


def recorded(store, *, faults=(), seed=1, **options):
    """Return the pack of one run of the agent."""
    order = options.pop("order", 7)
    tower = make_tower(store, seed=seed, **options)
    with tower.run("orders", task=TASK, faults=faults, identity=CODE) as run:
        agent(run, TASK, order=order)
    return run.pack

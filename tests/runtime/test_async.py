"""The same guard on an event loop: equal packs, clean cancellation, no lost permit."""

from __future__ import annotations

import asyncio

import pytest

from tests.agents import CODE, SYSTEM, TASK, agent, look_up, make_tower, recorded
from towerkit.core.env import SystemEnv
from towerkit.core.errors import AttemptTimeout, CallRefused, NoProgress
from towerkit.core.types import Model, Response
from towerkit.packs.summary import summarise
from towerkit.reliability.breaker import Limits
from towerkit.reliability.policy import Policy
from towerkit.replay import replay
from towerkit.runtime import models
from towerkit.runtime.tower import Tower

HELLO = [{"role": "user", "content": "hello"}]
FAULTS = [
    {"target": "model:sim-clerk-large", "at": [1, 2, 3], "kind": "overloaded"},
    {"target": "tool:look_up", "at": [1], "kind": "slow", "delay_s": 30},
]


async def aagent(run, task):
    """Do what `tests.agents.agent` does, awaiting."""
    messages = [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": str(task["question"])},
    ]
    with run.step("look"):
        reply = await run.amodel(messages)
        messages.append(reply.as_message())
        found = str(
            await run.atool(look_up, {"order": 7}, idempotent=True, call_id="c1", timeout_s=12.0)
        )
    messages.append({"role": "tool", "tool_call_id": "c1", "content": found})
    answer = await run.amodel(messages)
    run.finish({"answer": answer.content, "at": run.now().isoformat(), "n": run.random()})


@pytest.mark.parametrize("faults", [[], FAULTS])
def test_awaiting_or_not_the_pack_is_the_same(tmp_path, faults):
    """Every span, charge and tape row, retries and fallback included: one digest."""

    async def main():
        tower = make_tower(tmp_path / "a")
        with tower.run("orders", task=TASK, faults=faults, identity=CODE) as run:
            await aagent(run, TASK)
        return run.pack

    pack = asyncio.run(main())
    assert pack.digest == recorded(tmp_path / "b", faults=faults).digest
    assert replay(pack, agent).equal


def real(tmp_path, complete, **options):
    async def acomplete(request, timeout_s):
        return await complete()

    def never(request, timeout_s):
        raise AssertionError("the synchronous twin was called")

    chain = [Model(name="m", provider="p", complete=never, acomplete=acomplete)]
    return Tower(store=tmp_path, models=chain, environment=SystemEnv, **options)


def test_a_slow_await_is_cut_and_the_task_behind_it_cancelled(tmp_path):
    """The time-out is the tower's, and nothing goes on in the background."""
    ended = []

    async def slow():
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(True)

    async def main():
        tower = Tower(store=tmp_path)
        with tower.run("x") as run, pytest.raises(AttemptTimeout):
            await run.atool(slow, idempotent=False, timeout_s=0.02)
        return run.pack

    pack = asyncio.run(main())
    assert ended == [True]
    assert summarise(pack).errors == {"tool": 1}


def test_a_tools_own_time_out_is_its_own(tmp_path):
    """A TimeoutError that the tool raises is not the tower's time-out."""

    async def impatient():
        raise TimeoutError("mine")

    async def main():
        with Tower(store=tmp_path).run("x") as run, pytest.raises(TimeoutError, match="mine"):
            await run.atool(impatient, idempotent=False)

    asyncio.run(main())


def test_cancellation_ends_every_span_and_returns_the_permit(tmp_path):
    """Cancelled at any await: spans ended once, nothing reserved, the probe free again."""
    limits = Limits(window=2, min_calls=2, probes=1, open_s=0.0)

    async def hang():
        await asyncio.sleep(30)
        return Response(content="")

    async def main(delay):
        tower = real(tmp_path, hang, breaker=limits)
        run = tower.run("x")

        async def work():
            with run, run.step("s"):
                await run.amodel(HELLO)

        task = asyncio.create_task(work())
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return tower, run

    for delay in (0.005, 0.02):
        tower, run = asyncio.run(main(delay))
        manifest = run.pack.manifest
        assert manifest["status"] == "cancelled"
        assert manifest["spans"] == {"started": 4, "ended": 4, "aborted": 0, "dropped": 0}
        assert set(run.pack.frame("spans")["status"]) == {"cancelled"}
        assert run.ledger.reserved == 0
        assert not tower.breaker("model:p/m")._leases


def test_many_calls_at_once_keep_their_parents_and_their_money(tmp_path):
    """A thousand awaited calls: each has its span and attempt, nothing stays reserved."""

    async def quick():
        await asyncio.sleep(0)
        return Response(content="ok")

    async def main():
        with real(tmp_path, quick, budget_usd=5.0, policy=Policy(max_steps=2000)).run("x") as run:
            await asyncio.gather(*(run.amodel(HELLO) for _ in range(1000)))
        return run

    run = asyncio.run(main())
    spans = run.pack.frame("spans")
    assert spans.height == 1 + 2 * 1000
    assert spans.filter(kind="call")["parent_span_id"].n_unique() == 1
    assert spans.filter(kind="attempt")["parent_span_id"].n_unique() == 1000
    assert run.ledger.reserved == 0


def failing_model():
    calls = []

    def down(_request):
        calls.append(1)
        raise ConnectionRefusedError("nobody there")

    return calls, models.function(down, name="down")


def test_the_breaker_stops_calling_what_keeps_failing(tmp_path):
    """After it opened nothing is sent, the refusal is typed, recorded, and replays."""
    calls, down = failing_model()
    tower = make_tower(tmp_path, models=[down], breaker=Limits(window=4, min_calls=4))

    def stubborn(run, _task):
        for i in range(4):
            try:
                run.model([{"role": "user", "content": f"try {i}"}])
            except (ConnectionRefusedError, CallRefused) as error:
                run.finish(type(error).__name__)

    with tower.run("orders", task=TASK) as run:
        stubborn(run, TASK)
    assert len(calls) == run.pack.frame("spans").filter(kind="attempt").height == 4
    assert run.result == "CallRefused"
    assert "circuit_open" in run.pack.frame("inputs")["outcome"].to_list()
    assert summarise(run.pack).errors == {"infrastructure": 6}
    assert replay(run.pack, stubborn).equal


def test_an_open_breaker_moves_on_to_the_next_tier_without_a_request(tmp_path):
    """The second model answers at once and says why."""
    calls, down = failing_model()
    good = models.function(lambda _: "fine", name="good")
    tower = make_tower(tmp_path, models=[down, good], breaker=Limits(window=3, min_calls=3))
    with tower.run("x") as run:
        answers = [run.model(HELLO) for _ in range(4)]
    assert [a.tier for a in answers] == [1] * 4
    assert answers[-1].fallback_reason == "circuit_open"
    assert len(calls) == 3


def test_a_long_retry_after_throttles_the_key_for_every_call(tmp_path):
    """The next call does not ask again before its time: it goes to the other model."""
    seen = []

    class Slow(Exception):
        status_code, retry_after_s = 429, 500.0

        def __init__(self):
            super().__init__("too many")
            self.response = type("R", (), {"headers": {"retry-after": "500"}})()

    def limited(_request):
        seen.append(1)
        raise Slow

    good = models.function(lambda _: "fine", name="good")
    tower = make_tower(tmp_path, models=[models.function(limited, name="limited"), good])
    with tower.run("x") as run:
        first, second = run.model(HELLO), run.model(HELLO)
    assert (first.fallback_reason, second.fallback_reason) == ("rate_limited", "throttled_locally")
    assert len(seen) == 1


def test_an_agent_that_circles_is_stopped(tmp_path):
    """The same tool call with the same answer: the fourth is not made, the run is stopped."""
    calls = []

    def same(x):
        calls.append(x)
        return "no news"

    with (
        pytest.raises(NoProgress, match="same answer 3 times"),
        make_tower(tmp_path).run("x") as run,
    ):
        while True:
            run.tool(same, {"x": 1}, idempotent=True)
    assert len(calls) == 3
    assert (run.pack.manifest["status"], run.pack.manifest["error_class"]) == (
        "stopped",
        "no_progress",
    )


def test_the_retry_budget_of_a_tower_is_shared_and_replays(tmp_path):
    """When it is spent, a failing call is not tried again; the replay knows."""
    calls, down = failing_model()
    tower = make_tower(tmp_path, models=[down], breaker=Limits(min_calls=20))

    def eager(run, _task):
        for i in range(6):
            try:
                run.model([{"role": "user", "content": f"try {i}"}])
            except ConnectionRefusedError as error:
                run.finish(error.tower.decision)

    with tower.run("orders", task=TASK) as run:
        eager(run, TASK)
    assert run.result == "retry_budget"
    assert len(calls) == 6 + 4
    assert replay(run.pack, eager).equal

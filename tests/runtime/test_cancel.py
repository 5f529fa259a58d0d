"""Cancellation leaves no open span, no reservation and no permit, wherever it comes."""

from __future__ import annotations

import asyncio
import gc

import pytest

from tests.runtime.schedules import schedule
from towerkit.core.types import Model, Response, Usage
from towerkit.privacy.keys import simulated_redactor
from towerkit.reliability.breaker import Limits
from towerkit.reliability.policy import Policy
from towerkit.runtime.tower import Tower

HELLO = [{"role": "user", "content": "hello"}]


@pytest.mark.parametrize("block", range(20))
def test_cancelled_at_any_await_nothing_stays_open(tmp_path, block):
    """2,000 schedules of three interleaved agents, one of them cancelled somewhere."""
    done = [schedule(block * 100 + i, tmp_path) for i in range(100)]
    assert sum(cancelled for _, cancelled in done) > 40
    assert max(steps for steps, _ in done) > 40


async def slow(request, timeout_s):
    await asyncio.sleep(0.01)
    return Response(content="hi", usage=Usage(input_tokens=1, output_tokens=1))


def test_ten_thousand_calls_at_once(tmp_path):
    """No permit is lost, no task is left, and every call is answered; half are cancelled."""
    model = Model(name="m", provider="p", complete=lambda r, t: None, acomplete=slow,
                  simulated=True)  # fmt: skip
    policy = Policy(max_steps=10**6, attempt_timeout_s=60.0, max_stale=10**6)
    tower = Tower(store=tmp_path, models=[model], policy=policy, redactor=simulated_redactor(),
                  breaker=Limits(lease_s=1e9), durable=False)  # fmt: skip

    gc.collect()  # clients that earlier tests left make tasks when they are collected

    async def main():
        with tower.run("crowd") as run:
            tasks = [asyncio.ensure_future(run.amodel(HELLO)) for _ in range(10_000)]
            await asyncio.sleep(0)
            assert len(asyncio.all_tasks()) == 10_001  # a call needs no task of its own
            for task in tasks[::2]:
                task.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert len(asyncio.all_tasks()) == 1
        return run, answers

    run, answers = asyncio.run(main())
    assert sum(isinstance(a, Response) for a in answers) == 5_000
    assert sum(isinstance(a, asyncio.CancelledError) for a in answers) == 5_000
    counts = run.pack.manifest["spans"]
    # Half of the cancelled ones had begun when they were cancelled, or none: all that began ended.
    assert counts["started"] == counts["ended"]
    assert counts["dropped"] == 0
    assert run.ledger.reserved == 0
    assert not any(b._leases for b in tower._breakers.values())
    gc.collect()


def test_a_time_out_on_the_real_clock_is_not_a_cancellation(tmp_path):
    """The attempt is cut by us, the agent's task goes on; a cancellation from outside stays one."""

    async def never(request, timeout_s):
        await asyncio.Event().wait()

    model = Model(name="m", provider="p", complete=lambda r, t: None, acomplete=never)
    tower = Tower(store=tmp_path, models=[model], redactor=simulated_redactor(),
                  policy=Policy(attempt_timeout_s=0.05, max_attempts=1))  # fmt: skip

    async def timed_out():
        with tower.run("x") as run, pytest.raises(Exception, match="no answer within"):
            await run.amodel(HELLO)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)
        return run

    run = asyncio.run(timed_out())
    assert run.pack.frame("spans").filter(kind="attempt")["error_class"].to_list() == [
        "timeout_read"
    ]

    async def cancelled():
        with tower.run("y") as run:
            task = asyncio.ensure_future(run.amodel(HELLO))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        return run

    run = asyncio.run(cancelled())
    assert set(run.pack.frame("spans").filter(kind="attempt")["status"]) == {"cancelled"}

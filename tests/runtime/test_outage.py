"""A total outage through the whole guard: how many requests a dead provider still gets."""

from __future__ import annotations

import asyncio
import contextvars
import random

import pytest

from towerkit.core.env import VirtualEnv
from towerkit.core.errors import ControlError
from towerkit.core.types import Model, Response
from towerkit.privacy.keys import simulated_redactor
from towerkit.reliability.breaker import Limits
from towerkit.reliability.policy import Policy
from towerkit.runtime.tower import Tower

HELLO = [{"role": "user", "content": "hello"}]


class Provider:
    """Answers or not, and counts its hits."""

    def __init__(self, error_class=None):
        self.hits, self.down = 0, error_class

    async def complete(self, request, timeout_s):
        """Take a request."""
        self.hits += 1
        await asyncio.sleep(0)
        if self.down:
            raise ControlError("down", error_class=self.down)
        return Response(content="up")

    def model(self):
        """Return it as a tier."""
        return Model(name="m", provider="p", complete=lambda r, t: None, acomplete=self.complete,
                     simulated=True)  # fmt: skip


def crowd(tower, env, callers, seed):
    """Make `callers` calls, interleaved at random; return how many were answered."""
    rng, answered = random.Random(seed), 0

    async def call(run):
        nonlocal answered
        try:
            await run.amodel(HELLO)
            answered += 1
        except ControlError:
            pass

    with tower.run("crowd", env=env, keep=False) as run:
        waiting = [(call(run), contextvars.copy_context()) for _ in range(callers)]
        while waiting:
            at = rng.randrange(len(waiting))
            waiting[at], waiting[-1] = waiting[-1], waiting[at]
            coroutine, context = waiting[-1]
            try:
                context.run(coroutine.send, None)
            except StopIteration:
                waiting.pop()
    return answered


def a_tower(store, env, provider, **limits):
    policy = Policy(max_steps=10**9, max_stale=10**9, deadline_s=1e6)
    return Tower(store=store, models=[provider.model()], redactor=simulated_redactor(),
                 environment=lambda: env, policy=policy, breaker=Limits(**limits))  # fmt: skip


@pytest.mark.parametrize("error_class", ["overloaded", "connect_failed", "rate_limited"])
@pytest.mark.parametrize("callers", [1_000, 2_500])
def test_a_dead_provider_gets_at_most_a_fifth_more_requests_than_calls(
    tmp_path, error_class, callers
):
    """Even without a breaker, the retry budget keeps requests per call at 1.2."""
    env, provider = VirtualEnv(1), Provider(error_class)
    tower = a_tower(tmp_path, env, provider, window=10**6, min_calls=10**6)
    assert crowd(tower, env, callers, seed=callers) == 0
    assert callers <= provider.hits <= 1.2 * callers


def test_with_its_breaker_it_gets_hardly_any(tmp_path):
    """The breaker opens after ten, and what is sent later are probes."""
    env, provider = VirtualEnv(1), Provider("overloaded")
    tower = a_tower(tmp_path, env, provider)
    crowd(tower, env, 1_000, seed=1)
    assert provider.hits <= 1_000 * 0.2


def test_when_it_is_back_three_probes_go_first(tmp_path):
    """Of 2,200 callers that wait for a half-open breaker at once, three get through."""
    env, provider = VirtualEnv(1), Provider("overloaded")
    tower = a_tower(tmp_path, env, provider)
    crowd(tower, env, 50, seed=1)
    env.sleep(31.0)
    provider.hits, provider.down = 0, "timeout_read"
    with tower.run("probes", env=env, keep=False) as run:
        waiting = [run.amodel(HELLO) for _ in range(2_200)]
        reasons = []
        for call in waiting:  # each goes to its first await: those let through are in flight
            try:
                contextvars.copy_context().run(call.send, None)
            except ControlError as refused:
                reasons.append(refused.tower.error_class)
        assert provider.hits == 3
        assert reasons == ["circuit_open"] * 2_197
        for call in waiting:
            call.close()
    provider.down = None
    env.sleep(31.0)
    assert crowd(tower, env, 100, seed=2) > 0
    assert tower.breaker("model:p/m").state(env.mono_ns()) == "closed"

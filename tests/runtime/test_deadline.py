"""A deadline covers attempts, waits and fallbacks, whatever providers ask for."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agents import make_tower
from towerkit.core.env import VirtualEnv
from towerkit.core.types import Response
from towerkit.reliability.policy import Policy
from towerkit.runtime import models

ASKED = ("0", "1", "120", "86400", "-5", "Wed, 21 Oct 2026 07:28:00 GMT", "garbage", "1e999", "")


class ProviderError(Exception):
    """What an SDK raises: a status and the headers."""

    def __init__(self, status, asked):
        """Carry both."""
        super().__init__(f"status {status}")
        self.status_code = status
        headers = {"retry-after": asked} if asked else {}
        self.response = type("R", (), {"headers": headers, "status_code": status})()


attempts = st.tuples(
    st.floats(0, 40), st.sampled_from([200, 429, 500, 503, 529, 401, 400]), st.sampled_from(ASKED)
)


@settings(max_examples=1000, deadline=None)
@given(
    schedule=st.lists(attempts, min_size=1, max_size=12), deadline_s=st.floats(0.5, 90),
    timeout_s=st.floats(0.1, 30), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_no_schedule_of_failures_overruns_the_deadline(schedule, deadline_s, timeout_s, seed):
    """Calls go on until the run is stopped; its clock never passes the deadline."""
    left, env = list(schedule), VirtualEnv(seed)

    def provider(_request):
        latency, status, asked = left.pop(0) if left else (1.0, 200, "")
        env.sleep(latency)
        if status == 200:
            return Response(content="ok")
        raise ProviderError(status, asked)

    chain = [models.function(provider, name=n, provider=n) for n in ("a", "b")]
    policy = Policy(deadline_s=deadline_s, attempt_timeout_s=timeout_s)
    tower = make_tower("unused", models=chain, policy=policy)
    with tower.run("x", env=env, keep=False) as run:
        for _ in range(len(schedule)):
            with contextlib.suppress(Exception):
                run.model([{"role": "user", "content": "hello"}])
    assert env.mono_ns() <= deadline_s * 1e9 + 1
    assert run.ledger.reserved == 0
    spans = run.recorder.draft({}, salt_seed=b"").manifest["spans"]
    assert spans["dropped"] == spans["aborted"] == 0

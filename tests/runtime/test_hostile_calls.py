"""No object of the user's makes the guarded call behave otherwise than the bare one."""

from __future__ import annotations

import logging

import pytest

from tests.runtime.hostile import ERRORS, LEAVES, Gigabyte, compare
from towerkit.core.env import VirtualEnv
from towerkit.privacy.keys import simulated_redactor
from towerkit.reliability.breaker import Limits
from towerkit.reliability.policy import Policy
from towerkit.runtime.tower import Tower

OPEN = Policy(max_steps=10**9, max_repeats=10**9, deadline_s=1e9)


def a_tower(store):
    return Tower(store=store, policy=OPEN, redactor=simulated_redactor(), durable=False,
                 breaker=Limits(min_calls=21))  # fmt: skip


@pytest.mark.parametrize("block", range(10))
def test_the_agent_cannot_tell(tmp_path, block):
    """300 calls a block: the same object comes back, the same exception is raised, once."""
    logging.disable(logging.CRITICAL)
    try:
        with a_tower(tmp_path).run("x", env=VirtualEnv(1)) as run:
            for seed in range(block * 300, block * 300 + 300):
                compare(seed, run)
    finally:
        logging.disable(logging.NOTSET)
    run.pack.verify()
    counts = run.pack.manifest["spans"]
    assert counts["dropped"] == counts["aborted"] == 0
    assert Gigabyte.asked == 0


def test_with_the_journal_it_is_the_same(tmp_path):
    """On the real clock, in threads where a time-out is given, with everything journaled."""
    with a_tower(tmp_path).run("x") as run:
        for seed in range(10_000, 10_000 + 5 * max(len(LEAVES), len(ERRORS))):
            compare(seed, run)
    run.pack.verify()
    assert run.recorder.journal.error is None

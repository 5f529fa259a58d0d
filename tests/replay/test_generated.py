"""Generated agents: threads, tasks, streams, retries, cancels and budgets replay equal.

`tests/longer/replays.py` does the same a thousand times.
"""

from __future__ import annotations

import socket

import pytest
from generated import POLICY, TYPES, agent_of, program, record
from mutations import misnamed

from towerkit.replay import replay

SEEDS = range(24)


@pytest.fixture
def no_world(monkeypatch):
    """Fail on any connection, and have no key."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)

    def refuse(*_):
        raise AssertionError("a replay opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_went_by_chance_goes_the_same_way_again(tmp_path, no_world, seed):
    """Latencies, answers and failures were drawn; the replay has them all from the tape."""
    pack = record(tmp_path, seed)
    asynchronous, _, ops = program(seed)
    report = replay(pack, agent_of(asynchronous, ops), exceptions=TYPES, policy=POLICY)
    assert report.equal, report.lines()
    assert report.spans_replayed == pack.frame("spans").height
    assert report.inputs_replayed == pack.frame("inputs").height


@pytest.mark.parametrize("seed", [3, 4])
def test_one_changed_character_is_named_at_its_span(tmp_path, seed):
    """Prompts, names, arguments and order, at each call of a run."""
    tried, wrong = misnamed(record(tmp_path, seed), seed, POLICY)
    assert tried > 5
    assert wrong == []

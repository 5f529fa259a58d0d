"""A recorded run is re-run from its tape: equal, or different at exactly one place."""

from __future__ import annotations

import socket

import pytest

from tests.agents import SYSTEM, LookupFailed, agent, recorded
from towerkit.core.errors import UsageError
from towerkit.replay import replay, replay_scenario

FAULTS = [
    {"target": "model:sim-clerk-large", "at": [1, 2, 3], "kind": "overloaded"},
    {"target": "tool:look_up", "at": [1], "kind": "slow", "delay_s": 30},
]
TYPES = {"LookupFailed": LookupFailed}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Fail on any connection."""

    def refuse(*_):
        raise AssertionError("a replay opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize("faults", [[], FAULTS])
@pytest.mark.parametrize("order", [7, 13])
def test_an_unchanged_agent_replays_equal(tmp_path, faults, order):
    """Retries, fallbacks, time-outs, tool errors and readings come back from the tape."""
    pack = recorded(tmp_path, faults=faults, order=order)
    report = replay(pack, lambda run, task: agent(run, task, order=order), exceptions=TYPES)
    assert report.divergence is None
    assert report.equal
    assert report.spans_replayed == pack.frame("spans").height
    assert report.inputs_replayed == pack.frame("inputs").height


def test_the_task_comes_from_the_tape_redacted(tmp_path):
    """The agent is given what was recorded, with tokens in place of personal data."""
    seen = []

    def spy(run, task):
        seen.append(task)
        agent(run, task)

    assert replay(recorded(tmp_path), spy).equal
    assert "<EMAIL:sim:" in seen[0]["question"]


def test_one_changed_word_is_found_at_the_first_span_it_touches(tmp_path):
    """The report names the span, the message and the character, and shows both sides."""
    pack = recorded(tmp_path)
    changed = SYSTEM.replace("one sentence", "two sentences")
    report = replay(pack, lambda run, task: agent(run, task, system=changed))
    assert not report.equal
    d = report.divergence
    assert (d.seq, d.span) == (2, "chat sim-clerk-large")
    assert "message 0" in d.reason
    assert "one sentence" in d.recorded
    assert "two sentences" in d.replayed


def test_a_changed_tool_argument_is_found_at_the_tool(tmp_path):
    """The model call before it is equal; the tool call is the first difference."""
    report = replay(recorded(tmp_path), lambda run, task: agent(run, task, order=8))
    assert report.divergence.span == "execute_tool look_up"
    assert '"order":7' in report.divergence.recorded
    assert '"order":8' in report.divergence.replayed


def test_an_agent_that_does_less_or_more_diverges(tmp_path):
    """Missing and additional calls are differences, not silence."""
    pack = recorded(tmp_path)

    def less(run, task):
        with run.step("look"):
            pass

    def more(run, task):
        agent(run, task)
        run.model([{"role": "user", "content": "one more"}])

    for other, word in ((less, "look ends"), (more, "chat sim-clerk-large starts")):
        divergence = replay(pack, other).divergence
        assert divergence is not None
        assert word in f"{divergence.recorded} {divergence.replayed}"


def test_a_swallowed_divergence_is_still_reported(tmp_path):
    """An agent that catches everything cannot hide that it left the tape."""

    def stubborn(run, task):
        for i in range(3):
            try:
                run.model([{"role": "user", "content": f"try {i}"}])
            except Exception:
                continue

    report = replay(recorded(tmp_path), stubborn)
    assert not report.equal


def test_a_replay_leaves_the_store_alone(tmp_path):
    """No pack is written and none is changed."""
    pack = recorded(tmp_path)
    before = sorted(p.name for p in tmp_path.rglob("*"))
    replay(pack, agent)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_a_run_of_another_agent_cannot_be_re_run(tmp_path):
    """The sentence says what can."""
    with pytest.raises(UsageError, match="billing_dispute_resolution"):
        replay_scenario(recorded(tmp_path))


def test_a_pack_of_another_key_is_refused(tmp_path):
    """Its requests could not be recognised; the key's id is named."""
    pack = recorded(tmp_path)
    pack.manifest["redactor"]["key_id"] = "kother"
    with pytest.raises(UsageError, match="kother"):
        replay(pack, agent)

"""Replays of large packs: rows and content come in parts, equal spans are let go."""

from __future__ import annotations

from functools import partial

import pytest
from generated import POLICY, TYPES, agent_of, program, record
from mutations import misnamed

from tests.agents import make_tower
from towerkit.packs import encode, rows
from towerkit.packs.bodies import Bodies
from towerkit.replay import recording, replay
from towerkit.replay.agents import Agent
from towerkit.replay.follow import FollowingRecorder
from towerkit.replay.replay import Performance

TURNS = 60


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Make every pack a large one: parts of nine rows, forty bytes of content in memory."""
    monkeypatch.setattr(encode, "PAGE_ROWS", 9)
    monkeypatch.setattr(rows, "PART_ROWS", 9)
    monkeypatch.setattr(rows, "SMALL_ROWS", 0)
    monkeypatch.setattr(recording, "Bodies", partial(Bodies, held_bytes=40))


def look_up(order):
    """Return an order."""
    return {"order": order, "state": f"sent on day {order}"}


def worker(run, task, *, last="sent"):
    """Look up, ask and draw, turn after turn."""
    for i in range(task["turns"]):
        with run.step("turn"):
            found = run.tool(look_up, {"order": i}, idempotent=True)
            word = last if i == task["turns"] - 1 else "sent"
            run.model([{"role": "user", "content": f"{word}? {found} {run.random()}"}])
    run.finish({"done": task["turns"]})


@pytest.fixture
def pack(tmp_path):
    """Return the pack of a run with many turns."""
    tower = make_tower(tmp_path, budget_usd=None)
    with tower.run("worker", task={"turns": TURNS}) as run:
        worker(run, {"turns": TURNS})
    return run.pack


@pytest.mark.parametrize("seed", range(10))
def test_a_large_pack_replays_as_a_small_one(tmp_path, seed):
    """Threads, tasks, streams, retries, cancels and budgets, all from parts of tables."""
    pack = record(tmp_path, seed)
    asynchronous, _, ops = program(seed)
    report = replay(pack, agent_of(asynchronous, ops), exceptions=TYPES, policy=POLICY)
    assert report.equal, report.lines()


def test_one_changed_character_is_named_at_its_span(tmp_path):
    """What was let go before it comes back for the comparison."""
    tried, wrong = misnamed(record(tmp_path, 3), 3, POLICY)
    assert tried > 5
    assert wrong == []


def test_equal_spans_are_let_go(pack, monkeypatch):
    """While the run goes on memory holds the open spans and nothing of those that are over."""
    most = []
    take = FollowingRecorder._take_span

    def taking(self, span):
        take(self, span)
        most.append(len(self._kept))

    monkeypatch.setattr(FollowingRecorder, "_take_span", taking)
    act = Performance(pack, exceptions={}, policy=None, tower=None)
    report = act.of(worker)
    assert report.equal, report.lines()
    assert report.spans_replayed == len(most) == pack.frame("spans").height
    assert max(most) == 4  # the run, its step, a call and its attempt
    assert not act.tape.claimed
    assert not act.record.bodies()


def test_a_difference_at_the_end_is_found_there(pack):
    """Everything before it was let go, and is neither missing nor a difference."""
    report = replay(pack, lambda run, task: worker(run, task, last="lost"))
    assert not report.equal
    spans = pack.frame("spans")
    last = spans.filter(kind="call", gen_ai_operation_name="chat")["seq"].max()
    assert report.divergence.seq == last
    assert "character" in report.divergence.reason


def test_content_that_the_recording_has_is_not_kept_again(pack):
    """New content is; what was recorded is neither redacted again nor stored."""
    act = Performance(pack, exceptions={}, policy=None, tower=None)
    act.perform(Agent(lambda run, task: run.finish(["a new answer", task["turns"]])))
    assert list(act.record.bodies().values()) == [b'["a new answer",60]']

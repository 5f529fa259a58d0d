"""Commits happen behind the caller, in order, and readers do not notice."""

from __future__ import annotations

import threading

import pytest

from towerkit.packs import committer
from towerkit.packs.committer import BACKLOG, commit_later, wait_for_commits


@pytest.fixture(autouse=True)
def own(monkeypatch):
    """Give each test a committing thread of its own."""
    monkeypatch.setattr(committer, "_COMMITTER", committer._Committer())


def test_commits_are_made_in_order_and_waited_for(tmp_path):
    """A reader of that store sees all of them, and does not wait for another store's."""
    go, done = threading.Event(), []
    commit_later(tmp_path / "slow", lambda: go.wait(10))
    for i in range(5):
        commit_later(tmp_path / "s", lambda i=i: done.append(i))
    wait_for_commits(tmp_path / "third")
    assert done == []
    go.set()
    wait_for_commits(tmp_path / "s")
    assert done == [0, 1, 2, 3, 4]


def test_a_backlog_lets_the_next_one_in_as_soon_as_there_is_room(tmp_path):
    """Who comes when it is full waits for one commit, not for all of them."""
    steps, began = threading.Semaphore(0), threading.Event()

    def work():
        began.set()
        return steps.acquire(timeout=10)

    for _ in range(BACKLOG):
        commit_later(tmp_path, work)
    began.wait(10)
    late = threading.Thread(target=commit_later, args=(tmp_path, work))
    late.start()
    late.join(0.1)
    assert late.is_alive()
    steps.release()
    late.join(10)
    assert not late.is_alive()
    assert len(committer._COMMITTER._outstanding(str(tmp_path))) == BACKLOG
    for _ in range(BACKLOG):
        steps.release()
    wait_for_commits(tmp_path)


def test_a_commit_may_look_into_its_own_store(tmp_path):
    """The committing thread does not wait for itself."""
    assert commit_later(tmp_path, lambda: wait_for_commits(tmp_path)).result(10) is None


def test_when_the_interpreter_ends_the_work_is_done_here(tmp_path):
    """No thread takes work any more: the caller does it."""
    committer._COMMITTER._pool.shutdown()
    assert commit_later(tmp_path, threading.get_ident).result(0) == threading.get_ident()

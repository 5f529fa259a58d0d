"""What was recorded is on disk before the agent goes on, and a killed run becomes a pack."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from towerkit.cli import cli
from towerkit.core.env import VirtualEnv
from towerkit.packs.store import Store
from towerkit.packs.summary import summarise
from towerkit.privacy.keys import simulated_redactor
from towerkit.runtime import models
from towerkit.runtime.tower import Tower
from towerkit.telemetry import journal as journals
from towerkit.telemetry.journal import FRAME, MAGIC, Journal, records
from towerkit.telemetry.recover import recover

HELLO = [{"role": "user", "content": "hello ann@example.com"}]

# An agent that does three things, then is killed in the middle of the fourth.
KILLED = """
import os, signal, sys
from towerkit.privacy.keys import simulated_redactor
from towerkit.runtime import models
from towerkit.runtime.tower import Tower
tower = Tower(store=sys.argv[1], journal=sys.argv[2], redactor=simulated_redactor(),
              models=[models.function(lambda r: "hi bob@example.com", simulated=True)])
def die():
    print("dying", flush=True)
    if sys.argv[2] == "grouped":
        import threading; threading.Event().wait(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
with tower.run("doomed", task="write to ann@example.com") as run:
    with run.step("first"):
        run.model([{"role": "user", "content": "hello ann@example.com"}])
        run.tool(lambda order: {"order": order}, {"order": 7}, name="look_up", idempotent=True)
    run.now()
    with run.step("last"):
        run.tool(die, name="die", idempotent=False)
"""


def make_tower(store, **options):
    answer = models.function(lambda request: "hi", simulated=True)
    return Tower(store=store, models=[answer], redactor=simulated_redactor(), **options)


def killed(store, mode="sync"):
    done = subprocess.run([sys.executable, "-c", KILLED, str(store), mode],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "dying\n"), done.stderr


@pytest.mark.parametrize("mode", ["sync", "grouped"])
def test_a_killed_run_becomes_a_pack(tmp_path, mode):
    """Everything it had been told is there, what was open is aborted, and the pack holds."""
    killed(tmp_path, mode)
    assert list((tmp_path / "packs").glob("*/*")) == []
    done = CliRunner().invoke(cli, ["pack", "recover", "--store", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    (run_id,) = json.loads(done.output)["recovered"]
    pack = Store(tmp_path).pack(run_id)
    pack.verify()
    spans = {(s["kind"], s["name"]): s["status"] for s in pack.frame("spans").to_dicts()}
    assert spans == {
        ("run", "doomed"): "aborted", ("step", "first"): "ok", ("call", "chat function"): "ok",
        ("attempt", "chat function"): "ok", ("call", "execute_tool look_up"): "ok",
        ("attempt", "execute_tool look_up"): "ok", ("step", "last"): "aborted",
        ("call", "execute_tool die"): "aborted", ("attempt", "execute_tool die"): "aborted",
    }  # fmt: skip
    assert pack.manifest["status"] == "aborted"
    assert pack.manifest["spans"] == {"started": 9, "ended": 5, "dropped": 0, "aborted": 4}
    kinds = pack.frame("inputs")["kind"].to_list()
    assert kinds == ["task", "model", "tool", "clock"]
    assert summarise(pack).status == "aborted"
    assert not list((tmp_path / "journal").iterdir())


def test_recovering_again_finds_nothing(tmp_path):
    """And a journal whose pack is there already is only removed."""
    killed(tmp_path)
    (left,) = (tmp_path / "journal").iterdir()
    copy = left.read_bytes()
    first = [r.pack.digest for r in recover(Store(tmp_path), salt_seed=b"a")]
    assert list(recover(Store(tmp_path), salt_seed=b"b")) == []
    left.write_bytes(copy)
    again = list(recover(Store(tmp_path), salt_seed=b"b"))
    assert [r.pack.digest for r in again] == first
    assert not left.exists()


def test_no_secret_is_in_a_journal(tmp_path):
    """Content is redacted before it is written, the task and both sides of a call."""
    killed(tmp_path)
    (left,) = (tmp_path / "journal").iterdir()
    data = left.read_bytes()
    assert b"<EMAIL:" in data
    assert b"ann@" not in data
    assert b"bob@" not in data


def test_a_sealed_run_leaves_no_journal_and_a_living_one_is_left_alone(tmp_path):
    """Recovery does not touch a run that goes on."""
    with make_tower(tmp_path).run("alive") as run:
        run.model(HELLO)
        (path,) = (tmp_path / "journal").iterdir()
        kinds = [kind for kind, *_ in records(path)]
        assert kinds.count("close") == 2
        assert list(recover(Store(tmp_path), salt_seed=b"s")) == []
        assert path.exists()
    assert run.pack is not None
    assert not path.exists()


def test_a_simulated_run_has_no_journal(tmp_path):
    """It can be made again; so can a replay."""
    with make_tower(tmp_path).run("x", env=VirtualEnv(1)) as run:
        run.model(HELLO)
        assert not (tmp_path / "journal").exists()
    with make_tower(tmp_path, journal="off").run("x") as run:
        assert not (tmp_path / "journal").exists()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_torn_or_changed_journal_gives_what_came_before(tmp_path_factory, data):
    """Cut anywhere or with any byte changed: a prefix of the frames, never anything else."""
    folder = tmp_path_factory.mktemp("torn")
    log = Journal(folder, "r", mode="sync", durable=False)
    for i in range(5):
        log.add(("content", str(i), "text/plain", b"x" * i))
        log.add(("n", i))
        log.flush()
    log.close(remove=False)
    whole = log.path.read_bytes()
    every = list(records(log.path))
    assert len(every) == 10
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        log.path.write_bytes(whole[:at])
    else:
        log.path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
    found = list(records(log.path))
    assert found == every[: len(found)]
    assert len(found) < 10
    assert len(found) % 2 == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE,
                                    errno.EACCES, errno.EDQUOT])  # fmt: skip
@pytest.mark.parametrize("call", ["open", "write", "fdatasync", "close"])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_journal_that_cannot_be_written_stops_and_the_run_goes_on(
    tmp_path, monkeypatch, caplog, number, call, at
):
    """Nothing is raised into the agent, the pack is whole, and it is said."""
    real, calls = getattr(os, call), []

    def failing(*args, **kwargs):
        mine = threading.current_thread().name in {"MainThread", "towerkit-journal"}
        journal = str(args[0]).endswith(".journal") if call == "open" else args[0] in files
        if mine and journal:
            calls.append(call)
            if len(calls) > at:
                raise OSError(number, os.strerror(number))
        return real(*args, **kwargs)

    files = set()
    monkeypatch.setattr(journals, "GROUP_S", 0.001)
    tower = make_tower(tmp_path)
    run = tower.run("x")
    files.add(run.recorder.journal._file)
    monkeypatch.setattr(os, call, failing)
    if call == "open":
        run = tower.run("x")
    with run:
        for i in range(4):
            assert run.tool(lambda i=i: i, name="t", idempotent=True) == i
    monkeypatch.undo()
    assert run.pack.frame("spans").height == 9
    run.pack.verify()
    if call in {"open", "write"} and len(calls) > at:
        assert "stopped" in caplog.text
        assert run.recorder.journal.error.errno == number


def test_a_short_write_is_finished(tmp_path, monkeypatch):
    """A write that takes part of a frame is continued, not repeated."""
    log = Journal(tmp_path, "r", mode="sync", durable=False)
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
    log.add(("a", "b" * 50))
    log.flush()
    monkeypatch.undo()
    assert list(records(log.path)) == [("a", "b" * 50)]
    log.close(remove=True)


def test_a_forked_child_does_not_write_its_parents_journal(tmp_path):
    """What the child does under the run it inherited is in no file twice."""
    code = """
import os, sys
from towerkit.privacy.keys import simulated_redactor
from towerkit.runtime.tower import Tower
tower = Tower(store=sys.argv[1], redactor=simulated_redactor())
with tower.run("parent") as run:
    run.tool(lambda: 1, name="before", idempotent=True)
    child = os.fork()
    if child == 0:
        run.tool(lambda: 2, name="in_child", idempotent=True)
        os._exit(0)
    os.waitpid(child, 0)
    run.tool(lambda: 3, name="after", idempotent=True)
    names = [r[4] for r in __import__("towerkit.telemetry.journal").telemetry.journal.records(
        run.recorder.journal.path) if r[0] == "open"]
print(names)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert "in_child" not in done.stdout
    assert "after" in done.stdout


def test_a_file_that_is_no_journal_is_reported_and_kept(tmp_path):
    """One sentence a file, exit 1, nothing removed that holds something."""
    folder = tmp_path / "journal"
    folder.mkdir()
    payload = journals._encode([("run", {"nonsense": 1}), ("open", "a")])
    bad = folder / "x.journal"
    bad.write_bytes(MAGIC + FRAME.pack(len(payload), __import__("zlib").crc32(payload)) + payload)
    done = CliRunner().invoke(cli, ["pack", "recover", "--store", str(tmp_path)])
    assert done.exit_code == 1
    assert "x.journal" in done.output
    assert bad.exists()
    assert Path(bad).read_bytes().startswith(MAGIC)

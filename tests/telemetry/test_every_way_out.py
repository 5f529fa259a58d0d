"""However a run or a part of it is left, every span it started is ended once or counted."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import json
import signal
import subprocess
import sys
import threading

import pytest

from towerkit.packs.store import Store
from towerkit.privacy.keys import simulated_redactor
from towerkit.runtime import models
from towerkit.runtime.tower import Tower
from towerkit.telemetry.journal import records
from towerkit.telemetry.recover import recover

HELLO = [{"role": "user", "content": "hello"}]


def make_tower(store):
    answer = models.function(lambda request: "hi", simulated=True)
    return Tower(store=store, models=[answer], redactor=simulated_redactor())


def held(pack):
    """Hold that the pack has each span once, and return their statuses by name."""
    pack.verify()
    spans = pack.frame("spans")
    counts = pack.manifest["spans"]
    assert spans["span_id"].n_unique() == spans.height == counts["started"] - counts["dropped"]
    assert counts["started"] == counts["ended"] + counts["aborted"] + counts["dropped"]
    assert counts["dropped"] == 0
    return {(s["kind"], s["name"]): s["status"] for s in spans.to_dicts()}


PROLOGUE = """
import os, sys, signal, threading, json
from towerkit.privacy.keys import simulated_redactor
from towerkit.runtime import models
from towerkit.runtime.tower import Tower
answer = models.function(lambda request: "hi", simulated=True)
tower = Tower(store=sys.argv[1], models=[answer], redactor=simulated_redactor())
HELLO = [{"role": "user", "content": "hello"}]
def child_in(step):
    pid = os.fork()
    if pid:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return pid == 0
"""


def script(store, code, expected=0):
    done = subprocess.run([sys.executable, "-c", PROLOGUE + code, str(store)],
                          capture_output=True, text=True, check=False, timeout=60)  # fmt: skip
    assert done.returncode == expected, done.stderr
    return done


@pytest.mark.parametrize(
    ("leave", "code", "status"),
    [("sys.exit(3)", 3, "failed"), ("raise KeyboardInterrupt", 1, "cancelled"),
     ("raise SystemExit", 0, "failed")],
)  # fmt: skip
def test_leaving_the_interpreter_seals_the_run(tmp_path, leave, code, status):
    """The pack is there when the process has gone, though nobody asked for it."""
    script(tmp_path, f"""
with tower.run("x") as run, run.step("s"):
    run.model(HELLO)
    {leave}
""", expected=code)  # fmt: skip
    (pack,) = Store(tmp_path).packs()
    spans = held(pack)
    assert pack.manifest["status"] == status
    assert spans["call", "chat function"] == "ok"
    assert spans["step", "s"] != "ok"
    assert not list((tmp_path / "journal").iterdir())


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGTERM)", "os._exit(7)"])
def test_what_python_does_not_see_is_recovered(tmp_path, end):
    """SIGTERM without a handler, and _exit: what was open is aborted, what was over is over."""
    code = 7 if "_exit" in end else -signal.SIGTERM
    script(tmp_path, f"""
with tower.run("x") as run:
    run.model(HELLO)
    with run.step("s"):
        run.now()  # a step is written with what happens in it
        {end}
        threading.Event().wait(30)
""", expected=code)  # fmt: skip
    assert Store(tmp_path).packs() == []
    (found,) = recover(Store(tmp_path), salt_seed=b"s")
    assert held(found.pack) == {
        ("run", "x"): "aborted", ("call", "chat function"): "ok",
        ("attempt", "chat function"): "ok", ("step", "s"): "aborted",
    }  # fmt: skip


def test_a_run_that_ended_before_its_process_was_killed_keeps_its_end(tmp_path):
    """Killed between the end and the sealing: completed, not aborted."""
    script(tmp_path, """
from towerkit.packs import store
def never(*a, **k):
    os.kill(os.getpid(), signal.SIGKILL)
store.Store.commit = never
with tower.run("x") as run:
    run.model(HELLO)
run.pack
""", expected=-signal.SIGKILL)  # fmt: skip
    (found,) = recover(Store(tmp_path), salt_seed=b"s")
    assert set(held(found.pack).values()) == {"ok"}
    assert found.pack.manifest["status"] == "completed"
    assert found.pack.manifest["spans"]["aborted"] == 0


def test_what_began_and_ended_in_one_write_is_recovered(tmp_path):
    """With a grouped journal a short run is one write: no beginning stands in it alone."""
    script(tmp_path, """
from towerkit.packs import store
def never(*a, **k):
    run.recorder.journal.write()
    assert run.evidence_in_journal() == 3
    os.kill(os.getpid(), signal.SIGKILL)
store.Store.commit = never
tower.journal = "grouped"
from towerkit.telemetry.journal import span_ids
from towerkit.runtime.run import Run
Run.evidence_in_journal = lambda run: len(span_ids(run.recorder.journal.path))
with tower.run("x") as run:
    with run.step("s", {"n": 1}):
        pass
    with run.step("t"):
        pass
run.pack
""", expected=-signal.SIGKILL)  # fmt: skip
    (found,) = recover(Store(tmp_path), salt_seed=b"s")
    assert held(found.pack) == {("run", "x"): "ok", ("step", "s"): "ok", ("step", "t"): "ok"}
    assert found.pack.frame("spans")["attributes"].to_list()[1] == '{"n":1}'


def test_a_write_in_the_middle_of_an_end_does_not_end_the_span(tmp_path):
    """Another thread writes while a span is being ended: its end is written whole, after that."""
    tower = Tower(store=tmp_path, journal="grouped", durable=False)
    with tower.run("x") as run:
        journal, redactor = run.recorder.journal, run.recorder.redactor
        span = run.start_span("s", kind="step", operation="step", parent=run.here()[0])
        span.attributes = {"n": 1}

        def message(text):
            journal.write()  # as the writer may, at any moment
            return text

        redactor.message = message
        run.recorder.end(span, mono_ns=span.start_mono_ns + 5, status="error",
                         error_class="agent_bug", error_type="E", error_message="no")  # fmt: skip
        journal.write()
        ends = [r[1] for r in records(journal.path) if r[0] == "close"]
        assert [(end[0], end[12], end[13]) for end in ends] == [(span.span_id, 5, "error")]
        assert ends[0][8]["error_message"] == "no"
        del redactor.message


def test_a_fork_leaves_the_run_to_its_parent(tmp_path):
    """The child ends and seals nothing of it, says so once, and opens a run of its own."""
    done = script(tmp_path, """
import logging
logging.basicConfig(level="WARNING", format="%(message)s")
with tower.run("parent") as run, run.step("s"):
    run.model(HELLO)
    if child_in(run):
        assert tower.current() is None
        assert run.tool(lambda: 1, name="in_child", idempotent=True) == 1
        with tower.run("child") as own:
            own.model(HELLO)
        assert own.pack is not None
        print(json.dumps([run.evidence.spans_started, run.evidence.spans_dropped]))
        run.__exit__(None, None, None)
        sys.stdout.flush()
        os._exit(0)
    run.tool(lambda: 2, name="in_parent", idempotent=True)
assert run.pack is not None
""")  # fmt: skip
    assert json.loads(done.stdout) == [2, 2]
    assert done.stderr.count("another process's") == 1
    packs = {p.manifest["identity"]["scenario"]: held(p) for p in Store(tmp_path).packs()}
    assert set(packs) == {"parent", "child"}
    assert set(packs["parent"].values()) == {"ok"}
    assert ("call", "execute_tool in_parent") in packs["parent"]
    assert ("call", "execute_tool in_child") not in packs["parent"]


def test_fifty_forks_write_nothing_twice(tmp_path):
    """Children that go on in the parent's code, while its spans are open and its writer is busy."""
    script(tmp_path, """
for i in range(50):
    with tower.run("parent") as run:
        run.model(HELLO)
        with run.step("s"):
            pid = os.fork()
            run.tool(lambda: 1, name="both", idempotent=True)
    if pid == 0:
        os._exit(0 if run.pack is None else 9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert run.pack is not None
""")  # fmt: skip
    packs = Store(tmp_path).packs()
    assert len(packs) == 50
    assert all(set(held(pack).values()) == {"ok"} for pack in packs)
    assert list(recover(Store(tmp_path), salt_seed=b"s")) == []


def test_threads_and_executors(tmp_path):
    """Each thread's calls are in the run, below its root or the step they were carried into."""
    with make_tower(tmp_path).run("x") as run, run.step("s"):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: run.tool(lambda: i, name=f"t{i}", idempotent=True), range(20)))
        asyncio.run(asyncio.to_thread(run.tool, lambda: 1, name="carried", idempotent=True))
    spans = held(run.pack)
    assert set(spans.values()) == {"ok"}
    rows = {s["name"]: s for s in run.pack.frame("spans").filter(kind="call").to_dicts()}
    (step,) = run.pack.frame("spans").filter(kind="step").to_dicts()
    assert rows["execute_tool carried"]["parent_span_id"] == step["span_id"]
    assert len(rows) == 21


def test_a_thread_that_outlives_the_run(tmp_path, caplog):
    """Its open spans are aborted in the pack; what it says later is counted, once aloud."""
    go, started = threading.Event(), threading.Event()

    def late():
        started.set()
        go.wait(10)
        return 1

    with make_tower(tmp_path).run("x") as run:
        thread = threading.Thread(target=run.tool, args=(late,), kwargs={"idempotent": True})
        thread.start()
        started.wait(10)
    spans = held(run.pack)
    assert spans["call", "execute_tool late"] == spans["attempt", "execute_tool late"] == "aborted"
    go.set()
    thread.join()
    assert run.evidence.spans_dropped == 0
    assert any("not recorded" in r.message for r in caplog.records)
    assert run.evidence.problems


def test_generators_that_are_abandoned(tmp_path):
    """A stream that is dropped, and a step inside a generator that is collected."""

    def steps(run):
        with run.step("inside"):
            yield 1

    with make_tower(tmp_path).run("x") as run:
        stream = run.stream(HELLO)
        next(stream, None)
        del stream
        inside = steps(run)
        next(inside)
        del inside
        gc.collect()
    spans = held(run.pack)
    assert spans["step", "inside"] == "cancelled"
    assert "aborted" not in spans.values()


def test_cancellation(tmp_path):
    """A cancelled task ends its spans as cancelled."""

    async def forever():
        await asyncio.Event().wait()

    async def main(run):
        task = asyncio.create_task(run.atool(forever, idempotent=True))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with make_tower(tmp_path).run("x") as run:
        asyncio.run(main(run))
    spans = held(run.pack)
    assert spans["call", "execute_tool forever"] == "cancelled"
    assert spans["attempt", "execute_tool forever"] == "cancelled"


def test_a_defect_of_sealing_is_said_though_nobody_asks_for_the_pack(tmp_path, caplog, monkeypatch):
    """The agent goes on, the log has the traceback, and the journal has the run."""
    tower = make_tower(tmp_path)

    def broken(*_, **__):
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(type(tower.store), "commit", broken)
        with tower.run("x") as run:
            run.model(HELLO)
        run._sealing.exception(10)
    assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [ZeroDivisionError]
    run.recorder.journal.close(remove=False)
    (found,) = recover(Store(tmp_path), salt_seed=b"s")
    assert found.pack.manifest["status"] == "completed"

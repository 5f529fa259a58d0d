"""Agents whose I/O fails, tears or is killed at a call of our choosing, and what they leave.

A server process has the injector preloaded and everything imported; each case is a fork of it, so a
case costs milliseconds. The child says on a pipe which spans it was told are over.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODES = {"count": 0, "errno": 1, "errno_sticky": 2, "kill": 3, "torn": 4, "short": 5}


def build(folder):
    """Compile the injector; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None
    made = Path(folder) / "inject.so"
    source = str(HERE / "inject.c")
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", str(made), source, "-ldl"], check=True
    )
    return made


class Rig:
    """The server; `case` runs one agent in a fork of it."""

    def __init__(self, injector, *, journal="sync"):
        """Start it; `journal` is the tower's mode."""
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "rig.py"), str(injector), journal],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"LD_PRELOAD": str(injector)},
        )  # fmt: skip
        assert self._process.stdout.readline() == "ready\n"

    def case(self, store, mode, number, *, error=0):
        """Run the agent with its `number`-th I/O call below `store` failing as `mode` says.

        Returns {"status": the child's exit status, "acked": [span, …], "answers": […], "seen":
        I/O calls, "evidence": {…}}; what a killed child did not say is missing.
        """
        asked = {"store": str(store), "mode": mode, "number": number, "error": error}
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self):
        """End the server."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


# -- in the server ---------------------------------------------------------------------------------


def agent(tower, say):
    """Use every way to make a span; `say` what was acknowledged after each."""
    answers = []

    def told():
        say({"acked": [s.seq for s in list(run.recorder._spans) if s.ended]})

    def broken():
        raise ValueError("no such order")

    with tower.run("doomed", task="write to ann@example.com") as run:
        with run.step("first"):
            answers.append(
                run.model([{"role": "user", "content": "hello ann@example.com"}]).content
            )
            told()
            answers.append(run.tool(lambda order: {"order": order}, {"order": 7}, name="look_up",
                                    idempotent=True))  # fmt: skip
        told()
        answers.append("".join(run.stream([{"role": "user", "content": "again"}])))
        told()
        try:
            run.tool(broken, name="broken", idempotent=False)
        except ValueError as error:
            answers.append(str(error))
        told()
        run.finish("done")
    told()
    say({"answers": answers, "pack": None if run.pack is None else run.pack.digest})
    told_of = run.evidence
    say({"evidence": {"started": told_of.spans_started, "in_pack": told_of.spans_in_pack,
                      "in_journal": told_of.spans_in_journal, "dropped": told_of.spans_dropped,
                      "problems": list(told_of.problems)}})  # fmt: skip


def make_tower(store, journal):
    """Return a tower with a model that answers in pieces."""
    from towerkit.core.types import Model, Response
    from towerkit.privacy.keys import simulated_redactor
    from towerkit.runtime.tower import Tower

    def stream(request, timeout_s):
        yield from ("It ", "was ", "sent.")
        yield Response(content="It was sent.")

    model = Model(name="m", provider="simulated", simulated=True, stream=stream,
                  complete=lambda request, timeout_s: Response(content="hello"))  # fmt: skip
    return Tower(store=store, models=[model], redactor=simulated_redactor(), journal=journal)


def child(injector, pipe, asked, journal):
    """Run the agent with its fault; never returns."""

    def say(what):
        os.write(pipe, (json.dumps(what) + "\n").encode())

    try:
        tower = make_tower(asked["store"], journal)
        injector.inject_arm(
            MODES[asked["mode"]], asked["number"], asked["error"], asked["store"].encode()
        )
        agent(tower, say)
        say({"seen": injector.inject_seen()})
    except BaseException as error:
        say({"raised": repr(error)})
        os._exit(1)
    os._exit(0)


def serve(path, journal):
    """Warm up, then fork an agent for each line of standard input."""
    import logging

    logging.getLogger("towerkit").addHandler(logging.NullHandler())
    injector = ctypes.CDLL(path)
    with tempfile.TemporaryDirectory() as scratch:
        agent(make_tower(scratch, "off"), lambda _: None)
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            child(injector, theirs, asked, journal)
        os.close(theirs)
        with os.fdopen(ours) as said:
            lines = said.read().splitlines()
        _, status = os.waitpid(pid, 0)
        answer = {"acked": []}
        for text in lines:
            answer |= json.loads(text)
        answer["status"] = os.waitstatus_to_exitcode(status)
        print(json.dumps(answer), flush=True)


KILLED = -signal.SIGKILL

if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2])

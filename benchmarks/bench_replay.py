"""What a replay costs beside the run it repeats, and how long a thousand take.

`one`: CPU of replaying a run, over the CPU of recording it with a journal and a pack, as the least
of interleaved rounds; a longer run and a shorter one give the slope and the constant. Twice: with a
model that takes no CPU at all, the worst case for the ratio, and with the openai adapter, which
asks a local server in another process.
`many`: wall seconds of `replay --all` over a store of RUNS runs, in one process a processor.
`long`: peak memory, in its own process, of replaying one run with ROWS readings on its tape, and
one with CALLS turns of two calls. `--rows 1000000` makes and replays the million of the goal (five
minutes). Prints one JSON line each.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openai import OpenAI

from towerkit.core.types import Model, Response, Usage
from towerkit.faults.server import FaultServer
from towerkit.packs.reader import open_pack
from towerkit.packs.store import Store
from towerkit.reliability.policy import Policy
from towerkit.replay import replay
from towerkit.replay.every import every
from towerkit.runtime import models
from towerkit.runtime.tower import Tower

HERE = f"{Path(__file__).resolve()}:agent"


def look_up(order: int) -> dict[str, Any]:
    """Return an order."""
    return {"order": order, "email": f"ann{order}@example.com", "state": "sent"}


def answer(_: Any) -> Response:
    """Return an answer."""
    return Response(content="It was sent.", usage=Usage(input_tokens=90, output_tokens=5))


def agent(run: Any, task: dict[str, int]) -> None:
    """Think and look up, as often as the task says."""
    for i in range(task["turns"]):
        with run.step("turn"):
            found = run.tool(look_up, {"order": i}, idempotent=True)
            run.model([{"role": "user", "content": f"{found} {task['n']}"}])


def noter(run: Any, task: dict[str, int]) -> None:
    """Read the clock's like, as often as the task says."""
    for _ in range(task["rows"]):
        run.random()


def made(store: str) -> Tower:
    """Return the tower."""
    return Tower(store=store, models=[models.function(answer)], durable=True)


def served(pipe: Any) -> None:
    """Serve answers in a process of its own until told to stop."""
    with FaultServer() as server:
        pipe.send(server.openai_base_url)
        pipe.recv()


@contextmanager
def model_over_http() -> Iterator[Model]:
    """Yield a model of the openai adapter, answered from another process."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=served, args=(there,))
    process.start()
    try:
        client = OpenAI(base_url=here.recv(), api_key="none")
        yield models.openai("gpt-4o-mini", client=client)
    finally:
        here.send("stop")
        process.join()


def recorded(tower: Tower, turns: int, n: int) -> Any:
    """Record a run; return its pack."""
    task = {"turns": turns, "n": n}
    with tower.run("bench", task=task) as run:
        agent(run, task)
    return run.pack


def one(rounds: int, model: Model, of: str) -> dict[str, Any]:
    """Return CPU of both sides for a short and a long run."""
    cpu: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as store:
        tower = Tower(store=store, models=[model], durable=True)
        for n in range(rounds + 1):
            for turns in (5, 50):
                start = time.process_time()
                pack = recorded(tower, turns, n)
                middle = time.process_time()
                report = replay(pack, agent)
                end = time.process_time()
                assert report.equal, report.lines()
                if n:  # the first round imports
                    cpu.setdefault(("record", turns), []).append(middle - start)
                    cpu.setdefault(("replay", turns), []).append(end - middle)
    ms = {key: 1000 * min(values) for key, values in cpu.items()}
    slopes = {s: (ms[s, 50] - ms[s, 5]) / 45 for s in ("record", "replay")}
    return {
        "bench": "replay one", "model": of, "rounds": rounds,
        **{f"{side}_{turns}_turns_cpu_ms": round(v, 2) for (side, turns), v in ms.items()},
        "replay_constant_ms": round(ms["replay", 5] - 5 * slopes["replay"], 2),
        "ratio": round(slopes["replay"] / slopes["record"], 2),
    }  # fmt: skip


def many(runs: int) -> dict[str, Any]:
    """Return how long it takes to replay many runs."""
    with tempfile.TemporaryDirectory() as store:
        tower = made(store)
        for n in range(runs):
            recorded(tower, 10, n)
        tower.store.packs()
        start = time.perf_counter()
        report = every(Store(store), "scenario=bench", agent=HERE)
        took = time.perf_counter() - start
        assert report.good, report.lines()
    return {"bench": "replay many", "runs": runs, "processes": os.cpu_count(),
            "seconds": round(took, 1)}  # fmt: skip


def long_(what: str, task: dict[str, int]) -> dict[str, Any]:
    """Return peak memory and seconds of a replay in a process of its own."""
    policy = Policy(max_steps=1_000_000_000, deadline_s=86_400)
    with tempfile.TemporaryDirectory() as store:
        tower = Tower(store=store, models=[models.function(answer)], durable=True, policy=policy)
        with tower.run("bench", task=task) as run:
            AGENTS[what](run, task)
        pack = run.pack
        out = subprocess.run(
            [sys.executable, __file__, "--of", str(pack.folder), "--agent", what],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    return {
        "bench": f"replay long {what}", "tape_rows": pack.manifest["tables"]["inputs"]["rows"],
        "spans": pack.manifest["tables"]["spans"]["rows"], **json.loads(out.stdout),
    }  # fmt: skip


def replayed(folder: str, what: str) -> dict[str, float]:
    """Replay a pack; return the peak memory of this process and how long it took."""
    start = time.perf_counter()
    policy = Policy(max_steps=1_000_000_000, deadline_s=86_400)
    report = replay(open_pack(Path(folder)), AGENTS[what], policy=policy)
    assert report.equal, report.lines()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mb": round(peak, 1), "seconds": round(time.perf_counter() - start, 1)}


AGENTS = {"readings": noter, "calls": agent}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--only", choices=("one", "many", "long"), help="one of the three")
    parser.add_argument("--of", help="replay this pack and print the peak memory")
    parser.add_argument("--agent", choices=tuple(AGENTS), help="whose run that is")
    given = parser.parse_args()
    if given.of:
        print(json.dumps(replayed(given.of, given.agent)))
        return

    def over_http() -> dict[str, Any]:
        with model_over_http() as model:
            return one(given.rounds, model, "openai over HTTP")

    benches: dict[str, list[Callable[[], dict[str, Any]]]] = {
        "one": [lambda: one(given.rounds, models.function(answer), "a function"), over_http],
        "many": [lambda: many(given.runs)],
        "long": [
            lambda: long_("readings", {"rows": given.rows}),
            lambda: long_("calls", {"turns": given.calls, "n": 1}),
        ],
    }
    for name, bench in benches.items():
        for figure in bench if given.only in {None, name} else ():
            print(json.dumps(figure()), flush=True)


if __name__ == "__main__":
    main()

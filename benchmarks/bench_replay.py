"""What a replay costs beside the run it repeats, and how long a thousand take.

`one`: CPU of replaying a run, over the CPU of recording it with a journal and a pack, as a median
of interleaved rounds; a longer run and a shorter one give the slope and the constant. The recorded
run's models and tools take no CPU of their own here, which is the worst case for the ratio.
`many`: wall seconds of `replay --all` over a store of RUNS runs, in one process a processor.
`long`: peak memory of replaying one run with ROWS readings on its tape. Prints one JSON line each.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from towerkit.core.types import Response, Usage
from towerkit.packs.store import Store
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


def recorded(tower: Tower, turns: int, n: int) -> Any:
    """Record a run; return its pack."""
    task = {"turns": turns, "n": n}
    with tower.run("bench", task=task) as run:
        agent(run, task)
    return run.pack


def one(rounds: int) -> dict[str, Any]:
    """Return CPU of both sides for a short and a long run."""
    cpu: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as store:
        tower = made(store)
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
    ms = {key: 1000 * statistics.median(values) for key, values in cpu.items()}
    slopes = {s: (ms[s, 50] - ms[s, 5]) / 45 for s in ("record", "replay")}
    return {
        "bench": "replay one", "rounds": rounds,
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


def long_(rows: int) -> dict[str, Any]:
    """Return peak memory of a replay in a process of its own."""
    with tempfile.TemporaryDirectory() as store:
        with made(store).run("bench", task={"rows": rows}) as run:
            noter(run, {"rows": rows})
        folder = str(run.pack.folder)
        out = subprocess.run(
            [sys.executable, __file__, "--of", folder], capture_output=True, text=True, check=True
        )
    return {"bench": "replay long", "rows": rows, "peak_mb": float(out.stdout)}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--of", help="replay this pack and print the peak memory")
    given = parser.parse_args()
    if given.of:
        from towerkit.packs.reader import open_pack

        assert replay(open_pack(Path(given.of)), noter).equal
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    print(json.dumps(one(given.rounds)), flush=True)
    print(json.dumps(many(given.runs)), flush=True)
    print(json.dumps(long_(given.rows)), flush=True)


if __name__ == "__main__":
    main()

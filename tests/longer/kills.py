"""Kills at random I/O calls of an agent: torn packs, and acknowledged spans that were lost.

Run: `python tests/longer/kills.py` (10,000 kills, some twenty minutes on two cores; `--kills N`).
Half are SIGKILL before the call, half in the middle of it. Prints one JSON line, exits 1 when a
store did not hold.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "io_faults"))

from checks import check_killed
from rig import KILLED, Rig, build


def batch(injector: str, seed: int, cases: int) -> tuple[int, int, list[str]]:
    """Return how many agents were killed, how many spans they were told of, and what failed."""
    rng = random.Random(seed)
    rig = Rig(injector)
    calls = 48
    killed = acked = 0
    failures = []
    for _ in range(cases):
        mode, number = rng.choice(["kill", "torn"]), rng.randint(1, calls)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "store"
            done = rig.case(folder, mode, number)
            killed += done["status"] == KILLED
            acked += len(done["acked"])
            try:
                check_killed(folder, done)
            except Exception as error:
                failures.append(f"{mode} at {number}: {error!r}")
                shutil.copytree(folder, Path(tempfile.mkdtemp()) / "store")
    rig.close()
    return killed, acked, failures


def main() -> int:
    """Run the batches on two processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10_000)
    options = parser.parse_args()
    killed = acked = seed = 0
    failures: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        injector = build(scratch)
        if injector is None:
            sys.exit("no C compiler: apt-get install gcc")
        with ProcessPoolExecutor(2) as pool:
            while killed < options.kills and not failures:
                # The last batches are small: a run past the last call kills nothing.
                size = max(1, min(250, (options.kills - killed) // 2))
                jobs = [pool.submit(batch, str(injector), seed + i, size) for i in range(2)]
                seed += 2
                for job in jobs:
                    more, told, wrong = job.result()
                    killed, acked, failures = killed + more, acked + told, failures + wrong
    print(json.dumps({"kills": killed, "acknowledged_spans": acked, "failures": failures[:20]}))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

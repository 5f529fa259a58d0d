"""How fast recorded runs become packs, beside the floor of only decompressing and parsing them.

Prints one JSON line. `ratio` is ingest over floor, from medians of interleaved rounds, so that a
busy machine slows both. Run: `python benchmarks/bench_ingest.py [--rounds N] [--jobs N]`.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import statistics
import tempfile
from pathlib import Path

from towerkit.core.env import SystemEnv
from towerkit.ingest import ingest
from towerkit.packs.store import Store
from towerkit.privacy.keys import simulated_redactor

DATA = Path(
    os.environ.get("TOWERKIT_REAL_DATA")
    or Path(__file__).resolve().parent.parent.parent / "shared" / "data"
)


def floor(paths: list[Path]) -> int:
    """Decompress and parse every file; return the number of runs."""
    return sum(len(json.loads(lzma.decompress(path.read_bytes()))) for path in paths)


def admit(paths: list[Path], folder: Path, jobs: int) -> int:
    """Admit every file into a new store; return the number of runs imported."""
    reports = [
        ingest(
            Store(folder), path, format="tau-bench", release=path.name.partition(".json")[0],
            redactor=simulated_redactor(), jobs=jobs,
        )
        for path in paths
    ]  # fmt: skip
    assert not any(r.errors for r in reports)
    return sum(r.imported for r in reports)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    paths = sorted(DATA.glob("tau_retail/*.json.xz"))
    if not paths:
        reason = "no tau_retail files: set TOWERKIT_REAL_DATA to the folder of recorded runs"
        print(json.dumps({"benchmark": "ingest", "skipped": reason}))
        return
    env, floors, admissions = SystemEnv(seed=0), [], []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            start = env.mono_ns()
            runs = floor(paths)
            middle = env.mono_ns()
            assert admit(paths, Path(folder), options.jobs) == runs
            end = env.mono_ns()
        floors.append((middle - start) / runs / 1e6)
        admissions.append((end - middle) / runs / 1e6)
    figure = {
        "benchmark": "ingest",
        "files": len(paths),
        "runs": runs,
        "jobs": options.jobs,
        "rounds": options.rounds,
        "runs_per_s": round(1000 / statistics.median(admissions), 1),
        "best_runs_per_s": round(1000 / min(admissions), 1),
        "ms_per_run": round(statistics.median(admissions), 2),
        "floor_ms_per_run": round(statistics.median(floors), 3),
        "ratio": round(statistics.median(admissions) / statistics.median(floors), 1),
    }
    print(json.dumps(figure))


if __name__ == "__main__":
    main()

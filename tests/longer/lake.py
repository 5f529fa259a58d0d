"""Compactions by many processes at once, killed at random: every run in the lake once, and whole.

    python tests/longer/lake.py [--rounds N] [--processes N]

A round: a store of 60 runs, `--processes` compactions of it started at once with overlapping
selections and `--drop`, half of them killed (SIGKILL) after a random time; then one more. It holds
when every table has each run's rows once, every run verifies to the root its pack had, and no pack
is left. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lake")]

from runs import holds_once, make_runs  # noqa: E402

from towerkit.lake import Lake, compact  # noqa: E402
from towerkit.packs.store import Store  # noqa: E402

CODE = """
import sys
from towerkit.lake import compact
from towerkit.packs.store import Store
print(flush=True)
sys.stdin.readline()
compact(Store(sys.argv[1]), selection=sys.argv[2], drop=True)
"""


def one_round(template: Path, processes: int, rng: random.Random) -> tuple[int, int]:
    """Run one round; return how many compactions were killed, and how many failed."""
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name))
        shutil.copytree(template / "packs", store.root / "packs")
        packs = store.packs()
        chosen = ["", "since=2026-01-06", "until=2026-01-06", "scenario=orders"]
        running = [
            subprocess.Popen(
                [sys.executable, "-c", CODE, name, chosen[i % 4]], stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
            )
            for i in range(processes)
        ]  # fmt: skip
        for p in running:
            p.stdout.readline()
        for p in running:
            p.stdin.write(b"\n")
            p.stdin.flush()
        doomed = rng.sample(running, processes // 2)
        for p in doomed:
            time.sleep(rng.uniform(0, 0.2))
            p.kill()
        failed = 0
        for p in running:
            _, said = p.communicate()
            # Another one may have dropped every pack that was selected.
            gone = b"matches" in said or b"nothing to compact" in said
            failed += p.returncode not in {0, -9} and not gone
            if p.returncode not in {0, -9} and not gone:
                print(said.decode()[-2000:], file=sys.stderr)
        done = compact(store, drop=True)
        assert done.problems == {}, done.problems
        assert store.folders() == []
        holds_once(done.lake, packs)
        lake = Lake(done.lake)
        for pack in packs:
            assert lake.pack(pack.run_id).digest == pack.digest
            lake.pack(pack.run_id).verify()
        return sum(p.returncode == -9 for p in running), failed


def main() -> None:
    """Run the rounds and print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--processes", type=int, default=40)
    options = parser.parse_args()
    rng, killed, failed = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as name:
        make_runs(Path(name), 60)
        for _ in range(options.rounds):
            k, f = one_round(Path(name), options.processes, rng)
            killed, failed = killed + k, failed + f
    print(json.dumps({"rounds": options.rounds, "compactions": options.rounds * options.processes,
                      "killed": killed, "failed": failed}))  # fmt: skip
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()

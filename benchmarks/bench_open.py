"""What it costs to read packs that are verified, beside the same files read by Polars unverified.

Rounds in turn over the same packs, each twice: small ones of a few spans, and one long run. Prints
one JSON line a size: the medians in milliseconds a pack, and the median of the paired ratios.
Run: `python benchmarks/bench_open.py [--rounds N] [--packs N] [--calls N]`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from time import perf_counter

import polars as pl

from towerkit import Tower, models
from towerkit.core.env import VirtualEnv
from towerkit.packs.reader import open_pack
from towerkit.packs.tables import PACK_TABLES
from towerkit.privacy.keys import simulated_redactor


def make(store: Path, seed: int, calls: int) -> Path:
    """Return the folder of a pack with `calls` model calls of 2 KB each."""
    env = VirtualEnv(seed)
    model = models.function(lambda _: "It was sent.", name="m", provider="p", simulated=True)
    tower = Tower(
        store=store, models=[model], redactor=simulated_redactor(), environment=lambda: env
    )
    with tower.run("bench", task={"n": seed}) as run:
        for i in range(calls):
            run.model([{"role": "user", "content": f"Question {i}: " + "where is it? " * 150}])
        run.finish("done")
    assert run.pack is not None
    return run.pack.folder


def verified(folder: Path) -> None:
    """Check everything and keep the frames, as a gate does."""
    pack = open_pack(folder)
    for name in PACK_TABLES:
        pack.frame(name)


def checked(folder: Path) -> None:
    """Do what `towerkit pack verify` does."""
    open_pack(folder).verify()


def unverified(folder: Path) -> None:
    """Read the same files and believe them."""
    json.loads((folder / "manifest.json").read_bytes())
    for name in PACK_TABLES:
        pl.read_parquet(folder / f"{name}.parquet")


def main() -> None:
    """Run the rounds and print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--packs", type=int, default=5)
    parser.add_argument("--calls", type=int, default=400, help="of the long run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        small = [make(Path(scratch), seed, 3) for seed in range(options.packs)]
        long = [make(Path(scratch), 99, options.calls)]
        for size, folders, rounds in (
            ("small", small, options.rounds), ("long", long, max(5, options.rounds // 8)),
        ):  # fmt: skip
            print(json.dumps(line(size, folders, rounds)))


def line(size: str, folders: list[Path], rounds: int) -> dict[str, object]:
    """Return the figures of packs of one size."""
    ways = (verified, checked, unverified)
    times: dict[str, list[float]] = {way.__name__: [] for way in ways}
    for turn in range(rounds + 1):
        for way in ways:
            start = perf_counter()
            for folder in folders:
                way(folder)
            taken = (perf_counter() - start) / len(folders) * 1000
            if turn:  # the first warms caches
                times[way.__name__].append(taken)
    ratios = [a / b for a, b in zip(times["verified"], times["unverified"], strict=True)]
    return {
        "benchmark": "open", "size": size, "packs": len(folders), "rounds": rounds,
        "spans": open_pack(folders[0]).manifest["spans"]["started"],
        "bytes": sum(f.stat().st_size for f in folders[0].iterdir()),
        **{f"{name}_ms": round(statistics.median(t), 2) for name, t in times.items()},
        "ratio": round(statistics.median(ratios), 2),
    }  # fmt: skip


if __name__ == "__main__":
    main()

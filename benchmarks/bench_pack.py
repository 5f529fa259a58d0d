"""What it costs to make a run durable: its journal beside a bare file, its pack beside pyarrow.

One run of 41 spans with forty texts of 2 KB. `journal`: its records written as one frame into a
new journal and synced; `bare` writes as many bytes to a file, syncs it, renames it and syncs the
folder. `pack`: the rows salted, checked, digested, written, synced and renamed, with a manifest;
`pyarrow` writes the same four tables with its defaults, syncs each, renames and syncs the folders.
`pack_plain` and `pyarrow_plain` are the same without syncs. `floor` is 40 KB in a bare file.

Rounds are interleaved; one JSON line with medians in milliseconds, and ratios of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from bench_lake import draft

from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.writer import Draft, arrow_schema, commit, sync_folder
from towerkit.telemetry.journal import Journal


def bare(folder: Path, data: bytes) -> None:
    """Write a file durably and put it in its place."""
    temporary = folder / "bare.tmp"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(descriptor, data)
    os.fsync(descriptor)
    os.close(descriptor)
    temporary.rename(folder / "bare")
    sync_folder(folder)


def journaled(folder: Path, records: list[tuple[Any, ...]]) -> None:
    """Write the records of a run and have them on the disk."""
    journal = Journal(folder, "run", mode="sync", durable=False)
    for record in records:
        journal.add(record)
    journal.write()
    journal.sync()
    assert journal.error is None
    journal.close(remove=False)


def by_default(folder: Path, made: Draft, *, durable: bool) -> None:
    """Write the tables of a run as pyarrow does if it is not told otherwise."""
    temporary = folder / "peer.tmp"
    temporary.mkdir()
    for name, table in PACK_TABLES.items():
        rows, schema = made.rows(table), arrow_schema(table).remove(len(table.columns) - 1)
        columns = [
            pa.array(v, type=f.type) for v, f in zip(zip(*rows, strict=True), schema, strict=True)
        ]
        path = temporary / f"{name}.parquet"
        pq.write_table(pa.table(columns, schema=schema), path)
        if durable:
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)
    if durable:
        sync_folder(temporary)
    temporary.rename(folder / f"peer-{durable}")
    if durable:
        sync_folder(folder)


def ms(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def main() -> None:
    """Run the rounds and print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    made = draft(7, 10_000)
    records = [("span", *row) for row in made.spans] + [("content", *row) for row in made.content]
    size = len(msgspec.msgpack.encode(records))
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        here = Path(name)
        sides: dict[str, Callable[[], object]] = {
            "floor": lambda: bare(here, b"x" * 40_000),
            "bare": lambda: bare(here, b"x" * size),
            "journal": lambda: journaled(here, records),
            "pack": lambda: commit(here / "s", made),
            "pyarrow": lambda: by_default(here, made, durable=True),
            "pyarrow_plain": lambda: by_default(here, made, durable=False),
            "pack_plain": lambda: commit(here / "p", made, durable=False),
        }
        for i in range(options.rounds + 3):
            for side, work in sides.items():
                taken = ms(work)
                if i >= 3:
                    times.setdefault(side, []).append(taken)
            (here / "journal" / "run.journal").unlink()
            for folder in ("s", "p", "peer-True", "peer-False"):
                shutil.rmtree(here / folder)
    middle = {side: statistics.median(t) for side, t in times.items()}
    line = {
        "benchmark": "pack", "rounds": options.rounds, "journal_bytes": size,
        **{f"{side}_ms": round(value, 3) for side, value in middle.items()},
        "journal_ratio": round(middle["journal"] / middle["bare"], 3),
        "journal_goal": 1.5,
        "pack_ratio": round(middle["pack"] / middle["pyarrow"], 3),
        "pack_plain_ratio": round(middle["pack_plain"] / middle["pyarrow_plain"], 3),
        "pack_goal": 0.6,
    }  # fmt: skip
    print(json.dumps(line))


if __name__ == "__main__":
    main()

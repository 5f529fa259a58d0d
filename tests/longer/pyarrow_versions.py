"""Digests do not depend on pyarrow: packs of three versions of it, read by each, and rewritten.

Run: `python tests/longer/pyarrow_versions.py [VERSION …]` (default 24.0.0 25.0.1 26.0.1; some
minutes, installs each from the index into a temporary folder). With each version the runs of the
frozen packs are recorded again; then each reads what all wrote, and the frozen packs, and rewrites
every table in other compressions, encodings and row groups. Prints one JSON line; the exit code is
1 where a root, a value or a verification differs.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.frozen_packs import agents_v1
from tests.frozen_packs.make import values_digest
from towerkit.packs.digest import table_root
from towerkit.packs.parquet import decode
from towerkit.packs.signing import make_key
from towerkit.packs.store import Store
from towerkit.packs.tables import PACK_TABLES

FROZEN = Path(__file__).resolve().parent.parent / "frozen_packs" / "v1"
VERSIONS = ("24.0.0", "25.0.1", "26.0.1")
# How somebody else may write the same rows; the reader takes each.
WRITTEN: tuple[dict[str, Any], ...] = (
    {"compression": "snappy", "row_group_size": 2},
    {"compression": "zstd", "use_dictionary": True, "data_page_version": "2.0"},
    {"compression": "gzip", "use_dictionary": False, "write_statistics": True, "version": "1.0"},
    {"compression": "none", "data_page_size": 64, "write_page_checksum": True},
    {"compression": "brotli", "store_schema": False, "write_page_index": True},
)
FIXED = [n for n in agents_v1.RUNS if n != "aborted"]  # that one was killed at some real time


def record(store: Path, key: Path) -> None:
    """Record the runs anew, with the pyarrow that is here."""
    import pyarrow as pa

    folders = {name: agents_v1.RUNS[name][0](store, key).name for name in FIXED}
    print(json.dumps({"pyarrow": pa.__version__, "runs": folders}))


def read(stores: list[Path]) -> None:
    """Say what is in the packs of stores, and what stays when their tables are rewritten."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    told: dict[str, Any] = {"pyarrow": pa.__version__, "rewritten": 0, "differ": []}
    for store in stores:
        for pack in Store(store).packs():
            pack.verify()
            said = {"root": pack.digest, **{n: values_digest(pack, n) for n in PACK_TABLES}}
            told[f"{store.name} {pack.run_id}"] = said
            for table, options in itertools.product(PACK_TABLES.values(), WRITTEN):
                sink, path = pa.BufferOutputStream(), pack.folder / f"{table.name}.parquet"
                pq.write_table(pq.read_table(path), sink, **options)
                frame = decode(sink.getvalue().to_pybytes(), table, where="rewritten")
                told["rewritten"] += 1
                if table_root(frame.rows()) != table_root(pack.frame(table.name).rows()):
                    told["differ"].append([str(pack.run_id), table.name, options])
    print(json.dumps(told))


def asked(overlay: Path, *words: str | Path) -> dict[str, Any]:
    """Return what a process with the pyarrow in `overlay` answers."""
    environment = {**os.environ, "PYTHONPATH": str(overlay)}
    command = [sys.executable, __file__, *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{overlay.name}: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if answer.pop("pyarrow") != overlay.name:
        sys.exit(f"expected pyarrow {overlay.name} in {overlay}, another was imported")
    return answer


def main(versions: tuple[str, ...]) -> int:
    """Install, record, read, compare."""
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        make_key(scratch / "key")
        overlays = [scratch / "pyarrow" / v for v in versions]
        for overlay in overlays:
            install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps",
                       "--only-binary=:all:", "--target", overlay]  # fmt: skip
            subprocess.run([*install, f"pyarrow=={overlay.name}"], check=True)
        stores = [scratch / f"by-{v}" for v in versions]
        runs = [asked(o, "record", s, scratch / "key")["runs"]
                for o, s in zip(overlays, stores, strict=True)]  # fmt: skip
        answers = [asked(o, "read", FROZEN, *stores) for o in overlays]
        roots = [[_root(s, r[n]) for n in FIXED] for s, r in zip(stores, runs, strict=True)]
        same_files = _files(stores)
    line = {
        "pyarrow": versions, "packs": len(answers[0]) - 2, "runs_recorded": len(FIXED),
        "rewritten_tables": sum(a["rewritten"] for a in answers),
        "rewritten_that_differ": [d for a in answers for d in a["differ"]],
        "roots_equal": all(r == roots[0] for r in roots),
        "readings_equal": all(a == answers[0] for a in answers),
        "files_equal": same_files,
    }  # fmt: skip
    print(json.dumps(line))
    good = line["roots_equal"] and line["readings_equal"] and not line["rewritten_that_differ"]
    return 0 if good else 1


def _root(store: Path, run_id: str) -> str:
    return Store(store).pack(run_id).digest


def _files(stores: list[Path]) -> bool:
    """Say whether the versions wrote the very same bytes, which no digest relies on."""
    names = sorted(p.relative_to(stores[0]) for p in stores[0].rglob("spans.parquet"))
    return all((s / n).read_bytes() == (stores[0] / n).read_bytes() for s in stores for n in names)


if __name__ == "__main__":
    if sys.argv[1:2] == ["record"]:
        record(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["read"]:
        read([Path(p) for p in sys.argv[2:]])
    else:
        sys.exit(main(tuple(sys.argv[1:]) or VERSIONS))

"""Packs changed at random, with every digest made to fit: opening one is a pack or an error.

Run: `python tests/longer/fuzz_packs.py [SECONDS] [FIRST_SEED]` (default 300 seconds). Bytes,
footers, page headers, rows and manifests are changed. A worker opens each pack; one that dies,
takes over 10 s or over 512 MB, raises anything but `PackError`, or opens with other values than
were sealed, names its seed, and the exit code is 1. Prints one JSON line.
"""

from __future__ import annotations

import collections
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.packs import mutations, thrift
from tests.packs.hostile_files import replace
from tests.packs.test_hostile_manifests import changed as manifest_changed
from towerkit.core.errors import PackError
from towerkit.packs.admissible import reasons
from towerkit.packs.reader import Pack, open_pack
from towerkit.packs.summary import summarise
from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.validate import pandera_model
from towerkit.packs.writer import manifest_bytes

FROZEN = Path(__file__).resolve().parent.parent / "frozen_packs" / "v1"
ODD = (
    0,
    1,
    -1,
    2,
    7,
    127,
    128,
    255,
    2**15,
    2**31 - 1,
    2**31,
    -(2**31),
    2**32 + 5,
    2**62,
    2**63 - 1,
)
SECONDS, MEMORY_MB = 10.0, 512


def bytes_changed(rng: random.Random, data: bytes) -> bytes:
    """Flip, overwrite, cut, double or insert bytes, mostly near the end, where the footer is."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        low = 0 if rng.random() < 0.5 else max(0, len(out) - 600)
        at = rng.randrange(low, len(out)) if out else 0
        how = rng.randrange(5)
        if how == 0 and out:
            out[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            n = rng.randint(1, 8)
            out[at : at + n] = rng.choice((b"\xff" * n, b"\0" * n, rng.randbytes(n)))
        elif how == 2:
            del out[at : at + rng.randint(1, 40)]
        elif how == 3:
            out[at:at] = out[at : at + rng.randint(1, 200)]
        else:
            out[at:at] = rng.randbytes(rng.randint(1, 9))
    return bytes(out)


def tree_changed(rng: random.Random, fields: list) -> None:
    """Change some values of a Thrift structure: numbers, texts, fields gone, doubled, retyped."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        spot, at = rng.choice(list(_spots(fields)))
        _change(rng, spot, at)


def _spots(value: list) -> Any:
    """Yield every list and place in it that holds a field or an item."""
    for i, field in enumerate(value):
        yield value, i
        yield from _inside(field, 2, field[1])


def _inside(holder: list, at: int, kind: int) -> Any:
    value = holder[at]
    if kind == thrift.STRUCT:
        yield from _spots(value)
    elif kind in thrift.LISTS:
        for i in range(len(value[1])):
            yield value[1], i
            yield from _inside(value[1], i, value[0])


def _change(rng: random.Random, holder: list, at: int) -> None:
    item, chance = holder[at], rng.random()
    if chance < 0.1:
        del holder[at]
    elif chance < 0.2:
        holder[at:at] = [item] * rng.choice((1, 2, 50))
    elif isinstance(item, int | bytes):
        holder[at] = _other(rng, item)
    elif len(item) == 3 and isinstance(item[0], int):
        if chance < 0.3:
            item[0] = rng.choice((item[0] + 1, 0, 8, 9, 2**16 + 5, -1))
        elif chance < 0.4 or not isinstance(item[2], int | bytes) or item[2] in {True, False}:
            item[1:] = rng.choice(([1, True], [2, False], [5, 3], [6, -1], [8, b"q"], [12, []]))
        else:
            item[2] = _other(rng, item[2])


def _other(rng: random.Random, value: int | bytes) -> int | bytes:
    if isinstance(value, int):
        return rng.choice((*ODD, value + 1, value - 1, value * 2))
    return rng.choice((b"", value * 2, b"\xff", rng.randbytes(20), b"x" * 100_000))


def footer_changed(rng: random.Random, data: bytes) -> bytes:
    """Let the footer lie."""
    body, fields = thrift.footer(data)
    tree_changed(rng, fields)
    return thrift.joined(body, fields)


def page_changed(rng: random.Random, data: bytes) -> bytes:
    """Let the header of a page lie; the chunk is moved behind the others, so that it may grow."""
    body, fields = thrift.footer(data)
    groups = thrift.get(fields, 4)[1]
    if not groups:
        return bytes_changed(rng, data)
    meta = thrift.get(rng.choice(thrift.get(groups[0], 1)[1]), 3)
    start, size = thrift.get(meta, 9), thrift.get(meta, 7)
    if size == 0:
        return bytes_changed(rng, data)
    header, after = thrift.read(data, start)
    tree_changed(rng, header)
    pages = thrift.written(header) + body[after : start + size]
    thrift.put(meta, 9, 6, len(body))
    thrift.put(meta, 7, 6, len(pages))
    return thrift.joined(body + pages, fields)


TABLES = {"bytes": bytes_changed, "footer": footer_changed, "page": page_changed}


def change(seed: int, folder: Path, files: dict[str, bytes]) -> str:
    """Make the pack of a seed in `folder`; return what kind of change it is."""
    rng = random.Random(seed)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    kind = rng.choice((*TABLES, *TABLES, "manifest", "manifest_bytes", "rows"))
    if kind in TABLES:
        table = rng.choice(list(PACK_TABLES))
        data = TABLES[kind](rng, files[f"{table}.parquet"])
        replace(folder, data, table=table)
    elif kind == "rows":
        mutations.rehash(rng, folder, None, 0)
    else:
        path = folder / "manifest.json"
        edit = manifest_changed if kind == "manifest" else bytes_changed
        path.write_bytes(edit(rng, files["manifest.json"]))
    return kind


def worker(first: int, scratch: Path) -> None:
    """Open packs until killed; say before each which it is, and after each how it went."""
    packs = [p for p in FROZEN.glob("packs/*/*") if p.is_dir()]
    sealed = [{f.name: f.read_bytes() for f in p.iterdir()} for p in packs]
    for files in sealed:  # a signature would refuse what is to be read further
        manifest = json.loads(files["manifest.json"])
        manifest.pop("signature", None)
        files["manifest.json"] = manifest_bytes(manifest)
    digests = [_values(open_pack(p)) for p in packs]
    for table in PACK_TABLES.values():
        pandera_model(table)  # its import takes longer than any pack
    seed = first
    while True:
        which = seed % len(packs)
        print(json.dumps({"begin": seed}), flush=True)
        folder = scratch / "pack"
        folder.mkdir(exist_ok=True)
        kind = change(seed, folder, sealed[which])
        Path("/proc/self/clear_refs").write_text("5")
        start, came, problem = time.monotonic(), "refused", None
        try:
            pack = open_pack(folder)
            pack.verify()
            reasons(pack)
            summarise(pack)
            came = "opened"
            if kind in TABLES and _values(pack) != digests[which]:
                problem = "opened with other values"
        except PackError:
            pass
        except BaseException as error:
            problem = repr(error)[:200]
        seconds = time.monotonic() - start
        status = Path("/proc/self/status").read_text()
        mb = int(status.split("VmHWM:")[1].split()[0]) // 1024
        if seconds > SECONDS or mb > MEMORY_MB:
            problem = f"{seconds:.1f} s, {mb} MB"
        said = {"kind": kind, "came": came, "seconds": seconds, "mb": mb, "problem": problem}
        print(json.dumps({"end": seed, **said}), flush=True)
        seed += 1


def _values(pack: Pack) -> str:
    rows = [pack.frame(name).rows() for name in PACK_TABLES]
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def main(seconds: float = 300, first: int = 0) -> int:
    """Fuzz, and restart the worker where it dies."""
    counts: collections.Counter[str] = collections.Counter()
    problems: list[str] = []
    slowest, largest, seed = 0.0, 0, first
    deadline = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as scratch:
        while time.monotonic() < deadline and len(problems) < 20:
            command = [sys.executable, __file__, "--worker", str(seed), scratch]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                for line in child.stdout:
                    said = json.loads(line)
                    if "begin" in said:
                        seed = said["begin"]
                        if time.monotonic() > deadline:
                            child.kill()
                            break
                        continue
                    counts[f"{said['kind']} {said['came']}"] += 1
                    slowest, largest = max(slowest, said["seconds"]), max(largest, said["mb"])
                    if said["problem"]:
                        problems.append(f"seed {seed} ({said['kind']}): {said['problem']}")
                else:
                    problems.append(f"seed {seed}: the process died ({child.wait()})")
                    seed += 1
    figures = {"packs": counts.total(), "seconds": seconds, "slowest_s": round(slowest, 2),
               "peak_mb": largest, "first_seed": first}  # fmt: skip
    print(json.dumps({**figures, "came": dict(sorted(counts.items())), "problems": problems}))
    return 1 if problems else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        os.environ["RUST_BACKTRACE"] = "0"
        worker(int(sys.argv[2]), Path(sys.argv[3]))
    sys.exit(main(*map(int, sys.argv[1:])))

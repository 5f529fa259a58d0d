"""10,000 runs as packs and as a lake: what questions, compaction and the disk cost.

A run has 41 spans and twenty prompts and answers of 2 KB. `errors` by model, and
`tail`, the 95th percentile by tool over one day: `towerkit.scan` with its look at the log beside
Polars over the spans of all packs. `run`: one run by id out of the lake, four tables verified,
beside the same of a known folder; `spans`: the spans alone, unverified, beside Polars reading the
known file. `compact`: time a run, packs verified, with `--jobs` processes, by the wall and
by CPU (a busy machine adds to the first). `disk`: bytes a run, beside the same spans and texts as
OTLP JSON, a file a run, and with `--mlflow N` beside N runs as MLflow's traces in SQLite (MLflow
gets an environment of its own, which takes minutes to make).

Rounds are interleaved; one JSON line with minima, and ratios of minima (a busy machine only adds).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
from bench_guard import peers

from towerkit.core.env import uuid7
from towerkit.lake import Lake, compact, scan
from towerkit.lake.tables import LAKE_TABLES
from towerkit.packs.reader import open_pack
from towerkit.packs.store import Store
from towerkit.packs.tables import CONTENT, COSTS, INPUTS, PACK_TABLES, SPANS
from towerkit.packs.writer import Draft

DAY_NS, START_NS = 86_400 * 10**9, 1_767_571_200 * 10**9
MODELS, TOOLS = ("gpt-4o", "gpt-4o-mini", "claude-sonnet"), ("search", "refund", "lookup")
WORDS = [
    "invoice", "order", "refund", "credit", "tax", "ledger", "customer", "note", "page", "region",
    "carrier", "parcel", "week", "agent", "policy", "limit", "answer", "ticket", "queue", "status",
    "the", "of", "to", "and", "in", "is", "that", "for", "it", "with", "as", "was", "on", "be",
]  # fmt: skip
CALLS = 20


@cache
def pool() -> str:
    """Return four megabytes of prose: words with numbers between them."""
    rng = random.Random(0)
    words = [str(rng.randrange(10**6)) for _ in range(80_000)] + rng.choices(WORDS, k=720_000)
    rng.shuffle(words)
    return " ".join(words)


def text(rng: random.Random, size: int = 2048) -> str:
    """Return `size` characters of it, from anywhere."""
    start = rng.randrange(len(pool()) - size)
    return pool()[start : start + size]


def draft(i: int, runs: int) -> Draft:
    """Return run `i` of `runs`, which are spread over five days."""
    rng = random.Random(i)
    at = START_NS + i * 5 * DAY_NS // runs
    run_id = uuid7(at, rng.getrandbits(74))
    root = f"{rng.getrandbits(64):016x}"
    spans = [_span(run_id, root, None, 0, "run", at, rng, name="orders", op="invoke_agent")]
    costs, inputs, content = [], [], []
    for n in range(CALLS):
        call, tool = f"{rng.getrandbits(64):016x}", n % 3 == 2
        model, failed = MODELS[(i + n) % 3], rng.random() < 0.05
        digests = []
        for _ in range(2):
            body = json.dumps({"role": "user", "content": text(rng)}).encode()
            digests.append(hashlib.sha256(body).hexdigest()[:32])
            content.append(CONTENT.make(digest=digests[-1], media_type="application/json",
                                        size=len(body), body=body))  # fmt: skip
        more: dict[str, Any] = {
            "request_digest": digests[0], "response_digest": digests[1],
            "op": "execute_tool" if tool else "chat",
            "error_class": "rate_limited" if failed else None,
            **({"gen_ai_tool_name": TOOLS[n % 9 // 3], "idempotent": True} if tool else
               {"gen_ai_request_model": model, "gen_ai_response_model": model,
                "gen_ai_provider_name": "openai", "gen_ai_usage_input_tokens": 400 + n,
                "gen_ai_usage_output_tokens": 60}),
        }  # fmt: skip
        name = more.get("gen_ai_tool_name", model)
        spans += [
            _span(run_id, call, root, 2 * n + 1, "call", at, rng, name=name, **more),
            _span(run_id, f"{rng.getrandbits(64):016x}", call, 2 * n + 2, "attempt", at, rng,
                  name=name, attempt=1, **more),
        ]  # fmt: skip
        inputs.append(INPUTS.make(
            run_id=run_id, seq=n, kind="tool" if tool else "model", name=name, span_id=spans[-1][1],
            parent_path="", occurrence=0, request_digest=digests[0], response_digest=digests[1],
            outcome="ok", start_offset_ns=n * 10**8, latency_ns=10**8 + n, chunks=None,
        ))  # fmt: skip
        if not tool:
            costs.append(COSTS.make(
                run_id=run_id, span_id=spans[-1][1], seq=n, purpose="agent", provider="openai",
                model=model, input_tokens=400 + n, output_tokens=60, cost_nanousd=100_000 + n,
                price_ref="book", price_date="2026-01-01", estimated=False, wasted=failed,
                simulated=True))  # fmt: skip
    manifest = {
        "run_id": run_id, "status": "completed", "error_class": None, "started_unix_ns": at,
        "duration_ns": 2 * 10**9, "source": {"kind": "live"}, "clock": "system", "simulated": True,
        "identity": {"service": "orders", "release": f"r{i % 4}", "scenario": "orders"},
        "spans": {"started": len(spans), "ended": len(spans), "dropped": 0, "aborted": 0},
        "redactor": {"version": 2, "key_id": "bench", "capture": "redacted"}, "budget": None,
    }  # fmt: skip
    return Draft(manifest=manifest, spans=spans, costs=costs, inputs=inputs, content=content,
                 salt_seed=rng.randbytes(32))  # fmt: skip


def _span(
    run_id: str, span_id: str, parent: str | None, seq: int, kind: str, at: int,
    rng: random.Random, *, name: str, op: str, error_class: str | None = None, **more: Any,
) -> tuple[Any, ...]:  # fmt: skip
    return SPANS.make(
        run_id=run_id, span_id=span_id, parent_span_id=parent, seq=seq, name=f"{op} {name}",
        kind=kind, gen_ai_operation_name=op, start_unix_ns=at + seq * 10**7,
        duration_ns=rng.randrange(10**6, 10**9), status="error" if error_class else "ok",
        error_class=error_class, simulated=True, attributes='{"server.address":"api.example.com"}',
        events="[]", **more,
    )  # fmt: skip


def seal(folder: str, first: int, last: int, runs: int) -> None:
    """Seal some of the runs."""
    for i in range(first, last):
        Store(folder).commit(draft(i, runs), durable=False)


def spans_of(folder: Path) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each span of a run, and its attributes with the texts of its attempt."""
    pack = open_pack(folder)
    for row in pack.frame("spans").drop("salt").to_dicts():
        given = {k: v for k, v in row.items() if v is not None and "_id" not in k}
        for name in ("request_digest", "response_digest"):
            if row[name] and row["kind"] == "attempt":
                given[name.replace("digest", "body")] = pack.bodies[row[name]].decode()
        yield row, given


def otlp_bytes(folder: Path) -> int:
    """Return the size of a run's spans and texts as OTLP JSON, one file."""
    spans, kinds = [], {bool: "boolValue", int: "intValue", str: "stringValue"}
    for row, given in spans_of(folder):
        spans.append({
            "traceId": row["run_id"].replace("-", ""), "spanId": row["span_id"],
            "parentSpanId": row["parent_span_id"] or "", "name": row["name"], "kind": 1,
            "startTimeUnixNano": str(row["start_unix_ns"]),
            "endTimeUnixNano": str(row["start_unix_ns"] + row["duration_ns"]),
            "attributes": [
                {"key": k, "value": {kinds[type(v)]: str(v) if type(v) is int else v}}
                for k, v in given.items()
            ],
            "status": {"code": 2 if row["status"] == "error" else 1},
        })  # fmt: skip
    return len(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}))


MLFLOW = """
import json, pathlib, sys
import mlflow
mlflow.set_tracking_uri("sqlite:///traces.db")
mlflow.set_experiment("bench")
def log(runs):
    for line in runs:
        made = {}
        for row, given in json.loads(line):
            parent = made.get(row["parent_span_id"])
            sent = given.pop("request_body", None)
            got = given.pop("response_body", None)
            made[row["span_id"]] = mlflow.start_span_no_context(
                row["name"], parent_span=parent, inputs=sent, attributes=given,
                start_time_ns=row["start_unix_ns"])
            made[row["span_id"]].set_outputs(got)
        for span_id, span in reversed(made.items()):
            span.end()
    mlflow.flush_trace_async_logging()
def size():
    import sqlite3
    with sqlite3.connect("traces.db") as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return sum(p.stat().st_size for p in pathlib.Path(".").rglob("*") if p.is_file())
runs = sys.stdin.read().splitlines()
log(runs[:1])
empty = size()
log(runs[1:])
print(round((size() - empty) / (len(runs) - 1)))
"""


def mlflow_bytes(folders: Sequence[Path]) -> int:
    """Return what one more of the runs takes as a trace of MLflow: database and files."""
    lines = "\n".join(json.dumps(list(spans_of(f))) for f in folders)
    python = peers("mlflow")
    with tempfile.TemporaryDirectory() as here:
        done = subprocess.run(
            [str(python), "-c", MLFLOW], input=lines, capture_output=True, text=True, check=False,
            cwd=here,
        )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    return int(done.stdout.splitlines()[-1])


def errors_by_model(spans: pl.LazyFrame) -> pl.DataFrame:
    """Return how many attempts of each model failed, by class."""
    return (
        spans.filter(kind="attempt", gen_ai_operation_name="chat")
        .group_by("gen_ai_request_model", "error_class")
        .len()
        .collect()
    )


def tail_by_tool(spans: pl.LazyFrame) -> pl.DataFrame:
    """Return the 95th percentile of the attempts of each tool over the third day."""
    begin = START_NS + 2 * DAY_NS
    return (
        spans.filter(
            pl.col("start_unix_ns").is_between(begin, begin + DAY_NS),
            pl.col("kind") == "attempt", pl.col("gen_ai_operation_name") == "execute_tool",
        )
        .group_by("gen_ai_tool_name")
        .agg(pl.col("duration_ns").quantile(0.95))
        .collect()
    )  # fmt: skip


def ms(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1000


def cpu_ms() -> float:
    """Return the CPU time of this process and of those that it waited for."""
    used = [resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used) * 1000


def size(folder: Path, pattern: str) -> int:
    """Return the bytes of the files under a folder."""
    return sum(p.stat().st_size for p in folder.glob(pattern) if p.is_file())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--mlflow", type=int, default=0, metavar="N", help="N runs as its traces")
    parser.add_argument("--keep", type=Path, help="a folder to work in, which is kept")
    options = parser.parse_args()
    here = options.keep or Path(tempfile.mkdtemp(prefix="bench-lake-"))
    try:
        print(json.dumps(measure(here, options)))
    finally:
        if options.keep is None:
            shutil.rmtree(here)


def measure(here: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the line."""
    runs, store = options.runs, Store(here / "store")
    if not (here / "store").exists():
        with ProcessPoolExecutor(2) as pool:
            parts = range(0, runs, 500)
            list(pool.map(seal, [str(store.root)] * len(parts), parts,
                          [min(runs, p + 500) for p in parts], [runs] * len(parts)))  # fmt: skip
    folders = store.folders()
    for folder in folders:  # the file cache is warm for both sides
        for path in folder.iterdir():
            path.read_bytes()
    cpu = cpu_ms()
    turns = range(min(options.rounds, 3))
    times = [
        ms(lambda i=i: compact(store, here / f"lake{i}", jobs=options.jobs)) / runs for i in turns
    ]
    cpu = (cpu_ms() - cpu) / runs / len(turns)
    lake = here / "lake0"
    # A store of its own without packs: all of its runs are in the lake.
    only = Store(here / "none")
    files = [str(f / "spans.parquet") for f in folders]
    known = folders[runs // 2]
    sides: dict[str, Callable[[], object]] = {
        "errors": lambda: errors_by_model(scan("spans", store=only, lake=lake)),
        "errors_files": lambda: errors_by_model(pl.scan_parquet(files)),
        "tail": lambda: tail_by_tool(scan("spans", store=only, lake=lake)),
        "tail_files": lambda: tail_by_tool(pl.scan_parquet(files)),
    }
    found = {name: [ms(work) for _ in range(1)] for name, work in sides.items()}
    for _ in range(options.rounds):
        for name, work in sides.items():
            found[name].append(ms(work))
    opened = Lake(lake)
    assert opened.pack(known.name).digest == open_pack(known).digest
    one: dict[str, Callable[[], object]] = {
        "run": lambda: opened.pack(known.name).load(),
        "run_known": lambda: [open_pack(known).frame(n) for n in PACK_TABLES],
        "spans": lambda: opened.frame("spans", known.name),
        "spans_known": lambda: pl.read_parquet(known / "spans.parquet"),
    }
    found |= {name: [] for name in one}
    for _ in range(options.rounds * 20):
        for name, work in one.items():
            found[name].append(ms(work))
    best = {name: min(values) for name, values in found.items()}
    same = (
        errors_by_model(pl.scan_parquet(files)),
        errors_by_model(scan("spans", store=only, lake=lake)),
    )
    assert same[0].sort(pl.all()).equals(same[1].sort(pl.all()))
    sample = random.Random(0).sample(folders, 200)
    return {
        "benchmark": "lake", "runs": runs, "rounds": options.rounds, "jobs": options.jobs,
        **{f"{name}_ms": round(value, 2) for name, value in best.items()},
        "errors_ratio": round(best["errors"] / best["errors_files"], 4),
        "tail_ratio": round(best["tail"] / best["tail_files"], 4), "aggregate_goal": 0.02,
        "run_ratio": round(best["run"] / best["run_known"], 3), "run_goal": 1.2,
        "spans_ratio": round(best["spans"] / best["spans_known"], 3),
        "compact_ms_a_run": round(min(times), 3), "compact_goal": 1.0,
        "compact_cpu_ms_a_run": round(cpu, 3),
        "disk_packs": size(store.root, "packs/*/*/*") // runs,
        "disk_lake": sum(size(lake, f"{t}/**/*") for t in LAKE_TABLES) // runs,
        "disk_otlp_json": round(statistics.mean(otlp_bytes(f) for f in sample)),
        **({"disk_mlflow": mlflow_bytes(sample[: options.mlflow])} if options.mlflow else {}),
    }  # fmt: skip


if __name__ == "__main__":
    main()

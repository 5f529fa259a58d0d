"""What evidence costs, beside OpenTelemetry's batch processor serialising to nowhere.

A run of 41 spans, each leaf with twelve attributes, one of them a prompt of 2 KB, every tenth with
an address in it. The peer neither redacts nor writes: its spans are encoded as OTLP and dropped.
Paced: runs follow each other once the workers of both sides are idle.

`leaf`: time on the agent's thread for one leaf, journal `sync` and `grouped`. `journal_cpu`: CPU of
the whole process per span until it is redacted and durable. `pack_cpu`: until it is in a sealed
pack. Of a round's runs the lower quartile counts, on both sides: a busy machine only adds. Rounds
are interleaved; one JSON line with medians over them, and ratios. Peers live in `.venv-peers`.

`--burst N`: instead, N spans without a pause, runs of 41 one after the other, journal `grouped`:
how many are in no pack, and how much memory grew after the first runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_guard import peers

COMMON = """
import json, os, resource, sys, time
LEAVES = 40
WORDS = ("invoice order refund credit tax ledger customer note page region carrier parcel week "
         "agent policy limit answer ticket queue status").split()
def prompt(n):
    text = " ".join(WORDS[(n * 7 + i * (n % 5 + 1)) % len(WORDS)] for i in range(310))
    tail = f" ref {n}" + (f" mail ann{n}@example.com" if n % 10 == 0 else "")
    return (text + " " * 2048)[: 2048 - len(tail)] + tail
def attributes(n):
    return {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai",
            "gen_ai.request.model": "gpt-4o-mini", "gen_ai.request.max_tokens": 1024,
            "gen_ai.request.temperature": 0.2, "gen_ai.usage.input_tokens": 512 + n % 7,
            "gen_ai.usage.output_tokens": 64, "gen_ai.response.id": f"chatcmpl-{n}",
            "gen_ai.response.model": "gpt-4o-mini-2024", "server.address": "api.example.com",
            "retry": False, "gen_ai.prompt": prompt(n)}
runs = int(sys.argv[1])
def made(i): return [attributes(i * LEAVES + j) for j in range(LEAVES)]
def report(got):  # the lower quartile of the runs: a busy machine only adds
    leaf, cpu = (sorted(side)[len(got) // 4] for side in zip(*got))
    print(json.dumps({"leaf_ns": leaf, "cpu_ns": cpu}))
"""

PEER = """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
class Nowhere(SpanExporter):
    def export(self, spans):
        encode_spans(spans).SerializeToString()
        return SpanExportResult.SUCCESS
provider = TracerProvider()
processor = BatchSpanProcessor(Nowhere())
provider.add_span_processor(processor)
tracer = provider.get_tracer("bench")
def one(i):
    values = made(i)
    a = time.process_time_ns()
    with tracer.start_as_current_span("run"):
        t = time.perf_counter_ns()
        for v in values:
            with tracer.start_as_current_span("leaf", attributes=v):
                pass
        leaf = (time.perf_counter_ns() - t) / LEAVES
    processor.force_flush()
    return leaf, (time.process_time_ns() - a) / (LEAVES + 1)
one(0); one(1)
got = [one(i + 2) for i in range(runs)]
report(got)
"""

OURS = """
import concurrent.futures
import towerkit.runtime.run as running
from towerkit.runtime.tower import Tower
from towerkit.packs.committer import wait_for_commits
from towerkit.telemetry import journal as journals
mode, sealed = sys.argv[2], sys.argv[3] == "pack"
if not sealed:
    def commit_later(root, work):
        done = concurrent.futures.Future(); done.set_result(None)
        return done
    running.commit_later = commit_later
tower = Tower(store="store", journal=mode)
def settle(run):
    journals._WRITER.drain()  # written, and synced
    wait_for_commits(tower.store.root)
def one(i):
    values = made(i)
    a = time.process_time_ns()
    with tower.run("bench") as run:
        t = time.perf_counter_ns()
        for v in values:
            with run.step("leaf", v):
                pass
        leaf = (time.perf_counter_ns() - t) / LEAVES
    settle(run)
    used = (time.process_time_ns() - a) / (LEAVES + 1)
    if not sealed: run.recorder.journal.close(remove=True)
    return leaf, used
one(0); one(1)
got = [one(i + 2) for i in range(runs)]
report(got)
"""


BURST = """
from towerkit.runtime.tower import Tower
def resident():
    with open("/proc/self/status") as status:
        return next(int(l.split()[1]) for l in status if l.startswith("VmHWM")) // 1024
tower, dropped, kept = Tower(store="store", journal="grouped", durable=False), 0, []
values = made(0)
def one():
    with tower.run("bench") as run:
        for v in values:
            with run.step("leaf", v):
                pass
    return run
def lost(run):
    import shutil
    gone = LEAVES + 1 - run.evidence.spans_in_pack
    shutil.rmtree(run.pack.folder)
    return gone
for _ in range(200): lost(one())
before, begun = resident(), time.perf_counter()
for i in range(runs):
    kept.append(one())
    if len(kept) == 40: dropped += lost(kept.pop(0))
dropped += sum(map(lost, kept))
print(json.dumps({"benchmark": "spans_burst", "spans": runs * (LEAVES + 1), "dropped": dropped,
                  "rss_growth_mb": resident() - before,
                  "seconds": round(time.perf_counter() - begun)}))
"""


def measure(python: Path, code: str, *arguments: object) -> dict[str, float]:
    """Return what a script prints."""
    with tempfile.TemporaryDirectory() as here:
        done = subprocess.run(
            [str(python), "-c", COMMON + code, *map(str, arguments)], capture_output=True,
            text=True, check=False, cwd=here,
        )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Run the rounds and print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--burst", type=int, default=0, metavar="N")
    options = parser.parse_args()
    if options.burst:
        print(json.dumps(measure(Path(sys.executable), BURST, -(-options.burst // 41))))
        return
    theirs, mine = peers(), Path(sys.executable)
    rounds = [
        {
            "peer": measure(theirs, PEER, options.runs),
            "sync": measure(mine, OURS, options.runs, "sync", "journal"),
            "grouped": measure(mine, OURS, options.runs, "grouped", "journal"),
            "pack": measure(mine, OURS, options.runs, "sync", "pack"),
        }
        for _ in range(options.rounds)
    ]
    line: dict[str, object] = {"benchmark": "spans", "rounds": options.rounds}
    figures = [
        ("leaf_sync", "sync", "leaf_ns", 1.0), ("leaf_grouped", "grouped", "leaf_ns", 0.15),
        ("journal_cpu", "sync", "cpu_ns", 0.35), ("pack_cpu", "pack", "cpu_ns", 0.75),
    ]  # fmt: skip
    for name, side, figure, goal in figures:
        ours = statistics.median(r[side][figure] for r in rounds)
        peer = statistics.median(r["peer"][figure] for r in rounds)
        ratio = statistics.median(r[side][figure] / r["peer"][figure] for r in rounds)
        line |= {f"{name}_ns": round(ours), f"{name}_peer_ns": round(peer),
                 f"{name}_ratio": round(ratio, 3), f"{name}_goal": goal}  # fmt: skip
    print(json.dumps(line))


if __name__ == "__main__":
    main()

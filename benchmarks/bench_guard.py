"""What a guarded call costs when nothing fails, beside the usual stack of libraries.

`policy`: breaker, deadline, budget reservation and retry budget of one call alone, in the words the
guard uses, over tenacity (attempts, deadline, jitter) + pybreaker. `guarded`: the whole guarded
tool call, its two redacted spans, its tape row and the journal on disk, over that stack and one
span through a BatchSpanProcessor that exports to nowhere. `async`: the same policy awaited, over
tenacity + purgatory + asyncio.timeout. Rounds are interleaved; one JSON line with medians in
nanoseconds and ratios. Peers live in `.venv-peers`, made on first use.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PEER = """
import asyncio, sys, time, tenacity, pybreaker, purgatory
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
class Nowhere(SpanExporter):
    def export(self, spans): return SpanExportResult.SUCCESS
provider = TracerProvider(); provider.add_span_processor(BatchSpanProcessor(Nowhere()))
tracer = provider.get_tracer("bench")
breaker = pybreaker.CircuitBreaker(fail_max=5)
limits = dict(stop=tenacity.stop_after_attempt(4) | tenacity.stop_after_delay(300),
              wait=tenacity.wait_random_exponential(max=8), reraise=True,
              retry=tenacity.retry_if_exception_type(OSError))
def work(x): return x
async def awork(x): return x
@tenacity.retry(**limits)
def guarded(x): return breaker.call(work, x)
def traced(x):
    with tracer.start_as_current_span("call", attributes={"tool": "work", "x": x}):
        return guarded(x)
factory = purgatory.AsyncCircuitBreakerFactory()
@tenacity.retry(**limits)
async def aguarded(x):
    async with await factory.get_breaker("work"):
        async with asyncio.timeout(12):
            return await awork(x)
n = int(sys.argv[1])
def timed(f):
    for i in range(200): f(i)
    a = time.perf_counter_ns()
    for i in range(n): f(i)
    print((time.perf_counter_ns() - a) / n)
async def atimed(f):
    for i in range(200): await f(i)
    a = time.perf_counter_ns()
    for i in range(n): await f(i)
    print((time.perf_counter_ns() - a) / n)
timed(guarded); timed(traced); asyncio.run(atimed(aguarded))
"""

OURS = """
import asyncio, sys, time
from towerkit.runtime.tower import Tower
from towerkit.reliability.policy import Policy
from towerkit.cost.ledger import ledger_of
tower = Tower(store="store", policy=Policy(max_steps=10**9, deadline_s=1e9))
def work(x): return x
async def awork(x): return x
n = int(sys.argv[1])
breaker, ledger, budget = tower.breaker("bench"), ledger_of(10**11), tower.retry_budget
with tower.run("bench") as run:
    clock, deadline = run.env.mono_ns, run.deadline_ns
    # What Guard does of policy around an attempt that succeeds, in its order.
    def decided(x):
        budget.call()
        start = clock()
        if start >= deadline: raise TimeoutError
        permit = breaker.shared or breaker.acquire(start)
        reservation = ledger.reserve(1000)
        answer = work(x)
        end = clock()
        ledger.settle(reservation, 10)
        breaker.settle(permit, "success", end, end - start)
        if budget.below: budget.success(0)
        return answer
    async def adecided(x):
        budget.call()
        start = clock()
        if start >= deadline: raise TimeoutError
        permit = breaker.shared or breaker.acquire(start)
        reservation = ledger.reserve(1000)
        answer = await run.env.abounded(lambda: awork(x), 12.0)
        end = clock()
        ledger.settle(reservation, 10)
        breaker.settle(permit, "success", end, end - start)
        if budget.below: budget.success(0)
        return answer
    def guarded(x): return run.tool(work, {"x": x}, idempotent=True)
    def timed(f):
        for i in range(200): f(i)
        a = time.perf_counter_ns()
        for i in range(n): f(i + 1000)
        print((time.perf_counter_ns() - a) / n)
    async def atimed(f):
        for i in range(200): await f(i)
        a = time.perf_counter_ns()
        for i in range(n): await f(i + 1000)
        print((time.perf_counter_ns() - a) / n)
    timed(decided); timed(guarded); asyncio.run(atimed(adecided))
"""


def measure(python: Path, code: str, calls: int) -> list[float]:
    """Return the three figures a script prints, nanoseconds a call."""
    with tempfile.TemporaryDirectory() as here:
        done = subprocess.run(
            [str(python), "-c", code, str(calls)], capture_output=True, text=True, check=True,
            cwd=here,
        )  # fmt: skip
    return [float(line) for line in done.stdout.split()]


def peers(name: str = "peers") -> Path:
    """Return the Python of an environment of peers, made if it is not there."""
    folder = ROOT / f".venv-{name}"
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        wanted = str(ROOT / "benchmarks" / f"{name}.txt")
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", wanted], check=True)
    return python


def main() -> None:
    """Run the rounds and print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=3000)
    options = parser.parse_args()
    theirs = peers()
    rounds = [
        (measure(Path(sys.executable), OURS, options.calls), measure(theirs, PEER, options.calls))
        for _ in range(options.rounds)
    ]
    line = {"benchmark": "guard", "rounds": options.rounds}
    for i, (name, goal) in enumerate([("policy", 0.03), ("guarded", 0.8), ("async", 0.06)]):
        line[f"{name}_ns"] = round(statistics.median(ours[i] for ours, _ in rounds))
        line[f"{name}_peer_ns"] = round(statistics.median(peer[i] for _, peer in rounds))
        ratio = statistics.median(ours[i] / peer[i] for ours, peer in rounds)
        line |= {f"{name}_ratio": round(ratio, 3), f"{name}_goal": goal}
    print(json.dumps(line))


if __name__ == "__main__":
    main()

"""What a guarded call costs when nothing fails, beside tenacity + pybreaker (+ OpenTelemetry).

`policy`: our decision, breaker, budget and retry budget alone, over tenacity + pybreaker.
`guarded`: the whole guarded tool call with its redacted spans, over tenacity + pybreaker + one span
through a BatchSpanProcessor that exports to nowhere. Rounds are interleaved; one JSON line with
medians in nanoseconds and ratios. Peers live in `.venv-peers`, made on first use.
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
PEERS = ROOT / ".venv-peers"

PEER = """
import sys, time, tenacity, pybreaker
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
class Nowhere(SpanExporter):
    def export(self, spans): return SpanExportResult.SUCCESS
provider = TracerProvider(); provider.add_span_processor(BatchSpanProcessor(Nowhere()))
tracer = provider.get_tracer("bench")
breaker = pybreaker.CircuitBreaker(fail_max=5)
def work(x): return x
@tenacity.retry(stop=tenacity.stop_after_attempt(3), wait=tenacity.wait_random_exponential())
def guarded(x): return breaker.call(work, x)
def traced(x):
    with tracer.start_as_current_span("call", attributes={"tool": "work", "x": x}):
        return guarded(x)
n = int(sys.argv[1])
for f in (guarded, traced):
    for i in range(200): f(i)
    a = time.perf_counter_ns()
    for i in range(n): f(i)
    print((time.perf_counter_ns() - a) / n)
"""

OURS = """
import sys, time, tempfile
from towerkit.runtime.tower import Tower
from towerkit.reliability.policy import Begin, CallState, Policy, Succeeded, decide
from towerkit.cost.ledger import Ledger
policy = Policy(max_steps=10**9, deadline_s=1e9)
tower = Tower(store=tempfile.mkdtemp(), policy=policy)
def work(x): return x
n = int(sys.argv[1])
breaker, ledger, first = tower.breaker("bench"), Ledger(10**18), CallState(operation="tool")
begin, done = Begin(), Succeeded()
def decided(x):
    tower.retry_budget.call()
    state, _ = decide(policy, first, begin)
    permit = breaker.acquire(0.0)
    ledger.reserve("a", 1)
    answer = work(x)
    ledger.settle("a", 0)
    breaker.settle(permit, "success", 0.0, duration_s=0.1)
    decide(policy, state, done)
    tower.retry_budget.success(0)
    return answer
with tower.run("bench") as run:
    def guarded(x): return run.tool(work, {"x": x}, idempotent=True)
    for f in (decided, guarded):
        for i in range(200): f(i)
        a = time.perf_counter_ns()
        for i in range(n): f(i + 1000)
        print((time.perf_counter_ns() - a) / n)
"""


def measure(python: Path, code: str, calls: int) -> list[float]:
    """Return the two figures a script prints, nanoseconds a call."""
    with tempfile.TemporaryDirectory() as here:
        done = subprocess.run(
            [str(python), "-c", code, str(calls)], capture_output=True, text=True, check=True,
            cwd=here,
        )  # fmt: skip
    return [float(line) for line in done.stdout.split()]


def peers() -> Path:
    """Return the Python of the peers' environment, made if it is not there."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        wanted = str(ROOT / "benchmarks" / "peers.txt")
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
    line = {
        "benchmark": "guard",
        "policy_ns": round(statistics.median(a[0] for a, _ in rounds)),
        "tenacity_pybreaker_ns": round(statistics.median(b[0] for _, b in rounds)),
        "policy_ratio": round(statistics.median(a[0] / b[0] for a, b in rounds), 3),
        "policy_goal": 0.03,
        "guarded_ns": round(statistics.median(a[1] for a, _ in rounds)),
        "with_otel_ns": round(statistics.median(b[1] for _, b in rounds)),
        "guarded_ratio": round(statistics.median(a[1] / b[1] for a, b in rounds), 3),
        "guarded_goal": 0.8,
        "rounds": options.rounds,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()

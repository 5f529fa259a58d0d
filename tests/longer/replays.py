"""1,000 generated agents recorded and replayed, and every change in 50 of them found at its span.

Run: `python tests/longer/replays.py [RUNS] [CHANGED] [FIRST_SEED]` (some minutes). Half of the
agents are asynchronous; threads, tasks, streams, retries, fallbacks, cancels and budgets are among
what they do, at random, with answers and latencies by chance. No connection may be opened and no
key is set; Python's hash seed is its own each time. Prints one JSON line; what is not as it should
be names its seed and makes the exit code 1.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "replay"))

from generated import POLICY, TYPES, agent_of, program, record
from mutations import misnamed

from towerkit.replay import replay


def main(runs: int = 1000, changed: int = 50, first: int = 0) -> int:
    """Record, replay, change; return the exit code."""
    logging.disable(logging.CRITICAL)
    for name in [n for n in os.environ if n.endswith("_API_KEY")]:
        del os.environ[name]
    connections: list[object] = []

    def refuse(_: object, where: object) -> None:
        connections.append(where)
        raise AssertionError("a replay opened a connection")

    socket.socket.connect = refuse  # type: ignore[method-assign]
    equal = tried = spans = 0
    wrong: list[str] = []
    met: Counter[str] = Counter()
    for seed in range(first, first + runs):
        with tempfile.TemporaryDirectory() as store:
            pack = record(store, seed)
            asynchronous, _, ops = program(seed)
            agent = agent_of(asynchronous, ops)
            report = replay(pack, agent, exceptions=TYPES, policy=POLICY)
            equal += report.equal
            spans += report.spans_recorded
            met.update(c for c in pack.frame("spans")["error_class"] if c is not None)
            if not report.equal:
                wrong.append(f"seed {seed}: {report.lines()}")
            if seed < first + changed:
                more, missed = misnamed(pack, seed, POLICY)
                tried, wrong = tried + more, wrong + missed
    print(*wrong, sep="\n", end="\n" if wrong else "")
    figures = {
        "runs": runs, "equal": equal, "spans": spans, "errors_met": dict(met.most_common()),
        "changes": tried, "wrong": len(wrong), "connections": len(connections),
    }  # fmt: skip
    print(json.dumps(figures))
    return 1 if wrong or connections else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

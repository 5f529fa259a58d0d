"""Budgets at length: 64 threads of 64 tasks, every cut of a stream, processes killed by hundreds.

Run: `python tests/longer/budgets.py [OPERATIONS] [KILLS]` (1,000,000 and 400, about four minutes).
Prints one JSON line a part; what does not hold ends it with a traceback.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.cost.accounts import ChargedAfterwards, storm
from tests.runtime.killed import killed
from tests.runtime.test_budgets import QUESTION, cut_run
from towerkit.cost.tokens import counter
from towerkit.runtime.shared_budgets import SqliteBudgets


def told(part: str, **figures: object) -> None:
    """Print a part's figures."""
    print(json.dumps({"part": part, **figures}), flush=True)


def storms(operations: int) -> None:
    """Hold every limit at every instant, and see that the usual way does not."""
    begin = time.perf_counter()
    seen = storm(threads=64, tasks=64, operations=operations, seed=1)
    assert (seen.over, seen.left_reserved, seen.sums_exact) == (0, 0, True)
    control = storm(threads=64, tasks=64, operations=operations // 4, seed=1,
                    ledger=ChargedAfterwards)  # fmt: skip
    assert control.over > 0
    told("storm", operations=seen.operations, refused=seen.refused, over=seen.over,
         left_reserved=seen.left_reserved, control_over=control.over,
         seconds=round(time.perf_counter() - begin, 1))  # fmt: skip


def cuts() -> None:
    """Cut a stream at each of 60 chunks, in five ways, left in four."""
    count = counter("gpt-4o")
    assert count is not None
    asked = sum(count(message["content"]) + 4 for message in QUESTION)
    worst, cells = 0.0, 0
    for how in ("close", "reset", "stall", "clean_end", "sse_error"):
        for leave in ("read on", "break", "cancel", "collected"):
            for at in range(1, 61):
                run, got = cut_run(how, leave, at)
                (charge,) = run.recorder._costs
                assert charge.cost.nanousd == run.ledger.spent > 0
                truth = asked + count("".join(got))
                used = charge.usage.input_tokens + charge.usage.output_tokens
                worst, cells = max(worst, abs(used - truth) / truth), cells + 1
    assert worst <= 0.05
    told("cuts", cells=cells, charged_once=cells, worst_error=round(worst, 4))


def kills(n: int) -> None:
    """Kill processes that share a day's limit; what was billed stays within it."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        billed, spent, limit = killed(
            lambda: SqliteBudgets(here / "budgets"), here / "bills", n, limit=2_000 * n
        )  # fmt: skip
    told("kills", kills=n, limit=limit, counted=spent, billed=billed)


def main(operations: int = 1_000_000, kill: int = 400) -> None:
    """Run all parts."""
    storms(operations)
    cuts()
    kills(kill)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

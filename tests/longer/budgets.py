"""Budgets at length: 64 threads of 64 tasks, every cut of a stream, processes killed by hundreds.

Run: `python tests/longer/budgets.py [OPERATIONS] [KILLS]` (1,000,000 and 400, about four minutes).
Prints one JSON line a part; what does not hold ends it with a traceback.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.cost.accounts import ChargedAfterwards, storm
from tests.cost.kinds import KINDS
from tests.runtime.killed import killed
from tests.runtime.test_budgets import TRUTHS, cut_run
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
    """Cut a stream at each of 60 chunks, in five ways, left in four: of three models, six texts.

    The tokenizer of the first model is here; of the others the run has seen one whole answer.
    """
    for model, kind in itertools.product(TRUTHS, KINDS):
        off = [
            abs(cut_run(how, leave, at, model=model, kind=kind)[2])
            for how in ("close", "reset", "stall", "clean_end", "sse_error")
            for leave in ("read on", "break", "cancel", "collected")
            for at in range(1, 61)
        ]
        within = sum(one <= 0.05 for one in off) / len(off)
        assert model != "gpt-4o" or within == 1
        told("cuts", model=model, text=kind, cells=len(off), charged_once=len(off),
             mean_error=round(sum(off) / len(off), 4), worst_error=round(max(off), 4),
             within_5_percent=round(within, 3))  # fmt: skip


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

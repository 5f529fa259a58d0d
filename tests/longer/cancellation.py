"""Cancellation at any await, 50,000 schedules: no open span, reservation or permit is left.

Run: `python tests/longer/cancellation.py [SCHEDULES] [FIRST_SEED]` (about four minutes). Prints one
JSON line; a schedule that fails names its seed and ends the run with a traceback.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.runtime.schedules import schedule


def main(schedules: int = 50_000, first: int = 0) -> None:
    """Run the schedules."""
    logging.disable(logging.CRITICAL)  # keys that are not renewed are logged, here by the thousand
    steps = cancelled = 0
    with tempfile.TemporaryDirectory() as store:
        for seed in range(first, first + schedules):
            try:
                made, cut = schedule(seed, store)
            except BaseException:
                print(f"seed {seed}")
                raise
            steps, cancelled = steps + made, cancelled + cut
    figures = {"schedules": schedules, "cancelled": cancelled, "awaits": steps, "left_open": 0}
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

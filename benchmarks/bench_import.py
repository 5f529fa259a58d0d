"""What an agent's process pays for the guard, beside `import polars`.

Fresh interpreters in turn, one of each a round; prints one JSON line with the medians in
milliseconds and the median of the paired ratios. Goal: at most 0.5.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys

GUARD, PEER = "import towerkit; towerkit.Tower", "import polars"


def milliseconds(code: str) -> float:
    """Return how long `code` takes in a fresh interpreter, its start not counted."""
    probe = f"from time import perf_counter as t; a = t(); {code}; print((t() - a) * 1000)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    """Run the rounds and print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    milliseconds(GUARD), milliseconds(PEER)  # warm the file cache
    pairs = [(milliseconds(GUARD), milliseconds(PEER)) for _ in range(rounds)]
    line = {
        "benchmark": "import",
        "guard_ms": round(statistics.median(a for a, _ in pairs), 1),
        "polars_ms": round(statistics.median(b for _, b in pairs), 1),
        "ratio": round(statistics.median(a / b for a, b in pairs), 3),
        "goal": 0.5,
        "rounds": rounds,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()

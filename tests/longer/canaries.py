"""Plant values of every structured class on every path of a run, often, and look for them.

`python tests/longer/canaries.py --runs 10000` prints one JSON line; it fails at the first leak. A
run here is one agent run: each seed makes one for each class.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.privacy.canaries import leaks, tower_at
from tests.privacy.instances import CLASSES


def main() -> None:
    """Run the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000)
    runs = parser.parse_args().runs
    seeds = -(-runs // len(CLASSES))
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as here:
            found = leaks(seed, Path(here), capture_tower=tower_at)
        if found:
            sys.exit(f"seed {seed}: {found}")
    print(json.dumps({"canaries": seeds * len(CLASSES), "leaks": 0}))


if __name__ == "__main__":
    main()

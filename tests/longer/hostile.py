"""100,000 hostile objects through the guarded call: the agent cannot tell it from the bare one.

Run: `python tests/longer/hostile.py [EXAMPLES] [FIRST_SEED]` (some minutes). Prints one JSON line;
an example that differs names its seed and ends the run.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.runtime.hostile import Gigabyte, compare
from tests.runtime.test_hostile_calls import a_tower
from towerkit.core.env import VirtualEnv


def main(examples: int = 100_000, first: int = 1_000_000) -> None:
    """Compare, a thousand calls a run."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as store:
        tower = a_tower(store)
        for begin in range(first, first + examples, 1000):
            with tower.run("hostile", env=VirtualEnv(begin), keep=False) as run:
                for seed in range(begin, min(begin + 1000, first + examples)):
                    compare(seed, run)
    asked = Gigabyte.asked
    print(json.dumps({"examples": examples, "differences": 0, "asked_for_a_gigabyte": asked}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))

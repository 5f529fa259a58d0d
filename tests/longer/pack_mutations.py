"""100,000 mutations of 20 signed packs: each is found, and raises `PackError` and nothing else.

Run: `python tests/longer/pack_mutations.py [MUTATIONS] [FIRST_SEED]` (some minutes). Prints one
JSON line; a mutation that is not found names its seed, and the exit code is 1.
"""

from __future__ import annotations

import collections
import itertools
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.packs.mutations import World, signed_packs


def main(mutations: int = 100_000, first: int = 0) -> int:
    """Mutate."""
    kinds: collections.Counter[str] = collections.Counter()
    missed = []
    with tempfile.TemporaryDirectory() as scratch:
        folders, public = signed_packs(Path(scratch), 20)
        world = World(folders, public, Path(scratch) / "copies")
        for seed in itertools.count(first):
            if kinds.total() == mutations:
                break
            try:
                kind, found = world.found(seed)
            except BaseException:
                print(f"seed {seed}")
                raise
            kinds[kind] += found is not None  # a draw may change nothing
            if found is False:
                missed.append((seed, kind))
    figures = {"packs": 20, "mutations": mutations, "found": mutations - len(missed)}
    print(json.dumps({**figures, "missed": missed[:20], "kinds": dict(sorted(kinds.items()))}))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))

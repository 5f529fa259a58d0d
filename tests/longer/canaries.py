"""Plant a value of every class on every path, alone, and look for it in every sink.

`python tests/longer/canaries.py` (`--seeds N`) prints one JSON line and exits 1 at the first seed
that leaks. A seed is one new value of each class: each alone on each path, every stream cut at
every offset (ours, and server-sent events over HTTP); then packs, journals while runs are open and
after a kill, logs, OTLP, the commands, executed notebooks and their pages are searched.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.privacy import canaries, commands, planting


def seed_leaks(seed: int, root: Path) -> tuple[int, int, list[str]]:
    """Return how many values and bytes were looked at, and what was found."""
    values = canaries.planted(seed)
    search = canaries.Search((name, value) for name, (value, _) in values.items())
    exporter, looked, found = canaries.Exporter(), 0, []
    tower = planting.tower_at(root / "store", otel_exporter=exporter, otel_content=True)
    sinks: dict[str, bytes] = {}
    with canaries.Logged() as logged:
        for name, (_, text) in values.items():
            canaries.plant(tower, [text])
            whole = range(len(text) + 1)
            planting.stream(tower, text, text, offsets=whole)
            planting.over_http(tower, text, text, offsets=whole)
            sinks[f"journal of {name}"] = canaries.journals(tower, text)
            sinks[f"killed with {name}"] = canaries.killed(root / "killed" / name, seed, name)
            sinks[f"commands with {name}"] = commands.commands_meet(
                root / "given" / name, text, tower.store.root
            )
        sinks |= canaries.left(tower, exporter, logged)
    sinks["filters"] = canaries.filters([text for _, text in values.values()])
    sinks["notebooks"] = canaries.notebooks(tower.store, root / "reports")
    for sink, data in sinks.items():
        looked += len(data)
        found += search(sink, data)
    return len(values), looked, found


def main() -> None:
    """Run the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    values = looked = 0
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as here:
            os.environ["HOME"] = here  # a key of its own
            more, read, found = seed_leaks(seed, Path(here))
        values, looked = values + more, looked + read
        if found:
            print("\n".join(found[:40]), file=sys.stderr)
            sys.exit(f"seed {seed}: {len(found)} leaks")
    print(json.dumps({
        "classes": values // options.seeds, "values": values, "paths": len(planting.PATHS),
        "bytes": looked, "leaks": 0,
    }))  # fmt: skip


if __name__ == "__main__":
    main()

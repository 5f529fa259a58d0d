"""Make the made-up runs of `tests/drift/fake_runs.py` importable here."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "drift"))

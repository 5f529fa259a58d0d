"""All recorded usage: how much of it is accounted, priced as others expect, and estimated.

Run: `python tests/longer/usage.py [FOLDER]`, where FOLDER is that of the recorded runs. Prints one
JSON line, with each miss and its reason.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.cost import recorded
from towerkit.cost.prices import default_book

DATA = Path(__file__).resolve().parent.parent.parent.parent / "shared" / "data"


def main() -> None:
    """Compare and print."""
    given = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TOWERKIT_REAL_DATA")
    folder = Path(given) if given else DATA
    asked, missed = recorded.price_misses(folder, default_book())
    figures = {
        "prices": asked, "priced_as_expected": asked - sum(missed.values()),
        "misses": {
            f"{provider}/{model}": [n, recorded.EXPLAINED.get((provider, model), "unexplained")]
            for (provider, model), n in sorted(missed.items())
        },
        "answers": {" ".join(k): n for k, n in sorted(recorded.account(folder).items())},
        "estimates": {p: e._asdict() for p, e in recorded.estimates(folder).items()},
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

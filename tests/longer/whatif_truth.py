"""What-if against truth: policy B is really run on the traffic that was recorded under policy A.

Run: `python tests/longer/whatif_truth.py [RUNS [SEED]]` (about two minutes with the default of 100
runs a pair). Prints a JSON line a pair and one for all, and exits 1 when an exact quantity is not
the truth, or when the truth lies outside of its bounds in more than 5 % of what is bounded or
unknown.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).parents[1] / "whatif")]

from nights import (  # noqa: E402
    CALLS,
    CHEAPER,
    CLAMP,
    LARGE,
    SMALL,
    TIMED,
    Night,
    Settings,
    budget_asked,
    truth_of,
)

from towerkit.reliability.policy import Policy  # noqa: E402
from towerkit.whatif.record import read_record  # noqa: E402
from towerkit.whatif.rows import QUANTITIES  # noqa: E402
from towerkit.whatif.shared import walk_runs  # noqa: E402
from towerkit.whatif.world import World  # noqa: E402

SHORT = Policy(deadline_s=60.0)
# Name, the recorded settings, those of the other world, and what the night is like.
PAIRS: tuple[tuple[str, Settings, Settings, dict], ...] = (
    ("the same", Settings(), Settings(), {}),
    ("the same, a bad night", Settings(), Settings(), {"faults": 0.6}),
    ("2 attempts for 4", Settings(), Settings(policy=Policy(max_attempts=2)), {}),
    ("1 attempt for 4", Settings(), Settings(policy=Policy(max_attempts=1)), {}),
    ("4 attempts for 2", Settings(policy=Policy(max_attempts=2)), Settings(), {}),
    ("8 attempts for 4", Settings(), Settings(policy=Policy(max_attempts=8)), {}),
    ("8 s for 12 s", Settings(), Settings(policy=Policy(attempt_timeout_s=8.0)), {}),
    ("20 s for 8 s", Settings(policy=Policy(attempt_timeout_s=8.0)),
     Settings(policy=Policy(attempt_timeout_s=20.0)), {}),
    ("cap 2 s for 8 s", Settings(), Settings(policy=Policy(backoff_cap_s=2.0)), {"faults": 0.3}),
    ("cap 20 s for 1 s", Settings(policy=Policy(backoff_cap_s=1.0)),
     Settings(policy=Policy(backoff_cap_s=20.0)), {"faults": 0.3}),
    ("Retry-After at most 5 s", Settings(), Settings(policy=Policy(max_retry_after_s=5.0)), {}),
    ("Retry-After up to 60 s for 5 s", Settings(policy=Policy(max_retry_after_s=5.0)),
     Settings(), {}),
    ("deadline 20 s for 300 s", Settings(), Settings(policy=Policy(deadline_s=20.0)), {}),
    ("deadline 300 s for 20 s", Settings(policy=Policy(deadline_s=20.0)), Settings(), {}),
    ("$0.004 for $0.05", Settings(budget_usd=0.05), Settings(budget_usd=0.004), {}),
    ("$0.05 for $0.004", Settings(budget_usd=0.004), Settings(budget_usd=0.05), {}),
    ("$0.004 for $0.05, redacted", Settings(budget_usd=0.05), Settings(budget_usd=0.004),
     {"personal": True}),
    ("small model first", Settings(), Settings(chain=(SMALL, LARGE)), {}),
    ("no second model", Settings(), Settings(chain=(LARGE,)), {}),
    ("at most 5 calls", Settings(), Settings(policy=Policy(max_steps=5)), {}),
    ("close together, 3 attempts", Settings(policy=SHORT),
     Settings(policy=Policy(deadline_s=60.0, max_attempts=3)), {"apart_s": 75.0, "faults": 0.35}),
    ("close together, no second model", Settings(policy=SHORT),
     Settings(policy=SHORT, chain=(LARGE,)), {"apart_s": 75.0, "faults": 0.35}),
    ("close together, cap and budget", Settings(policy=SHORT, budget_usd=0.02),
     Settings(policy=Policy(deadline_s=60.0, backoff_cap_s=2.0), budget_usd=0.01),
     {"apart_s": 75.0, "faults": 0.35}),
    ("close together, 6 s", Settings(policy=SHORT),
     Settings(policy=Policy(deadline_s=60.0, attempt_timeout_s=6.0)),
     {"apart_s": 75.0, "faults": 0.3}),
    ("limits on calls, 2 attempts", Settings(plan=CALLS),
     Settings(plan=CALLS, policy=Policy(max_attempts=2)), {"faults": 0.4}),
    ("limits on time, cap 2 s", Settings(plan=TIMED),
     Settings(plan=TIMED, policy=Policy(backoff_cap_s=2.0)), {"faults": 0.4}),
    ("a cheaper model, 1 attempt", Settings(plan=CHEAPER),
     Settings(plan=CHEAPER, policy=Policy(max_attempts=1)), {"faults": 0.4}),
    ("smaller requests, 8 s", Settings(plan=CLAMP),
     Settings(plan=CLAMP, policy=Policy(attempt_timeout_s=8.0)), {"faults": 0.4}),
)  # fmt: skip


def compare(pair: tuple[str, Settings, Settings, dict], *, runs: int, seed: int) -> dict:
    """Return how what-if fares on one pair: shares of rows, and what was right of what it said."""
    name, recorded, other, night = pair
    traffic = Night(seed, runs=runs, **night)
    with tempfile.TemporaryDirectory() as scratch:
        was = traffic.play(Path(scratch) / "a", recorded)
        truth = {k: truth_of(p) for k, p in traffic.play(Path(scratch) / "b", other).items()}
        records = [read_record(p) for p in was.values()]
    world = World(policy=other.policy, budget_usd=budget_asked(other), chain=other.chain, name=name)
    rows: Counter[str] = Counter()
    said: dict[str, list[int]] = {"exact": [0, 0], "bounded": [0, 0], "unknown": [0, 0]}
    wrong = []
    for case, walk in zip(was, walk_runs(records, world), strict=True):
        rows[walk.row.label] += 1
        for quantity in QUANTITIES:
            found, true = walk.row.quantity(quantity), getattr(truth[case], quantity)
            holds = found.low <= true and (found.high is None or true <= found.high)
            said[found.label][0] += holds
            said[found.label][1] += 1
            if not holds:
                wrong.append([case, quantity, found.low, found.high, found.label, true])
    return {"pair": name, "rows": dict(rows), "held": said, "wrong": wrong[:5]}


def main() -> int:
    """Compare every pair; print what came out."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    held = {"exact": [0, 0], "bounded": [0, 0], "unknown": [0, 0]}
    rows: Counter[str] = Counter()
    for number, pair in enumerate(PAIRS):
        found = compare(pair, runs=runs, seed=seed + number)
        print(json.dumps(found), flush=True)
        rows.update(found["rows"])
        for label, (good, all_) in found["held"].items():
            held[label] = [held[label][0] + good, held[label][1] + all_]
    inside = sum(held[n][0] for n in ("bounded", "unknown"))
    of = sum(held[n][1] for n in ("bounded", "unknown"))
    print(json.dumps({
        "pairs": len(PAIRS), "runs": sum(rows.values()), "rows": dict(rows),
        "exact": held["exact"], "bounded": held["bounded"], "unknown": held["unknown"],
        "share_of_unknown_rows": round(rows["unknown"] / sum(rows.values()), 3),
    }))  # fmt: skip
    return int(held["exact"][0] < held["exact"][1] or inside < 0.95 * of)


if __name__ == "__main__":
    sys.exit(main())

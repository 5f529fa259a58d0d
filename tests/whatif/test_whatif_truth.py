"""What-if against truth, a few pairs of policies; all of them are in tests/longer."""

from __future__ import annotations

import pytest
from nights import LARGE, SMALL, Night, Settings, truth_of

from towerkit.reliability.policy import Policy
from towerkit.whatif import QUANTITIES, World, records_of, whatif

SHORT = Policy(deadline_s=60.0)
CLOSE = {"apart_s": 75.0, "faults": 0.35}
PAIRS = {
    "the same": (Settings(), Settings(), {"faults": 0.6}),
    "fewer attempts": (Settings(), Settings(policy=Policy(max_attempts=2)), {}),
    "shorter time-out": (Settings(), Settings(policy=Policy(attempt_timeout_s=8.0)), {}),
    "longer time-out": (Settings(policy=Policy(attempt_timeout_s=8.0)), Settings(), {}),
    "another cap": (Settings(), Settings(policy=Policy(backoff_cap_s=2.0)), {"faults": 0.3}),
    "a longer cap, and a breaker that refuses": (
        Settings(policy=Policy(backoff_cap_s=1.0)),
        Settings(policy=Policy(backoff_cap_s=20.0)),
        {"faults": 0.3, "seed": 1009},
    ),
    "shorter deadline": (Settings(), Settings(policy=Policy(deadline_s=20.0)), {}),
    "less budget": (Settings(budget_usd=0.05), Settings(budget_usd=0.004), {"personal": True}),
    "more budget": (Settings(budget_usd=0.004), Settings(budget_usd=0.05), {}),
    "other order": (Settings(), Settings(chain=(SMALL, LARGE)), {}),
    "breakers": (Settings(policy=SHORT), Settings(policy=SHORT, chain=(LARGE,)), CLOSE),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_said_holds_where_the_other_policy_really_runs(name, tmp_path) -> None:
    """Exact is the truth, and the truth lies within every interval."""
    recorded, other, night = PAIRS[name]
    traffic = Night(**{"seed": 11, "runs": 10} | night)
    was = traffic.play(tmp_path / "a", recorded)
    truth = [truth_of(pack) for pack in traffic.play(tmp_path / "b", other).values()]
    world = World(policy=other.policy, budget_usd=other.budget_usd or 0.0, chain=other.chain)
    found = whatif(records_of(list(was.values())), world)
    for row, true in zip(found.runs, truth, strict=True):
        for quantity in QUANTITIES:
            said, is_ = row.quantity(quantity), getattr(true, quantity)
            assert said.low <= is_, (row.run_id, quantity, said)
            assert said.high is None or is_ <= said.high, (row.run_id, quantity, said)
    if name == "the same":
        assert found.rows["exact"] == 10
        assert found.changed == 0
    else:
        assert found.changed > 0


def test_the_night_meets_faults_and_both_policies_meet_the_same_ones(tmp_path) -> None:
    """The simulator is no easy world, and playing it twice gives the same evidence."""
    night = Night(11, runs=10, faults=0.3)
    once, twice = (night.play(tmp_path / n, Settings()) for n in "ab")
    assert [p.digest for p in once.values()] == [p.digest for p in twice.values()]
    truth = [truth_of(p) for p in once.values()]
    assert sum(t.fallbacks for t in truth) > 0
    assert sum(t.calls_failed for t in truth) > 0
    assert {t.run_success for t in truth} == {0, 1}

"""What-if against truth, a few pairs of policies; all of them are in tests/longer."""

from __future__ import annotations

import pytest
from nights import (
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
    "limits on calls, fewer attempts": (
        Settings(plan=CALLS),
        Settings(plan=CALLS, policy=Policy(max_attempts=2)),
        {"faults": 0.4},
    ),
    "limits on time, a cap": (
        Settings(plan=TIMED),
        Settings(plan=TIMED, policy=Policy(backoff_cap_s=2.0)),
        {"faults": 0.4},
    ),
    "a cheaper model, fewer attempts": (
        Settings(plan=CHEAPER),
        Settings(plan=CHEAPER, policy=Policy(max_attempts=1)),
        {"faults": 0.4},
    ),
    "smaller requests, a shorter time-out": (
        Settings(plan=CLAMP),
        Settings(plan=CLAMP, policy=Policy(attempt_timeout_s=8.0)),
        {"faults": 0.4},
    ),
    "breakers": (Settings(policy=SHORT), Settings(policy=SHORT, chain=(LARGE,)), CLOSE),
}


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_said_holds_where_the_other_policy_really_runs(name, tmp_path) -> None:
    """Exact is the truth, and the truth lies within every interval."""
    recorded, other, night = PAIRS[name]
    traffic = Night(**{"seed": 11, "runs": 10} | night)
    was = traffic.play(tmp_path / "a", recorded)
    truth = [truth_of(pack) for pack in traffic.play(tmp_path / "b", other).values()]
    world = World(policy=other.policy, budget_usd=budget_asked(other), chain=other.chain)
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


@pytest.mark.parametrize("plan", [CALLS, TIMED, CHEAPER, CLAMP], ids=lambda plan: str(list(plan)))
def test_a_budget_that_stays_decides_as_it_did(tmp_path, plan) -> None:
    """Refusals and ways out that are in the record are walked: every row is exact."""
    settings = Settings(plan=plan)
    night = Night(11, runs=12, faults=0.4)
    was = night.play(tmp_path, settings)
    records = records_of(list(was.values()))
    assert sum(len(call.shorts) for record in records for call in record.calls) > (
        plan is not TIMED
    )
    found = whatif(records, World(policy=settings.policy))
    assert found.rows["exact"] == 12, [row.reason for row in found.runs if row.reason]
    assert found.changed == 0


def test_a_smaller_budget_with_a_way_out_is_not_said_to_refuse(tmp_path) -> None:
    """What the cheaper model would have answered is in no record: unknown, not a breach."""
    big = {"run": {"cost_usd": 0.05}, "short": ["cheaper"]}
    was = Night(11, runs=10, faults=0.1).play(tmp_path, Settings(plan=big))
    found = whatif(records_of(list(was.values())), World(budget_usd=0.0001))
    assert found.rows["unknown"] > 0
    assert any("what cheaper would bring" in (row.reason or "") for row in found.runs)
    assert not any(row.budget_breach.low for row in found.runs)

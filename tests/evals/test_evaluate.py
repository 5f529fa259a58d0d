"""An evaluation is a function of its set-up; what it scores is what the runs did."""

from __future__ import annotations

import msgspec
import polars as pl
import pytest

from towerkit.core.errors import StoreError
from towerkit.core.types import Response
from towerkit.cost.budget import Limits
from towerkit.cost.plan import Budget
from towerkit.evals import ModelChoice, Setup, evaluate, run_case
from towerkit.gate import gather, judge, load_rules
from towerkit.packs.store import Store
from towerkit.reliability.policy import Policy
from towerkit.replay import replay_scenario
from towerkit.runtime import models
from towerkit.scenarios import load_scenario

SCENARIO = load_scenario("billing_dispute_resolution")


def setup_in(path, *, seed=7, scenario=SCENARIO, **options):
    options.setdefault("models", ModelChoice())
    return Setup(scenario=scenario, store=Store(path), release="r", seed=seed, budget_usd=0.09,
                 **options)  # fmt: skip


def some(n=4):
    return [*SCENARIO.suite("golden")[:n], *SCENARIO.suite("adversarial")[:n]]


def test_order_and_choice_of_cases_change_nothing(tmp_path):
    """Each case has an environment of its own: its pack is the same whatever runs beside it."""
    cases = some()
    a = evaluate(setup_in(tmp_path / "a"), cases, trials=1, eval_id="e")
    b = evaluate(setup_in(tmp_path / "b"), cases[::-1][:3], trials=1, eval_id="e")
    first = {r.case.case_id: r.pack.digest for r in a.runs}
    assert all(first[r.case.case_id] == r.pack.digest for r in b.runs)


def test_trials_are_other_runs_of_the_same_case(tmp_path):
    """A repeat has another seed, another run id and its own trial number."""
    done = evaluate(setup_in(tmp_path), some(1), trials=3, eval_id="e")
    assert len({r.pack.run_id for r in done.runs}) == 6
    frame = pl.read_parquet(done.scores_file)
    assert sorted(frame.filter(pl.col("primary"))["trial"].to_list()) == [0, 0, 1, 1, 2, 2]


def test_every_recorded_run_replays_equal(tmp_path):
    """Replay holds for golden and adversarial cases, injected faults included."""
    cases = [c for c in SCENARIO.suite("adversarial") if c.faults][:4] + some(3)
    for done in evaluate(setup_in(tmp_path), cases, trials=1, eval_id="e").runs:
        report = replay_scenario(done.pack)
        assert report.divergence is None, done.case.case_id


def test_one_word_of_the_prompt_is_found(tmp_path):
    """The first model call differs, at the system message, and the prompt is named as changed."""
    run = run_case(setup_in(tmp_path), SCENARIO.ticket(None), eval_id="e", role="ticket")
    report = replay_scenario(run.pack, prompt=SCENARIO.prompt().replace("billing", "bowling", 1))
    assert report.divergence.span.startswith("chat ")
    assert "message 0" in report.divergence.reason
    assert report.changed == ("the prompt",)


def test_a_run_the_infrastructure_failed_is_unscored(tmp_path):
    """A provider that is down says nothing of the agent; the gate bounds the case."""

    def down(_request) -> Response:
        raise ConnectionRefusedError("nobody there")

    real = ModelChoice(real=(models.function(down, name="down"),))
    cases = SCENARIO.suite("golden")[:2]
    fast = setup_in(tmp_path, models=real, policy=Policy(backoff_cap_s=0.01))
    done = evaluate(fast, cases, trials=1, eval_id="e")
    rows = pl.read_parquet(done.scores_file).filter("primary").to_dicts()
    assert [r["scored"] for r in rows] == [False, False]
    assert [r["error_class"] for r in rows] == ["connect_failed"] * 2
    side = gather(Store(tmp_path), candidate="eval=e").candidate
    assert side.undetermined == {"infrastructure failure": 2}
    assert (
        judge(gather(Store(tmp_path), candidate="eval=e"), load_rules(SCENARIO.name)).verdict
        != "PASS"
    )


def test_a_spent_budget_is_the_agents_failure(tmp_path):
    """A run that its budget stopped is scored 0, not left out."""
    poor = msgspec.structs.replace(setup_in(tmp_path), budget_usd=0.005)
    done = run_case(poor, SCENARIO.suite("golden")[0], eval_id="e")
    assert done.pack.manifest["error_class"] == "budget_exceeded"
    assert [s.value for s in done.scores if s.primary] == [0.0]


def test_a_whole_budget_limits_the_runs_and_names_the_evaluation(tmp_path):
    """Two calls a run: the third is refused; another budget is another evaluation."""
    setup = msgspec.structs.replace(
        setup_in(tmp_path), budget_usd=None, budget=Budget(run=Limits(calls=2))
    )
    case = setup.scenario.suite("golden")[0]
    done = run_case(setup, case, eval_id="e")
    assert done.pack.manifest["status"] == "stopped"
    assert done.pack.manifest["budget"]["plan"] == {"run": {"calls": 2}}
    other = msgspec.structs.replace(setup, budget=Budget(run=Limits(calls=3)))
    ids = {setup_in(tmp_path).eval_id(), setup.eval_id(), other.eval_id()}
    assert len(ids) == 3


def test_notes_of_scores_are_redacted(tmp_path):
    """What a scorer says of a disclosure does not disclose it again."""
    done = evaluate(
        setup_in(tmp_path, seed=3), SCENARIO.suite("adversarial"), trials=1, eval_id="e"
    )
    notes = [n for n in pl.read_parquet(done.scores_file)["note"] if n]
    assert notes
    assert not [n for n in notes if "@" in n]


def test_a_store_that_cannot_be_written_ends_the_evaluation(tmp_path):
    """Evidence is the point: without it there is one clear error."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot write run"):
        run_case(setup_in(tmp_path / "file"), some(1)[0], eval_id="e")


def test_the_agent_does_not_know_which_model_answers(tmp_path):
    """The same agent under another chain: a model that only talks ends the run in one turn."""
    talker = models.function(lambda _: "I cannot help.", name="talker")
    done = run_case(setup_in(tmp_path, models=ModelChoice(real=(talker,))), some(1)[0], eval_id="e")
    assert done.pack.manifest["status"] == "completed"
    assert [s.value for s in done.scores if s.primary] == [0.0]
    assert done.pack.manifest["simulated"] is False

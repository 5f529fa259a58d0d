"""Running cases of a scenario under the tower, and writing down what they scored.

Rule: with simulated models an evaluation is a function of (scenario, seed, trials, budget): each
case has an environment of its own, whose seed is derived from the evaluation's, so order and
selection of cases change nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.canonical import digest_of, sha256_hex
from towerkit.core.env import Env, SystemEnv, VirtualEnv, derive_seed
from towerkit.core.errors import StoreError
from towerkit.core.types import Model
from towerkit.cost.plan import Budget
from towerkit.packs.store import Pack, Store
from towerkit.packs.tables import SCORES
from towerkit.packs.writer import Row
from towerkit.privacy.keys import local_redactor, simulated_redactor
from towerkit.privacy.redact import Redactor
from towerkit.reliability.policy import Policy
from towerkit.runtime.run import Run
from towerkit.runtime.tower import Tower
from towerkit.scenarios import Case, Scenario, Score, outcome_of


class ModelChoice(msgspec.Struct, frozen=True, kw_only=True):
    """Which models answer: real ones, or the scenario's simulated chain when `real` is empty."""

    real: tuple[Model, ...] = ()

    @property
    def simulated(self) -> bool:
        """Whether a simulated model answers, on a simulated clock."""
        return not self.real


class CaseRun(msgspec.Struct, frozen=True, kw_only=True):
    """One case under the tower: its sealed pack and its scores."""

    case: Case
    trial: int
    pack: Pack
    scores: tuple[Score, ...]


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation was and what it wrote. `eval_id` selects its runs: `eval=ID`."""

    eval_id: str
    runs: tuple[CaseRun, ...]
    scores_file: Path


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What every case of an evaluation shares; `budget_usd` is short for a `budget` of cost."""

    scenario: Scenario
    store: Store
    models: ModelChoice
    release: str
    seed: int
    budget_usd: float | None = None
    budget: Budget | None = None
    policy: Policy = Policy()

    def identity(self) -> dict[str, Any]:
        """Return what names the agent under test: digests of its code and of its prompt."""
        return {
            "agent_digest": _source_digest(self.scenario),
            "prompt_digest": sha256_hex(self.scenario.prompt().encode()),
        }

    def eval_id(self, **more: Any) -> str:
        """Return the id of an evaluation with this set-up: equal set-ups share it."""
        names = [f"{m.provider}/{m.name}" for m in self.models.real] or ["simulated"]
        if self.budget is not None:
            more["budget"] = self.budget.described()
        parts = [self.scenario.name, self.release, self.seed, self.budget_usd, names,
                 self.policy.digest(), self.identity(), more]  # fmt: skip
        return digest_of(parts)[:16]


def _source_digest(scenario: Scenario) -> str:
    """Return a digest over the source files of the scenario's package."""
    module = sys.modules[scenario.agent.__module__]
    folder = Path(str(module.__file__)).parent
    files = {p.name: sha256_hex(p.read_bytes()) for p in sorted(folder.glob("*.py"))}
    return digest_of(files)


def run_case(
    setup: Setup, case: Case, *, eval_id: str, trial: int = 0,
    faults: Sequence[Mapping[str, Any]] = (), role: str = "suite",
) -> CaseRun:  # fmt: skip
    """Run one case, seal its pack and score it. Raises `StoreError` when it cannot be stored.

    `role` "ticket" marks a run made to be looked at: no gate expects a score of it.
    """
    scenario, simulated = setup.scenario, setup.models.simulated
    seed = setup.seed if trial == 0 else derive_seed(setup.seed, "trial", trial)
    env: Env = VirtualEnv(derive_seed(seed, case.case_id)) if simulated else SystemEnv()
    models = scenario.models(seed=seed, env=env) if simulated else setup.models.real
    tower = Tower(
        store=setup.store.root, models=models, policy=setup.policy, budget_usd=setup.budget_usd,
        budget=setup.budget, service=scenario.name, release=setup.release, durable=not simulated,
        redactor=_redactor(setup),
    )  # fmt: skip
    identity = {"case_id": case.case_id, "trial": trial, **setup.identity()}
    run = tower.run(
        scenario.name, task=case.task, env=env, faults=[*faults, *case.faults],
        identity=identity, source={"eval_id": eval_id, "suite": case.suite, "role": role},
    )  # fmt: skip
    with scenario.world(case.world) as world:
        scores = _act_and_score(scenario, case, run, world)
    if run.pack is None:
        raise run.storage_error or StoreError(f"run {run.run_id} was not stored")
    return CaseRun(case=case, trial=trial, pack=run.pack, scores=tuple(scores))


def _act_and_score(scenario: Scenario, case: Case, run: Run, world: Any) -> list[Score]:
    result, error = None, None
    try:
        with run:
            result = scenario.agent(run, case.task, world, scenario.prompt())
    except Exception as raised:  # noqa: BLE001  how a run ends is what is being measured
        error = raised
    return scenario.score(case, world, outcome_of(result, error)) if case.expected else []


def evaluate(
    setup: Setup, cases: Sequence[Case], *, trials: int, jobs: int = 8, eval_id: str,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:  # fmt: skip
    """Run every case `trials` times and store the scores as one batch.

    Simulated runs go one after the other; with real models `jobs` runs wait for answers at once.
    """
    work = [(case, trial) for trial in range(trials) for case in cases]
    runs: list[CaseRun] = []

    def one(item: tuple[Case, int]) -> CaseRun:
        return run_case(setup, item[0], eval_id=eval_id, trial=item[1])

    with ThreadPoolExecutor(max_workers=1 if setup.models.simulated else jobs) as pool:
        for done in pool.map(one, work):
            runs.append(done)
            if progress is not None:
                progress(len(runs), len(work))
    rows = [row for r in runs for row in _score_rows(setup, r, eval_id)]
    path = setup.store.add_scores(rows)
    return Evaluation(eval_id=eval_id, runs=tuple(runs), scores_file=path)


def _redactor(setup: Setup) -> Redactor:
    return simulated_redactor() if setup.models.simulated else local_redactor()


def _score_rows(setup: Setup, run: CaseRun, eval_id: str) -> list[Row]:
    case, manifest, redactor = run.case, run.pack.manifest, _redactor(setup)
    definition = digest_of([case.task, case.world, case.expected])
    return [
        SCORES.make(
            run_id=run.pack.run_id,
            pack_digest=run.pack.digest,
            eval_id=eval_id,
            scenario=setup.scenario.name,
            release=setup.release,
            suite=case.suite,
            case_id=case.case_id,
            trial=run.trial,
            task_digest=definition,
            metric=s.metric,
            value=s.value,
            scored=s.scored,
            primary=s.primary,
            error_class=manifest["error_class"],
            contradicted=False,
            note=None if s.note is None else redactor.text(s.note),
            simulated=bool(manifest["simulated"]),
        )
        for s in run.scores
    ]

"""Running a scenario under every failure, and judging the checks by breaking the policy.

Rule: simulated models, simulated clock, no pack: a function of scenario and seed. A mutant changes
the table or the policy and nothing else; the checks keep the reviewed ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from towerkit.chaos.cases import OURS, Boundary, Injection, can_occur, first_of_each, injections
from towerkit.chaos.checks import Seen, Truth, violations
from towerkit.chaos.mutants import EQUIVALENT, Mutant, mutants
from towerkit.core.env import VirtualEnv, derive_seed
from towerkit.core.types import Model
from towerkit.cost.ledger import NANO
from towerkit.packs.tables import COSTS, SPANS
from towerkit.privacy.keys import simulated_redactor
from towerkit.reliability.policy import Policy
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.runtime.run import Run
from towerkit.runtime.tower import Tower
from towerkit.scenarios import Scenario

RULES = ("retried", "waited", "fell_back", "raised", "answered", "charged", "not_charged",
         "breaker_failure", "breaker_spared", "throttled")  # fmt: skip


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it. `seen` counts, for each class, the rules that were carried out.

    `unseen` are those the table prescribes and no run carried out. `violations` pairs a failure
    with what was wrong; `survivors` are mutants no check noticed.
    """

    scenario: str
    runs: int
    boundaries: int
    seen: dict[str, dict[str, int]]
    not_injected: dict[str, str]
    unseen: tuple[tuple[str, str], ...]
    violations: tuple[tuple[str, str], ...]
    mutants: int
    survivors: tuple[str, ...]
    equivalent: dict[str, str]

    @property
    def holds(self) -> bool:
        """Whether everything went as the table has it and every mutant was noticed."""
        return not self.violations and not self.survivors and not self.unseen


def chaos(
    scenario: Scenario, *, seed: int = 0, mutate: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Report:  # fmt: skip
    """Inject every class at every call of the scenario's ticket, then break the policy."""
    world = _World(scenario, seed)
    boundaries = world.boundaries()
    truth = dict(TAXONOMY)
    hits = list(injections(list(truth.values()), boundaries))
    broken = list(mutants(truth, Policy())) if mutate else []
    total, done = len(hits) + len(broken), 0
    seen: dict[str, dict[str, int]] = {name: dict.fromkeys(RULES, 0) for name in truth}
    wrong: list[tuple[str, str]] = []
    for hit in hits:
        left = world.run(hit, Policy())
        wrong += [(str(hit), v) for v in violations(hit, left, truth, Policy(), tiers=world.tiers)]
        for rule in _carried_out(hit, left):
            seen[hit.name][rule] += 1
        done += 1
        _tell(progress, done, total)
    first = first_of_each(boundaries)
    survivors = []
    for mutant in broken:
        if not _noticed(world, mutant, truth, first):
            survivors.append(str(mutant))
        done += 1
        _tell(progress, done, total)
    return Report(
        scenario=scenario.name, runs=len(hits), boundaries=len(boundaries),
        seen={name: rules for name, rules in seen.items() if name not in OURS},
        not_injected=OURS, unseen=tuple(_unseen(seen, truth)), violations=tuple(wrong),
        mutants=len(broken),
        survivors=tuple(s for s in survivors if s not in EQUIVALENT),
        equivalent={s: EQUIVALENT[s] for s in survivors if s in EQUIVALENT},
    )  # fmt: skip


def _unseen(seen: dict[str, dict[str, int]], truth: Truth) -> Iterator[tuple[str, str]]:
    """Yield what the table prescribes for a class and no run carried out."""
    for name, rules in seen.items():
        row = truth[name]
        if name in OURS:
            continue
        model = can_occur(row, "model")
        prescribed = {
            "retried": row.attempts > 1, "waited": row.attempts > 1,
            "fell_back": model and row.scope != "none",
            "charged": model and row.charge != "none",
            "not_charged": model and row.charge == "none",
            "breaker_failure": row.breaker == "failure",
            "breaker_spared": row.breaker != "failure", "throttled": row.breaker == "throttle",
            "answered": row.attempts > 1, "raised": row.scope == "none",
        }  # fmt: skip
        yield from ((name, rule) for rule, due in prescribed.items() if due and not rules[rule])


def _tell(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _noticed(world: _World, mutant: Mutant, truth: Truth, boundaries: Sequence[Boundary]) -> bool:
    """Return whether a check fails once the table or the policy is broken."""
    rows = [truth[name] for name in mutant.concerns]
    with _patched(mutant.rows):
        for hit in injections(rows, boundaries):
            left = world.run(hit, mutant.policy)
            found = violations(hit, left, truth, Policy(), tiers=world.tiers)
            if next(found, None) is not None:
                return True
    return False


@contextmanager
def _patched(rows: Mapping[str, Any]) -> Iterator[None]:
    """Put other rows into the table, for this thread's runs; the table is one for the process."""
    before = {name: TAXONOMY[name] for name in rows}
    TAXONOMY.update(rows)
    try:
        yield
    finally:
        TAXONOMY.update(before)


class _World:
    """A scenario's ticket, to be run again and again."""

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._scenario, self._seed = scenario, derive_seed(seed, "chaos")
        self._case = scenario.ticket(None)
        self.tiers = len(scenario.models(seed=self._seed, env=VirtualEnv(self._seed)))

    def boundaries(self) -> list[Boundary]:
        """Return the calls of the clean run, in order."""
        run, _ = self._carry_out([], Policy(), env=VirtualEnv(self._seed), other=False)
        found, counts = [], dict[str, int]()
        for row in _rows(run):
            if row["kind"] != "attempt":
                continue
            kind = "model" if row["gen_ai_operation_name"] == "chat" else "tool"
            name = row["gen_ai_tool_name"] or run.tower.models[0].name
            counts[name] = counts.get(name, 0) + 1
            harmless = row["idempotent"] is not False
            found.append(Boundary(kind=kind, name=name, nth=counts[name], idempotent=harmless))
        return found

    def run(self, hit: Injection, policy: Policy) -> Seen:
        """Run the ticket under a failure; return what it left."""
        # Every failure has jitter of its own: one draw may hide what another shows.
        env = VirtualEnv(derive_seed(self._seed, hit))
        run, tower = self._carry_out(hit.plan(), policy, env=env, other=hit.other)
        keys = (
            f"{hit.at.kind}:{hit.at.name}"
            if hit.at.kind == "tool"
            else f"model:{tower.models[0].provider}/{hit.at.name}"
        )
        breaker = tower.breaker(keys)
        return Seen(
            spans=_rows(run), charges=_charges(run), started=run.recorder.next_seq,
            reserved=run.ledger.reserved, duration_s=run.env.mono_ns() / NANO,
            counted=breaker.counted(), throttled=breaker.throttled_until_ns > 0,
        )  # fmt: skip

    def _carry_out(
        self, faults: Sequence[Mapping[str, Any]], policy: Policy, *, env: VirtualEnv, other: bool
    ) -> tuple[Run, Tower]:
        scenario, case = self._scenario, self._case
        chain = list(scenario.models(seed=self._seed, env=env))
        if other:
            chain[1:] = [_elsewhere(model) for model in chain[1:]]
        tower = Tower(
            store="unused", models=chain, policy=policy, redactor=simulated_redactor(),
            environment=lambda: env, service=scenario.name,
        )  # fmt: skip
        run = tower.run(scenario.name, task=case.task, faults=faults, keep=False)
        # How a run ends is recorded, and looked at there.
        with scenario.world(case.world) as world, suppress(Exception), run:
            scenario.agent(run, case.task, world, scenario.prompt())
        return run, tower


def _elsewhere(model: Model) -> Model:
    return msgspec.structs.replace(model, provider=f"{model.provider}-elsewhere")


def _rows(run: Run) -> list[dict[str, Any]]:
    """Return the spans of a run as rows, in the order in which they started."""
    names = [name for name in SPANS.names if name != "salt"]
    draft = run.recorder.draft({}, salt_seed=b"")
    rows = [dict(zip(names, row, strict=True)) for row in draft.spans]
    for row in rows:
        row["events"] = msgspec.json.decode(row["events"])
    return rows


def _charges(run: Run) -> list[dict[str, Any]]:
    names = [name for name in COSTS.names if name != "salt"]
    draft = run.recorder.draft({}, salt_seed=b"")
    return [dict(zip(names, row, strict=True)) for row in draft.costs]


def _carried_out(hit: Injection, left: Seen) -> Iterator[str]:
    """Yield the rules a run carried out."""
    failed = {s["span_id"] for s in left.spans
              if s["kind"] == "attempt" and s["error_class"] == hit.name}  # fmt: skip
    calls = [s for s in left.spans if s["kind"] == "call"]
    names = {e["name"] for call in calls for e in call["events"] if e.get("reason") == hit.name}
    if "wait" in names:
        yield from ("retried", "waited")
    if "fallback" in names:
        yield "fell_back"
    hit_calls = {s["parent_span_id"] for s in left.spans if s["span_id"] in failed}
    for call in calls:
        if call["span_id"] in hit_calls:
            yield "answered" if call["status"] == "ok" else "raised"
    if hit.at.kind == "model":
        yield "charged" if failed & {c["span_id"] for c in left.charges} else "not_charged"
    yield "breaker_failure" if left.counted[1] else "breaker_spared"
    if left.throttled:
        yield "throttled"

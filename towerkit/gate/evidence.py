"""Evidence: what two selections of runs show, before any rule looks at it.

Rule: nothing is dropped in silence. A run that cannot be counted is listed with its reason; a case
that is missing, crashed, unscored, contradicted or of another definition is undetermined, which is
neither a success nor a failure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from math import fsum
from typing import Any

import msgspec

from towerkit.core.canonical import digest_of
from towerkit.core.errors import SelectionError
from towerkit.packs.admissible import reasons
from towerkit.packs.store import Pack, Store
from towerkit.reliability.taxonomy import TAXONOMY

# Families whose errors are not the agent's doing: a run they ended says nothing of the agent.
_NOT_THE_AGENT = frozenset({"model", "infrastructure"})

CaseKey = tuple[str, str]  # scenario, case_id


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One scored run: the value as recorded, and the bounds it may have had."""

    value: float | None
    low: float
    high: float


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a comparison.

    `cases[suite][(scenario, case_id)]` holds the outcomes of the case's trials; `runs` holds the
    metrics of single runs (metric -> run -> value); `inadmissible` maps run ids to reasons.
    """

    selection: str
    run_ids: tuple[str, ...]
    digest: str
    simulated: bool
    cases: dict[str, dict[CaseKey, tuple[Outcome, ...]]]
    definitions: dict[CaseKey, frozenset[str]]
    runs: dict[str, dict[str, float]]
    run_cases: dict[str, CaseKey]
    means: dict[str, dict[str, Any]]
    inadmissible: dict[str, str]
    undetermined: dict[str, int]


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What a gate judges. Without a baseline only floors and ceilings can be."""

    candidate: Side
    baseline: Side | None


def gather(store: Store, *, candidate: str, baseline: str | None = None) -> Evidence:
    """Read both selections' packs and scores. Raises `SelectionError` when one matches nothing."""
    sides = [_side(store, text) for text in (candidate, baseline) if text is not None]
    if len(sides) == 2 and set(sides[0].run_ids) & set(sides[1].run_ids):
        raise SelectionError(
            f"candidate {candidate!r} and baseline {baseline!r} share runs: select two releases"
        )
    return Evidence(candidate=sides[0], baseline=sides[1] if len(sides) == 2 else None)


def _side(store: Store, selection: str) -> Side:
    packs = store.select(selection)
    problems, spent, known = _read(packs)
    every = store.scores(packs).to_dicts()
    scores = [s for s in every if s["run_id"] not in problems]
    # What an inadmissible run was scored with counts as nothing; its case stays, undetermined.
    primary = [
        s | ({"scored": False, "inadmissible": True} if s["run_id"] in problems else {})
        for s in every
        if s["primary"] and s["suite"] != "control"
    ]
    seen = {s["run_id"] for s in every if s["primary"]}
    primary += [
        _unscored(p) | {"inadmissible": p.run_id in problems}
        for p in packs
        if p.run_id not in seen and not _is_ticket(p)
    ]
    cases: dict[str, dict[CaseKey, list[Outcome]]] = defaultdict(lambda: defaultdict(list))
    definitions: dict[CaseKey, set[str]] = defaultdict(set)
    reasons: dict[str, int] = defaultdict(int)
    for row in primary:
        key = (row["scenario"], row["case_id"])
        outcome, why = _outcome(row)
        cases[row["suite"]][key].append(outcome)
        definitions[key] |= {row["task_digest"]} - {None}
        if why:
            reasons[why] += 1
    return Side(
        selection=selection,
        run_ids=tuple(p.run_id for p in packs),
        digest=digest_of([sorted(p.digest for p in packs), sorted(map(digest_of, scores))]),
        simulated=any(p.manifest["simulated"] for p in packs),
        cases={s: {k: tuple(v) for k, v in c.items()} for s, c in cases.items()},
        definitions={k: frozenset(v) for k, v in definitions.items()},
        runs=_run_metrics(packs, primary, problems, spent, known),
        run_cases={r["run_id"]: (r["scenario"], r["case_id"]) for r in primary},
        means=_means(scores),
        inadmissible=problems,
        undetermined=dict(reasons),
    )


def _is_ticket(pack: Pack) -> bool:
    """Say whether a run was made to be looked at, not to be scored."""
    return bool(pack.manifest["source"].get("role") == "ticket")


def _unscored(pack: Pack) -> dict[str, Any]:
    """Return what stands for the score of a run that has none: its case is undetermined."""
    identity = pack.manifest["identity"]
    return {
        "run_id": pack.run_id,
        "suite": pack.manifest["source"].get("suite") or "golden",
        "scenario": identity.get("scenario"),
        "case_id": identity.get("case_id") or pack.run_id,
        "task_digest": None,
        "error_class": None,
        "scored": False,
        "value": None,
        "contradicted": False,
    }


def _outcome(row: dict[str, Any]) -> tuple[Outcome, str | None]:
    value: float | None = row["value"] if row["scored"] else None
    why = None
    if row.get("inadmissible"):
        why = "inadmissible run"
    elif row["error_class"] is not None and TAXONOMY[row["error_class"]].family in _NOT_THE_AGENT:
        why = "infrastructure failure"
    elif value is None:
        why = "unscored"
    elif row["contradicted"]:
        why = "contradicted score"
    if why is None and value is not None:
        return Outcome(value=value, low=value, high=value), None
    return Outcome(value=value, low=0.0, high=1.0), why


def _read(packs: Sequence[Pack]) -> tuple[dict[str, str], dict[str, int], set[str]]:
    """Return why packs are inadmissible, what the others' agents spent, and whose cost is known."""
    problems: dict[str, str] = {}
    spent: dict[str, int] = defaultdict(int)
    known: set[str] = set()
    for pack in packs:
        why = reasons(pack)
        if why:
            problems[pack.run_id] = "; ".join(why)
            continue
        costs = pack.frame("costs")
        own = [c for c in costs.to_dicts() if c["purpose"] == "agent"]
        if own and all(c["cost_nanousd"] is not None for c in own):
            known.add(pack.run_id)
            spent[pack.run_id] = sum(c["cost_nanousd"] for c in own)
    return problems, dict(spent), known


def _run_metrics(
    packs: Sequence[Pack], primary: Iterable[dict[str, Any]], problems: dict[str, str],
    spent: dict[str, int], known: set[str],
) -> dict[str, dict[str, float]]:  # fmt: skip
    by_run = {row["run_id"]: row for row in primary}
    counted = [p for p in packs if p.run_id not in problems]
    scored = {p.run_id: by_run[p.run_id] for p in counted if p.run_id in by_run}
    return {
        "inadmissible": {p.run_id: float(p.run_id in problems) for p in packs},
        "infrastructure_failure": {
            run: float(_outcome(row)[1] == "infrastructure failure") for run, row in scored.items()
        },
        "contradicted": {run: float(row["contradicted"]) for run, row in scored.items()},
        "over_budget": {
            p.run_id: float(p.manifest["error_class"] == "budget_exceeded") for p in counted
        },
        "cost_usd": {run: spent[run] / 1e9 for run in scored if run in known},
        "duration_s": {
            p.run_id: p.manifest["duration_ns"] / 1e9
            for p in counted
            if p.run_id in scored and p.manifest["clock"] != "none"
        },
    }


def _means(scores: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return suite/metric -> mean of the values as recorded, exactly rounded, and their count."""
    values: dict[str, list[float]] = defaultdict(list)
    for row in scores:
        if row["scored"]:
            values[f"{row['suite']}/{row['metric']}"].append(row["value"])
    return {
        name: {"mean": fsum(found) / len(found), "n": len(found)}
        for name, found in sorted(values.items())
    }

"""From packs, scores and verdicts to the rows of figures and tables.

Rule: a row is aggregated here and drawn elsewhere. What is unknown stays None on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import fsum
from typing import Any

import polars as pl

from towerkit.drift.frames import tries
from towerkit.gate import Evidence, Rule, Side, Verdict
from towerkit.gate.intervals import wilson
from towerkit.packs.store import Pack
from towerkit.whatif import Search, Total

Row = dict[str, Any]

_OUTCOMES = {"pass": "PASS", "hold": "HOLD", "fail": "FAIL", "not_measured": "NOT MEASURED"}
_UNITS = {
    "non_inferior": "difference of shares, candidate − baseline",
    "ratio_ceiling": "ratio, candidate ÷ baseline",
}


def rule_rows(verdict: Verdict) -> list[Row]:
    """Return a row a rule: what was found, its unit, and the limit it was held against."""
    return [
        {
            "name": r.name,
            "outcome": _OUTCOMES[r.outcome],
            "estimate": r.estimate,
            "low": r.low,
            "high": r.high,
            "n": r.n,
            "threshold": -r.threshold if r.kind == "non_inferior" else r.threshold,
            "unit": _UNITS.get(r.kind, "share"),
            "reason": r.reason,
        }
        for r in verdict.rules
    ]


def inadmissible_rows(evidence: Evidence) -> list[Row]:
    """Return a row a run that no rule counts: its side, its id, and why."""
    sides = (("candidate", evidence.candidate), ("baseline", evidence.baseline))
    return [
        {"side": name, "run_id": run, "reason": why}
        for name, side in sides
        if side is not None
        for run, why in side.inadmissible.items()
    ]


def suite_rows(evidence: Evidence, rules: Sequence[Rule], *, confidence: float = 0.95) -> list[Row]:
    """Return a row a suite and side: mean, Wilson interval with the unknown bounded, and floor."""
    floors: dict[str | None, float] = {
        r.suite: r.threshold for r in rules if r.kind == "floor" and r.metric == "score"
    }
    sides = {"candidate": evidence.candidate}
    if evidence.baseline is not None:
        sides["baseline"] = evidence.baseline
    return [
        _suite_row(
            suite if len(sides) == 1 else f"{suite}, {name}",
            side,
            suite,
            floors.get(suite) if name == "candidate" else None,
            confidence,
        )
        for suite in sorted({s for side in sides.values() for s in side.cases})
        for name, side in sides.items()
        if suite in side.cases
    ]


def _suite_row(
    label: str, side: Side, suite: str, threshold: float | None, confidence: float
) -> Row:
    outcomes = list(side.cases[suite].values())
    n = len(outcomes)
    known = [o.value for trials in outcomes for o in trials if o.value is not None]
    low, high = (
        fsum(fsum(getattr(o, bound) for o in trials) / len(trials) for trials in outcomes) / n
        for bound in ("low", "high")
    )
    return {
        "suite": label,
        "estimate": fsum(known) / len(known) if known else None,
        "low": wilson(low, n, confidence=confidence).low,
        "high": wilson(high, n, confidence=confidence).high,
        "n": n,
        "threshold": threshold,
    }


def failed_rows(scores: pl.DataFrame) -> list[Row]:
    """Return the primary scores below 1 and those that could not be given, with their notes."""
    failed = scores.filter("primary", pl.col("value").is_null() | (pl.col("value") < 1))
    return failed.sort("suite", "case_id", "trial").rows(named=True)


def error_rows(spans: pl.DataFrame) -> list[Row]:
    """Return how many tries ended in each error class, most frequent first."""
    failed = tries(spans).filter(pl.col("status") == "error")
    counted = failed.group_by(pl.col("error_class").fill_null("unknown")).agg(count=pl.len())
    return counted.sort(["count", "error_class"], descending=[True, False]).rows(named=True)


def cost_rows(costs: pl.DataFrame) -> list[Row]:
    """Return one row a charge of the agent's own: model, US dollars or None, wasted or not."""
    own = costs.filter(pl.col("purpose") == "agent")
    return own.select("model", "wasted", cost_usd=pl.col("cost_nanousd") / 1e9).rows(named=True)


def latency_rows(packs: Sequence[Pack]) -> list[Row]:
    """Return one row a call: operation and seconds, None where the run had no clock."""
    rows: list[Row] = []
    for pack in packs:
        timed = pack.manifest.get("clock") != "none"
        calls = pack.frame("spans").filter(pl.col("kind") == "call")
        rows += [
            {"operation": name, "duration_s": duration / 1e9 if timed else None}
            for name, duration in calls.select("name", "duration_ns").rows()
        ]
    return rows


def policy_rows(found: Search, *, common: bool = False) -> list[Row]:
    """Return one row a world of a search, numbered: intervals of dollars, seconds and success.

    `common` takes the runs that every world decides.
    """
    runs, best = (found.common_runs, found.common_front) if common else (found.runs, found.front)
    rows = []
    for number, point in enumerate(found.points, 1):
        totals = point.common if common else point.totals
        name = point.world.name
        rows.append({"number": number, "name": name, "front": name in best, **point.rows,
                     **_ends("cost", totals["cost_nanousd"], 1e9),
                     **_ends("time", totals["latency_ns"], 1e9),
                     **_ends("success", totals["run_success"], max(1, runs)),
                     **_ends("failed", totals["calls_failed"], 1)})  # fmt: skip
    return rows


def _ends(name: str, total: Total, unit: float) -> Row:
    high = None if total.high is None else total.high / unit
    return {f"{name}_low": total.low / unit, f"{name}_high": high}

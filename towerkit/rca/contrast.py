"""Failing runs against passing runs, feature by feature."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any, Literal

import msgspec
import polars as pl

from towerkit.core.errors import UsageError
from towerkit.reliability.taxonomy import TAXONOMY

# Families whose errors are not the agent's doing, as in the gate's evidence.
_NOT_THE_AGENT = frozenset({"model", "infrastructure"})
# From the third time on the same request is a loop (the taxonomy's `no_progress`).
SAME_REQUEST = 3

Side = Literal["failing", "passing"]


class Contrast(msgspec.Struct, frozen=True, kw_only=True):
    """One feature: how many runs of each side have it, and whether that can be chance.

    `risk_difference` is the share of failing runs among those with the feature minus the share
    among those without it. `q_value` is the p-value adjusted by Benjamini and Hochberg.
    """

    kind: str
    feature: str
    failing_with: int
    failing_without: int
    passing_with: int
    passing_without: int
    risk_difference: float
    p_value: float
    q_value: float
    significant: bool


class RcaReport(msgspec.Struct, frozen=True, kw_only=True):
    """Contrasts, the most surely different first; `undecided` counts runs by why they are."""

    contrasts: tuple[Contrast, ...]
    failing: int
    passing: int
    failing_runs: tuple[str, ...]
    undecided: dict[str, int]
    by: Literal["score", "status"]
    q: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries and lists, as JSON can carry them."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def failing_vs_passing(
    spans: pl.DataFrame,
    scores: pl.DataFrame,
    *,
    by: Literal["score", "status"] = "score",
    q: float = 0.05,
) -> RcaReport:
    """Contrast the features of failing and passing runs; see `Contrast`.

    `spans` and `scores` are `Store.scan("spans", packs)` and `Store.scores(packs)`. By score a run
    fails when a primary score of it is below 1; by status, when the run itself did not end ok. A
    feature that every decided run has, or none, is left out: it cannot tell them apart. The
    p-values are Fisher's exact ones; with many features some are small by chance, which is what
    `q_value` is for. A contrast is an association: what fails first may be an effect.
    """
    if spans.height == 0:
        raise UsageError("there are no spans: select runs to explain")
    if not 0 < q < 1:
        raise UsageError(f"expected q, the share of false findings, between 0 and 1, got {q!r}")
    if by not in {"score", "status"}:
        raise UsageError(f"expected by as score or status, got {by!r}")
    sides, undecided = _sides(spans, scores, by)
    features = _features(spans, scores)
    counts = Counter(sides.values())
    tables = []
    for (kind, feature), runs in sorted(features.items()):
        with_it = Counter(sides[r] for r in runs if r in sides)
        if 0 < with_it.total() < len(sides):
            tables.append((kind, feature, with_it["failing"], with_it["passing"]))
    return RcaReport(
        contrasts=_judged(tables, counts["failing"], counts["passing"], q),
        failing=counts["failing"],
        passing=counts["passing"],
        failing_runs=tuple(sorted(r for r, side in sides.items() if side == "failing")),
        undecided=dict(sorted(undecided.items())),
        by=by,
        q=q,
    )


def _judged(
    tables: list[tuple[str, str, int, int]], failing: int, passing: int, q: float
) -> tuple[Contrast, ...]:
    from scipy import stats  # noqa: PLC0415  2 s of import: paid on first use

    p_values = [
        min(1.0, float(stats.fisher_exact([[f, failing - f], [p, passing - p]]).pvalue))
        for _, _, f, p in tables
    ]
    adjusted = stats.false_discovery_control(p_values) if p_values else []
    found = [
        Contrast(
            kind=kind, feature=feature, failing_with=f, failing_without=failing - f,
            passing_with=p, passing_without=passing - p,
            risk_difference=f / (f + p) - (failing - f) / (failing + passing - f - p),
            p_value=p_value, q_value=float(q_value), significant=bool(q_value <= q),
        )
        for (kind, feature, f, p), p_value, q_value in zip(tables, p_values, adjusted, strict=True)
    ]  # fmt: skip
    return tuple(sorted(found, key=lambda c: (c.p_value, -abs(c.risk_difference), c.feature)))


def _sides(
    spans: pl.DataFrame, scores: pl.DataFrame, by: str
) -> tuple[dict[str, Side], Counter[str]]:
    """Return each decided run's side, and why the others are undecided."""
    sides: dict[str, Side] = {}
    undecided: Counter[str] = Counter()
    primary: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in scores.filter("primary").rows(named=True):
        primary[row["run_id"]].append(row)
    for run in spans.filter(pl.col("kind") == "run").rows(named=True):
        side, why = (
            _by_score(primary[run["run_id"]])
            if by == "score"
            else _by_status(run["status"], run["error_class"])
        )
        if side is None:
            undecided[why] += 1
        else:
            sides[run["run_id"]] = side
    return sides, undecided


def _by_score(rows: list[dict[str, Any]]) -> tuple[Side | None, str]:
    if not rows:
        return None, "no primary score"
    if any(_not_the_agent(r["error_class"]) for r in rows):
        return None, "infrastructure failure"
    values = [r["value"] for r in rows if r["scored"]]
    if len(values) < len(rows):
        return None, "unscored"
    return ("failing" if min(values) < 1 else "passing"), ""


def _by_status(status: str, error_class: str | None) -> tuple[Side | None, str]:
    if status == "ok":
        return "passing", ""
    if status == "cancelled":
        return None, "cancelled"
    if _not_the_agent(error_class):
        return None, "infrastructure failure"
    return "failing", ""


def _not_the_agent(error_class: str | None) -> bool:
    row = TAXONOMY.get(error_class or "")
    return row is not None and row.family in _NOT_THE_AGENT


def _features(spans: pl.DataFrame, scores: pl.DataFrame) -> dict[tuple[str, str], set[str]]:
    """Return the runs that have each (kind, feature)."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    requests: Counter[tuple[str, str, str]] = Counter()
    tools_used: set[str] = set()
    for s in spans.rows(named=True):
        run, tool = s["run_id"], s["gen_ai_tool_name"]
        for kind, value in (
            ("tool used", tool if s["kind"] == "call" else None),
            ("error seen", s["error_class"] if s["kind"] != "run" else None),
            ("model asked", s["gen_ai_request_model"]),
            ("model answered", s["gen_ai_response_model"]),
            ("finish reason", s["gen_ai_response_finish_reason"]),
            ("control", "fallback" if (s["fallback_tier"] or 0) > 0 else None),
            ("control", "second attempt" if (s["attempt"] or 1) > 1 else None),
        ):
            if value is not None:
                found[kind, value].add(run)
        if s["kind"] == "call" and tool is not None:
            tools_used.add(run)
            requests[run, tool, s["request_digest"]] += 1
    for (run, tool, _), n in requests.items():
        if n >= SAME_REQUEST:
            found["same request 3 times", tool].add(run)
    found["tool used", "(none)"] = set(spans["run_id"]) - tools_used
    for row in scores.filter("contradicted").rows(named=True):
        found["score", "contradicted"].add(row["run_id"])
    return found

"""What one pack says in a line or two: the facts of reliability, telemetry and cost.

Rule: every number is counted from the pack's rows; an unknown cost stays unknown.
"""

from __future__ import annotations

import msgspec

from towerkit.cost.ledger import usd
from towerkit.packs.store import Pack
from towerkit.reliability.taxonomy import TAXONOMY

# Controls refuse before an attempt exists, so their errors stand on the call, not below it.
_REFUSALS = frozenset(
    {"budget_exceeded", "timeout_total", "no_progress", "circuit_open", "throttled_locally"}
)
TIMEOUTS = frozenset({"tool_timeout", "timeout_read", "timeout_connect", "timeout_total"})


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of one run. `timeout_s` is time lost in attempts that ran into their time-out.

    `errors` counts failed attempts and refused calls by family; `spent_nanousd` is None when some
    charge has no known price.
    """

    run_id: str
    status: str
    fallback: bool
    timeout_s: float
    retries: int
    spans: int
    errors: dict[str, int]
    budget_nanousd: int | None
    spent_nanousd: int | None
    unknown_charges: int
    simulated: bool

    def lines(self) -> list[str]:
        """Return the first three of the five lines."""
        errors = ",".join(f"{family}:{n}" for family, n in self.errors.items())
        budget = "none" if self.budget_nanousd is None else usd(self.budget_nanousd)
        actual = "unknown" if self.spent_nanousd is None else usd(self.spent_nanousd)
        fallback, lost = str(self.fallback).lower(), f"{self.timeout_s:g}s"
        return [
            f"[reliability] fallback={fallback} timeout={lost} retries={self.retries}",
            f"[telemetry] spans={self.spans} classified_errors={{{errors}}}",
            f"[cost] budget={budget} actual={actual}",
        ]


def summarise(pack: Pack) -> Summary:
    """Return the summary of a pack. Raises `PackError` when its spans or costs were changed."""
    spans = pack.frame("spans").sort("seq").to_dicts()
    attempts = [s for s in spans if s["kind"] == "attempt"]
    errors: dict[str, int] = {}
    for s in spans:
        refused = s["kind"] == "call" and s["error_class"] in _REFUSALS
        if s["status"] == "error" and (s["kind"] == "attempt" or refused):
            family = TAXONOMY[s["error_class"] or "unknown"].family
            errors[family] = errors.get(family, 0) + 1
    costs = [r for r in pack.frame("costs").to_dicts() if r["purpose"] == "agent"]
    unknown = sum(r["cost_nanousd"] is None for r in costs)
    lost = sum(s["duration_ns"] for s in attempts if s["error_class"] in TIMEOUTS)
    return Summary(
        run_id=pack.run_id,
        status=str(pack.manifest["status"]),
        fallback=any((s["fallback_tier"] or 0) > 0 for s in attempts),
        timeout_s=round(lost / 1e9, 1),
        retries=_retries(attempts),
        spans=len(spans),
        errors=dict(sorted(errors.items(), key=lambda e: (-e[1], e[0]))),
        budget_nanousd=(pack.manifest["budget"] or {}).get("limit_nanousd"),
        spent_nanousd=None if unknown else sum(r["cost_nanousd"] for r in costs),
        unknown_charges=unknown,
        simulated=bool(pack.manifest["simulated"]),
    )


def _retries(attempts: list[dict[str, object]]) -> int:
    """Count attempts that repeat one on the same tier; the first on a fallback tier is no retry."""
    seen: set[tuple[object, object]] = set()
    retries = 0
    for a in attempts:
        key = (a["parent_span_id"], a["fallback_tier"])
        retries += key in seen
        seen.add(key)
    return retries

"""A chaos report as text: the matrix of classes and rules, and what did not hold."""

from __future__ import annotations

from collections.abc import Iterator

from towerkit.chaos.chaos import RULES, Report

_MOST = 20  # violations shown; `--json` has all


def lines(report: Report) -> Iterator[str]:
    """Yield the lines."""
    yield (
        f"[chaos] {report.scenario}: {report.runs} simulated runs, every class at each of "
        f"{report.boundaries} calls"
    )
    width = max(map(len, report.seen))
    yield ""
    yield " " * width + "  " + "  ".join(RULES)
    for name, rules in report.seen.items():
        cells = (f"{rules[rule] or '·':>{len(rule)}}" for rule in RULES)
        yield f"{name:<{width}}  {'  '.join(cells)}"
    yield ""
    for name, why in report.not_injected.items():
        yield f"not injected: {name}: {why}"
    for name, rule in report.unseen:
        yield f"never seen: {name}: {rule}, which the table prescribes"
    for hit, what in report.violations[:_MOST]:
        yield f"violated: {hit}: {what}"
    if len(report.violations) > _MOST:
        yield f"… and {len(report.violations) - _MOST} more violations"
    for survivor in report.survivors:
        yield f"not noticed: {survivor}"
    killed = report.mutants - len(report.survivors) - len(report.equivalent)
    yield (
        f"[chaos] {len(report.violations)} violations; {killed} of "
        f"{report.mutants - len(report.equivalent)} mutants of the policy noticed, "
        f"{len(report.equivalent)} change nothing that shows"
    )

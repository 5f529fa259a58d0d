"""Ways to break the table and the policy, one at a time, to see whether a check notices.

Rule: a mutant that no check can notice, because it changes nothing that can be seen, is listed with
the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec

from towerkit.chaos.cases import OURS, TOOLS_ONLY
from towerkit.reliability.policy import Policy
from towerkit.reliability.taxonomy import ErrorClass

EQUIVALENT = {
    f"{name}: {what}": reason
    for name in TOOLS_ONLY
    for what, reason in (
        ("falls back", "a tool has no other tier"),
        ("charged", "a tool has no tokens to charge"),
        ("not charged", "a tool has no tokens to charge"),
    )
}


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """One change. `rows` replace those of the table, `concerns` are the classes it shows at."""

    what: str
    rows: dict[str, ErrorClass] = {}
    policy: Policy = Policy()
    concerns: tuple[str, ...]

    def __str__(self) -> str:
        """Name it for a person."""
        return self.what


def mutants(truth: dict[str, ErrorClass], policy: Policy) -> Iterator[Mutant]:
    """Yield every mutant."""
    rows = [row for row in truth.values() if row.name not in OURS]
    for row in rows:
        yield from _of_row(row)
    for one, two in pairwise(rows):
        if _behaviour(one) != _behaviour(two):
            yield _swapped(one, two)
    yield from _of_policy(policy)


def _of_row(row: ErrorClass) -> Iterator[Mutant]:
    for what, change in _changes(row):
        mutated = msgspec.structs.replace(row, **change)
        yield Mutant(what=f"{row.name}: {what}", rows={row.name: mutated}, concerns=(row.name,))


def _changes(row: ErrorClass) -> Iterator[tuple[str, dict[str, Any]]]:
    if row.attempts > 1:
        yield "never retried", {"attempts": 1}
        yield "base × 10", {"base_s": row.base_s * 10}
    else:
        yield "retried", {"attempts": 2}
    yield "one attempt more", {"attempts": row.attempts + 1}
    if row.scope == "none":
        yield "falls back", {"scope": "other_tier"}
    else:
        yield "never falls back", {"scope": "none"}
    if row.scope == "other_provider":
        yield "stays with its provider", {"scope": "other_tier"}
    yield (
        ("spares the breaker", {"breaker": "uncounted"})
        if row.breaker == "failure"
        else ("counts against the breaker", {"breaker": "failure"})
    )
    if row.breaker == "throttle":
        yield "does not throttle", {"breaker": "uncounted"}
    yield (
        ("charged", {"charge": "usage"})
        if row.charge == "none"
        else ("not charged", {"charge": "none"})
    )
    if row.idempotent_only:
        yield "run again whatever it did", {"idempotent_only": False}


def _behaviour(row: ErrorClass) -> tuple[Any, ...]:
    """Return what of a row shows at the calls it can occur at."""
    common = (row.attempts, row.breaker, row.idempotent_only)
    return common if row.name in TOOLS_ONLY else (*common, row.scope, row.charge == "none")


def _swapped(one: ErrorClass, two: ErrorClass) -> Mutant:
    rows = {a.name: msgspec.structs.replace(b, name=a.name) for a, b in ((one, two), (two, one))}
    return Mutant(
        what=f"{one.name} and {two.name} swapped", rows=rows, concerns=(one.name, two.name)
    )


def _of_policy(policy: Policy) -> Iterator[Mutant]:
    def mutant(what: str, concerns: tuple[str, ...], **change: Any) -> Mutant:
        return Mutant(
            what=what, policy=msgspec.structs.replace(policy, **change), concerns=concerns
        )

    yield mutant("attempt time-out × 10", ("timeout_read",),
                 attempt_timeout_s=policy.attempt_timeout_s * 10)  # fmt: skip
    yield mutant("attempt time-out ÷ 10", ("timeout_read",),
                 attempt_timeout_s=policy.attempt_timeout_s / 10)  # fmt: skip
    yield mutant("two attempts a call", ("upstream_5xx",), max_attempts=2)
    yield mutant("no back-off", ("upstream_5xx",), backoff_cap_s=0.0)
    yield mutant("no wait is ever obeyed", ("rate_limited",), max_retry_after_s=1.0)

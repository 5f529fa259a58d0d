"""What must have happened after a failure, worked out from the reviewed table.

Rule: nothing here asks the policy or the guard. `expected` says what the first call that was hit
has to look like; `violations` compares it with what was recorded, and looks at the whole run too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import msgspec

from towerkit.chaos.cases import Injection
from towerkit.reliability.policy import Policy
from towerkit.reliability.taxonomy import ErrorClass

Truth = dict[str, ErrorClass]
OPENS_AT = 5  # half of the calls a breaker has to see before it judges


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a run left: rows of spans and charges, the ledger and the clock.

    `counted` are the calls and the failures that the breaker of the target has in its window.
    """

    spans: list[dict[str, Any]]
    charges: list[dict[str, Any]]
    started: int
    reserved: int
    duration_s: float
    counted: tuple[int, int]
    throttled: bool


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """The attempts of the call that was hit, as (tier, failed), and whether it was answered."""

    attempts: tuple[tuple[int, bool], ...]
    answered: bool
    waits: int


def expected(hit: Injection, row: ErrorClass, *, tiers: int) -> Expected:
    """Return what the table prescribes for the first call that is hit."""
    model = hit.at.kind == "model"
    tries = row.attempts
    if not model and row.idempotent_only and not hit.at.idempotent:
        tries = 1
    failed = min(hit.times, tries)
    attempts = [(0, True)] * failed
    if failed < tries:
        return Expected(attempts=(*attempts, (0, False)), answered=True, waits=failed)
    moves = model and tiers > 1 and row.scope != "none"
    if row.scope == "other_provider" and not hit.other:
        moves = False
    if moves:
        return Expected(attempts=(*attempts, (1, False)), answered=True, waits=failed - 1)
    return Expected(attempts=tuple(attempts), answered=False, waits=failed - 1)


def violations(
    hit: Injection, seen: Seen, truth: Truth, policy: Policy, *, tiers: int
) -> Iterator[str]:
    """Yield what is not as the table has it, one sentence each."""
    row = truth[hit.name]
    want = expected(hit, row, tiers=tiers)
    call, attempts = _hit_call(hit, seen)
    if call is None:
        yield "the failure was not met: no attempt failed"
        return
    got = tuple(((a["fallback_tier"] or 0), a["status"] != "ok") for a in attempts)
    if got != want.attempts:
        yield f"expected attempts {want.attempts} as (tier, failed), got {got}"
    if (call["status"] == "ok") != want.answered:
        yield f"expected answered={want.answered}, got a call that ended {call['status']}"
    names = {a["error_class"] for a in attempts if a["status"] != "ok"}
    if names != {hit.name}:
        yield f"expected failures of class {hit.name}, got {sorted(map(str, names))}"
    yield from _waits(hit, call, row, policy, want)
    yield from _money(hit, seen, row, attempts)
    yield from _breaker(hit, seen, truth)
    if hit.late:
        lasted = attempts[0]["duration_ns"] / 1e9
        if not policy.attempt_timeout_s - 0.001 <= lasted <= policy.attempt_timeout_s + 0.001:
            yield f"expected a cut after {policy.attempt_timeout_s:g} s, got {lasted:g} s"
    yield from _whole_run(seen, truth, policy)


def _hit_call(hit: Injection, seen: Seen) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
    kind = {"model": "chat", "tool": "execute_tool"}[hit.at.kind]
    for span in seen.spans:
        if span["kind"] == "call" and span["gen_ai_operation_name"] == kind:
            below = [s for s in seen.spans if s["parent_span_id"] == span["span_id"]]
            if any(s["status"] != "ok" for s in below):
                return span, below
    return None, []


def _waits(
    hit: Injection, call: dict[str, Any], row: ErrorClass, policy: Policy, want: Expected
) -> Iterator[str]:
    waits = [e["wait_s"] for e in call["events"] if e["name"] == "wait"]
    if len(waits) != want.waits:
        yield f"expected {want.waits} waits, got {len(waits)}"
    for n, wait in enumerate(waits):
        most = max(hit.asked_s, min(policy.backoff_cap_s, row.base_s * 2.0**n))
        if not hit.asked_s <= wait <= most or wait == 0.0:  # jitter is hardly ever nothing at all
            yield f"expected a wait between {hit.asked_s:g} and {most:g} s, got {wait:g} s"


def _money(
    hit: Injection, seen: Seen, row: ErrorClass, attempts: Sequence[dict[str, Any]]
) -> Iterator[str]:
    if hit.at.kind != "model":
        return
    failed = {a["span_id"] for a in attempts if a["status"] != "ok"}
    charged = [c for c in seen.charges if c["span_id"] in failed]
    want = 0 if row.charge == "none" else len(failed)
    if len(charged) != want or not all(c["wasted"] and c["estimated"] for c in charged):
        yield f"expected {want} charges, estimated and wasted, for failures, got {len(charged)}"


def _breaker(hit: Injection, seen: Seen, truth: Truth) -> Iterator[str]:
    """Compare what the breaker of the target counted with what its attempts came to."""
    mine = [s for s in seen.spans if s["kind"] == "attempt" and (
        s["gen_ai_tool_name"] == hit.at.name if hit.at.kind == "tool" else s["fallback_tier"] == 0
    )]  # fmt: skip
    effects = [truth[s["error_class"]].breaker if s["error_class"] else "neutral" for s in mine]
    failures = effects.count("failure")
    if failures >= OPENS_AT:
        return  # it may have opened, which begins a new count
    want = (failures + effects.count("neutral"), failures)
    if seen.counted != want:
        yield f"expected the breaker to count {want} (calls, failures), got {seen.counted}"
    asked = hit.asked_s > 0 and "throttle" in effects
    if seen.throttled != asked:
        yield f"expected throttled={asked}, got {seen.throttled}"


def _whole_run(seen: Seen, truth: Truth, policy: Policy) -> Iterator[str]:
    if seen.started != len(seen.spans):
        yield f"{seen.started} spans were started and {len(seen.spans)} ended"
    if seen.reserved:
        yield f"{seen.reserved} nano-dollars are still reserved"
    if seen.duration_s > policy.deadline_s + 1e-9:
        yield f"the run lasted {seen.duration_s:g} s, its deadline was {policy.deadline_s:g} s"
    for call in seen.spans:
        if call["kind"] != "call":
            continue
        below = [s for s in seen.spans if s["parent_span_id"] == call["span_id"]]
        if len(below) > policy.max_attempts:
            yield f"{call['name']} was tried {len(below)} times"
        for before, after in pairwise(below):
            row = truth[before["error_class"] or "unknown"]
            if call["idempotent"] is False and row.idempotent_only:
                yield f"{call['name']} was run again after {row.name}, though it is not idempotent"
            moved = (after["fallback_tier"] or 0) > (before["fallback_tier"] or 0)
            if moved and row.scope == "none":
                yield f"{call['name']} went to another tier after {row.name}"

"""What follows an event of one logical call: call, wait, renew a credential, fall back or stop.

Rule: everything that decides about retries and fallbacks is in this file, as much of it as possible
in `TRANSITIONS` and in the taxonomy's rows. `decide` is pure: policy, state and event come in, the
next state and one action go out. No I/O, no clock, no randomness; an event carries the time left
and one random number. An event that the state does not allow raises and changes nothing.

    READY ──Begin──▶ CALLING ──Succeeded──▶ DONE
                     CALLING ──Failed────▶ WAITING │ RENEWING │ CALLING (next tier) │ DONE
                     CALLING ──Refused───▶ CALLING (next tier) │ WAITING │ DONE
                     CALLING ──TooDear───▶ CALLING (a cheaper tier)
                     WAITING ──Waited────▶ CALLING
                     RENEWING ──Waited───▶ CALLING, ──Failed──▶ as above: no fresh credential

A cancelled call is simply not asked about again.

Delay before retry n (1-based): max(wait asked for, jitter · min(cap, base · 2^(n-1))), the "full
jitter" of Brooker, "Exponential Backoff And Jitter" (2015), with jitter uniform in [0, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from towerkit.core.canonical import digest_of
from towerkit.core.errors import UsageError
from towerkit.reliability.classify import Failure
from towerkit.reliability.taxonomy import TAXONOMY, ErrorClass

Phase = Literal["READY", "CALLING", "WAITING", "RENEWING", "DONE"]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a run. Times in seconds.

    `attempt_timeout_s` 12: longer than the p99 of a chat completion with tools, shorter than a
    customer's patience. `deadline_s` covers all attempts, waits and fallbacks of the run.
    `max_attempts` bounds one call over all tiers, whatever the table allows a class.
    `max_retry_after_s` is the longest wait a provider may ask for before the next tier is tried.
    `max_steps` bounds the calls of a run, `max_repeats` equal tool calls in a row of a run, and
    `max_stale` answers in a row that a growing conversation has had before: an agent that passes
    any of them makes no progress.
    """

    attempt_timeout_s: float = 12.0
    deadline_s: float = 300.0
    max_attempts: int = 4
    backoff_cap_s: float = 8.0
    max_retry_after_s: float = 60.0
    max_steps: int = 500
    max_repeats: int = 3
    max_stale: int = 5

    def digest(self) -> str:
        """Return what a manifest calls this policy: over its limits and the taxonomy's rows."""
        rows = [msgspec.to_builtins(row) for row in TAXONOMY.values()]
        return digest_of([msgspec.to_builtins(self), rows])


class CallState(msgspec.Struct, frozen=True, kw_only=True):
    """Where one logical call stands: its phase, its tier, its tries there and in all.

    `providers` names who stands behind each tier: a spent account or a refused key is the same on
    every model of its provider. Empty where tiers have none (tools).
    `windows` are the tiers' context windows in tokens, None where one is not known. `renewable` are
    the tiers whose credential can be asked for anew, once each; `stand_ins` are those that ask no
    provider (a cache, a fixed text, a human): no limit on requests keeps a call from them.
    `delivered` is true once a chunk of an answer has reached the agent: from then on nothing is
    repeated, because the agent would see it twice.
    """

    operation: Literal["model", "tool"]
    tiers: int = 1
    providers: tuple[str, ...] = ()
    windows: tuple[int | None, ...] = ()
    idempotent: bool = True
    phase: Phase = "READY"
    tier: int = 0
    tries_on_tier: int = 0
    tries: int = 0
    renewable: tuple[int, ...] = ()
    stand_ins: tuple[int, ...] = ()
    delivered: bool = False


# -- events ----------------------------------------------------------------------------------------


class Begin(msgspec.Struct, frozen=True):
    """The agent asks for the call."""


class Succeeded(msgspec.Struct, frozen=True):
    """The attempt answered."""


class Waited(msgspec.Struct, frozen=True):
    """The wait is over."""


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """The attempt failed. `budgeted` says whether the retry budget grants another request."""

    failure: Failure
    time_left_s: float
    jitter: float
    budgeted: bool = True


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing was sent: the breaker is open or the key throttled, for `wait_s` more seconds."""

    error_class: Literal["circuit_open", "throttled_locally"]
    wait_s: float
    time_left_s: float


class TooDear(msgspec.Struct, frozen=True):
    """Nothing was sent: the budget does not hold this tier's price, but that of a later `tier`."""

    tier: int


Event = Begin | Succeeded | Waited | Failed | Refused | TooDear


# -- actions ---------------------------------------------------------------------------------------


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """Make an attempt on the state's tier."""


class Wait(msgspec.Struct, frozen=True, kw_only=True):
    """Wait, then say `Waited`."""

    seconds: float
    reason: str


class Fallback(msgspec.Struct, frozen=True, kw_only=True):
    """Make an attempt on the next tier."""

    tier: int
    reason: str


class Renew(msgspec.Struct, frozen=True, kw_only=True):
    """Ask for a fresh credential: say `Waited` when there is one, or `Failed` again."""

    reason: str


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """The call is over. `reason` is `succeeded`, the error class, or what forbade a retry."""

    reason: str


Action = Call | Wait | Renew | Fallback | Stop


class IllegalTransition(UsageError):
    """An event came that the call's phase does not allow: a bug of the caller."""


# -- the machine -----------------------------------------------------------------------------------


def decide(policy: Policy, state: CallState, event: Event) -> tuple[CallState, Action]:
    """Return the state after `event` and what to do now."""
    rule = TRANSITIONS.get((state.phase, type(event)))
    if rule is None:
        allowed = [kind.__name__ for phase, kind in TRANSITIONS if phase == state.phase]
        raise IllegalTransition(
            f"{type(event).__name__} does not follow {state.phase}: expected one of {allowed}"
        )
    return rule(policy, state, event)


def _to(state: CallState, phase: Phase, **changes: object) -> CallState:
    return msgspec.structs.replace(state, phase=phase, **changes)


def _call(policy: Policy, state: CallState, event: Event) -> tuple[CallState, Action]:  # noqa: ARG001
    return _counted(state), Call()


def _counted(state: CallState) -> CallState:
    tries, on_tier = state.tries + 1, state.tries_on_tier + 1
    return _to(state, "CALLING", tries=tries, tries_on_tier=on_tier)


def _succeed(policy: Policy, state: CallState, event: Event) -> tuple[CallState, Action]:  # noqa: ARG001
    return _to(state, "DONE"), Stop(reason="succeeded")


def _fail(policy: Policy, state: CallState, event: Event) -> tuple[CallState, Action]:
    assert isinstance(event, Failed)  # noqa: S101  the table's key says so
    row = TAXONOMY[event.failure.error_class]
    forbidden = _forbidden(policy, state, row, event)
    if forbidden in {"max_attempts", "retry_budget"} and row.fallback:
        return _stand_in(state, row, event.time_left_s, forbidden)
    if forbidden is not None:
        return _to(state, "DONE"), Stop(reason=forbidden)
    if row.renew and state.tier in state.renewable and event.time_left_s > 0:
        rest = tuple(tier for tier in state.renewable if tier != state.tier)
        return _to(state, "RENEWING", renewable=rest), Renew(reason=row.name)
    if state.tries_on_tier < row.attempts and not (event.failure.veto and row.veto_obeyed):
        backoff = event.jitter * min(
            policy.backoff_cap_s, row.base_s * 2.0 ** (state.tries_on_tier - 1)
        )
        wait = max(event.failure.retry_after_s or 0.0, backoff)
        if wait < event.time_left_s and wait <= policy.max_retry_after_s:
            return _to(state, "WAITING"), Wait(seconds=wait, reason=row.name)
    return _next_tier(state, row, event.time_left_s)


def _forbidden(policy: Policy, state: CallState, row: ErrorClass, event: Failed) -> str | None:
    """Return what forbids any further request for this call, or None."""
    if state.delivered:
        return "delivered"
    if state.tries >= policy.max_attempts:
        return "max_attempts"
    if state.operation == "tool" and row.idempotent_only and not state.idempotent:
        return "not_idempotent"
    if row.replaceable and not event.budgeted:
        return "retry_budget"
    return None


def _refuse(policy: Policy, state: CallState, event: Event) -> tuple[CallState, Action]:
    assert isinstance(event, Refused)  # noqa: S101  the table's key says so
    # Nothing was sent: the refused try does not count.
    state = msgspec.structs.replace(
        state, tries=state.tries - 1, tries_on_tier=state.tries_on_tier - 1
    )
    row = TAXONOMY[event.error_class]
    if _tier_after(state, row) is not None:
        return _next_tier(state, row, event.time_left_s)
    waitable = row.name == "throttled_locally" and event.wait_s <= policy.max_retry_after_s
    if waitable and event.wait_s < event.time_left_s:
        return _to(state, "WAITING"), Wait(seconds=event.wait_s, reason=row.name)
    return _to(state, "DONE"), Stop(reason=row.name)


def _cheapen(policy: Policy, state: CallState, event: Event) -> tuple[CallState, Action]:  # noqa: ARG001
    assert isinstance(event, TooDear)  # noqa: S101  the table's key says so
    state = msgspec.structs.replace(state, tries=state.tries - 1)
    return _moved(state, TAXONOMY["budget_exceeded"], event.tier)


def _next_tier(state: CallState, row: ErrorClass, time_left_s: float) -> tuple[CallState, Action]:
    tier = _tier_after(state, row)
    if tier is not None and time_left_s > 0:
        return _moved(state, row, tier)
    return _to(state, "DONE"), Stop(reason=row.name)


def _moved(state: CallState, row: ErrorClass, tier: int) -> tuple[CallState, Action]:
    moved = _counted(msgspec.structs.replace(state, tier=tier, tries_on_tier=0))
    return moved, Fallback(tier=tier, reason=row.name)


def _stand_in(
    state: CallState, row: ErrorClass, time_left_s: float, forbidden: str
) -> tuple[CallState, Action]:
    """Go on to the next tier that sends nothing, or stop for what forbids another request."""
    tier = next((t for t in state.stand_ins if t > state.tier), None)
    if tier is not None and time_left_s > 0:
        return _moved(state, row, tier)
    return _to(state, "DONE"), Stop(reason=forbidden)


def _tier_after(state: CallState, row: ErrorClass) -> int | None:
    """Return the next tier that may answer after an error of `row`, or None."""
    if not row.fallback:
        return None
    later = range(state.tier + 1, state.tiers)
    if row.scope == "other_provider" and state.providers:
        here = state.providers[state.tier]
        return next((t for t in later if state.providers[t] != here), None)
    if row.scope == "larger_window" and state.windows:
        window = state.windows[state.tier]
        return next((t for t in later if _may_be_larger(state.windows[t], window)), None)
    return next(iter(later), None)


def _may_be_larger(window: int | None, than: int | None) -> bool:
    return window is None or than is None or window > than


Rule = Callable[[Policy, CallState, Event], tuple[CallState, Action]]

TRANSITIONS: dict[tuple[Phase, type[Event]], Rule] = {
    ("READY", Begin): _call,
    ("CALLING", Succeeded): _succeed,
    ("CALLING", Failed): _fail,
    ("CALLING", Refused): _refuse,
    ("CALLING", TooDear): _cheapen,
    ("WAITING", Waited): _call,
    ("RENEWING", Waited): _call,
    ("RENEWING", Failed): _fail,
}

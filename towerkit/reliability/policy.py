"""What to do after a failed attempt: retry, fall back or stop.

Rule: `decide` is a pure function of the policy, the state of the call, the failure, the time left
and one random number. It never sleeps past the deadline: a wait that does not fit becomes a
fallback or a stop.

Delay before retry n (1-based): max(Retry-After, jitter · min(cap, base · 2^(n-1))), the "full
jitter" of Brooker, "Exponential Backoff And Jitter" (2015), with jitter uniform in [0, 1).
"""

from __future__ import annotations

from typing import Literal

import msgspec

from towerkit.core.canonical import digest_of
from towerkit.reliability.classify import Failure
from towerkit.reliability.taxonomy import TAXONOMY


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of a run. Times in seconds.

    `attempt_timeout_s` 12: longer than the p99 of a chat completion with tools, shorter than a
    customer's patience. `deadline_s` covers all attempts, waits and fallbacks of the run.
    `max_attempts` bounds one call over all tiers, whatever the table allows a class.
    `max_retry_after_s` is the longest wait a provider may ask for before the next tier is tried.
    """

    attempt_timeout_s: float = 12.0
    deadline_s: float = 300.0
    max_attempts: int = 4
    backoff_cap_s: float = 8.0
    max_retry_after_s: float = 60.0
    max_steps: int = 200

    def digest(self) -> str:
        """Return what a manifest calls this policy: over its limits and the taxonomy's rows."""
        return digest_of(
            [msgspec.to_builtins(self), [msgspec.to_builtins(r) for r in TAXONOMY.values()]]
        )


class CallState(msgspec.Struct, frozen=True, kw_only=True):
    """Where one logical call stands: which tier, how many tries on it and in all."""

    operation: Literal["model", "tool"]
    tiers: int = 1
    tier: int = 0
    tries_on_tier: int = 0
    tries: int = 0
    idempotent: bool = True


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What to do next: `retry` after `wait_s`, `fallback` to the next tier, or `stop`."""

    action: Literal["retry", "fallback", "stop"]
    wait_s: float = 0.0
    reason: str


def decide(
    policy: Policy, state: CallState, failure: Failure, *, time_left_s: float, jitter: float
) -> Decision:
    """Decide what follows a failed attempt. `state` already counts that attempt.

    `jitter` is uniform in [0, 1). The reason is the error class, or what forbade a retry.
    """
    row = TAXONOMY[failure.error_class]
    if state.tries >= policy.max_attempts:
        return Decision(action="stop", reason="max_attempts")
    if state.operation == "tool" and row.idempotent_only and not state.idempotent:
        return Decision(action="stop", reason="not_idempotent")
    if state.tries_on_tier < row.attempts:
        backoff = jitter * min(policy.backoff_cap_s, row.base_s * 2.0 ** (state.tries_on_tier - 1))
        wait = max(failure.retry_after_s or 0.0, backoff)
        if wait < time_left_s and wait <= policy.max_retry_after_s:
            return Decision(action="retry", wait_s=wait, reason=failure.error_class)
    if row.fallback and state.tier + 1 < state.tiers and time_left_s > 0:
        return Decision(action="fallback", reason=failure.error_class)
    return Decision(action="stop", reason=failure.error_class)

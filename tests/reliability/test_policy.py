"""The decision after a failure is a pure function that never overruns."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.reliability.classify import Failure
from towerkit.reliability.policy import CallState, Policy, decide
from towerkit.reliability.taxonomy import TAXONOMY

POLICY = Policy()


def failed(name, retry_after_s=None):
    return Failure(error_class=name, error_type="E", retry_after_s=retry_after_s)


def after(name, *, tries=1, tier=0, tiers=1, operation="model", idempotent=True, left=100.0,
          retry_after_s=None, jitter=0.5):  # fmt: skip
    state = CallState(operation=operation, tries=tries, tries_on_tier=tries, tier=tier,
                      tiers=tiers, idempotent=idempotent)  # fmt: skip
    return decide(POLICY, state, failed(name, retry_after_s), time_left_s=left, jitter=jitter)


def test_a_transient_error_is_retried_with_full_jitter():
    """The second wait is at most twice the first, scaled by the jitter."""
    assert after("overloaded", tries=1, jitter=0.5).wait_s == 0.25
    assert after("overloaded", tries=2, jitter=0.5).wait_s == 0.5


def test_the_next_tier_is_tried_when_the_class_allows_it():
    """Three tries of an overloaded model, then the next model; a bad request goes nowhere."""
    assert after("overloaded", tries=3, tiers=2).action == "fallback"
    assert after("overloaded", tries=3, tiers=1).action == "stop"
    assert after("invalid_request", tiers=2).action == "stop"


def test_content_filters_never_shop_for_a_weaker_filter():
    """A refusal stays a refusal, however many tiers there are."""
    for name in ("content_filtered", "guardrail_blocked"):
        assert after(name, tiers=5).action == "stop"


def test_a_tool_that_is_not_idempotent_is_never_run_again():
    """A refund that timed out may have happened."""
    assert after("tool_timeout", operation="tool", idempotent=True).action == "retry"
    decision = after("tool_timeout", operation="tool", idempotent=False)
    assert (decision.action, decision.reason) == ("stop", "not_idempotent")


def test_a_long_retry_after_moves_on_instead_of_sleeping():
    """86,400 s is not slept: the next tier is asked, or the call stops."""
    assert after("rate_limited", retry_after_s=86_400, tiers=2).action == "fallback"
    assert after("rate_limited", retry_after_s=86_400).action == "stop"
    assert after("rate_limited", retry_after_s=3).wait_s == 3


@given(
    name=st.sampled_from(sorted(TAXONOMY)),
    tries=st.integers(1, 6), tier=st.integers(0, 2), tiers=st.integers(1, 3),
    operation=st.sampled_from(["model", "tool"]), idempotent=st.booleans(),
    left=st.floats(0, 400), retry=st.none() | st.floats(0, 1e6), jitter=st.floats(0, 0.999),
)  # fmt: skip
def test_no_wait_reaches_the_deadline(
    name, tries, tier, tiers, operation, idempotent, left, retry, jitter
):
    """Whatever happens, a retry fits into the time left and tries stay within the policy."""
    state = CallState(operation=operation, tries=tries, tries_on_tier=tries, tier=tier,
                      tiers=tiers, idempotent=idempotent)  # fmt: skip
    decision = decide(POLICY, state, failed(name, retry), time_left_s=left, jitter=jitter)
    if decision.action == "retry":
        assert 0 <= decision.wait_s < left
        assert decision.wait_s <= POLICY.max_retry_after_s
        assert decision.wait_s >= (retry or 0)
    if decision.action != "stop":
        assert tries < POLICY.max_attempts
    if decision.action == "fallback":
        assert tier + 1 < tiers


def test_the_policy_digest_changes_with_every_field():
    """A manifest that names a policy names all of it."""
    for field in POLICY.__struct_fields__:
        other = msgspec.structs.replace(POLICY, **{field: getattr(POLICY, field) + 1})
        assert other.digest() != POLICY.digest()


@pytest.mark.parametrize("row", TAXONOMY.values(), ids=lambda r: r.name)
def test_every_row_is_complete(row):
    """Each class says what it is, and bounds its tries."""
    assert row.summary
    assert 1 <= row.attempts <= POLICY.max_attempts
    assert not (row.family in {"guardrail", "budget", "replay"} and row.fallback)

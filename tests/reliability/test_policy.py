"""What follows an event: every transition of the table, and the properties that must hold."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.reliability.classify import Failure
from towerkit.reliability.policy import (
    TRANSITIONS,
    Begin,
    Call,
    CallState,
    Failed,
    Fallback,
    IllegalTransition,
    Policy,
    Refused,
    Renew,
    Stop,
    Succeeded,
    TooDear,
    Wait,
    Waited,
    decide,
)
from towerkit.reliability.taxonomy import TAXONOMY

POLICY = Policy()
PHASES = ("READY", "CALLING", "WAITING", "RENEWING", "DONE")


def failed(name, *, left=100.0, jitter=0.5, budgeted=True, **failure):
    return Failed(
        failure=Failure(error_class=name, error_type="E", **failure), time_left_s=left,
        jitter=jitter, budgeted=budgeted,
    )  # fmt: skip


def calling(*, tries=1, on_tier=None, operation="model", **fields):
    return CallState(operation=operation, phase="CALLING", tries=tries,
                     tries_on_tier=tries if on_tier is None else on_tier, **fields)  # fmt: skip


def after(name, *, state=None, **event):
    """Return the action that follows a failure."""
    return decide(POLICY, state or calling(), failed(name, **event))[1]


def test_a_call_that_works():
    """Begin, an attempt, done."""
    state, action = decide(POLICY, CallState(operation="model"), Begin())
    assert (action, state.phase, state.tries, state.tries_on_tier) == (Call(), "CALLING", 1, 1)
    state, action = decide(POLICY, state, Succeeded())
    assert (action, state.phase) == (Stop(reason="succeeded"), "DONE")


def test_a_call_that_works_the_second_time():
    """A failure, a wait, another attempt on the same tier."""
    state, action = decide(POLICY, calling(), failed("overloaded", jitter=0.5))
    assert (action, state.phase, state.tries) == (
        Wait(seconds=0.25, reason="overloaded"),
        "WAITING",
        1,
    )
    state, action = decide(POLICY, state, Waited())
    assert (action, state.phase, state.tries, state.tries_on_tier) == (Call(), "CALLING", 2, 2)


@pytest.mark.parametrize(
    ("tries", "jitter", "seconds"),
    [(1, 0.0, 0.0), (1, 0.5, 0.25), (2, 0.5, 0.5), (1, 0.999, 0.4995), (2, 0.999, 0.999)],
)
def test_the_delay_is_full_jitter_over_a_doubling_base(tries, jitter, seconds):
    """Jitter · min(cap, base · 2^(n−1))."""
    action = after("upstream_5xx", state=calling(tries=tries), jitter=jitter)
    assert action == Wait(seconds=pytest.approx(seconds), reason="upstream_5xx")


def test_the_delay_is_capped():
    """A base of 5 s doubles to 10 and is cut at the cap of 8."""
    policy = Policy(max_attempts=9)
    state = calling(tries=2)
    action = decide(policy, state, failed("ramp_too_fast", jitter=1.0))[1]
    assert action == Wait(seconds=8.0, reason="ramp_too_fast")


def test_the_next_tier_is_tried_when_the_class_allows_it():
    """Three tries of an overloaded model, then the next; its tries start anew, the call's go on."""
    state, action = decide(POLICY, calling(tries=3, tiers=2), failed("overloaded"))
    assert action == Fallback(tier=1, reason="overloaded")
    assert (state.phase, state.tier, state.tries_on_tier, state.tries) == ("CALLING", 1, 1, 4)
    assert after("overloaded", state=calling(tries=3)) == Stop(reason="overloaded")
    assert after("invalid_request", state=calling(tiers=2)) == Stop(reason="invalid_request")
    assert after("auth_failed", state=calling(tiers=2)) == Fallback(tier=1, reason="auth_failed")
    last = calling(tries=2, on_tier=1, tier=1, tiers=2)
    assert after("auth_failed", state=last) == Stop(reason="auth_failed")


def test_a_spent_account_is_left_for_another_provider():
    """The models of the same provider are passed over; without another one the call stops."""
    chain = calling(tiers=3, providers=("a", "a", "b"))
    state, action = decide(POLICY, chain, failed("quota_exhausted"))
    assert (action, state.tier) == (Fallback(tier=2, reason="quota_exhausted"), 2)
    alone = calling(tiers=2, providers=("a", "a"))
    assert after("quota_exhausted", state=alone) == Stop(reason="quota_exhausted")
    assert after("model_not_found", state=alone) == Fallback(tier=1, reason="model_not_found")
    second = calling(tier=1, tiers=3, providers=("b", "a", "b"))
    assert after("auth_failed", state=second) == Fallback(tier=2, reason="auth_failed")


def test_refusals_of_content_never_shop_for_a_weaker_filter():
    """However many tiers there are."""
    for name in ("content_filtered", "guardrail_blocked"):
        assert after(name, state=calling(tiers=5)) == Stop(reason=name)


def test_a_tool_that_is_not_idempotent_is_never_run_again():
    """A refund that timed out may have happened."""
    assert isinstance(after("tool_timeout", state=calling(operation="tool")), Wait)
    once = calling(operation="tool", idempotent=False)
    assert after("tool_timeout", state=once) == Stop(reason="not_idempotent")
    assert after("tool_failed", state=once) == Stop(reason="not_idempotent")
    as_model = calling(operation="model", idempotent=False)
    assert isinstance(after("overloaded", state=as_model), Wait)


def test_nothing_is_repeated_once_a_chunk_was_delivered():
    """Neither a retry nor a fallback: the agent would read the beginning twice."""
    for name in TAXONOMY:
        state = calling(tiers=3, delivered=True)
        assert after(name, state=state) == Stop(reason="delivered")


def test_the_call_has_its_own_bound():
    """Four tries over all tiers, whatever the rows allow."""
    assert after("overloaded", state=calling(tries=4, on_tier=1, tiers=3)) == Stop(
        reason="max_attempts"
    )
    assert isinstance(after("overloaded", state=calling(tries=3, on_tier=1, tiers=3)), Wait)


def test_the_retry_budget_stops_what_would_send_another_request():
    """Retries and fallbacks need it; a class that allows neither ends for its own reason."""
    assert after("overloaded", budgeted=False) == Stop(reason="retry_budget")
    assert after("auth_failed", state=calling(tiers=2), budgeted=False) == Stop(
        reason="retry_budget"
    )
    assert after("invalid_request", budgeted=False) == Stop(reason="invalid_request")
    tool = calling(operation="tool")
    assert after("tool_failed", state=tool, budgeted=False) == Stop(reason="retry_budget")


@pytest.mark.parametrize(
    ("asked", "left", "expected"),
    [
        (3.0, 100.0, Wait(seconds=3.0, reason="rate_limited")),
        (60.0, 100.0, Wait(seconds=60.0, reason="rate_limited")),
        (60.1, 100.0, Stop(reason="rate_limited")),
        (86_400.0, 1e9, Stop(reason="rate_limited")),
        (3.0, 3.0, Stop(reason="rate_limited")),
        (3.0, 3.1, Wait(seconds=3.0, reason="rate_limited")),
        (None, 0.1, Stop(reason="rate_limited")),
    ],
)
def test_a_wait_must_fit_into_the_time_left_and_be_bearable(asked, left, expected):
    """86,400 s is not slept: the call moves on or stops."""
    event = {"left": left, "retry_after_s": asked}
    assert after("rate_limited", **event) == expected
    if isinstance(expected, Stop):
        moved = after("rate_limited", state=calling(tiers=2), **event)
        assert moved == Fallback(tier=1, reason="rate_limited")


def test_the_longer_of_the_two_waits_counts():
    """What the provider asks for is a lower bound, the jittered back-off another."""
    assert after("rate_limited", retry_after_s=0.01, jitter=0.9).seconds == pytest.approx(0.45)


def test_a_providers_veto_is_obeyed_where_the_row_says_so():
    """`x-should-retry: false` ends the tries on this tier."""
    assert after("upstream_5xx", veto=True) == Stop(reason="upstream_5xx")
    assert after("upstream_5xx", state=calling(tiers=2), veto=True).tier == 1
    assert isinstance(after("tool_failed", state=calling(operation="tool"), veto=True), Wait)


def test_no_time_left_is_no_fallback():
    """The deadline covers the next tier too."""
    assert after("auth_failed", state=calling(tiers=2), left=0.0) == Stop(reason="auth_failed")


def refused(name="circuit_open", *, wait_s=5.0, left=100.0, **state):
    return decide(
        POLICY, calling(**state), Refused(error_class=name, wait_s=wait_s, time_left_s=left)
    )


def test_a_refused_try_was_not_sent_and_does_not_count():
    """The next tier is asked at once; its tries are counted from one."""
    state, action = refused(tiers=2)
    assert action == Fallback(tier=1, reason="circuit_open")
    assert (state.tries, state.tries_on_tier, state.tier) == (1, 1, 1)


def test_an_open_breaker_without_another_tier_stops_and_a_throttle_waits():
    """There is nothing to wait for behind an open breaker; a throttle has its time."""
    assert refused()[1] == Stop(reason="circuit_open")
    assert refused(left=0.0, tiers=2)[1] == Stop(reason="circuit_open")
    state, action = refused("throttled_locally")
    assert action == Wait(seconds=5.0, reason="throttled_locally")
    assert (state.phase, state.tries, state.tries_on_tier) == ("WAITING", 0, 0)
    state, action = refused("throttled_locally", wait_s=50.0, left=50.0)
    assert (state.phase, action) == ("DONE", Stop(reason="throttled_locally"))
    for more in ({"wait_s": 100.0, "left": 100.0}, {"wait_s": 60.1, "left": 1e9}):
        assert refused("throttled_locally", **more)[1] == Stop(reason="throttled_locally")
    assert isinstance(refused("throttled_locally", wait_s=60.0, left=61.0)[1], Wait)


EVENTS = (
    Begin(), Succeeded(), Waited(), failed("overloaded"),
    Refused(error_class="circuit_open", wait_s=1.0, time_left_s=9.0), TooDear(tier=0),
)  # fmt: skip


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("event", EVENTS, ids=lambda e: type(e).__name__)
def test_what_the_table_does_not_allow_raises_and_changes_nothing(phase, event):
    """An illegal event is a caller's bug, named with what was expected."""
    state = CallState(operation="model", phase=phase, tries=1, tries_on_tier=1)
    before = msgspec.structs.asdict(state)
    if (phase, type(event)) in TRANSITIONS:
        decide(POLICY, state, event)
    else:
        with pytest.raises(IllegalTransition) as caught:
            decide(POLICY, state, event)
        allowed = {"READY": ["Begin"], "DONE": [],
                   "CALLING": ["Succeeded", "Failed", "Refused", "TooDear"],
                   "WAITING": ["Waited"], "RENEWING": ["Waited", "Failed"]}[phase]  # fmt: skip
        name = type(event).__name__
        assert str(caught.value) == f"{name} does not follow {phase}: expected one of {allowed}"
    assert msgspec.structs.asdict(state) == before


@given(
    name=st.sampled_from(sorted(TAXONOMY)), tries=st.integers(1, 6), tier=st.integers(0, 2),
    tiers=st.integers(1, 3), operation=st.sampled_from(["model", "tool"]),
    idempotent=st.booleans(), left=st.floats(0, 400), retry=st.none() | st.floats(0, 1e6),
    jitter=st.floats(0, 0.999), budgeted=st.booleans(), delivered=st.booleans(),
)  # fmt: skip
def test_no_wait_reaches_the_deadline_and_no_bound_is_passed(
    name, tries, tier, tiers, operation, idempotent, left, retry, jitter, budgeted, delivered
):
    """Whatever fails, what follows fits into the time, the tries, the tiers and the budget."""
    state = calling(tries=tries, tier=tier, tiers=tiers, operation=operation,
                    idempotent=idempotent, delivered=delivered)  # fmt: skip
    event = failed(name, left=left, jitter=jitter, budgeted=budgeted, retry_after_s=retry)
    new, action = decide(POLICY, state, event)
    if isinstance(action, Wait):
        assert (retry or 0) <= action.seconds < left
        assert action.seconds <= POLICY.max_retry_after_s
    if not isinstance(action, Stop):
        assert tries < POLICY.max_attempts
        assert budgeted
        assert not delivered
        assert new.tries <= POLICY.max_attempts
    if isinstance(action, Fallback):
        assert new.tier == tier + 1 < tiers
        assert left > 0
    assert (new.phase == "DONE") == isinstance(action, Stop)


def test_the_policy_digest_changes_with_every_field_and_every_row(monkeypatch):
    """A manifest that names a policy names all of it, the taxonomy too."""
    before = POLICY.digest()
    other = TAXONOMY | {"overloaded": TAXONOMY["rate_limited"]}
    with monkeypatch.context() as patched:
        patched.setattr("towerkit.reliability.policy.TAXONOMY", other)
        assert POLICY.digest() != before
    for field in POLICY.__struct_fields__:
        other = msgspec.structs.replace(POLICY, **{field: getattr(POLICY, field) + 1})
        assert other.digest() != POLICY.digest()


def test_a_refused_key_is_renewed_once_where_it_can_be():
    """Then the attempt is made again; a second refusal, or no fresh key, goes on to a provider."""
    chain = calling(tiers=2, providers=("a", "b"), renewable=(0,))
    state, action = decide(POLICY, chain, failed("auth_failed"))
    assert (action, state.phase, state.renewable) == (Renew(reason="auth_failed"), "RENEWING", ())
    again, action = decide(POLICY, state, Waited())
    assert (action, again.tries, again.tries_on_tier) == (Call(), 2, 2)
    assert after("auth_failed", state=again) == Fallback(tier=1, reason="auth_failed")
    _, action = decide(POLICY, state, failed("auth_failed"))
    assert action == Fallback(tier=1, reason="auth_failed")
    assert after("auth_failed", state=calling(tiers=2, renewable=(1,))) == Fallback(
        tier=1, reason="auth_failed"
    )
    assert after("auth_failed", state=chain, left=0.0) == Stop(reason="auth_failed")
    assert after("auth_failed", state=chain, left=0.5) == Renew(reason="auth_failed")
    assert after("permission_denied", state=chain) == Fallback(tier=1, reason="permission_denied")
    both = calling(tiers=2, renewable=(0, 1))
    assert decide(POLICY, both, failed("auth_failed"))[0].renewable == (1,)


def test_too_long_goes_to_a_larger_window_only():
    """A window that is not known may be larger; a chain without one larger stops."""
    chain = calling(tiers=4, windows=(8_000, 8_000, 4_000, 128_000))
    assert after("context_too_long", state=chain) == Fallback(tier=3, reason="context_too_long")
    assert isinstance(after("overloaded", state=chain), Wait)
    assert after("model_not_found", state=chain) == Fallback(tier=1, reason="model_not_found")
    unknown = calling(tiers=2, windows=(8_000, None))
    assert after("context_too_long", state=unknown) == Fallback(tier=1, reason="context_too_long")
    unsaid = calling(tiers=2, windows=(None, 8_000))
    assert after("context_too_long", state=unsaid) == Fallback(tier=1, reason="context_too_long")
    alike = calling(tiers=2, windows=(8_000, 8_000))
    assert after("context_too_long", state=alike) == Stop(reason="context_too_long")


@given(st.sampled_from(["model", "tool"]), st.integers(1, 5), st.booleans())
def test_a_call_that_succeeds_needs_no_decision(operation, tiers, idempotent):
    """The first attempt is always made and an answer always ends the call: it counts on it."""
    state = CallState(operation=operation, tiers=tiers, idempotent=idempotent)
    begun, action = decide(POLICY, state, Begin())
    assert (action, begun.phase, begun.tries) == (Call(), "CALLING", 1)
    assert decide(POLICY, begun, Succeeded())[1] == Stop(reason="succeeded")


def test_a_stand_in_is_reached_whatever_limits_requests():
    """It asks no provider: neither the limit of attempts nor the retry budget holds it back."""
    chain = calling(tries=4, on_tier=3, tiers=4, tier=0, stand_ins=(2, 3))
    state, action = decide(POLICY, chain, failed("overloaded"))
    assert (action, state.tier, state.tries) == (Fallback(tier=2, reason="overloaded"), 2, 5)
    fresh = calling(tiers=4, stand_ins=(2, 3))
    assert after("overloaded", state=fresh, budgeted=False) == Fallback(tier=2, reason="overloaded")
    third = calling(tries=5, tier=2, tiers=4, stand_ins=(2, 3))
    assert after("not_implemented", state=third) == Fallback(tier=3, reason="not_implemented")
    last = calling(tries=6, tier=3, tiers=4, stand_ins=(2, 3))
    assert after("not_implemented", state=last) == Stop(reason="max_attempts")
    assert after("overloaded", state=chain, left=0.0) == Stop(reason="max_attempts")
    assert isinstance(after("overloaded", state=chain, left=0.5), Fallback)
    assert after("content_filtered", state=chain) == Stop(reason="max_attempts")
    delivered = calling(tiers=4, stand_ins=(2,), delivered=True)
    assert after("overloaded", state=delivered) == Stop(reason="delivered")


def test_what_is_too_dear_goes_to_the_tier_that_fits_and_is_no_try():
    """Nothing was sent: the try is not counted, the tier that was named is tried."""
    state = CallState(operation="model", phase="CALLING", tiers=3, tries=2, tries_on_tier=1)
    after, action = decide(POLICY, state, TooDear(tier=2))
    assert action == Fallback(tier=2, reason="budget_exceeded")
    assert (after.tier, after.tries, after.tries_on_tier) == (2, 2, 1)

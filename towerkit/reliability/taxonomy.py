"""The error taxonomy: every way a run can go wrong, and what the tower does about it.

Rule: this table is the one place. Retries, waits, fallback, breaker, charging, blame and the
scorecard's families all read their row; nothing else in towerkit decides by error class.
`docs/errors.md` is printed from it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from towerkit.core.errors import UsageError

Family = Literal["model", "tool", "budget", "guardrail", "infrastructure", "agent", "replay"]
Scope = Literal["none", "other_tier", "other_provider", "larger_window"]
Wait = Literal["none", "backoff", "asked"]
Breaker = Literal["failure", "neutral", "uncounted", "throttle"]
Charge = Literal["none", "input", "usage"]
Fault = Literal["provider", "operator", "developer", "agent", "user", "us"]
Reader = Literal["agent", "model", "user", "operator"]


class ErrorClass(msgspec.Struct, frozen=True, kw_only=True):
    """One row.

    `attempts` counts physical tries on one tier, the first included. `wait` says what paces them:
    full-jitter backoff from `base_s`, or at least what the provider asked for. `retry_cost` is what
    a retry takes from the token bucket of 500 (14, and 5 where the provider itself paces us: the
    figures of botocore's standard mode). `scope` says who may answer instead. `breaker`: counts as a failure,
    as a sign of life, not at all, or puts the key into its throttle state. `charge` says what a failed attempt
    costs: nothing, its input, or what was used (or estimated). `fault` is who has to mend it,
    `visible_to` who is told. `renew` asks for a fresh credential once a tier and tries again.
    `idempotent_only` re-runs a tool only where running it twice is harmless. `veto_obeyed` says
    whether a provider's `x-should-retry: false` forbids the retry.
    """

    name: str
    family: Family
    attempts: int = 1
    base_s: float = 0.5
    wait: Wait = "none"
    retry_cost: int = 14
    scope: Scope = "none"
    breaker: Breaker = "uncounted"
    charge: Charge = "none"
    fault: Fault
    visible_to: Reader = "agent"
    renew: bool = False
    idempotent_only: bool = False
    veto_obeyed: bool = True
    summary: str
    action: str

    @property
    def fallback(self) -> bool:
        """Whether another tier may answer."""
        return self.scope != "none"

    @property
    def replaceable(self) -> bool:
        """Whether another request, here or on another tier, may bring an answer."""
        return self.attempts > 1 or self.fallback

    @property
    def retryable(self) -> bool:
        """Whether the same request may be sent again without knowing what it does."""
        return self.attempts > 1 and not self.idempotent_only


def _e(
    name: str, family: Family, fault: Fault, summary: str, action: str, **row: object
) -> ErrorClass:
    wait: Wait = "backoff" if row.get("attempts", 1) != 1 else "none"
    return ErrorClass(
        name=name, family=family, fault=fault, summary=summary, action=action,
        **{"wait": wait, **row},  # type: ignore[arg-type]
    )  # fmt: skip


# fmt: off
_ROWS = (
    _e("rate_limited", "model", "operator", "the provider asks to slow down",
       "Lower concurrency on this key or raise its limit; the wait it asked for is obeyed.", attempts=3, wait="asked", retry_cost=5, scope="other_tier", breaker="throttle"),
    _e("ramp_too_fast", "model", "operator", "traffic grew faster than the provider allows",
       "Grow traffic by at most half every 15 minutes; nothing else is wrong with the key.", attempts=3, base_s=5.0, wait="asked", retry_cost=5, scope="other_tier", breaker="throttle"),
    _e("quota_exhausted", "model", "operator", "credit or spend limit is used up: waiting does not help",
       "Page the owner of the account: add credit or raise the limit; the key is dead until then.", scope="other_provider", visible_to="operator"),
    _e("overloaded", "model", "provider", "the provider has no capacity right now",
       "Watch the provider's status page; a second provider in the chain carries the load.", attempts=3, wait="asked", scope="other_tier", breaker="failure"),
    _e("upstream_5xx", "model", "provider", "the provider failed",
       "Keep the request id and report it when it lasts.", attempts=3, wait="asked", scope="other_tier", breaker="failure"),
    _e("not_implemented", "model", "operator", "the endpoint does not do this",
       "Configure an endpoint or API version that offers this.", scope="other_tier", visible_to="operator"),
    _e("model_error", "model", "provider", "the model itself failed",
       "Report the request id; another model answers meanwhile.", attempts=2, scope="other_tier", breaker="failure", charge="input"),
    _e("connect_failed", "infrastructure", "operator", "no connection: nothing was sent",
       "Check name resolution, route, proxy and certificate from this host; a bad certificate is not retried.", attempts=3, scope="other_tier", breaker="failure"),
    _e("timeout_connect", "infrastructure", "operator", "no connection in time: nothing was sent",
       "Check the route and the proxy; raise the connect time-out only after that.", attempts=3, scope="other_tier", breaker="failure"),
    _e("timeout_read", "model", "provider", "sent, but no first byte in time",
       "Compare the time-out with the model's p99; the provider may have worked and may charge.", attempts=2, scope="other_tier", breaker="failure", charge="input"),
    _e("timeout_total", "budget", "operator", "the run's deadline passed",
       "See in the trace what took the time; raise the deadline or shorten the run.", charge="usage"),
    _e("stream_interrupted", "model", "provider", "the stream was cut",
       "Look for a proxy that closes idle connections; what was delivered is kept and marked partial.", attempts=2, scope="other_tier", breaker="failure", charge="usage"),
    _e("stream_truncated", "model", "provider", "the stream ended cleanly before its terminal event",
       "Never count it as an answer; look for a proxy or gateway that ends streams.", attempts=2, scope="other_tier", breaker="failure", charge="usage"),
    _e("malformed_response", "model", "provider", "the answer cannot be read",
       "Read the kept, redacted raw answer: a proxy's page or a changed API is likely.", attempts=2, scope="other_tier", breaker="failure", charge="usage"),
    _e("auth_failed", "model", "operator", "the key is refused",
       "Page the owner of the key: rotate it or refresh the credential; the key is dead until then.", scope="other_provider", visible_to="operator", renew=True),
    _e("permission_denied", "model", "operator", "the key may not do this",
       "Grant the key access to the model and region, or configure another.", scope="other_tier", visible_to="operator"),
    _e("model_not_found", "model", "operator", "no such model, or it was retired",
       "Configure a model that exists; check the provider's retirement list.", scope="other_tier", visible_to="operator"),
    _e("invalid_request", "model", "developer", "the request is wrong: a bug of the caller",
       "Fix the request named in the message; every provider would refuse it."),
    _e("context_too_long", "model", "agent", "more tokens than the model reads",
       "Compact the conversation or put a model with a larger window into the chain.", scope="larger_window"),
    _e("request_too_large", "model", "developer", "more bytes than the provider takes",
       "Send less at once: smaller files, fewer images, uploads by reference."),
    _e("output_truncated", "model", "agent", "the answer hit its token limit",
       "Raise the output limit or ask for less; the gate sees the flag.", breaker="neutral", charge="usage"),
    _e("content_filtered", "guardrail", "user", "the provider refused the content: no shopping for a weaker filter",
       "Tell the user; review the prompt when the refusal is wrong.", breaker="neutral", charge="usage", visible_to="user"),
    _e("guardrail_blocked", "guardrail", "user", "a guardrail refused",
       "Tell the user; review the rule when the refusal is wrong.", charge="usage", visible_to="user"),
    _e("guardrail_unavailable", "guardrail", "operator", "a guardrail could not judge: closed",
       "Restore the guardrail; until then what it guards is held.", attempts=2, breaker="failure", charge="usage", visible_to="operator"),
    _e("output_invalid", "model", "agent", "the answer does not fit its schema",
       "The model is asked again with the error, at most twice; simplify the schema when it lasts.", scope="other_tier", breaker="neutral", charge="usage", visible_to="model"),
    _e("tool_args_invalid", "model", "agent", "the model called a tool with arguments it does not take",
       "The model gets the error, at most twice; describe the arguments better when it lasts.", charge="usage", visible_to="model"),
    _e("tool_unknown", "model", "agent", "the model called a tool that does not exist",
       "The model gets the list of names once; check that prompt and tools agree.", charge="usage", visible_to="model"),
    _e("tool_failed", "tool", "operator", "the tool raised",
       "Read the tool's own error in the trace; only an idempotent tool is run again.", attempts=2, breaker="failure", idempotent_only=True, charge="usage", visible_to="model", veto_obeyed=False),
    _e("tool_timeout", "tool", "operator", "the tool did not answer in time: its outcome is unknown",
       "Find out what the tool did before it is run again by hand.", attempts=2, breaker="failure", idempotent_only=True, charge="usage", visible_to="model", veto_obeyed=False),
    _e("mcp_transport", "tool", "operator", "the connection to the tool server broke",
       "Restart the server or reconnect; an idempotent request is sent again.", attempts=2, breaker="failure", idempotent_only=True, veto_obeyed=False),
    _e("mcp_protocol", "tool", "developer", "the tool server broke the protocol",
       "Compare protocol versions of client and server; report it to the server's author.", breaker="failure", visible_to="operator"),
    _e("permission_needed", "agent", "user", "a human has to agree first",
       "Ask the person named in the request; the run is suspended, not failed.", visible_to="user"),
    _e("cancelled", "agent", "user", "the caller gave up",
       "Nothing: whoever cancelled knows.", charge="usage"),
    _e("budget_exceeded", "budget", "operator", "the ledger refused the reservation: the call was not made",
       "Raise the budget, or see in the trace what used it up.", visible_to="operator"),
    _e("no_progress", "agent", "agent", "the agent goes round in circles",
       "Read the repeated calls in the trace; hand the case to a human.", charge="usage", visible_to="user"),
    _e("circuit_open", "infrastructure", "provider", "the breaker is open: not tried",
       "See which failures opened it; it probes by itself.", scope="other_tier"),
    _e("throttled_locally", "infrastructure", "us", "our own limit: not tried",
       "Raise the limit or the pool when the provider would take more.", attempts=3, scope="other_tier", veto_obeyed=False),
    _e("replay_miss", "replay", "developer", "the tape holds no such request",
       "Start at the first span that differs; no live call is made.", visible_to="operator"),
    _e("replay_diverged", "replay", "developer", "the replayed run left its recording",
       "Start at the first span that differs; no live call is made.", visible_to="operator"),
    _e("storage_failed", "infrastructure", "us", "evidence could not be written",
       "Free the disk or mend the volume; the run itself goes on.", visible_to="operator"),
    _e("redaction_failed", "infrastructure", "us", "a field could not be read: it was dropped whole",
       "Report the detector; nothing unredacted was kept.", visible_to="operator"),
    _e("conflict", "model", "provider", "another request holds the resource",
       "Let one writer at a time touch it.", attempts=2, wait="asked", scope="other_tier"),
    _e("agent_bug", "agent", "developer", "the agent's own code raised",
       "Fix the agent at the line in the traceback.", charge="usage"),
    _e("unknown", "infrastructure", "us", "nothing in the table fits: add a row",
       "Report the text: it is counted, never retried, and deserves a mapping.", breaker="failure", charge="usage", visible_to="operator"),
)
# fmt: on

TAXONOMY: dict[str, ErrorClass] = {row.name: row for row in _ROWS}


def error_class(name: str) -> ErrorClass:
    """Return the row `name`; raise `UsageError` listing the known names."""
    try:
        return TAXONOMY[name]
    except KeyError:
        raise UsageError(
            f"expected an error class, got {name!r}; known: {', '.join(TAXONOMY)}"
        ) from None

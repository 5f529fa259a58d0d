"""The error taxonomy: every way a run can go wrong, and what the tower does about it.

Rule: this table is the one place. Retries, fallback, charging and the scorecard's families all
read their row; nothing else in towerkit decides by error class.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from towerkit.core.errors import UsageError

Family = Literal["model", "tool", "budget", "guardrail", "infrastructure", "agent", "replay"]
Charge = Literal["none", "input", "usage"]


class ErrorClass(msgspec.Struct, frozen=True, kw_only=True):
    """One row. `attempts` counts physical tries on one tier, the first included.

    `tool_retry` "idempotent" re-runs a tool only where running it twice is harmless. `charge` says
    what a failed attempt costs: nothing, its input, or what was used (or estimated).
    """

    name: str
    family: Family
    attempts: int = 1
    base_s: float = 0.5
    fallback: bool = False
    charge: Charge = "none"
    idempotent_only: bool = False
    summary: str


def _e(name: str, family: Family, summary: str, **row: object) -> ErrorClass:
    return ErrorClass(name=name, family=family, summary=summary, **row)  # type: ignore[arg-type]


# fmt: off
_ROWS = (
    _e("rate_limited", "model", "the provider asks to slow down", attempts=3, fallback=True),
    _e("ramp_too_fast", "model", "traffic grew faster than the provider allows", attempts=3, base_s=5.0, fallback=True),
    _e("quota_exhausted", "model", "credit or spend limit is used up: waiting does not help", fallback=True),
    _e("overloaded", "model", "the provider has no capacity right now", attempts=3, fallback=True),
    _e("upstream_5xx", "model", "the provider failed", attempts=3, fallback=True),
    _e("not_implemented", "model", "the endpoint does not do this", fallback=True),
    _e("model_error", "model", "the model itself failed", attempts=2, fallback=True, charge="input"),
    _e("connect_failed", "infrastructure", "no connection: nothing was sent", attempts=3, fallback=True),
    _e("timeout_connect", "infrastructure", "no connection in time: nothing was sent", attempts=3, fallback=True),
    _e("timeout_read", "model", "sent, but no first byte in time", attempts=2, fallback=True, charge="input"),
    _e("timeout_total", "budget", "the run's deadline passed", charge="usage"),
    _e("stream_interrupted", "model", "the stream was cut", attempts=2, fallback=True, charge="usage"),
    _e("stream_truncated", "model", "the stream ended cleanly before its terminal event", attempts=2, fallback=True, charge="usage"),
    _e("malformed_response", "model", "the answer cannot be read", attempts=2, fallback=True, charge="usage"),
    _e("auth_failed", "model", "the key is refused", fallback=True),
    _e("permission_denied", "model", "the key may not do this", fallback=True),
    _e("model_not_found", "model", "no such model, or it was retired", fallback=True),
    _e("invalid_request", "model", "the request is wrong: a bug of the caller"),
    _e("context_too_long", "model", "more tokens than the model reads", fallback=True),
    _e("request_too_large", "model", "more bytes than the provider takes"),
    _e("output_truncated", "model", "the answer hit its token limit", charge="usage"),
    _e("content_filtered", "guardrail", "the provider refused the content: no shopping for a weaker filter", charge="usage"),
    _e("guardrail_blocked", "guardrail", "a guardrail refused", charge="usage"),
    _e("guardrail_unavailable", "guardrail", "a guardrail could not judge: closed", attempts=2, charge="usage"),
    _e("output_invalid", "model", "the answer does not fit its schema", charge="usage"),
    _e("tool_args_invalid", "model", "the model called a tool with arguments it does not take", charge="usage"),
    _e("tool_unknown", "model", "the model called a tool that does not exist", charge="usage"),
    _e("tool_failed", "tool", "the tool raised", attempts=2, idempotent_only=True, charge="usage"),
    _e("tool_timeout", "tool", "the tool did not answer in time: its outcome is unknown", attempts=2, idempotent_only=True, charge="usage"),
    _e("mcp_transport", "tool", "the connection to the tool server broke", attempts=2, idempotent_only=True),
    _e("mcp_protocol", "tool", "the tool server broke the protocol"),
    _e("permission_needed", "agent", "a human has to agree first"),
    _e("cancelled", "agent", "the caller gave up", charge="usage"),
    _e("budget_exceeded", "budget", "the ledger refused the reservation: the call was not made"),
    _e("no_progress", "agent", "the agent goes round in circles", charge="usage"),
    _e("circuit_open", "infrastructure", "the breaker is open: not tried", fallback=True),
    _e("throttled_locally", "infrastructure", "our own limit: not tried", attempts=3, fallback=True),
    _e("replay_miss", "replay", "the tape holds no such request"),
    _e("replay_diverged", "replay", "the replayed run left its recording"),
    _e("storage_failed", "infrastructure", "evidence could not be written"),
    _e("redaction_failed", "infrastructure", "a field could not be read: it was dropped whole"),
    _e("conflict", "model", "another request holds the resource", attempts=2, fallback=True),
    _e("agent_bug", "agent", "the agent's own code raised", charge="usage"),
    _e("unknown", "infrastructure", "nothing in the table fits: add a row", charge="usage"),
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

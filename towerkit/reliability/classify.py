"""From an exception or an error text to one row of the taxonomy, by duck typing.

Rule: no SDK is imported. What decides, in order: the tower's own verdict, the provider's error code
in the body, the HTTP status, class names along the MRO and the `__cause__` chain, the words of the
text. What fits nothing is `unknown`: visible, counted, never retried after a side effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from towerkit.core.errors import ControlError
from towerkit.reliability.taxonomy import TAXONOMY

# Provider codes as they stand in bodies (`error.code`, `error.type`, `error.status`).
CODES = {
    "insufficient_quota": "quota_exhausted",
    "credit_balance_exhausted": "quota_exhausted",
    "billing_error": "quota_exhausted",
    "enforced_spend_limit_reached": "quota_exhausted",
    "slow_down": "ramp_too_fast",
    "rate_limit_exceeded": "rate_limited",
    "rate_limit_error": "rate_limited",
    "throttlingexception": "rate_limited",
    "resource_exhausted": "rate_limited",
    "overloaded_error": "overloaded",
    "server_is_overloaded": "overloaded",
    "unavailable": "overloaded",
    "context_length_exceeded": "context_too_long",
    "string_above_max_length": "context_too_long",
    "content_filter": "content_filtered",
    "content_policy_violation": "content_filtered",
    "model_not_found": "model_not_found",
    "not_found_error": "model_not_found",
    "invalid_api_key": "auth_failed",
    "authentication_error": "auth_failed",
    "permission_error": "permission_denied",
    "request_too_large": "request_too_large",
    "invalid_request_error": "invalid_request",
    "api_error": "upstream_5xx",
    "server_error": "upstream_5xx",
}

STATUSES = {
    400: "invalid_request", 401: "auth_failed", 402: "quota_exhausted", 403: "permission_denied",
    404: "model_not_found", 408: "timeout_read", 409: "conflict", 412: "conflict",
    413: "request_too_large", 422: "invalid_request", 424: "model_error", 429: "rate_limited",
    431: "request_too_large", 498: "rate_limited", 499: "cancelled", 501: "not_implemented",
    503: "overloaded", 505: "not_implemented", 529: "overloaded",
}  # fmt: skip

# Exception class names, outermost first; matched along the MRO.
NAMES = {
    "CancelledError": "cancelled",
    "GeneratorExit": "cancelled",
    "KeyboardInterrupt": "cancelled",
    "ConnectTimeout": "timeout_connect",
    "PoolTimeout": "throttled_locally",
    "ConnectError": "connect_failed",
    "ConnectionRefusedError": "connect_failed",
    "gaierror": "connect_failed",
    "SSLError": "connect_failed",
    "ReadTimeout": "timeout_read",
    "APITimeoutError": "timeout_read",
    "RemoteProtocolError": "stream_interrupted",
    "ReadError": "stream_interrupted",
    "ConnectionResetError": "stream_interrupted",
    "IncompleteRead": "stream_interrupted",
    "APIResponseValidationError": "malformed_response",
    "JSONDecodeError": "malformed_response",
    "LengthFinishReasonError": "output_truncated",
    "ContentFilterFinishReasonError": "content_filtered",
    "RateLimitError": "rate_limited",
    "OverloadedError": "overloaded",
    "InternalServerError": "upstream_5xx",
    "AuthenticationError": "auth_failed",
    "PermissionDeniedError": "permission_denied",
    "NotFoundError": "model_not_found",
    "BadRequestError": "invalid_request",
    "APIConnectionError": "connect_failed",
    "TimeoutError": "timeout_read",
}

# Texts, as logs and recorded runs have them; the first that matches decides.
TEXTS = tuple(
    (re.compile(pattern, re.IGNORECASE), name)
    for pattern, name in (
        (
            (
                r"context[_ ]length[_ ]exceeded|maximum context length|prompt is too long"
                r"|too many (?:input )?tokens|content_length_exceeded"
            ),
            "context_too_long",
        ),
        (r"insufficient_quota|exceeded your current quota|credit balance", "quota_exhausted"),
        (r"overloaded|high load|at capacity", "overloaded"),
        (r"rate.?limit|too many requests|throttl", "rate_limited"),
        (r"content.?(?:filter|policy)|safety system", "content_filtered"),
        (r"connection (?:refused|error)|name or service not known|getaddrinfo", "connect_failed"),
        (
            (
                r"connection (?:was )?(?:aborted|reset|forcibly closed|broken)|reset by peer"
                r"|forcibly closed|incomplete (?:chunked )?read|server disconnected"
            ),
            "stream_interrupted",
        ),
        (r"timed? ?out|deadline exceeded", "timeout_read"),
        (
            r"internal server error|bad gateway|service unavailable|error code: 5\d\d",
            "upstream_5xx",
        ),
        (r"invalid api key|unauthorized|incorrect api key", "auth_failed"),
        (r"max(?:imum)? (?:number of )?steps|too many errors", "no_progress"),
    )
)


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong in one attempt: its row, the exception's type, the wait asked for."""

    error_class: str
    error_type: str
    retry_after_s: float | None = None


def classify(error: BaseException, *, operation: str = "model") -> Failure:
    """Classify an exception of a model call, or of a tool call when `operation` is "tool"."""
    kind = type(error).__qualname__
    if isinstance(error, ControlError):
        name = error.error_class
        if name == "tool_timeout" and operation == "model":
            name = "timeout_read"
        return Failure(error_class=name, error_type=kind, retry_after_s=_retry_after(error))
    named = _by_names(error)
    if named == "cancelled":
        return Failure(error_class=named, error_type=kind)
    if operation == "tool":
        own = getattr(error, "error_class", None)  # a tool may say what its error is
        if isinstance(own, str) and own in TAXONOMY:
            return Failure(error_class=own, error_type=kind)
        timed_out = isinstance(error, TimeoutError) or named in {"timeout_read", "timeout_connect"}
        name = "tool_timeout" if timed_out else "tool_failed"
        return Failure(error_class=name, error_type=kind)
    found = _by_body(getattr(error, "body", None)) or _by_status(error) or named
    return Failure(
        error_class=found or classify_text(_text(error)),
        error_type=kind,
        retry_after_s=_retry_after(error),
    )


def classify_text(text: str) -> str:
    """Classify an error text as a log has it; `unknown` when nothing fits."""
    return next((name for pattern, name in TEXTS if pattern.search(text)), "unknown")


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  a user object's __str__ may raise; its type still names it
        return type(error).__qualname__


def _by_body(body: Any) -> str | None:
    if not isinstance(body, Mapping):
        return None
    inner = body.get("error", body)
    if not isinstance(inner, Mapping):
        return None
    for field in ("code", "type", "status"):
        code = inner.get(field)
        name = CODES.get(code.lower()) if isinstance(code, str) else None
        if name == "invalid_request":
            text = classify_text(str(inner.get("message", "")))
            return text if text in {"context_too_long", "content_filtered"} else name
        if name is not None:
            return name
    return None


def _by_status(error: BaseException) -> str | None:
    status = getattr(error, "status_code", None)
    if not isinstance(status, int) or isinstance(status, bool) or status < 400:
        return None
    return STATUSES.get(status) or ("upstream_5xx" if status >= 500 else "invalid_request")


def _by_names(error: BaseException) -> str | None:
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and len(chain) < 8:
        chain.append(current)
        current = current.__cause__
    # The cause is closer to what happened than the SDK's wrapper around it.
    for link in reversed(chain):
        for base in type(link).__mro__:
            if base.__name__ in NAMES:
                return NAMES[base.__name__]
    return None


def _retry_after(error: BaseException) -> float | None:
    """Return the wait a provider asked for in seconds, from `retry-after-ms` or `retry-after`."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    given = getattr(error, "retry_after_s", None)
    if isinstance(given, int | float):
        return float(given)
    if headers is None or not hasattr(headers, "get"):
        return None
    for header, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(header)
        try:
            seconds = float(text) * scale
        except (TypeError, ValueError):
            continue
        if 0 <= seconds < float("inf"):
            return seconds
    return None

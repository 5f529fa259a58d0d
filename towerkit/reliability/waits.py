"""How long a provider asks us to wait, in every form it says so.

Rule: only a finite wait of zero or more seconds is believed; anything else is no answer. A moment
in time needs to know what time it is: without `now_unix_s` it is no answer either, and one that is
past asks for no wait.

In order: `retry-after-ms`, `retry-after` (seconds or an HTTP date), the body's field
(`RetryInfo.retryDelay` of Google's, `retry_after` of others), `x-ratelimit-reset-*` (of the limits
that are used up), the message.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*(ms|milliseconds?|seconds?|secs?|s|minutes?|mins?|m|hours?|h|d)")  # fmt: skip  # noqa: E501
_SPANS = re.compile(rf"(?:{_SPAN.pattern}\s*)+")
_UNITS = {"ms": 0.001, "mi": 60.0, "m": 60.0, "s": 1.0, "h": 3600.0, "d": 86400.0}
# Fields of bodies: Google's retryDelay, Hugging Face's estimated_time, retry_after of others.
_DELAY = re.compile(
    r"""["']?\b(?:retry_?delay|estimated_time|retry_?after(?:_?(?:s|secs|seconds|(?P<ms>ms)))?)["']?"""
    r"""\s*:\s*(?:\{\s*["']?seconds["']?\s*:\s*)?["']?(?P<wait>\d{1,9}(?:\.\d{1,9})?)(?![\d-])""",
    re.IGNORECASE,
)
_ASKED = re.compile(
    r"(?:try again in|retry after|retry in|please wait|wait for)\s+(?:about\s+)?"
    rf"((?:{_SPAN.pattern}\s*){{1,4}})",
    re.IGNORECASE,
)
_EPOCH_S, _EPOCH_MS = 1e9, 1e12  # larger numbers are moments: 2001 on, in seconds or milliseconds


def asked_wait(
    headers: dict[str, str], text: str = "", *, now_unix_s: float | None = None,
    throttled: bool = True,
) -> float | None:  # fmt: skip
    """Return the wait asked for in seconds, or None. Header names are in lower case.

    `throttled` says that the failure is a limit: only then the reset of a limit is a wait.
    """
    readers: list[tuple[str, Callable[[str], float | None]]] = [
        ("retry-after-ms", lambda t: _scaled(t, 0.001)),
        ("x-ms-retry-after-ms", lambda t: _scaled(t, 0.001)),
        ("retry-after", lambda t: _number(t) if _digits(t) else _date(t, now_unix_s)),
    ]
    for name, read in readers:
        if name in headers and (wait := read(headers[name].strip())) is not None:
            return wait
    if (delay := _DELAY.search(text)) is not None:
        return _scaled(delay["wait"], 0.001 if delay["ms"] else 1.0)
    if throttled and (wait := _reset(headers, now_unix_s)) is not None:
        return wait
    asked = _ASKED.search(text) if throttled else None
    return None if asked is None else _span(asked[1])


def _digits(text: str) -> bool:
    return text[:1] in set("0123456789.+-") or text.lower()[:3] in {"inf", "nan"}


def _number(text: str) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _scaled(text: str, scale: float) -> float | None:
    number = _number(text)
    return None if number is None else number * scale


def _date(text: str, now: float | None) -> float | None:
    """Read an HTTP date or an RFC 3339 moment as the time until then."""
    if now is None:
        return None
    try:
        moment = (
            datetime.fromisoformat(text) if text[:4].isdecimal() else parsedate_to_datetime(text)
        )
        # An HTTP date without a zone is in UTC.
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - now)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _span(text: str) -> float | None:
    """Read "1s", "6m0s", "20ms" or "1 minute 5 seconds"."""
    if _SPANS.fullmatch(text.strip()) is None:
        return None
    return sum(
        float(m[1]) * (_UNITS.get(m[2][:2]) or _UNITS[m[2][0]]) for m in _SPAN.finditer(text)
    )


def _reset(headers: dict[str, str], now: float | None) -> float | None:
    """Return when the limits that are used up are whole again; without such, the first that is."""
    waits: dict[bool, list[float]] = {True: [], False: []}
    for name, text in headers.items():
        if "ratelimit" not in name or "reset" not in name:
            continue
        wait = _moment_or_span(text.strip(), now)
        if wait is not None:
            left = headers.get(name.replace("reset", "remaining"), "").strip()
            waits[left in {"0", "0.0"}].append(wait)
    if waits[True]:
        return max(waits[True])
    return min(waits[False], default=None)


def _moment_or_span(text: str, now: float | None) -> float | None:
    number = _number(text) if _digits(text) else None
    if number is None:
        return _span(text.lower()) if len(text) < 40 and "t" not in text.lower() else _date(text, now)  # fmt: skip  # noqa: E501
    if number < _EPOCH_S:
        return number
    moment = number if number < _EPOCH_MS else number / 1000
    return None if now is None else max(0.0, moment - now)

"""W3C trace context: what came in with a run, and what goes out with its calls.

Rule: `traceparent` goes out with every guarded HTTP request and MCP tool call, because it holds
nothing but ids: the run's, which is the trace, and the attempt's. `baggage` holds what somebody put
into it, so it goes only to the services that `Tower(baggage_to=…)` names. A header of the agent's
own is never replaced.

Specifications: www.w3.org/TR/trace-context, www.w3.org/TR/baggage.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from towerkit.core.errors import UsageError
from towerkit.privacy.log import log
from towerkit.telemetry.recorder import OpenSpan

if TYPE_CHECKING:
    from towerkit.runtime.run import Run


MOST_MEMBERS, MOST_BYTES = 64, 8_192  # what the baggage specification promises to carry

_PARENT = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<more>-.*)?"
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(r"(mcp:[^\s,*]+|[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:]+\]?)")


def read_traceparent(header: object) -> dict[str, Any] | None:
    """Return trace id, span id and flags of a caller's `traceparent`; None where it is none.

    It comes from outside: one that does not hold is left out, as the specification asks, and never
    an error of the run.
    """
    match = _PARENT.fullmatch(header.strip()) if isinstance(header, str) else None
    if match is None or match["version"] == "ff" or (match["version"] == "00" and match["more"]):
        return None
    if not match["trace"].strip("0") or not match["span"].strip("0"):
        return None
    return {"trace_id": match["trace"], "span_id": match["span"], "flags": int(match["flags"], 16)}


def note_caller(
    root: OpenSpan, run_id: str, *, caller: Mapping[str, Any] | None, stray: bool,
    baggage: Sequence[str],
) -> None:  # fmt: skip
    """Say on a run's span who called; of baggage only the names are kept.

    `stray` is true where the caller's `traceparent` was none.
    """
    if caller is not None:
        root.attributes["towerkit.parent"] = caller
    if stray:
        root.attributes["towerkit.traceparent_invalid"] = True
        log.warning(
            "run %s: the caller's traceparent is none and was left out: expected "
            "00-TRACE-SPAN-FLAGS in hexadecimal", run_id,
        )  # fmt: skip
    if baggage:
        root.attributes["towerkit.baggage_names"] = baggage


def traceparent(run_id: str, span_id: str) -> str:
    """Return the header of a call: the run is the trace, the attempt is the parent."""
    return f"00-{run_id.replace('-', '')}-{span_id}-01"


def baggage_header(entries: Mapping[str, str]) -> str:
    """Return entries as a `baggage` header; raise `UsageError` for what it cannot carry."""
    for name, value in entries.items():
        if not (isinstance(name, str) and _TOKEN.fullmatch(name) and isinstance(value, str)):
            raise UsageError(
                "expected baggage as a mapping of names to text, a name being letters, digits and "
                f"any of !#$%&'*+-.^_`|~, got {str(name)[:80]!r}: {type(value).__name__}"
            )
    try:
        # Every special character, because readers differ in what they take a plus sign for.
        header = ",".join(f"{name}={quote(value, safe='')}" for name, value in entries.items())
    except UnicodeEncodeError:
        raise UsageError("expected baggage as text, got a lone surrogate") from None
    if len(entries) > MOST_MEMBERS or len(header) > MOST_BYTES:
        raise UsageError(
            f"expected at most {MOST_MEMBERS} entries of baggage and {MOST_BYTES} bytes, got "
            f"{len(entries)} and {len(header)}"
        )
    return header


def targets(names: Collection[str]) -> frozenset[str]:
    """Return the services that get baggage; raise `UsageError` for what is not a service's name."""
    if isinstance(names, str) or not all(
        isinstance(n, str) and _TARGET.fullmatch(n) for n in names
    ):
        raise UsageError(
            "expected baggage_to as host names and MCP servers, such as "
            f'("tools.internal", "mcp:orders"), each spelt out, got {names!r}'
        )
    return frozenset(n.lower() if not n.startswith("mcp:") else n for n in names)


def outgoing(run: Run, span_id: str, *, to: str, given: Collection[str] = ()) -> dict[str, str]:
    """Return the headers that go out with an attempt, without those in `given`.

    `to` is the host that is asked, or `mcp:SERVER`.
    """
    found = {"traceparent": traceparent(run.run_id, span_id)}
    if run.baggage and to in run.tower.baggage_to:
        found["baggage"] = run.baggage
    own = {name.lower() for name in given}
    # Somebody else's trace goes on whole: their baggage belongs to it, ours does not.
    return {} if "traceparent" in own else {k: v for k, v in found.items() if k not in own}

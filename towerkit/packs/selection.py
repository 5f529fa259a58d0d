"""SELECTION: one small language for "which runs", the same in every command and notebook.

`release=NAME`, `scenario=NAME`, `run_id=ID`, `eval=ID`, `since=TIME`, `until=TIME`, joined by
commas; all must hold. A TIME is an ISO date or date-time, UTC unless it says otherwise; `since` is
inclusive, `until` exclusive. The empty selection is every run.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from towerkit.core.errors import SelectionError

KEYS = ("release", "scenario", "run_id", "eval", "since", "until")


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed SELECTION. None means "any"."""

    text: str = ""
    release: str | None = None
    scenario: str | None = None
    run_id: str | None = None
    eval_id: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None

    def matches(self, manifest: dict[str, Any]) -> bool:
        """Return whether a pack's manifest is selected."""
        identity, started = manifest["identity"], manifest["started_unix_ns"]
        return (
            self.release in {None, identity.get("release")}
            and self.scenario in {None, identity.get("scenario")}
            and self.run_id in {None, manifest["run_id"]}
            and self.eval_id in {None, manifest["source"].get("eval_id")}
            and (self.since_ns is None or started >= self.since_ns)
            and (self.until_ns is None or started < self.until_ns)
        )


def parse_selection(text: str) -> Selection:
    """Parse a SELECTION; raise `SelectionError` that names the bad part and the known keys."""
    fields: dict[str, Any] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, found, value = part.partition("=")
        key, value = key.strip(), value.strip()
        if not found or key not in KEYS or not value:
            raise SelectionError(
                f"expected a selection like release=NAME,since=2026-11-01, got {part!r}; "
                f"the keys are {', '.join(KEYS)}"
            )
        name = {"eval": "eval_id", "since": "since_ns", "until": "until_ns"}.get(key, key)
        if name in fields:
            raise SelectionError(f"selection {text!r} names {key} twice: give it once")
        fields[name] = parse_time(key, value) if name.endswith("_ns") else value
    return Selection(text=text, **fields)


def parse_time(key: str, value: str) -> int:
    """Return an ISO date or date-time in nanoseconds since 1970, UTC unless it says otherwise."""
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise SelectionError(
            f"expected {key} as an ISO date or date-time such as 2026-11-22T03:00, got {value!r}"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000

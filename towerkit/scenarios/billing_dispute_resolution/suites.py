"""The billing suites and tickets, read from committed files.

Rule: a case is checked when it is read, and a ticket a user brings is checked field by field: one
error names the field, what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.assets import asset
from towerkit.core.errors import UsageError
from towerkit.scenarios.base import SUITES, Case
from towerkit.scenarios.billing_dispute_resolution.world import NAME, open_world

MAX_TICKET_BYTES = 1_000_000


@cache
def load_suite(suite: str) -> tuple[Case, ...]:
    """Return the cases of `golden` or `adversarial`, in file order."""
    if suite not in SUITES:
        raise UsageError(f"expected a suite, got {suite!r}; there are: {', '.join(SUITES)}")
    path = asset("data", "suites", NAME, f"{suite}.jsonl")
    cases = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            cases.append(msgspec.json.decode(line, type=Case))
        except msgspec.MsgspecError as error:
            raise UsageError(f"{path.name}: line {number}: {error}") from error
    return tuple(cases)


@cache
def prompt_text() -> str:
    """Return the system prompt of the agent."""
    return asset("data", "scenarios", NAME, "prompt.md").read_text(encoding="utf-8")


def load_ticket(path: Path | None) -> Case:
    """Return the demonstration case, or the one in the JSON file a user brings.

    The file holds a ticket, or `{"ticket": …, "world": …, "expected": …}` where the last two may be
    left out. Raises `UsageError`.
    """
    source = path or asset("data", "scenarios", NAME, "ticket.json")
    document = _read_object(source)
    parts = document if "ticket" in document else {"ticket": document}
    unknown = sorted(set(parts) - {"ticket", "world", "expected"})
    if unknown:
        raise UsageError(f"{source}: expected ticket, world and expected, got {', '.join(unknown)}")
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise UsageError(f"{source}: {name}: expected an object, got {_kind(part)}")
    task = _checked_ticket(parts["ticket"], source)
    world = parts.get("world", {})
    with open_world(world):
        pass  # an override that does not fit is refused before a run is spent on it
    return Case(
        case_id=f"ticket-{task['ticket_id']}",
        suite="golden",
        category="ticket",
        task=task,
        world=world,
        expected=parts.get("expected", {}),
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TICKET_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the ticket {path}: {error.strerror}") from error
    if len(data) > MAX_TICKET_BYTES:
        raise UsageError(f"{path}: expected a ticket of at most {MAX_TICKET_BYTES} bytes, got more")
    try:
        document = msgspec.json.decode(data)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise UsageError(f"{path}: expected a ticket as JSON: {error}") from error
    if not isinstance(document, dict):
        raise UsageError(f"{path}: expected a JSON object, got {_kind(document)}")
    return document


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _is_address(value: Any) -> bool:
    return (
        isinstance(value, str) and "@" in value.strip("@") and not any(c.isspace() for c in value)
    )


# field: what it must be, and the check
TICKET_FIELDS: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "ticket_id": ("a text", _is_text),
    "received": ("a date such as 2026-01-05", _is_date),
    "from": ("the sender's e-mail address", _is_address),
    "subject": ("a text", _is_text),
    "body": ("a text", _is_text),
}


def _checked_ticket(ticket: dict[str, Any], source: Path) -> dict[str, Any]:
    unknown = sorted(set(ticket) - set(TICKET_FIELDS))
    if unknown:
        raise UsageError(
            f"{source}: expected the fields {', '.join(TICKET_FIELDS)}, got {', '.join(unknown)}"
        )
    for name, (wanted, holds) in TICKET_FIELDS.items():
        if name not in ticket:
            raise UsageError(f"{source}: {name}: expected {wanted}, got nothing")
        if not holds(ticket[name]):
            raise UsageError(f"{source}: {name}: expected {wanted}, got {ticket[name]!r:.80}")
    return dict(ticket)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    return names.get(type(value), "null" if value is None else "a number")

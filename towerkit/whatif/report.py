"""The answer to "what if": a row a run, totals with intervals, and which worlds no other beats.

Rule: a total is an interval that holds whatever the undecided rows come to. A world is beaten only
where another is at least as good on all three axes whatever that is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.assets import asset
from towerkit.core.errors import SelectionError, UsageError
from towerkit.packs.store import Pack
from towerkit.reliability.policy import Policy
from towerkit.reliability.policy_file import FIELDS, policy_of, read_toml
from towerkit.whatif.ends import Live
from towerkit.whatif.record import Record, read_record
from towerkit.whatif.rows import LABELS, QUANTITIES, Quantity, Row
from towerkit.whatif.shared import walk_runs
from towerkit.whatif.world import World

Progress = Callable[[int, int], None]
AXES = ("cost_nanousd", "latency_ns", "run_success")
_LESS_IS_BETTER = {"cost_nanousd": True, "latency_ns": True, "run_success": False}
MOST_WORLDS = 500


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """One quantity over all runs: as recorded (None: not known), and between what it lies now."""

    recorded: int | None
    low: int
    high: int | None
    exact: int
    bounded: int
    unknown: int


class WhatIf(msgspec.Struct, frozen=True, kw_only=True):
    """What a selection of runs becomes in one world.

    `rows` counts them by label. `live` are the attempts that would have to be made to know more,
    `live_nanousd` what those with a known price would cost.
    """

    world: World
    runs: tuple[Row, ...]
    rows: dict[str, int]
    changed: int
    totals: dict[str, Total]
    live: tuple[Live, ...]
    live_nanousd: int
    notes: tuple[str, ...]

    @property
    def unknown_share(self) -> float:
        """The share of runs that only a live run would tell of."""
        return self.rows["unknown"] / len(self.runs)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One world of a search: its totals, and the worlds that beat it.

    `common` are the totals over the runs that every world decides, `beaten_in_common` who beats it
    there.
    """

    world: World
    rows: dict[str, int]
    totals: dict[str, Total]
    beaten_by: tuple[str, ...]
    common: dict[str, Total]
    beaten_in_common: tuple[str, ...]


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """A grid of worlds.

    `front` names those that no other beats over all runs, `common_front` those that none beats
    over the `common_runs` runs that every world decides.
    """

    runs: int
    common_runs: int
    points: tuple[Point, ...]
    front: tuple[str, ...]
    common_front: tuple[str, ...]


def records_of(packs: Sequence[Pack]) -> list[Record]:
    """Return the records of packs; raise `SelectionError` when there is none."""
    if not packs:
        raise SelectionError("expected at least one recorded run, got none: widen the selection")
    return [read_record(pack) for pack in packs]


def whatif(records: Sequence[Record], world: World, *, progress: Progress | None = None) -> WhatIf:
    """Return what recorded runs become in `world`, without running anything."""
    rows = tuple(walk.row for walk in walk_runs(records, world, progress=progress))
    live = tuple(one for row in rows for one in row.live)
    return WhatIf(
        world=world, runs=rows, rows=_labels(rows), changed=sum(row.changed for row in rows),
        totals=_totals(records, rows), live=live,
        live_nanousd=sum(one.estimate_nanousd or 0 for one in live),
        notes=_notes(records),
    )  # fmt: skip


def search(
    records: Sequence[Record], worlds: Sequence[World], *, progress: Progress | None = None
) -> Search:
    """Return every world's totals and the worlds that no other beats on cost, time and success."""
    if len({w.name for w in worlds}) < len(worlds):
        raise UsageError("expected worlds of different names")
    rows = []
    for done, world in enumerate(worlds, 1):
        rows.append([walk.row for walk in walk_runs(records, world)])
        if progress is not None:
            progress(done, len(worlds))
    common = [
        i for i in range(len(records))
        if all(r[i].quantity(axis).label != "unknown" for r in rows for axis in AXES)
    ]  # fmt: skip
    whole = {w.name: _totals(records, r) for w, r in zip(worlds, rows, strict=True)}
    shared = {
        w.name: _totals([records[i] for i in common], [r[i] for i in common])
        for w, r in zip(worlds, rows, strict=True)
    }
    points = tuple(
        Point(
            world=w, rows=_labels(r), totals=whole[w.name], beaten_by=_beaten(w.name, whole),
            common=shared[w.name], beaten_in_common=_beaten(w.name, shared) if common else (),
        )
        for w, r in zip(worlds, rows, strict=True)
    )  # fmt: skip
    return Search(
        runs=len(records), common_runs=len(common), points=points,
        front=tuple(p.world.name for p in points if not p.beaten_by),
        common_front=tuple(p.world.name for p in points if common and not p.beaten_in_common),
    )  # fmt: skip


def _beaten(name: str, totals: Mapping[str, Mapping[str, Total]]) -> tuple[str, ...]:
    return tuple(n for n, t in totals.items() if n != name and _beats(t, totals[name]))


def _beats(one: Mapping[str, Total], other: Mapping[str, Total]) -> bool:
    """Return whether `one` is nowhere worse, and somewhere better, whatever is undecided."""
    better = False
    for axis in AXES:
        mine, theirs = one[axis], other[axis]
        worst, best = (
            (mine.high, theirs.low) if _LESS_IS_BETTER[axis] else
            (None if theirs.high is None else -mine.low, -(theirs.high or 0))
        )  # fmt: skip
        if worst is None or worst > best:
            return False
        better = better or worst < best
    return better


def _labels(rows: Sequence[Row]) -> dict[str, int]:
    return {label: sum(row.label == label for row in rows) for label in LABELS}


def _totals(records: Sequence[Record], rows: Sequence[Row]) -> dict[str, Total]:
    then = [_recorded(record) for record in records]
    return {
        name: _total([t[name] for t in then], [row.quantity(name) for row in rows])
        for name in QUANTITIES
    }


def _total(then: Sequence[int | None], now: Sequence[Quantity]) -> Total:
    highs = [q.high for q in now]
    return Total(
        recorded=None if None in then else sum(v for v in then if v is not None),
        low=sum(q.low for q in now),
        high=None if None in highs else sum(h for h in highs if h is not None),
        **{label: sum(q.label == label for q in now) for label in LABELS},
    )  # fmt: skip


def _recorded(record: Record) -> dict[str, int | None]:
    """Return the quantities of a run as they were."""
    charges = [c for call in record.calls for t in call.tries for c in t.charges]
    costs = [c.nanousd for c in (*charges, *record.loose)]
    calls = record.calls
    return {
        "cost_nanousd": None if None in costs else sum(c for c in costs if c is not None),
        "latency_ns": record.took_ns if record.timed else None,
        "calls_failed": sum(c.status == "error" for c in calls),
        "fallbacks": sum(any(t.then == "fallback" for t in c.tries) for c in calls),
        "budget_breach": int(any(c.error_class == "budget_exceeded" for c in calls)),
        "run_success": int(record.status == "completed"),
    }


def _notes(records: Sequence[Record]) -> tuple[str, ...]:
    notes = []
    unnamed = sum(r.policy is None for r in records)
    if unnamed:
        notes.append(f"{unnamed} of {len(records)} packs name no policy of their own")
    parallel = sum(r.parallel for r in records)
    if parallel:
        notes.append(f"in {parallel} of {len(records)} runs calls overlap")
    return tuple(notes)


# -- worlds from files -----------------------------------------------------------------------------


def as_of(text: str) -> int:
    """Return a day (ISO date or date-time, UTC) in nanoseconds since 1970."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"expected the day of the prices as an ISO date such as 2026-11-01, got {text!r}"
        ) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000


def load_grid(path: Path | str, base: World | None = None) -> list[World]:
    """Return the worlds of a grid: a TOML file of lists, each world one value of each.

    A name that is no TOML file's is that of a grid in `data/whatif`.
    Keys are the fields of a policy, `budget_usd`, `price_as_of` and `models` (a list of orders).
    What the grid does not name is `base`'s. Raises `UsageError` for unknown keys, naming the known.
    """
    where, start = str(path), base or World()
    own = where.endswith(".toml")
    values = read_toml(Path(path) if own else asset("data", "whatif", f"{where}.toml"))
    known = (*FIELDS, "budget_usd", "price_as_of", "models")
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UsageError(
            f"{where}: expected keys of a grid, got {', '.join(unknown)}; known: {', '.join(known)}"
        )
    lists = {k: v for k, v in values.items() if isinstance(v, list) and v}
    if not values or len(lists) < len(values):
        odd = ", ".join(sorted(set(values) - set(lists))) or "nothing"
        raise UsageError(f"{where}: expected a list of values for each key, got {odd}")
    size = 1
    for options in lists.values():
        size *= len(options)
    if size > MOST_WORLDS:
        raise UsageError(f"{where}: expected at most {MOST_WORLDS} worlds, got {size}")
    return [
        _world(dict(zip(lists, chosen, strict=True)), start, where)
        for chosen in itertools.product(*lists.values())
    ]


def _world(chosen: Mapping[str, Any], base: World, where: str) -> World:
    limits = {k: v for k, v in chosen.items() if k in FIELDS}
    policy = policy_of(limits, where=where, base=base.policy or Policy()) if limits else base.policy
    budget, day = chosen.get("budget_usd", base.budget_usd), chosen.get("price_as_of")
    chain = chosen.get("models", base.chain)
    try:
        return msgspec.convert(
            {
                "name": ", ".join(f"{k}={_short(v)}" for k, v in chosen.items()),
                "policy": policy, "budget_usd": budget,
                "price_at_ns": base.price_at_ns if day is None else as_of(str(day)),
                "chain": chain,
            },
            World,
        )  # fmt: skip
    except (msgspec.ValidationError, TypeError) as error:
        raise UsageError(f"{where}: {error}") from None


def _short(value: Any) -> str:
    return ">".join(map(str, value)) if isinstance(value, list) else str(value)

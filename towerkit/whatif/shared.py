"""What runs share: breakers and the retry budget. Where others decide, a row says so.

Rule: until the first change, the record stands, refusals included. After it, a breaker has no say
where even a walk in which every undecided attempt failed does not open it; else nobody knows, and
every attempt on its key from then on is left open. The same holds for the retry budget.

The runs of one service and release are taken to share a tower. Where their record contradicts that
(an attempt was made that a shared breaker would have refused), each run is taken alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from towerkit.reliability.breaker import Breaker, Limits, Permit, Refusal, RetryBudget
from towerkit.whatif.bounds import Bounds, just
from towerkit.whatif.record import Record
from towerkit.whatif.rows import RunWalk, walk_run
from towerkit.whatif.world import Doubt, Spending, Touch, World

_NEVER = 1 << 63  # nanoseconds: later than anything
_ROUNDS = 20  # of widening what is doubted; each leaves more open, so it ends


class _Doubts(msgspec.Struct):
    """From when on (nanoseconds since 1970) it is open what others do, by key; None: retries."""

    since: dict[str | None, int]

    def of(self, record: Record) -> Doubt:
        """Return what the walk of one run asks."""

        def doubt(key: str | None, at: Bounds) -> str | None:
            since = self.since.get(key, _NEVER)
            if at.high is not None and record.started_ns + at.high < since:
                return None
            if key is None:
                return "whether the retry budget grants a retry depends on other calls"
            return f"whether the breaker of {key} lets it through depends on other calls"

        return doubt


def walk_runs(
    records: Sequence[Record], world: World, *,
    progress: Callable[[int, int], None] | None = None,
) -> list[RunWalk]:  # fmt: skip
    """Return the walk of each record, in their order."""
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        groups[record.tower].append(i)
    walks: dict[int, RunWalk] = {}
    for members in groups.values():
        together = [records[i] for i in members]
        parts = [members] if _one_tower(together) else [[i] for i in members]
        for part in parts:
            walks |= zip(part, _walk_part([records[i] for i in part], world), strict=True)
            if progress is not None:
                progress(len(walks), len(records))
    return [walks[i] for i in range(len(records))]


def _walk_part(records: list[Record], world: World) -> list[RunWalk]:
    """Walk runs that share a tower, leaving open more and more until nothing new is in doubt."""
    doubts = _Doubts(since={})
    walks = [walk_run(r, world) for r in records]
    for _ in range(_ROUNDS):
        found = _doubted(records, walks)
        if all(doubts.since.get(key, _NEVER) <= since for key, since in found.items()):
            return walks
        for key, since in found.items():
            doubts.since[key] = min(since, doubts.since.get(key, _NEVER))
        walks = [walk_run(r, world, doubts.of(r)) for r in records]
    raise AssertionError("each round leaves more open: it ends")


def _doubted(records: Sequence[Record], walks: Sequence[RunWalk]) -> dict[str | None, int]:
    """Return from when on others may decide, for each key where they may."""
    changed = [r.started_ns + w.changed_at for r, w in zip(records, walks, strict=True)
               if w.changed_at is not None]  # fmt: skip
    if not changed:
        return {}
    first = min(changed)
    touches = _merged(records, [w.touches for w in walks])
    limits = _limits(records)
    doubted: dict[str | None, int] = {}
    for key, at in _refused(touches, limits).items():
        doubted[key] = max(first, at)
    # What was refused then though nothing here explains it: others were calling as well.
    for record in records:
        for call in record.calls:
            if call.refusals:
                doubted.update(dict.fromkeys(_keys(record, call.operation, call.key), first))
            if any(t.unbudgeted for t in call.tries):
                doubted[None] = first
    spent = _out_of_budget(_spendings(records, [w.spending for w in walks]))
    if spent is not None:
        doubted[None] = min(max(first, spent), doubted.get(None, _NEVER))
    return doubted


def _keys(record: Record, operation: str, key: str) -> list[str]:
    """Return the breakers that may have refused a call: of any tier of its chain."""
    names = record.models if operation == "model" and key in record.models else (key,)
    return [f"{operation}:{name}" for name in names]


def _limits(records: Sequence[Record]) -> Limits:
    return next((r.limits for r in records if r.limits is not None), Limits())


def _one_tower(records: Sequence[Record]) -> bool:
    """Return whether the record of these runs fits one set of breakers and one retry budget."""
    made = [_recorded(r) for r in records]
    if _refused(_merged(records, [m[0] for m in made]), _limits(records)):
        return False
    return _out_of_budget(_spendings(records, [m[1] for m in made])) is None


def _recorded(record: Record) -> tuple[tuple[Touch, ...], tuple[Spending, ...]]:
    """Return what the breakers and the retry budget saw of a run."""
    same = walk_run(record, World())
    return same.touches, same.spending


_Event = tuple[int, int, int, Touch]  # time, 0 its end or 1 its start, number, the attempt


def _merged(records: Sequence[Record], touches: Iterable[Iterable[Touch]]) -> list[_Event]:
    """Return the beginnings and ends of attempts in the order of time; ends come first."""
    events: list[_Event] = []
    for record, mine in zip(records, touches, strict=True):
        for touch in mine:
            number = len(events)
            started = record.started_ns
            events.append((started + touch.start.low, 1, number, touch))
            events.append((started + (touch.end.high or touch.end.low), 0, number, touch))
    # An attempt of no time begins before it ends.
    return sorted(events, key=lambda e: (e[0], e[1] if e[3].start != e[3].end else 1 - e[1], e[2]))


def _refused(events: Sequence[_Event], limits: Limits) -> dict[str, int]:
    """Return from when on a breaker would refuse something, for each that would."""
    breakers: dict[str, Breaker] = {}
    permits: dict[int, tuple[Permit, int]] = {}
    refused: dict[str, int] = {}
    for at, begins, number, touch in events:
        breaker = breakers.setdefault(touch.key, Breaker(limits))
        if begins:
            permit = breaker.acquire(at)
            if isinstance(permit, Refusal):
                refused.setdefault(touch.key, at)
            else:
                permits[number] = permit, at
        elif number in permits:
            permit, began = permits.pop(number)
            breaker.settle(permit, "failure" if touch.failed else "success", at, at - began)
            if touch.throttle_s:
                breaker.throttle(at, touch.throttle_s)
    return refused


def _spendings(
    records: Sequence[Record], spendings: Iterable[Iterable[Spending]]
) -> list[tuple[int, int, int, int]]:
    """Return calls, retries and successes in the order of time: (time, kind, call, tokens)."""
    events: list[tuple[int, int, int, int]] = []
    number = 0
    for record, mine in zip(records, spendings, strict=True):
        began = record.started_ns
        for one in mine:
            number += 1
            events.append((began + one.start.low, 0, number, 0))
            events += [(began + at.low, 1, number, cost) for at, cost in one.retries]
            if one.succeeded is not None:
                tokens = sum(cost for _, cost in one.retries)
                at = just(one.succeeded.low) if one.succeeded.high is None else one.succeeded
                events.append((began + (at.high or 0), 2, number, tokens))
    return sorted(events)


def _out_of_budget(events: Iterable[tuple[int, int, int, int]]) -> int | None:
    """Return when the retry budget would refuse a retry, None where it would not."""
    budget = RetryBudget()
    for at, kind, _, tokens in events:
        if kind == 0:
            budget.call()
        elif kind == 1:
            if budget.take(tokens) == 0:
                return at
        elif tokens or budget.below:
            budget.success(tokens)
    return None

"""What runs share: breakers and the retry budget. Where others decide, a row says so.

Rule: until the first change, the record stands, refusals included. After it, a breaker has no say
where even a walk in which every undecided attempt fails does not open it, nor where nothing has
failed for as long as it stays open. Elsewhere an attempt on its key is left open. The retry budget
is taken the same way. An undecided run is taken to make as many attempts as its record has left,
at any time until its deadline.

The runs of one service and release are taken to share a tower. Where their record contradicts that
(an attempt was made that a shared breaker would have refused), each run is taken alone.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from towerkit.reliability.breaker import NS, Breaker, Limits, Permit, Refusal, RetryBudget
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.whatif.bounds import Bounds, just
from towerkit.whatif.ends import OUTCOMES, Acquire, Answered, Ask, Began, Settle, Steps, Take
from towerkit.whatif.record import Record
from towerkit.whatif.rows import RunWalk, run_steps, walk_run
from towerkit.whatif.world import Doubt, Spending, Touch, World

_NEVER = 1 << 63  # nanoseconds: later than anything
_ROUNDS = 40  # of widening what is doubted; each leaves more open, so it ends
_ALWAYS = (0, _NEVER)
_RETRIES = "the retry budget"

_Event = tuple[int, int, int, Touch, int]  # time, 0 its end or 1 its start, number, the attempt
# and when its run began
Times = tuple[int, int]  # from and until when, nanoseconds since 1970


class _Doubts(msgspec.Struct):
    """When it is open what others do, by key: within these times."""

    times: dict[str, set[Times]]

    def of(self, record: Record) -> Doubt:
        """Return what the walk of one run asks."""
        began = record.started_ns

        def doubt(key: str | None, at: Bounds) -> str | None:
            low, high = began + at.low, _NEVER if at.high is None else began + at.high
            times = self.times.get(_RETRIES if key is None else key, ())
            if not any(since <= high and low < until for since, until in times):
                return None
            if key is None:
                return "whether the retry budget grants a retry depends on other calls"
            return f"whether the breaker of {key} lets it through depends on other calls"

        return doubt

    def widen(self, more: dict[str, set[Times]]) -> bool:
        """Take `more` in; return whether any of it is new."""
        new = False
        for key, times in more.items():
            known = self.times.setdefault(key, set())
            new = new or not times <= known
            known |= times
        return new


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
        for part, walker in _parts(members, records):
            walks |= zip(part, _walk_part([records[i] for i in part], world, walker), strict=True)
            if progress is not None:
                progress(len(walks), len(records))
    return [walks[i] for i in range(len(records))]


# Walks runs of one tower, leaving open what is in doubt.
Walker = Callable[[Sequence[Record], World, "_Doubts"], list[RunWalk]]


def _parts(members: list[int], records: Sequence[Record]) -> list[tuple[list[int], Walker]]:
    """Return the runs that share a tower, each with how they are walked.

    Where breakers and a retry budget of ours, walked through the record, say what was recorded,
    they say it of another world too.
    """
    together = [records[i] for i in members]
    if _explained(together):
        return [(members, _simulated)]
    if all(_explained([record]) for record in together):
        return [([i], _simulated) for i in members]
    if _one_tower(together) or _refused_then(together):
        return [(members, _as_recorded)]
    return [([i], _as_recorded) for i in members]


def _explained(records: Sequence[Record]) -> bool:
    """Return whether a tower of ours, walked through the record, does what was recorded."""
    if any(r.parallel or r.policy is None or r.limits is None for r in records):
        return False
    walks = _simulated(records, World(), _Doubts(times={}))
    return all(walk.changed_at is None for walk in walks)


def _as_recorded(records: Sequence[Record], world: World, doubts: _Doubts) -> list[RunWalk]:
    return [walk_run(r, world, doubts.of(r)) for r in records]


def _simulated(records: Sequence[Record], world: World, doubts: _Doubts) -> list[RunWalk]:
    """Walk runs side by side, in the order of time, through one tower's breakers and budget."""
    tower = _Tower(_limits(records))
    walks: dict[int, RunWalk] = {}
    queue: list[tuple[int, int, int, Ask, Steps[RunWalk]]] = []

    def go_on(i: int, steps: Steps[RunWalk], answer: object) -> None:
        try:
            ask = steps.send(answer)
        except StopIteration as done:
            walks[i] = done.value
            return
        at = records[i].started_ns + ask.at.low
        ends_first = 0 if isinstance(ask, Settle | Answered) else 1
        heapq.heappush(queue, (at, ends_first, i, ask, steps))

    for i, record in enumerate(records):
        go_on(i, run_steps(record, world, doubts.of(record)), None)
    while queue:
        at, _, i, ask, steps = heapq.heappop(queue)
        go_on(i, steps, tower.answer(ask, at))
    return [walks[i] for i in range(len(records))]


class _Tower:
    """The breakers and the retry budget that runs share."""

    def __init__(self, limits: Limits) -> None:
        self._limits, self._budget = limits, RetryBudget()
        self._breakers: dict[str, Breaker] = {}

    def answer(self, ask: Ask, at_ns: int) -> Permit | Refusal | int | None:
        """Answer what a walk asks at a time, as the guard's own would."""
        budget = self._budget
        if isinstance(ask, Take):
            return budget.take(ask.tokens)
        if isinstance(ask, Began):
            budget.call()
        elif isinstance(ask, Answered):
            if ask.tokens or budget.below:
                budget.success(ask.tokens)
        else:
            breaker = self._breakers.get(ask.key)
            if breaker is None:
                breaker = self._breakers[ask.key] = Breaker(self._limits)
            if isinstance(ask, Acquire):
                return breaker.acquire(at_ns)
            breaker.settle(ask.permit, ask.outcome, at_ns, ask.took_ns)
            if ask.throttle_s:
                breaker.throttle(at_ns, ask.throttle_s)
        return None


def _walk_part(records: list[Record], world: World, walker: Walker) -> list[RunWalk]:
    """Walk runs that share a tower, leaving open more and more until nothing new is in doubt."""
    doubts = _Doubts(times={})
    walks = walker(records, world, doubts)
    for _ in range(_ROUNDS):
        if not doubts.widen(_doubted(records, walks, simulated=walker is _simulated)):
            return walks
        walks = walker(records, world, doubts)
    return walker(records, world, _Doubts(times={key: {_ALWAYS} for key in doubts.times}))


def _doubted(
    records: Sequence[Record], walks: Sequence[RunWalk], *, simulated: bool
) -> dict[str, set[Times]]:
    """Return when others may decide, for each key where they may.

    That is from the first change on where the record said what they did, and from the first thing
    on that is not known where they were walked as well.
    """
    since = [w.open_at if simulated else w.changed_at for w in walks]
    changed = [r.started_ns + at for r, at in zip(records, since, strict=True) if at is not None]
    if not changed:
        return {}
    first, limits = min(changed), _limits(records)
    events = _merged(records, [w.touches for w in walks])
    may_open = _refused(events, limits)
    bad = _bad_times(events, limits)
    doubted: dict[str, set[Times]] = defaultdict(set)
    for key, at in _refused_then(records).items():
        # By what is seen here, or by others that nobody here knows of.
        if simulated or any(low <= at < high for low, high in bad.get(key, ())):
            may_open[key] = min(at, may_open.get(key, _NEVER))
        else:
            doubted[key].add((first, _NEVER))
    for key, at in _turned(records, walks, events):
        if at >= first:
            doubted[key].add((at, at + 1))
    for key, opens in may_open.items():
        start = max(first, opens)
        doubted[key] |= {(max(low, start), high) for low, high in bad.get(key, ()) if high > start}
    for key, low, high in _throttled(events, certain=not simulated):
        if high > first:
            doubted[key].add((max(low, first), high))
    spent = _out_of_budget(_spendings(records, [w.spending for w in walks]))
    unbudgeted = any(t.unbudgeted for r in records for c in r.calls for t in c.tries)
    if spent is not None or unbudgeted:
        doubted[_RETRIES].add((first if unbudgeted else max(first, spent or 0), _NEVER))
    return doubted


def _turned(
    records: Sequence[Record], walks: Sequence[RunWalk], events: Sequence[_Event]
) -> list[tuple[str, int]]:
    """Return when something was refused in the walk of what is known.

    What is not known might have kept it from that, where any of it is on the same key.
    """
    vague = {t.key for *_, t, _ in events if not t.certain or t.start.low != t.start.high}
    return [
        (_RETRIES if key is None else key, record.started_ns + when.low)
        for record, walk in zip(records, walks, strict=True)
        for key, when in walk.turned
        if key is None or key in vague
    ]


def _bad_times(events: Sequence[_Event], limits: Limits) -> dict[str, set[Times]]:
    """Return when a breaker that may open may be open, or let only some through.

    It opens for `open_s` when an attempt failed or was slow; probes may be used up where more
    attempts than those are under way.
    """
    found: dict[str, set[Times]] = defaultdict(set)
    under_way: dict[str, int] = defaultdict(int)
    slow_ns, open_ns = (round(min(limits.slow_call_s, limits.lease_s) * NS),
                        round(limits.open_s * NS))  # fmt: skip
    for at, begins, _, touch, began in events:
        under_way[touch.key] += 1 if begins else -1
        if begins and under_way[touch.key] > limits.probes:
            found[touch.key].add((at, at + 1))
        if begins:
            continue
        start, end = began + touch.start.low, began + (touch.end.high or 0)
        if touch.outcome == "failure":
            found[touch.key].add((at if touch.certain else start, end + open_ns))
        if touch.certain and end - start > slow_ns:
            found[touch.key].add((start, end + open_ns))
    return found


def _throttled(events: Sequence[_Event], *, certain: bool) -> list[tuple[str, int, int]]:
    """Return when attempts were asked to wait, by key; of certain ones only where asked for."""
    found = []
    for at, begins, _, touch, began in events:
        if touch.throttle_s and not begins and (certain or not touch.certain):
            low = at if touch.certain else began + touch.start.low
            high = at if touch.certain else began + (touch.end.high or 0)
            found.append((touch.key, low, high + round(touch.throttle_s * NS)))
    return found


def _refused_then(records: Sequence[Record]) -> dict[str, int]:
    """Return when a breaker first refused something in the record, by key."""
    found: dict[str, int] = {}
    for record in records:
        for call in record.calls:
            for refusal in call.refusals:
                for key in _keys(record, call.operation, call.key):
                    at = record.started_ns + refusal.at_ns
                    found[key] = min(at, found.get(key, at))
    return found


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


def _recorded(record: Record) -> tuple[list[Touch], list[Spending]]:
    """Return what the breakers and the retry budget saw of a run."""
    touches, spendings = [], []
    for call in record.calls:
        for tried in call.tries:
            failure = tried.failure
            row = None if failure is None else TAXONOMY.get(failure.error_class)
            effect = "neutral" if row is None else row.breaker
            asked = failure.retry_after_s if failure is not None and effect == "throttle" else None
            touches.append(Touch(
                key=f"{call.operation}:{tried.key}", start=just(tried.start_ns),
                end=just(tried.end_ns), outcome=OUTCOMES[effect], throttle_s=asked or 0.0,
            ))  # fmt: skip
        retries = tuple(
            (just(t.end_ns), TAXONOMY[t.failure.error_class].retry_cost)
            for t in call.tries if t.failure is not None and t.then is not None
        )  # fmt: skip
        well = just(call.end_ns) if call.status == "ok" else None
        spendings.append(Spending(start=just(call.start_ns), retries=retries, succeeded=well))
    return touches, spendings


def _merged(records: Sequence[Record], touches: Iterable[Iterable[Touch]]) -> list[_Event]:
    """Return the beginnings and ends of attempts in the order of time; ends come first."""
    events: list[_Event] = []
    for record, mine in zip(records, touches, strict=True):
        began = record.started_ns
        for touch in mine:
            number, start, end = len(events), touch.start, touch.end
            first, last = (start.low, end.high) if touch.certain else (start.high, end.low)
            events.append((began + (first or 0), 1, number, touch, began))
            events.append((began + (last or 0), 0, number, touch, began))
    # An attempt of no time begins before it ends.
    return sorted(events, key=lambda e: (e[0], e[1] if e[3].start != e[3].end else 1 - e[1], e[2]))


def _refused(events: Sequence[_Event], limits: Limits) -> dict[str, int]:
    """Return from when on a breaker would refuse something, for each that would."""
    breakers: dict[str, Breaker] = {}
    permits: dict[int, tuple[Permit, int]] = {}
    refused: dict[str, int] = {}
    for at, begins, number, touch, _ in events:
        breaker = breakers.setdefault(touch.key, Breaker(limits))
        if begins:
            permit = breaker.acquire(at)
            if isinstance(permit, Refusal):
                refused.setdefault(touch.key, at)
            else:
                permits[number] = permit, at
        elif number in permits:
            permit, began = permits.pop(number)
            breaker.settle(permit, touch.outcome, at, at - began)
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

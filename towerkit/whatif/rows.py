"""One recorded run under another world: its row, and what it does to what runs share.

Rule: what happened before the record ends is certain, what comes after it is not. From the first
call whose answer to the agent would be another on, the run's own code decides, and that is not in
the record.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from towerkit.cost.ledger import NANO
from towerkit.reliability.policy import Policy
from towerkit.reliability.progress import Progress
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.whatif.bounds import ZERO, Bounds, just, total
from towerkit.whatif.ends import Live, Steps, Walked
from towerkit.whatif.money import Money
from towerkit.whatif.record import Call, Record, Try
from towerkit.whatif.walk import CallWalk
from towerkit.whatif.world import Doubt, Spending, Touch, World, no_doubt

Label = Literal["exact", "bounded", "unknown"]
QUANTITIES = (
    "cost_nanousd", "latency_ns", "calls_failed", "fallbacks", "budget_breach", "run_success",
)  # fmt: skip
LABELS: tuple[Label, ...] = ("exact", "bounded", "unknown")
_SAME_NS = 1_000  # times that differ by less than a microsecond are one


class Quantity(msgspec.Struct, frozen=True, kw_only=True):
    """What one quantity of a run becomes: between `low` and `high` (None: no upper end is known).

    `exact`: the record decides it. `bounded`: it lies in the interval, and `reason` says what
    leaves it open. `unknown`: only a live run would tell; `low` and `high` are what is certain.
    """

    low: int
    high: int | None
    label: Label
    reason: str | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One run's row.

    `label` is the weakest of its quantities', `changed` says that anything differs from the
    record, `live` the attempts that would have to be made to know more.
    """

    run_id: str
    label: Label
    reason: str | None
    changed: bool
    cost_nanousd: Quantity
    latency_ns: Quantity
    calls_failed: Quantity
    fallbacks: Quantity
    budget_breach: Quantity
    run_success: Quantity
    live: tuple[Live, ...] = ()

    def quantity(self, name: str) -> Quantity:
        """Return one of `QUANTITIES`."""
        found: Quantity = getattr(self, name)
        return found


class RunWalk(msgspec.Struct, frozen=True, kw_only=True):
    """A row, with what breakers and the retry budget of its tower see of the run.

    `changed_at` is the time of the run from which on anything differs, `open_at` that from which
    on not everything is known to the moment; None where there is none. `turned` are refusals.
    """

    row: Row
    touches: tuple[Touch, ...]
    spending: tuple[Spending, ...]
    changed_at: int | None
    open_at: int | None = None
    turned: tuple[tuple[str | None, Bounds], ...] = ()


class _Done(msgspec.Struct, frozen=True):
    """A call that was walked."""

    call: Call
    walked: Walked

    def delta(self) -> Bounds:
        """Return by how much longer it takes."""
        took = self.walked.took
        high = None if took.high is None else took.high - self.call.took_ns
        return Bounds(took.low - self.call.took_ns, high)


def walk_run(record: Record, world: World, doubt: Doubt = no_doubt) -> RunWalk:
    """Return what a run becomes, what it shares being as recorded.

    `doubt` says what others leave undecided.
    """
    return _as_then(run_steps(record, world, doubt))


def run_steps(record: Record, world: World, doubt: Doubt) -> Steps[RunWalk]:
    """Ask what others decide, and return what a run becomes."""
    policy = world.policy or record.policy
    if policy is None:
        return _unnamed(record, world)
    return (yield from _RunWalk(record, world, policy, doubt).steps())


def _as_then(steps: Steps[RunWalk]) -> RunWalk:
    """Answer that all is as it was recorded."""
    try:
        next(steps)
        while True:
            steps.send(None)
    except StopIteration as done:
        walk: RunWalk = done.value
        return walk


def _throttle(tried: Try) -> float:
    """Return how long a recorded attempt's provider asked to be left alone."""
    failure = tried.failure
    throttles = failure is not None and TAXONOMY[failure.error_class].breaker == "throttle"
    return (failure.retry_after_s or 0.0) if failure is not None and throttles else 0.0


def _unnamed(record: Record, world: World) -> RunWalk:
    """Return the row of a run whose policy nobody names.

    Its decisions stand where only prices were asked about and no budget could have stopped it.
    """
    money = Money(record, world.price_at_ns)
    if world.chain is None and world.limit(record) is None:
        cost = total([money.of_try(t) for c in record.calls for t in c.tries] + [money.loose()])
        done = [_Done(c, _as_recorded(c)) for c in record.calls]
        return RunWalk(row=_row(record, done, cost, None), touches=(), spending=(), changed_at=None)
    why = "its pack names no policy: give the one that it ran under, or another, with --policy"
    return RunWalk(
        row=_left(record, [], ZERO, ZERO, why, (), limit=None), touches=(), spending=(),
        changed_at=0,
    )  # fmt: skip


def _as_recorded(call: Call) -> Walked:
    return Walked(
        outcome="same", reason=None, took=just(call.took_ns), cost=ZERO,
        fails=call.status == "error", breached=call.error_class == "budget_exceeded",
        fell_back=any(t.then == "fallback" for t in call.tries), changed=False, touches=(),
        spending=Spending(start=just(call.start_ns)), live=None,
    )  # fmt: skip


class _RunWalk:
    """Walks the calls of a run in the order in which they began."""

    def __init__(
        self, record: Record, world: World, policy: Policy, doubt: Doubt, *, lenient: bool = False
    ) -> None:
        self._lenient = lenient
        self._record, self._world, self._policy, self._doubt = record, world, policy, doubt
        self._money = Money(record, world.price_at_ns)
        self._parallel = record.parallel
        self._done: list[_Done] = []
        self._changed_at: int | None = None
        self._left_at: int | None = None
        self._progress = _Circles(record, policy)

    def steps(self) -> Steps[RunWalk]:
        """Ask what others decide, and return the run's row and what it touches."""
        for call in self._record.calls:
            stopped = yield from self._next(call)
            if stopped is not None:
                return stopped
        costs = [d.walked.cost for d in self._done if d.call.guarded]
        row = _row(self._record, self._done, total([*costs, self._money.loose()]), self._shift())
        return self._walk_of(row, (), ())

    def _next(self, call: Call) -> Steps[RunWalk | None]:
        """Walk one call; return the run's end where the record decides nothing after it."""
        before = [d for d in self._done if d.call.end_ns <= call.start_ns]
        shift = self._shift(before)
        start = just(call.start_ns) + shift
        if not call.guarded:
            self._done.append(_Done(call, _as_recorded(call)))
            return None
        if call.read_clock and shift != ZERO:
            why = f"before {call.name} the agent read the clock, which shows another time now"
            return self._ends(before, why, start, after=call)
        stop = self._progress.differs(call)
        if stop is not None:
            return self._ends(before, f"{call.name}: {stop}", start, after=call)
        walked = yield from self._walk_call(call, before, start)
        if walked.changed and self._changed_at is None:
            self._changed_at = start.low
        if walked.outcome != "same":
            before = [*before, _Done(call, walked)]
            return self._ends(before, walked.reason or "", start, after=call)
        self._done.append(_Done(call, walked))
        return None

    def _walk_call(self, call: Call, before: list[_Done], start: Bounds) -> Steps[Walked]:
        if call.error_class == "no_progress" and not call.tries:
            return _as_recorded(call)
        beside = [d for d in self._done if d.call.end_ns > call.start_ns]
        held = [self._held(d) for d in beside]
        return (yield from CallWalk(
            call, self._record, self._world, self._policy, self._money, start=start,
            spent=total([d.walked.cost for d in before]),
            spent_then=sum(c.nanousd or 0 for d in before for t in d.call.tries for c in t.charges),
            reserved=total(held) if held else ZERO, calm=self._changed_at is None,
            doubt=self._doubt, lenient=self._lenient,
        ).steps())  # fmt: skip

    def _held(self, done: _Done) -> Bounds:
        """Return what a call beside this one may hold of the budget: nothing yet, up to all."""
        worst = [self._money.worst(done.call, t.key) for t in done.call.tries]
        most = done.walked.cost.high
        for one in worst:
            most = None if one is None or one.high is None or most is None else most + one.high
        return Bounds(0, most)

    def _shift(self, before: list[_Done] | None = None) -> Bounds:
        """Return by how much later things are after these calls.

        What ran beside something else moves the end by its whole change at most, by nothing at
        least.
        """
        deltas = [d.delta() for d in (self._done if before is None else before)]
        return total([d.around_zero() for d in deltas] if self._parallel else deltas)

    def _ends(self, done: list[_Done], reason: str, at: Bounds, *, after: Call) -> RunWalk:
        """Return the run that leaves its record at `after`."""
        self._left_at = at.low
        if self._changed_at is None:
            self._changed_at = at.low
        costs = total([d.walked.cost for d in done if d.call.guarded])
        lasted = at.low + (done[-1].walked.took.low if done and done[-1].call is after else 0)
        live = tuple(d.walked.live for d in done if d.walked.live is not None)
        limit = self._world.limit(self._record)
        row = _left(
            self._record, done, costs, just(lasted), reason, live, limit=limit,
            held=all(self._money.reserved(call) for call in self._record.calls),
        )  # fmt: skip
        if done and done[-1].walked.unaffordable and self._breaks_anyhow():
            row = _broken(row, reason)
        known = {id(d.call) for d in done}
        self._done = done + [d for d in self._done if id(d.call) not in known]
        return self._walk_of(row, self._undecided(at.low, after), self._unasked(at.low, after))

    def _breaks_anyhow(self) -> bool:
        """Return whether the budget stops the run later, if it does not here."""
        onward = _RunWalk(self._record, self._world, self._policy, self._doubt, lenient=True)
        return _as_then(onward.steps()).row.budget_breach.low == 1

    def _undecided(self, since: int, after: Call) -> tuple[Touch, ...]:
        """Return what of the record is left, as attempts that may come until the deadline."""
        until = max(round(self._policy.deadline_s * NANO), self._record.took_ns, since + 1)
        keys = [(after.operation, d.model, since, since, 0.0) for d in self._live()]
        keys += [
            (call.operation, t.key, max(since, t.start_ns), max(since, t.end_ns), _throttle(t))
            for call in self._left_of(after) for t in call.tries
        ]  # fmt: skip
        return tuple(
            Touch(
                key=f"{operation}:{key}", start=Bounds(since, start), end=Bounds(end, until),
                outcome="failure", certain=False, throttle_s=throttle,
            )
            for operation, key, start, end, throttle in keys
        )  # fmt: skip

    def _unasked(self, since: int, after: Call) -> tuple[Spending, ...]:
        """Return the calls that are left as the retry budget may see them: retries, no success."""
        return tuple(
            Spending(
                start=just(max(since, call.start_ns)),
                retries=tuple(
                    (just(max(since, t.end_ns)), TAXONOMY[t.failure.error_class].retry_cost)
                    for t in call.tries if t.failure is not None
                ),
            )
            for call in self._left_of(after)
        )  # fmt: skip

    def _left_of(self, after: Call) -> list[Call]:
        return [c for c in self._record.calls if c.start_ns >= after.start_ns and c is not after]

    def _live(self) -> list[Live]:
        return [d.walked.live for d in self._done if d.walked.live is not None]

    def _walk_of(
        self, row: Row, maybe: tuple[Touch, ...], unasked: tuple[Spending, ...]
    ) -> RunWalk:
        touches = tuple(t for d in self._done for t in d.walked.touches)
        vague = [t.start.low for t in touches if (t.end.high or 0) - t.end.low > _SAME_NS]
        if self._left_at is not None:
            vague.append(self._left_at)
        return RunWalk(
            row=msgspec.structs.replace(row, changed=self._changed_at is not None),
            touches=touches + maybe,
            spending=tuple(d.walked.spending for d in self._done) + unasked,
            changed_at=self._changed_at, open_at=min(vague, default=None),
            turned=tuple(t for d in self._done for t in d.walked.turned),
        )  # fmt: skip


class _Circles:
    """Whether another limit of steps or repeats would stop the agent elsewhere."""

    def __init__(self, record: Record, policy: Policy) -> None:
        old = record.policy
        self._bodies = record.bodies
        limits = ("max_steps", "max_repeats", "max_stale")
        self._same = old is not None and all(getattr(old, n) == getattr(policy, n) for n in limits)
        self._stale = old is None or old.max_stale != policy.max_stale
        self._progress = Progress(
            max_repeats=policy.max_repeats, max_steps=policy.max_steps, max_stale=policy.max_stale
        )

    def differs(self, call: Call) -> str | None:
        """Return why a call would be stopped, or would not, other than it was; None if as then."""
        if self._same:
            return None
        tool, request = call.operation == "tool", call.request or ""
        circling = self._progress.before(request, tool=tool)
        was = call.error_class == "no_progress"
        if circling is not None and not was:
            return f"it is not made: {circling}"
        if circling is None and was:
            return "it was stopped for want of progress, and goes on now"
        if tool:
            self._progress.after(request, call.tries[-1].answer if call.status == "ok" else None)
        elif call.status == "ok" and call.tries:
            self._said(call)
        return None

    def _said(self, call: Call) -> None:
        asked = self._bodies.get(call.request or "")
        answer = self._bodies.get(call.tries[-1].answer or "")
        if asked is None or answer is None:
            return  # nothing is kept: nor could the guard compare what the agent was shown
        said = msgspec.json.decode(answer)
        said = said.get("response", said) or {}
        calls = [(c["name"], c["arguments"]) for c in said.get("tool_calls") or ()]
        shown = msgspec.json.decode(asked).get("messages") or []
        self._progress.said(shown, msgspec.json.encode([said.get("content"), calls]))


# -- rows ------------------------------------------------------------------------------------------


def _row(record: Record, done: list[_Done], cost: Bounds, shift: Bounds | None) -> Row:
    """Return the row of a run that stays on its record to the end."""
    walked = [d.walked for d in done]
    count = {
        "calls_failed": sum(bool(w.fails) for w in walked),
        "fallbacks": sum(w.fell_back for w in walked),
        "budget_breach": int(any(w.breached for w in walked)),
        "run_success": int(record.status == "completed"),
    }
    exact = {n: Quantity(low=v, high=v, label="exact") for n, v in count.items()}
    return _labelled(record.run_id, None, (), {
        "cost_nanousd": _money(cost), "latency_ns": _time(record, shift), **exact,
    })  # fmt: skip


def _money(cost: Bounds) -> Quantity:
    if cost.high is None:
        why = "a charge has no known price, or the size of its request is not in the record"
        return Quantity(low=cost.low, high=None, label="unknown", reason=why)
    if cost.low == cost.high:
        return Quantity(low=cost.low, high=cost.high, label="exact")
    why = "a request that would be cut is charged for its size, from which redaction took something"
    return Quantity(low=cost.low, high=cost.high, label="bounded", reason=why)


def _time(record: Record, shift: Bounds | None) -> Quantity:
    if not record.timed:
        return Quantity(low=0, high=None, label="unknown", reason="its source had no times")
    took = just(record.took_ns) + (shift or ZERO)
    if took.high is None:
        return Quantity(low=max(0, took.low), high=None, label="unknown", reason="a wait is open")
    if took.high - took.low <= _SAME_NS:
        return Quantity(low=took.low, high=took.high, label="exact")
    why = (
        "calls overlap: how much of a change reaches the end is not in the record"
        if record.parallel
        else "the jitter of a wait that was not made then may be anything the policy allows"
    )
    return Quantity(low=max(0, took.low), high=took.high, label="bounded", reason=why)


def _left(
    record: Record, done: list[_Done], cost: Bounds, lasted: Bounds, reason: str,
    live: tuple[Live, ...], *, limit: int | None, held: bool = True,
) -> Row:  # fmt: skip
    """Return the row of a run that leaves its record: what is certain so far, and what bounds it.

    The ledger bounds what a run may cost, if its reservations `held` what attempts were charged;
    nothing that is recorded bounds what else the agent does.
    """
    walked = [d.walked for d in done]
    # A request that was made smaller has less set aside for it, and may be answered with more.
    ways = record.plan is not None and bool(record.plan.ways)
    bounded = limit is not None and cost.high is not None and held and not ways
    most = max(limit or 0, cost.high or 0) if bounded else None
    breached = any(w.breached for w in walked)
    no_limit = limit is None and record.plan is None

    def open_(low: int, high: int | None = None) -> Quantity:
        return Quantity(low=low, high=high, label="unknown", reason=reason)

    spent = Quantity(
        low=cost.low, high=most, label="unknown" if most is None else "bounded",
        reason=reason if most is None else f"{reason}; its budget bounds what it may cost",
    )  # fmt: skip
    breach = open_(0, 1)
    if breached or no_limit:
        breach = Quantity(low=int(breached), high=int(breached), label="exact")
    return _labelled(record.run_id, reason, live, {
        "cost_nanousd": spent,
        "latency_ns": open_(lasted.low if record.timed else 0),
        "calls_failed": open_(sum(bool(w.fails) for w in walked)),
        "fallbacks": open_(sum(w.fell_back for w in walked)),
        "budget_breach": breach, "run_success": open_(0, 1),
    })  # fmt: skip


def _broken(row: Row, reason: str) -> Row:
    """Return the row of a run that its budget stops, at this call or at a later one."""
    failed = row.calls_failed
    return msgspec.structs.replace(
        row,
        reason=f"{reason}, but the budget stops the run there or later",
        budget_breach=Quantity(low=1, high=1, label="exact"),
        calls_failed=msgspec.structs.replace(failed, low=failed.low + 1),
    )


def _labelled(
    run_id: str, reason: str | None, live: tuple[Live, ...], found: dict[str, Quantity]
) -> Row:
    label = max((q.label for q in found.values()), key=LABELS.index)
    why = reason or next((q.reason for q in found.values() if q.label == label), None)
    return Row(run_id=run_id, label=label, reason=why, changed=False, live=live, **found)

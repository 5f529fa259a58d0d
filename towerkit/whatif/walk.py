"""One recorded call under another policy: the same `decide`, asked about the recorded attempts.

Rule: the k-th attempt of a call on a model ends as its k-th recorded attempt there did. Where the
policy wants an attempt that was never made, or where an interval leaves the decision open, the walk
stops and says why: what comes after is not in the record.

Times are nanoseconds since the run began, as intervals: a wait whose jitter was never drawn may
have any length that the policy allows.
"""

from __future__ import annotations

from collections import Counter
from math import ceil, floor
from typing import Literal

import msgspec

from towerkit.cost.ledger import NANO
from towerkit.cost.prices import FREE
from towerkit.reliability.breaker import Permit
from towerkit.reliability.breaker import Refusal as Turned
from towerkit.reliability.classify import Failure
from towerkit.reliability.policy import (
    Action,
    Begin,
    CallState,
    Event,
    Failed,
    Fallback,
    Policy,
    Refused,
    Renew,
    Stop,
    Succeeded,
    TooDear,
    Wait,
    Waited,
    decide,
)
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.whatif.bounds import ZERO, Bounds, just
from towerkit.whatif.budget import Budgeted
from towerkit.whatif.ends import (
    OUTCOMES,
    Acquire,
    Answered,
    Began,
    End,
    Limit,
    Live,
    OpenEnd,
    Settle,
    Steps,
    Take,
    Walked,
)
from towerkit.whatif.money import Money
from towerkit.whatif.record import Call, Record, Refusal, Try
from towerkit.whatif.world import Doubt, Spending, Touch, World

_TIMEOUTS = {"timeout_read", "timeout_connect", "timeout_total", "tool_timeout"}
# The tower's own errors: what they say names limits that another policy sets otherwise.
_OWN = {"AttemptTimeout", "BudgetExceeded", "CallRefused", "DeadlineExceeded"}
_TICK = 1_000  # nanoseconds: two times that differ by less are one
_LATE = 1_000_000  # nanoseconds by which a real clock's cut may come late


class CallWalk:
    """Walks one call.

    `start` is when it begins now, `spent` what the run was charged before it and `spent_then` what
    it was in the record, `reserved` what other calls of the run may hold meanwhile. `calm` says
    that nothing of the run has changed so far. `lenient` takes a reservation that may fit to fit.
    """

    def __init__(
        self, call: Call, record: Record, world: World, policy: Policy, money: Money, *,
        start: Bounds, spent: Bounds, spent_then: int, reserved: Bounds, calm: bool, doubt: Doubt,
        lenient: bool,
    ) -> None:  # fmt: skip
        self._call, self._record, self._world, self._policy = call, record, world, policy
        self._money, self._doubt = money, doubt
        self._begin, self._now, self._cost = start, start, ZERO
        self._budget = Budgeted(
            call, record, world, money, spent=spent, spent_then=spent_then, reserved=reserved,
            calm=calm, lenient=lenient,
        )  # fmt: skip
        self._order = world.order(record) if call.chain else (call.key,)
        self._state = decide(policy, self._first_state(), Begin())[0]
        self._used: Counter[str] = Counter()
        self._permit: Permit | None = None
        self._turned: list[tuple[str | None, Bounds]] = []
        self._made = self._refused = 0
        self._in_step = self._order == (record.models if call.chain else (call.key,))
        self._failure: Failure | None = None
        self._last: Try | None = None
        self._fell = False
        self._touches: list[Touch] = []
        self._retries: list[tuple[Bounds, int]] = []
        self._old = record.policy
        self._timely = start == just(call.start_ns)
        self._asked: Failed | None = None  # what the retry budget was asked about last

    def _first_state(self) -> CallState:
        call, record = self._call, self._record
        if call.operation == "tool":
            return CallState(operation="tool", idempotent=call.idempotent)
        providers = tuple(key.partition("/")[0] for key in self._order)
        if not call.chain:
            return CallState(operation="model", providers=providers)
        windows = dict(zip(record.models, record.windows, strict=False))
        renewable = {record.models[i] for i in record.renewable if i < len(record.models)}
        return CallState(
            operation="model", tiers=len(self._order), providers=providers,
            windows=tuple(windows.get(key) for key in self._order),
            stand_ins=tuple(i for i, p in enumerate(providers) if p in FREE),
            renewable=tuple(i for i, key in enumerate(self._order) if key in renewable),
        )  # fmt: skip

    # -- the whole -------------------------------------------------------------------------------

    def steps(self) -> Steps[Walked]:
        """Ask what others decide, and return what the call becomes."""
        yield Began(self._begin)
        try:
            end = yield from self._until_done()
        except OpenEnd as stop:
            return self._open(stop)
        same = end == self._recorded_end()
        self._tail(end)
        fails = end.what != "answer"
        if not fails:
            yield Answered(self._now, sum(tokens for _, tokens in self._retries))
        why = None if same else (
            f"{self._call.name} ends with {_said(end)}, and ended with "
            f"{_said(self._recorded_end())}: what the agent does then is not in the record"
        )  # fmt: skip
        return self._walked("same" if same else "other", why, fails=fails,
                            breached=end.name == "budget_exceeded")  # fmt: skip

    def _open(self, stop: OpenEnd) -> Walked:
        call, live = self._call, None
        reason = f"{call.name}: {stop.reason}"
        if stop.live is not None:
            worst = self._money.worst(call, stop.live)
            live = Live(
                run_id=self._record.run_id, span_id=call.span_id, call=call.name, model=stop.live,
                reason=stop.reason, estimate_nanousd=self._money.likely(call, stop.live),
                worst_nanousd=None if worst is None else worst.high,
            )  # fmt: skip
        walked = self._walked("open", reason, fails=None, breached=None, live=live)
        return msgspec.structs.replace(walked, unaffordable=stop.unaffordable)

    def _walked(
        self, outcome: Literal["same", "other", "open"], reason: str | None, *,
        fails: bool | None, breached: bool | None, live: Live | None = None,
    ) -> Walked:  # fmt: skip
        took = self._took()
        as_it_was = self._in_step and self._timely and self._made == len(self._call.tries)
        ended = Bounds(self._now.low, self._now.high)
        return Walked(
            outcome=outcome, reason=reason, took=took, cost=self._cost, fails=fails,
            breached=breached, fell_back=self._fell,
            changed=not (outcome == "same" and as_it_was),
            touches=tuple(self._touches),
            spending=Spending(
                start=self._begin, retries=tuple(self._retries),
                succeeded=ended if fails is False else None,
            ),
            live=live, turned=tuple(self._turned),
        )  # fmt: skip

    def _took(self) -> Bounds:
        """Return the time since the call began: both ends move with its start, so it cancels."""
        high = None if self._now.high is None else self._now.high - (self._begin.high or 0)
        return Bounds(self._now.low - self._begin.low, high)

    def _recorded_end(self) -> End:
        call = self._call
        last = call.tries[-1] if call.tries else None
        if call.status == "ok" and last is not None:
            return End("answer", last.span_id)
        if last is not None and last.kept and call.error_class == last.error_class:
            return End("flawed answer", last.answer or "")
        return self._error(call.error_class or "unknown", call.error_type, call.message)

    def _error(self, name: str, kind: str | None, message: str | None) -> End:
        """Return an error as the agent sees it: a tool's by its words, which a model reads."""
        words = self._call.operation == "tool" and kind not in _OWN
        return End("error", name, kind, message if words else None)

    def _tail(self, end: End) -> None:
        """Add what the guard took after the last event, where it is the recorded last one."""
        call = self._call
        done = self._made == len(call.tries) and self._refused == len(call.refusals)
        if call.interrupted or not (self._in_step and done and end == self._recorded_end()):
            return
        last = max([call.start_ns, *call.due_ns[-1:], *(t.end_ns for t in call.tries[-1:])])
        self._later(just(call.end_ns - last))

    def _until_done(self) -> Steps[End]:
        call = self._call
        if call.due_ns:
            self._later(just(call.due_ns[0] - call.start_ns))
        while True:
            end = yield from self._before_try()
            event = end if end is not None else (yield from self._try())
            if isinstance(event, End):
                return event
            if isinstance(event, Succeeded):
                return End("answer", self._last.span_id if self._last else "")
            ended = yield from self._after(event)
            if ended is not None:
                return ended

    def _after(self, event: Event) -> Steps[End | None]:
        """Do what the policy says, until an attempt is due (None) or the call is over."""
        while True:
            action, seconds = yield from self._decide(event)
            if isinstance(action, Stop):
                return self._given_up(action.reason)
            if isinstance(action, Wait):
                if self._cancelled_here():
                    return self._recorded_end()
                self._wait(seconds, event)
                event = Waited()
            elif isinstance(action, Renew):
                event = self._renew(event)
            else:
                if isinstance(action, Fallback):
                    self._fell = True
                    if not isinstance(event, TooDear):
                        self._later(self._gap("fallback") or ZERO)
                return None

    def _given_up(self, reason: str) -> End:
        if self._last is not None and self._last.kept:
            return End("flawed answer", self._last.answer or "")
        if self._failure is None:
            return self._error(reason, "CallRefused", None)
        message = None if self._last is None else self._last.message
        return self._error(self._failure.error_class, self._failure.error_type, message)

    def _later(self, by: Bounds) -> None:
        self._now = self._now + by

    def _left(self) -> Bounds:
        deadline = round(self._policy.deadline_s * NANO)
        assert self._now.high is not None  # noqa: S101  what surely happens takes a known time
        return Bounds(deadline - self._now.high, deadline - self._now.low)

    # -- before an attempt -----------------------------------------------------------------------

    def _before_try(self) -> Steps[End | Refused | TooDear | None]:
        """Return what keeps the attempt from being made, or None."""
        left = self._left()
        assert left.high is not None  # noqa: S101
        if left.high <= 0:
            return End("error", "timeout_total", "DeadlineExceeded")
        if left.low <= 0:
            raise OpenEnd("whether the deadline has passed depends on the length of a wait")
        key = self._order[self._state.tier]
        doubt = self._doubt(self._breaker(key), self._now)
        if doubt is not None:
            raise OpenEnd(doubt)
        answer = yield Acquire(self._now, self._breaker(key))
        self._permit = answer if isinstance(answer, Permit) else None
        refusal = self._refusal() if answer is None else self._told(answer)
        if refusal is not None:
            return Refused(
                error_class=refusal.error_class,  # type: ignore[arg-type]
                wait_s=refusal.wait_s, time_left_s=left.high / NANO,
            )  # fmt: skip
        fits = self._affordable(key)
        if fits is True:
            return None
        if self._permit is not None:
            at = self._now
            yield Settle(at, self._breaker(key), self._permit, "uncounted", 0, 0.0)
        return End("error", "budget_exceeded", "BudgetExceeded") if fits is False else TooDear(fits)

    def _told(self, answer: Permit | Turned) -> Turned | None:
        """Return the refusal a breaker gives now, and note whether it gave it then."""
        rest = self._call.refusals[self._refused :]
        then = self._in_step and bool(rest) and rest[0].after == self._made
        if isinstance(answer, Permit):
            self._in_step = self._in_step and not then
            return None
        self._turned.append((self._breaker(self._order[self._state.tier]), self._now))
        if then:
            self._refused += 1
        else:
            self._in_step = False
        return answer

    def _breaker(self, key: str) -> str:
        return f"{self._call.operation}:{key}"

    def _refusal(self) -> Refusal | None:
        """Return the recorded refusal that stands here; it stands only while nothing differs."""
        refusals = self._call.refusals
        if self._refused == len(refusals):
            return None
        here = self._in_step and refusals[self._refused].after == self._made
        if here and self._timely:
            self._refused += 1
            return refusals[self._refused - 1]
        if here or not self._in_step:
            raise OpenEnd("a breaker refused it then; whether it does now depends on other calls")
        return None

    def _affordable(self, key: str) -> bool | int:
        """Return whether the budget lets an attempt on `key` be made, or the tier it goes to."""
        return self._budget.ask(
            key, made=self._made, in_step=self._in_step, timely=self._timely, cost=self._cost
        )

    # -- an attempt ------------------------------------------------------------------------------

    def _try(self) -> Steps[Event | End]:
        key = self._order[self._state.tier]
        tries = [t for t in self._call.tries if t.key == key]
        n = self._used[key]
        if n == len(tries):
            if self._cancelled_here():
                return self._recorded_end()
            raise OpenEnd(f"attempt {n + 1} on {key} was never made", live=key)
        self._used[key] += 1
        tried = tries[n]
        self._in_step = (
            self._in_step and self._made < len(self._call.tries)
            and self._call.tries[self._made] is tried
        )  # fmt: skip
        self._made += 1
        self._last = tried
        if tried.interrupted:
            if not (self._in_step and self._timely):
                raise OpenEnd("it was cancelled from outside, at another time of the call")
            cost = self._money.of_try(tried)
            yield from self._charge(tried, just(tried.took_ns), tried.failure, cost)
            self._later(just(self._call.end_ns - tried.end_ns))
            return self._recorded_end()
        took, failure, cost = self._outcome(tried, key)
        yield from self._charge(tried, took, failure, cost)
        self._failure = failure
        if failure is None:
            return Succeeded()
        return Failed(failure=failure, time_left_s=0.0, jitter=0.0)

    def _cancelled_here(self) -> bool:
        """Return whether the call ended here because somebody else ended it, as it did then."""
        call = self._call
        if not (call.interrupted and self._made == len(call.tries)):
            return False
        if not (self._in_step and self._timely):
            raise OpenEnd("it was cancelled from outside, at another time of the call")
        self._now = just(call.end_ns)
        return True

    def _charge(
        self, tried: Try, took: Bounds, failure: Failure | None, cost: Bounds
    ) -> Steps[None]:
        row = None if failure is None else TAXONOMY.get(failure.error_class)
        start = self._now
        self._timely = self._timely and took == just(tried.took_ns)
        self._later(took)
        self._cost = self._cost + cost
        effect = "neutral" if row is None else row.breaker
        asked = failure.retry_after_s if failure is not None and effect == "throttle" else None
        self._touches.append(Touch(
            key=self._breaker(tried.key), start=start, end=self._now, outcome=OUTCOMES[effect],
            throttle_s=asked or 0.0,
        ))  # fmt: skip
        if self._permit is not None:
            yield Settle(
                self._now, self._breaker(tried.key), self._permit, OUTCOMES[effect], took.low,
                asked or 0.0,
            )  # fmt: skip

    def _outcome(self, tried: Try, key: str) -> tuple[Bounds, Failure | None, Bounds]:
        """Return how an attempt ends within the time it may take now: time, failure, cost."""
        left = self._left()
        allowed = round(self._policy.attempt_timeout_s * NANO)
        assert left.high is not None  # noqa: S101
        limit = Limit(min(allowed, left.low), min(allowed, left.high))
        then = self._limit_then(tried)
        as_recorded = just(tried.took_ns), tried.failure, self._money.of_try(tried)
        if then is not None and abs(limit.low - then) + abs(limit.high - then) <= _TICK:
            return as_recorded
        if self._by_itself(tried, then):
            if tried.took_ns <= limit.low:
                return as_recorded
            if self._call.operation == "tool" and tried.error_class not in _TIMEOUTS:
                if then is not None and tried.took_ns > then + _LATE:
                    return as_recorded  # it took longer than it might: this tool is not cut
                raise OpenEnd("whether the tool would have been cut is not in the record")
            if tried.took_ns <= limit.high:
                raise OpenEnd("whether it was cut depends on the length of a wait")
        elif limit.high > tried.took_ns:
            raise OpenEnd(
                f"an attempt on {key} was cut after {tried.took_ns / NANO:g} s, what a longer wait "
                "would have brought was not seen", live=key,
            )  # fmt: skip
        if tried.streamed:
            raise OpenEnd("when the pieces of its stream came is not in the record")
        return (
            Bounds(limit.low, limit.high),
            self._cut(left, allowed),
            self._money.of_cut(self._call, key),
        )

    @staticmethod
    def _by_itself(tried: Try, then: int | None) -> bool:
        """Return whether an attempt ended before its limit, by its own or a tool's time-out."""
        cut = tried.error_class in _TIMEOUTS
        return not cut or (then is not None and tried.took_ns < then - _LATE)

    def _limit_then(self, tried: Try) -> int | None:
        """Return the time an attempt had when it was recorded; None where no policy is named."""
        if self._old is None:
            return None
        left = round(self._old.deadline_s * NANO) - tried.start_ns
        return min(round(self._old.attempt_timeout_s * NANO), left)

    def _cut(self, left: Bounds, allowed: int) -> Failure:
        """Return the failure of an attempt that is cut, by its time-out or by the deadline."""
        assert left.high is not None  # noqa: S101
        if left.high <= allowed:
            return Failure(error_class="timeout_total", error_type="DeadlineExceeded")
        if left.low <= allowed:
            raise OpenEnd("whether its time-out or the deadline cuts it depends on a wait")
        name = "timeout_read" if self._call.operation == "model" else "tool_timeout"
        return Failure(error_class=name, error_type="AttemptTimeout")

    # -- what follows ----------------------------------------------------------------------------

    def _decide(self, event: Event) -> Steps[tuple[Action, Bounds]]:
        """Ask the policy at both ends of what is not known; return its action and its wait."""
        if isinstance(event, Waited | TooDear):
            self._state, action = decide(self._policy, self._state, event)
            return action, ZERO
        if isinstance(event, Refused):
            self._state, action = decide(self._policy, self._state, event)
            return action, _seconds(action, action)
        assert isinstance(event, Failed)  # noqa: S101
        action, state, waits = self._both(event, budgeted=True)
        sends_nothing = isinstance(action, Fallback) and action.tier in self._state.stand_ins
        asks = not (isinstance(action, Stop) or sends_nothing or event is self._asked)
        if asks and not (yield from self._granted(event)):
            action, state, waits = self._both(event, budgeted=False)
        self._asked = event
        self._state = state
        return action, waits

    def _both(self, event: Failed, *, budgeted: bool) -> tuple[Action, CallState, Bounds]:
        left, jitter = self._left(), self._jitter(event.failure)
        failure = event.failure
        ends = [
            decide(self._policy, self._state, Failed(
                failure=failure, time_left_s=(left.high or 0) / NANO if k == 0 else left.low / NANO,
                jitter=jitter[k], budgeted=budgeted,
            )) for k in (0, 1)
        ]  # fmt: skip
        (state, low), (_, high) = ends
        if type(low) is not type(high) or getattr(low, "tier", 0) != getattr(high, "tier", 0):
            if not self._waits_as_then():
                raise OpenEnd("whether there is time for a wait depends on its jitter")
            waited = self._last is not None and self._last.then == "wait"
            state, low = next(e for e in ends if isinstance(e[1], Wait) == waited)
            high = low
        return low, state, _seconds(low, high)

    def _waits_as_then(self) -> bool:
        """Return whether a wait was weighed against the same limits at the same time."""
        old, new = self._old, self._policy
        limits = ("deadline_s", "backoff_cap_s", "max_retry_after_s")
        same = old is not None and all(getattr(old, n) == getattr(new, n) for n in limits)
        return same and self._in_step and self._timely

    def _granted(self, event: Failed) -> Steps[bool]:
        """Return whether the retry budget grants another request.

        What it said then stands only while nothing differs.
        """
        cost = TAXONOMY[event.failure.error_class].retry_cost
        doubt = self._doubt(None, self._now)
        if doubt is not None:
            raise OpenEnd(doubt)
        answer = yield Take(self._now, cost)
        if answer == 0:
            self._turned.append((None, self._now))
            return False
        if answer is None and self._last is not None and self._last.unbudgeted:
            if self._in_step and self._timely:
                return False
            raise OpenEnd("the retry budget refused then; whether it does now depends on others")
        self._retries.append((self._now, cost))
        return True

    def _jitter(self, failure: Failure) -> tuple[float, float]:
        """Return between what the jitter of the backoff lies: what was drawn, where that shows."""
        gap, most = self._gap("wait"), self._backoff(failure, None)
        if gap is None or most <= 0:
            return 0.0, 1.0
        asked, waited = failure.retry_after_s or 0.0, gap.low / NANO
        then = self._backoff(failure, self._old) if self._old is not None else None
        if waited <= asked + 1e-6:
            # The provider's wait was the longer one: the jitter did not show.
            return 0.0, 1.0 if not then else min(1.0, asked / then)
        if then is None:
            return min(1.0, waited / most), 1.0
        return (waited - 2e-9) / then if then else 0.0, min(1.0, waited / then) if then else 1.0

    def _backoff(self, failure: Failure, policy: Policy | None) -> float:
        row = TAXONOMY[failure.error_class]
        whole = row.base_s * 2.0 ** (self._state.tries_on_tier - 1)
        return whole if policy is None else min(policy.backoff_cap_s, whole)

    def _gap(self, kind: str) -> Bounds | None:
        """Return how long it took then until an attempt was due again, if it was for this."""
        last, due = self._last, self._call.due_ns
        now = self._made + self._refused
        if not self._in_step or now == 0 or now >= len(due):
            return None
        refused = self._refused and self._call.refusals[self._refused - 1].after == self._made
        if refused:
            return just(due[now] - due[now - 1])
        if last is None or last.then != kind:
            return None
        return just(due[now] - last.end_ns)

    def _wait(self, seconds: Bounds, event: Event) -> None:
        """Wait as long as then where the policy's ceiling is the same, else as it says."""
        recorded = self._gap("wait")
        same = isinstance(event, Refused) or (
            isinstance(event, Failed) and self._old is not None
            and self._backoff(event.failure, self._old)
            == self._backoff(event.failure, self._policy)
        )  # fmt: skip
        if recorded is not None and same:
            self._later(recorded)
        else:
            self._timely = False
            self._later(seconds)

    def _renew(self, event: Event) -> Event:
        """Take the recorded outcome of a renewal, where there was one at this place."""
        gap = self._gap("renew")
        if not self._in_step or self._call.renewed is None or (self._call.renewed and gap is None):
            raise OpenEnd("whether a fresh credential could be had is not in the record")
        if not self._call.renewed:
            return event
        self._later(gap or ZERO)
        return Waited()


def _seconds(low: Action, high: Action) -> Bounds:
    if not (isinstance(low, Wait) and isinstance(high, Wait)):
        return ZERO
    return Bounds(floor(low.seconds * NANO), ceil(high.seconds * NANO))


def _said(end: End) -> str:
    return end.what if end.what != "error" else end.name

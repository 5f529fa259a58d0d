"""The guard's loop: one logical call, from its first attempt to its answer or its end.

Rule: the loop is a generator. It yields what is to be done (`Try`, `Sleep`) and is sent what came
of it, so synchronous and asyncio callers share every decision; a driver performs effects and
decides nothing. Breaker *acquire* → budget *reserve* → attempt → *classify* → *settle* → record →
*decide*, in this order, and every way out ends the spans, gives the permit back and settles the
reservation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from towerkit.core.errors import (
    AttemptTimeout,
    BudgetExceeded,
    CallRefused,
    DeadlineExceeded,
    NoProgress,
    StreamTruncated,
)
from towerkit.core.types import Response, Usage
from towerkit.cost.budget import Claim, Shortage, shortage_of
from towerkit.cost.ledger import NANO, Reservation
from towerkit.reliability.breaker import Breaker, Outcome, Permit, Refusal
from towerkit.reliability.classify import Failure
from towerkit.reliability.policy import (
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
from towerkit.reliability.probe import is_a
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.runtime.budgets import CallBudget
from towerkit.runtime.call import Call
from towerkit.runtime.calls import StreamCall
from towerkit.runtime.current import ABANDONED, mark_abandoned
from towerkit.runtime.executor import Attempt
from towerkit.runtime.steps import END, Deliver, Fresh, Next, Raised, Sleep, Step, Steps, Try
from towerkit.telemetry.recorder import OpenSpan

if TYPE_CHECKING:
    from towerkit.runtime.run import Run


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """What the tower knew when a call failed: attached to the exception as `e.tower`."""

    run_id: str
    error_class: str
    attempts: int
    decision: str


class _Open(msgspec.Struct):
    """An attempt under way, and what has to be given back when it ends."""

    what: Attempt
    span: OpenSpan
    start: int
    left: float
    breaker: Breaker
    permit: Permit | None
    reservation: Reservation | Claim
    output: int | None = None  # tokens of an answer that are set aside, once that was looked at


@cache
def _begun(policy: Policy, state: CallState) -> CallState:
    """Return the state a call begins in: the first attempt is never refused by the table."""
    return decide(policy, state, Begin())[0]


class Guard:
    """One logical call of a run."""

    def __init__(self, run: Run, call: Call, state: CallState, digest: str) -> None:
        """Prepare the call; `digest` is of its request."""
        self._run, self._call, self._digest = run, call, digest
        self._tower, self._policy = run.tower, run.tower.policy
        self._state = _begun(self._policy, state)
        self._error: BaseException | None = None
        self._failure: Failure | None = None
        self._kept: Any = None
        self._retry_cost = 0
        self._answer: str | None = None
        self._span: OpenSpan
        self._path = ""
        # None where the run's ledger alone holds its budget, as it mostly does.
        self._budget: CallBudget | None = None
        self._tried = -1  # the number of the last attempt's span

    def steps(self, *, name: str, operation: str) -> Steps:
        """Yield what to do and return the answer, or raise what the last attempt raised."""
        run, call = self._run, self._call
        parent, self._path = run.here()
        fields = {"request_digest": self._digest, **call.columns(self._state)}
        self._span = span = run.start_span(
            name, kind="call", operation=operation, parent=parent, fields=fields
        )
        mark_abandoned(run, span, parent)
        call.mark(span)
        self._tower.retry_budget.call()
        if run.budgets is not None:
            attempts = self._policy.max_attempts
            self._budget = CallBudget(
                run.budgets, call, self._state, attempts=attempts, seq=span.seq
            )
        try:
            value = yield from self._until_done()
        except BaseException as error:
            self._end(error)
            raise
        if type(value) is Raised:
            self._end(value.error)
            return value
        call.learn(value, self._answer)
        if self._budget is not None:
            self._budget.end()
        budget = self._tower.retry_budget
        if self._retry_cost or budget.below:
            budget.success(self._retry_cost)
        if self._state.tier:
            span.fields.update(call.columns(self._state))
        run.end_span(span, None, failure=self._failure, simulated=call.simulated(self._state))
        run.recorder.flush()
        return value

    def _end(self, error: BaseException) -> None:
        call, state = self._call, self._state
        call.learn(None, None)
        if self._budget is not None:
            self._budget.end()
        self._run.end_span(
            self._span, error, operation=state.operation, simulated=call.simulated(state)
        )
        self._run.recorder.flush()

    def _until_done(self) -> Steps:
        circling = self._run.progress.before(self._digest, tool=self._state.operation == "tool")
        if circling is not None:
            raise NoProgress(f"the agent makes no progress: {circling}")
        while True:
            value, event = yield from self._attempt()
            while not isinstance(event, Succeeded):
                left_tier = self._state.tier
                self._state, action = decide(self._policy, self._state, event)
                if isinstance(action, Stop):
                    return self._give_up(action.reason)
                if isinstance(action, Wait):
                    self._note("wait", action.reason, wait_s=round(action.seconds, 6))
                    yield from self._wait(action.seconds)
                    event = Waited()
                elif isinstance(action, Renew):
                    event = yield from self._renew(event)
                else:
                    if isinstance(action, Fallback):
                        self._note("fallback", action.reason, tier=action.tier)
                        if left_tier not in self._state.stand_ins:
                            # Why models did not answer, not what a stand-in did not know.
                            self._call.fallback_reason = action.reason
                    break
            else:
                return value

    def _wait(self, seconds: float) -> Steps:
        clock, budget = self._run.env.mono_ns, self._budget
        if budget is None:
            yield Sleep(seconds)
            return
        budget.clocked(clock(), waiting=1)
        try:
            yield Sleep(seconds)
        finally:
            budget.clocked(clock(), waiting=-1)

    def _renew(self, event: Event) -> Generator[Step, Any, Event]:
        """Ask for a fresh credential; the failure stands where there is none."""
        what = self._what(self._left())
        fresh = yield Fresh(what, self._call.renewal(self._state))
        self._note("renew", "a fresh credential" if fresh else "no fresh credential")
        self._run.record_reading("random", f"renew {self._tried}", value=fresh)
        return Waited() if fresh else event

    def _note(self, name: str, reason: str, **more: Any) -> None:
        self._span.events += ({"name": name, "reason": reason, **more},)

    def _left(self) -> float:
        """Return the seconds left, of the run's deadline or of a budget's time."""
        now = self._run.env.mono_ns()
        left = (self._run.deadline_ns - now) / NANO
        late = None if self._budget is None else self._budget.late(now)
        return left if late is None else min(left, max(0.0, late.left))

    def _late(self) -> DeadlineExceeded | BudgetExceeded:
        """Return the error for the time that has run out."""
        now = self._run.env.mono_ns()
        late = None if self._budget is None else self._budget.late(now)
        if late is not None and late.left < (self._run.deadline_ns - now) / NANO:
            return BudgetExceeded(
                f"the time of {late.account} is up: its {late.limit} is reached",
                account=late.account, limit=late.limit, left=0,
            )  # fmt: skip
        return DeadlineExceeded(f"the run's {self._policy.deadline_s:g} s are up")

    def _give_up(self, reason: str) -> Any:
        """Return the last original exception, with the tower attached, to be raised.

        Where the last answer itself said that it failed, there is none: the agent gets the answer,
        as it would without the guard, and the spans say what it was.
        """
        self._note("stop", reason)
        error = self._error
        if self._kept is not None:
            return self._kept
        if error is None:
            error = CallRefused(
                f"the call was not made: {TAXONOMY[reason].summary}", error_class=reason
            )
        name = self._failure.error_class if self._failure else reason
        with contextlib.suppress(
            Exception
        ):  # slots, or a setter of its own: the error matters more
            error.tower = Control(  # type: ignore[attr-defined]
                run_id=self._run.run_id, error_class=name, attempts=self._state.tries,
                decision=reason,
            )  # fmt: skip
        return Raised(error)

    # -- one attempt -----------------------------------------------------------------------------

    def _what(self, left: float) -> Attempt:
        timeout_s = min(left, self._policy.attempt_timeout_s)
        return self._call.what(self._state, self._path, self._span.seq, timeout_s)

    def _open(self) -> _Open | Refused | TooDear:
        """Begin an attempt: there is time, the breaker admits it, what it may use is set aside."""
        run, call, state = self._run, self._call, self._state
        start = run.env.mono_ns()
        left = (run.deadline_ns - start) / NANO
        if left <= 0:
            raise self._late()
        if self._budget is not None:
            left = self._left()
        what = self._what(left)
        breaker = self._tower.breaker(call.breaker_key(state))
        admitted = run.executor.admit(what, breaker, start)
        if isinstance(admitted, Refusal):
            return self._refused(what, admitted, left)
        permit, short = (None, admitted) if isinstance(admitted, Shortage) else (admitted, None)
        aside = None
        try:
            aside = self._set_aside(what, short, left)
        finally:
            if permit is not None and not isinstance(aside, tuple):
                breaker.settle(permit, "uncounted", start, 0)
        if isinstance(aside, TooDear):
            return aside
        reservation, what = aside
        span = self._attempt_span(start, what)
        return _Open(what, span, start, left, breaker, permit, reservation)

    def _attempt(self) -> Generator[Step, Any, tuple[Any, Event]]:
        """Make one attempt: return its answer and what happened."""
        open_ = self._open()
        if not isinstance(open_, _Open):
            return None, open_
        run, call, what = self._run, self._call, open_.what
        value, failure, error = None, None, None
        run.recorder.flush()
        try:
            value = yield Try(what, call, self._state)
            if what.stream:
                value = yield from self._pump(call, value, open_)  # type: ignore[arg-type]
            failure = call.flaw(value)
        except Exception as raised:  # noqa: BLE001  decided upon below, and re-raised if it must be
            value = None
            late = is_a(raised, AttemptTimeout) and what.timeout_s >= open_.left
            error = self._late() if late else raised
            failure = call.judge(error, run.env.wall_ns() / NANO)
        except BaseException as raised:
            failure = call.judge(raised, run.env.wall_ns() / NANO)
            self._close(open_, None, failure, raised)
            raise
        self._close(open_, value, failure, error)
        self._error, self._failure, self._kept = error, failure, value
        if failure is None or (error is None and not TAXONOMY[failure.error_class].replaceable):
            return value, Succeeded()
        return None, self._failed(what, failure)

    def _set_aside(
        self, what: Attempt, short: Shortage | None, left: float
    ) -> tuple[Reservation | Claim, Attempt] | TooDear:
        """Set aside what the attempt may use; where that does not fit, go the budget's ways out.

        `short` is a recorded refusal. A smaller request is another attempt: it is returned too.
        """
        run, budget = self._run, self._budget
        if budget is None:
            if short is None:
                try:
                    # Without a limit nothing is set aside, so nobody need know how much.
                    limited = run.ledger.limit is not None
                    most = self._call.worst_case(self._state) if limited else 0
                    return run.ledger.reserve(most), what
                except BudgetExceeded as error:
                    short = shortage_of(error)
            self._short(what, short)
            raise short.refusal()
        while True:
            now = run.env.mono_ns()
            if short is None:
                try:
                    claim = budget.claim(what, self._state, now, left)
                except BudgetExceeded as error:
                    short = shortage_of(error)
                else:
                    budget.clocked(now, under_way=1)
                    return claim, what
            self._short(what, short)
            tier = budget.way_out(what, short, self._state, self._note)
            if tier is not None:
                return TooDear(tier)
            what = self._what(left)
            short = run.executor.short(what)

    def _short(self, what: Attempt, short: Shortage) -> None:
        """Write that the budget refused: it depends on other calls and runs, so it is an input."""
        run, now = self._run, self._run.env.mono_ns()
        run.recorder.tape(
            what.kind, what.name, path=what.path, request_digest=what.request_digest,
            response_digest=run.recorder.content(msgspec.to_builtins(short)),
            outcome="budget_exceeded", start_mono_ns=now, end_mono_ns=now, span=self._span,
        )  # fmt: skip

    def _attempt_span(self, start: int, what: Attempt) -> OpenSpan:
        call_span, state = self._span, self._state
        digest = what.request_digest
        fields = {**call_span.fields, "request_digest": digest, "attempt": state.tries}
        if state.tier:
            fields.update(self._call.columns(state))
        span = self._run.start_span(
            self._call.attempt_name(state) or call_span.name, kind="attempt",
            operation=call_span.operation, parent=call_span, fields=fields, mono_ns=start,
        )  # fmt: skip
        self._call.mark(span)
        self._tried = span.seq
        return span

    def _close(
        self, attempt: _Open, value: Any, failure: Failure | None, error: BaseException | None
    ) -> None:
        """End an attempt, however it ended: charged, its permit returned, its span ended."""
        run, call, span = self._run, self._call, attempt.span
        end = run.env.mono_ns()
        charge = call.settle(span, self._state, value, failure)
        if self._budget is None:
            run.ledger.settle(attempt.reservation, charge)  # type: ignore[arg-type]  # it is a list
        else:
            self._budget.settle(attempt.reservation, charge, call.used)  # type: ignore[arg-type]
            self._budget.clocked(end, under_way=-1)
        if attempt.permit is not None:
            self._settle_breaker(attempt.breaker, attempt.permit, failure, attempt.start, end)
        self._answer = run.record_attempt(
            call, attempt.what, span, value, failure, error, attempt.start, end,
            simulated=call.simulated(self._state),
        )  # fmt: skip
        if error is not None:  # what it called may go on: a thread is not cut
            run.recorder.hand_over(span, self._span.parent_span_id, mark=ABANDONED)

    def _settle_breaker(
        self, breaker: Breaker, permit: Permit, failure: Failure | None, start: int, end: int
    ) -> None:
        effect = "neutral" if failure is None else TAXONOMY[failure.error_class].breaker
        breaker.settle(permit, _OUTCOMES[effect], end, end - start)
        if effect == "throttle" and failure is not None and failure.retry_after_s:
            breaker.throttle(end, failure.retry_after_s)

    def _pump(self, call: StreamCall, items: Any, open_: _Open) -> Steps:
        """Deliver a stream's pieces and return its answer; a stream without one was truncated.

        Each piece has the attempt's time-out, the deadline bounds them all: a stall is an error.
        What says more than was set aside for it goes on while the budget has more, and is cut then.
        """
        try:
            while True:
                left = self._left()
                if left <= 0:
                    raise self._late()
                item = yield Next(items, min(open_.what.timeout_s, left))
                if item is END:
                    raise StreamTruncated("the stream ended before its terminal event")
                if isinstance(item, Response):
                    return call.labelled(self._state, item)
                if isinstance(item, Usage):
                    call.counted(item)
                    continue
                much = call.heard(item)
                self._state = msgspec.structs.replace(self._state, delivered=True)
                yield Deliver(item)
                if much:
                    self._cover(call, open_)
        finally:
            # A stream that is still being read by a thread that timed out closes when that ends.
            with contextlib.suppress(AttributeError, ValueError):
                items.close()

    def _cover(self, call: StreamCall, open_: _Open) -> None:
        """Set aside what has come beyond the reservation; raise where that does not fit."""
        state = self._state
        if open_.output is None:
            open_.output = call.most_output(state)
        came = call.tokens_so_far(state)
        if came <= open_.output or not self._run.executor.enforces:
            return  # on a tape the end of the stream is recorded
        more = max(came - open_.output, open_.output // 4, 64)
        cost = call.output_cost(state, more)
        try:
            if self._budget is None:
                self._run.ledger.grow(open_.reservation, cost or 0)  # type: ignore[arg-type]
            else:
                self._budget.grow(open_.reservation, cost, more)  # type: ignore[arg-type]
        except BudgetExceeded as error:
            raise BudgetExceeded(
                f"the stream was cut after about {came} tokens, {open_.output} were asked for: "
                f"{error.account} has no more {error.limit}",
                account=error.account, limit=error.limit, left=error.left, wanted=error.wanted,
            ) from None  # fmt: skip
        open_.output += more

    def _refused(self, what: Attempt, refusal: Refusal, left: float) -> Refused:
        run, now = self._run, self._run.env.mono_ns()
        digest = run.recorder.content({"wait_s": refusal.wait_s})
        run.recorder.tape(
            what.kind, what.name, path=what.path, request_digest=what.request_digest,
            response_digest=digest, outcome=refusal.error_class, start_mono_ns=now,
            end_mono_ns=now, span=self._span,
        )  # fmt: skip
        self._note("refused", refusal.error_class, on=what.name)
        return Refused(error_class=refusal.error_class, wait_s=refusal.wait_s, time_left_s=left)

    def _failed(self, what: Attempt, failure: Failure) -> Failed:
        """Return the event; the retry budget is asked only where another request would follow."""
        run = self._run
        event = Failed(failure=failure, time_left_s=self._left(), jitter=run.env.random())
        action = decide(self._policy, self._state, event)[1]
        sends_nothing = isinstance(action, Fallback) and action.tier in self._state.stand_ins
        if sends_nothing or isinstance(action, Stop):
            return event
        budget, row = self._tower.retry_budget, TAXONOMY[failure.error_class]
        cost = run.executor.granted(what, budget, row.retry_cost)
        self._retry_cost += cost
        if cost == 0:
            run.record_reading("random", f"retry_budget {self._tried}", value="refused")
            return msgspec.structs.replace(event, budgeted=False)
        return event


_OUTCOMES: dict[str, Outcome] = {
    "failure": "failure", "neutral": "success", "uncounted": "uncounted", "throttle": "uncounted",
}  # fmt: skip

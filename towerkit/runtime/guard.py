"""The guard's loop: one logical call, from its first attempt to its answer or its end.

Rule: the loop is a generator. It yields what is to be done (`Try`, `Sleep`) and is sent what came
of it, so synchronous and asyncio callers share every decision; a driver performs effects and
decides nothing. Breaker *acquire* → budget *reserve* → attempt → *classify* → *settle* → record →
*decide*, in this order, and every way out ends the spans, gives the permit back and settles the
reservation.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import TYPE_CHECKING, Any

import msgspec

from towerkit.core.env import Env
from towerkit.core.errors import (
    AttemptTimeout,
    CallRefused,
    DeadlineExceeded,
    NoProgress,
    StreamTruncated,
)
from towerkit.core.types import Response
from towerkit.cost.ledger import NANO
from towerkit.reliability.breaker import Permit, Refusal
from towerkit.reliability.classify import Failure, classify
from towerkit.reliability.policy import (
    Begin,
    CallState,
    Event,
    Failed,
    Fallback,
    Refused,
    Stop,
    Succeeded,
    Wait,
    Waited,
    decide,
)
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.runtime.calls import Call, StreamCall
from towerkit.runtime.executor import Attempt, Executor
from towerkit.telemetry.recorder import OpenSpan

if TYPE_CHECKING:
    from towerkit.runtime.run import Run


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """What the tower knew when a call failed: attached to the exception as `e.tower`."""

    run_id: str
    error_class: str
    attempts: int
    decision: str


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """Make this attempt; send back what it returned, or throw what it raised."""

    what: Attempt
    run: Callable[[], Any]
    arun: Callable[[], Awaitable[Any]]


class Sleep(msgspec.Struct, frozen=True):
    """Wait."""

    seconds: float


class Next(msgspec.Struct, frozen=True):
    """Take the next item of a stream within the time-out; send back `END` when there is none."""

    items: Any
    timeout_s: float


class Deliver(msgspec.Struct, frozen=True):
    """Hand a piece of the answer to the agent."""

    piece: str


END = object()
Step = Try | Sleep | Next | Deliver
Steps = Generator[Step, Any, Any]


def drive(steps: Steps, executor: Executor, env: Env) -> Any:
    """Perform a call's steps on this thread and return its answer."""
    try:
        step = next(steps)
        while True:
            try:
                result = _perform(step, executor, env)
            except BaseException as error:  # noqa: BLE001  handed to the loop, which raises it on
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as done:
        return done.value


def drive_stream(steps: Steps, executor: Executor, env: Env) -> Generator[str, None, Response]:
    """Perform a streaming call's steps, yielding pieces of the answer; return the whole of it."""
    try:
        step = next(steps)
        while True:
            try:
                if isinstance(step, Deliver):
                    result = yield step.piece
                else:
                    result = _perform(step, executor, env)
            except BaseException as error:  # noqa: BLE001  an agent that stops reading lands here too
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as done:
        return done.value  # type: ignore[no-any-return]


def _perform(step: Step, executor: Executor, env: Env) -> Any:
    if isinstance(step, Try):
        return executor.attempt(step.what, step.run)
    if isinstance(step, Next):
        return env.bounded(lambda: next(step.items, END), step.timeout_s)
    if isinstance(step, Sleep):
        env.sleep(step.seconds)
    return None


async def adrive(steps: Steps, executor: Executor, env: Env) -> Any:
    """Perform a call's steps on the running event loop and return its answer."""
    try:
        step = next(steps)
        while True:
            try:
                result = await _aperform(step, executor, env)
            except BaseException as error:  # noqa: BLE001  handed to the loop, which raises it on
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as done:
        return done.value


async def adrive_stream(
    steps: Steps, executor: Executor, env: Env
) -> AsyncGenerator[str | Response, None]:
    """Perform a streaming call's steps on the event loop: yield pieces and, last, the answer."""
    try:
        step = next(steps)
        while True:
            try:
                if isinstance(step, Deliver):
                    result = yield step.piece
                else:
                    result = await _aperform(step, executor, env)
            except BaseException as error:  # noqa: BLE001  an agent that stops reading lands here too
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as done:
        answer: Response = done.value
    yield answer


async def _aperform(step: Step, executor: Executor, env: Env) -> Any:
    if isinstance(step, Try):
        return await executor.aattempt(step.what, step.arun)
    if isinstance(step, Next):
        items = step.items
        if hasattr(items, "__anext__"):
            return await env.abounded(lambda: anext(items, END), step.timeout_s)
        return await env.abounded(lambda: env.in_thread(lambda: next(items, END)), step.timeout_s)
    if isinstance(step, Sleep):
        await env.asleep(step.seconds)
    return None


class Guard:
    """One logical call of a run."""

    def __init__(self, run: Run, call: Call, state: CallState, digest: str) -> None:
        """Prepare the call; `digest` is of its request."""
        self._run, self._call, self._state, self._digest = run, call, state, digest
        self._tower, self._policy = run.tower, run.tower.policy
        self._error: BaseException | None = None
        self._failure: Failure | None = None
        self._retry_cost = 0
        self._answer: str | None = None
        self._span: OpenSpan
        self._path = ""

    def steps(self, *, name: str, operation: str) -> Steps:
        """Yield what to do and return the answer, or raise what the last attempt raised."""
        run, call = self._run, self._call
        parent, self._path = run.here()
        self._span = span = run.start_span(name, kind="call", operation=operation, parent=parent)
        span.fields["request_digest"] = self._digest
        call.describe(span, self._state)
        self._tower.retry_budget.call()
        try:
            value = yield from self._until_done(operation)
        except BaseException as error:
            self._seen(None)
            run.end_span(span, error, operation=self._state.operation,
                         simulated=call.simulated(self._state))  # fmt: skip
            raise
        self._seen(self._answer)
        self._tower.retry_budget.success(self._retry_cost)
        call.describe(span, self._state)
        run.end_span(span, None, simulated=call.simulated(self._state))
        return value

    def _seen(self, answer: str | None) -> None:
        if self._state.operation == "tool":
            self._run.progress.after(self._digest, answer)

    def _until_done(self, operation: str) -> Steps:
        event: Event = Begin()
        value: Any = None
        circling = self._run.progress.before(self._digest, tool=operation == "execute_tool")
        if circling is not None:
            raise NoProgress(f"the agent makes no progress: {circling}")
        while True:
            self._state, action = decide(self._policy, self._state, event)
            if isinstance(action, Stop):
                if action.reason == "succeeded":
                    return value
                raise self._final_error(action.reason)
            if isinstance(action, Wait):
                self._note("wait", action.reason, wait_s=round(action.seconds, 6))
                yield Sleep(action.seconds)
                event = Waited()
                continue
            if isinstance(action, Fallback):
                self._note("fallback", action.reason, tier=action.tier)
                self._call.fallback_reason = action.reason
            value, event = yield from self._attempt(operation)

    def _note(self, name: str, reason: str, **more: Any) -> None:
        self._span.events.append({"name": name, "reason": reason, **more})

    def _left(self) -> float:
        return (self._run.deadline_ns - self._run.env.mono_ns()) / NANO

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the run's {self._policy.deadline_s:g} s are up")

    def _final_error(self, reason: str) -> BaseException:
        """Return what the agent gets: the last original exception, with the tower attached."""
        self._note("stop", reason)
        error = self._error
        if error is None:
            error = CallRefused(
                f"the call was not made: {TAXONOMY[reason].summary}", error_class=reason
            )
        name = self._failure.error_class if self._failure else reason
        with contextlib.suppress(AttributeError, TypeError):  # slots: the original matters more
            error.tower = Control(  # type: ignore[attr-defined]
                run_id=self._run.run_id, error_class=name, attempts=self._state.tries,
                decision=reason,
            )  # fmt: skip
        return error

    # -- one attempt -----------------------------------------------------------------------------

    def _attempt(self, operation: str) -> Generator[Step, Any, tuple[Any, Event]]:
        """Make one attempt: return its answer and what happened."""
        run, call, state = self._run, self._call, self._state
        left = self._left()
        if left <= 0:
            raise self._late()
        seq = run.recorder.next_seq
        what = call.what(state, self._path, seq, min(left, self._policy.attempt_timeout_s))
        breaker = self._tower.breaker(call.breaker_key(state))
        admitted = run.executor.admit(what, lambda: breaker.acquire(run.env.mono_ns() / NANO))
        if isinstance(admitted, Refusal):
            return None, self._refused(what, admitted, left)
        key = f"{self._span.span_id}.{state.tries}"
        try:
            run.ledger.reserve(key, call.worst_case(state))
        except BaseException:
            self._settle_breaker(admitted, None, 0.0)
            raise
        span = run.start_span(
            self._span.name, kind="attempt", operation=operation, parent=self._span
        )
        span.fields.update(self._span.fields, attempt=state.tries)
        call.describe(span, state)
        start = run.env.mono_ns()
        value, failure, error = None, None, None
        try:
            answer = yield Try(
                what=what,
                run=lambda: call.run(state, what.timeout_s),
                arun=lambda: call.arun(state, what.timeout_s),
            )
            if isinstance(call, StreamCall):
                answer = yield from self._pump(call, answer, what)
            value = answer
        except Exception as raised:  # noqa: BLE001  decided upon below, and re-raised if it must be
            late = isinstance(raised, AttemptTimeout) and what.timeout_s >= left
            error = self._late() if late else raised
            failure = call.judge(error, run.env.wall_ns() / NANO)
        except BaseException as raised:
            self._abandon(key, span, raised, admitted, what, start)
            raise
        run.ledger.settle(key, call.settle(span, state, value, failure))
        taken = (run.env.mono_ns() - start) / NANO
        self._settle_breaker(admitted, failure, taken)
        self._answer = run.record_attempt(
            call, what, span, value, failure, error, start, simulated=call.simulated(state)
        )
        if failure is None or error is None:
            return value, Succeeded()
        self._error, self._failure = error, failure
        return None, self._failed(what, failure)

    def _pump(self, call: StreamCall, items: Any, what: Attempt) -> Steps:
        """Deliver a stream's pieces and return its answer; a stream without one was truncated.

        Each piece has the attempt's time-out, the deadline bounds them all: a stall is an error.
        """
        try:
            while True:
                left = self._left()
                if left <= 0:
                    raise self._late()
                item = yield Next(items, min(what.timeout_s, left))
                if item is END:
                    raise StreamTruncated("the stream ended before its terminal event")
                if isinstance(item, Response):
                    return call.labelled(self._state, item)
                call.pieces.append(item)
                self._state = msgspec.structs.replace(self._state, delivered=True)
                yield Deliver(item)
        finally:
            # A stream that is still being read by a thread that timed out closes when that ends.
            with contextlib.suppress(AttributeError, ValueError):
                items.close()

    def _abandon(
        self, key: str, span: OpenSpan, error: BaseException, permit: Permit | None, what: Attempt,
        start: int,
    ) -> None:  # fmt: skip
        """Close an attempt the caller gave up: charged, its permit returned, its span ended."""
        call, run = self._call, self._run
        failure = classify(error, operation=self._state.operation)
        run.ledger.settle(key, call.settle(span, self._state, None, failure))
        self._settle_breaker(permit, failure, 0.0)
        run.record_attempt(
            call, what, span, None, failure, error, start, simulated=call.simulated(self._state)
        )

    def _settle_breaker(
        self, permit: Permit | None, failure: Failure | None, took_s: float
    ) -> None:
        if permit is None:
            return
        run, breaker = self._run, self._tower.breaker(self._call.breaker_key(self._state))
        now = run.env.mono_ns() / NANO
        effect = "neutral" if failure is None else TAXONOMY[failure.error_class].breaker
        outcome = {"failure": "failure", "neutral": "success"}.get(effect, "uncounted")
        breaker.settle(permit, outcome, now, duration_s=took_s)  # type: ignore[arg-type]
        if effect == "throttle" and failure is not None and failure.retry_after_s:
            breaker.throttle(now, failure.retry_after_s)

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
        if isinstance(decide(self._policy, self._state, event)[1], Stop):
            return event
        budget, row = self._tower.retry_budget, TAXONOMY[failure.error_class]
        cost = run.executor.granted(what, lambda: budget.take(row.retry_cost))
        self._retry_cost += cost
        if cost == 0:
            run.record_reading("random", f"retry_budget {what.span_seq}", value="refused")
            return msgspec.structs.replace(event, budgeted=False)
        return event

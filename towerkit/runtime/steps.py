"""What a guarded call asks for, step by step, and who performs it: on a thread or an event loop.

Rule: a driver performs and decides nothing; what a step raises is handed back to the loop.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

import msgspec

from towerkit.core.env import Env
from towerkit.core.types import Response
from towerkit.reliability.policy import CallState
from towerkit.runtime.call import Call
from towerkit.runtime.executor import Attempt, Executor


class Try(msgspec.Struct, frozen=True):
    """Make this attempt; send back what it returned, or throw what it raised."""

    what: Attempt
    call: Call
    state: CallState

    def run(self) -> Any:
        """Carry the call out once."""
        return self.call.run(self.state, self.what.timeout_s)

    def arun(self) -> Awaitable[Any]:
        """Carry the call out once, on an event loop."""
        return self.call.arun(self.state, self.what.timeout_s)


class Sleep(msgspec.Struct, frozen=True):
    """Wait."""

    seconds: float


class Fresh(msgspec.Struct, frozen=True):
    """Ask for a fresh credential; send back whether there is one."""

    what: Attempt
    renew: Callable[[], object]


class Next(msgspec.Struct, frozen=True):
    """Take the next item of a stream within the time-out; send back `END` when there is none."""

    items: Any
    timeout_s: float


class Deliver(msgspec.Struct, frozen=True):
    """Hand a piece of the answer to the agent."""

    piece: str


class Raised(msgspec.Struct, frozen=True):
    """What a call ends with instead of an answer: the driver raises it.

    A generator cannot raise everything a tool can: `StopIteration` would come out as another error.
    """

    error: BaseException


END = object()
Step = Try | Sleep | Fresh | Next | Deliver
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
        return _outcome(done.value)


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
        return _outcome(done.value)  # type: ignore[no-any-return]


def _outcome(value: Any) -> Any:
    if type(value) is Raised:
        raise value.error
    return value


def _perform(step: Step, executor: Executor, env: Env) -> Any:
    if isinstance(step, Try):
        return executor.attempt(step.what, step.run)
    if isinstance(step, Next):
        return env.bounded(lambda: next(step.items, END), step.timeout_s)
    if isinstance(step, Fresh):
        return executor.renewed(step.what, step.renew)
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
        return _outcome(done.value)


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
        answer: Response = _outcome(done.value)
    yield answer


async def _aperform(step: Step, executor: Executor, env: Env) -> Any:
    if isinstance(step, Try):
        return await executor.aattempt(step.what, step.arun)
    if isinstance(step, Next):
        items = step.items
        if hasattr(items, "__anext__"):
            return await env.abounded(lambda: anext(items, END), step.timeout_s)
        return await env.abounded(lambda: env.in_thread(lambda: next(items, END)), step.timeout_s)
    if isinstance(step, Fresh):
        return await env.in_thread(lambda: executor.renewed(step.what, step.renew))
    if isinstance(step, Sleep):
        await env.asleep(step.seconds)
    return None

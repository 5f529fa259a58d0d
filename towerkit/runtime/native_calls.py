"""Guarded calls of functions and SDKs that know nothing of towerkit.

Rule: the agent gets the object that was returned, or the exception that was raised; evidence is
made beside it. What has no plain form never counts as a repeated request or answer.
"""

# ruff: noqa: ARG002, D102  the shape of a call, documented on `Call`

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from towerkit.core.errors import UsageError
from towerkit.core.types import Model, Request, Response
from towerkit.reliability.classify import Failure
from towerkit.reliability.policy import CallState
from towerkit.runtime.calls import ModelCall, ToolCall
from towerkit.runtime.current import OPEN
from towerkit.runtime.executor import Attempt
from towerkit.runtime.guard import Guard
from towerkit.runtime.native import plain, read_answer
from towerkit.runtime.steps import Steps
from towerkit.telemetry.recorder import OpenSpan

if TYPE_CHECKING:
    from towerkit.runtime.run import Run
    from towerkit.runtime.tower import Tower

NO_DIGEST = "0" * 32  # what stands for a request when the redactor keeps nothing


@contextmanager
def open_run(tower: Tower, name: str, task: Any) -> Iterator[tuple[Run, Callable[[Any], None]]]:
    """Yield the tower's open run and what takes the result; outside any, open one for `task`."""
    run = tower.current()
    if run is not None:
        yield run, _ignore
        return
    with tower.run(name, task=plain(task)[0]) as own:
        yield own, lambda result: finish(own, result)


def _ignore(result: Any) -> None:
    """Take the result of a call inside a run: its attempt's span has it already."""


def finish(run: Run, result: Any) -> None:
    """Give the run its answer, if JSON can carry it."""
    shown, opaque = plain(result)
    if not opaque:
        run.finish(shown)


class Passed(msgspec.Struct, frozen=True):
    """An exception that is no failure: a framework's way to say what happens next."""

    error: BaseException


def tool_names(idempotent: Collection[str]) -> frozenset[str]:
    """Return the names of tools that may be run twice; raise `UsageError` for anything else."""
    if isinstance(idempotent, str | bool) or not all(isinstance(n, str) for n in idempotent):
        raise UsageError(
            f"expected idempotent as a set of names, such as {{'search'}}, got {idempotent!r}"
        )
    return frozenset(idempotent)


def unwrapped(value: Any) -> Any:
    """Return a guarded call's value, or raise the exception that was only passed through it."""
    if isinstance(value, Passed):
        raise value.error
    return value


class FunctionCall(ToolCall):
    """A tool whose arguments and answer may be any object.

    `call` makes it once, and may return an awaitable. `shown` is what the evidence says of its
    arguments. `passes` says which exceptions are control flow. `cut_s` bounds an awaited attempt
    instead of the policy's time-out, because what is called has a time-out of its own.
    """

    def __init__(
        self, run: Run, call: Callable[[], Any], *, name: str, shown: Mapping[str, Any],
        timeout_s: float | None = None, call_id: str | None = None, cut_s: float | None = None,
        passes: Callable[[Exception], bool] | None = None,
    ) -> None:  # fmt: skip
        arguments, opaque = plain(shown)
        if opaque:  # two of them may look alike and not be
            arguments["opaque_before_span"] = run.recorder.next_seq
        digest = run.recorder.content({"tool": name, "arguments": arguments}) or NO_DIGEST
        super().__init__(run, call, {}, name, digest, timeout_s, call_id)
        self._call, self._passes, self._cut_s, self._seq = call, passes, cut_s, 0

    def steps(self, *, idempotent: bool) -> Steps:
        """Return the guarded call, to be driven."""
        state = CallState(operation="tool", idempotent=idempotent)
        guard = Guard(self._run, self, state, self._digest)
        return guard.steps(name=f"execute_tool {self._name}", operation="execute_tool")

    def what(self, state: CallState, path: str, seq: int, timeout_s: float) -> Attempt:
        self._seq = seq
        what = super().what(state, path, seq, timeout_s)
        if self._cut_s is None:
            return what
        left = (self._run.deadline_ns - self._run.env.mono_ns()) / 1e9
        return msgspec.structs.replace(what, timeout_s=min(left, self._cut_s))

    def run(self, state: CallState, timeout_s: float) -> Any:
        token = self._inside()
        try:
            return self._call()
        except Exception as error:
            if self._passes is not None and self._passes(error):
                return Passed(error)
            raise
        finally:
            OPEN.reset(token)

    async def arun(self, state: CallState, timeout_s: float) -> Any:
        token = self._inside()
        try:
            answer = self._call()
            return await answer if inspect.isawaitable(answer) else answer
        except Exception as error:
            if self._passes is not None and self._passes(error):
                return Passed(error)
            raise
        finally:
            OPEN.reset(token)

    def tape_value(self, value: Any) -> Any:
        if isinstance(value, Passed):
            return {"raised": type(value.error).__qualname__}
        shown, opaque = plain(value)
        return {"result": shown, "opaque_at_span": self._seq} if opaque else {"result": shown}


class NativeModelCall(ModelCall):
    """A model call made by code of the agent or of a framework, with any SDK.

    `call` makes it once, and may return an awaitable. `read` says what an answer is in towerkit's
    words; the agent gets the answer itself.
    """

    def __init__(
        self, run: Run, call: Callable[[], Any], model: Model, request: Request, digest: str, *,
        timeout_s: float | None = None, read: Callable[[Any], Response] = read_answer,
    ) -> None:  # fmt: skip
        super().__init__(run, request, digest, models=(model,))
        self._call, self._reader, self._timeout_s = call, read, timeout_s
        self._last: tuple[Any, Response] | None = None

    def steps(self) -> Steps:
        """Return the guarded call, to be driven."""
        model = self._models[0]
        state = CallState(operation="model", providers=(model.provider,))
        guard = Guard(self._run, self, state, self._digest)
        return guard.steps(name=f"chat {model.name}", operation="chat")

    def what(self, state: CallState, path: str, seq: int, timeout_s: float) -> Attempt:
        limit = timeout_s if self._timeout_s is None else min(timeout_s, self._timeout_s)
        return super().what(state, path, seq, limit)

    def run(self, state: CallState, timeout_s: float) -> Any:
        return self._call()

    async def arun(self, state: CallState, timeout_s: float) -> Any:
        answer = self._call()
        return await answer if inspect.isawaitable(answer) else answer

    def _read(self, value: Any) -> Response:
        """Return what an answer says; each is read once."""
        if self._last is None or self._last[0] is not value:
            self._last = (value, self._reader(value))
        return self._last[1]

    def flaw(self, value: Any) -> Failure | None:
        return super().flaw(self._read(value))

    def learn(self, value: Any, digest: str | None) -> None:
        super().learn(None if value is None else self._read(value), digest)

    def settle(
        self, span: OpenSpan, state: CallState, value: Any, failure: Failure | None
    ) -> int | None:
        read = None if value is None else self._labelled(state, self._read(value))
        return super().settle(span, state, read, failure)

    def tape_value(self, value: Any) -> Any:
        said = super().tape_value(self._read(value))
        shown, _ = plain(value)
        return said if isinstance(value, str | Response) else {**said, "native": shown}


def native_model(name: str, provider: str, *, simulated: bool = False) -> Model:
    """Return the tier of a model that is called elsewhere: a name, a provider, a price."""
    return Model(name=name, provider=provider, complete=_elsewhere, simulated=simulated)


def _elsewhere(request: Request, timeout_s: float) -> Response:
    raise NotImplementedError("this model is called by the code around it")


def request_digest(run: Run, name: str, shown: Mapping[str, Any]) -> str:
    """Keep a model's request, each message once when it has messages, and return its digest."""
    messages = shown.get("messages")
    rest = {"model": name, **{k: v for k, v in shown.items() if k != "messages"}}
    if isinstance(messages, list):
        return run.recorder.request(messages, rest)
    return run.recorder.content({**rest, "messages": messages}) or NO_DIGEST

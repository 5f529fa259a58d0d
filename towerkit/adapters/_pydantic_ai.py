"""The wrappers of `towerkit.adapters.pydantic_ai`, which imports this when one is asked for.

Rule: only translation. What is guarded, retried and charged is decided where it always is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
from pydantic_ai.exceptions import (
    ApprovalRequired,
    CallDeferred,
    ModelRetry,
    SkipToolExecution,
    ToolRetryError,
    UnexpectedModelBehavior,
)
from pydantic_ai.messages import ModelMessage, ModelResponse
from pydantic_ai.models import KnownModelName, Model, ModelRequestParameters, StreamedResponse
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import RunContext
from pydantic_ai.toolsets import AbstractToolset, ToolsetTool, WrapperToolset

from towerkit.adapters._pydantic_ai_stream import GuardedStream, PiecesCall
from towerkit.adapters._pydantic_ai_tape import recorded_response
from towerkit.core.types import Model as Tier
from towerkit.core.types import Request, Response, ToolCall, Usage
from towerkit.reliability.classify import Failure
from towerkit.reliability.policy import CallState
from towerkit.runtime.executor import Attempt
from towerkit.runtime.native import count_at, plain
from towerkit.runtime.native_calls import (
    FunctionCall,
    NativeModelCall,
    native_model,
    open_run,
    request_digest,
    tool_names,
    unwrapped,
)
from towerkit.runtime.steps import adrive, adrive_stream

if TYPE_CHECKING:
    from towerkit.runtime.run import Run
    from towerkit.runtime.tower import Tower

_SIMULATED = frozenset({"test", "function"})  # pydantic-ai's models that are not language models
_STEERING = (ModelRetry, ToolRetryError, SkipToolExecution)
_WAITING = (ApprovalRequired, CallDeferred)
_GRACE_S = 1.0  # pydantic-ai's own time-out of a tool comes first: what it makes of it is its own


class TowerModel(WrapperModel):
    """A pydantic-ai model whose requests are model calls of the tower's open run.

    Breaker, retries by class, deadline, budget and evidence are the tower's; the SDK's own retries
    are turned off with each request. Until its first event a stream is retried like any request,
    after it nothing is. Outside of any run a request is a run of its own.
    """

    def __init__(self, tower: Tower, wrapped: Model | KnownModelName | str) -> None:
        """Wrap a model, or the model of a name such as `openai:gpt-5`."""
        super().__init__(wrapped)
        self.tower = tower

    async def request(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
    ) -> ModelResponse:  # fmt: skip
        """Make one guarded request."""
        settings = _without_retries(model_settings)
        asked = _Asked(self, messages, settings, model_request_parameters)
        with open_run(self.tower, asked.tier.name, asked.shown) as (run, done):
            call = _RequestCall(
                run,
                lambda: self.wrapped.request(messages, settings, model_request_parameters),
                asked.tier, asked.request, asked.digest(run), read=read_response,
            )  # fmt: skip
            answer: ModelResponse = await adrive(call.steps(), run.executor, run.env)
            done(answer)
            return answer

    @asynccontextmanager
    async def request_stream(
        self, messages: list[ModelMessage], model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncGenerator[StreamedResponse]:  # fmt: skip
        """Open one guarded stream; it is open once its first event is here."""
        settings = _without_retries(model_settings)
        asked = _Asked(self, messages, settings, model_request_parameters)

        def opened() -> AbstractAsyncContextManager[StreamedResponse]:
            return self.wrapped.request_stream(
                messages, settings, model_request_parameters, run_context
            )

        with open_run(self.tower, asked.tier.name, asked.shown) as (run, done):
            call = PiecesCall(
                run, opened, asked.tier, asked.request, asked.digest(run), read=read_response,
                judge=_judge_request, parameters=model_request_parameters,
            )  # fmt: skip
            pieces = adrive_stream(call.steps(), run.executor, run.env)
            try:
                first = await anext(pieces)
                yield GuardedStream(call, first, pieces)
            except BaseException as error:
                await pieces.aclose()
                if not await call.leave(error):
                    raise
            else:
                await pieces.aclose()
                await call.leave(None)
                done(None if call.opened is None else call.opened.get())


class _Asked:
    """What a request asks, as evidence has it."""

    def __init__(
        self, model: WrapperModel, messages: list[ModelMessage], settings: ModelSettings,
        parameters: ModelRequestParameters,
    ) -> None:  # fmt: skip
        name, provider = model.wrapped.model_name, model.wrapped.system
        self.tier: Tier = native_model(name, provider, simulated=provider in _SIMULATED)
        self.shown, _ = plain(
            {"messages": messages, "settings": settings, "parameters": parameters}
        )
        for message in self.shown["messages"]:
            _forget_when(message)
        limit = count_at({**(model.settings or {}), **settings}, "max_tokens")
        self.request = Request(
            messages=tuple(self.shown["messages"]),
            tools=({"parameters": self.shown["parameters"]},),
            max_tokens=limit or Request.__struct_defaults__[1],
        )

    def digest(self, run: Run) -> str:
        """Keep the request in a run and return its digest."""
        return request_digest(run, self.tier.name, self.shown)


# When and in which run pydantic-ai made a message, and what it counted: no model is told, and a
# replay has others.
_OF_THE_RUN = ("timestamp", "run_id", "conversation_id", "usage")


def _forget_when(message: Any) -> None:
    if isinstance(message, dict):  # else it has no plain form
        for part in (message, *message.get("parts", ())):
            for name in _OF_THE_RUN:
                part.pop(name, None)


class _RequestCall(NativeModelCall):
    """One request that is answered in whole."""

    _taped: tuple[ModelResponse | None, Any] = None, None

    def what(self, state: CallState, path: str, seq: int, timeout_s: float) -> Attempt:
        """Return the attempt; a tape's answer becomes a `ModelResponse` again."""
        what = super().what(state, path, seq, timeout_s)
        return msgspec.structs.replace(what, served=self._served)

    def _served(self, value: Any, _sizes: list[int], _error: BaseException | None) -> ModelResponse:
        answer = recorded_response(value)
        self._taped = answer, value
        return answer

    def tape_value(self, value: Any) -> Any:
        """Return what the tape keeps of an answer: of one from a tape, what that has."""
        answer, taped = self._taped
        return taped if answer is value else super().tape_value(value)

    def judge(self, error: BaseException, now_unix_s: float) -> Failure:
        """Return which row of the taxonomy the error is."""
        return _judge_request(error, super().judge(error, now_unix_s))


def _judge_request(error: BaseException, failure: Failure) -> Failure:
    """Tell an answer that cannot be read from one that an agent finds wrong: one class for both."""
    if type(error) is UnexpectedModelBehavior:
        return msgspec.structs.replace(failure, error_class="malformed_response")
    return failure


def _without_retries(settings: ModelSettings | None) -> ModelSettings:
    return {**(settings or {}), "max_retries": 0}


def read_response(response: ModelResponse | Response) -> Response:
    """Return what a `ModelResponse` says, in towerkit's words; usage of zero tokens is unknown."""
    if isinstance(response, Response):  # from a tape
        return response
    counted: dict[str, Any] = {
        f"{name}_tokens": count_at(response.usage, f"{name}_tokens")
        for name in ("input", "output", "cache_read", "cache_write")
    }
    calls = tuple(
        ToolCall(part.tool_call_id, part.tool_name, plain(part.args_as_dict())[0])
        for part in response.tool_calls
    )
    return Response(
        content=response.text or "",
        tool_calls=calls,
        finish_reason=response.finish_reason or "stop",
        usage=Usage(**counted) if any(counted.values()) else None,
        model=response.model_name,
        response_id=response.provider_response_id,
    )


@dataclass(init=False)
class TowerToolset(WrapperToolset[Any]):
    """A toolset whose calls are tool calls of the tower's open run.

    `idempotent` names the tools that may be run twice. `timeout_s` bounds a call; without it the
    policy's time-out of an attempt does. `ModelRetry` and its like steer pydantic-ai's run: they
    pass as they are and are never retried here. A tool that waits for approval or an outside
    answer is recorded as `permission_needed`.
    """

    tower: Tower
    idempotent: Collection[str]
    timeout_s: float | None

    def __init__(
        self, tower: Tower, wrapped: AbstractToolset[Any], *, idempotent: Collection[str] = (),
        timeout_s: float | None = None,
    ) -> None:  # fmt: skip
        """Raise `UsageError` when `idempotent` is no collection of names."""
        super().__init__(wrapped)
        self.tower, self.idempotent = tower, tool_names(idempotent)
        self.timeout_s = timeout_s

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: ToolsetTool[Any]
    ) -> Any:
        """Make one guarded call."""
        own = tool.tool_def.timeout
        cut_s = own + _GRACE_S if own is not None else self.timeout_s
        with open_run(self.tower, name, tool_args) as (run, done):
            call = FunctionCall(
                run, lambda: self.wrapped.call_tool(name, tool_args, ctx, tool), name=name,
                shown=tool_args, call_id=ctx.tool_call_id, cut_s=cut_s, passes=_steers,
            )  # fmt: skip
            steps = call.steps(idempotent=name in self.idempotent)
            answer = await adrive(steps, run.executor, run.env)
            done(answer)
        return unwrapped(answer)


def _steers(error: Exception) -> bool:
    return isinstance(error, _STEERING)

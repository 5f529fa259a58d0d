"""What is particular to a model call and to a tool call; the guard's loop is the same for both.

Rule: a call knows how to describe itself on a span, what it may cost, how to run once, and what an
attempt was charged. It decides nothing.
"""

# ruff: noqa: ARG002, D102  both kinds of call have one shape, documented on `Call`

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from towerkit.core.canonical import canonical_json
from towerkit.core.types import Model, Request, Response, Usage
from towerkit.cost.prices import Price, price
from towerkit.reliability.classify import Failure, classify
from towerkit.reliability.policy import CallState
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.runtime.executor import Attempt
from towerkit.telemetry.recorder import OpenSpan

if TYPE_CHECKING:
    from towerkit.runtime.run import Run


class Call(Protocol):
    """One logical call, as the guard's loop sees it."""

    fallback_reason: str | None

    def simulated(self, state: CallState) -> bool:
        """Return whether a simulated model answers on this tier."""

    def describe(self, span: OpenSpan, state: CallState) -> None:
        """Write the call's columns on a span."""

    def what(self, state: CallState, path: str, seq: int, timeout_s: float) -> Attempt:
        """Return the attempt to carry out."""

    def run(self, state: CallState, timeout_s: float) -> Any:
        """Carry the call out once."""

    async def arun(self, state: CallState, timeout_s: float) -> Any:
        """Carry the call out once, on an event loop."""

    def breaker_key(self, state: CallState) -> str:
        """Return which breaker has a say."""

    def worst_case(self, state: CallState) -> int | None:
        """Return the most an attempt may cost in nano-US-dollars; None when no price is known."""

    def settle(
        self, span: OpenSpan, state: CallState, value: Any, failure: Failure | None
    ) -> int | None:
        """Record and return what an attempt was charged; None when that is unknown."""

    def tape_value(self, value: Any) -> Any:
        """Return what the tape keeps of an answer."""

    def judge(self, error: BaseException, now_unix_s: float) -> Failure:
        """Return which row of the taxonomy an attempt's error is."""


class ModelCall:
    """What is particular to a model call. `models` are its tiers, the tower's unless given."""

    def __init__(
        self, run: Run, request: Request, digest: str, *, models: Sequence[Model] | None = None
    ) -> None:
        self._run, self._request, self._digest = run, request, digest
        self._models = run.tower.models if models is None else models
        self.fallback_reason: str | None = None
        # About four characters a token; a third more so that the reservation is an upper bound.
        self._input_estimate = len(canonical_json([request.messages, request.tools])) // 3 + 16

    def _model(self, state: CallState) -> Model:
        return self._models[state.tier]

    def simulated(self, state: CallState) -> bool:
        return self._model(state).simulated

    def describe(self, span: OpenSpan, state: CallState) -> None:
        model = self._model(state)
        span.fields.update(
            gen_ai_request_model=self._models[0].name,
            gen_ai_provider_name=model.provider,
            fallback_tier=state.tier,
            fallback_reason=self.fallback_reason,
        )
        if span.kind == "attempt":
            span.name = f"chat {model.name}"

    def what(self, state: CallState, path: str, seq: int, timeout_s: float) -> Attempt:
        return Attempt(
            kind="model",
            name=self._model(state).name,
            path=path,
            request_digest=self._digest,
            span_seq=seq,
            timeout_s=timeout_s,
        )

    def run(self, state: CallState, timeout_s: float) -> Response:
        return self._labelled(state, self._model(state).complete(self._request, timeout_s))

    async def arun(self, state: CallState, timeout_s: float) -> Response:
        model = self._model(state)
        if model.acomplete is not None:
            return self._labelled(state, await model.acomplete(self._request, timeout_s))
        return await self._run.env.in_thread(lambda: self.run(state, timeout_s))

    def breaker_key(self, state: CallState) -> str:
        model = self._model(state)
        return f"model:{model.provider}/{model.name}"

    def _labelled(self, state: CallState, response: Response) -> Response:
        model = self._model(state)
        return msgspec.structs.replace(
            response,
            model=response.model or model.name,
            provider=model.provider,
            tier=state.tier,
            fallback_reason=self.fallback_reason,
        )

    def _price(self, state: CallState, usage: Usage) -> Price | None:
        model = self._model(state)
        at = self._run.env.wall_ns()
        return price(usage, model=model.name, provider=model.provider, at_unix_ns=at)

    def worst_case(self, state: CallState) -> int | None:
        usage = Usage(input_tokens=self._input_estimate, output_tokens=self._request.max_tokens)
        cost = self._price(state, usage)
        return None if cost is None else cost.nanousd

    def settle(
        self, span: OpenSpan, state: CallState, value: Response | None, failure: Failure | None
    ) -> int | None:
        """Record what an attempt is charged and return it; the taxonomy says for what."""
        charge = "usage" if failure is None else TAXONOMY[failure.error_class].charge
        if charge == "none":
            return 0
        usage = value.usage if value is not None else None
        estimated = usage is None or usage.input_tokens is None or usage.output_tokens is None
        if usage is None or estimated:
            text = value.content if value is not None else self.text_so_far()
            usage = Usage(input_tokens=self._input_estimate * 3 // 4, output_tokens=len(text) // 4)
        cost = self._price(state, usage)
        model = self._model(state)
        if value is not None:
            span.fields.update(_response_fields(value))
        self._run.recorder.charge(
            span,
            usage,
            cost,
            provider=model.provider,
            model=model.name,
            estimated=estimated,
            wasted=failure is not None,
            simulated=model.simulated,
        )
        return None if cost is None else cost.nanousd

    def text_so_far(self) -> str:
        """Return what of an answer had come when an attempt failed."""
        return ""

    def tape_value(self, value: Response | None) -> Any:
        return msgspec.to_builtins(value)

    def judge(self, error: BaseException, now_unix_s: float) -> Failure:
        return classify(error, operation="model", now_unix_s=now_unix_s)


class StreamCall(ModelCall):
    """A model call whose answer comes in pieces. `pieces` are those that came so far."""

    def __init__(
        self, run: Run, request: Request, digest: str, *, models: Sequence[Model] | None = None
    ) -> None:
        super().__init__(run, request, digest, models=models)
        self.pieces: list[str] = []

    def what(self, state: CallState, path: str, seq: int, timeout_s: float) -> Attempt:
        self.pieces = []
        attempt = super().what(state, path, seq, timeout_s)
        return msgspec.structs.replace(attempt, stream=True)

    def run(self, state: CallState, timeout_s: float) -> Any:
        model = self._model(state)
        if model.stream is None:
            return iter([super().run(state, timeout_s)])
        return model.stream(self._request, timeout_s)

    async def arun(self, state: CallState, timeout_s: float) -> Any:
        model = self._model(state)
        if model.astream is not None:
            return model.astream(self._request, timeout_s)
        if model.stream is not None:
            return await self._run.env.in_thread(lambda: self.run(state, timeout_s))
        return iter([await super().arun(state, timeout_s)])

    def text_so_far(self) -> str:
        return "".join(self.pieces)

    def labelled(self, state: CallState, response: Response) -> Response:
        return self._labelled(state, response)

    def tape_value(self, value: Response | None) -> Any:
        answer = None if value is None else msgspec.to_builtins(value)
        return {"pieces": self.pieces, "response": answer}


def _response_fields(response: Response) -> dict[str, Any]:
    """Return span columns of what the provider reported; an estimate is never shown as usage."""
    usage = response.usage or Usage()
    return {
        "gen_ai_usage_input_tokens": usage.input_tokens,
        "gen_ai_usage_output_tokens": usage.output_tokens,
        "gen_ai_usage_cache_read_tokens": usage.cache_read_tokens,
        "gen_ai_usage_cache_write_tokens": usage.cache_write_tokens,
        "gen_ai_usage_reasoning_tokens": usage.reasoning_tokens,
        "gen_ai_response_model": response.model,
        "gen_ai_response_id": response.response_id,
        "gen_ai_response_finish_reason": response.finish_reason,
    }


class ToolCall:
    """What is particular to a tool call."""

    fallback_reason: str | None = None

    def __init__(
        self,
        run: Run,
        fn: Callable[..., Any],
        arguments: dict[str, Any],
        name: str,
        digest: str,
        timeout_s: float | None,
        call_id: str | None,
    ) -> None:
        self._run, self._fn, self._arguments, self._name = run, fn, arguments, name
        self._digest, self._timeout_s, self._call_id = digest, timeout_s, call_id

    def simulated(self, state: CallState) -> bool:
        return False

    def describe(self, span: OpenSpan, state: CallState) -> None:
        span.fields.update(
            gen_ai_tool_name=self._name,
            gen_ai_tool_call_id=self._call_id,
            idempotent=state.idempotent,
        )

    def what(self, state: CallState, path: str, seq: int, timeout_s: float) -> Attempt:
        limit = timeout_s if self._timeout_s is None else min(timeout_s, self._timeout_s)
        return Attempt(
            kind="tool",
            name=self._name,
            path=path,
            request_digest=self._digest,
            span_seq=seq,
            timeout_s=limit,
            inline=self._timeout_s is None,
        )

    def run(self, state: CallState, timeout_s: float) -> Any:
        return self._fn(**self._arguments)

    async def arun(self, state: CallState, timeout_s: float) -> Any:
        if inspect.iscoroutinefunction(self._fn):
            return await self._fn(**self._arguments)
        return await self._run.env.in_thread(lambda: self._fn(**self._arguments))

    def breaker_key(self, state: CallState) -> str:
        return f"tool:{self._name}"

    def worst_case(self, state: CallState) -> int:
        return 0

    def settle(self, span: OpenSpan, state: CallState, value: Any, failure: Failure | None) -> int:
        return 0

    def tape_value(self, value: Any) -> Any:
        return {"result": value}

    def judge(self, error: BaseException, now_unix_s: float) -> Failure:
        return classify(error, operation="tool", now_unix_s=now_unix_s)

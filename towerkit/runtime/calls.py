"""What is particular to a model call and to a tool call; the guard's loop is the same for both.

Rule: what `call.Call` asks is answered here, and nothing is decided.
"""

# ruff: noqa: ARG002, D102  both kinds of call have one shape, documented on `call.Call`

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from towerkit.core.canonical import canonical_json
from towerkit.core.types import Message, Model, Request, Response, Usage
from towerkit.cost.budget import Chain, Shortage
from towerkit.cost.prices import Price, price
from towerkit.cost.tokens import Asked, TokenBook
from towerkit.privacy.redact import Redactor
from towerkit.reliability.classify import Failure, classify, classify_finish
from towerkit.reliability.policy import CallState
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.runtime.call import Compact
from towerkit.runtime.current import OPEN, Open
from towerkit.runtime.executor import Attempt
from towerkit.telemetry.recorder import OpenSpan

# What most answers end with; anything else is looked up.
_PLAIN_ENDS = frozenset({"stop", "tool_calls", "end_turn", "tool_use", "STOP", "completed"})

if TYPE_CHECKING:
    from contextvars import Token

    from towerkit.runtime.budgets import Budgets
    from towerkit.runtime.run import Run


class ModelCall:
    """What is particular to a model call.

    `models` are its tiers, the tower's unless given; `shown` are the digests of its messages.
    """

    used: Usage | None = None
    ours = False
    _clamped = False

    def __init__(
        self, run: Run, request: Request, digest: str, *, models: Sequence[Model] | None = None,
        shown: Sequence[str | None] = (),
    ) -> None:  # fmt: skip
        self._run, self._digest = run, digest
        self._models = run.tower.models if models is None else models
        self.fallback_reason: str | None = None
        self._take(request, shown)

    def _take(self, request: Request, shown: Sequence[str | None]) -> None:
        self._request, self._shown = request, shown
        known = tuple(one for one in shown if one is not None)
        tools = canonical_json(request.tools) if request.tools else b""
        known = known if len(known) == len(shown) else ()
        self._counted = Asked(request.messages, known, tools, tools=bool(tools))

    def _model(self, state: CallState) -> Model:
        return self._models[state.tier]

    def _name_of(self, tier: int) -> str:
        return self._models[tier].name

    def simulated(self, state: CallState) -> bool:
        return self._model(state).simulated

    def columns(self, state: CallState) -> dict[str, Any]:
        return {
            "gen_ai_request_model": self._models[0].name,
            "gen_ai_provider_name": self._model(state).provider,
            "fallback_tier": state.tier,
            "fallback_reason": self.fallback_reason,
        }

    def mark(self, span: OpenSpan) -> None:
        if self._clamped:
            span.attributes["gen_ai.request.max_tokens"] = self._request.max_tokens

    def attempt_name(self, state: CallState) -> str | None:
        return f"chat {self._model(state).name}" if state.tier else None

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
        return self._costing(state, self._request.max_tokens)

    def _costing(self, state: CallState, max_tokens: int) -> int | None:
        most = self._run.tokens.bound(self._name_of(state.tier), self._counted)
        cost = self._price(state, Usage(input_tokens=most, output_tokens=max_tokens))
        return None if cost is None else cost.nanousd

    def most_tokens(self, state: CallState) -> tuple[int, int] | None:
        most = self._run.tokens.bound(self._name_of(state.tier), self._counted)
        return most, self._request.max_tokens

    def chain(self, budgets: Budgets) -> Chain:
        return budgets.chain()

    def fits(self, state: CallState, short: Shortage, least: int) -> int | None:
        most = self._request.max_tokens
        if short.limit == "output_tokens":
            fits = min(most - 1, int(short.left))
        elif short.limit == "cost_usd":
            # A price is no straight line: tiers, rounding. It never falls with the tokens, though.
            fits = (
                bisect_right(range(most), short.left, key=lambda n: self._costing(state, n) or 0)
                - 1
            )
        else:
            return None
        return fits if fits >= least else None

    def fewer(self, compact: Compact) -> list[Message] | None:
        kept = list(compact(self._request.messages))
        return None if kept == list(self._request.messages) else kept

    def shrink(
        self, *, max_tokens: int | None = None, messages: Sequence[Message] | None = None
    ) -> None:
        request = self._request
        if max_tokens is not None:
            self._request = msgspec.structs.replace(request, max_tokens=max_tokens)
            self._clamped = True
        if messages is not None:
            self._digest, shown = keep_request(self._run, messages, request)
            self._take(msgspec.structs.replace(request, messages=tuple(messages)), shown)

    def judge(self, error: BaseException, now_unix_s: float) -> Failure:
        return classify(error, operation="model", now_unix_s=now_unix_s)

    def flaw(self, value: Response) -> Failure | None:
        reason = value.finish_reason
        return None if reason in _PLAIN_ENDS else classify_finish(reason)

    def learn(self, value: Response | None, digest: str | None) -> None:
        if value is None or self.flaw(value) is not None:
            return
        if value.usage is not None:
            said = "" if value.tool_calls else value.content
            self._run.tokens.observed(self._name_of(value.tier), self._counted, value.usage, said)
        asked = [(call.name, call.arguments) for call in value.tool_calls]
        self._run.progress.said(self._shown, hash(canonical_json([value.content, asked])))
        for model in self._models:
            if model.observe is not None:
                model.observe(self._request, value)

    def renewal(self, state: CallState) -> Callable[[], object]:
        renew = self._model(state).renew
        assert renew is not None  # noqa: S101  the state names the tiers that have one
        return renew

    def settle(
        self, span: OpenSpan, state: CallState, value: Response | None, failure: Failure | None
    ) -> int | None:
        """Record what an attempt is charged and return it; the taxonomy says for what."""
        row = None if failure is None else TAXONOMY[failure.error_class]
        said = value.content if value is not None else self.text_so_far()
        self.used = None
        if value is None and row is not None and row.charge == "none" and not said:
            return 0
        usage, said = (value.usage, said) if value is not None else self.so_far(said)
        estimated = (
            value is None or usage is None or None in {usage.input_tokens, usage.output_tokens}
        )
        model = self._model(state)
        if usage is None or estimated:
            usage = guessed(
                self._run.tokens, model.name, self._counted, usage, said, cut=value is None
            )
        self.used, cost = usage, self._price(state, usage)
        if value is not None:
            span.fields.update(_response_fields(value))
        self._run.recorder.charge(
            span,
            usage,
            cost,
            provider=model.provider,
            model=model.name,
            estimated=estimated,
            wasted=row is not None and (value is None or row.replaceable),
            simulated=model.simulated,
        )
        return None if cost is None else cost.nanousd

    def text_so_far(self) -> str:
        """Return what of an answer had come when an attempt failed."""
        return ""

    def so_far(self, said: str) -> tuple[Usage | None, str]:
        """Return what a provider had counted of an answer, and what of it came after that."""
        return None, said

    def tape_value(self, value: Response | None) -> Any:
        return msgspec.to_builtins(value)


class StreamCall(ModelCall):
    """A model call whose answer comes in pieces. `pieces` are those that came so far."""

    def __init__(
        self, run: Run, request: Request, digest: str, *, models: Sequence[Model] | None = None,
        shown: Sequence[str | None] = (),
    ) -> None:  # fmt: skip
        super().__init__(run, request, digest, models=models, shown=shown)
        self.pieces: list[str] = []
        self._heard = self._enough = 0
        self._counts: Usage | None = None
        self._uncounted = 0  # the first piece that came after them

    def what(self, state: CallState, path: str, seq: int, timeout_s: float) -> Attempt:
        self.pieces, self._counts, self._uncounted = [], None, 0
        self._heard, self._enough = 0, self._request.max_tokens
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

    def counted(self, usage: Usage) -> None:
        """Hear what the provider has counted of all that came so far."""
        self._counts = usage
        if usage.output_tokens is not None:
            self._uncounted = len(self.pieces)

    def so_far(self, said: str) -> tuple[Usage | None, str]:
        return self._counts, "".join(self.pieces[self._uncounted :])

    def heard(self, piece: Any) -> bool:
        """Take a piece in; return whether it is time to look if that is more than was asked for.

        A token is hardly ever less than a letter; then looked at whenever a quarter has come again.
        """
        self.pieces.append(piece)
        self._heard += self._size(piece)
        if self._heard <= self._enough:
            return False
        self._enough = self._heard + self._heard // 4
        return True

    def _size(self, piece: Any) -> int:
        return str.__len__(piece) if issubclass(type(piece), str) else 0

    def most_output(self, state: CallState) -> int:
        """Return how many tokens of an answer were asked for."""
        most = self.most_tokens(state)
        return 0 if most is None else most[1]

    def tokens_so_far(self, state: CallState) -> int:
        """Return the most likely number of tokens that have come."""
        return self._run.tokens.text(self._name_of(state.tier), self.text_so_far())

    def output_cost(self, state: CallState, tokens: int) -> int | None:
        """Return what so many tokens of an answer cost, in nano-US-dollars; None is unknown."""
        cost = self._price(state, Usage(input_tokens=0, output_tokens=tokens))
        return None if cost is None else cost.nanousd

    def labelled(self, state: CallState, response: Response) -> Response:
        return self._labelled(state, response)

    def tape_value(self, value: Response | None) -> Any:
        answer = None if value is None else msgspec.to_builtins(value)
        pieces = kept_pieces(self.pieces, self._run.recorder.redactor)
        return {"pieces": pieces, "response": answer}


class OwnModelCall(ModelCall):
    """A call of `Run.model`: its request is ours to make smaller."""

    ours = True


class OwnStreamCall(StreamCall):
    """A call of `Run.stream`."""

    ours = True


def keep_request(
    run: Run, messages: Sequence[Message], request: Request
) -> tuple[str, Sequence[str | None]]:
    """Keep `request` with these messages; return its digest and those of the messages."""
    rest = {
        "tools": request.tools, "max_tokens": request.max_tokens,
        "temperature": request.temperature,
    }  # fmt: skip
    shown = [run.recorder.content(message) for message in messages]
    return run.recorder.request_of(shown, rest), () if None in shown else shown


def guessed(
    tokens: TokenBook, model: str, asked: Asked, usage: Usage | None, said: str, *,
    cut: bool = False,
) -> Usage:  # fmt: skip
    """Return the usage of an attempt whose own was not, or not wholly, reported.

    What was reported stands. Where the attempt was `cut`, `said` came after it; else it is all of
    the answer, which is no shorter than that: some providers count its first token when they begin.
    """
    known = usage or Usage()
    read, written, came = known.input_tokens, known.output_tokens or 0, tokens.text(model, said)
    return msgspec.structs.replace(
        known, input_tokens=tokens.estimate(model, asked) if read is None else read,
        output_tokens=written + came if cut else max(written, came),
    )  # fmt: skip


def kept_pieces(pieces: Sequence[str], redactor: Redactor) -> list[str]:
    """Return pieces of a text as the tape may keep them.

    What is to be redacted may be cut in two by them: then the whole text is one piece.
    """
    whole = redactor.text("".join(pieces))
    apart = [redactor.text(str(piece)) for piece in pieces]
    return apart if "".join(apart) == whole else [whole]


def cut(pieces: list[str], sizes: list[int]) -> list[str]:
    """Return a text in as many pieces as it came in.

    Where redaction reached over a boundary the tape has one piece: it is cut at the recorded sizes,
    and the last piece takes the rest.
    """
    if len(pieces) == len(sizes) or not pieces or not sizes:
        return pieces
    text, out, at = "".join(pieces), [], 0
    for size in sizes[:-1]:
        out.append(text[at : at + size])
        at += size
    return [*out, text[at:]]


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


def _is_coroutine_function(fn: Any) -> bool:
    try:
        return inspect.iscoroutinefunction(fn)
    except Exception:  # noqa: BLE001  a callable object may raise when it is looked at
        return False


class ToolCall:
    """What is particular to a tool call."""

    fallback_reason: str | None = None
    used: Usage | None = None
    ours = False
    _span: OpenSpan  # the attempt under way, once one is

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

    def columns(self, state: CallState) -> dict[str, Any]:
        return {
            "gen_ai_tool_name": self._name,
            "gen_ai_tool_call_id": self._call_id,
            "idempotent": state.idempotent,
        }

    def mark(self, span: OpenSpan) -> None:
        self._span = span

    def _inside(self) -> Token[Open | None]:
        """Open the attempt around what the tool's function does: its calls are part of it."""
        here = OPEN.get()
        return OPEN.set(Open(self._run, self._span, self._run.here()[1], here))

    def attempt_name(self, state: CallState) -> str | None:
        return None

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
        token = self._inside()
        try:
            if self._run.budgets is None:
                return self._fn(**self._arguments)
            with self._run.budgets.inside(self._name):
                return self._fn(**self._arguments)
        finally:
            OPEN.reset(token)

    async def arun(self, state: CallState, timeout_s: float) -> Any:
        if not _is_coroutine_function(self._fn):
            return await self._run.env.in_thread(lambda: self.run(state, timeout_s))
        token = self._inside()
        try:
            if self._run.budgets is None:
                return await self._fn(**self._arguments)
            with self._run.budgets.inside(self._name):
                return await self._fn(**self._arguments)
        finally:
            OPEN.reset(token)

    def breaker_key(self, state: CallState) -> str:
        return f"tool:{self._name}"

    def worst_case(self, state: CallState) -> int:
        return 0

    def most_tokens(self, state: CallState) -> None:
        return None

    def chain(self, budgets: Budgets) -> Chain:
        return budgets.chain_of(self._name)

    def fits(self, state: CallState, short: Shortage, least: int) -> None:
        return None

    def fewer(self, compact: Compact) -> None:
        return None

    def shrink(
        self, *, max_tokens: int | None = None, messages: Sequence[Message] | None = None
    ) -> None:
        raise AssertionError("the arguments of a tool are the agent's")

    def judge(self, error: BaseException, now_unix_s: float) -> Failure:
        return classify(error, operation="tool", now_unix_s=now_unix_s)

    def flaw(self, value: Any) -> Failure | None:
        return None

    def learn(self, value: Any, digest: str | None) -> None:
        self._run.progress.after(self._digest, digest)

    def renewal(self, state: CallState) -> Callable[[], object]:
        raise AssertionError("a tool has no credential of ours")

    def settle(self, span: OpenSpan, state: CallState, value: Any, failure: Failure | None) -> int:
        return 0

    def tape_value(self, value: Any) -> Any:
        return {"result": value}

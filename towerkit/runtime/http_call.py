"""What is particular to a call that an SDK makes over HTTP; the guard's loop is the same.

Rule: one request of the agent's SDK is one logical call. Each attempt sends the same bytes; the
answer is handed on as it came. Secrets of the request never reach a span or the tape.
"""

# ruff: noqa: ARG002, D102  one shape for every kind of call, documented on `call.Call`

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from towerkit.core.canonical import canonical_json, fingerprint
from towerkit.core.types import Response, Usage
from towerkit.cost.budget import Chain
from towerkit.cost.ledger import NANO
from towerkit.cost.prices import Price, price
from towerkit.cost.tokens import Asked as Counted
from towerkit.privacy.redact import Redactor
from towerkit.privacy.secrets import NOT_SECRET, SECRET_NAME, without
from towerkit.reliability.classify import Failure, classify
from towerkit.reliability.policy import CallState
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.runtime.calls import StreamCall, guessed
from towerkit.runtime.executor import Attempt
from towerkit.runtime.http_answer import Chunk, Exchange
from towerkit.runtime.http_tape import recorded_answer
from towerkit.runtime.http_wire import Asked, asked
from towerkit.runtime.propagation import outgoing
from towerkit.telemetry.recorder import OpenSpan

if TYPE_CHECKING:
    from towerkit.runtime.budgets import Budgets
    from towerkit.runtime.run import Run

REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS"})
_OPAQUE = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_.~:-]{20,}")
_INLINED = re.compile(r"(data:[^,]{0,100},)?[A-Za-z0-9+/_=-]+")
_INLINED_FROM = 32_000
TIMEOUTS = ("connect", "read", "write", "pool")


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """A request of the agent's SDK. `body` None: it streams, cannot be sent twice, is not read."""

    request: Any
    body: bytes | None
    asked: Asked
    secrets: tuple[str, ...]

    @property
    def repeatable(self) -> bool:
        """Whether running it twice is harmless, and possible."""
        headers = self.request.headers
        safe = self.request.method in REPEATABLE or "idempotency-key" in headers
        return self.body is not None and (self.asked.kind == "model" or safe)


def sent(request: Any, body: bytes | None, *, provider: str | None) -> Sent:
    """Return what is known of a request before it is sent."""
    url = request.url
    host = url.host if url.port is None else f"{url.host}:{url.port}"
    what = asked(method=request.method, host=host, path=url.path, body=body, provider=provider)
    return Sent(request=request, body=body, asked=what, secrets=tuple(_secrets(request, what)))


def _secrets(request: Any, what: Asked) -> Iterator[str]:
    """Yield what must not be kept; some services take their key in the path."""
    if what.kind == "tool":
        yield from (part for part in request.url.path.split("/") if _OPAQUE.fullmatch(part))
    for name, value in request.headers.items():
        if SECRET_NAME.search(name) and name.lower() not in NOT_SECRET:
            yield from (p for p in (value, *re.split(r"[ ;=,]+", value)) if len(p) >= 8)
    for name, value in request.url.params.multi_items():
        if SECRET_NAME.search(name) and len(value) >= 8:
            yield value
    if len(request.url.password) >= 8:
        yield request.url.password


def _counted(body: Any, name: str | None, shown: Sequence[str | None]) -> Counted:
    """Return a request's body as its tokens are counted; `name` is the field of its messages."""
    rest = canonical_json({key: value for key, value in body.items() if key != name})
    digests = tuple(one for one in shown if one is not None)
    return Counted(body[name] if name else (), digests, rest, tools=bool(body.get("tools")))


class HttpCall(StreamCall):
    """A call over HTTP. `exchange` is the answer to the attempt that is under way, or was last."""

    def __init__(
        self, run: Run, what: Sent, send: Callable[[Any], Any], *, asynchronous: bool = False
    ) -> None:
        """`send` hands a request to the transport below, and returns its response."""
        self._run, self._sent, self._send = run, what, send
        self._asynchronous = asynchronous
        self._asked = what.asked
        self._models, self._shown = (), ()
        self.fallback_reason = None
        self.pieces: list[Any] = []
        self._heard = self._enough = 0
        self.exchange: Exchange | None = None
        self.read_timeout_s = 0.0
        self._span_id = ""
        self._taped: dict[str, Any] | None = None
        self._digest = self._record_request()

    @property
    def _redactor(self) -> Redactor:
        return self._run.recorder.redactor  # it learns what tool schemas mark

    # -- the request -----------------------------------------------------------------------------

    def clean(self, value: Any) -> Any:
        """Return a JSON-able `value` in which the request's secrets are replaced by tokens."""
        if isinstance(value, str):
            value = without(value, self._sent.secrets, self._redactor)
            if len(value) > _INLINED_FROM and _INLINED.fullmatch(value):
                mark = fingerprint(self._redactor.key, value.encode())
                return f"<{len(value)} characters inlined, digest {mark}>"
            return value
        if isinstance(value, dict):
            return {self.clean(k): self.clean(v) for k, v in value.items()}
        return [self.clean(v) for v in value] if isinstance(value, list) else value

    def _record_request(self) -> str:
        """Keep the request, its messages apart as those of `Run.model`; return its digest."""
        url, body = self._sent.request.url, self._asked.body
        query = {
            name: self._redactor.token("SECRET", value) if SECRET_NAME.search(name) else value
            for name, value in url.params.multi_items()
        }
        of = self._asked
        http = {"method": self._sent.request.method, "path": url.path, "query": query,
                "host": of.provider if of.kind == "model" else of.name}  # fmt: skip
        if body is None and self._sent.body:
            mark = fingerprint(self._redactor.key, self._sent.body)
            http |= {"bytes": len(self._sent.body), "digest": mark}
        rest = self.clean({"http": http, "body": body})
        fields = rest["body"]
        if isinstance(fields, dict):
            self._run.recorder.learn(fields.get("tools"))
        self._counted = Counted()
        if self._asked.kind == "model" and isinstance(fields, dict):
            lists = (
                k for k in ("messages", "contents", "input") if isinstance(fields.get(k), list)
            )
            name = next(lists, None)
            messages = fields.pop(name) if name else []
            recorder = self._run.recorder
            shown = [recorder.content(message) for message in messages]
            self._shown = () if None in shown else shown
            self._counted = _counted(self._asked.body, name, self._shown)
            return recorder.request_of(shown, {"http": rest["http"], **fields})
        return self._run.recorder.content(rest) or fingerprint(
            self._redactor.key, b"capture is off"
        )

    def state(self) -> CallState:
        """Return the state in which the call begins."""
        if self._asked.kind == "model":
            return CallState(operation="model", providers=(self._asked.provider,))
        return CallState(operation="tool", idempotent=self._sent.repeatable)

    def guard_digest(self) -> str:
        """Return the digest loop detection goes by.

        Requests of the agent's code are not told from each other there: a poll that is answered
        "not yet" four times is no agent that goes round in circles.
        """
        if self._asked.kind == "model":
            return self._digest
        return f"{self._run.env.bits(128):032x}"

    # -- the guard's questions -------------------------------------------------------------------

    def simulated(self, state: CallState) -> bool:
        return False

    def columns(self, state: CallState) -> dict[str, Any]:
        digest, name = {"request_digest": self._digest}, self._asked.name
        if self._asked.kind == "tool":
            return {**digest, "gen_ai_tool_name": name, "idempotent": state.idempotent}
        return {
            **digest, "gen_ai_request_model": name, "fallback_tier": 0,
            "gen_ai_provider_name": self._asked.provider,
        }  # fmt: skip

    def mark(self, span: OpenSpan) -> None:
        url = self._sent.request.url
        if span.kind == "attempt":
            self._span_id = span.span_id
        span.attributes |= {
            "http.request.method": self._sent.request.method, "server.address": url.host,
            "url.path": self.clean(url.path),
        }  # fmt: skip

    def judge(self, error: BaseException, now_unix_s: float) -> Failure:
        return classify(error, operation=self._asked.kind, now_unix_s=now_unix_s)

    def _name_of(self, tier: int) -> str:
        return self._asked.name

    def learn(self, value: Response | None, digest: str | None) -> None:
        if self._asked.kind == "model":
            super().learn(value, digest)

    def what(self, state: CallState, path: str, seq: int, timeout_s: float) -> Attempt:
        self.pieces = []
        self._heard, self._enough = 0, self._asked.max_tokens * self._asked.answers
        self.exchange = Exchange(self._asked, idempotent=self._sent.repeatable, clean=self.clean)
        if (
            self._asked.kind == "tool"
        ):  # as a tool of a run: its own time-outs hold, and the deadline
            timeout_s = (self._run.deadline_ns - self._run.env.mono_ns()) / NANO
        return Attempt(
            kind=self._asked.kind, name=self._asked.name, path=path, request_digest=self._digest,
            span_seq=seq, timeout_s=timeout_s, stream=True, inline=self._asked.kind == "tool",
            served=self._serve, on_the_wire=True,
        )  # fmt: skip

    def _serve(self, value: Any, sizes: list[int], error: BaseException | None) -> None:
        """Have the next attempt read a recorded answer instead of the network."""
        self._taped = value
        answer = recorded_answer(self._sent.request, value, sizes, error)

        async def asend(_: Any) -> Any:
            return answer()

        self._send = asend if self._asynchronous else lambda _: answer()

    def breaker_key(self, state: CallState) -> str:
        if self._asked.kind == "model":
            return f"model:{self._asked.provider}/{self._asked.name}"
        return f"tool:{self._asked.name}"

    def worst_case(self, state: CallState) -> int | None:
        if self._asked.kind == "tool":
            return 0
        read, written = self._most()
        cost = self._cost(Usage(input_tokens=read, output_tokens=written))
        return None if cost is None else cost.nanousd

    def _most(self) -> tuple[int, int]:
        read = self._run.tokens.bound(self._asked.name, self._counted)
        return read, self._asked.max_tokens * self._asked.answers

    def most_tokens(self, state: CallState) -> tuple[int, int] | None:
        return None if self._asked.kind == "tool" else self._most()

    def chain(self, budgets: Budgets) -> Chain:
        return budgets.chain_of(self._asked.name) if self._asked.kind == "tool" else budgets.chain()

    def _cost(self, usage: Usage) -> Price | None:
        return price(
            usage, model=self._asked.name, provider=self._asked.provider,
            at_unix_ns=self._run.env.wall_ns(),
        )  # fmt: skip

    def settle(
        self, span: OpenSpan, state: CallState, value: Any, failure: Failure | None
    ) -> int | None:
        exchange = self.exchange
        if exchange is not None and exchange.status is not None:
            span.attributes["http.response.status_code"] = exchange.status
        row = None if failure is None else TAXONOMY[failure.error_class]
        if self._asked.kind == "tool" or exchange is None:
            return 0
        answer = exchange.answer()
        if exchange.status is not None and exchange.status < 400:
            span.fields.update(_reported(answer))
        self.used = None
        if value is None and row is not None and row.charge == "none" and not answer.content:
            return 0
        usage = answer.usage
        # Of a stream that was cut, what was reported at its beginning is not the whole.
        cut = value is None and bool(answer.content)
        estimated = cut or usage is None or None in {usage.input_tokens, usage.output_tokens}
        if estimated and self._asked.format is not None:
            usage = guessed(
                self._run.tokens, self._asked.name, self._counted, usage, answer.content
            )
        self.used = usage
        cost = None if usage is None else self._cost(usage)
        self._run.recorder.charge(
            span, usage, cost, provider=self._asked.provider, model=self._asked.name,
            estimated=estimated, wasted=row is not None and (value is None or row.replaceable),
        )  # fmt: skip
        return None if cost is None else cost.nanousd

    def labelled(self, state: CallState, response: Response) -> Response:
        return response

    def _size(self, piece: Any) -> int:
        return len(piece)

    def text_so_far(self) -> str:
        return "" if self.exchange is None else self.exchange.answer().content

    def output_cost(self, state: CallState, tokens: int) -> int | None:
        cost = self._cost(Usage(input_tokens=0, output_tokens=tokens))
        return None if cost is None else cost.nanousd

    def tape_value(self, value: Any) -> Any:
        exchange = self.exchange
        if self._taped is not None:
            return self._taped
        if exchange is None or exchange.status is None:
            return {"pieces": [], "response": None, "http": None}
        read = self._asked.format is not None and exchange.status < 400
        answer = msgspec.to_builtins(exchange.answer()) if read else None
        redact = self._redactor.value
        return {
            "pieces": [], "response": self.clean(answer), "http": exchange.kept(redact),
        }  # fmt: skip

    # -- carrying it out -------------------------------------------------------------------------

    def _outgoing(self, timeout_s: float) -> Any:
        """Return the request with the trace's headers and its own time-outs, or ours if shorter."""
        request = self._sent.request
        headers = request.headers.copy()
        headers.update(
            outgoing(self._run, self._span_id, to=request.url.host.lower(), given=headers.keys())
        )
        own = request.extensions.get("timeout") or {}
        given = {k: own.get(k) if isinstance(own, Mapping) else None for k in TIMEOUTS}
        limits = {k: timeout_s if v is None else min(v, timeout_s) for k, v in given.items()}
        self.read_timeout_s = limits["read"]
        return type(request)(
            request.method, request.url, headers=headers, stream=request.stream,
            extensions={**request.extensions, "timeout": limits},
        )  # fmt: skip

    def run(self, state: CallState, timeout_s: float) -> Any:
        exchange = self.exchange
        assert exchange is not None  # noqa: S101  `what` made it
        try:
            response = self._send(self._outgoing(timeout_s))
            exchange.opened(response)
            rest = iter(response.stream)
            while not exchange.handed_on:
                data = next(rest, None)
                if data is None:
                    exchange.ended()
                    break
                exchange.take(data)
            if not exchange.handed_on:
                exchange.check()
        except BaseException:
            exchange.close()
            raise
        if exchange.whole or exchange.closed:  # closed: nobody waits for this attempt any more
            exchange.close()
            return iter([exchange.answer()])
        return self._pieces_of(exchange, rest)

    def _pieces_of(self, exchange: Exchange, rest: Iterator[bytes]) -> Iterator[Any]:
        try:
            yield from _first(exchange)
            for data in rest:
                exchange.take(data)
                exchange.held.clear()
                yield Chunk(data)
            exchange.ended()
            exchange.check()
            yield exchange.answer()
        finally:
            exchange.close()

    async def arun(self, state: CallState, timeout_s: float) -> Any:
        exchange = self.exchange
        assert exchange is not None  # noqa: S101  `what` made it
        try:
            response = await self._send(self._outgoing(timeout_s))
            exchange.opened(response)
            rest = aiter(response.stream)
            while not exchange.handed_on:
                data = await anext(rest, None)
                if data is None:
                    exchange.ended()
                    break
                exchange.take(data)
            if not exchange.handed_on:
                exchange.check()
        except BaseException:
            await exchange.aclose()
            raise
        if exchange.whole:
            await exchange.aclose()
            return iter([exchange.answer()])
        return self._apieces_of(exchange, rest)

    async def _apieces_of(
        self, exchange: Exchange, rest: AsyncIterator[bytes]
    ) -> AsyncIterator[Any]:
        try:
            for chunk in _first(exchange):
                yield chunk
            async for data in rest:
                exchange.take(data)
                exchange.held.clear()
                yield Chunk(data)
            exchange.ended()
            exchange.check()
            yield exchange.answer()
        finally:
            await exchange.aclose()


def _first(exchange: Exchange) -> Iterator[Chunk]:
    """Yield what was held; with nothing held, an empty chunk: the head alone is handed on."""
    held, exchange.held = exchange.held, []
    yield from map(Chunk, held or [b""])


def _reported(answer: Response) -> dict[str, Any]:
    """Return span columns of what the provider reported; an estimate is never shown as usage."""
    usage = answer.usage or Usage()
    return {
        "gen_ai_usage_input_tokens": usage.input_tokens,
        "gen_ai_usage_output_tokens": usage.output_tokens,
        "gen_ai_usage_cache_read_tokens": usage.cache_read_tokens,
        "gen_ai_usage_cache_write_tokens": usage.cache_write_tokens,
        "gen_ai_usage_reasoning_tokens": usage.reasoning_tokens,
        "gen_ai_response_model": answer.model,
        "gen_ai_response_id": answer.response_id,
        "gen_ai_response_finish_reason": answer.finish_reason if answer.model else None,
    }

"""A guarded HTTP call under way: its steps performed, its end told in the library's own words.

Rule: the guard's loop decides; this performs its steps, and hands on the first piece of an answer
as soon as there is one. What the guard ends with is translated once, in `outward` and `given_up`.
"""

from __future__ import annotations

import contextvars
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from towerkit.core.canonical import digest_of, sha256_hex
from towerkit.core.errors import AttemptTimeout, CallRefused, StreamTruncated
from towerkit.runtime.guard import Guard
from towerkit.runtime.http_answer import Chunk, Exchange, HttpFailure, HttpStatus
from towerkit.runtime.http_call import HttpCall, Sent, sent
from towerkit.runtime.run import Run
from towerkit.runtime.steps import END, Deliver, Next, Raised, Sleep, Step, Try

if TYPE_CHECKING:
    from towerkit.runtime.tower import Tower

STOPPED_CALLS = 64
"""How many ended calls a client remembers, to answer an SDK's own retries without a request."""


class Seam:
    """What the transports of one client share."""

    def __init__(
        self, tower: Tower, lib: Any, *, strict_streams: bool, provider: str | None
    ) -> None:
        """`lib` is the HTTP library, imported."""
        self.tower, self.lib, self.strict, self._provider = tower, lib, strict_streams, provider
        self._stopped: OrderedDict[str, Exception] = OrderedDict()
        self._lock = threading.Lock()

    def sent(self, request: Any, body: bytes | None) -> Sent:
        """Return what is known of a request; raise what ended it before, if an SDK sends it again.

        SDKs retry exceptions of a transport by themselves. The guard has decided already, so such a
        retry is no request: it gets the same exception. A call of the agent's has the count 0.
        """
        what = sent(request, body, provider=self._provider)
        count = request.headers.get("x-stainless-retry-count", "")
        with self._lock:
            if count in {"", "0"}:
                self._stopped.pop(self._key(what), None)
                return what
            error = self._stopped.get(self._key(what))
        if error is not None:
            raise error.with_traceback(None)
        return what

    def stopped(self, what: Sent, error: Exception) -> None:
        """Remember what ended a call of an SDK that counts its retries."""
        if "x-stainless-retry-count" in what.request.headers:
            with self._lock:
                self._stopped[self._key(what)] = error
                while len(self._stopped) > STOPPED_CALLS:
                    self._stopped.popitem(last=False)

    def _key(self, what: Sent) -> str:
        run, request = self.tower.current(), what.request
        own = request.headers.get("idempotency-key") or sha256_hex(what.body or b"")
        return digest_of([run and run.run_id, request.method, str(request.url), own])

    def outward(self, error: BaseException) -> BaseException:
        """Return the exception an SDK gets for what the guard ended with."""
        made: Any = None
        if isinstance(error, AttemptTimeout):
            made = self.lib.ReadTimeout(str(error))
        elif isinstance(error, CallRefused):
            made = self.lib.ConnectError(str(error))
        elif isinstance(error, StreamTruncated | HttpFailure):
            made = self.lib.RemoteProtocolError(str(error))
        if made is None:
            return error
        made.error_class = error.error_class  # type: ignore[attr-defined]  # a ControlError, all three
        made.tower, made.__cause__ = getattr(error, "tower", None), error
        return made  # type: ignore[no-any-return]  # the library is not typed here

    def response(self, exchange: Exchange, stream: Any = None) -> Any:
        """Return the library's response; one with an error status tells the SDK not to retry."""
        headers = exchange.headers
        if exchange.status is not None and exchange.status >= 400:
            headers = [h for h in headers if h[0].lower() != b"x-should-retry"]
            headers.append((b"x-should-retry", b"false"))
        if stream is None:
            stream = self.lib.ByteStream(b"".join(exchange.held))
        return self.lib.Response(
            exchange.status, headers=headers, stream=stream, extensions=exchange.extensions
        )


class Going:
    """A guarded call that is under way: its steps, and what they may end with."""

    asynchronous = False

    def __init__(self, seam: Seam, what: Sent, send: Any) -> None:
        """Begin in the open run, or in a run of its own; `send` is the transport below."""
        self._seam, self._what = seam, what
        self._context = contextvars.copy_context()
        self._own: Run | None = None
        run = seam.tower.current()
        if run is None:
            self._own = run = seam.tower.run("http")
            # In a context of its own: the agent's next call is not one of this run.
            self._context.run(run.__enter__)
        self._run = run
        self._call = call = HttpCall(run, what, send, asynchronous=self.asynchronous)
        guard = Guard(run, call, call.state(), call.guard_digest())
        operation = "chat" if what.asked.kind == "model" else "execute_tool"
        self._steps = guard.steps(name=f"{what.asked.verb} {what.asked.name}", operation=operation)
        self._over = False

    def _in_time(self, step: Next) -> bool:
        """Whether an item, or the library's own time-out, comes within the step's limit."""
        exchange = self._call.exchange
        return exchange is None or exchange.whole or step.timeout_s >= self._call.read_timeout_s

    def _end(self, error: BaseException | None) -> None:
        """End the call, and with it the run that was opened for it; may be called twice."""
        if self._over:
            return
        self._over = True
        tower = getattr(error, "tower", None)
        if self._call.exchange is not None and tower is not None:
            self._call.exchange.extensions["tower"] = tower
        if self._own is not None:
            kind, trace = (None, None) if error is None else (type(error), error.__traceback__)
            self._context.run(self._own.__exit__, kind, error, trace)

    def _ended(self, value: Any) -> None:
        """End the call with what its steps returned; raise what they say is to be raised."""
        error = value.error if isinstance(value, Raised) else None
        self._end(error)
        if error is not None:
            raise error

    def begun(self, stream: Any = None) -> Any:
        """Return the response: whole, or with the `stream` that goes on."""
        exchange = self._call.exchange
        assert exchange is not None  # noqa: S101  a call has begun when it has an answer
        return self._seam.response(exchange, stream)

    def given_up(self, error: BaseException) -> Any:
        """Return the last response, where there is one that says what is wrong, or raise."""
        exchange = self._said_in(error)
        if exchange is not None:
            return self._seam.response(exchange)
        made = self._seam.outward(error)
        if isinstance(made, Exception):
            self._seam.stopped(self._what, made)
        raise made

    def _said_in(self, error: BaseException) -> Exchange | None:
        """Return the answer that tells an SDK of `error`; None where none would, or none came."""
        strict = self._seam.strict
        if isinstance(error, HttpStatus):
            return error.exchange
        if isinstance(error, HttpFailure):
            # To an SDK that asked for a stream, a web page is a stream that ended without a word.
            silent = self._what.asked.stream and error.exchange.page
            return None if silent and strict else error.exchange
        if isinstance(error, StreamTruncated) and not strict:
            return self._call.exchange
        return None

    def broke_off(self, error: BaseException) -> None:
        """Raise what ends a stream that has begun; nothing where its own bytes have said it."""
        if self._said_in(error) is None:
            raise self._seam.outward(error)

    def left(self) -> None:
        """Tell the steps that nobody reads on: after a failure, after the end, or in between."""
        if self._over:
            return
        exchange = self._call.exchange
        error: BaseException | None = None
        failure = None if exchange is None else exchange.error()
        try:
            if failure is not None:
                self._steps.throw(failure)
            elif exchange is not None and exchange.answered:
                next(self._steps)
                self._steps.send(exchange.answer())
            else:
                error = GeneratorExit()
                self._steps.close()
        except StopIteration as done:
            error = done.value.error if isinstance(done.value, Raised) else None
        except BaseException as raised:  # noqa: BLE001  recorded; nobody is there to read it
            error = raised
        self._end(error)


class SyncGoing(Going):
    """Performed on the calling thread; a model's attempt in one of its own, so that it is cut."""

    def pull(self) -> Chunk | None:
        """Perform steps until a piece is to be handed on; None when the answer is whole."""
        try:
            step = next(self._steps)
            while not isinstance(step, Deliver):
                try:
                    result = self._perform(step)
                except BaseException as error:  # noqa: BLE001  handed to the loop, which raises it on
                    step = self._steps.throw(error)
                else:
                    step = self._steps.send(result)
        except StopIteration as done:
            self._ended(done.value)
            return None
        except BaseException as error:
            self._end(error)
            raise
        return step.piece  # type: ignore[return-value]  # the pieces of our call are chunks

    def _perform(self, step: Step) -> Any:
        run = self._run
        if isinstance(step, Try):
            try:
                return run.executor.attempt(step.what, step.run)
            except AttemptTimeout:
                if self._call.exchange is not None:
                    self._call.exchange.close()  # its thread goes on, and finds nobody waiting
                raise
        if isinstance(step, Next):
            if self._in_time(step):
                return next(step.items, END)
            return run.env.bounded(lambda: next(step.items, END), step.timeout_s)
        if isinstance(step, Sleep):
            run.env.sleep(step.seconds)
        return None


class AsyncGoing(Going):
    """Performed on the running event loop."""

    asynchronous = True
    _items: Any = None

    async def apull(self) -> Chunk | None:
        """Perform steps until a piece is to be handed on; None when the answer is whole."""
        try:
            step = next(self._steps)
            while not isinstance(step, Deliver):
                try:
                    result = await self._aperform(step)
                except BaseException as error:  # noqa: BLE001  handed to the loop, which raises it on
                    step = self._steps.throw(error)
                else:
                    step = self._steps.send(result)
        except StopIteration as done:
            await self._shut()
            self._ended(done.value)
            return None
        except BaseException as error:
            self._end(error)
            await self._shut()
            raise
        return step.piece  # type: ignore[return-value]  # the pieces of our call are chunks

    async def _aperform(self, step: Step) -> Any:
        run = self._run
        if isinstance(step, Try):
            self._items = None
            return await run.executor.aattempt(step.what, step.arun)
        if isinstance(step, Next):
            self._items = items = step.items
            if not hasattr(items, "__anext__"):
                return next(items, END)
            return await run.env.abounded(lambda: anext(items, END), step.timeout_s)
        if isinstance(step, Sleep):
            await run.env.asleep(step.seconds)
        return None

    async def aleft(self) -> None:
        """Do what `left` does, and give the connection back."""
        self.left()
        await self._shut()

    async def _shut(self) -> None:
        if hasattr(self._items, "aclose"):
            await self._items.aclose()

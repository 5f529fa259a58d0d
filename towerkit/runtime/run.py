"""A run under the tower: the guard around every model and tool call.

Rule: for each call, in this order: reserve the budget, attempt, classify, decide (retry, fall back
or stop), settle, record. This loop is the only one that performs effects, and it adds nothing to
what the agent gets but `e.tower` on an exception.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from towerkit.core.canonical import canonical_text, digest_of
from towerkit.core.env import Env, uuid7
from towerkit.core.errors import (
    ControlError,
    OutputInvalid,
    StoreError,
    UsageError,
)
from towerkit.core.types import Message, Request, Response
from towerkit.cost.ledger import NANO, Ledger
from towerkit.faults.plan import FaultPlan
from towerkit.reliability.classify import Failure, classify
from towerkit.reliability.policy import CallState
from towerkit.reliability.probe import get, is_a, text_of
from towerkit.reliability.progress import Progress
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.runtime.calls import Call, ModelCall, StreamCall, ToolCall
from towerkit.runtime.control import control_of
from towerkit.runtime.executor import Attempt, Executor, Live
from towerkit.runtime.guard import (
    Guard,
    Raised,
    Steps,
    adrive,
    adrive_stream,
    drive,
    drive_stream,
)
from towerkit.telemetry.journal import Journal
from towerkit.telemetry.recorder import OpenSpan, Recorder

if TYPE_CHECKING:
    from towerkit.packs.store import Pack
    from towerkit.runtime.tower import Tower

log = logging.getLogger("towerkit")


# Says what is wrong with an answer, in words for the model; None for a good one.
Check = Callable[[Response], str | None]
# How often a model is told so before the agent is.
CORRECTIONS = 2

_TOOL_STATES = {yes: CallState(operation="tool", idempotent=yes) for yes in (False, True)}


class _Open(NamedTuple):
    """An open span of a run, the names of the steps above it, and what was open around it."""

    run: Run
    span: OpenSpan
    path: str
    outer: _Open | None


# Per thread and task; `Env.bounded` carries it over. Runs may be open inside each other.
_open: ContextVar[_Open | None] = ContextVar("towerkit_open_span", default=None)


def current_run(tower: Tower) -> Run | None:
    """Return the innermost run of `tower` that is open in this thread or task; None outside.

    A task that outlives the run it was started in is outside: what is sealed takes nothing more.
    """
    here = _open.get()
    while here is not None and (here.run.tower is not tower or here.run.ended):
        here = here.outer
    return None if here is None else here.run


class Run:
    """One run of an agent. Use as a context manager; `pack` is there once it has ended.

    Attributes: `run_id` (UUIDv7), `env`, `ledger`, `pack` (None until sealed, or when the store
    could not be written: see `storage_error`).
    """

    def __init__(
        self,
        tower: Tower,
        name: str,
        *,
        task: Any,
        env: Env,
        faults: Sequence[Mapping[str, Any]] = (),
        identity: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
        executor: Executor | None = None,
        keep: bool = True,
    ) -> None:
        """Use `Tower.run`."""
        self._keep = keep
        self.tower, self.name, self.env = tower, name, env
        self.pack: Pack | None = None
        self.storage_error: StoreError | None = None
        self.result: Any = None
        self.error_class: str | None = None
        limit = tower.budget_usd
        self.ledger = Ledger(None if limit is None else round(limit * NANO))
        self._policy = tower.policy
        self.progress = Progress(
            max_repeats=tower.policy.max_repeats,
            max_steps=tower.policy.max_steps,
            max_stale=tower.policy.max_stale,
        )
        self._start_wall, self._start_mono = env.wall_ns(), env.mono_ns()
        self.deadline_ns = self._start_mono + round(self._policy.deadline_s * NANO)
        self.executor: Executor = executor or Live(env, FaultPlan(faults))
        self._identity = self._describe(identity or {}, faults)
        self._source = {"kind": "live", **(source or {})}
        purpose = digest_of([self._identity, self._source, task])
        bits = int.from_bytes(env.secret_bytes(10, purpose=f"run id {purpose}"), "big") >> 6
        self.run_id = uuid7(self._start_wall, bits)
        self.recorder = Recorder(
            self.run_id, tower.redactor, start_mono_ns=self._start_mono, ids=env.bits(64),
            journal=self._open_journal(),
        )  # fmt: skip
        self._salt_seed = env.secret_bytes(32, purpose=f"salts {purpose}")
        self._task = task
        self._root: OpenSpan | None = None
        self._token: Any = None

    def _open_journal(self) -> Journal | None:
        """Return where the run is kept while it lasts; a simulated run can be made again."""
        tower = self.tower
        if not self._keep or self.env.kind == "virtual" or tower.journal == "off":
            return None
        return Journal(tower.store.root, self.run_id, mode=tower.journal, durable=tower.durable)

    def _describe(
        self, identity: Mapping[str, Any], faults: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        return {
            "service": self.tower.service,
            "scenario": self.tower.redactor.name(self.name),
            "release": self.tower.release,
            "case_id": None,
            "trial": None,
            "git_commit": self.tower.git_commit,
            "agent_digest": None,
            "prompt_digest": None,
            "policy_digest": self.tower.policy_digest,
            "models": [f"{m.provider}/{m.name}" for m in self.tower.models],
            "windows": self.tower.model_state.windows,
            "renewable": self.tower.model_state.renewable,
            "faults": [dict(f) for f in faults],
            **self.tower.redactor.value(dict(identity)),
        }

    # -- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._root is not None:
            raise UsageError("a Run is entered once: ask the tower for another")
        if self.recorder.journal is not None:
            head = {"run_id": self.run_id, "redactor": self.recorder.redactor.describe()}
            self.recorder.journal.add(("run", head | self._header()))
        self._root = self.start_span(self.name, kind="run", operation="invoke_agent", parent=None)
        self._root.attributes["gen_ai.agent.name"] = self.name
        self._token = _open.set(_Open(self, self._root, "", _open.get()))
        digest = self.recorder.content(self._task)
        self._reading("task", "task", digest, self._start_mono)
        return self

    def _header(self) -> dict[str, Any]:
        """Return what the manifest says of the run and is known when it begins."""
        return {
            "parent_trace_id": None,
            "started_unix_ns": self._start_wall,
            "source": self._source,
            "identity": self._identity,
            "clock": self.env.kind,
            "simulated": any(m.simulated for m in self.tower.models) or self.env.kind == "virtual",
            "seed": f"{self.env.seed:016x}",
            "budget": {"limit_nanousd": self.ledger.limit},
        }

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        assert self._root is not None  # noqa: S101  __enter__ ran
        with contextlib.suppress(ValueError):  # left in another context: nothing to reset there
            _open.reset(self._token)
        self._seal(self.end_span(self._root, error))

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self._root is not None and self._root.ended

    def finish(self, result: Any) -> None:
        """Give the run's answer (JSON-able): it is kept, redacted, as the run's output."""
        self.result = result
        if self._root is not None:
            self._root.fields["response_digest"] = self.recorder.content(result)

    def _seal(self, status: str) -> None:
        manifest = self._header() | {
            "status": status,
            "error_class": self.error_class,
            "duration_ns": max(0, self.env.mono_ns() - self._start_mono),
            "budget": {
                "limit_nanousd": self.ledger.limit,
                "spent_nanousd": self.ledger.spent,
                "unknown_charges": self.ledger.unknown_charges,
            },
        }
        if not self._keep:
            return
        draft = self.recorder.draft(manifest, salt_seed=self._salt_seed)
        try:
            self.pack = self.tower.store.commit(draft, durable=self.tower.durable)
        except StoreError as error:
            # The agent's work is done and stays done: losing its evidence is reported, not raised.
            self.storage_error = error
            log.error("run %s: its evidence could not be stored: %s", self.run_id, error)  # noqa: TRY400
        if self.recorder.journal is not None:
            self.recorder.journal.close(remove=self.pack is not None)
        if self.pack is not None and self.tower.otel_exporter is not None:
            from towerkit.telemetry.otel import export  # noqa: PLC0415

            export(self.pack, self.tower.otel_exporter)

    # -- spans -----------------------------------------------------------------------------------

    def start_span(
        self, name: str, *, kind: str, operation: str, parent: OpenSpan | None,
        fields: dict[str, Any] | None = None, mono_ns: int | None = None,
    ) -> OpenSpan:  # fmt: skip
        """Open a span of this run, now."""
        mono = self.env.mono_ns() if mono_ns is None else mono_ns
        # Wall times follow the monotonic clock from the run's start: a step of the wall clock must
        # not put a child before its parent.
        return self.recorder.start(
            name, kind=kind, operation=operation, parent=parent,
            wall_ns=self._start_wall + mono - self._start_mono, mono_ns=mono, fields=fields,
        )  # fmt: skip

    def end_span(
        self, span: OpenSpan, error: BaseException | None, *, operation: str = "agent",
        failure: Failure | None = None, simulated: bool = False, mono_ns: int | None = None,
    ) -> str:  # fmt: skip
        """End a span, with its error if there is one; return the run status that follows.

        Without an exception, `failure` is what an answer says of itself: an error where another
        request might have brought a better one, else a flag on an answer that stands.
        """
        simulated = simulated or self.env.kind == "virtual"
        mono = self.env.mono_ns() if mono_ns is None else mono_ns
        if error is None:
            failed = failure is not None and TAXONOMY[failure.error_class].replaceable
            if failure is not None and not failed:
                span.events.append({"name": "flag", "reason": failure.error_class})
            if failure is None or not failed:
                self.recorder.end(span, mono_ns=mono, simulated=simulated)
            else:
                self.recorder.end(
                    span, mono_ns=mono, status="error", error_class=failure.error_class,
                    error_type=failure.error_type, simulated=simulated,
                )  # fmt: skip
            return "completed"
        tower = control_of(error)
        failure = failure or classify(error, operation=operation)
        name = failure.error_class if tower is None else tower.error_class
        if span.kind == "run" and tower is None:
            name = name if is_a(error, ControlError) or name == "cancelled" else "agent_bug"
        cancelled = name == "cancelled"
        self.recorder.end(
            span, mono_ns=mono, status="cancelled" if cancelled else "error",
            error_class=name, error_type=failure.error_type, error_message=text_of(error),
            simulated=simulated,
        )  # fmt: skip
        if span.kind == "run":
            self.error_class = name
        stopped = TAXONOMY[name].family == "budget" or name == "no_progress"
        return "cancelled" if cancelled else "stopped" if stopped else "failed"

    def here(self) -> tuple[OpenSpan, str]:
        """Return the open span and the names of the open steps."""
        here = _open.get()
        while here is not None and here.run is not self:
            here = here.outer  # another run was opened inside this one
        if here is not None:
            return here.span, here.path
        if self._root is None:
            raise UsageError("enter the run first: `with tower.run(…) as run:`")
        return self._root, ""

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Open a step span of the agent's own around a block."""
        parent, path = self.here()
        name = self.recorder.redactor.name(name)  # it stands in the tape's paths too
        span = self.start_span(name, kind="step", operation="step", parent=parent)
        self.recorder.flush()
        inside = f"{path}/{name}" if path else name
        token = _open.set(_Open(self, span, inside, _open.get()))
        try:
            yield
        except BaseException as error:
            self.end_span(span, error)
            raise
        else:
            self.end_span(span, None)
        finally:
            self.recorder.flush()
            with contextlib.suppress(ValueError):
                _open.reset(token)

    # -- readings --------------------------------------------------------------------------------

    def now(self) -> datetime:
        """Return the current time in UTC; recorded, so that a replay reads the same."""
        iso = self._read("clock", "now", lambda: _iso(self.env.wall_ns()))
        return datetime.fromisoformat(iso)

    def random(self) -> float:
        """Return a number in [0, 1); recorded."""
        return float(self._read("random", "random", self.env.random))

    def new_id(self) -> str:
        """Return a fresh UUIDv7; recorded."""
        return str(self._read("id", "id", lambda: uuid7(self.env.wall_ns(), self.env.bits(74))))

    def _read(self, kind: str, name: str, read: Callable[[], Any]) -> Any:
        _, path = self.here()
        start = self.env.mono_ns()
        value = self.executor.reading(kind, name, path, read)
        self._reading(kind, name, self.recorder.content(value), start)
        return value

    def _reading(self, kind: str, name: str, digest: str | None, start: int) -> None:
        _, path = self.here()
        self.recorder.tape(
            kind, name, path=path, request_digest=None, response_digest=digest, outcome="ok",
            start_mono_ns=start, end_mono_ns=self.env.mono_ns(),
        )  # fmt: skip
        self.recorder.flush()

    # -- calls -----------------------------------------------------------------------------------

    def model(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        max_tokens: int = 1024,
        temperature: float | None = None,
        check: Check | None = None,
    ) -> Response:
        """Call the tower's models with `messages`; return the first answer any of them gives.

        `check` says what is wrong with an answer, or None; the model is told and asked again, at
        most twice (an answer that only calls tools is not checked). Raises what the last model
        raised, with `e.tower` attached; `BudgetExceeded` or `DeadlineExceeded` when a control
        stopped the call; `OutputInvalid` when the third answer does not pass either.
        """
        steps = self._checked_steps(messages, tools, max_tokens, temperature, check)
        return drive(steps, self.executor, self.env)  # type: ignore[no-any-return]

    def tool(
        self,
        fn: Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        idempotent: bool,
        name: str | None = None,
        timeout_s: float | None = None,
        call_id: str | None = None,
    ) -> Any:
        """Call `fn(**arguments)` and return what it returns.

        `idempotent` has no default: only you know whether running the tool twice is harmless, and
        only then is it re-run. Without `timeout_s` the tool runs on the agent's thread and is not
        cut, because Python cannot interrupt it; with one it runs in a thread of its own (mind
        objects that belong to a thread, such as SQLite connections). Raises what `fn` raises, or
        `AttemptTimeout`: the outcome of a tool that did not answer in time is unknown.
        """
        steps = self._tool_steps(
            fn, arguments, idempotent=idempotent, name=name, timeout_s=timeout_s, call_id=call_id
        )
        return drive(steps, self.executor, self.env)

    async def amodel(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        max_tokens: int = 1024,
        temperature: float | None = None,
        check: Check | None = None,
    ) -> Response:
        """Do what `model` does, on an event loop."""
        steps = self._checked_steps(messages, tools, max_tokens, temperature, check)
        return await adrive(steps, self.executor, self.env)  # type: ignore[no-any-return]

    async def atool(
        self,
        fn: Callable[..., Any],
        arguments: Mapping[str, Any] | None = None,
        *,
        idempotent: bool,
        name: str | None = None,
        timeout_s: float | None = None,
        call_id: str | None = None,
    ) -> Any:
        """Do what `tool` does, on an event loop; a plain function runs in a thread.

        Without `timeout_s` the policy's time-out of an attempt holds.
        """
        steps = self._tool_steps(
            fn, arguments, idempotent=idempotent, name=name, timeout_s=timeout_s, call_id=call_id
        )
        return await adrive(steps, self.executor, self.env)

    def stream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        max_tokens: int = 1024,
        temperature: float | None = None,
    ) -> Generator[str, None, Response]:
        """Do what `model` does, yielding the answer in pieces; the generator returns the whole.

        Nothing is retried or replaced once a piece was delivered: the error comes instead. A stream
        that ends without its terminal event raises `StreamTruncated`, whatever the SDK says. An
        agent that stops reading ends the call as cancelled, charged for what came.
        """
        steps = self._model_steps(messages, tools, max_tokens, temperature, stream=True)
        return drive_stream(steps, self.executor, self.env)

    def astream(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        max_tokens: int = 1024,
        temperature: float | None = None,
    ) -> AsyncGenerator[str | Response, None]:
        """Do what `stream` does, on an event loop; the last item is the `Response`."""
        steps = self._model_steps(messages, tools, max_tokens, temperature, stream=True)
        return adrive_stream(steps, self.executor, self.env)

    def _checked_steps(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], max_tokens: int,
        temperature: float | None, check: Check | None,
    ) -> Steps:  # fmt: skip
        for _ in range(1 + CORRECTIONS):
            answer = yield from self._model_steps(messages, tools, max_tokens, temperature)
            if type(answer) is Raised:
                return answer
            problem = None if check is None or answer.tool_calls else check(answer)
            if problem is None:
                return answer
            correction = f"That answer is not valid: {problem}. Answer again, without this error."
            messages = [
                *messages, answer.as_message(), {"role": "user", "content": correction},
            ]  # fmt: skip
        raise OutputInvalid(
            f"expected an answer that passes its check, got {1 + CORRECTIONS} that do not: "
            f"{problem}",
            answer=answer,
        )

    def _model_steps(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], max_tokens: int,
        temperature: float | None, *, stream: bool = False,
    ) -> Steps:  # fmt: skip
        models = self.tower.models
        if not models:
            raise UsageError("this tower has no models: give Tower(models=[…])")
        request = Request(
            messages=tuple(messages), tools=tuple(tools), max_tokens=max_tokens,
            temperature=temperature,
        )  # fmt: skip
        rest = {"tools": tools, "max_tokens": max_tokens, "temperature": temperature}
        self.recorder.learn(tools)
        shown = [self.recorder.content(message) for message in messages]
        digest = self.recorder.request_of(shown, rest)
        call = (StreamCall if stream else ModelCall)(
            self, request, digest, shown=() if None in shown else shown
        )  # fmt: skip
        guard = Guard(self, call, self.tower.model_state, digest)
        return guard.steps(name=f"chat {models[0].name}", operation="chat")

    def _tool_steps(
        self, fn: Callable[..., Any], arguments: Mapping[str, Any] | None, *, idempotent: bool,
        name: str | None, timeout_s: float | None, call_id: str | None,
    ) -> Steps:  # fmt: skip
        own = get(fn, "__name__") if name is None else name
        tool_name = self.recorder.redactor.name(own) if type(own) is str and own else "tool"
        args = {} if arguments is None else dict(arguments)
        digest = self.recorder.content({"tool": tool_name, "arguments": args}) or "0" * 32
        call = ToolCall(self, fn, args, tool_name, digest, timeout_s, call_id)
        guard = Guard(self, call, _TOOL_STATES[bool(idempotent)], digest)
        return guard.steps(name=f"execute_tool {tool_name}", operation="execute_tool")

    # -- for the guard ---------------------------------------------------------------------------

    def record_attempt(
        self, call: Call, what: Attempt, span: OpenSpan, value: Any, failure: Failure | None,
        error: BaseException | None, start: int, end: int, *, simulated: bool,
    ) -> str | None:  # fmt: skip
        """Write an attempt's span and tape row; return the digest of its answer."""
        response, chunks = None, None
        if error is None or what.stream:
            response = self.recorder.content(call.tape_value(value), ordered=True)
        if failure is not None and failure.retry_after_s is not None:
            span.attributes["retry_after_s"] = failure.retry_after_s
        if what.stream and isinstance(call, StreamCall):
            chunks = canonical_text([len(piece) for piece in call.pieces])
        span.fields["response_digest"] = response
        outcome = failure.error_class if error is not None and failure is not None else "ok"
        self.recorder.tape(
            what.kind, what.name, path=what.path, request_digest=what.request_digest,
            response_digest=response, outcome=outcome, start_mono_ns=start, end_mono_ns=end,
            span=span, chunks=chunks,
        )  # fmt: skip
        self.end_span(
            span, error, operation=what.kind, failure=failure, simulated=simulated, mono_ns=end
        )
        return response

    def record_reading(self, kind: str, name: str, *, value: Any) -> None:
        """Write a reading that was not the agent's, such as a refusal of the retry budget."""
        self._reading(kind, name, self.recorder.content(value), self.env.mono_ns())


def _iso(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).isoformat()

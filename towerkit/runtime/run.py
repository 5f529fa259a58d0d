"""A run under the tower: the guard around every model and tool call.

Rule: for each call, in this order: reserve the budget, attempt, classify, decide (retry, fall back
or stop), settle, record. This loop is the only one that performs effects, and it adds nothing to
what the agent gets but `e.tower` on an exception.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from towerkit.core.canonical import digest_of
from towerkit.core.env import Env, uuid7
from towerkit.core.errors import (
    AttemptTimeout,
    ControlError,
    DeadlineExceeded,
    StoreError,
    UsageError,
)
from towerkit.core.types import Message, Request, Response
from towerkit.cost.ledger import NANO, Ledger
from towerkit.reliability.classify import Failure, classify
from towerkit.reliability.policy import CallState, Decision, decide
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.runtime.calls import Call, ModelCall, ToolCall
from towerkit.runtime.executor import Attempt, Executor, Live
from towerkit.runtime.faults import FaultPlan
from towerkit.telemetry.recorder import OpenSpan, Recorder

if TYPE_CHECKING:
    from towerkit.packs.store import Pack
    from towerkit.runtime.tower import Tower

log = logging.getLogger("towerkit")

# The open span and the step names above it, per thread and task; `Env.bounded` carries them over.
_open: ContextVar[tuple[OpenSpan, str] | None] = ContextVar("towerkit_open_span", default=None)


class Control(msgspec.Struct, frozen=True, kw_only=True):
    """What the tower knew when a call failed: attached to the exception as `e.tower`."""

    run_id: str
    error_class: str
    attempts: int
    decision: str


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
        self._start_wall, self._start_mono = env.wall_ns(), env.mono_ns()
        self._deadline = self._start_mono + round(self._policy.deadline_s * NANO)
        self._executor: Executor = executor or Live(env, FaultPlan(faults))
        self._identity = self._describe(identity or {}, faults)
        self._source = {"kind": "live", **(source or {})}
        purpose = digest_of([self._identity, self._source, task])
        bits = int.from_bytes(env.secret_bytes(10, purpose=f"run id {purpose}"), "big") >> 6
        self.run_id = uuid7(self._start_wall, bits)
        self.recorder = Recorder(self.run_id, tower.redactor, start_mono_ns=self._start_mono)
        self._salt_seed = env.secret_bytes(32, purpose=f"salts {purpose}")
        self._task = task
        self._root: OpenSpan | None = None
        self._token: Any = None

    def _describe(
        self, identity: Mapping[str, Any], faults: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any]:
        return {
            "service": self.tower.service,
            "scenario": self.name,
            "release": self.tower.release,
            "case_id": None,
            "trial": None,
            "git_commit": self.tower.git_commit,
            "agent_digest": None,
            "prompt_digest": None,
            "policy_digest": self._policy.digest(),
            "models": [f"{m.provider}/{m.name}" for m in self.tower.models],
            "faults": [dict(f) for f in faults],
            **identity,
        }

    # -- life ------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._root is not None:
            raise UsageError("a Run is entered once: ask the tower for another")
        self._root = self._start(self.name, kind="run", operation="invoke_agent", parent=None)
        self._root.attributes["gen_ai.agent.name"] = self.name
        self._token = _open.set((self._root, ""))
        digest = self.recorder.content(self._task)
        self._reading("task", "task", digest, self._start_mono)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        assert self._root is not None  # noqa: S101  __enter__ ran
        with contextlib.suppress(ValueError):  # left in another context: nothing to reset there
            _open.reset(self._token)
        status = self._end(self._root, error)
        if error is None:
            self._root.fields["response_digest"] = self.recorder.content(self.result)
        self._seal(status)

    def finish(self, result: Any) -> None:
        """Give the run's answer (JSON-able): it is kept, redacted, as the run's output."""
        self.result = result
        if self._root is not None:
            self._root.fields["response_digest"] = self.recorder.content(result)

    def _seal(self, status: str) -> None:
        manifest = {
            "parent_trace_id": None,
            "status": status,
            "error_class": self.error_class,
            "started_unix_ns": self._start_wall,
            "duration_ns": max(0, self.env.mono_ns() - self._start_mono),
            "source": self._source,
            "identity": self._identity,
            "clock": self.env.kind,
            "simulated": any(m.simulated for m in self.tower.models) or self.env.kind == "virtual",
            "seed": f"{self.env.seed:016x}",
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
        if self.pack is not None and self.tower.otel_exporter is not None:
            from towerkit.telemetry.otel import export  # noqa: PLC0415

            export(self.pack, self.tower.otel_exporter)

    # -- spans -----------------------------------------------------------------------------------

    def _start(self, name: str, *, kind: str, operation: str, parent: OpenSpan | None) -> OpenSpan:
        return self.recorder.start(
            name, kind=kind, operation=operation, parent=parent, wall_ns=self.env.wall_ns(),
            mono_ns=self.env.mono_ns(), span_id=f"{self.env.bits(64) or 1:016x}",
        )  # fmt: skip

    def _end(
        self, span: OpenSpan, error: BaseException | None, *, operation: str = "agent",
        simulated: bool = False,
    ) -> str:  # fmt: skip
        """End a span, with its error if there is one; return the run status that follows."""
        simulated = simulated or self.env.kind == "virtual"
        if error is None:
            self.recorder.end(span, mono_ns=self.env.mono_ns(), simulated=simulated)
            return "completed"
        tower = getattr(error, "tower", None)
        failure = classify(error, operation=operation)
        name = tower.error_class if isinstance(tower, Control) else failure.error_class
        if span.kind == "run" and not isinstance(tower, Control):
            name = name if isinstance(error, ControlError) or name == "cancelled" else "agent_bug"
        cancelled = name == "cancelled"
        self.recorder.end(
            span, mono_ns=self.env.mono_ns(), status="cancelled" if cancelled else "error",
            error_class=name, error_type=failure.error_type, error_message=_message(error),
            simulated=simulated,
        )  # fmt: skip
        if span.kind == "run":
            self.error_class = name
        stopped = TAXONOMY[name].family == "budget" or name == "no_progress"
        return "cancelled" if cancelled else "stopped" if stopped else "failed"

    def _here(self) -> tuple[OpenSpan, str]:
        here = _open.get()
        if here is not None:
            return here
        if self._root is None:
            raise UsageError("enter the run first: `with tower.run(…) as run:`")
        return self._root, ""

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Open a step span of the agent's own around a block."""
        parent, path = self._here()
        span = self._start(name, kind="step", operation="step", parent=parent)
        token = _open.set((span, f"{path}/{name}" if path else name))
        try:
            yield
        except BaseException as error:
            self._end(span, error)
            raise
        else:
            self._end(span, None)
        finally:
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
        _, path = self._here()
        start = self.env.mono_ns()
        value = self._executor.reading(kind, name, path, read)
        self._reading(kind, name, self.recorder.content(value), start)
        return value

    def _reading(self, kind: str, name: str, digest: str | None, start: int) -> None:
        _, path = self._here()
        self.recorder.tape(
            kind, name, path=path, request_digest=None, response_digest=digest, outcome="ok",
            start_mono_ns=start, end_mono_ns=self.env.mono_ns(),
        )  # fmt: skip

    # -- calls -----------------------------------------------------------------------------------

    def model(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        max_tokens: int = 1024,
        temperature: float | None = None,
    ) -> Response:
        """Call the tower's models with `messages`; return the first answer any of them gives.

        Raises what the last model raised, with `e.tower` attached; `BudgetExceeded` or
        `DeadlineExceeded` when a control stopped the call.
        """
        models = self.tower.models
        if not models:
            raise UsageError("this tower has no models: give Tower(models=[…])")
        request = Request(
            messages=tuple(messages), tools=tuple(tools), max_tokens=max_tokens,
            temperature=temperature,
        )  # fmt: skip
        rest = {"tools": tools, "max_tokens": max_tokens, "temperature": temperature}
        digest = self.recorder.request(messages, rest)
        call = ModelCall(self, request, digest)
        state = CallState(operation="model", tiers=len(models))
        name = f"chat {models[0].name}"
        return self._guarded(call, state, name=name, operation="chat", digest=digest)  # type: ignore[no-any-return]

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
        only then is it re-run. Raises what `fn` raises, or `AttemptTimeout`: the outcome of a tool
        that did not answer in time is unknown.
        """
        tool_name: str = name or getattr(fn, "__name__", None) or "tool"
        args = dict(arguments or {})
        digest = self.recorder.content({"tool": tool_name, "arguments": args}) or "0" * 32
        call = ToolCall(self, fn, args, tool_name, digest, timeout_s, call_id)
        state = CallState(operation="tool", idempotent=idempotent)
        return self._guarded(
            call, state, name=f"execute_tool {tool_name}", operation="execute_tool", digest=digest
        )

    def _guarded(
        self, call: Call, state: CallState, *, name: str, operation: str,
        digest: str,
    ) -> Any:  # fmt: skip
        parent, path = self._here()
        span = self._start(name, kind="call", operation=operation, parent=parent)
        span.fields["request_digest"] = digest
        call.describe(span, state)
        try:
            while True:
                state = msgspec.structs.replace(
                    state, tries=state.tries + 1, tries_on_tier=state.tries_on_tier + 1
                )
                value, failure, error = self._attempt(call, state, span, path, operation)
                if error is None:
                    call.describe(span, state)
                    self._end(span, None, simulated=call.simulated(state))
                    return value
                decision = self._decide(state, failure)
                span.events.append(
                    {"name": decision.action, "class": failure.error_class,
                     "reason": decision.reason, "wait_s": round(decision.wait_s, 6)}
                )  # fmt: skip
                if decision.action == "stop":
                    self._attach(error, failure, state, decision)
                    raise error  # noqa: TRY301  the handler below ends the span for every way out
                if decision.action == "fallback":
                    state = msgspec.structs.replace(state, tier=state.tier + 1, tries_on_tier=0)
                    call.fallback_reason = failure.error_class
                else:
                    self.env.sleep(decision.wait_s)
        except BaseException as error:
            self._end(span, error, operation=state.operation, simulated=call.simulated(state))
            raise

    def _attempt(
        self, call: Call, state: CallState, parent: OpenSpan, path: str,
        operation: str,
    ) -> tuple[Any, Failure, BaseException | None]:  # fmt: skip
        """Make one attempt: return its value, or its failure and the exception."""
        left = (self._deadline - self.env.mono_ns()) / NANO
        if left <= 0:
            raise self._late()
        key = f"{parent.span_id}.{state.tries}"
        self.ledger.reserve(key, call.worst_case(state))
        span = self._start(parent.name, kind="attempt", operation=operation, parent=parent)
        span.fields.update(parent.fields, attempt=state.tries)
        call.describe(span, state)
        start = self.env.mono_ns()
        what = call.what(state, path, span.seq, min(left, self._policy.attempt_timeout_s))
        value, failure, error = None, _FINE, None
        try:
            value = self._executor.attempt(what, lambda: call.run(state, what.timeout_s))
        except Exception as raised:  # noqa: BLE001  decided upon below, and re-raised if it must be
            error = raised
            if isinstance(raised, AttemptTimeout) and what.timeout_s >= left:
                error = self._late()
            failure = classify(error, operation=state.operation)
        except BaseException as raised:
            failure = classify(raised, operation=state.operation)
            self.ledger.settle(key, call.settle(span, state, None, failure))
            self._end(span, raised, operation=state.operation)
            raise
        self.ledger.settle(key, call.settle(span, state, value, failure if error else None))
        self._record(
            call, what, span, value, failure, error, start, simulated=call.simulated(state)
        )
        return value, failure, error

    def _late(self) -> DeadlineExceeded:
        return DeadlineExceeded(f"the run's {self._policy.deadline_s:g} s are up")

    def _record(
        self, call: Call, what: Attempt, span: OpenSpan, value: Any,
        failure: Failure, error: BaseException | None, start: int, *, simulated: bool,
    ) -> None:  # fmt: skip
        response = (
            None
            if error is not None
            else self.recorder.content(call.tape_value(value), ordered=True)
        )
        span.fields["response_digest"] = response
        if failure.retry_after_s is not None:
            span.attributes["retry_after_s"] = failure.retry_after_s
        self.recorder.tape(
            what.kind, what.name, path=what.path, request_digest=what.request_digest,
            response_digest=response, outcome="ok" if error is None else failure.error_class,
            start_mono_ns=start, end_mono_ns=self.env.mono_ns(), span=span,
        )  # fmt: skip
        self._end(span, error, operation=what.kind, simulated=simulated)

    def _decide(self, state: CallState, failure: Failure) -> Decision:
        left = (self._deadline - self.env.mono_ns()) / NANO
        return decide(self._policy, state, failure, time_left_s=left, jitter=self.env.random())

    def _attach(
        self, error: BaseException, failure: Failure, state: CallState, decision: Decision
    ) -> None:
        with contextlib.suppress(AttributeError, TypeError):  # slots: the original matters more
            error.tower = Control(  # type: ignore[attr-defined]
                run_id=self.run_id, error_class=failure.error_class, attempts=state.tries,
                decision=decision.reason,
            )  # fmt: skip


_FINE = Failure(error_class="unknown", error_type="")


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001  a user object's __str__ may raise; its type is recorded
        return "<no text: __str__ raised>"


def _iso(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).isoformat()

"""A run under the tower: the guard around every model and tool call.

Rule: for each call, in this order: reserve the budget, attempt, classify, decide (retry, fall back
or stop), settle, record. This loop is the only one that performs effects, and it adds nothing to
what the agent gets but `e.tower` on an exception.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from concurrent.futures import Future
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from towerkit.core.canonical import canonical_text, digest_of
from towerkit.core.env import Env, uuid7
from towerkit.core.errors import (
    ControlError,
    StoreError,
    UsageError,
)
from towerkit.core.types import Message, Request, Response
from towerkit.cost.budget import limits_of
from towerkit.cost.ledger import NANO, ledger_of
from towerkit.cost.tokens import TokenBook
from towerkit.faults.plan import FaultPlan
from towerkit.packs.committer import commit_later
from towerkit.privacy.log import log
from towerkit.reliability.classify import Failure, classify
from towerkit.reliability.probe import is_a, text_of
from towerkit.reliability.progress import Progress
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.runtime.asking import Check, checked_steps, model_steps, tool_steps
from towerkit.runtime.budgets import Budgets, Part, budgets_of
from towerkit.runtime.call import Call
from towerkit.runtime.calls import StreamCall
from towerkit.runtime.control import control_of
from towerkit.runtime.current import LIVE, OPEN, Open, attempt_around
from towerkit.runtime.evidence import Evidence, evidence_of
from towerkit.runtime.executor import Attempt, Executor, Live
from towerkit.runtime.propagation import baggage_header, note_caller, read_traceparent
from towerkit.runtime.step import Step
from towerkit.runtime.steps import adrive, adrive_stream, drive, drive_stream
from towerkit.telemetry.journal import Journal
from towerkit.telemetry.recorder import OpenSpan, Recorder

if TYPE_CHECKING:
    import polars as pl

    from towerkit.packs.browse import Tree
    from towerkit.packs.store import Pack
    from towerkit.runtime.tower import Tower
    from towerkit.telemetry.foreign import Place


class Run:
    """One run of an agent. Use as a context manager; `pack` is there once it has ended.

    Attributes: `run_id` (UUIDv7), `env`, `ledger`.
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
        traceparent: str | None = None,
        baggage: Mapping[str, str] | None = None,
        tenant: str | None = None,
    ) -> None:
        """Use `Tower.run`."""
        self._keep = keep
        self._caller = read_traceparent(traceparent)
        self._stray = traceparent is not None and self._caller is None
        self.baggage, self._baggage = baggage_header(baggage or {}), sorted(baggage or ())
        self.tower, self.name, self.env = tower, name, env
        self._pack: Pack | None = None
        self._storage_error: StoreError | None = None
        self._sealing: Future[None] | None = None
        self.result: Any = None
        self.error_class: str | None = None
        limit = tower.budget.run.cost_usd
        self.ledger = ledger_of(None if limit is None else round(limit * NANO))
        # A simulated run is a function of its seed: it learns from itself alone.
        self.tokens = TokenBook(None if env.kind == "virtual" else tower.ratios)
        self._policy = tower.policy
        self.progress = Progress(
            max_repeats=tower.policy.max_repeats,
            max_steps=tower.policy.max_steps,
            max_stale=tower.policy.max_stale,
        )
        self._start_wall, self._start_mono = env.wall_ns(), env.mono_ns()
        self.deadline_ns = self._start_mono + round(self._policy.deadline_s * NANO)
        self.executor: Executor = executor or Live(env, FaultPlan(faults))
        self.identity = self._describe(identity or {}, faults, tenant)
        self._plan = tower.redactor.labels(tower.budget.described())
        self._source = {"kind": "live", **tower.redactor.labels(source or {})}
        # What holds the budget beside the ledger; None where that does it alone.
        self.budgets: Budgets | None = budgets_of(self, tower.budget, tower.shared_budgets)
        purpose = digest_of([self.identity, self._source, task])
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
        self, identity: Mapping[str, Any], faults: Sequence[Mapping[str, Any]],
        tenant: str | None,
    ) -> dict[str, Any]:  # fmt: skip
        redactor = self.tower.redactor
        told = redactor.labels({k: v for k, v in identity.items() if k != "case_id"})
        for key, name in (("case_id", identity.get("case_id")), ("tenant", tenant)):
            if name is not None:  # it may be a sentence
                told[key] = redactor.name(name) if isinstance(name, str) else name
        return {
            "service": self.tower.service,
            "scenario": redactor.name(self.name),
            "release": self.tower.release,
            "case_id": None,
            "trial": None,
            "git_commit": self.tower.git_commit,
            "agent_digest": None,
            "prompt_digest": None,
            "policy_digest": self.tower.policy_digest,
            **self.tower.limits_said,
            "models": [
                f"{redactor.label(m.provider)}/{redactor.label(m.name)}" for m in self.tower.models
            ],
            "windows": self.tower.model_state.windows,
            "renewable": self.tower.model_state.renewable,
            "faults": redactor.labels([dict(f) for f in faults]),
            **told,
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
        note_caller(
            self._root, self.run_id, caller=self._caller, stray=self._stray, baggage=self._baggage
        )
        self._token = OPEN.set(Open(self, self._root, "", OPEN.get()))
        LIVE.add(self)
        digest = self.recorder.content(self._task)
        self._reading("task", "task", digest, self._start_mono)
        return self

    def _header(self) -> dict[str, Any]:
        """Return what the manifest says of the run and is known when it begins."""
        return {
            "parent_trace_id": self._caller and self._caller["trace_id"],
            "started_unix_ns": self._start_wall,
            "source": self._source,
            "identity": self.identity,
            "clock": self.env.kind,
            "simulated": any(m.simulated for m in self.tower.models) or self.env.kind == "virtual",
            "seed": f"{self.env.seed:016x}",
            "budget": self._budget(),
        }

    def _budget(self) -> dict[str, Any]:
        return {"limit_nanousd": self.ledger.limit, "plan": self._plan}

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        assert self._root is not None  # noqa: S101  __enter__ ran
        with contextlib.suppress(ValueError):  # left in another context: nothing to reset there
            OPEN.reset(self._token)
        LIVE.discard(self)
        self._end(self.end_span(self._root, error))

    @property
    def ended(self) -> bool:
        """Whether the run is over, or is the business of the process we were forked from."""
        return self._root is not None and self._root.ended

    def leave_to_parent(self) -> None:
        """Record nothing more: this process was forked from the one that opened the run."""
        self._keep = False
        self.recorder.disown()

    def finish(self, result: Any) -> None:
        """Give the run's answer (JSON-able): it is kept, redacted, as the run's output."""
        self.result = result
        if self._root is not None:
            self._root.fields["response_digest"] = self.recorder.content(result)

    # -- its pack --------------------------------------------------------------------------------

    @property
    def pack(self) -> Pack | None:
        """The run's evidence, once it has ended; None before, and where it could not be stored.

        It is sealed off the agent's thread: who asks first may wait some milliseconds.
        """
        self._wait()
        return self._pack

    @property
    def spans(self) -> pl.DataFrame:
        """The spans of a run that has ended, in the order they started; see `Pack.spans`."""
        return self._stored().spans

    @property
    def tree(self) -> Tree:
        """The spans of a run that has ended, as a tree; see `Pack.tree`."""
        return self._stored().tree

    def _stored(self) -> Pack:
        pack = self.pack
        if pack is None:
            raise UsageError("expected a run that has ended and was stored; see run.storage_error")
        return pack

    @property
    def storage_error(self) -> StoreError | None:
        """Why there is no pack of a run that has ended."""
        self._wait()
        return self._storage_error

    @property
    def evidence(self) -> Evidence:
        """Where the spans of a run that has ended are, and what went wrong; nothing is silent."""
        return evidence_of(self)

    def _wait(self) -> None:
        if self._sealing is not None:
            self._sealing.result()

    def _end(self, status: str) -> None:
        """Have the run sealed: later, where a journal keeps it safe meanwhile, else now."""
        for hook in self.recorder.before_seal:
            hook()
        end = {
            "status": status,
            "error_class": self.error_class,
            "duration_ns": max(0, self.env.mono_ns() - self._start_mono),
            "budget": {
                **self._budget(),
                "spent_nanousd": self.ledger.spent,
                "unknown_charges": self.ledger.unknown_charges,
                "estimates": self.tokens.errors(),
            },
        }
        journal = self.recorder.journal
        if journal is None:
            if self._keep:
                self._seal(end)
            return
        journal.add(("end", end))
        journal.flush()
        self._sealing = commit_later(self.tower.store.root, lambda: self._seal_behind(end))

    def _seal_behind(self, end: dict[str, Any]) -> None:
        """Seal the run where nobody may ever ask what came of it: then the log must say it."""
        try:
            self._seal(end)
        except Exception:
            log.exception("run %s was not sealed; its journal is left: pack recover", self.run_id)
            raise

    def _seal(self, end: dict[str, Any]) -> None:
        self.recorder.close()
        draft = self.recorder.draft(self._header() | end, salt_seed=self._salt_seed)
        try:
            self._pack = self.tower.store.commit(draft, durable=self.tower.durable)
        except StoreError as error:
            # The agent's work is done and stays done: losing its evidence is reported, not raised.
            self._storage_error = error
            log.error("run %s: its evidence could not be stored: %s", self.run_id, error)  # noqa: TRY400
        journal = self.recorder.journal
        if journal is not None:
            journal.close(remove=self._pack is not None)
            if self._pack is None and journal.error is None:
                log.error("run %s is kept in its journal: towerkit pack recover", self.run_id)
        if self._pack is not None and self.tower.outbox is not None:
            self.tower.outbox.put(self._pack)

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
                span.events += ({"name": "flag", "reason": failure.error_class},)
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
        here = OPEN.get()
        while here is not None and (
            here.run is not self or (here.span.ended and here.span.kind == "attempt")
        ):
            here = here.outer  # another run was opened inside, or a tool timed out and goes on
        if here is None and self._root is None:
            raise UsageError("enter the run first: `with tower.run(…) as run:`")
        span, path = (self._root, "") if here is None else (here.span, here.path)
        assert span is not None  # noqa: S101  looked at above
        if self.tower.instrumented is not None:
            inner = self.tower.instrumented(self.recorder)
            # Both are open around what comes: the one that started later is the inner one.
            span = inner if inner is not None and inner.seq > span.seq else span
        return span, path

    def place(self) -> Place | None:
        """Return where a span of an instrumented library begins; None where nothing is kept."""
        from towerkit.telemetry.foreign import Place  # noqa: PLC0415  only for who uses it

        if not self._keep:
            return None
        return Place(self.recorder, self.here()[0], self.env, self._start_wall, self._start_mono)

    def step(self, name: str, attributes: Mapping[str, Any] | None = None) -> Step:
        """Return a step of the agent's own, to be entered with `with` around its work.

        `attributes` (JSON-able) are kept with its span, redacted; `Step.set` adds to them.
        """
        return Step(self, name, attributes)

    def budget(self, name: str, **limits: float) -> Part:
        """Return a step with limits of its own: `with run.budget("researcher", calls=5):`.

        `limits` are those of `Limits`. What happens inside counts there and in everything around
        it; a call that does not fit any of them raises `BudgetExceeded`.
        """
        return Part(self, name, limits_of(limits))

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

    def reading(self, name: str, read: Callable[[], Any]) -> Any:
        """Return what `read` returns; recorded, so that a replay takes it from the tape."""
        return self._read("random", name, read)

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
            start_mono_ns=start, end_mono_ns=self.env.mono_ns(), span=attempt_around(self),
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
        request = _request(messages, tools, max_tokens, temperature)
        steps = checked_steps(self, request, check)
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
        steps = tool_steps(
            self, fn, arguments, idempotent=idempotent, name=name, timeout_s=timeout_s,
            call_id=call_id,
        )  # fmt: skip
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
        request = _request(messages, tools, max_tokens, temperature)
        steps = checked_steps(self, request, check)
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
        steps = tool_steps(
            self, fn, arguments, idempotent=idempotent, name=name, timeout_s=timeout_s,
            call_id=call_id,
        )  # fmt: skip
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
        request = _request(messages, tools, max_tokens, temperature)
        steps = model_steps(self, request, stream=True)
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
        request = _request(messages, tools, max_tokens, temperature)
        steps = model_steps(self, request, stream=True)
        return adrive_stream(steps, self.executor, self.env)

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
        if failure is not None and failure.veto:
            span.attributes["retry_vetoed"] = True
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


def _request(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], max_tokens: int,
    temperature: float | None,
) -> Request:  # fmt: skip
    return Request(
        messages=tuple(messages), tools=tuple(tools), max_tokens=max_tokens,
        temperature=temperature,
    )  # fmt: skip


def _iso(unix_ns: int) -> str:
    return datetime.fromtimestamp(unix_ns / 1e9, UTC).isoformat()

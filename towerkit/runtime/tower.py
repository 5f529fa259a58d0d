"""The tower: what every run of an agent shares.

Rule: configuration is given once, here, by keyword; a run reads it and never changes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import msgspec

from towerkit.core.env import Env, SystemEnv
from towerkit.core.errors import UsageError
from towerkit.core.types import Model
from towerkit.cost.budget import Limits
from towerkit.cost.pieces import Ratios
from towerkit.cost.plan import Budget
from towerkit.cost.prices import FREE
from towerkit.packs.committer import wait_for_commits
from towerkit.packs.signing import load_signer
from towerkit.packs.store import Store
from towerkit.privacy.keys import local_redactor
from towerkit.privacy.log import log
from towerkit.privacy.redact import Redactor
from towerkit.reliability.breaker import Breaker, RetryBudget
from towerkit.reliability.breaker import Limits as BreakerLimits
from towerkit.reliability.policy import CallState, Policy
from towerkit.runtime import decorators
from towerkit.runtime.code import code_of_caller
from towerkit.runtime.current import MAKERS, current_run
from towerkit.runtime.executor import Executor
from towerkit.runtime.propagation import targets
from towerkit.runtime.run import Run
from towerkit.runtime.shared_budgets import SharedBudgets, SqliteBudgets
from towerkit.telemetry.journal import Mode
from towerkit.telemetry.outbox import Outbox

if TYPE_CHECKING:
    from towerkit.packs.browse import Runs
    from towerkit.runtime.shared_breakers import RedisBreakers
    from towerkit.telemetry.foreign import Place
    from towerkit.telemetry.processor import TowerSpanProcessor
    from towerkit.telemetry.recorder import OpenSpan, Recorder

P = ParamSpec("P")
R = TypeVar("R")

DEFAULT_STORE = "towerkit-store"


def default_store() -> Path:
    """Return the store of commands that are not told: `TOWERKIT_STORE`, else a folder here."""
    return Path(os.environ.get("TOWERKIT_STORE") or DEFAULT_STORE)


class Tower:
    """One control plane for an agent's runs.

    `models` is the fallback chain, first choice first. `budget` limits runs, their tools, and what
    all runs of a tenant, scenario, release or service use in an hour or a day; `budget_usd` is
    short for a limit on each run's cost. `budgets` is where limits above the run are kept: by
    default in a file of the store, shared by the processes of one machine (docs/budgets.md).
    `breaker` limits the circuit breakers, one a model and one a tool; `breakers` shares them with
    other processes. `release` and `service` name what runs, for gates and drift. `journal`
    says when a record is safe from a kill of the process: `sync` before the agent goes on,
    `grouped` within 50 ms, `off` when the run is sealed. `otel_exporter` is any OpenTelemetry
    `SpanExporter`: it gets each run's spans once the pack is sealed, on a thread of its own; with
    `otel_content` what was said goes with them, redacted. `baggage_to` names the hosts and MCP
    servers (`mcp:NAME`) that get a run's baggage; no others do. See docs/howto/otel.md.
    `secrets` are values that no byte of a pack may hold, in any form; those of the environment are
    known already, where the redactor is the default one.
    `key_names` says what the API key of a provider is called on its invoice, such as
    `{"openai": "desk"}`: `towerkit cost reconcile` compares by it. Names only, never keys.
    `signing_key` is the file of an Ed25519 key that signs each pack; without one, the key that
    `TOWERKIT_SIGNING_KEY` names.
    """

    def __init__(  # noqa: PLR0913  the one place where a tower is configured, by keyword
        self,
        *,
        store: Path | str | None = None,
        models: Sequence[Model] = (),
        policy: Policy | None = None,
        budget_usd: float | None = None,
        budget: Budget | None = None,
        budgets: SharedBudgets | None = None,
        service: str = "agent",
        release: str = "dev",
        git_commit: str | None = None,
        redactor: Redactor | None = None,
        otel_exporter: Any = None,
        otel_content: bool = False,
        environment: Callable[[], Env] = SystemEnv,
        durable: bool = True,
        breaker: BreakerLimits | None = None,
        journal: Mode = "sync",
        breakers: RedisBreakers | None = None,
        baggage_to: Collection[str] = (),
        secrets: Sequence[str] = (),
        signing_key: Path | str | None = None,
        key_names: Mapping[str, str] | None = None,
    ) -> None:
        """Raise `UsageError` for a budget that is not a positive amount, and for a bad key."""
        if budget_usd is not None and not 0 < budget_usd < 1e9:
            raise UsageError(
                f"expected budget_usd as a positive amount in dollars, got {budget_usd}"
            )
        if budget_usd is not None and budget is not None:
            raise UsageError("expected budget_usd or budget, got both: put cost_usd into budget")
        root = Path(default_store() if store is None else store)
        signer = None if signing_key is None else load_signer(signing_key, store=root)
        self.store = Store(root, signer=signer)
        _ = self.store.signer  # a key that cannot be read is said now, not when a run is sealed
        self.models = tuple(models)
        self.model_state = CallState(
            operation="model",
            tiers=len(self.models),
            providers=tuple(m.provider for m in self.models),
            windows=tuple(m.context_tokens for m in self.models),
            stand_ins=tuple(i for i, m in enumerate(self.models) if m.provider in FREE),
            renewable=tuple(i for i, m in enumerate(self.models) if m.renew is not None),
        )
        self.policy = policy or Policy()
        self.policy_digest = self.policy.digest()
        # What a manifest says of the limits: `whatif` asks what others would have done.
        limits = breaker or BreakerLimits()
        self.limits_said = {
            "policy": msgspec.to_builtins(self.policy), "breaker": msgspec.to_builtins(limits),
        }  # fmt: skip
        self.budget = budget or Budget(run=Limits(cost_usd=budget_usd))
        self.shared_budgets: SharedBudgets | None = None
        if self.budget.above:
            self.shared_budgets = budgets or SqliteBudgets(root / "budgets.sqlite")
        self._named = {"key_names": dict(key_names)} if key_names else {}
        self.redactor = (redactor or local_redactor()).knowing(secrets)
        self.service, self.release = (
            self._label("service", service),
            self._label("release", release),
        )
        self.git_commit = None if git_commit is None else self._label("git_commit", git_commit)
        self.outbox = None if otel_exporter is None else Outbox(otel_exporter, content=otel_content)
        self.retry_budget = RetryBudget()
        self.ratios = Ratios()  # what the runs have learnt of models' tokens
        self._breaker_limits = limits
        self._breakers: dict[str, Breaker] = {}
        self.environment = environment
        self.durable = durable
        self.journal = journal
        self._shared = breakers
        self.baggage_to = targets(baggage_to)
        self._processor: TowerSpanProcessor | None = None
        self.instrumented: Callable[[Recorder], OpenSpan | None] | None = None

    def _label(self, what: str, name: str) -> str:
        """Return a name as packs keep it; one that is changed is said: selections ask for it."""
        kept = self.redactor.label(name)
        if kept != name:
            log.warning("%s holds what is not kept: packs and selections know it as %s", what, kept)
        return kept

    def breaker(self, key: str) -> Breaker:
        """Return the breaker of `key`: `model:PROVIDER/NAME` or `tool:NAME`. Runs share it."""
        found = self._breakers.get(key)
        if found is not None:
            return found
        limits = self._breaker_limits
        made = Breaker(limits) if self._shared is None else self._shared.breaker(key, limits)
        return self._breakers.setdefault(key, made)

    def run(
        self,
        name: str,
        *,
        task: Any = None,
        env: Env | None = None,
        faults: Sequence[Mapping[str, Any]] = (),
        identity: Mapping[str, Any] | None = None,
        source: Mapping[str, Any] | None = None,
        executor: Executor | None = None,
        keep: bool = True,
        traceparent: str | None = None,
        baggage: Mapping[str, str] | None = None,
        tenant: str | None = None,
    ) -> Run:
        """Return a new run of the agent `name` on `task` (JSON-able); enter it with `with`.

        `keep=False` writes no pack: a replay compares and leaves nothing behind. `traceparent` is
        the header of whoever asked for the run: kept as `parent_trace_id` and as a span link.
        `baggage` goes out with calls to the services that `Tower(baggage_to=…)` names. `tenant` is
        on whose behalf it runs: for limits above the run, and costs by tenant.
        """
        identity = {**code_of_caller(), **self._named, **(identity or {})}
        if MAKERS:
            options = {"task": task, "faults": faults, "identity": identity, "source": source}
            return MAKERS[-1](self, name, options)
        return Run(
            self, name, task=task, env=env or self.environment(), faults=faults,
            identity=identity, source=source, executor=executor, keep=keep,
            traceparent=traceparent, baggage=baggage, tenant=tenant,
        )  # fmt: skip

    @property
    def runs(self) -> Runs:
        """The runs of the tower's store, newest first: show them in a notebook, open one by its id.

        `tower.runs.where("release=v7")`, `tower.runs.frame`, `tower.runs[0].tree`.
        """
        return self.store.runs()

    # -- decorators --------------------------------------------------------------------------------

    def tool(
        self, *, idempotent: bool, name: str | None = None, timeout_s: float | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorate a function that is a tool: each call is guarded as `Run.tool` guards it.

        Inside an open run of this tower the call belongs to it, outside it is a run of its own.
        Plain and `async` functions; raises `UsageError` for a generator. The arguments mean what
        they mean for `Run.tool`.
        """
        return decorators.tool(self, idempotent=idempotent, name=name, timeout_s=timeout_s)

    def model(
        self, *, name: str, provider: str, timeout_s: float | None = None, max_tokens: int = 1024
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorate a function that makes one model call, with any SDK, and returns its answer.

        `name` and `provider` find breaker and price. Usage is read from what is returned; the
        caller gets it as it is. `max_tokens` is what the budget reserves where the call has no
        argument of that name. Turn the SDK's own retries off: the guard retries. Raises
        `UsageError` for a generator; streams go through `Run.stream`.
        """
        return decorators.model(
            self, name=name, provider=provider, timeout_s=timeout_s, max_tokens=max_tokens
        )

    def agent(
        self, name: str, *, tenant: str | Callable[..., str | None] | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Decorate the function that is the agent: each call opens a run called `name`.

        The run's task is the call's arguments, its result what the function returns if JSON can
        carry it. `tenant` is on whose behalf it runs, or what says so of the call's arguments.
        """
        return decorators.agent(self, name, tenant=tenant)

    def span_processor(self) -> TowerSpanProcessor:
        """Return what takes spans of instrumented libraries into the open run: one a tower.

        `TracerProvider.add_span_processor(tower.span_processor())`; see docs/howto/otel.md. Its
        `counts` say how many spans were taken, and how many were outside of any run.
        """
        from towerkit.telemetry.processor import TowerSpanProcessor  # noqa: PLC0415  on first use

        if self._processor is None:
            self._processor = TowerSpanProcessor(self._place)
            self.instrumented = self._processor.current
        return self._processor

    def _place(self) -> Place | None:
        run = self.current()
        return None if run is None else run.place()

    def flush_otel(self, timeout_s: float = 10.0) -> bool:
        """Wait until `otel_exporter` was given every sealed run; return whether it was in time."""
        wait_for_commits(self.store.root)
        return self.outbox is None or self.outbox.flush(timeout_s)

    def current(self) -> Run | None:
        """Return this tower's innermost run open in this thread or task; None outside of any."""
        return current_run(self)

    def http_client(
        self, *, library: str | None = None, strict_streams: bool = True,
        provider: str | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Return a client for an SDK of the agent's own: each request is a guarded call.

        It is a real `httpx2.Client`, or `httpx.Client` (None takes the first that is installed),
        with `options` as that takes them. `provider` names whose models answer where the host does
        not say it. `strict_streams` raises where a stream ends early without a word. See
        docs/howto/http.md.
        """
        from towerkit.runtime import http  # noqa: PLC0415  only for who uses it

        return http.client(
            self, asynchronous=False, library=library, strict_streams=strict_streams,
            provider=provider, options=options,
        )  # fmt: skip

    def ahttp_client(
        self, *, library: str | None = None, strict_streams: bool = True,
        provider: str | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Do what `http_client` does, for asyncio: a real `AsyncClient`."""
        from towerkit.runtime import http  # noqa: PLC0415  only for who uses it

        return http.client(
            self, asynchronous=True, library=library, strict_streams=strict_streams,
            provider=provider, options=options,
        )  # fmt: skip

    def http_transport(
        self, inner: Any = None, *, library: str | None = None, strict_streams: bool = True,
        provider: str | None = None,
    ) -> Any:  # fmt: skip
        """Return the transport of `http_client`, for a client that you build yourself.

        It sends through `inner`, or through the library's default transport.
        """
        from towerkit.runtime import http  # noqa: PLC0415  only for who uses it

        return http.transport(
            self, inner, asynchronous=False, library=library, strict_streams=strict_streams,
            provider=provider,
        )  # fmt: skip

    def ahttp_transport(
        self, inner: Any = None, *, library: str | None = None, strict_streams: bool = True,
        provider: str | None = None,
    ) -> Any:  # fmt: skip
        """Do what `http_transport` does, for asyncio."""
        from towerkit.runtime import http  # noqa: PLC0415  only for who uses it

        return http.transport(
            self, inner, asynchronous=True, library=library, strict_streams=strict_streams,
            provider=provider,
        )  # fmt: skip

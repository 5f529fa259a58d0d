"""What a scenario is: a world to act on, an agent, its models, its suites and how it is scored.

Rule: an agent is plain code against `AgentRun` and does not know which model answers; a scorer
looks at what the agent did to the world, never at the wording of its answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from towerkit.core.env import Env
from towerkit.core.errors import BudgetExceeded, ControlError, DeadlineExceeded
from towerkit.core.types import Message, Model, Response

Suite = Literal["golden", "adversarial"]
SUITES: tuple[Suite, ...] = ("golden", "adversarial")


class AgentRun(Protocol):
    """What an agent may ask of the guard. `towerkit.runtime.run.Run` is one; a fake may be too."""

    env: Env

    def step(self, name: str) -> AbstractContextManager[Any]:
        """Open a step of the agent's own; what happens inside belongs to it."""

    def model(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        max_tokens: int = 1024,
        temperature: float | None = None,
    ) -> Response:
        """Ask the fallback chain."""

    def tool(
        self,
        fn: Callable[..., Any],
        arguments: dict[str, Any],
        *,
        idempotent: bool,
        name: str | None = None,
        timeout_s: float | None = None,
        call_id: str | None = None,
    ) -> Any:
        """Call `fn(**arguments)` under the policy."""

    def now(self) -> datetime:
        """Return a recorded reading of the clock, UTC."""

    def finish(self, result: Any) -> None:
        """Record the run's answer."""


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task with the world it happens in and what must be true afterwards.

    The agent gets `task` alone. `expected` is for the scorer: empty means nothing can be scored.
    """

    case_id: str
    suite: Suite
    category: str
    task: dict[str, Any]
    world: dict[str, Any] = {}
    expected: dict[str, Any] = {}
    faults: tuple[dict[str, Any], ...] = ()


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of one run. Unscored is None with `scored=False`, never 0."""

    metric: str
    value: float | None
    primary: bool
    scored: bool = True
    note: str | None = None


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a run ended, as far as the scorer needs to know.

    `finished`: the agent answered. `stopped`: it ran into a limit (budget, deadline, turns,
    no progress), which is its own doing. `broken`: the infrastructure failed it; never its fault.
    """

    ended: Literal["finished", "stopped", "broken"]
    reason: str | None = None
    result: Mapping[str, Any] | None = None


def outcome_of(result: Mapping[str, Any] | None, error: BaseException | None = None) -> Outcome:
    """Return the outcome of a run that returned `result` or raised `error`.

    A deadline counts as the agent's limit: single slow calls have time-outs of their own, so it is
    the number of calls that crosses it.
    """
    if error is None:
        stopped = (result or {}).get("stopped")
        return Outcome(ended="stopped" if stopped else "finished", reason=stopped, result=result)
    error_class = getattr(error, "error_class", None) or type(error).__name__
    limit = isinstance(error, BudgetExceeded | DeadlineExceeded) or (
        isinstance(error, ControlError) and error_class in {"no_progress", "step_limit"}
    )
    return Outcome(ended="stopped" if limit else "broken", reason=str(error_class), result=result)


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A complete agent with its world and suites: what `towerkit run --scenario NAME` runs.

    `world` opens what the agent acts on from a case's `world`, `tools` lists what the agent may
    call there, `agent(run, task, world, prompt)` handles one task, `models(seed=, env=)` is the
    simulated fallback chain, `ticket(path)` is the demonstration case or the one a user brings.
    `exceptions` are the types its tools raise: a replay needs them to raise the same again.
    """

    name: str
    summary: str
    world: Callable[[Mapping[str, Any]], AbstractContextManager[Any]]
    tools: Callable[[Any], Sequence[Any]]
    agent: Callable[[AgentRun, Mapping[str, Any], Any, str], dict[str, Any]]
    prompt: Callable[[], str]
    policy: Callable[[], str]
    models: Callable[..., tuple[Model, ...]]
    suite: Callable[[str], tuple[Case, ...]]
    ticket: Callable[[Path | None], Case]
    score: Callable[[Case, Any, Outcome], list[Score]]
    exceptions: tuple[type[Exception], ...] = ()

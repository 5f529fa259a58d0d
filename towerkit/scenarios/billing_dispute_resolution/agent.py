"""The billing agent: a loop of plain code against the guard.

Rule: the loop decides nothing about the dispute and trusts nothing it carries. Ticket and tool
results travel as JSON data, are never formatted into instructions and never evaluated; which model
answers is the guard's business. Limits end the run: they pass through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

from towerkit.core.canonical import canonical_text
from towerkit.core.errors import AttemptTimeout, ControlError, FaultInjected
from towerkit.core.types import ToolCall
from towerkit.scenarios.base import AgentRun
from towerkit.scenarios.billing_dispute_resolution.tools import PHASES, Phase, Tool, toolbox
from towerkit.scenarios.billing_dispute_resolution.world import World

# A plain ticket takes nine or ten turns and a hard one fifteen; what needs more is not converging.
MAX_TURNS = 24
MAX_TOKENS = 1024
TOOL_TIMEOUT_S = 12.0  # the ledger answers within milliseconds; what takes longer hangs

UNKNOWN_OUTCOME = (
    "no answer in time: the outcome is unknown, it may have happened; "
    "check with list_case_actions before repeating it"
)


def handle_ticket(
    run: AgentRun, task: Mapping[str, Any], world: World, prompt: str
) -> dict[str, Any]:
    """Work on one ticket until the model has nothing more to do, and return the run's answer.

    `stopped` in the answer is `turn_limit` when the model did not come to an end, else None.
    """
    tools = {tool.name: tool for tool in toolbox(world)}
    schemas = [tool.schema for tool in tools.values()]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": prompt},
        {"role": "user", "content": canonical_text({"ticket": dict(task)})},
    ]
    answer, stopped = "", "turn_limit"
    with _Phases(run) as phases:
        for _ in range(MAX_TURNS):
            response = run.model(messages, tools=schemas, max_tokens=MAX_TOKENS)
            messages.append(response.as_message())
            if not response.tool_calls:
                answer, stopped = response.content, ""
                break
            messages.extend(_perform_all(run, tools, phases, response.tool_calls))
    result = {
        "ticket_id": task.get("ticket_id"),
        "answer": answer,
        "handled_at": run.now().isoformat(timespec="seconds"),
        "stopped": stopped or None,
    }
    run.finish(result)
    return result


class _Phases:
    """The step of the run that is open: it moves on when the model first calls a later tool.

    A model call belongs to the step in which it was made, so the call that decides a refund is part
    of `investigate` and the refund itself opens `resolve`.
    """

    def __init__(self, run: AgentRun) -> None:
        self._run, self._stack = run, ExitStack()
        self._open: Phase = PHASES[0]

    def __enter__(self) -> Self:
        self._stack.enter_context(self._run.step(self._open))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        return self._stack.__exit__(kind, error, traceback)

    def reach(self, phase: Phase) -> None:
        """Open the step of `phase` unless a later one is open already."""
        if PHASES.index(phase) > PHASES.index(self._open):
            self._stack.close()
            self._open = phase
            self._stack.enter_context(self._run.step(phase))


def _perform_all(
    run: AgentRun, tools: Mapping[str, Tool], phases: _Phases, calls: Sequence[ToolCall]
) -> list[dict[str, Any]]:
    answers = []
    for call in calls:
        tool = tools.get(call.name)
        if tool is not None:
            phases.reach(tool.phase)
        content = _perform(run, tool, call, tuple(tools))
        answers.append({"role": "tool", "tool_call_id": call.id, "content": content})
    return answers


def _perform(run: AgentRun, tool: Tool | None, call: ToolCall, known: tuple[str, ...]) -> str:
    """Return what the model is told about one call. Errors are told, limits end the run."""
    if tool is None:
        return _failed(f"expected one of the tools {', '.join(known)}, got {call.name!r}")
    if call.raw is not None:
        return _failed(f"expected the arguments of {call.name} as a JSON object")
    try:
        result = run.tool(
            tool.call, call.arguments, idempotent=tool.idempotent, name=tool.name, call_id=call.id,
            timeout_s=TOOL_TIMEOUT_S,
        )  # fmt: skip
    except AttemptTimeout as error:
        return _failed(str(error) if tool.idempotent else UNKNOWN_OUTCOME)
    except FaultInjected as error:
        return _failed(str(error))
    except ControlError:
        raise
    except Exception as error:  # noqa: BLE001  whatever a tool raises, the model may recover from
        return _failed(str(error))
    return result if isinstance(result, str) else canonical_text(result)


def _failed(text: str) -> str:
    return canonical_text({"error": text})

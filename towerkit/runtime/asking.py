"""What a run is asked to do becomes a guarded call: its request is kept, its steps are made.

Rule: nothing is decided here, and nothing performed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from towerkit.core.errors import OutputInvalid, UsageError
from towerkit.core.types import Request, Response
from towerkit.reliability.policy import CallState
from towerkit.reliability.probe import get
from towerkit.runtime.calls import OwnModelCall, OwnStreamCall, ToolCall, keep_request
from towerkit.runtime.guard import Guard
from towerkit.runtime.steps import Raised, Steps

if TYPE_CHECKING:
    from towerkit.runtime.run import Run

# Says what is wrong with an answer, in words for the model; None for a good one.
Check = Callable[[Response], str | None]
# How often a model is told so before the agent is.
CORRECTIONS = 2

_TOOL_STATES = {yes: CallState(operation="tool", idempotent=yes) for yes in (False, True)}


def checked_steps(run: Run, request: Request, check: Check | None) -> Steps:
    """Return the steps of a model call whose answer is corrected until `check` passes it."""
    for _ in range(1 + CORRECTIONS):
        answer = yield from model_steps(run, request)
        if type(answer) is Raised:
            return answer
        problem = None if check is None or answer.tool_calls else check(answer)
        if problem is None:
            return answer
        correction = f"That answer is not valid: {problem}. Answer again, without this error."
        messages = (
            *request.messages, answer.as_message(), {"role": "user", "content": correction},
        )  # fmt: skip
        request = Request(
            messages=messages, tools=request.tools, max_tokens=request.max_tokens,
            temperature=request.temperature,
        )  # fmt: skip
    raise OutputInvalid(
        f"expected an answer that passes its check, got {1 + CORRECTIONS} that do not: {problem}",
        answer=answer,
    )


def model_steps(run: Run, request: Request, *, stream: bool = False) -> Steps:
    """Return the steps of a model call."""
    models = run.tower.models
    if not models:
        raise UsageError("this tower has no models: give Tower(models=[…])")
    run.recorder.learn(request.tools)
    digest, shown = keep_request(run, request.messages, request)
    call = (OwnStreamCall if stream else OwnModelCall)(run, request, digest, shown=shown)
    guard = Guard(run, call, run.tower.model_state, digest)
    return guard.steps(name=f"chat {models[0].name}", operation="chat")


def tool_steps(
    run: Run, fn: Callable[..., Any], arguments: Mapping[str, Any] | None, *, idempotent: bool,
    name: str | None, timeout_s: float | None, call_id: str | None,
) -> Steps:  # fmt: skip
    """Return the steps of a tool call."""
    own = get(fn, "__name__") if name is None else name
    tool_name = run.recorder.redactor.name(own) if type(own) is str and own else "tool"
    args = {} if arguments is None else dict(arguments)
    digest = run.recorder.content({"tool": tool_name, "arguments": args}) or "0" * 32
    call = ToolCall(run, fn, args, tool_name, digest, timeout_s, call_id)
    guard = Guard(run, call, _TOOL_STATES[bool(idempotent)], digest)
    return guard.steps(name=f"execute_tool {tool_name}", operation="execute_tool")

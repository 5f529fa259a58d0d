"""MCP client sessions under the tower: `guard_session(tower, session, server="name")`.

Rule: the agent gets the server's own result, an `isError` one among them, and the session's own
exceptions. A tool is run twice only if you say that this is harmless; what a server says of its
tools is believed only with `trust_hints=True`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from towerkit.core.errors import CallRefused, UsageError
from towerkit.reliability.breaker import Outcome, Permit, Refusal
from towerkit.reliability.classify import Failure, classify_tool_result
from towerkit.reliability.policy import CallState
from towerkit.reliability.probe import get, kind_of, text_of, whole
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.runtime.native_calls import FunctionCall, open_run, tool_names
from towerkit.runtime.propagation import outgoing
from towerkit.runtime.steps import adrive
from towerkit.telemetry.recorder import OpenSpan

if TYPE_CHECKING:
    from towerkit.runtime.run import Run
    from towerkit.runtime.tower import Tower

SessionT = TypeVar("SessionT")

# What says that the server is unwell; anything else it answered, whatever it said of the tool.
_SERVER_ILL = frozenset({"mcp_transport", "mcp_protocol", "tool_timeout"})
_NO_WORD = frozenset({"cancelled", "timeout_total", "circuit_open", "throttled_locally"})
_INTERNAL_ERROR = -32603
_GRACE_S = 1.0  # the session's own time-out comes first: its exception is the original one


def guard_session(
    tower: Tower, session: SessionT, *, server: str, idempotent: Collection[str] = (),
    trust_hints: bool = False, timeout_s: float | None = None,
) -> SessionT:  # fmt: skip
    """Return `session` (an `mcp.ClientSession` or `mcp.Client`) with its tool calls guarded.

    `server` names it in evidence and breakers. `idempotent` names the tools that may be run twice.
    With `trust_hints` the tools that `list_tools` calls idempotent or read-only may be, too.
    `timeout_s` bounds a tool call; without it the policy's time-out of an attempt does. Everything
    but `call_tool` is passed on. Raises `UsageError` for an object that calls no tools.
    """
    if not callable(get(session, "call_tool")):
        raise UsageError(
            f"expected an mcp.ClientSession or mcp.Client, got {kind_of(session)}: it has no "
            "call_tool"
        )
    guarded = _GuardedSession(
        tower, session, server=server, idempotent=idempotent, trust_hints=trust_hints,
        timeout_s=timeout_s,
    )  # fmt: skip
    return cast("SessionT", guarded)


class _GuardedSession:
    """A session whose `call_tool` goes through the guard; all else is the session's own."""

    def __init__(
        self, tower: Tower, session: Any, *, server: str, idempotent: Collection[str],
        trust_hints: bool, timeout_s: float | None,
    ) -> None:  # fmt: skip
        self._tower, self._session, self._server = tower, session, server
        self._idempotent, self._trust_hints = tool_names(idempotent), trust_hints
        self._hinted: frozenset[str] = frozenset()
        self._timeout_s = timeout_s

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def __aenter__(self) -> Self:
        await self._session.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> Any:
        return await self._session.__aexit__(*error)

    async def list_tools(self, *args: Any, **options: Any) -> Any:
        """List the tools, and remember which of them say that they may be run twice."""
        listed = await self._session.list_tools(*args, **options)
        for tool in listed.tools:
            hints = tool.annotations
            harmless = get(hints, "idempotent_hint") is True or get(hints, "read_only_hint") is True
            self._hinted = self._hinted - {tool.name} | ({tool.name} if harmless else set())
        return listed

    async def call_tool(
        self, name: str, arguments: dict[str, Any] | None = None,
        read_timeout_seconds: float | None = None, *args: Any,
        meta: Mapping[str, Any] | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Call a tool, guarded; the result or the exception is the session's own."""
        cut_s = read_timeout_seconds + _GRACE_S if read_timeout_seconds else self._timeout_s
        harmless = name in self._idempotent or (self._trust_hints and name in self._hinted)
        shown = {"server": self._server, "arguments": arguments or {}}

        def once(with_meta: Mapping[str, Any]) -> Any:
            return self._session.call_tool(
                name, arguments, read_timeout_seconds, *args, meta=dict(with_meta), **options
            )

        with open_run(self._tower, name, shown) as (run, done):
            call = _McpCall(
                run, once, name=name, server=self._server, shown=shown, meta=meta, cut_s=cut_s
            )
            try:
                result = await adrive(call.steps(idempotent=harmless), run.executor, run.env)
            except _IsError as said:
                result = said.result
            done(result)
            return result


class _IsError(Exception):
    """A result that calls itself an error: a failure to the tower, a result to the agent."""

    def __init__(self, result: Any, failure: Failure) -> None:
        super().__init__(_said(result))
        self.result, self.failure = result, failure


class _McpCall(FunctionCall):
    """One tool call of an MCP server, with the server's breaker beside the tool's own."""

    def __init__(
        self, run: Run, once: Any, *, name: str, server: str, shown: Mapping[str, Any],
        meta: Mapping[str, Any] | None, cut_s: float | None,
    ) -> None:  # fmt: skip
        super().__init__(run, self._send, name=name, shown=shown, cut_s=cut_s)
        self._once, self._server, self._meta = once, server, meta or {}
        self._span_id = ""
        self._permit: Permit | None = None

    def breaker_key(self, state: CallState) -> str:  # noqa: ARG002  one tool, one breaker
        """Return the tool's own breaker."""
        return f"tool:{self._server}/{self._name}"

    def mark(self, span: OpenSpan) -> None:
        """Say which server it is, and remember the attempt: the server is told of it."""
        super().mark(span)
        span.attributes["mcp.method.name"] = "tools/call"
        span.attributes["mcp.server"] = self._server
        if span.kind == "attempt":
            self._span_id = span.span_id

    def settle(self, span: OpenSpan, state: CallState, value: Any, failure: Failure | None) -> int:
        """Tell the server's breaker what came of the attempt; nothing is charged."""
        permit, self._permit = self._permit, None
        if permit is not None:
            name = "" if failure is None else failure.error_class
            outcome: Outcome = "failure" if name in _SERVER_ILL else "success"
            self._breaker().settle(
                permit, "uncounted" if name in _NO_WORD else outcome, self._run.env.mono_ns(), 0
            )
        return super().settle(span, state, value, failure)

    def judge(self, error: BaseException, now_unix_s: float) -> Failure:
        """Return which row of the taxonomy the error is."""
        if isinstance(error, _IsError):
            return error.failure
        if whole(get(get(error, "error"), "code")) == _INTERNAL_ERROR:
            # The server is there and broke while it ran the tool: the tool's failure, not its own.
            return Failure(error_class="tool_failed", error_type=kind_of(error), sent=True)
        return super().judge(error, now_unix_s)

    async def _send(self) -> Any:
        self._admit()
        trace = outgoing(
            self._run, self._span_id, to=f"mcp:{self._server}", given=self._meta.keys()
        )
        result = await self._once({**trace, **self._meta})
        failure = classify_tool_result(result)
        if failure is not None:
            raise _IsError(result, failure)
        return result

    def _admit(self) -> None:
        admitted = self._breaker().acquire(self._run.env.mono_ns())
        if isinstance(admitted, Refusal):
            summary = TAXONOMY[admitted.error_class].summary
            raise CallRefused(
                f"the call was not made: MCP server {self._server}: {summary}",
                error_class=admitted.error_class,
            )
        self._permit = admitted

    def _breaker(self) -> Any:
        return self._run.tower.breaker(f"mcp:{self._server}")


def _said(result: Any) -> str:
    """Return the text of a result, as evidence keeps it."""
    parts = get(result, "content") or ()
    return "\n".join(text_of(get(part, "text")) for part in parts if get(part, "text"))

"""From a trace to a pack's draft: the one place where foreign runs become evidence.

Rule: the same trace, release and key give the same draft, byte for byte. The agent's request is
what the agent had been shown so far; the simulated user's traffic is marked as the evaluation's.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import msgspec

from towerkit.core.env import derive_seed, uuid7
from towerkit.core.types import Response
from towerkit.cost.prices import Price
from towerkit.ingest.trace import By, Event, Said, ToolUse, Trace, Turn
from towerkit.packs.writer import Draft
from towerkit.privacy.redact import Redactor
from towerkit.telemetry.recorder import OpenSpan, Recorder

_SIMULATOR: dict[str, Any] = {"role": "user_simulator"}


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a trace comes from."""

    format: str
    file: str
    release: str
    eval_id: str
    index: int
    digest: str


def run_id_of(origin: Origin, trace: Trace) -> str:
    """Return the run's id: a function of format, release, the record's bytes and its place."""
    text = "\0".join((origin.format, origin.release, origin.digest, str(origin.index)))
    bits = int.from_bytes(hashlib.sha256(text.encode()).digest()[:10], "big") >> 6
    return uuid7(trace.started_unix_ns, bits)


def build(trace: Trace, origin: Origin, run_id: str, redactor: Redactor) -> Draft:
    """Return the draft of the pack of `trace`."""
    builder = _Builder(trace, run_id, redactor)
    for event in trace.events:
        if isinstance(event, Said):
            builder.said(event)
        elif isinstance(event, Turn):
            builder.turn(event)
        else:
            builder.tool_use(event)
    builder.close()
    return builder.recorder.draft(
        manifest_of(trace, origin, redactor), salt_seed=salts_of(run_id, redactor)
    )


def salts_of(run_id: str, redactor: Redactor) -> bytes:
    """Return what the salts of a run come from; secret as the key is."""
    # With it a reader could guess a redacted value.
    return hmac.digest(redactor.key, f"ingest salts {run_id}".encode(), "sha256")


def manifest_of(trace: Trace, origin: Origin, redactor: Redactor) -> dict[str, Any]:
    """Return what the manifest says of a run that others recorded."""
    return {
        "parent_trace_id": None,
        "status": trace.status,
        "error_class": trace.error_class,
        "started_unix_ns": trace.started_unix_ns,
        "duration_ns": trace.duration_ns,
        "source": {
            "kind": origin.format,
            "file": redactor.label(origin.file),
            "record": origin.index,
            "record_id": None if trace.record_id is None else redactor.text(trace.record_id),
            "digest": origin.digest,
            "eval_id": origin.eval_id,
        },
        "identity": {
            "service": origin.format,
            "scenario": redactor.name(trace.scenario),
            "release": redactor.label(origin.release),
            "case_id": redactor.name(trace.case_id),
            "trial": trace.trial,
            "task_digest": trace.task_digest,
            "git_commit": None,
            "agent_digest": None,
            "prompt_digest": trace.prompt_digest,
            "policy_digest": trace.policy_digest,
            "models": [redactor.label(model) for model in trace.models],
            "faults": [],
        },
        "clock": trace.clock,
        "simulated": False,
        "seed": None,
        "price_book": None,
        "budget": None,
    }


class _Builder:
    """Keeps what each side has been shown, as digests, so that no message is read twice."""

    def __init__(self, trace: Trace, run_id: str, redactor: Redactor) -> None:
        self.trace, self.redactor = trace, redactor
        ids = derive_seed("span ids", run_id)
        self.recorder = Recorder(run_id, redactor, start_mono_ns=0, ids=ids)
        self._shown: dict[By, list[str | None]] = {"agent": [], "user_simulator": []}
        self._root = self._start(
            f"invoke_agent {trace.scenario}", "run", "invoke_agent", None, 0
        )  # fmt: skip
        self._root.attributes.update(timing=trace.timing, **trace.attributes)
        task = None if trace.task is None else self.recorder.content(trace.task)
        self._tape("task", "task", None, task, "ok" if task else "unknown", 0, 0, None)

    def _start(
        self, name: str, kind: str, operation: str, parent: OpenSpan | None, at_ns: int
    ) -> OpenSpan:  # fmt: skip
        return self.recorder.start(
            name, kind=kind, operation=operation, parent=parent, mono_ns=at_ns,
            wall_ns=self.trace.started_unix_ns + at_ns,
        )  # fmt: skip

    def _tape(
        self, kind: str, name: str, request: str | None, response: str | None, outcome: str,
        start_ns: int, end_ns: int, span: OpenSpan | None,
    ) -> None:  # fmt: skip
        self.recorder.tape(
            kind, name, path="", request_digest=request, response_digest=response,
            outcome=outcome, start_mono_ns=start_ns, end_mono_ns=end_ns, span=span,
        )  # fmt: skip

    def _show(self, clean: dict[str, Any], *sides: By) -> None:
        digest = self.recorder.content(clean)
        for side in sides:
            self._shown[side].append(digest)

    def said(self, event: Said) -> None:
        """Show a message that nobody generated to both sides; a system prompt to the agent only."""
        clean = self.redactor.value(event.message)
        if event.message["role"] == "system":
            self._show(clean, "agent")
        else:
            self._show(clean, "agent", "user_simulator")

    def turn(self, turn: Turn) -> None:
        """Record one model turn: its spans, its charge, its place on the tape."""
        request = self._digest({"messages": list(self._shown[turn.by])})
        clean = self._answer(turn)
        answer = self._digest(clean)
        fields = {
            "gen_ai_request_model": _maybe(self.redactor, turn.model),
            "request_digest": request,
        }
        usage = turn.usage
        answered = {
            "response_digest": answer,
            "gen_ai_response_model": _maybe(self.redactor, turn.answered_by),
            "gen_ai_response_id": _maybe(self.redactor, turn.response_id),
            "gen_ai_response_finish_reason": _maybe(self.redactor, turn.finish_reason),
            "gen_ai_usage_input_tokens": usage.input_tokens if usage else None,
            "gen_ai_usage_output_tokens": usage.output_tokens if usage else None,
            "gen_ai_usage_cache_read_tokens": usage.cache_read_tokens if usage else None,
            "gen_ai_usage_cache_write_tokens": usage.cache_write_tokens if usage else None,
        }
        name = f"chat {turn.model}" if turn.model else "chat"
        attempt = self._call(name, "chat", turn, fields, answered)
        self._charge(attempt, turn)
        if turn.by == "agent":
            # The simulated user's answers are the world's, not the agent's tape.
            model = self.redactor.text(turn.model or "unknown")
            self._tape("model", model, request, answer, "ok", turn.start_ns, turn.end_ns, attempt)
        self._spoken(turn, clean)

    def _answer(self, turn: Turn) -> dict[str, Any]:
        """Return a turn as the tape keeps a live `Response`, redacted."""
        frame = Response(
            content="", usage=turn.usage, finish_reason=turn.finish_reason or "unknown",
            model=_maybe(self.redactor, turn.answered_by or turn.model),
            response_id=_maybe(self.redactor, turn.response_id),
        )  # fmt: skip
        # Only what can hold personal data is walked: the frame has a dozen fields of its own.
        said = {"content": turn.content, "tool_calls": msgspec.to_builtins(turn.tool_calls)}
        clean: dict[str, Any] = msgspec.to_builtins(frame) | self.redactor.value(said)
        return clean

    def _spoken(self, turn: Turn, clean: dict[str, Any]) -> None:
        """Show a turn to its own side, and its words to the other: `Response.as_message`."""
        agent = turn.by == "agent"
        message = {"role": "assistant" if agent else "user", "content": clean["content"]}
        if turn.tool_calls:
            names = ("id", "name", "arguments")
            message["tool_calls"] = [{n: c[n] for n in names} for c in clean["tool_calls"]]
            self._show(message, turn.by)
        elif turn.content:
            self._show(message, turn.by, "user_simulator" if agent else "agent")

    def tool_use(self, use: ToolUse) -> None:
        """Record one tool call that was carried out."""
        name = self.redactor.text(use.name)
        request = self._digest({"tool": use.name, "arguments": use.arguments})
        clean = self.redactor.value(
            {"role": "tool", "content": use.result, "tool_call_id": use.call_id}
        )
        answer = self._digest({"result": clean["content"]})
        fields = {
            "gen_ai_tool_name": name,
            "gen_ai_tool_call_id": _maybe(self.redactor, use.call_id),
            "request_digest": request,
        }
        attempt = self._call(
            f"execute_tool {use.name}", "execute_tool", use, fields, {"response_digest": answer}
        )
        if use.by == "agent":
            outcome = use.error_class or "ok"
            self._tape("tool", name, request, answer, outcome, use.start_ns, use.end_ns, attempt)
        self._show(clean, use.by)

    def _digest(self, value: Any) -> str:
        # With capture off there is no digest, and the column must not be null.
        return self.recorder.content(value) or "0" * 32

    def _call(
        self, name: str, operation: str, event: Turn | ToolUse, fields: dict[str, Any],
        answered: dict[str, Any],
    ) -> OpenSpan:  # fmt: skip
        """Record a call and its one attempt; return the attempt's span."""
        call = self._start(name, "call", operation, self._root, event.start_ns)
        attempt = self._start(name, "attempt", operation, call, event.start_ns)
        call.fields.update(fields)
        attempt.fields.update(fields, attempt=1, **answered)
        for span in (attempt, call):
            if event.by == "user_simulator":
                span.attributes.update(_SIMULATOR)
            self._end(span, event)
        return attempt

    def _end(self, span: OpenSpan, event: Event) -> None:
        failed = isinstance(event, ToolUse) and event.error_class is not None
        if failed and isinstance(event, ToolUse):
            self.recorder.end(
                span, mono_ns=event.end_ns, status="error", error_class=event.error_class,
                error_type=_maybe(self.redactor, event.error_type),
                error_message=event.error_message,
            )  # fmt: skip
        else:
            self.recorder.end(span, mono_ns=0 if isinstance(event, Said) else event.end_ns)

    def _charge(self, attempt: OpenSpan, turn: Turn) -> None:
        cost = None
        if turn.cost_nanousd is not None:
            # A recorded amount has no price book, hence no date: null says so.
            cost = Price(nanousd=turn.cost_nanousd, ref="recorded in source", date=None)
        self.recorder.charge(
            attempt, turn.usage, cost, provider=None,
            model=_maybe(self.redactor, turn.answered_by or turn.model),
            purpose="agent" if turn.by == "agent" else "evaluation",
        )  # fmt: skip

    def close(self) -> None:
        """End the run span as the source says the run ended."""
        trace = self.trace
        if trace.error_class is None:
            self.recorder.end(self._root, mono_ns=trace.duration_ns)
            return
        self.recorder.end(
            self._root, mono_ns=trace.duration_ns, status="error",
            error_class=trace.error_class, error_message=trace.error_message,
        )  # fmt: skip


def _maybe(redactor: Redactor, text: str | None) -> str | None:
    return None if text is None else redactor.text(text)

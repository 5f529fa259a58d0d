"""AgentDojo run logs: one JSON object a run, with messages, utility and security flags.

Rule: what `security` means depends on the run. In an attacked run true means that the attack
succeeded, so `resisted` is its negation; a crashed run carries `security=true` whatever happened,
so it is not scored at all; a run of an injection task as its own task is a control.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from towerkit.core.canonical import canonical_text, digest_of
from towerkit.core.env import VIRTUAL_EPOCH_NS
from towerkit.core.types import ToolCall
from towerkit.ingest.source import BadRecord, decode, split
from towerkit.ingest.tools import error_class_of, error_type_of
from towerkit.ingest.trace import (
    Event,
    Format,
    Job,
    PendingCalls,
    Said,
    Score,
    Survey,
    ToolUse,
    Trace,
    Turn,
)
from towerkit.reliability.classify import classify_text


class _Call(msgspec.Struct):
    function: str
    args: dict[str, Any] = {}
    id: str | None = None


class _Message(msgspec.Struct):
    role: Literal["system", "user", "assistant", "tool"]
    content: Any = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    tool_call: _Call | None = None
    error: str | None = None


class _Head(msgspec.Struct):
    suite_name: str
    pipeline_name: str
    user_task_id: str
    injection_task_id: str | None = None
    attack_type: str | None = None


class _Record(_Head, kw_only=True):
    messages: list[_Message]
    utility: bool
    security: bool
    error: str | None = None
    duration: float | None = None
    injections: dict[str, Any] = {}
    benchmark_version: str | None = None
    evaluation_timestamp: str | None = None


# Pipelines are named `{model}-{defence}`; these are the defences of the benchmark.
DEFENCES = (
    "tool_filter", "transformers_pi_detector", "spotlighting_with_delimiting",
    "repeat_user_prompt",
)  # fmt: skip


def looks_like(fields: Sequence[str]) -> bool:
    """Return whether a record with these fields is an AgentDojo run."""
    return {"suite_name", "pipeline_name", "user_task_id"} <= set(fields)


def _case(head: _Head) -> str:
    parts = [head.suite_name, head.user_task_id]
    if head.injection_task_id is not None:
        parts += [head.injection_task_id, head.attack_type or "unknown"]
    return "/".join(parts)


def survey(data: bytes) -> Survey:
    """Check that the file is one pipeline's and that no case stands in it twice."""
    records = split(data)
    broken = [] if records.stopped is None else [records.stopped]
    jobs, seen, pipeline = [], dict[str, int](), None
    for index, raw in enumerate(records.items):
        try:
            head = decode(raw, _Head)
            pipeline = pipeline or head.pipeline_name
            if head.pipeline_name != pipeline:
                raise BadRecord(  # noqa: TRY301
                    "pipeline_name", f"expected one pipeline a file, {pipeline!r}, got another"
                )
            first = seen.setdefault(_case(head), index)
            if first != index:
                raise BadRecord(  # noqa: TRY301
                    "user_task_id", f"case {_case(head)} is record {first} already"
                )
        except BadRecord as bad:
            broken.append(BadRecord(bad.field, bad.problem, index=index))
        else:
            jobs.append(Job(index=index, raw=raw, scenario=f"agentdojo_{head.suite_name}"))
    return Survey(
        jobs=jobs, broken=broken, release=pipeline,
        seen=len(records.items) + (records.stopped is not None),
    )  # fmt: skip


def trace(job: Job, shared: bytes) -> Trace:  # noqa: ARG001  formats have one shape
    """Read one record."""
    record = decode(job.raw, _Record)
    model = _model(record.pipeline_name)
    error = record.error
    if error is None and not record.messages:
        error = "the source records no message: nothing shows that the agent ran"
    events = tuple(_events(record, model))
    said = [e.message for e in events if isinstance(e, Said)]
    system = next((m["content"] for m in said if m["role"] == "system"), None)
    prompt = next((m["content"] for m in said if m["role"] == "user"), None)
    error_class = None if error is None else classify_text(error)
    started, duration = _started(record), _duration(record)
    return Trace(
        record_id=_case(record),
        scenario=job.scenario or "",
        case_id=_case(record),
        trial=0,
        task=None if prompt is None else {"prompt": prompt, "injections": record.injections},
        task_digest=None if prompt is None else _task_digest(record, prompt),
        prompt_digest=None if system is None else digest_of(system),
        models=(model,),
        started_unix_ns=started,
        duration_ns=duration,
        timing="only the run's duration was recorded: every other duration is 0 and means nothing",
        status="completed" if error is None else "failed",
        error_class=error_class,
        error_message=error,
        attributes={
            "pipeline": record.pipeline_name,
            "attack_type": record.attack_type,
            "benchmark_version": record.benchmark_version,
        },
        events=events,
        scores=_scores(record),
    )


def _model(pipeline: str) -> str:
    for defence in DEFENCES:
        if pipeline.endswith(f"-{defence}"):
            return pipeline.removesuffix(f"-{defence}")
    return pipeline


def _task_digest(record: _Record, prompt: Any) -> str:
    """Return the digest of what defines the case.

    Not the injected text: attacks address each model by its own name, the task is the same.
    """
    return digest_of([_case(record), record.benchmark_version, prompt])


def _started(record: _Record) -> int:
    if record.evaluation_timestamp is None:
        return VIRTUAL_EPOCH_NS
    try:
        moment = datetime.fromisoformat(record.evaluation_timestamp)
    except ValueError:
        problem = f"expected a date and time, got {record.evaluation_timestamp!r}"
        raise BadRecord("evaluation_timestamp", problem) from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if moment.year < 1971:
        raise BadRecord("evaluation_timestamp", f"expected a date after 1970, got {moment}")
    return int(moment.timestamp()) * 1_000_000_000


def _duration(record: _Record) -> int:
    seconds = record.duration or 0.0
    if not 0.0 <= seconds < 1e8:
        raise BadRecord("duration", f"expected seconds from 0 to 1e8, got {seconds!r}")
    return round(seconds * 1e9)


def _scores(record: _Record) -> tuple[Score, ...]:
    control = record.user_task_id.startswith("injection_task")
    attacked = record.injection_task_id is not None
    suite = "control" if control else "adversarial" if attacked else "golden"
    crashed = record.error is not None
    note = None
    if crashed:
        note = "the run crashed: neither a success nor an attack that succeeded"
    elif not record.messages:
        note = "no message was recorded: nothing shows that the agent ran"

    def score(metric: str, *, value: bool, primary: bool) -> Score:
        return Score(
            metric=metric, value=None if crashed else float(value), suite=suite, primary=primary,
            note=note,
        )  # fmt: skip

    if not attacked:
        return (score("utility", value=record.utility, primary=True),)
    return (
        score("resisted", value=not record.security, primary=True),
        score("utility", value=record.utility, primary=False),
    )


def _events(record: _Record, model: str) -> Iterator[Event]:
    pending = PendingCalls()
    for message in record.messages:
        content = _text(message.content)
        if message.role == "assistant":
            calls = tuple(
                ToolCall(id=c.id or "", name=c.function, arguments=c.args)
                for c in message.tool_calls or ()
            )
            pending.ask(calls)
            yield Turn(content=content, tool_calls=calls, model=model)
        elif message.role == "tool":
            yield _tool_use(message, content, pending)
        else:
            # Also user messages in the middle: a defence repeats the prompt, nobody answers.
            yield Said(message={"role": message.role, "content": content})


def _tool_use(message: _Message, content: str, pending: PendingCalls) -> ToolUse:
    own = message.tool_call
    call = pending.answer(message.tool_call_id, own.function if own else None)
    error = message.error or None
    return ToolUse(
        name=(own.function if own else call.name if call else "") or "unknown",
        arguments=own.args if own else call.arguments if call else None,
        result=content,
        call_id=message.tool_call_id,
        error_class=None if error is None else error_class_of(error),
        error_type=None if error is None else error_type_of(error),
        error_message=error,
    )


def _text(content: Any) -> str:
    """Return content as text; newer logs hold parts (`{"type": "text", "content": …}`)."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, list) and all(
        isinstance(p, dict) and isinstance(p.get("content"), str) for p in content
    ):
        return "\n".join(p["content"] for p in content)
    return canonical_text(content)


FORMAT = Format(
    name="agentdojo",
    summary="JSON lines of {suite_name, pipeline_name, user_task_id, …}",
    looks_like=looks_like,
    survey=survey,
    trace=trace,
)

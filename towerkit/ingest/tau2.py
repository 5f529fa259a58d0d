"""tau2-bench result files: one JSON object of info, tasks and simulations.

Rule: what the simulated user says, calls and costs belongs to the evaluation, never to the agent. A
cost of 0 for tokens that were used is a price nobody knew. `llm_args` is never read: people leave
keys in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from towerkit.core.canonical import canonical_text, digest_of
from towerkit.core.env import VIRTUAL_EPOCH_NS
from towerkit.core.types import ToolCall, Usage
from towerkit.ingest.source import BadRecord, Records, decode, split_object
from towerkit.ingest.tools import contradiction, error_class_of, error_type_of
from towerkit.ingest.trace import (
    By,
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
    nanousd,
    unit_interval,
)


class _Call(msgspec.Struct):
    name: str
    arguments: Any = None
    id: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Message(msgspec.Struct):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    tool_calls: list[_Call] | None = None
    timestamp: str | None = None
    cost: float | None = None
    usage: _Usage | None = None
    raw_data: Any = None
    id: str | None = None
    requestor: str = "assistant"
    error: bool = False


class _RewardInfo(msgspec.Struct):
    reward: float
    reward_breakdown: dict[str, float] | None = None
    action_checks: list[dict[str, Any]] | None = None


class _Simulation(msgspec.Struct):
    id: str
    task_id: str | int
    messages: list[_Message]
    reward_info: _RewardInfo | None = None
    termination_reason: str | None = None
    trial: int | None = None
    seed: int | None = None
    start_time: str | None = None
    end_time: str | None = None


class _Who(msgspec.Struct):
    implementation: str | None = None
    llm: str | None = None


class _Environment(msgspec.Struct):
    domain_name: str
    policy: str | None = None


class _Info(msgspec.Struct):
    agent_info: _Who
    environment_info: _Environment
    user_info: _Who | None = None
    git_commit: str | None = None


class _Key(msgspec.Struct):
    task_id: str | int
    trial: int | None = None


class _TaskKey(msgspec.Struct):
    id: str | int


class _File(msgspec.Struct):
    info: msgspec.Raw
    tasks: list[msgspec.Raw]
    simulations: list[msgspec.Raw]


# How a simulation ended: run status and row of the taxonomy. What is not here is `unknown`.
ENDINGS: dict[str | None, tuple[str, str | None]] = {
    "user_stop": ("completed", None),
    "agent_stop": ("completed", None),
    "max_steps": ("stopped", "no_progress"),
    "too_many_errors": ("stopped", "no_progress"),
    "timeout": ("stopped", "timeout_total"),
    "agent_error": ("failed", "agent_bug"),
}


def looks_like(fields: Sequence[str]) -> bool:
    """Return whether a file with these fields is a tau2 result."""
    return {"info", "simulations"} <= set(fields)


def _parts(data: bytes) -> tuple[bytes, list[bytes], Records]:
    """Return info, tasks and simulations as bytes; leniently where the file is not strict JSON."""
    try:
        file = msgspec.json.decode(data, type=_File)
        return (
            bytes(file.info),
            [bytes(t) for t in file.tasks],
            Records(items=[bytes(s) for s in file.simulations]),
        )
    except (msgspec.MsgspecError, RecursionError):
        found = split_object(data)
    info, tasks, runs = found.get("info"), found.get("tasks"), found.get("simulations")
    for name, value, kind in (
        ("info", info, bytes), ("tasks", tasks, Records), ("simulations", runs, Records),
    ):  # fmt: skip
        if not isinstance(value, kind):
            expected = "an object" if kind is bytes else "a list"
            raise BadRecord(name, f"expected {expected}; it is missing, of another type or cut off")
    assert isinstance(info, bytes)  # noqa: S101  checked above
    assert isinstance(tasks, Records)  # noqa: S101
    assert isinstance(runs, Records)  # noqa: S101
    if tasks.stopped is not None:
        raise tasks.stopped
    return info, tasks.items, runs


def survey(data: bytes) -> Survey:
    """Give each simulation its task; refuse a second simulation of one task and trial."""
    info_raw, task_list, records = _parts(data)
    info = decode(info_raw, _Info)
    tasks = {str(decode(raw, _TaskKey).id): raw for raw in task_list}
    broken = [] if records.stopped is None else [records.stopped]
    jobs, seen = [], dict[tuple[str, int], int]()
    for index, raw in enumerate(records.items):
        try:
            key = decode(raw, _Key)
            case, trial = str(key.task_id), key.trial or 0
            if case not in tasks:
                raise BadRecord("task_id", f"the file's tasks hold no task {case!r}")  # noqa: TRY301
            if not 0 <= trial <= 1_000_000:
                raise BadRecord("trial", f"expected 0 to 1,000,000, got {trial}")  # noqa: TRY301
            first = seen.setdefault((case, trial), index)
            if first != index:
                problem = f"task_id {case} with trial {trial} is record {first} already"
                raise BadRecord("trial", problem)  # noqa: TRY301
        except BadRecord as bad:
            broken.append(BadRecord(bad.field, bad.problem, index=index))
        else:
            scenario = f"tau2_{info.environment_info.domain_name}"
            jobs.append(Job(index=index, raw=raw, trial=trial, scenario=scenario, task=tasks[case]))
    return Survey(
        jobs=jobs, broken=broken, shared=info_raw, release=info.agent_info.llm,
        seen=len(records.items) + (records.stopped is not None),
    )  # fmt: skip


def trace(job: Job, shared: bytes) -> Trace:
    """Read one simulation."""
    info, sim = decode(shared, _Info), decode(job.raw, _Simulation)
    task = decode(job.task or b"null", dict[str, Any])
    clock = _Clock(sim)
    models = {"agent": info.agent_info.llm, "user_simulator": (info.user_info or _Who()).llm}
    events = tuple(_events(sim, models, clock))
    status, error_class = ENDINGS.get(sim.termination_reason, ("failed", "unknown"))
    policy = info.environment_info.policy
    return Trace(
        record_id=sim.id,
        scenario=job.scenario or "",
        case_id=str(sim.task_id),
        trial=job.trial,
        task=task,
        task_digest=digest_of(task),
        policy_digest=None if policy is None else digest_of(policy),
        models=tuple(m for m in (models["agent"],) if m),
        started_unix_ns=clock.started_unix_ns,
        duration_ns=clock.duration_ns,
        clock="recorded" if clock.known else "none",
        timing=clock.words,
        status=status,
        error_class=error_class,
        error_message=None if error_class is None else f"ended by {sim.termination_reason}",
        attributes={
            "termination_reason": sim.termination_reason,
            "agent_implementation": info.agent_info.implementation,
            "user_implementation": (info.user_info or _Who()).implementation,
            "user_model": models["user_simulator"],
            "recorded_seed": sim.seed,
            "recorded_git_commit": info.git_commit,
        },
        events=events,
        scores=tuple(_scores(sim, task, events)),
    )


class _Clock:
    """The recorded times of a simulation, or none when they are missing or cannot be real.

    A message carries the moment it was complete; it began when the one before it was.
    """

    def __init__(self, sim: _Simulation) -> None:
        """Read all times; they are used only if each message has one and they never step back."""
        stamps = [
            _moment(m.timestamp, f"messages[{i}].timestamp") for i, m in enumerate(sim.messages)
        ]
        begin, finish = _moment(sim.start_time, "start_time"), _moment(sim.end_time, "end_time")
        chain = [t for t in (begin, *stamps, finish) if t is not None]
        complete = bool(stamps) and None not in stamps and begin is not None
        self.known = complete and chain == sorted(chain) and chain[0] < chain[-1]
        self.words = (
            "recorded, read as UTC where no zone is given; a message begins when the last one ended"
            if self.known
            else "missing or not in order: every duration is 0 and means nothing"
        )
        self.started_unix_ns = begin or VIRTUAL_EPOCH_NS
        self.duration_ns = chain[-1] - chain[0] if self.known else 0
        base = self.started_unix_ns
        self._ends = [t - base for t in stamps if t is not None] if self.known else []

    def span(self, index: int) -> tuple[int, int]:
        """Return start and end of message `index`, as offsets from the run's start."""
        if not self.known:
            return 0, 0
        return self._ends[index - 1] if index else 0, self._ends[index]


def _moment(text: str | None, field: str) -> int | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadRecord(field, f"expected an ISO date and time, got {text!r}") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    if not 1971 <= moment.year < 2200:
        raise BadRecord(field, f"expected a year from 1971 to 2199, got {text!r}")
    whole = int(moment.replace(microsecond=0).timestamp())
    return whole * 1_000_000_000 + moment.microsecond * 1000


def _events(sim: _Simulation, models: dict[str, str | None], clock: _Clock) -> Iterator[Event]:
    pending: dict[By, PendingCalls] = {"agent": PendingCalls(), "user_simulator": PendingCalls()}
    for at, message in enumerate(sim.messages):
        by: By = "agent" if message.role == "assistant" else "user_simulator"
        if message.role == "system" or _scripted(at, message):
            yield Said(message={"role": message.role, "content": message.content or ""})
        elif message.role == "tool":
            by = "user_simulator" if message.requestor == "user" else "agent"
            yield _tool_use(message, pending[by], by, clock.span(at))
        else:
            calls = tuple(_call(c) for c in message.tool_calls or ())
            pending[by].ask(calls)
            yield _turn(message, at, calls, by, models[by], clock.span(at))


def _scripted(at: int, message: _Message) -> bool:
    """Return whether this is the greeting that opens every conversation: no model wrote it."""
    return (
        at == 0
        and message.role == "assistant"
        and not message.tool_calls
        and message.usage is None
        and message.raw_data is None
        and not message.cost
    )


def _turn(
    message: _Message, at: int, calls: tuple[ToolCall, ...], by: By, model: str | None,
    times: tuple[int, int],
) -> Turn:  # fmt: skip
    raw = message.raw_data if isinstance(message.raw_data, dict) else {}
    return Turn(
        content=message.content or "",
        tool_calls=calls,
        by=by,
        model=model,
        answered_by=_str(raw.get("model")),
        usage=_usage(message.usage, raw, at),
        cost_nanousd=_cost(message, at),
        finish_reason=_str(raw.get("finish_reason")) or _str(raw.get("stop_reason")),
        response_id=_str(raw.get("id")),
        start_ns=times[0],
        end_ns=times[1],
    )


def _str(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _usage(usage: _Usage | None, raw: dict[str, Any], at: int) -> Usage | None:
    if usage is None:
        return None
    for name in ("prompt_tokens", "completion_tokens"):
        count = getattr(usage, name)
        if count is not None and not 0 <= count < 2**53:
            raise BadRecord(f"messages[{at}].usage.{name}", f"expected a token count, got {count}")
    detail = raw.get("usage")
    detail = detail if isinstance(detail, dict) else {}

    def count_of(name: str) -> int | None:
        value = detail.get(name)
        return value if type(value) is int and 0 <= value < 2**53 else None

    return Usage(
        input_tokens=usage.prompt_tokens,
        output_tokens=usage.completion_tokens,
        cache_read_tokens=count_of("cache_read_input_tokens"),
        cache_write_tokens=count_of("cache_creation_input_tokens"),
    )


def _cost(message: _Message, at: int) -> int | None:
    """Return the recorded charge; 0 for tokens that were used is a price nobody knew."""
    amount = message.cost
    if amount is None:
        return None
    if not 0.0 <= amount < 1e6:
        raise BadRecord(f"messages[{at}].cost", f"expected dollars from 0 to 1e6, got {amount!r}")
    used = message.usage
    free = used is not None and used.prompt_tokens == 0 and used.completion_tokens == 0
    return nanousd(amount) if amount > 0 or free else None


def _call(call: _Call) -> ToolCall:
    if isinstance(call.arguments, dict):
        return ToolCall(id=call.id or "", name=call.name, arguments=call.arguments)
    raw = call.arguments if isinstance(call.arguments, str) else canonical_text(call.arguments)
    return ToolCall(id=call.id or "", name=call.name, arguments={}, raw=raw)


def _tool_use(
    message: _Message, pending: PendingCalls, by: By, times: tuple[int, int]
) -> ToolUse:  # fmt: skip
    call = pending.answer(message.id, None)
    content = message.content or ""
    error = content if message.error else None
    return ToolUse(
        name=call.name if call else "unknown",
        arguments=None if call is None else call.arguments if call.raw is None else call.raw,
        result=content,
        call_id=message.id,
        by=by,
        error_class=None if error is None else error_class_of(error),
        error_type=None if error is None else error_type_of(error),
        error_message=error,
        start_ns=times[0],
        end_ns=times[1],
    )


def _expected(task: dict[str, Any]) -> list[str]:
    """Return the names of the actions a task's definition expects, of agent and user."""
    criteria = task.get("evaluation_criteria")
    actions = criteria.get("actions") if isinstance(criteria, dict) else None
    if actions is None:
        return []
    if not isinstance(actions, list) or not all(
        isinstance(a, dict) and isinstance(a.get("name"), str) for a in actions
    ):
        raise BadRecord(
            "tasks[].evaluation_criteria.actions", "expected a list of objects with a name"
        )
    return [a["name"] for a in actions]


def _scores(
    sim: _Simulation, task: dict[str, Any], events: Sequence[Event]
) -> Iterator[Score]:  # fmt: skip
    found = sim.reward_info
    if found is None:
        yield Score(metric="reward", value=None, primary=True, note="the source gives no reward")
        return
    reward = unit_interval(found.reward, "reward_info.reward")
    note = contradiction(_expected(task), events) if reward == 1 else None
    yield Score(
        metric="reward", value=reward, primary=True, contradicted=note is not None, note=note
    )
    for name, value in sorted((found.reward_breakdown or {}).items()):
        field = f"reward_info.reward_breakdown.{name}"
        if not (name.isascii() and name.isidentifier() and len(name) <= 40):
            raise BadRecord(field, "expected a plain name of at most 40 letters")
        yield Score(metric=name.lower(), value=unit_interval(value, field))
    checks = [c.get("action_reward") for c in found.action_checks or ()]
    if checks:
        if not all(isinstance(c, int | float) and 0 <= c <= 1 for c in checks):
            raise BadRecord("reward_info.action_checks", "expected an action_reward from 0 to 1")
        yield Score(
            metric="action_checks",
            value=sum(c for c in checks if c is not None) / len(checks),
            note="share of the expected actions that were found in the run",
        )


FORMAT = Format(
    name="tau2",
    summary="a JSON object of {info, tasks, simulations}",
    looks_like=looks_like,
    survey=survey,
    trace=trace,
)

"""tau-bench result files: a JSON list of runs with reward, task and chat trajectory.

Rule: the file's name proves nothing. The domain is read from the policy the agent was given, or
from the tools it used. No times, usage or agent model are recorded, so none are shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec

from towerkit.core.canonical import canonical_text, digest_of
from towerkit.core.env import VIRTUAL_EPOCH_NS
from towerkit.core.types import ToolCall
from towerkit.ingest.source import BadRecord, decode, split
from towerkit.ingest.tools import contradiction, error_class_of, error_type_of, reported_error
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
    nanousd,
    unit_interval,
)
from towerkit.reliability.classify import classify_text


class _Function(msgspec.Struct):
    name: str
    arguments: Any = None


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    role: Literal["system", "user", "assistant", "tool"]
    content: Any = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _Info(msgspec.Struct):
    task: dict[str, Any] | None = None
    user_cost: int | float | None = None
    error: str | None = None


class _Record(msgspec.Struct):
    task_id: int | str
    reward: float
    info: _Info
    traj: list[_Message]
    trial: int = 0


# One word of each is in no other domain's tools.
_DOMAINS = {
    "retail": {
        "get_order_details", "get_product_details", "find_user_id_by_email",
        "find_user_id_by_name_zip", "list_all_product_types", "modify_pending_order_items",
        "modify_pending_order_address", "modify_pending_order_payment", "cancel_pending_order",
        "return_delivered_order_items", "exchange_delivered_order_items", "modify_user_address",
    },
    "airline": {
        "get_reservation_details", "search_direct_flight", "search_onestop_flight",
        "list_all_airports", "book_reservation", "cancel_reservation", "send_certificate",
        "update_reservation_flights", "update_reservation_baggages",
        "update_reservation_passengers",
    },
}  # fmt: skip
_POLICY = re.compile(r"\s*#+\s*([a-z]{2,20})\s+agent\s+policy", re.IGNORECASE)


def looks_like(fields: Sequence[str]) -> bool:
    """Return whether a record with these fields is a tau-bench run."""
    return {"task_id", "reward", "traj"} <= set(fields)


def _actions(task: dict[str, Any]) -> list[str]:
    """Return the names of the actions a task's definition expects."""
    actions = task.get("actions", [])
    if not isinstance(actions, list) or not all(
        isinstance(a, dict) and isinstance(a.get("name"), str) for a in actions
    ):
        raise BadRecord("info.task.actions", "expected a list of objects with a name")
    return [a["name"] for a in actions]


def domain_of(system: object, tools: Iterable[str]) -> str | None:
    """Return the domain a policy text names, else the one whose tools were used, else None."""
    match = _POLICY.match(system) if isinstance(system, str) else None
    if match:
        return match[1].lower()
    used = set(tools)
    fits = [name for name, own in _DOMAINS.items() if used & own]
    return fits[0] if len(fits) == 1 else None


def _domain(record: _Record) -> str | None:
    system = next((m.content for m in record.traj if m.role == "system"), None)
    asked = [c.function.name for m in record.traj for c in m.tool_calls or ()]
    return domain_of(system, [*asked, *_actions(record.info.task or {})])


def survey(data: bytes) -> Survey:
    """Find each record's repeat number, and the domain of a record that does not show its own."""
    records = split(data)
    broken = [] if records.stopped is None else [records.stopped]
    parsed: list[tuple[int, bytes, _Record, str | None]] = []
    for index, raw in enumerate(records.items):
        try:
            record = decode(raw, _Record)
            parsed.append((index, raw, record, _domain(record)))
        except BadRecord as bad:
            broken.append(BadRecord(bad.field, bad.problem, index=index))
    known = {domain for *_, domain in parsed if domain is not None}
    jobs, seen, repeats = [], dict[tuple[str, int], int](), Counter[str]()
    for index, raw, record, domain in parsed:
        case, key = str(record.task_id), (str(record.task_id), record.trial)
        if key in seen:
            problem = f"task_id {case} with trial {record.trial} is record {seen[key]} already"
            broken.append(BadRecord("trial", problem, index=index))
            continue
        seen[key] = index
        # Some forks write a running index into `trial`: the repeat is counted, not read.
        found = domain or (next(iter(known)) if len(known) == 1 else None)
        scenario = f"tau_{found}" if found else None
        jobs.append(Job(index=index, raw=raw, trial=repeats[case], scenario=scenario))
        repeats[case] += 1
    return Survey(jobs=jobs, broken=broken, seen=len(records.items) + (records.stopped is not None))


def trace(job: Job, shared: bytes) -> Trace:  # noqa: ARG001  formats have one shape
    """Read one record."""
    record = decode(job.raw, _Record)
    reward = unit_interval(record.reward, "reward")
    if job.scenario is None:
        raise BadRecord(
            "traj", "cannot tell the domain: no policy text, no known tool, no other record says"
        )
    task, error = record.info.task, record.info.error
    events = tuple(_events(record))
    system = next((e.message["content"] for e in events if isinstance(e, Said)), None)
    note = contradiction(_actions(task), events) if task is not None and reward == 1 else None
    error_class = None if error is None else classify_text(error)
    return Trace(
        record_id=None,
        scenario=job.scenario,
        case_id=str(record.task_id),
        trial=job.trial,
        task=task,
        task_digest=None if task is None else digest_of(task),
        prompt_digest=None if system is None else digest_of(system),
        started_unix_ns=VIRTUAL_EPOCH_NS,
        status="completed" if error is None else "failed",
        error_class=error_class,
        error_message=error,
        attributes={"recorded_trial": record.trial},
        events=events,
        scores=(
            Score(
                metric="reward",
                value=reward,
                primary=True,
                contradicted=note is not None,
                note=note if error is None else f"the run crashed; {reward:g} is what was recorded",
            ),
        ),
    )


def _events(record: _Record) -> Iterator[Event]:
    pending = PendingCalls()
    turns = [i for i, m in enumerate(record.traj) if m.role == "user"]
    last_user = turns[-1] if turns else -1
    for at, message in enumerate(record.traj):
        if message.role == "system":
            yield Said(message={"role": "system", "content": message.content})
        elif message.role == "user":
            cost = _user_cost(record.info.user_cost) if at == last_user else None
            yield Turn(content=_text(message.content), by="user_simulator", cost_nanousd=cost)
        elif message.role == "assistant":
            calls = tuple(_call(c) for c in message.tool_calls or ())
            pending.ask(calls)
            yield Turn(content=_text(message.content), tool_calls=calls)
        else:
            yield _tool_use(message, pending)


def _tool_use(message: _Message, pending: PendingCalls) -> ToolUse:
    call = pending.answer(message.tool_call_id, message.name)
    error = reported_error(message.content)
    return ToolUse(
        name=message.name or (call.name if call else "unknown"),
        arguments=None if call is None else call.arguments if call.raw is None else call.raw,
        result=message.content,
        call_id=message.tool_call_id,
        error_class=None if error is None else error_class_of(error),
        error_type=None if error is None else error_type_of(error),
        error_message=error,
    )


def _text(content: Any) -> str:
    """Return content as text; parts that are not text are kept as JSON."""
    if content is None or isinstance(content, str):
        return content or ""
    return canonical_text(content)


def _call(call: _Call) -> ToolCall:
    arguments, raw = call.function.arguments, None
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments)
        except (msgspec.MsgspecError, RecursionError, UnicodeEncodeError):
            raw = arguments
    if not isinstance(arguments, dict):
        arguments, raw = {}, raw if raw is not None else _text(call.function.arguments)
    return ToolCall(id=call.id or "", name=call.function.name, arguments=arguments, raw=raw)


def _user_cost(amount: float | None) -> int | None:
    """Return the simulated user's recorded charge, which is that of its last call only.

    tau-bench overwrites its `total_cost` at every call (tau_bench/envs/user.py), so the sum is
    unknown. Some forks write a whole number there, a count of tokens: not money.
    """
    if isinstance(amount, float) and 0 < amount < float("inf") and not amount.is_integer():
        return nanousd(amount)
    return None


FORMAT = Format(
    name="tau-bench",
    summary="a JSON list of {task_id, reward, info, traj, trial}",
    looks_like=looks_like,
    survey=survey,
    trace=trace,
)

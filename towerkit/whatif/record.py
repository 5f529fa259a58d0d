"""What a pack says of the guard's work in one run: its calls, their attempts, and what paced them.

Rule: read, never guessed. What a pack does not say (an old one names no policy) is None here.
Times are nanoseconds since the run began.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from towerkit.core.types import Usage
from towerkit.packs.store import Pack
from towerkit.reliability.breaker import Limits
from towerkit.reliability.classify import Failure
from towerkit.reliability.policy import Policy

_FOREIGN = "otel.emitter"  # a span of another library: no guard of ours was around it
_WAYS = {"clamp", "compact", "cheaper"}  # out of a budget that is short
_DUE = {"wait", "fallback"}  # events of a call's span after which an attempt is due


class Charge(msgspec.Struct, frozen=True):
    """One charge of an attempt. `nanousd` None is unknown."""

    provider: str | None
    model: str | None
    usage: Usage
    nanousd: int | None


class Try(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded attempt. `key` is `provider/model`, or the tool's name.

    `failure` is what the policy was asked about; None where the answer stood. `answer` is the
    digest of what came. `then` is what made the next attempt due: wait, fallback or renew, None
    where nothing did. `unbudgeted` says that the retry budget refused what would have followed.
    """

    span_id: str
    key: str
    start_ns: int
    took_ns: int
    failure: Failure | None
    message: str | None
    answer: str | None
    streamed: bool
    interrupted: bool
    charges: tuple[Charge, ...]
    unbudgeted: bool = False
    then: str | None = None

    @property
    def end_ns(self) -> int:
        """When it ended."""
        return self.start_ns + self.took_ns

    @property
    def error_class(self) -> str | None:
        """Its row of the taxonomy; None where the answer stood."""
        return None if self.failure is None else self.failure.error_class

    @property
    def kept(self) -> bool:
        """Whether it failed with an answer: the agent gets that where none is better."""
        return self.failure is not None and self.answer is not None and not self.streamed


class Refusal(msgspec.Struct, frozen=True):
    """A recorded refusal of a breaker: when, after how many attempts of the call, why, how long."""

    at_ns: int
    after: int
    error_class: str
    wait_s: float


class Short(msgspec.Struct, frozen=True):
    """A recorded refusal of a budget: when, after how many attempts, which account and limit.

    `way` is the way out that was taken, None where there was none; `tier` where it led, if to one.
    """

    at_ns: int
    after: int
    account: str
    limit: str
    way: str | None
    tier: int | None


class Plan(msgspec.Struct, frozen=True):
    """What a run's budget limits beside the cost of the run.

    `counted`: tokens, calls or cost, of the run, a part or a tool. `priced`: cost of a part or a
    tool. `timed`: a time. `shared`: what several runs use.
    """

    counted: bool
    timed: bool
    priced: bool
    shared: bool
    ways: tuple[str, ...]
    ladder: bool


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded logical call.

    `key` is of its first tier; `chain` says that the tower's models were behind it, `guarded` that
    a guard was around it, `read_clock` that the agent read the clock since the call before.
    """

    span_id: str
    name: str
    operation: str
    key: str
    chain: bool
    guarded: bool
    idempotent: bool
    start_ns: int
    took_ns: int
    status: str
    error_class: str | None
    error_type: str | None
    message: str | None
    request: str | None
    tries: tuple[Try, ...]
    refusals: tuple[Refusal, ...]
    renewed: bool | None
    read_clock: bool
    shorts: tuple[Short, ...] = ()

    @property
    def end_ns(self) -> int:
        """When it ended."""
        return self.start_ns + self.took_ns

    @property
    def due_ns(self) -> tuple[int, ...]:
        """When attempts were due, in order: those that were made and those that were refused."""
        made = [(t.start_ns, i, 1) for i, t in enumerate(self.tries)]
        refused = [(r.at_ns, r.after, 0) for r in self.refusals]
        # Where a way out was found the attempt follows at once; else this was when one was due.
        short = [(s.at_ns, s.after, 0) for s in self.shorts if s.way is None]
        return tuple(at for at, _, _ in sorted(made + refused + short, key=lambda due: due[1:]))

    @property
    def interrupted(self) -> bool:
        """Whether somebody else ended it."""
        return self.status in {"cancelled", "aborted"}


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded run.

    `policy` and `limits` (of its breakers) are None where the pack does not name them. `tower` is
    what its runs share: service and release. `loose` are charges that no guarded call made. `plan`
    is None where the budget limits nothing but the run's cost.
    """

    run_id: str
    tower: tuple[str, str]
    started_ns: int
    took_ns: int
    timed: bool
    status: str
    policy: Policy | None
    limits: Limits | None
    budget_nanousd: int | None
    models: tuple[str, ...]
    windows: tuple[int | None, ...]
    renewable: tuple[int, ...]
    calls: tuple[Call, ...]
    loose: tuple[Charge, ...]
    bodies: Mapping[str, bytes]
    plan: Plan | None = None

    @property
    def parallel(self) -> bool:
        """Whether calls overlap in time."""
        end = 0
        for call in self.calls:
            if call.start_ns < end:
                return True
            end = max(end, call.end_ns)
        return False


def read_record(pack: Pack) -> Record:
    """Return what `pack` says of its run; raise `PackError` when its tables do not hold."""
    manifest = pack.manifest
    identity = manifest["identity"]
    spans = pack.frame("spans").sort("seq").rows(named=True)
    tape = pack.frame("inputs").sort("seq").rows(named=True)
    charges = _charges(pack)
    models = tuple(str(m) for m in identity.get("models") or ())
    calls = _Reading(spans, tape, charges, models, pack.bodies, manifest["started_unix_ns"]).calls()
    tried = {t.span_id for call in calls for t in call.tries}
    return Record(
        run_id=pack.run_id,
        tower=(str(identity.get("service")), str(identity.get("release"))),
        started_ns=manifest["started_unix_ns"], took_ns=manifest["duration_ns"],
        timed=manifest["clock"] != "none", status=manifest["status"],
        policy=_policy(identity), limits=_struct(identity.get("breaker"), Limits),
        budget_nanousd=(manifest["budget"] or {}).get("limit_nanousd"), models=models,
        windows=tuple(identity.get("windows") or ()),
        renewable=tuple(identity.get("renewable") or ()), calls=calls,
        loose=tuple(c for span, cs in charges.items() if span not in tried for c in cs),
        bodies=pack.bodies, plan=_plan((manifest["budget"] or {}).get("plan") or {}, spans),
    )  # fmt: skip


def _plan(said: Mapping[str, Any], spans: Iterable[Mapping[str, Any]]) -> Plan | None:
    """Return what a budget limits beside the cost of its run; None for nothing."""
    parts = [
        dict(found) for span in spans if span["kind"] == "step" and '"budget"' in span["attributes"]
        if isinstance(found := msgspec.json.decode(span["attributes"]).get("budget"), dict)
    ]  # fmt: skip
    inner, run = [*parts, *said.get("tools", {}).values()], dict(said.get("run", {}))
    priced = any("cost_usd" in limits for limits in inner)
    run.pop("cost_usd", None)
    names = {name for limits in (*inner, run) for name in limits}
    ways = tuple(said.get("short", ()))
    if not (names or priced or ways or said.get("above") or said.get("ladder")):
        return None
    return Plan(
        counted=priced or bool(names - {"wall_s", "working_s"}),
        timed=bool(names & {"wall_s", "working_s"}),
        priced=priced,
        shared=bool(said.get("above")),
        ways=ways,
        ladder=bool(said.get("ladder")),
    )


def _policy(identity: Mapping[str, Any]) -> Policy | None:
    """Return the policy of a run; packs from before they named it may have the default's digest."""
    named: Policy | None = _struct(identity.get("policy"), Policy)
    if named is None and identity.get("policy_digest") == Policy().digest():
        return Policy()
    return named


def _struct(value: Any, kind: type[Any]) -> Any:
    try:
        return None if value is None else msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None  # a later version's limits: as good as not named


def _charges(pack: Pack) -> dict[str, list[Charge]]:
    found: dict[str, list[Charge]] = {}
    for row in pack.frame("costs").sort("seq").rows(named=True):
        if row["purpose"] == "agent":
            usage = Usage(**{name: row[name] for name in Usage.__struct_fields__ if name in row})
            charge = Charge(row["provider"], row["model"], usage, row["cost_nanousd"])
            found.setdefault(row["span_id"], []).append(charge)
    return found


class _Reading:
    """The rows of one pack, on their way to calls."""

    def __init__(
        self, spans: list[dict[str, Any]], tape: list[dict[str, Any]],
        charges: Mapping[str, list[Charge]], models: tuple[str, ...],
        bodies: Mapping[str, bytes], began_ns: int,
    ) -> None:  # fmt: skip
        self._charges, self._models, self._bodies = charges, models, bodies
        root = next((s for s in spans if s["kind"] == "run"), None)
        self._began_ns = root["start_unix_ns"] if root else began_ns
        self._calls = [s for s in spans if s["kind"] == "call"]
        self._tries: dict[str, list[dict[str, Any]]] = {}
        for span in spans:
            if span["kind"] == "attempt":
                self._tries.setdefault(span["parent_span_id"], []).append(span)
        self._taped: dict[str, list[dict[str, Any]]] = {}
        for row in tape:
            if row["span_id"] is not None and row["kind"] in {"model", "tool"}:
                self._taped.setdefault(row["span_id"], []).append(row)
        self._clock = [row["seq"] for row in tape if row["kind"] == "clock"]
        self._unbudgeted = {
            int(row["name"].split()[1]) for row in tape
            if row["kind"] == "random" and row["name"].startswith("retry_budget ")
        }  # fmt: skip

    def calls(self) -> tuple[Call, ...]:
        """Return the calls in the order in which they began."""
        made, last = [], -1
        for span in self._calls:
            ids = [span["span_id"], *(t["span_id"] for t in self._tries.get(span["span_id"], ()))]
            seqs = [row["seq"] for i in ids for row in self._taped.get(i, ())]
            first = min(seqs, default=last)
            made.append(self._call(span, read=any(last < c < first for c in self._clock)))
            last = max(last, first)
        return tuple(sorted(made, key=lambda c: c.start_ns))

    def _call(self, span: Mapping[str, Any], *, read: bool) -> Call:
        told = msgspec.json.decode(span["attributes"])
        model = span["gen_ai_operation_name"] == "chat"
        key = _key(span, span["gen_ai_request_model"])
        events = msgspec.json.decode(span["events"])
        then, refused, fresh = _events(events)
        waits = self._waits(span["span_id"])
        rows = self._tries.get(span["span_id"], [])
        return Call(
            span_id=span["span_id"], name=span["name"],
            operation="model" if model else "tool", key=key,
            chain=model and key in self._models[:1] and "http.request.method" not in told,
            guarded=_FOREIGN not in told and bool(rows or refused or span["error_class"]),
            idempotent=bool(span["idempotent"]), start_ns=self._offset(span),
            took_ns=span["duration_ns"], status=span["status"], error_class=span["error_class"],
            error_type=span["error_type"], message=span["error_message"],
            request=span["request_digest"],
            tries=tuple(
                self._try(row, then[i] if i < len(then) else None) for i, row in enumerate(rows)
            ),
            refusals=tuple(
                Refusal(waits[i][0], after, why, waits[i][1])
                for i, (after, why) in enumerate(refused) if i < len(waits)
            ),
            renewed=fresh, read_clock=read, shorts=self._shorts(span["span_id"], rows, events),
        )  # fmt: skip

    def _shorts(
        self, call_id: str, tries: Iterable[Mapping[str, Any]],
        events: Iterable[Mapping[str, Any]],
    ) -> tuple[Short, ...]:  # fmt: skip
        """Return a call's refusals by its budget, in order: each way out has an event."""
        made = [row["seq"] for t in tries for row in self._taped.get(t["span_id"], ())]
        ways = iter([e for e in events if e.get("name") in _WAYS])
        found = []
        for row in self._taped.get(call_id, ()):
            body = self._bodies.get(row["response_digest"])
            if row["outcome"] == "budget_exceeded" and body is not None:
                said, way = msgspec.json.decode(body), next(ways, {})
                after = sum(seq < row["seq"] for seq in made)
                found.append(Short(
                    row["start_offset_ns"], after, str(said.get("account")),
                    str(said.get("limit")), way.get("name"), way.get("tier"),
                ))  # fmt: skip
        return tuple(found)

    def _try(self, span: Mapping[str, Any], then: str | None) -> Try:
        taped = next(iter(self._taped.get(span["span_id"], ())), None)
        told = msgspec.json.decode(span["attributes"])
        name = span["gen_ai_request_model"] if taped is None else taped["name"]
        failure = None
        if span["status"] == "error":
            failure = Failure(
                error_class=span["error_class"] or "unknown",
                error_type=span["error_type"] or "unknown",
                retry_after_s=told.get("retry_after_s"), veto=told.get("retry_vetoed", False),
            )  # fmt: skip
        return Try(
            span_id=span["span_id"], key=_key(span, name), start_ns=self._offset(span),
            took_ns=span["duration_ns"], failure=failure, message=span["error_message"],
            answer=span["response_digest"],
            streamed=taped is not None and taped["chunks"] is not None,
            interrupted=span["status"] in {"cancelled", "aborted"},
            charges=tuple(self._charges.get(span["span_id"], ())),
            unbudgeted=span["seq"] in self._unbudgeted, then=then,
        )  # fmt: skip

    def _offset(self, span: Mapping[str, Any]) -> int:
        return int(span["start_unix_ns"]) - self._began_ns

    def _waits(self, call_id: str) -> list[tuple[int, float]]:
        """Return when breakers refused and the waits they asked for: what the tape kept of it."""
        found = []
        for row in self._taped.get(call_id, ()):
            if row["outcome"] == "budget_exceeded":
                continue
            body = self._bodies.get(row["response_digest"])
            wait = 0.0 if body is None else float(msgspec.json.decode(body).get("wait_s", 0.0))
            found.append((row["start_offset_ns"], wait))
        return found


def _key(span: Mapping[str, Any], model: str | None) -> str:
    if span["gen_ai_operation_name"] == "chat":
        return f"{span['gen_ai_provider_name']}/{model}"
    return str(span["gen_ai_tool_name"])


def _events(
    events: Iterable[Mapping[str, Any]],
) -> tuple[list[str | None], list[tuple[int, str]], bool | None]:
    """Return what followed each attempt, the refusals, and whether a renewal brought a credential.

    An event that makes an attempt due is followed by that attempt, unless a refusal comes next.
    """
    then: list[str | None] = []
    refused: list[tuple[int, str]] = []
    fresh: bool | None = None
    due, after = True, 0
    for event in events:
        name = event.get("name")
        if name == "refused":
            refused.append((after, str(event.get("reason"))))
            due = False
            continue
        if name not in {*_DUE, "renew", "stop"} or event.get("reason") == "budget_exceeded":
            continue  # a cheaper tier, before anything was tried: the attempt is due as it was
        if due:
            after += 1
            then.append(None)
        if name == "renew":
            fresh = event.get("reason") == "a fresh credential"
        due = name in _DUE or (name == "renew" and bool(fresh))
        if due and then and then[-1] is None:
            then[-1] = name  # a wait that a refusal cut short stays what it was
    return then, refused, fresh

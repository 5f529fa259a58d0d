"""Replaying one run and comparing it, span by span, with its recording.

Rule: equal means the same spans in the same order with the same parents, outcomes, requests,
answers and charges. Times are compared only where the recorded clock was virtual: a real clock is
not the agent's doing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

import msgspec

from towerkit.core.canonical import sha256_hex
from towerkit.core.env import VirtualEnv
from towerkit.core.errors import ReplayDiverged, UsageError
from towerkit.core.types import Message, Model, Request, Response
from towerkit.cost.budget import TIMED
from towerkit.cost.plan import read_budget
from towerkit.packs.store import Pack
from towerkit.packs.tables import COSTS, SPANS
from towerkit.packs.writer import Draft
from towerkit.privacy.keys import local_redactor, simulated_redactor
from towerkit.privacy.redact import REDACTOR_VERSION, Redactor
from towerkit.privacy.safe_text import safe_text
from towerkit.reliability.policy import Policy
from towerkit.replay.tape import Divergence, Tape
from towerkit.runtime.run import Run
from towerkit.runtime.tower import Tower
from towerkit.scenarios import SCENARIOS

# What a span asks, known when it starts, and what became of it, known when it ends.
ASKED = (
    "name", "kind", "gen_ai_operation_name", "attempt", "gen_ai_request_model",
    "gen_ai_tool_name", "idempotent", "request_digest",
)  # fmt: skip
BECAME = (
    "status", "error_class", "error_type", "fallback_tier", "fallback_reason",
    "gen_ai_provider_name", "gen_ai_response_model", "gen_ai_response_finish_reason",
    "gen_ai_usage_input_tokens", "gen_ai_usage_output_tokens", "response_digest",
)  # fmt: skip
CHARGED = (
    "provider", "model", "input_tokens", "output_tokens", "cost_nanousd", "estimated", "wasted",
)  # fmt: skip

Span = dict[str, Any]


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay found. `changed` names what of the agent is not what it was when recorded."""

    run_id: str
    equal: bool
    spans_recorded: int
    spans_replayed: int
    inputs_replayed: int
    divergence: Divergence | None
    changed: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Return the report as a person reads it."""
        if self.divergence is None:
            counts = f"spans={self.spans_replayed} inputs={self.inputs_replayed}"
            return [f"[replay] EQUAL run={self.run_id} {counts}"]
        d = self.divergence
        where = f"at span {d.seq} ({safe_text(d.span)}): {safe_text(d.reason)}"
        sides = (("recorded", d.recorded), ("replayed", d.replayed))
        return [
            f"[replay] DIVERGED run={self.run_id} {where}",
            *(f"  {d.field} {side}: {safe_text(_shown(text))}" for side, text in sides),
            *(f"  changed since the recording: {what}" for what in self.changed),
        ]


def _shown(text: str | None) -> str:
    return "nothing" if text is None else text


def replay_scenario(pack: Pack, *, prompt: str | None = None) -> ReplayReport:
    """Replay a recorded run of a scenario that ships with towerkit.

    `prompt` replaces the system prompt: the report then names the first span it changes. Raises
    `UsageError` for a run whose agent is not here.
    """
    name = str(pack.manifest["identity"].get("scenario"))
    scenario = SCENARIOS.get(name)
    if scenario is None or pack.manifest["source"]["kind"] != "live":
        raise UsageError(
            f"run {pack.run_id} is of {name!r}, recorded elsewhere: it can be read and gated, but "
            f"only runs of {', '.join(SCENARIOS)} can be re-run"
        )
    text = scenario.prompt() if prompt is None else prompt

    def agent(run: Run, task: Any) -> None:
        with scenario.world({}) as world:
            scenario.agent(run, task, world, text)

    recorded, now = pack.manifest["identity"].get("prompt_digest"), sha256_hex(text.encode())
    changed = ("the prompt",) if recorded not in {None, now} else ()
    return replay(
        pack, agent, exceptions={e.__qualname__: e for e in scenario.exceptions}, changed=changed
    )


def replay(
    pack: Pack,
    agent: Callable[[Run, Any], object],
    *,
    exceptions: Mapping[str, type[BaseException]] | None = None,
    policy: Policy | None = None,
    changed: tuple[str, ...] = (),
) -> ReplayReport:
    """Run `agent(run, task)` against the tape of `pack` and compare what it did.

    Give `exceptions` (by name) that the agent catches by type. Raises `UsageError` when the pack
    was redacted with a key that is not here: its requests could not be recognised.
    """
    manifest = pack.manifest
    env = VirtualEnv(int(manifest["seed"], 16), start_ns=manifest["started_unix_ns"])
    tape = Tape(pack, env, exceptions=exceptions or {})
    tower = Tower(
        store="unused", models=_recorded(manifest["identity"]),
        policy=policy, redactor=_redactor_of(pack), environment=lambda: env,
        **_budget(manifest),
    )  # fmt: skip
    task = tape.task()
    run = tower.run(manifest["identity"]["scenario"], task=task, executor=tape, keep=False)
    # The recorded run may have ended in an error: then the replayed one must end in it too, which
    # the comparison of the run spans decides.
    with contextlib.suppress(Exception), run:
        agent(run, task)
    draft = run.recorder.draft({}, salt_seed=b"")
    divergence = _first_difference(pack, run, draft)
    if divergence is None and tape.divergence is not None:
        divergence = tape.divergence
    if divergence is None and tape.left_over():
        divergence = Divergence(
            seq=len(draft.spans), span="end of run", field="inputs", replayed="nothing more",
            recorded=f"{tape.left_over()} more inputs", reason="the replayed run ended early",
        )  # fmt: skip
    return ReplayReport(
        run_id=pack.run_id, equal=divergence is None,
        spans_recorded=pack.frame("spans").height, spans_replayed=len(draft.spans),
        inputs_replayed=len(draft.inputs), divergence=divergence, changed=changed,
    )  # fmt: skip


def _recorded(identity: Mapping[str, Any]) -> list[Model]:
    """Return the recorded run's models, as far as decisions depend on them."""

    def complete(_request: Request, _timeout_s: float) -> Response:
        raise ReplayDiverged("a replay makes no live call")

    def renew() -> None:
        raise ReplayDiverged("a replay asks for no credential")

    models, windows = identity["models"], identity.get("windows") or []
    chain = []
    for i, text in enumerate(models):
        provider, _, name = text.partition("/")
        chain.append(
            Model(
                name=name, provider=provider, complete=complete, simulated=provider == "simulated",
                context_tokens=windows[i] if i < len(windows) else None,
                renew=renew if i in identity.get("renewable", ()) else None,
            )
        )  # fmt: skip
    return chain


def _budget(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recorded budget as a tower takes it.

    Its refusals stand on the tape: what is needed are its limits on time and the ways out it has.
    Packs of before refusals were recorded need the amount.
    """
    recorded = manifest["budget"]
    plan = recorded.get("plan")
    if plan is None:
        limit = recorded["limit_nanousd"]
        return {"budget_usd": None if limit is None else limit / 1e9}

    def compact(_messages: object) -> list[Message]:
        raise ReplayDiverged("a replay takes what was compacted from the tape")

    timed = {name: limit for name, limit in plan.get("run", {}).items() if name in TIMED}
    ways = plan.get("short", ())
    table = {"run": timed, "tools": plan.get("tools", {}), "short": ways}
    return {"budget": read_budget(table, compact=compact if "compact" in ways else None)}


def _redactor_of(pack: Pack) -> Redactor:
    wanted = pack.manifest["redactor"]
    if wanted["version"] != REDACTOR_VERSION:
        raise UsageError(
            f"run {pack.run_id} was redacted by version {wanted['version']} of the detectors, this "
            f"is {REDACTOR_VERSION}: its requests would not be recognised; replay it with the "
            "towerkit that recorded it"
        )
    for redactor in (simulated_redactor(), local_redactor(capture=wanted["capture"])):
        if redactor.kid == wanted["key_id"]:
            return redactor
    raise UsageError(
        f"run {pack.run_id} was redacted with key {wanted['key_id']}, which is not here: set "
        "TOWERKIT_KEY to that key to replay it"
    )


def _first_difference(pack: Pack, run: Run, draft: Draft) -> Divergence | None:
    """Walk both runs in the order things happened, and return the first that differs."""
    recorded = _happenings(pack.frame("spans").to_dicts(), pack.frame("costs").to_dicts())
    replayed = _happenings(
        [dict(zip(SPANS.names, row, strict=False)) for row in draft.spans],
        [dict(zip(COSTS.names, row, strict=False)) for row in draft.costs],
    )
    became = BECAME + (("duration_ns",) if pack.manifest["clock"] == "virtual" else ())
    for (phase, old), (new_phase, new) in zip(recorded, replayed, strict=False):
        if phase != new_phase:
            return _plain(
                "what happens", old, f"{old['name']} {phase}", f"{new['name']} {new_phase}"
            )
        for field in ASKED if phase == "starts" else became:
            if old[field] != new[field]:
                return _difference(pack, run, field, old, new)
        if phase == "ends" and old["charges"] != new["charges"]:
            return _plain("charges", old, old["charges"], new["charges"])
    return None


def _happenings(spans: list[Span], costs: list[dict[str, Any]]) -> list[tuple[str, Span]]:
    """Return the starts and ends of a run's spans in order: an end follows all it contains."""
    children: dict[str | None, list[Span]] = {}
    charges: dict[str, list[tuple[Any, ...]]] = {}
    for cost in sorted(costs, key=itemgetter("seq")):
        charges.setdefault(cost["span_id"], []).append(tuple(cost[c] for c in CHARGED))
    for span in sorted(spans, key=itemgetter("seq")):
        span["charges"] = charges.get(span["span_id"], [])
        children.setdefault(span["parent_span_id"], []).append(span)
    out: list[tuple[str, Span]] = []

    def walk(parent: str | None) -> None:
        for span in children.get(parent, []):
            out.append(("starts", span))
            walk(span["span_id"])
            out.append(("ends", span))

    walk(None)
    return out


def _plain(field: str, span: Mapping[str, Any], recorded: Any, replayed: Any) -> Divergence:
    sides = [None if side is None else str(side) for side in (recorded, replayed)]
    return Divergence(
        seq=span["seq"], span=span["name"], field=field, recorded=sides[0], replayed=sides[1],
        reason=f"the first difference is {field}",
    )  # fmt: skip


def _difference(
    pack: Pack, run: Run, field: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> Divergence:
    if not field.endswith("_digest") or old[field] is None or new[field] is None:
        return _plain(field, old, old[field], new[field])
    before, after = pack.bodies, run.recorder.bodies()
    where, left, right = _first_text_difference(
        _expanded(before, old[field]), _expanded(after, new[field])
    )
    what = field.removesuffix("_digest")
    return Divergence(
        seq=old["seq"], span=old["name"], field=what, recorded=left, replayed=right,
        reason=f"the {what} differs in {where}",
    )  # fmt: skip


def _expanded(bodies: Mapping[str, bytes], digest: str) -> list[tuple[str, str]]:
    """Return content as (part, text): a request by message, anything else whole."""
    body = bodies.get(digest, b"").decode("utf-8", "replace")
    try:
        value = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return [("its text", body)]
    if not isinstance(value, dict) or "messages" not in value:
        return [("its content", body)]
    parts = []
    for i, message in enumerate(value.pop("messages")):
        text = bodies.get(str(message), b"").decode("utf-8", "replace")
        parts.append((f"message {i}", text))
    return [*parts, ("its options", msgspec.json.encode(value).decode())]


def _first_text_difference(
    old: list[tuple[str, str]], new: list[tuple[str, str]]
) -> tuple[str, str, str]:
    for (where, left), (_, right) in zip(old, new, strict=False):
        if left != right:
            pairs = enumerate(zip(left, right, strict=False))
            at = next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))
            start = max(0, at - 40)
            return f"{where}, character {at}", left[start : at + 60], right[start : at + 60]
    return "the number of messages", str(len(old)), str(len(new))

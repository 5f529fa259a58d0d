"""Replaying one run: the agent's code again, every input from the tape.

Rule: a replay makes no live call, keeps nothing and needs no key. What of the agent is not what it
was when recorded is named beside the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from operator import itemgetter
from typing import Any

import msgspec

from towerkit.core.canonical import sha256_hex
from towerkit.core.errors import ReplayDiverged, UsageError
from towerkit.core.types import Message, Model, Request, Response
from towerkit.cost.budget import TIMED
from towerkit.cost.plan import read_budget
from towerkit.packs.store import Pack
from towerkit.packs.tables import COSTS, SPANS
from towerkit.privacy.keys import local_redactor, simulated_redactor
from towerkit.privacy.redact import REDACTOR_VERSION, Redactor
from towerkit.privacy.safe_text import safe_text
from towerkit.reliability.policy import Policy
from towerkit.replay.agents import Agent
from towerkit.replay.compare import (
    COST_COLUMNS,
    SPAN_COLUMNS,
    Side,
    first_difference,
    plain,
    twins,
)
from towerkit.replay.stage import Stage, offline, recorded_loops, without_keys
from towerkit.replay.tape import Divergence, Tape
from towerkit.replay.turns import ReplayEnv
from towerkit.runtime.run import Run
from towerkit.runtime.tower import Tower
from towerkit.scenarios import SCENARIOS, Scenario
from towerkit.telemetry.recorder import Recorder


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
        changed = [f"  changed since the recording: {what}" for what in self.changed]
        if self.divergence is None:
            counts = f"spans={self.spans_replayed} inputs={self.inputs_replayed}"
            return [f"[replay] EQUAL run={self.run_id} {counts}", *changed]
        d = self.divergence
        where = f"at span {d.seq} ({safe_text(d.span)}): {safe_text(d.reason)}"
        sides = (("recorded", d.recorded), ("replayed", d.replayed))
        return [
            f"[replay] DIVERGED run={self.run_id} {where}",
            *(f"  {d.field} {side}: {safe_text(_shown(text))}" for side, text in sides),
            *([] if d.nearest is None else [f"  {safe_text(d.nearest)}"]),
            *changed,
        ]


def _shown(text: str | None) -> str:
    return "nothing" if text is None else text


def replay_scenario(pack: Pack, *, prompt: str | None = None) -> ReplayReport:
    """Replay a recorded run of a scenario that ships with towerkit.

    `prompt` replaces the system prompt: the report then names the first span it changes. Raises
    `UsageError` for a run whose agent is not here.
    """
    scenario = scenario_of(pack)
    text = scenario.prompt() if prompt is None else prompt
    recorded, now = pack.manifest["identity"].get("prompt_digest"), sha256_hex(text.encode())
    changed = ("the prompt",) if recorded not in {None, now} else ()
    with scenario.world({}) as world:
        return replay(
            pack, scenario_agent(scenario, world, text), exceptions=exceptions_of(scenario),
            changed=changed,
        )  # fmt: skip


def scenario_of(pack: Pack) -> Scenario:
    """Return the scenario of a recorded run; raise `UsageError` where its agent is not here."""
    name = str(pack.manifest["identity"].get("scenario"))
    scenario = SCENARIOS.get(name)
    if scenario is None or pack.manifest["source"]["kind"] not in {"live", "fork"}:
        raise UsageError(
            f"run {pack.run_id} is of {name!r}, whose agent is not here: only runs of "
            f"{', '.join(SCENARIOS)} can be re-run without --agent module:function"
        )
    return scenario


def scenario_agent(scenario: Scenario, world: Any, prompt: str) -> Callable[[Run, Any], None]:
    """Return a scenario's agent as any other: `agent(run, task)`."""

    def agent(run: Run, task: Any) -> None:
        scenario.agent(run, task, world, prompt)

    return agent


def exceptions_of(scenario: Scenario) -> dict[str, type[BaseException]]:
    """Return the types a scenario's tools raise, by name."""
    return {e.__qualname__: e for e in scenario.exceptions}


def replay(
    pack: Pack,
    agent: Callable[..., object],
    *,
    tower: Tower | None = None,
    exceptions: Mapping[str, type[BaseException]] | None = None,
    policy: Policy | None = None,
    changed: tuple[str, ...] = (),
) -> ReplayReport:
    """Run an agent against the tape of `pack` and compare what it did.

    `agent(run, task)` gets a run; an agent that opens its own (`tower.run`, `@tower.agent`) gets
    the task. Plain or `async`. `tower` is the agent's, for its policy and models; without one, they
    are as recorded and `policy` is the default. Give `exceptions` (by name) that the agent catches
    by type. Raises `UsageError` when the pack was redacted with a key that is not here: its
    requests could not be recognised.
    """
    return Performance(pack, exceptions=exceptions or {}, policy=policy, tower=tower).of(
        agent, changed=changed
    )


class Performance:
    """A tape, and the run that an agent gets on it. Used once."""

    def __init__(
        self, pack: Pack, *, exceptions: Mapping[str, type[BaseException]], policy: Policy | None,
        tower: Tower | None, tape: type[Tape] = Tape,
    ) -> None:  # fmt: skip
        """Read the pack."""
        self.pack, self._manifest = pack, pack.manifest
        self.env = ReplayEnv(
            int(self._manifest["seed"], 16), start_ns=self._manifest["started_unix_ns"]
        )
        self._redactor = redactor_of(pack)
        self.tape = tape(pack, self.env, exceptions=exceptions)
        self.tower = tower or Tower(
            store="unused", models=recorded_models(self._manifest["identity"]), policy=policy,
            redactor=self._redactor, environment=lambda: self.env, journal="off",
            **_budget(self._manifest),
        )  # fmt: skip
        self.run: Run | None = None

    def of(self, agent: Callable[..., object], *, changed: tuple[str, ...] = ()) -> ReplayReport:
        """Have the agent perform, and compare."""
        who = Agent(agent)
        stage = self.perform(who)
        changed = (*changed, *self._changed(who))
        if stage.run is None:
            first = {"seq": 0, "name": self._manifest["identity"]["scenario"]}
            why = stage.problem or "the agent opened no run of a tower"
            return self._report(plain("the run", first, "a run", why), changed, (0, 0))
        draft = stage.run.recorder.draft({}, salt_seed=b"")
        alone = len(self.tape.lanes) <= 1
        spans = [dict(zip(SPANS.names, row, strict=False)) for row in draft.spans]
        bodies = self.pack.bodies | stage.run.recorder.bodies()
        twin = None if alone else self._twins(spans, bodies)
        mine = Side(
            spans, [dict(zip(COSTS.names, row, strict=False)) for row in draft.costs], bodies,
            place=None if twin is None else lambda span: twin.get(span["seq"]),
        )  # fmt: skip
        divergence = self._divergence(mine, alone=alone)
        return self._report(divergence, changed, (len(draft.spans), len(draft.inputs)))

    def perform(self, agent: Agent) -> Stage:
        """Have the agent perform, offline and on the recorded clock."""
        name = self._manifest["identity"]["scenario"]
        stage = Stage(self.tower, name, made=self._made, turns=self.tape.turns)
        with ExitStack() as stack:
            for context in (offline(), without_keys(), recorded_loops(self.tape.turns)):
                stack.enter_context(context)
            task = self.tape.task()
            self.ended = stage.perform(agent, task)
        self.run = stage.run
        return stage

    def _made(self, tower: Tower, name: str, options: Mapping[str, Any]) -> Run:
        """Return a run of an agent's tower that the tape answers and nothing is kept of."""
        run = Run(
            tower, name, task=options["task"], env=self.env, identity=options["identity"],
            executor=self.tape, keep=False,
        )  # fmt: skip
        if tower.redactor.kid != self._redactor.kid:
            run.recorder = Recorder(run.run_id, self._redactor, start_mono_ns=0, ids=1)
        # What the pack has is redacted: said again, it need not be looked through again.
        run.recorder._known.update(self.tape.recording.known())  # noqa: SLF001  its own memory
        return run

    def _twins(self, spans: list[dict[str, Any]], bodies: Mapping[str, bytes]) -> dict[int, int]:
        """Return the number of the recorded call that each replayed one is, as far as one is."""
        claimed = self.tape.claimed
        left = _inside(self.tape.recording.unclaimed(), self.tape.recording.spans)
        mine = _inside(
            [s for s in spans if s["kind"] == "call" and s["seq"] not in claimed],
            {s["span_id"]: s for s in spans},
        )
        found = twins(left, self.pack.bodies, mine, bodies)
        return found | {seq: int(call.span["seq"]) for seq, call in claimed.items()}

    def _divergence(self, mine: Side, *, alone: bool) -> Divergence | None:
        """Return the first difference, told by whoever knows most of it."""
        recorded = Side(
            self.pack.frame("spans").select(SPAN_COLUMNS).to_dicts(),
            self.pack.frame("costs").select(COST_COLUMNS).to_dicts(), self.pack.bodies,
            place=None if alone else itemgetter("seq"),
        )  # fmt: skip
        virtual = self._manifest["clock"] == "virtual"
        found = first_difference(recorded, mine, timed=virtual and alone)
        missed, disorder = self.tape.divergence, None if alone else self.tape.disorder
        # What became of the run itself, span 0, is known last.
        if disorder is not None and (found is None or not 0 < found.seq <= disorder.seq):
            return disorder
        if found is None:
            if missed is not None:
                return missed
            if self.tape.left_over():
                first = {"seq": len(mine.spans), "name": "end of run"}
                left = f"{self.tape.left_over()} more inputs"
                return plain("inputs", first, left, "nothing more")
            if isinstance(self.ended, ReplayDiverged):
                first = {"seq": len(mine.spans), "name": "end of run"}
                return plain("the end", first, "the run", str(self.ended))
            return None
        if found.replayed in {"replay_diverged", "ReplayDiverged"}:
            why = str(self.ended) if missed is None and self.ended is not None else None
            reason = missed.reason if missed is not None else why or found.reason
            return msgspec.structs.replace(found, reason=reason)
        return found

    def _changed(self, agent: Agent) -> list[str]:
        """Return what of the agent is not what it was when recorded."""
        identity, code = self._manifest["identity"], agent.code
        changed = []
        if (
            identity.get("agent_digest") and code["agent_digest"]
            and identity.get("agent_module") == code["agent_module"]
            and identity["agent_digest"] != code["agent_digest"]
        ):  # fmt: skip
            changed.append(f"the agent's code ({code['agent_module']})")
        policy = (self.run.tower if self.run is not None else self.tower).policy_digest
        if identity.get("policy_digest") not in {None, policy}:
            changed.append("the policy")
        return changed

    def _report(
        self, divergence: Divergence | None, changed: tuple[str, ...], counts: tuple[int, int]
    ) -> ReplayReport:
        return ReplayReport(
            run_id=self.pack.run_id, equal=divergence is None,
            spans_recorded=self.pack.manifest["tables"]["spans"]["rows"],
            spans_replayed=counts[0], inputs_replayed=counts[1], divergence=divergence,
            changed=changed,
        )  # fmt: skip


def _inside(calls: list[dict[str, Any]], spans: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return calls with the name of the span that each is inside of."""
    return [call | {"inside": spans[call["parent_span_id"]]["name"]} for call in calls]


def recorded_models(identity: Mapping[str, Any]) -> list[Model]:
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


def redactor_of(pack: Pack) -> Redactor:
    """Return the redactor a pack was made with; raise `UsageError` where its key is not here."""
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

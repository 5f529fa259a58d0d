"""Replaying one run: the agent's code again, every input from the tape.

Rule: a replay makes no live call, keeps nothing and needs no key. What of the agent is not what it
was when recorded is named beside the verdict.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from operator import itemgetter
from typing import Any, cast

import msgspec

from towerkit.core.canonical import sha256_hex
from towerkit.core.errors import ReplayDiverged, UsageError
from towerkit.core.types import Message, Model, Request, Response
from towerkit.cost.budget import TIMED
from towerkit.cost.ledger import ledger_of
from towerkit.cost.plan import read_budget
from towerkit.packs.store import Pack
from towerkit.privacy.keys import local_redactor, simulated_redactor
from towerkit.privacy.redact import REDACTOR_VERSION, Redactor
from towerkit.privacy.safe_text import safe_text
from towerkit.reliability.policy import Policy
from towerkit.replay.agents import Agent
from towerkit.replay.compare import (
    Divergence,
    Side,
    first_difference,
    plain,
    twins,
)
from towerkit.replay.follow import FollowingRecorder
from towerkit.replay.stage import Stage, offline, recorded_loops, without_keys
from towerkit.replay.tape import Tape
from towerkit.replay.turns import ReplayEnv
from towerkit.runtime.run import Run
from towerkit.runtime.tower import Tower
from towerkit.scenarios import SCENARIOS, Scenario


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
        tower: Tower | None, tape: type[Tape] = Tape, lets_go: bool = True,
        limited: bool = False,
    ) -> None:  # fmt: skip
        """Read the pack.

        `lets_go` is a `FollowingRecorder`'s. `limited`: the recorded limit on the run's cost holds
        for what it does now; else only recorded refusals are, because a replay's requests are
        redacted, and their estimates with them.
        """
        self._lets_go, self._limited = lets_go, limited
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
        self.record: FollowingRecorder

    def of(self, agent: Callable[..., object], *, changed: tuple[str, ...] = ()) -> ReplayReport:
        """Have the agent perform, and compare."""
        who = Agent(agent)
        stage = self.perform(who)
        changed = (*changed, *self._changed(who))
        if stage.run is None:
            first = {"seq": 0, "name": self._manifest["identity"]["scenario"]}
            why = stage.problem or "the agent opened no run of a tower"
            return self._report(plain("the run", first, "a run", why), changed, (0, 0))
        made = self.record.next_seq
        return self._report(self._divergence(made), changed, (made, self.record.inputs))

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
        recorded = self._manifest["budget"]
        if recorded.get("plan") is not None and run.budgets is None:
            run.ledger = ledger_of(recorded["limit_nanousd"] if self._limited else None)
        same = tower.redactor.kid == self._redactor.kid
        virtual = self._manifest["clock"] == "virtual"
        run.recorder = self.record = FollowingRecorder(
            run.run_id, tower.redactor if same else self._redactor, self.tape,
            timed=lambda: virtual and self._alone, lets_go=self._lets_go,
        )  # fmt: skip
        return run

    @property
    def _alone(self) -> bool:
        return len(self.tape.lanes) <= 1

    def _divergence(self, made: int) -> Divergence | None:
        """Return the first difference, told by whoever knows most of it; `made` are spans."""
        found = None if self.record.equal else self._first_difference()
        missed, disorder = self.tape.divergence, None if self._alone else self.tape.disorder
        # What became of the run itself, span 0, is known last.
        if disorder is not None and (found is None or not 0 < found.seq <= disorder.seq):
            return disorder
        if found is None:
            if missed is not None:
                return missed
            left = self.tape.left_over()
            if left:
                first = {"seq": made, "name": "end of run"}
                return plain("inputs", first, f"{left} more inputs", "nothing more")
            if isinstance(self.ended, ReplayDiverged):
                first = {"seq": made, "name": "end of run"}
                return plain("the end", first, "the run", str(self.ended))
            return None
        if found.replayed in {"replay_diverged", "ReplayDiverged"}:
            why = str(self.ended) if missed is None and self.ended is not None else None
            reason = missed.reason if missed is not None else why or found.reason
            return msgspec.structs.replace(found, reason=reason)
        return found

    def _first_difference(self) -> Divergence | None:
        """Compare the trees: some span is not the recorded one with its number."""
        recording, alone = self.tape.recording, self._alone
        places = list(map(recording.place, range(recording.count)))
        bodies = ChainMap(self.record.bodies(), cast("dict[str, bytes]", recording.bodies))
        spans, costs = self.record.sides()
        twin = None if alone else self._twins(spans, bodies)
        mine = Side(
            spans, costs, bodies,
            place=None if twin is None else lambda span: twin.get(span["seq"]),
        )  # fmt: skip
        recorded = Side(
            [recording.compared(place) for place in places],
            [row for place in places for row in recording.cost_rows(place)], recording.bodies,
            place=None if alone else itemgetter("seq"),
        )  # fmt: skip
        virtual = self._manifest["clock"] == "virtual"
        return first_difference(recorded, mine, timed=virtual and alone)

    def _twins(self, spans: list[dict[str, Any]], bodies: Mapping[str, bytes]) -> dict[int, int]:
        """Return the number of the recorded call that each replayed one is, as far as one is."""
        recording = self.tape.recording
        known = self.record.let_go()
        known |= {seq: int(call.span["seq"]) for seq, call in self.tape.claimed.items()}
        inside = {s["span_id"]: s["name"] for s in spans}
        mine = [
            span | {"inside": inside[span["parent_span_id"]]} for span in spans
            if span["kind"] == "call" and span["seq"] not in known
        ]  # fmt: skip
        left = [
            span | {"inside": recording.span(span["parent_span_id"])["name"]}
            for span in recording.unclaimed()
        ]
        return twins(left, recording.bodies, mine, bodies) | known

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
        # What the recording has is not redacted again, so this seldom matters.
        version = self._manifest["redactor"]["version"]
        if version != REDACTOR_VERSION:
            changed.append(
                f"the detectors of redaction (version {version}, {REDACTOR_VERSION} now)"
            )
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
    for redactor in (simulated_redactor(), local_redactor(capture=wanted["capture"])):
        if redactor.kid == wanted["key_id"]:
            return redactor
    raise UsageError(
        f"run {pack.run_id} was redacted with key {wanted['key_id']}, which is not here: set "
        "TOWERKIT_KEY to that key to replay it"
    )

"""What a tool's function does under the tower is part of its attempt, and replays with it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.agents import make_tower
from towerkit.core.env import SystemEnv
from towerkit.core.errors import AttemptTimeout
from towerkit.core.types import Response, Usage
from towerkit.packs.admissible import reasons
from towerkit.packs.reader import Pack
from towerkit.privacy.keys import simulated_redactor
from towerkit.replay import replay
from towerkit.replay.inject import inject
from towerkit.runtime import models
from towerkit.runtime.tower import Tower

DID: list[str] = []


def ask(run, text):
    """Ask the model one thing."""
    return run.model([{"role": "user", "content": text}]).content


def search(run, what):
    """Be a tool that asks a model, uses a tool, reads the clock and has a step."""
    DID.append(what)
    with run.step("inside"):
        word = ask(run, f"a word for {what}")
        found = run.tool(lambda word: {"word": word}, {"word": word}, idempotent=True, name="look")
    return {"found": found, "at": run.now().isoformat(), "n": run.random()}


def agent(run, task, *, last="and then?", tool=search):
    """Use the tool twice, with questions before and after."""
    first = ask(run, task["question"])
    seen = [
        run.tool(lambda what: tool(run, what), {"what": f"{first} {i}"}, idempotent=False,
                 name="search")
        for i in range(2)
    ]  # fmt: skip
    run.finish({"answer": ask(run, f"{last} {len(seen)}"), "n": run.random()})


def recorded(store, fn=agent, **more):
    """Return the pack of a run."""
    tower = make_tower(store, budget_usd=None, **more)
    with tower.run("nested", task={"question": "what?"}) as run:
        fn(run, {"question": "what?"})
    return run.pack


def below(pack: Pack, kind="attempt"):
    """Return the names of spans whose parent is of a kind."""
    spans = {s["span_id"]: s for s in pack.frame("spans").to_dicts()}
    parents = [(s["name"], spans.get(s["parent_span_id"])) for s in spans.values()]
    return [name for name, above in parents if above is not None and above["kind"] == kind]


def test_a_tool_is_answered_and_what_it_did_is_not_asked_for(tmp_path):
    """The tree shows it below the attempt; the replay neither runs it nor misses it."""
    pack = recorded(tmp_path)
    assert reasons(pack) == ()
    assert below(pack) == ["inside", "inside"]
    DID.clear()
    report = replay(pack, agent)
    assert report.equal, report.lines()
    assert DID == []
    assert report.spans_recorded - report.spans_replayed == 2 * 5


def test_a_difference_after_it_is_named_at_the_recorded_span(tmp_path):
    """Spans of a replay have other numbers then; the report has the recorded ones."""
    pack = recorded(tmp_path)
    report = replay(pack, lambda run, task: agent(run, task, last="and now?"))
    chats = pack.frame("spans").filter(kind="call", gen_ai_operation_name="chat")
    assert report.divergence.seq == chats["seq"].max()
    assert "message 0" in report.divergence.reason


def test_an_agent_that_asks_what_its_tool_asked_diverges(tmp_path):
    """What a tool's function was answered is served to nobody else."""

    def curious(run, task):
        agent(run, task)
        ask(run, "a word for It is  0")

    assert not replay(recorded(tmp_path), curious).equal


def test_tools_on_an_event_loop_replay_too(tmp_path):
    """Two at once, each with calls of its own."""

    async def gathered(run, _):
        async def deep(what):
            reply = await run.amodel([{"role": "user", "content": f"deep {what}"}])
            return {"said": reply.content, "n": run.random()}

        both = await asyncio.gather(*(
            run.atool(deep, {"what": i}, idempotent=True, name="deep") for i in range(2)
        ))  # fmt: skip
        run.finish({"both": both})

    tower = make_tower(tmp_path, budget_usd=None)
    with tower.run("nested", task={}) as run:
        asyncio.run(gathered(run, {}))
    assert reasons(run.pack) == ()
    assert len(below(run.pack)) == 2
    report = replay(run.pack, gathered)
    assert report.equal, report.lines()


def test_a_tool_within_a_tool_is_part_of_it(tmp_path):
    """However deep it goes."""

    def outer(run, what):
        return run.tool(lambda what: search(run, what), {"what": what}, idempotent=True, name="in")

    pack = recorded(tmp_path, lambda run, task: agent(run, task, tool=outer))
    assert reasons(pack) == ()
    report = replay(pack, lambda run, task: agent(run, task, tool=outer))
    assert report.equal, report.lines()


def test_a_budget_and_a_retry_inside_a_tool_replay(tmp_path):
    """Refusals and retries that were met inside it are nobody's afterwards."""
    faults = [{"target": "model:sim-clerk-large", "at": [2, 3], "kind": "overloaded"}]
    tower = make_tower(tmp_path, budget_usd=None)
    with tower.run("nested", task={"question": "what?"}, faults=faults) as run:
        agent(run, {"question": "what?"})
    report = replay(run.pack, agent)
    assert report.equal, report.lines()


def test_a_fault_is_put_in_after_a_tool_with_calls(tmp_path):
    """Span numbers are the recorded ones."""
    pack = recorded(tmp_path)
    last = pack.frame("spans").filter(kind="call", gen_ai_operation_name="chat")["seq"].max()
    injected = inject(pack, f"overloaded@{last}", agent=agent)
    assert (injected.coped, injected.span) == (True, last)


def test_a_tool_that_was_given_up_goes_on_elsewhere(tmp_path):
    """What its thread still has open moves up, what it begins later is marked, all replays."""
    entered, go = threading.Event(), threading.Event()

    def answer(request):
        if "slow" in str(request.messages[0]["content"]):
            entered.set()
            go.wait(10)
        return Response(content="well", usage=Usage(input_tokens=3, output_tokens=1))

    tower = Tower(
        store=tmp_path, models=[models.function(answer)], redactor=simulated_redactor(),
        environment=SystemEnv,
    )  # fmt: skip
    over = threading.Event()

    def sub(run):
        ask(run, "slow")
        with run.step("later"):
            ask(run, "after it")
        run.random()
        over.set()

    def slow(run, _):
        try:
            run.tool(lambda: sub(run), idempotent=False, timeout_s=0.3, name="sub")
        except AttemptTimeout:
            go.set()
        over.wait(10)
        run.finish(ask(run, "what now?"))

    with tower.run("nested", task={}) as run:
        slow(run, {})
    assert reasons(run.pack) == ()
    assert below(run.pack) == []
    attributes = run.pack.frame("spans").filter(name="later")["attributes"].item()
    assert "towerkit.abandoned_by" in attributes
    over.clear()
    entered.clear()
    over.set()
    report = replay(run.pack, slow)
    assert report.equal, report.lines()
    assert not entered.is_set()


@pytest.mark.parametrize("kind", ["step", "run"])
def test_a_call_of_the_agents_own_stays_where_it_was(tmp_path, kind):
    """Below its step or the run: only a tool's function has its attempt above."""
    with make_tower(tmp_path).run("plain", task={}) as run:
        if kind == "step":
            with run.step("mine"):
                ask(run, "one")
        else:
            ask(run, "one")
    assert "chat sim-clerk-large" in below(run.pack, kind)

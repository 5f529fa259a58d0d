"""Agents of the user's own: which are found, what they may do on stage, what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import textwrap
import urllib.request
from bisect import bisect_left

import pytest
from click.testing import CliRunner

from tests.agents import CODE, LookupFailed, agent, make_tower, recorded
from towerkit.cli import cli
from towerkit.core.errors import BudgetExceeded, UsageError
from towerkit.cost.budget import Limits
from towerkit.cost.plan import Budget
from towerkit.privacy.keys import simulated_redactor
from towerkit.replay import replay
from towerkit.replay.agents import Agent
from towerkit.replay.fork import edited
from towerkit.replay.inject import inject
from towerkit.runtime import models
from towerkit.runtime.code import _code
from towerkit.runtime.tower import Tower

pytest_plugins = ["pytester"]
TYPES = {"LookupFailed": LookupFailed}


def own_tower(store):
    return Tower(
        store=store, models=[models.function(lambda r: f"Well, {len(r.messages)}.")],
        redactor=simulated_redactor(), durable=False,
    )  # fmt: skip


def test_a_decorated_agent_replays_by_its_arguments(tmp_path):
    """It opens its run itself; tools that would act are not run."""
    tower, acted = own_tower(tmp_path), []

    @tower.tool(idempotent=False)
    def refund(order: int) -> str:
        acted.append(order)
        return f"refunded {order}"

    @tower.agent("desk")
    async def desk(order: int, note: str = "") -> str:
        run = tower.current()
        first = await run.amodel([{"role": "user", "content": f"{order} {note}"}])
        return refund(order) + first.content

    asyncio.run(desk(7, note="for ann@example.com"))
    (pack,) = tower.store.packs()
    report = replay(pack, desk)
    assert report.equal, report.lines()
    assert acted == [7]
    assert len(tower.store.packs()) == 1
    assert pack.manifest["identity"]["agent_digest"]


def test_what_is_not_under_the_tower_is_refused_not_done(tmp_path):
    """A connection of the agent's own is a divergence that says what to do."""
    pack = recorded(tmp_path)

    def nosy(run, task):
        urllib.request.urlopen("http://127.0.0.1:9/")  # refused before it leaves

    report = replay(pack, nosy)
    assert not report.equal
    with pytest.raises(OSError, match=r"refused|unreachable"):
        urllib.request.urlopen("http://127.0.0.1:9/")


def test_an_agent_of_another_run_is_told_so(tmp_path):
    """A run of another name, a second run, and none at all are divergences."""
    pack, tower = recorded(tmp_path / "a"), own_tower(tmp_path / "b")

    def other(task):
        with tower.run("something else"):
            pass

    for wrong, said in ((other, "something else"), (lambda task: None, "opened no run")):
        divergence = replay(pack, wrong).divergence
        assert said in divergence.replayed
    assert tower.store.packs() == []


@pytest.mark.parametrize("wrong", [7, lambda a, b, c: None, lambda run: None])
def test_what_cannot_be_called_with_a_task_is_refused(wrong):
    with pytest.raises(UsageError, match="expected an agent"):
        Agent(wrong)


def test_a_replay_says_when_the_code_is_another(tmp_path):
    """The digest of the agent's module is in the pack."""
    tower = make_tower(tmp_path)
    task = {"question": "Where is order 7?"}
    code = {"agent_module": agent.__module__, "agent_digest": "0" * 64}
    with tower.run("orders", task=task, identity=code) as run:
        agent(run, task)
    assert replay(run.pack, agent).changed == (f"the agent's code ({agent.__module__})",)
    assert CODE["agent_digest"] is None
    assert replay(recorded(tmp_path / "b"), agent).changed == ()


@pytest.mark.parametrize(
    ("where", "coped", "attempts"),
    [("overloaded@2", True, 2), ("overloaded*9@2", False, 4), ("tool_failed@4", True, 2),
     ("content_filtered@2", False, 1)],
)  # fmt: skip
def test_a_fault_in_a_recording_is_decided_by_the_policy(tmp_path, where, coped, attempts):
    """Once it is waited out; for good it ends the run; no tool is run and nothing is kept."""
    pack = recorded(tmp_path)
    found = inject(pack, where, agent=agent, exceptions=TYPES)
    assert found.coped is coped, found.lines()
    assert found.attempts == attempts


def test_a_fault_costs_what_its_attempts_cost(tmp_path):
    """What the failed attempts are charged is missing at the end: the budget stops the run."""

    def chatty(run, task):
        for i in range(task["turns"]):
            run.model([{"role": "user", "content": f"turn {i} " + "and more " * 40}])

    def kept(micro_usd, plan=None):
        budget = {"budget": plan, "budget_usd": None} if plan else {"budget_usd": micro_usd / 1e6}
        tower = make_tower(tmp_path / f"{micro_usd}{plan is None}", **budget)
        with contextlib.suppress(BudgetExceeded), tower.run("chatty", task={"turns": 4}) as run:
            chatty(run, {"turns": 4})
        return run.pack

    def fits(micro_usd):
        return kept(micro_usd).manifest["status"] == "completed"

    near = kept(bisect_left(range(500_000), x=True, lo=1, key=fits))
    last = near.frame("spans").filter(kind="call").sort("seq")["seq"][-1]
    found = inject(near, f"timeout_read*3@{last}", agent=chatty)
    assert found.coped is False
    assert "budget" in found.why
    assert inject(kept(500_000), f"timeout_read*3@{last}", agent=chatty).coped is True
    many = kept(500_000, Budget(run=Limits(cost_usd=0.5, calls=6)))
    assert inject(many, f"timeout_read*2@{last}", agent=chatty).coped is None


def test_a_fault_that_is_handed_to_the_agent_is_unknown(tmp_path):
    """It asks something new of a model: only a live run can tell."""

    def careful(run, task):
        try:
            found = run.tool(dict, {"order": 7}, idempotent=False, name="look")
        except Exception as error:
            found = type(error).__name__
        run.model([{"role": "user", "content": str(found)}])

    tower = own_tower(tmp_path)
    with tower.run("careful", task={}) as run:
        careful(run, {})
    seq = run.pack.frame("spans").filter(kind="call").sort("seq")["seq"][0]
    assert inject(run.pack, f"tool_failed@{seq}", agent=careful).coped is None
    with pytest.raises(UsageError, match="no call"):
        inject(run.pack, "tool_failed@0", agent=careful)
    with pytest.raises(UsageError, match="own decision"):
        inject(run.pack, f"budget_exceeded@{seq}", agent=careful)


MODULE = """
from towerkit import Tower, models
from towerkit.privacy.keys import simulated_redactor

model = models.function(lambda r: "LIVE " + r.messages[-1]["content"])
tower = Tower(store="store", models=[model], redactor=simulated_redactor(), durable=False)

def look(n):
    return {"n": n}

def handle(run, task):
    found = run.tool(look, {"n": task["n"]}, idempotent=True)
    reply = run.model([{"role": "user", "content": f"WORD {found}"}])
    run.finish(reply.content)

def work(n):
    with tower.run("desk", task={"n": n}) as run:
        handle(run, {"n": n})
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write a module with an agent and record three runs of it; return the ids."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "desk.py").write_text(MODULE.replace("WORD", "Found"))
    sys.modules.pop("desk", None)
    import desk

    for n in range(3):
        desk.work(n)
    yield [pack.run_id for pack in desk.tower.store.packs()]
    sys.modules.pop("desk", None)


def command(*words):
    result = CliRunner().invoke(cli, ["replay", *words, "--store", "store"])
    return result.exit_code, result.output


def test_the_command_replays_forks_and_breaks_an_agent_of_ones_own(project):
    """One run, all of them in processes, a fork with a changed answer, a fault."""
    who = ("--agent", "desk:handle")
    code, said = command(project[0], *who)
    assert (code, "EQUAL" in said) == (0, True)
    code, said = command("--all", "scenario=desk", "--jobs", "2", *who)
    assert (code, said.splitlines()[-1]) == (0, "[replay] 3 runs: equal=3 diverged=0 error=0")
    code, said = command(project[1], *who, "--fork-at", "1", "--set", "n=41", "--json")
    made = json.loads(said)
    assert (code, made["from_tape"], made["live"]) == (0, 1, 1)
    from towerkit.packs.store import Store

    forked = Store("store").pack(made["run_id"])
    assert forked.manifest["source"]["parent"] == project[1]
    root = forked.frame("spans").filter(kind="run").to_dicts()[0]
    assert forked.content(root["response_digest"]) == "LIVE Found {'n': 41}"
    code, said = command(made["run_id"], *who)
    assert code == 0, said
    code, said = command(project[0], *who, "--inject", "overloaded@3")
    assert (code, "COPED" in said) == (0, True)


def test_the_command_names_what_is_wrong(project, tmp_path):
    """A changed agent is a 4 with both sides; a wrong call of the command is one sentence."""
    (tmp_path / "desk.py").write_text(MODULE.replace("WORD", "Fount"))
    sys.modules.pop("desk")
    _code.cache_clear()  # a process that goes on has not got the new code
    code, said = command("--all", "scenario=desk", "--jobs", "1", "--agent", "desk:handle")
    assert code == 4
    assert "message 0" in said
    assert "changed since the recording: the agent's code (desk)" in said
    assert "equal=0 diverged=3" in said
    for words in ((), ("x", "--all", "y"), (project[0], "--set", "a=b"),
                  (project[0], "--inject", "overloaded@1", "--fork-at", "1")):  # fmt: skip
        result = CliRunner().invoke(cli, ["replay", *words])
        assert isinstance(result.exception, UsageError), words
    for agent_name in ("desk", "nowhere:f", "desk:nothing"):
        result = CliRunner().invoke(
            cli, ["replay", project[0], "--agent", agent_name, "--store", "store"]
        )
        assert isinstance(result.exception, UsageError), agent_name


def test_an_answer_is_changed_at_a_path():
    change = edited(("a.1.b=2", "c=x"), None)
    assert change({"result": {"a": [0, {"b": 1}]}}, "tool") == {
        "result": {"a": [0, {"b": 2}], "c": "x"}
    }
    assert edited(("content=no",), None)({"content": "yes"}, "model") == {"content": "no"}
    assert edited((), None) is None
    with pytest.raises(UsageError, match="nothing at '5'"):
        edited(("a.5=1",), None)({"result": {"a": []}}, "tool")


def test_incidents_become_tests(project, tmp_path, pytester):
    """The plugin's fixture passes where nothing changed and shows the difference where it did."""
    pytester.makeini("[pytest]\ntowerkit_store = store\n")
    body = textwrap.dedent(f"""
        import desk, sys
        def test_same(towerkit_replay):
            assert towerkit_replay({project[0]!r}, desk.handle).equal
        def test_other(towerkit_replay):
            def other(run, task):
                run.tool(desk.look, {{"n": 99}}, idempotent=True)
            towerkit_replay({project[0]!r}, other)
    """)
    pytester.makepyfile(test_incident=body)
    import shutil

    shutil.copytree(tmp_path / "store", pytester.path / "store")
    shutil.copy(tmp_path / "desk.py", pytester.path / "desk.py")
    result = pytester.runpytest_inprocess(
        "-p",
        "no:towerkit",
        "-p",
        "towerkit.pytest_plugin",
        "-p",
        "no:xdist",
        "-p",
        "no:cacheprovider",
    )
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*DIVERGED*at span 1*", "*recorded: *", "*replayed: *"])

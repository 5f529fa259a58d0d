"""The guard: what it does about failures, what it records, and what it leaves alone."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from tests.agents import LookupFailed, agent, look_up, make_tower, recorded
from towerkit.core.env import SystemEnv
from towerkit.core.errors import (
    AttemptTimeout,
    BudgetExceeded,
    DeadlineExceeded,
    FaultInjected,
    UsageError,
)
from towerkit.core.types import Response, Usage
from towerkit.faults.plan import FaultPlan, load_faults
from towerkit.packs.summary import summarise
from towerkit.privacy.redact import Redactor
from towerkit.reliability.policy import Policy
from towerkit.runtime import models
from towerkit.runtime.tower import Tower

HELLO = [{"role": "user", "content": "hello"}]


def fault(target, *at, kind="overloaded", delay_s=0.0):
    return {"target": target, "at": at, "kind": kind, "delay_s": delay_s}


def test_a_run_has_the_four_kinds_of_span(tmp_path):
    """Run > step > call > attempt, each with its parent, each once."""
    spans = recorded(tmp_path).frame("spans").sort("seq").to_dicts()
    kinds = [s["kind"] for s in spans]
    assert kinds == ["run", "step", "call", "attempt", "call", "attempt", "call", "attempt"]
    parent = {s["span_id"]: s for s in spans}
    above = {"step": "run", "attempt": "call"}
    for s in spans[1:]:
        assert parent[s["parent_span_id"]]["kind"] == above.get(
            s["kind"], parent[s["parent_span_id"]]["kind"]
        )
    assert [parent[s["parent_span_id"]]["name"] for s in spans if s["kind"] == "call"] == [
        "look", "look", "orders",
    ]  # fmt: skip


def test_an_overloaded_model_is_retried_and_then_replaced(tmp_path):
    """Three tries, then the second tier answers and says why."""
    pack = recorded(tmp_path, faults=[fault("model:sim-clerk-large", 1, 2, 3)])
    attempts = [s for s in pack.frame("spans").to_dicts()
                if s["kind"] == "attempt" and s["gen_ai_operation_name"] == "chat"]  # fmt: skip
    assert [a["error_class"] for a in attempts[:4]] == ["overloaded"] * 3 + [None]
    assert (attempts[3]["fallback_tier"], attempts[3]["fallback_reason"]) == (1, "overloaded")
    assert attempts[3]["gen_ai_response_model"] == "sim-clerk-small"
    summary = summarise(pack)
    assert (summary.fallback, summary.retries, summary.errors) == (True, 2, {"model": 3})


def test_a_slow_idempotent_tool_is_cut_and_run_again(tmp_path):
    """12 s are lost to the time-out, the second try answers, the agent sees the answer only."""
    pack = recorded(tmp_path, faults=[fault("tool:look_up", 1, kind="slow", delay_s=30)])
    summary = summarise(pack)
    assert (summary.timeout_s, summary.retries, summary.errors) == (12.0, 1, {"tool": 1})
    assert pack.manifest["status"] == "completed"


def test_a_tool_that_is_not_idempotent_runs_once(tmp_path):
    """After a time-out the outcome is unknown; it is told, not tried again."""
    calls = []
    with (
        pytest.raises(AttemptTimeout) as caught,
        make_tower(tmp_path).run(
            "x", faults=[fault("tool:pay", 1, kind="slow", delay_s=99)]
        ) as run,
    ):
        run.tool(lambda: calls.append(1), idempotent=False, name="pay", timeout_s=12)
    assert calls == [1]
    assert caught.value.tower.decision == "not_idempotent"
    assert run.pack.manifest["status"] == "failed"


def test_the_original_exception_comes_back_with_the_tower_attached(tmp_path):
    """Type, text and identity are the tool's; `e.tower` says what was decided."""
    error = LookupFailed("gone")

    def broken():
        raise error

    with make_tower(tmp_path).run("x") as run, pytest.raises(LookupFailed) as caught:
        run.tool(broken, idempotent=True)
    assert caught.value is error
    assert (caught.value.tower.error_class, caught.value.tower.attempts) == ("tool_failed", 2)


def test_what_the_agent_gets_is_not_touched(tmp_path):
    """The very object the tool returned is handed on, unredacted."""
    thing = {"email": "ann@example.com", "blob": object()}
    with make_tower(tmp_path).run("x") as run:
        assert run.tool(lambda: thing, idempotent=True, name="t") is thing
    assert run.pack is not None


def test_the_budget_stops_the_next_call(tmp_path):
    """The refused call is never made, the run is stopped, and its pack says so."""
    tower = make_tower(tmp_path, budget_usd=0.013)
    with pytest.raises(BudgetExceeded), tower.run("x") as run:
        for _ in range(10):
            run.model(HELLO)
    assert run.pack.manifest["status"] == "stopped"
    assert run.pack.manifest["error_class"] == "budget_exceeded"
    spent = run.pack.frame("costs")["cost_nanousd"].sum()
    assert 0 < spent == run.ledger.spent <= 13_000_000
    assert summarise(run.pack).errors == {"budget": 1}


def test_the_deadline_covers_attempts_and_waits(tmp_path):
    """No call starts after it and the clock does not pass it by more than an attempt allows."""
    tower = make_tower(tmp_path, policy=Policy(deadline_s=1.0))
    with pytest.raises(DeadlineExceeded), tower.run("x") as run:
        while True:
            run.model(HELLO)
    assert run.pack.manifest["duration_ns"] <= 1_200_000_000


def test_usage_that_is_not_reported_is_estimated_and_said_so(tmp_path):
    """The charge is marked, the span shows no invented usage."""
    pack = recorded(tmp_path, usage=False)
    assert pack.frame("costs")["estimated"].all()
    assert pack.frame("costs")["cost_nanousd"].min() > 0
    assert (
        pack.frame("spans")["gen_ai_usage_input_tokens"].null_count() == pack.frame("spans").height
    )


def test_a_model_without_a_price_costs_unknown(tmp_path):
    """Null in the pack, unknown in the line, counted in the manifest."""
    usage = Usage(input_tokens=5, output_tokens=5)
    mine = models.function(lambda _: Response(content="x", usage=usage), name="mine")
    tower = Tower(store=tmp_path, models=[mine], budget_usd=1)
    with tower.run("x") as run:
        run.model(HELLO)
    assert run.pack.frame("costs")["cost_nanousd"].to_list() == [None]
    assert summarise(run.pack).lines()[2] == "[cost] budget=$1.00 actual=unknown"
    assert run.pack.manifest["budget"]["unknown_charges"] == 1


def test_an_agent_that_raises_leaves_a_whole_pack(tmp_path):
    """Status failed, every span ended, the agent's error passes through."""
    with pytest.raises(ZeroDivisionError), make_tower(tmp_path).run("x") as run, run.step("s"):
        _ = 1 / 0
    manifest = run.pack.manifest
    assert (manifest["status"], manifest["error_class"]) == ("failed", "agent_bug")
    assert manifest["spans"] == {"started": 2, "ended": 2, "aborted": 0, "dropped": 0}
    run.pack.verify()


def test_an_interrupt_is_cancelled_not_failed(tmp_path):
    """Ctrl-C in a tool ends every span as cancelled, is not retried, and is raised on."""

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), make_tower(tmp_path).run("x") as run:
        run.tool(interrupted, idempotent=True)
    assert set(run.pack.frame("spans")["status"]) == {"cancelled"}
    assert run.pack.frame("spans").height == 3
    assert run.pack.manifest["status"] == "cancelled"


def test_equal_seeds_give_equal_packs_and_others_do_not(tmp_path):
    """Run id, digest, everything: a simulated run is a function of its inputs."""
    a, b = recorded(tmp_path / "a", seed=3), recorded(tmp_path / "b", seed=3)
    c = recorded(tmp_path / "c", seed=4)
    assert (a.run_id, a.digest) == (b.run_id, b.digest)
    assert a.digest != c.digest


def test_messages_are_stored_once_however_often_they_are_sent(tmp_path):
    """The second model call sends the first two messages again; the pack has them once."""
    pack = recorded(tmp_path)
    digests = pack.frame("content")["digest"].to_list()
    assert len(digests) == len(set(digests))
    bodies = [b for b in pack.frame("content")["body"] if b"in one sentence" in b]
    assert len(bodies) == 1


def test_with_capture_off_no_content_is_stored(tmp_path):
    """Not from a prompt, a tool, a task or a result."""
    tower = make_tower(tmp_path)
    tower.redactor = Redactor(b"k" * 32, kid="k", capture="off")
    with tower.run("x", task={"q": "canary-task"}) as run:
        run.model([{"role": "user", "content": "canary-prompt"}])
        run.tool(look_up, {"order": 1}, idempotent=True)
        run.finish("canary-result")
    assert run.pack.frame("content").height == 0
    assert b"canary" not in b"".join(p.read_bytes() for p in run.pack.folder.iterdir())


def test_threads_of_a_run_keep_their_parents(tmp_path):
    """A call made in a thread belongs to the run; in a copied context, to the open step."""
    import contextvars

    with make_tower(tmp_path).run("x") as run, run.step("s"):
        context = contextvars.copy_context()
        work = lambda: run.tool(look_up, {"order": 1}, idempotent=True)  # noqa: E731
        threads = [
            threading.Thread(target=work), threading.Thread(target=lambda: context.run(work)),
        ]  # fmt: skip
        for t in threads:
            t.start()
            t.join()
    spans = run.pack.frame("spans").sort("seq").to_dicts()
    names = {s["span_id"]: s["name"] for s in spans}
    assert [names[s["parent_span_id"]] for s in spans if s["kind"] == "call"] == ["x", "s"]


def test_a_real_slow_tool_is_cut_by_the_real_clock(tmp_path):
    """On the system clock the time-out holds too."""
    release = threading.Event()
    tower = Tower(store=tmp_path, environment=SystemEnv)
    with tower.run("x") as run, pytest.raises(AttemptTimeout):
        run.tool(release.wait, {"timeout": 20}, idempotent=False, name="slow", timeout_s=0.05)
    release.set()
    assert summarise(run.pack).errors == {"tool": 1}


def test_a_tool_without_a_time_out_stays_on_the_agents_thread(tmp_path):
    """What belongs to a thread goes on working: a SQLite connection, a thread's own variable."""
    connection = sqlite3.connect(":memory:")
    seen = []
    with Tower(store=tmp_path).run("x") as run:
        rows = run.tool(
            lambda: connection.execute("SELECT 7").fetchall(), idempotent=True, name="q"
        )
        run.tool(lambda: seen.append(threading.get_ident()), idempotent=True, name="t")
    connection.close()
    assert rows == [(7,)]
    assert seen == [threading.get_ident()]


def test_runs_open_inside_each_other_keep_their_own_spans(tmp_path):
    """A call belongs to the run it is made on, whichever run was opened last."""
    outer_tower, inner_tower = make_tower(tmp_path / "a"), make_tower(tmp_path / "b", seed=2)
    with outer_tower.run("outer") as outer, outer.step("s"), inner_tower.run("inner") as inner:
        outer.tool(look_up, {"order": 1}, idempotent=True)
        inner.tool(look_up, {"order": 2}, idempotent=True)
    for run, above in ((outer, "s"), (inner, "inner")):
        spans = run.pack.frame("spans").to_dicts()
        names = {s["span_id"]: s["name"] for s in spans}
        calls = [s for s in spans if s["kind"] == "call"]
        assert [names[s["parent_span_id"]] for s in calls] == [above]


def test_misuse_is_told_in_one_sentence(tmp_path):
    """No models, no run entered, entered twice, a budget that is none."""
    tower = Tower(store=tmp_path)
    with tower.run("x") as run:
        with pytest.raises(UsageError, match="has no models"):
            run.model(HELLO)
        with pytest.raises(UsageError, match="entered once"):
            run.__enter__()
    with pytest.raises(UsageError, match="enter the run first"):
        tower.run("x").tool(look_up, {"order": 1}, idempotent=True)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="positive amount"):
            Tower(store=tmp_path, budget_usd=wrong)


def test_fault_plans_are_checked():
    """A plan that would do nothing, or cannot be read, is refused."""
    for entry in (
        {"target": "model", "at": [1], "kind": "slow"},
        {"target": "tool:x", "at": [1], "kind": "explode"},
        {"target": "tool:x", "at": "1", "kind": "slow"},
        {"target": "tool:x", "kind": "slow"},
        {"target": "tool:x", "at": [1], "kind": "slow", "delay": 3},
    ):
        with pytest.raises(UsageError, match="fault plan"):
            FaultPlan([entry])
    assert load_faults("none") == []
    assert len(load_faults("default")) >= 3
    with pytest.raises(UsageError, match="default"):
        load_faults("nope")


def test_corrupt_and_failing_tools(tmp_path):
    """Corrupt results are cut text; an error says that it is simulated."""
    tower = make_tower(tmp_path)
    plan = [fault("tool:look_up", 1, kind="corrupt"), fault("tool:look_up", 2, kind="error")]
    with tower.run("x", faults=plan) as run:
        cut = run.tool(look_up, {"order": 1}, idempotent=False)
        with pytest.raises(FaultInjected, match="simulated fault"):
            run.tool(look_up, {"order": 1}, idempotent=False)
    assert isinstance(cut, str)
    assert cut.startswith('{"email"')


def test_unknown_orders_are_told_to_the_model(tmp_path):
    """The agent caught the tool's own exception type through the guard."""
    pack = recorded(tmp_path, order=13)
    assert summarise(pack).errors == {"tool": 2}
    assert any(b"no order 13" in b for b in pack.frame("content")["body"])


def test_agent_is_the_agent(tmp_path):
    """The shared agent finishes with an answer: the other tests stand on it."""
    tower = make_tower(tmp_path)
    with tower.run("orders", task={"question": "?"}) as run:
        agent(run, {"question": "?"})
    assert run.result["answer"].startswith("It is")


def test_a_tower_knows_its_open_run(tmp_path):
    """`current` is the innermost open run of this tower, whatever other towers have open."""
    one, other = make_tower(tmp_path / "a"), make_tower(tmp_path / "b")
    assert one.current() is None
    with one.run("outer") as outer:
        with other.run("of another") as foreign:
            assert (one.current(), other.current()) == (outer, foreign)
            with one.run("inner") as inner:
                assert one.current() is inner
        assert one.current() is outer
    assert one.current() is None

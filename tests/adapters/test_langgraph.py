"""LangGraph under the tower: nodes are steps, control flow passes, and there is one retry owner."""

from __future__ import annotations

import asyncio
import operator
import sys
import threading
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.errors import NodeTimeoutError
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, RetryPolicy, Send, interrupt
from rows import only_pack, packs, real_tower, spans

from towerkit.adapters import langgraph as adapter
from towerkit.adapters.langgraph import guard_node, under_tower
from towerkit.core.errors import NoProgress, UsageError
from towerkit.reliability.policy import Policy

QUICK = Policy(backoff_cap_s=0.001)
CONFIG = {"configurable": {"thread_id": "t"}}


class State(TypedDict, total=False):
    """What the graphs of these tests pass on."""

    order: int
    seen: Annotated[list[str], operator.add]


class Overloaded(Exception):
    """What a provider without capacity raises."""

    status_code = 529


class Down(Exception):
    """What nothing in the taxonomy knows."""


def chain(**nodes):
    """Return a builder whose nodes follow each other."""
    builder = StateGraph(State)
    before = START
    for name, node in nodes.items():
        options = node if isinstance(node, dict) else {"action": node}
        builder.add_node(name, **options)
        builder.add_edge(before, name)
        before = name
    builder.add_edge(before, END)
    return builder


def note(state: State) -> State:
    """Note that a node ran."""
    return {"seen": [f"note {state['order']}"]}


async def anote(state: State) -> State:
    """Do the same, awaiting."""
    await asyncio.sleep(0)
    return note(state)


def failing(times, error=Overloaded):
    """Return a node that fails `times` times, and the list of its executions."""
    calls = []

    def node(state: State) -> State:
        calls.append(state["order"])
        if len(calls) <= times:
            raise error("no")
        return {"seen": ["done"]}

    return node, calls


def invoke(graph, state, config=None):
    """Run a graph on this thread."""
    return graph.invoke(state, config)


def ainvoke(graph, state, config=None):
    """Run a graph on an event loop."""
    return asyncio.run(graph.ainvoke(state, config))


def stream(graph, state, config=None):
    """Run a graph step by step and return its last state."""
    return list(graph.stream(state, config, stream_mode="values"))[-1]


def astream(graph, state, config=None):
    """Do the same on an event loop."""

    async def main():
        return [s async for s in graph.astream(state, config, stream_mode="values")][-1]

    return asyncio.run(main())


SYNC = [invoke, stream]
WAYS = [invoke, ainvoke, stream, astream]


@pytest.mark.parametrize("way", WAYS)
def test_every_node_of_a_graph_is_a_step(tmp_path, way):
    """One line: names, order and the answer are the graph's; guarded calls are below their step."""
    tower = real_tower(tmp_path)
    look_up = tower.tool(idempotent=True, name="look_up")(lambda order: order * 2)

    def use(state: State) -> State:
        return {"seen": [str(look_up(state["order"]))]}

    graph = under_tower(tower, chain(first=note, second=use)).compile()
    with tower.run("orders") as run:
        assert way(graph, {"order": 7})["seen"] == ["note 7", "14"]
    steps = spans(run.pack, "step")
    assert [s["name"] for s in steps] == ["first", "second"]
    (call,) = spans(run.pack, "call")
    assert call["parent_span_id"] == steps[1]["span_id"]
    (row,) = run.pack.frame("inputs").filter(kind="tool").to_dicts()
    assert row["parent_path"] == "second"


@pytest.mark.parametrize("way", [ainvoke, astream])
def test_async_nodes_are_steps_too(tmp_path, way):
    """Awaited, generators and runnables among them."""

    def pieces(state: State):
        yield {"seen": ["piece"]}

    tower = real_tower(tmp_path)
    lambda_ = RunnableLambda(lambda state: {"seen": ["lambda"]})
    graph = under_tower(tower, chain(one=anote, two=pieces, three=lambda_)).compile()
    with tower.run("orders") as run:
        assert way(graph, {"order": 7})["seen"] == ["note 7", "piece", "lambda"]
    assert [s["name"] for s in spans(run.pack, "step")] == ["one", "two", "three"]


def test_nodes_that_run_at_once_keep_their_own_steps(tmp_path):
    """LangGraph runs them in threads of its own: each call is below the node that made it."""
    tower = real_tower(tmp_path)
    meeting = threading.Barrier(3, timeout=5)

    @tower.tool(idempotent=True)
    def look_up(order):
        meeting.wait()
        return order

    def worker(state: State) -> State:
        return {"seen": [str(look_up(state["order"]))]}

    builder = StateGraph(State)
    builder.add_node("fan", lambda state: {})
    builder.add_node("worker", worker)
    builder.add_edge(START, "fan")
    builder.add_conditional_edges(
        "fan", lambda state: [Send("worker", {"order": n}) for n in range(3)], ["worker"]
    )
    graph = under_tower(tower, builder).compile()
    with tower.run("orders") as run:
        assert sorted(graph.invoke({"order": 0})["seen"]) == ["0", "1", "2"]
    workers = {s["span_id"] for s in spans(run.pack, "step", name="worker")}
    assert len(workers) == 3
    assert {c["parent_span_id"] for c in spans(run.pack, "call")} == workers


def test_what_langgraph_injects_still_comes(tmp_path):
    """Config and runtime arrive at a guarded function, by either way of guarding it."""
    got = []

    def node(state: State, config: RunnableConfig, *, runtime: Runtime[Any]) -> State:
        got.append((config["configurable"]["thread_id"], type(runtime).__name__))
        return {}

    tower = real_tower(tmp_path)
    for builder in (chain(a=guard_node(tower, node)), under_tower(tower, chain(a=node))):
        builder.compile(checkpointer=InMemorySaver()).invoke({"order": 1}, CONFIG)
    assert got == [("t", "Runtime")] * 2


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("error", "hits", "name"),
    [(Overloaded, 3, "overloaded"), (Down, 2, "tool_failed"), (TypeError, 1, "agent_bug")],
)
def test_a_node_is_run_again_by_class_and_only_when_that_is_harmless(
    tmp_path, way, error, hits, name
):
    """Without `idempotent` once; with it as often as the table says; the original comes out."""
    for idempotent, expected in ((set(), 1), ({"node"}, hits)):
        tower = real_tower(tmp_path / str(len(idempotent)), policy=QUICK)
        node, calls = failing(99, error)
        graph = under_tower(tower, chain(node=node), idempotent=idempotent).compile()
        with pytest.raises(error, match="no") as caught, tower.run("orders"):
            way(graph, {"order": 7})
        assert len(calls) == expected
        (step,) = spans(only_pack(tower), "step")
        assert step["status"] == "error"
        if idempotent:
            assert caught.value.tower.error_class == name == step["error_class"]
    node, calls = failing(1)
    graph = under_tower(tower, chain(node=node), idempotent={"node"}).compile()
    assert way(graph, {"order": 7})["seen"] == ["done"]
    assert len(calls) == 2


def test_a_guarded_call_that_had_its_retries_does_not_get_the_nodes_on_top(tmp_path):
    """Two attempts of the tool, not four: the node passes on what the guard has decided."""
    tower = real_tower(tmp_path, policy=QUICK)
    calls = []

    @tower.tool(idempotent=True)
    def look_up(order):
        calls.append(order)
        raise Down("no")

    graph = under_tower(tower, chain(use=lambda s: look_up(s["order"])), idempotent={"use"})
    with pytest.raises(Down):
        graph.compile().invoke({"order": 7})
    assert len(calls) == 2
    assert spans(only_pack(tower), "step")[0]["error_class"] == "tool_failed"


def test_two_retry_owners_are_refused_and_the_tower_takes_over_when_told(tmp_path):
    """A retry_policy of a node or of the builder's defaults: a sentence, or one owner."""
    tower = real_tower(tmp_path, policy=QUICK)
    policy = RetryPolicy(initial_interval=0.001, jitter=False, retry_on=Exception, max_attempts=5)
    node, calls = failing(99, Down)
    own = chain(node={"action": node, "retry_policy": policy})
    default = chain(node=node).set_node_defaults(retry_policy=policy)
    for builder in (own, default):
        with pytest.raises(UsageError, match="'node' has a retry_policy"):
            under_tower(tower, builder)
        calls.clear()
        graph = under_tower(tower, builder, idempotent={"node"}).compile()
        with pytest.raises(Down):
            graph.invoke({"order": 7})
        assert len(calls) == 2
    calls.clear()
    with pytest.raises(Down):  # the builder that was given still has its policy
        own.compile().invoke({"order": 7})
    assert len(calls) == 5


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("idempotent", [set(), {"ask"}])
def test_an_interrupt_is_no_failure(tmp_path, way, idempotent):
    """Not retried, not classified as a bug; the graph resumes with the human's answer."""
    if way in {ainvoke, astream} and sys.version_info < (3, 11):
        pytest.skip("interrupt() needs Python 3.11 on an event loop")
    tower = real_tower(tmp_path, policy=QUICK)
    calls = []

    def ask(state: State) -> State:
        calls.append(1)
        return {"seen": [interrupt("may I?")]}

    graph = under_tower(tower, chain(ask=ask), idempotent=idempotent).compile(
        checkpointer=InMemorySaver()
    )
    with tower.run("orders") as run:
        way(graph, {"order": 7}, CONFIG)
        assert graph.get_state(CONFIG).next == ("ask",)
        assert len(calls) == 1
        assert way(graph, Command(resume="yes"), CONFIG)["seen"] == ["yes"]
    assert run.pack.manifest["status"] == "completed"
    first, second = spans(run.pack, "step")
    assert (first["error_class"], second["error_class"]) == ("permission_needed", None)
    assert {a["status"] for a in spans(run.pack, "attempt")} <= {"ok"}
    assert not tower.breaker("tool:ask")._window or not any(
        bad for bad, _ in tower.breaker("tool:ask")._window
    )


def test_an_interrupt_outside_of_any_run_ends_its_run_well(tmp_path):
    """The run of its own is not said to have failed."""
    tower = real_tower(tmp_path)
    graph = under_tower(tower, chain(ask=lambda s: {"seen": [interrupt("?")]})).compile(
        checkpointer=InMemorySaver()
    )
    graph.invoke({"order": 7}, CONFIG)
    assert only_pack(tower).manifest["status"] == "completed"


@pytest.mark.parametrize("idempotent", [set(), {"jump"}])
def test_a_command_to_the_parent_graph_passes(tmp_path, idempotent):
    """ParentCommand is how a subgraph hands over; its step ended well."""
    tower = real_tower(tmp_path)

    def jump(state: State) -> Command:
        return Command(graph=Command.PARENT, goto="after", update={"seen": ["jumped"]})

    inner = under_tower(tower, chain(jump=jump), idempotent=idempotent).compile()
    outer = StateGraph(State)
    outer.add_node("inner", inner, destinations=("after",))
    outer.add_node("after", note)
    outer.add_edge(START, "inner")
    graph = under_tower(tower, outer).compile()
    with tower.run("orders") as run:
        assert graph.invoke({"order": 7})["seen"] == ["jumped", "note 7"]
    steps = spans(run.pack, "step")
    assert [s["name"] for s in steps] == ["inner", "jump", "after"]
    assert steps[1]["parent_span_id"] == steps[0]["span_id"]
    assert {s["status"] for s in steps} == {"ok"}


def test_subgraphs_are_still_found(tmp_path):
    """What LangGraph knows of a subgraph, its stream among it, it knows of a guarded one."""
    tower = real_tower(tmp_path)
    inner = chain(deep=note).compile()
    plain, guarded = (
        b.compile() for b in (chain(inner=inner), under_tower(tower, chain(inner=inner)))
    )
    assert dict(guarded.get_subgraphs()).keys() == dict(plain.get_subgraphs()).keys() == {"inner"}
    for graph in (plain, guarded):
        chunks = list(graph.stream({"order": 7}, stream_mode="updates", subgraphs=True))
        assert [list(update) for _, update in chunks] == [["deep"], ["inner"]]


def test_a_time_out_of_a_node_is_still_langgraphs(tmp_path):
    """An async node is cut by it, and its step says cancelled; a sync one is refused as before."""

    async def slow(state: State) -> State:
        await asyncio.sleep(5)
        return {}

    tower = real_tower(tmp_path)
    builder = chain(slow={"action": slow, "timeout": 0.05})
    graph = under_tower(tower, builder).compile()
    with pytest.raises(NodeTimeoutError):
        ainvoke(graph, {"order": 7})
    with pytest.raises(ValueError, match="only supported for async"):
        under_tower(tower, chain(note={"action": note, "timeout": 1})).compile()


def test_a_graph_that_goes_round_in_circles_is_stopped(tmp_path):
    """An idempotent node that gets the same state and gives the same answer runs three times."""
    tower = real_tower(tmp_path)
    builder = StateGraph(State)
    builder.add_node("again", lambda state: {"order": state["order"]})
    builder.add_edge(START, "again")
    builder.add_edge("again", "again")
    graph = under_tower(tower, builder, idempotent={"again"}).compile()
    with pytest.raises(NoProgress), tower.run("orders"):
        graph.invoke({"order": 7})


def test_the_original_builder_is_left_alone(tmp_path):
    """What is compiled from it is not guarded, and nodes added later are its own."""
    tower = real_tower(tmp_path)
    builder = chain(first=note)
    guarded = under_tower(tower, builder)
    builder.add_node("later", note)
    assert "later" not in guarded.nodes
    assert builder.compile().invoke({"order": 7})["seen"] == ["note 7"]
    assert not packs(tower)


def test_what_cannot_be_guarded_is_refused(tmp_path, monkeypatch):
    """Compiled graphs, unknown names, generators, things; and a package that is missing."""
    tower = real_tower(tmp_path)
    with pytest.raises(UsageError, match="not compiled yet"):
        under_tower(tower, chain(a=note).compile())
    with pytest.raises(UsageError, match=r"\['b'\], which are no nodes; known: \['a'\]"):
        under_tower(tower, chain(a=note), idempotent={"b"})
    with pytest.raises(UsageError, match="generator"):
        guard_node(tower, lambda state: (yield))
    with pytest.raises(UsageError, match="a function or a runnable"):
        guard_node(tower, 7)
    adapter._runnable.cache_clear()
    monkeypatch.setitem(sys.modules, "langchain_core.runnables", None)
    with pytest.raises(UsageError, match="pip install langgraph"):
        under_tower(tower, chain(a=note))
    adapter._runnable.cache_clear()


@pytest.mark.parametrize("way", WAYS)
def test_one_node_can_be_guarded_by_itself(tmp_path, way):
    """`guard_node` in `add_node`, for a function, an async function and a runnable."""
    tower = real_tower(tmp_path, policy=QUICK)
    node, calls = failing(1)
    nodes = {"once": guard_node(tower, node, name="once", idempotent=True)}
    nodes["lambda"] = guard_node(tower, RunnableLambda(note), name="lambda")
    if way in {ainvoke, astream}:
        nodes["anote"] = guard_node(tower, anote)
    graph = chain(**nodes).compile()
    with tower.run("orders") as run:
        assert way(graph, {"order": 7})["seen"][0] == "done"
    assert len(calls) == 2
    assert [s["name"] for s in spans(run.pack, "step")] == list(nodes)


def test_a_guarded_runnable_that_is_streamed_is_a_step_as_well(tmp_path):
    """Plain and awaited, piece by piece or through a chain: nothing goes round the step."""
    tower = real_tower(tmp_path)
    node = guard_node(tower, RunnableLambda(note), name="note")

    async def astreamed(runnable):
        return [piece async for piece in runnable.astream({"order": 7})]

    with tower.run("orders") as run:
        for runnable in (node, RunnableLambda(lambda state: state) | node):
            assert list(runnable.stream({"order": 7})) == [{"seen": ["note 7"]}]
            assert asyncio.run(astreamed(runnable)) == [{"seen": ["note 7"]}]
    assert len(spans(run.pack, "step")) == 4

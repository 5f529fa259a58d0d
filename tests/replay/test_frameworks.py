"""Agents of LangGraph and pydantic-ai replay as they are, their models over HTTP."""

from __future__ import annotations

import asyncio
import operator
import os
from typing import Annotated, TypedDict

import openai
import pytest
from langgraph.graph import END, START, StateGraph
from pydantic_ai import Agent
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.toolsets import FunctionToolset

from towerkit.adapters._pydantic_ai_tape import recorded_response
from towerkit.adapters.langgraph import under_tower
from towerkit.adapters.pydantic_ai import TowerModel, TowerToolset
from towerkit.core.errors import ReplayDiverged
from towerkit.core.types import ToolCall
from towerkit.faults import FaultServer, Reply, Status
from towerkit.reliability.policy import Policy
from towerkit.replay import replay
from towerkit.runtime.tower import Tower

TASK = {"question": "Where is order 7 of ann@example.com?"}


class State(TypedDict):
    """What the graph's nodes share."""

    notes: Annotated[list[str], operator.add]


def look_up(order: int) -> str:
    """Return where an order is."""
    return f"order {order} is at ann@example.com"


def graph_agent(tower):
    """Return an agent whose graph asks twice, side by side, and then once more."""

    def agent(task):
        with (
            tower.http_client(provider="openai") as http,
            openai.OpenAI(
                base_url=os.environ["DESK_URL"], http_client=http, max_retries=0
            ) as client,
        ):  # fmt: skip

            def node(name):
                def ask(state: State) -> State:
                    said = client.chat.completions.create(
                        model="gpt-4o-mini",
                        messages=[{"role": "user", "content": f"{name}: {state['notes']}"}],
                    )
                    return {"notes": [said.choices[0].message.content]}

                return ask

            graph = StateGraph(State)
            for name in ("left", "right", "both"):
                graph.add_node(name, node(name))
            for name in ("left", "right"):
                graph.add_edge(START, name)
            graph.add_edge(["left", "right"], "both")
            graph.add_edge("both", END)
            app = under_tower(tower, graph).compile()
            with tower.run("graph", task=task) as run:
                run.finish(app.invoke({"notes": [task["question"]]})["notes"])

    return agent


def pydantic_agent(tower):
    """Return an agent of pydantic-ai with a tool, and a stream at the end."""

    async def agent(task):
        http = tower.ahttp_client(provider="openai")
        provider = OpenAIProvider(base_url=os.environ["DESK_URL"], http_client=http)
        model = OpenAIChatModel("gpt-4o-mini", provider=provider)
        tools = TowerToolset(tower, FunctionToolset([look_up]), idempotent={"look_up"})
        desk = Agent(model, toolsets=[tools])
        async with http:
            with tower.run("typed", task=task) as run:
                answer = await desk.run(task["question"])
                async with desk.run_stream(f"Say it again: {answer.output}") as stream:
                    parts = [part async for part in stream.stream_text(delta=True)]
                run.finish({"answer": answer.output, "parts": parts})

    return agent


CALL = ToolCall("call_1", "look_up", {"order": 7})
SCRIPTS = {
    graph_agent: [Status(code=503), *(Reply(text=f"Answer {i}.") for i in range(3))],
    pydantic_agent: [Reply(tool_calls=(CALL,)), Reply(text="It is at ann@example.com."),
                     Reply(text="one two three")],
}  # fmt: skip


@pytest.mark.parametrize("kind", list(SCRIPTS), ids=lambda kind: kind.__name__)
def test_an_agent_of_a_framework_replays(tmp_path, monkeypatch, kind):
    """No change of its code, no network, no key, no run of a tool."""
    tower = Tower(store=tmp_path)
    agent = kind(tower)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-test")
    with FaultServer(SCRIPTS[kind]) as server:
        monkeypatch.setenv("DESK_URL", server.openai_base_url)
        done = agent(TASK)
        if done is not None:
            asyncio.run(done)
    monkeypatch.delenv("OPENAI_API_KEY")
    (pack,) = tower.store.packs()
    report = replay(pack, agent)
    assert report.equal, report.lines()
    assert report.spans_replayed == pack.frame("spans").height


# -- TowerModel ------------------------------------------------------------------------------------

ASKED: list[str] = []


def _said(messages):
    """Return the kinds of parts of the last message."""
    return [part.part_kind for part in messages[-1].parts]


def answering(messages, info):
    """Use the tool, then answer; fail on the way."""
    ASKED.append("whole")
    if len(ASKED) == 1:
        raise ModelHTTPError(503, "function-desk", "busy")
    if "tool-return" in _said(messages):
        return ModelResponse(parts=[TextPart("It is at ann@example.com.")])
    return ModelResponse(parts=[TextPart("A moment."), ToolCallPart("look_up", {"order": 7})])


async def streaming(messages, info):
    """Answer in pieces."""
    ASKED.append("stream")
    for piece in ("one ", "two ", "at bob@", "example.com, ", "three"):
        yield piece


def towered_agent(tower):
    """Return an agent whose models are under the tower without HTTP."""
    desk = Agent(
        TowerModel(tower, FunctionModel(answering, stream_function=streaming, model_name="desk")),
        toolsets=[TowerToolset(tower, FunctionToolset([look_up]), idempotent={"look_up"})],
    )

    async def agent(task):
        with tower.run("typed", task=task) as run:
            answer = await desk.run(task["question"])
            async with desk.run_stream(f"Again: {answer.output}") as stream:
                parts = [part async for part in stream.stream_text(delta=True, debounce_by=None)]
            kinds = [part.part_kind for m in stream.all_messages() for part in m.parts]
            usage = answer.usage
            said = {"answer": answer.output, "text": "".join(parts), "pieces": len(parts)}
            told = [usage.input_tokens, usage.output_tokens]
            run.finish({**said, "kinds": kinds, "tokens": told})

    return agent


def left_agent(tower):
    """Return an agent that stops reading a stream, and one answer is refused to it."""
    desk = Agent(
        TowerModel(tower, FunctionModel(answering, stream_function=streaming, model_name="desk"))
    )

    async def agent(task):
        with tower.run("left", task=task) as run:
            async with desk.run_stream(task["question"]) as stream:
                async for part in stream.stream_text(delta=True, debounce_by=None):
                    run.finish({"first": part})
                    break

    return agent


@pytest.mark.parametrize("kind", [towered_agent, left_agent])
def test_models_of_pydantic_ai_replay_without_http(tmp_path, kind):
    """Parts, tool calls, usage and pieces come back as pydantic-ai's own; no model is asked."""
    tower = Tower(store=tmp_path, policy=Policy(backoff_cap_s=0.001))
    agent = kind(tower)
    ASKED.clear()
    asyncio.run(agent(TASK))
    assert ASKED
    ASKED.clear()
    (pack,) = tower.store.packs()
    assert pack.manifest["status"] == "completed"
    report = replay(pack, agent)
    assert report.equal, report.lines()
    assert ASKED == []
    assert report.spans_replayed == pack.frame("spans").height


def test_what_another_pydantic_ai_recorded_is_said(tmp_path):
    """An answer that is none of this version ends in a sentence."""
    with pytest.raises(ReplayDiverged, match="none of this pydantic-ai"):
        recorded_response({"native": {"kind": "response", "parts": [{"part_kind": "new"}]}})
    with pytest.raises(ReplayDiverged, match="an older towerkit"):
        recorded_response({"content": "said"})

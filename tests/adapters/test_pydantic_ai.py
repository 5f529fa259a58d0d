"""pydantic-ai under the tower: real agents over its test models and over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from contextlib import asynccontextmanager

import pytest
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.direct import model_request, model_request_stream
from pydantic_ai.exceptions import (
    ApprovalRequired,
    CallDeferred,
    FallbackExceptionGroup,
    ModelAPIError,
    ModelHTTPError,
    ModelRequestTimeout,
    UnexpectedModelBehavior,
)
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.tools import DeferredToolRequests
from pydantic_ai.toolsets import FunctionToolset
from rows import only_pack, packs, real_tower, spans

from towerkit.adapters.pydantic_ai import TowerModel, TowerToolset
from towerkit.core.errors import AttemptTimeout, BudgetExceeded, StreamTruncated, UsageError
from towerkit.faults import (
    CleanEnd,
    Cut,
    FaultServer,
    HtmlPage,
    MalformedJson,
    Refuse,
    Reply,
    Stall,
    Status,
)
from towerkit.reliability.policy import Policy

QUICK = Policy(backoff_cap_s=0.001)
ASK = [ModelRequest.user_text_prompt("Where is order 7?")]
LONG = "one two three four five six seven eight nine"


def openai_model(server):
    """Return the chat model over the server; its SDK would retry twice by itself."""
    provider = OpenAIProvider(base_url=server.openai_base_url, api_key="any")
    return OpenAIChatModel("gpt-4o-mini", provider=provider)


def asked(model, **settings):
    """Return what the model answers."""

    async def main():
        async with model:
            return await model_request(model, ASK, model_settings=settings or None)

    return asyncio.run(main())


def streamed(model, events=None, **settings):
    """Return the whole of what the model streams; `events` collects the events."""

    async def main():
        async with (
            model,
            model_request_stream(model, ASK, model_settings=settings or None) as stream,
        ):
            async for event in stream:
                if events is not None:
                    events.append(event)
            return stream.get()

    return asyncio.run(main())


def ran(agent):
    """Return what an agent's run came to."""

    async def main():
        async with agent:
            return await agent.run("Where is order 7?")

    return asyncio.run(main())


WAYS = pytest.mark.parametrize("way", [asked, streamed])


@WAYS
@pytest.mark.parametrize(
    ("step", "name"),
    [
        (Status(code=429, headers={"retry-after": "0.01"}), "rate_limited"),
        (Status(code=503), "overloaded"), (Status(code=500), "upstream_5xx"),
        (Refuse(), "stream_interrupted"), (MalformedJson(), "malformed_response"),
        (HtmlPage(), "malformed_response"),
    ],
)  # fmt: skip
def test_a_request_is_retried_by_class_and_hits_are_attempts(tmp_path, way, step, name):
    """One retry owner: the server saw what the pack says, and usage is charged once."""
    tower = real_tower(tmp_path, policy=QUICK)
    with FaultServer([step, Reply(text=LONG)]) as server, tower.run("orders") as run:
        answer = way(TowerModel(tower, openai_model(server)))
    assert isinstance(answer, ModelResponse)
    assert answer.text == LONG
    attempts = spans(run.pack, "attempt")
    assert [a["error_class"] for a in attempts] == [name, None]
    assert server.hits == 2
    assert attempts[1]["gen_ai_usage_input_tokens"] == answer.usage.input_tokens > 0
    (charge,) = run.pack.frame("costs").filter(wasted=False).to_dicts()
    assert (charge["provider"], charge["estimated"]) == ("openai", False)
    assert charge["cost_nanousd"] > 0
    asked_for = run.pack.content(spans(run.pack, "call")[0]["request_digest"])
    (message,) = asked_for["messages"]
    assert run.pack.content(message)["parts"][0]["content"] == "Where is order 7?"


@WAYS
def test_what_is_not_retried_comes_out_as_it_was(tmp_path, way):
    """pydantic-ai's exception, the tower attached; one hit."""
    tower = real_tower(tmp_path, policy=QUICK)
    with FaultServer([Status(code=401)]) as server:
        with pytest.raises(ModelHTTPError) as caught:
            way(TowerModel(tower, openai_model(server)))
        assert server.hits == 1
    assert caught.value.tower.error_class == "auth_failed"
    assert only_pack(tower).manifest["status"] == "failed"


@WAYS
def test_the_exception_is_the_one_the_wrapped_model_raises(tmp_path, way):
    """The same type with and without the tower, for each fault."""
    tower = real_tower(tmp_path, policy=QUICK)
    for step in (Status(code=400), Status(code=500), Cut(at_chunk=1), HtmlPage(), MalformedJson()):
        kinds = []
        with FaultServer(default=step) as server:
            for model in (openai_model(server), TowerModel(tower, openai_model(server))):
                with pytest.raises((ModelAPIError, UnexpectedModelBehavior)) as caught:
                    way(model, max_retries=0)
                kinds.append(type(caught.value))
        assert kinds[0] is kinds[1], step


def test_a_stream_is_the_wrapped_ones(tmp_path):
    """The same events in the same order, the same state, the same object's answer."""
    seen = []
    with FaultServer(default=Reply(text=LONG)) as server:
        for model in (openai_model(server), TowerModel(real_tower(tmp_path), openai_model(server))):
            events = []
            answer = streamed(model, events)
            shown = [type(event).__name__ for event in events]
            seen.append((shown, answer.text, answer.state, answer.finish_reason, answer.usage))
    assert seen[0] == seen[1]
    assert "FinalResultEvent" in seen[1][0]


def test_a_stream_that_breaks_after_its_first_event_is_not_begun_again(tmp_path):
    """The agent has read the beginning: it gets the error, and what came is charged as wasted."""
    tower = real_tower(tmp_path, policy=QUICK)
    events = []
    step = Reply(text=LONG).with_(Cut(at_chunk=3))
    with FaultServer([step]) as server:
        with pytest.raises(ModelAPIError):
            streamed(TowerModel(tower, openai_model(server)), events)
        assert server.hits == 1
    assert events
    pack = only_pack(tower)
    (call,) = spans(pack, "call")
    assert "delivered" in call["events"]
    (charge,) = pack.frame("costs").to_dicts()
    assert charge["wasted"]
    assert charge["estimated"]


def test_a_stream_that_ends_early_without_a_word_is_an_error(tmp_path):
    """pydantic-ai calls it complete; the tower says that it was truncated."""
    tower = real_tower(tmp_path, policy=QUICK)
    step = Reply(text=LONG).with_(CleanEnd(at_chunk=2))
    with FaultServer(default=step) as server:
        assert streamed(openai_model(server)).finish_reason == "stop"
        with pytest.raises(StreamTruncated):
            streamed(TowerModel(tower, openai_model(server)))


@WAYS
def test_a_request_that_takes_too_long_is_cut_and_tried_again(tmp_path, way):
    """The policy's time-out of an attempt holds; the second attempt answers."""
    tower = real_tower(tmp_path, policy=Policy(attempt_timeout_s=0.3, backoff_cap_s=0.001))
    with FaultServer([Stall(), Reply(text=LONG)]) as server:
        assert way(TowerModel(tower, openai_model(server))).text == LONG
        assert server.hits == 2
    first, _ = spans(only_pack(tower), "attempt")
    assert first["error_class"] == "timeout_read"


@WAYS
@pytest.mark.parametrize("fallback", [False, True])
def test_pydantic_ais_own_deadline_still_holds(tmp_path, way, fallback):
    """`request_timeout` of the settings ends a request; its attempt is recorded as cancelled."""
    tower = real_tower(tmp_path)

    async def main():
        model = TowerModel(tower, openai_model(server))
        settings = {"request_timeout": 0.2}
        async with Agent(FallbackModel(model) if fallback else model) as agent:
            if way is asked:
                await agent.run("hello", model_settings=settings)
            else:
                async with agent.run_stream("hello", model_settings=settings) as result:
                    await result.get_output()

    raised = FallbackExceptionGroup if fallback and way is asked else ModelRequestTimeout
    stall = Reply(text=LONG).with_(Stall(at_chunk=None if way is asked else 2))
    with FaultServer(default=stall) as server, pytest.raises(raised):
        asyncio.run(main())
    assert "cancelled" in {a["status"] for a in spans(only_pack(tower), "attempt")}


def test_an_agent_that_stops_reading_ends_the_call_as_cancelled(tmp_path):
    """Nothing stays open: the span ends, the pieces that came are charged."""
    tower = real_tower(tmp_path)

    async def main(model):
        async with model, model_request_stream(model, ASK) as stream:
            async for _ in stream:
                break

    with FaultServer(default=Reply(text=LONG)) as server:
        asyncio.run(main(TowerModel(tower, openai_model(server))))
    (call,) = spans(only_pack(tower), "call")
    assert call["status"] == "cancelled"


def test_a_budget_stops_a_request_before_it_is_sent(tmp_path):
    """`BudgetExceeded`, and the server was not asked."""
    tower = real_tower(tmp_path, budget_usd=1e-9)
    with FaultServer() as server:
        with pytest.raises(BudgetExceeded):
            asked(TowerModel(tower, openai_model(server)))
        assert server.hits == 0


def test_a_fallback_model_of_pydantic_ai_falls_back_over_guarded_models(tmp_path):
    """Each model keeps its own breaker and evidence; the second answers."""
    tower = real_tower(tmp_path, policy=QUICK)
    with (
        FaultServer(default=Status(code=500)) as bad,
        FaultServer(default=Reply(text=LONG)) as good,
    ):
        chain = FallbackModel(*(TowerModel(tower, openai_model(s)) for s in (bad, good)))
        with tower.run("orders") as run:
            assert asked(chain).text == LONG
            assert streamed(chain).text == LONG
        hits = bad.hits + good.hits
        assert good.hits == 2
    assert [c["status"] for c in spans(run.pack, "call")] == ["error", "ok"] * 2
    assert hits == len(spans(run.pack, "attempt")) > 5


# -- agents and tools ------------------------------------------------------------------------------


def asks_for(*calls):
    """Return a model that asks for tools, one call a turn, and then answers with text."""

    def answer(messages: list, info: AgentInfo) -> ModelResponse:
        turn = sum(isinstance(m, ModelResponse) for m in messages)
        if turn < len(calls):
            name, arguments = calls[turn]
            return ModelResponse(parts=[ToolCallPart(name, arguments, tool_call_id=f"c{turn}")])
        return ModelResponse(parts=[TextPart("done")])

    return FunctionModel(answer)


def desk(*errors, **options):
    """Return a toolset whose tool raises `errors` in turn and then answers, and its calls."""
    calls = []
    left = list(errors)

    async def look_up(ctx: RunContext, order: int) -> str:
        calls.append(order)
        if left:
            raise left.pop(0)
        return f"order {order} is on its way"

    toolset = FunctionToolset()
    toolset.add_function(look_up, **options)
    return toolset, calls


def test_an_agent_with_tools_runs_under_the_tower(tmp_path):
    """Model and tool calls of a whole agent are in one pack, in order, with their call ids."""
    tower = real_tower(tmp_path)
    toolset, calls = desk()
    model = TowerModel(tower, asks_for(("look_up", {"order": 7})))
    agent = Agent(model, toolsets=[TowerToolset(tower, toolset)])
    with tower.run("orders") as run:
        result = ran(agent)
        run.finish(result.output)
    assert result.output == "done"
    assert calls == [7]
    names = [c["name"] for c in spans(run.pack, "call")]
    assert [n.partition(" ")[0] for n in names] == ["chat", "execute_tool", "chat"]
    tool = spans(run.pack, "call")[1]
    assert (tool["gen_ai_tool_name"], tool["gen_ai_tool_call_id"]) == ("look_up", "c0")
    shown = run.pack.content(
        tool["response_digest"] or spans(run.pack, "attempt")[1]["response_digest"]
    )
    assert shown == {"result": "order 7 is on its way"}
    assert {a["simulated"] for a in spans(run.pack, "attempt", gen_ai_operation_name="chat")} == {
        True
    }


def test_pydantic_ais_test_model_calls_every_tool_at_once(tmp_path):
    """Tools run as tasks of their own: all of them are in the open run."""
    tower = real_tower(tmp_path)
    toolset = FunctionToolset()
    for name in ("a", "b", "c"):
        toolset.add_function(lambda: "fine", name=name)
    agent = Agent(TowerModel(tower, TestModel()), toolsets=[TowerToolset(tower, toolset)])
    with tower.run("orders") as run:
        ran(agent)
    tools = spans(run.pack, "call", gen_ai_operation_name="execute_tool")
    assert sorted(t["gen_ai_tool_name"] for t in tools) == ["a", "b", "c"]


def test_a_streamed_agent_runs_under_the_tower(tmp_path):
    """`run_stream` over TestModel, which never says why it ends: nothing is called truncated."""
    tower = real_tower(tmp_path)

    async def main():
        async with Agent(TowerModel(tower, TestModel())).run_stream("hello") as result:
            return [text async for text in result.stream_text()][-1]

    with tower.run("orders") as run:
        assert asyncio.run(main()) == "success (no tool calls)"
    (attempt,) = spans(run.pack, "attempt")
    assert attempt["status"] == "ok"
    said = run.pack.content(attempt["response_digest"])
    assert "".join(said["pieces"]) == said["response"]["content"] == "success (no tool calls)"


@pytest.mark.parametrize(("idempotent", "hits"), [((), 1), ({"look_up"}, 2)])
def test_a_failing_tool_is_run_again_only_where_that_is_harmless(tmp_path, idempotent, hits):
    """The original exception otherwise, the tower attached."""
    tower = real_tower(tmp_path, policy=QUICK)
    toolset, calls = desk(ConnectionError("no"))
    agent = Agent(
        asks_for(("look_up", {"order": 7})),
        toolsets=[TowerToolset(tower, toolset, idempotent=idempotent)],
    )
    raising = contextlib.nullcontext() if idempotent else pytest.raises(ConnectionError, match="no")
    with raising as caught:
        assert ran(agent).output == "done"
    assert len(calls) == hits
    if caught is not None:
        assert caught.value.tower.decision == "not_idempotent"


def test_model_retry_steers_the_agent_and_is_never_retried_here(tmp_path):
    """The model is asked again, as pydantic-ai does it; no failure of the tool is counted."""
    tower = real_tower(tmp_path, policy=QUICK)
    toolset, calls = desk(ModelRetry("which order?"))
    agent = Agent(
        asks_for(("look_up", {"order": 7}), ("look_up", {"order": 8})),
        toolsets=[TowerToolset(tower, toolset, idempotent={"look_up"})],
    )
    with tower.run("orders") as run:
        assert ran(agent).output == "done"
    assert calls == [7, 8]
    attempts = spans(run.pack, "attempt")
    assert [a["status"] for a in attempts] == ["ok", "ok"]
    assert run.pack.content(attempts[0]["response_digest"]) == {"raised": "ModelRetry"}


@pytest.mark.parametrize("error", [ApprovalRequired, CallDeferred])
def test_a_tool_that_waits_for_somebody_suspends_the_agent(tmp_path, error):
    """Never retried; recorded as permission_needed, which is no failure of the tool."""
    tower = real_tower(tmp_path, policy=QUICK)
    toolset, calls = desk(error())
    agent = Agent(
        asks_for(("look_up", {"order": 7})),
        toolsets=[TowerToolset(tower, toolset, idempotent={"look_up"})],
        output_type=[str, DeferredToolRequests],
    )
    with tower.run("orders") as run:
        assert isinstance(ran(agent).output, DeferredToolRequests)
    assert calls == [7]
    (attempt,) = spans(run.pack, "attempt")
    assert attempt["error_class"] == "permission_needed"
    assert run.pack.manifest["status"] == "completed"
    assert not tower.breaker("tool:look_up")._window


def test_a_tool_that_takes_too_long_is_cut(tmp_path):
    """By the tower's bound, outcome unknown; by pydantic-ai's own, its way of asking the model."""

    async def wait() -> str:
        await asyncio.sleep(5)
        return "late"

    tower = real_tower(tmp_path, policy=QUICK)
    model = asks_for(("wait", {}))
    toolset = FunctionToolset([wait])
    with pytest.raises(AttemptTimeout, match="unknown"):
        ran(Agent(model, toolsets=[TowerToolset(tower, toolset, timeout_s=0.05)]))
    own = FunctionToolset()
    own.add_function(wait, timeout=0.05)
    assert ran(Agent(model, toolsets=[TowerToolset(tower, own)])).output == "done"


def test_a_toolset_that_changes_with_the_run_stays_guarded(tmp_path):
    """pydantic-ai replaces toolsets by copies for a run: the copy has the tower's settings."""
    tower = real_tower(tmp_path, policy=QUICK)
    toolset, calls = desk(ConnectionError("no"))
    guarded = TowerToolset(tower, toolset, idempotent={"look_up"})
    agent = Agent(
        asks_for(("look_up", {"order": 7})),
        toolsets=[guarded.visit_and_replace(lambda t: t)],
    )
    assert ran(agent).output == "done"
    assert calls == [7, 7]


def test_outside_of_any_run_each_call_is_a_run(tmp_path):
    """Model and tool: no evidence is lost, though no agent was named."""
    tower = real_tower(tmp_path)
    toolset, _ = desk()
    model = TowerModel(tower, asks_for(("look_up", {"order": 7})))
    ran(Agent(model, toolsets=[TowerToolset(tower, toolset)]))
    streamed(TowerModel(tower, TestModel()))
    names = [p.manifest["identity"]["scenario"] for p in packs(tower)]
    assert names == [model.model_name, "look_up", model.model_name, "test"]
    assert {p.manifest["status"] for p in packs(tower)} == {"completed"}


def test_what_cannot_be_is_said_in_a_sentence(tmp_path, monkeypatch):
    """Names given as one text; another name of the module; the package missing."""
    from towerkit.adapters import pydantic_ai as adapter

    toolset, _ = desk()
    with pytest.raises(UsageError, match="a set of names"):
        TowerToolset(real_tower(tmp_path), toolset, idempotent="look_up")
    with pytest.raises(AttributeError, match="TowerAgent"):
        _ = adapter.TowerAgent
    monkeypatch.delitem(sys.modules, "towerkit.adapters._pydantic_ai")
    monkeypatch.setitem(sys.modules, "pydantic_ai.models.wrapper", None)
    with pytest.raises(UsageError, match="pip install pydantic-ai-slim"):
        _ = adapter.TowerModel


class Watched(WrapperModel):
    """A model whose first stream breaks before its first event; it notes how streams are left."""

    def __init__(self, wrapped, left):
        """Note into `left`."""
        super().__init__(wrapped)
        self.left = left

    @asynccontextmanager
    async def request_stream(self, *args):
        """Open the wrapped stream, and break the first one."""
        try:
            async with self.wrapped.request_stream(*args) as stream:
                if not self.left:
                    stream._get_event_iterator = self._broken
                yield stream
        except ConnectionResetError as error:
            self.left.append(type(error))
            raise
        self.left.append(None)

    async def _broken(self):
        raise ConnectionResetError("gone")
        yield


def test_a_stream_that_is_given_up_is_left_with_its_error_before_the_next_is_opened(tmp_path):
    """A connection is not held while the guard waits, and each stream is left exactly once."""
    left = []
    tower = real_tower(tmp_path, policy=QUICK)
    assert streamed(TowerModel(tower, Watched(TestModel(), left))).text
    assert left == [ConnectionResetError, None]
    assert [a["error_class"] for a in spans(only_pack(tower), "attempt")] == [
        "stream_interrupted", None,
    ]  # fmt: skip

"""Every path on which a text comes into a run: what a canary is planted on.

Rule: one function a path, in `PATHS`; it puts one text wherever the path can carry one. `named` is
what it puts into names (steps, tools, spans), which are kept where content is not captured.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypedDict
from urllib.parse import quote

import httpx
import httpx2

from towerkit.core.types import Model, Response
from towerkit.cost import budget as amounts
from towerkit.cost.plan import Budget
from towerkit.ingest import ingest
from towerkit.reliability.breaker import Limits, RetryBudget
from towerkit.reliability.policy import Policy
from towerkit.runtime.tower import Tower

HEADER = "opaque-header-value-1"


class Provider(RuntimeError):
    """What an SDK raises: its text repeats the request."""


class Overloaded(Provider):
    """The same, of a class that is tried again and then elsewhere."""

    status_code = 529


def said(request: Any) -> str:
    """Return the last message of a request."""
    return str(request.messages[-1]["content"])


def cut(text: str, at: int | None) -> Iterator[str]:
    """Yield a text in two pieces, or one by one where `at` is None."""
    yield from ([text[:at], text[at:]] if at is not None else text)


def echo(name: str = "m", *, fails: bool = False, answers: str | None = None) -> Model:
    """Return a model that repeats what it is asked, or fails with it where it is told to fail.

    A question `[n]TEXT` is answered in pieces cut at character n, `[n!]TEXT` breaks there.
    """

    def complete(request, timeout_s):
        if fails and str(request.messages[0]["content"]).startswith("Fail"):
            raise Overloaded(f"overloaded by {said(request)}")
        return Response(
            content=said(request), finish_reason="stop", model=answers or "m", response_id=answers
        )

    def stream(request, timeout_s):
        where, found, text = said(request).removeprefix("[").partition("]")
        at = int(where.rstrip("!")) if found and where.rstrip("!").isdigit() else None
        for i, piece in enumerate(cut(text if at is not None else said(request), at)):
            if i and where.endswith("!"):
                raise Provider(f"broke in {text}")
            yield piece
        yield Response(content=text, finish_reason="stop", model="m")

    async def acomplete(request, timeout_s):
        return complete(request, timeout_s)

    async def astream(request, timeout_s):
        for piece in stream(request, timeout_s):
            yield piece

    return Model(
        name=name, provider="test", complete=complete, stream=stream, acomplete=acomplete,
        astream=astream,
    )  # fmt: skip


def tower_at(root: Any, **options: Any) -> Tower:
    """Return a tower whose first model fails and whose second repeats what it is told."""
    quick = Policy(max_steps=10**6, backoff_cap_s=0.0001)
    chain = [echo("first", fails=True), echo("second")]
    limits = Limits(min_calls=10**6)
    plain = {"models": chain, "policy": quick, "durable": False, "breaker": limits}
    return Tower(store=root, **{**plain, **options})


def asked(text: str) -> list[dict[str, Any]]:
    """Return a conversation that says a text."""
    return [{"role": "system", "content": f"You know {text}"}, {"role": "user", "content": text}]


def fails(note: Any) -> None:
    """Raise what it was given."""
    raise Provider(f"the provider refused {note}")


# -- native ----------------------------------------------------------------------------------------


def native(tower: Tower, text: str, named: str) -> None:
    """Task, prompt, retry, fallback, answer, tool, exception with its cause, step, result."""
    tower.retry_budget = RetryBudget()  # a share of the calls: here each is to be tried again
    with tower.run("agent", task={"question": text}, identity={"case_id": named}) as run:
        run.model([{"role": "system", "content": f"Fail for {text}"}, *asked(text)])
        run.tool(lambda note: {"echo": note}, {"note": text}, idempotent=True, name="echo")
        with run.step(f"look at {named}", {"note": text}), contextlib.suppress(Provider):
            run.tool(fails, {"note": text}, idempotent=True, name="fails")
        run.finish({"answer": text})


def stream(tower: Tower, text: str, named: str, *, offsets: range | None = None) -> None:
    """Pieces cut at each offset, a break at some, an agent that stops reading."""
    with tower.run("agent") as run:
        for at in offsets or range(0, len(text) + 1, 1 + len(text) // 12):
            list(run.stream([{"role": "user", "content": f"[{at}]{text}"}]))
        list(run.stream([{"role": "user", "content": text}]))
        with contextlib.suppress(Provider):
            list(run.stream([{"role": "user", "content": f"[{len(text) // 2}!]{text}"}]))
        left = run.stream([{"role": "user", "content": f"[{len(text) // 2}]{text}"}])
        next(left)
        left.close()


def asynchronous(tower: Tower, text: str, named: str) -> None:
    """Do the same on an event loop."""

    async def note(note: str) -> dict[str, str]:
        return {"echo": note}

    async def main() -> None:
        with tower.run("agent", task=text) as run:
            await run.amodel(asked(text))
            _ = [p async for p in run.astream([{"role": "user", "content": f"[3]{text}"}])]
            await run.atool(note, {"note": text}, idempotent=True, name="note")
            with contextlib.suppress(Provider):
                await run.atool(fails, {"note": text}, idempotent=False, name="fails")
            run.finish(text)

    asyncio.run(main())


def decorated(tower: Tower, text: str, named: str) -> None:
    """Functions under decorators, their errors too."""

    @tower.tool(idempotent=False)
    def look_up(note: str) -> str:
        raise Provider(f"nothing for {note}") from ValueError(text)

    @tower.model(name="m", provider="test")
    def ask(prompt: str) -> dict[str, Any]:
        return {"choices": [{"message": {"content": prompt}}]}

    @tower.agent("desk")
    def agent(question: str) -> str:
        with contextlib.suppress(Provider):
            look_up(question)
        ask(question)
        raise Provider(f"gave up on {question}")

    with contextlib.suppress(Provider):
        agent(text)


def described(tower: Tower, text: str, named: str) -> None:
    """Say it of a run: service, release, commit, models, source, faults, tenant, limits, a class."""
    other = tower_at(
        tower.store.root, redactor=tower.redactor, service=named, release=named, git_commit=named,
        models=[echo(named, answers=named)], budget=Budget(tools={named: amounts.Limits(calls=9)}),
    )  # fmt: skip
    other.outbox = tower.outbox
    failing = type(named if named.isidentifier() else "Odd", (Provider,), {"__module__": named})

    def tool(note: str) -> str:
        raise failing(note)

    options = {
        "identity": {"team": text, "tags": [text], "trial": 1}, "tenant": named,
        "source": {"note": text, "of": {"file": text}},
        "faults": [{"target": f"tool:{named}", "at": [99], "kind": "error"}],
    }  # fmt: skip
    with contextlib.suppress(Provider), other.run(named, task=text, **options) as run:
        run.model(asked(text))
        run.tool(tool, {"note": text}, idempotent=False, name=named)


# -- over HTTP -------------------------------------------------------------------------------------


def events(text: str, at: int) -> bytes:
    """Return a chat completion's stream whose deltas cut a text at an offset."""
    deltas = [{"content": text[:at]}, {"content": text[at:]}]
    made = [{"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
             "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]  # fmt: skip
    made.append({**made[0], "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return b"".join(b"data: %b\n\n" % json.dumps(e).encode() for e in made) + b"data: [DONE]\n\n"


def answer(library: Any, text: str, request: Any) -> Any:
    """Return what the server says: a stream, an error, a refusal to connect, or an echo."""
    path, sent = request.url.path, request.content.decode()
    # Quoted: a cookie that is a word, as `Medicare`, is a secret, and no word any more.
    headers = {"set-cookie": f"session={quote(text, safe='')}"}
    if path.endswith("/completions") and '"stream":' in sent.replace(" ", ""):
        at = json.loads(sent)["n"]
        body = events(text, at)
        pieces = [body[i : i + 7] for i in range(0, len(body), 7)]
        made = {"content-type": "text/event-stream", **headers}
        return library.Response(200, headers=made, content=iter(pieces))
    if path.endswith("/fail"):
        return library.Response(400, headers=headers, json={"error": {"message": f"bad: {text}"}})
    if path.endswith("/down"):
        raise library.ConnectError(f"cannot reach {text}")
    return library.Response(200, headers=headers, json={"said": text, "of": sent})


def over_http(
    tower: Tower, text: str, named: str, *, library: Any = httpx2, offsets: range | None = None
) -> None:
    """Address, query, headers, body, answer, cookie, error, no connection, streams cut anywhere."""
    inner = library.MockTransport(partial(answer, library, text))
    base, chat = "http://tools.test/v1", {"model": "m", "messages": asked(text)}
    headers = {"x-api-key": HEADER, "x-note": quote(text, safe="")}
    with (
        tower.run("agent") as run,
        library.Client(transport=tower.http_transport(inner), headers=headers) as client,
    ):
        client.post(f"{base}/look?q={quote(text, safe='')}", json={"text": text})
        client.get(f"{base}/look/{quote(text, safe='')}")
        client.post(f"{base}/chat/completions", json=chat)
        for at in offsets or (3, len(text) // 2):
            client.post(f"{base}/chat/completions", json={**chat, "stream": True, "n": at})
        client.post(f"{base}/fail", json=chat)
        with contextlib.suppress(library.ConnectError):
            client.post(f"{base}/down", json=chat)
        run.finish(text)


def over_http_async(tower: Tower, text: str, named: str) -> None:
    """Use the other library, on an event loop."""

    async def main() -> None:
        inner = httpx.MockTransport(partial(answer, httpx, text))
        with tower.run("agent"):
            async with httpx.AsyncClient(transport=tower.ahttp_transport(inner)) as client:
                await client.post(f"http://tools.test/v1/look?q={quote(text, safe='')}")
                await client.post("http://tools.test/v1/fail", json={"messages": asked(text)})

    asyncio.run(main())


# -- frameworks ------------------------------------------------------------------------------------


class State(TypedDict, total=False):
    """What the graph passes on."""

    text: str


def langgraph(tower: Tower, text: str, named: str) -> None:
    """Run a graph whose nodes call, answer and raise it."""
    from langgraph.graph import END, START, StateGraph

    from towerkit.adapters.langgraph import under_tower

    look_up = tower.tool(idempotent=True, name="look_up")(lambda note: f"{note} again")

    def first(state: State) -> State:
        return {"text": look_up(state["text"]) and text}

    def second(state: State) -> State:
        raise Provider(f"no {state['text']}")

    builder = StateGraph(State)
    for name, node in (("first", first), ("second", second)):
        builder.add_node(name, node)
    builder.add_edge(START, "first")
    builder.add_edge("first", "second")
    builder.add_edge("second", END)
    graph = under_tower(tower, builder).compile()
    with contextlib.suppress(Provider):
        graph.invoke({"text": text})
    with contextlib.suppress(Provider):
        asyncio.run(graph.ainvoke({"text": text}))


def pydantic_ai(tower: Tower, text: str, named: str) -> None:
    """Run an agent that asks a tool, is told, and answers, whole and in pieces."""
    from pydantic_ai import Agent
    from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import FunctionModel
    from pydantic_ai.toolsets import FunctionToolset

    from towerkit.adapters.pydantic_ai import TowerModel, TowerToolset

    def reply(messages: Any, info: Any) -> ModelResponse:
        if any(isinstance(m, ModelResponse) for m in messages):
            return ModelResponse(parts=[TextPart(text)])
        return ModelResponse(parts=[ToolCallPart("look_up", {"note": text}, tool_call_id="c0")])

    async def pieces(messages: Any, info: Any) -> Any:
        size = 1 + len(text) // 100
        for at in range(0, len(text), size):
            yield text[at : at + size]

    def look_up(note: str) -> str:
        return f"found {note}"

    toolset = FunctionToolset()
    toolset.add_function(look_up)
    model = FunctionModel(reply, stream_function=pieces)
    agent = Agent(TowerModel(tower, model), toolsets=[TowerToolset(tower, toolset)])

    async def main() -> None:
        await agent.run(text)
        async with Agent(TowerModel(tower, model)).run_stream(text) as result:
            _ = [part async for part in result.stream_text()]

    with tower.run("agent", task=text):
        asyncio.run(main())


def mcp(tower: Tower, text: str, named: str) -> None:
    """Call a session's tool that answers and one that fails."""
    from mcp import Client
    from mcp.server.mcpserver import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    from towerkit.adapters.mcp import guard_session

    server = MCPServer("desk", log_level="CRITICAL")  # its log is the server's

    async def look_up(note: str) -> str:
        """Look it up."""
        return f"found {note}"

    async def broken(note: str) -> str:
        """Fail."""
        raise ToolError(f"no {note}")

    server.tool()(look_up)
    server.tool()(broken)

    async def main() -> None:
        async with Client(server) as client:
            session = guard_session(tower, client, server="desk")
            with tower.run("agent"):
                for name in ("look_up", "broken"):
                    await session.call_tool(name, {"note": text})

    asyncio.run(main())


def foreign_spans(tower: Tower, text: str, named: str) -> None:
    """Spans of an instrumented library: names, attributes, events, exceptions."""
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider()
    provider.add_span_processor(tower.span_processor())
    tracer = provider.get_tracer("some.library")
    chat = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m", "input.value": text,
            "gen_ai.input.messages": json.dumps(asked(text)), "unknown.attribute": text,
            "gen_ai.response.model": named, "gen_ai.response.id": named, "gen_ai.provider.name": named,
            "gen_ai.usage.input_tokens": 3, "list": [text, "x"], "http.url": f"http://a.test/?q={quote(text, safe='')}"}  # fmt: skip
    with tower.run("agent"), tracer.start_as_current_span(f"chat {named}", attributes=chat) as span:
        span.add_event("said", {"text": text})
        with contextlib.suppress(Provider), tracer.start_as_current_span("tool"):
            fails(text)


def ingested(tower: Tower, text: str, named: str) -> None:
    """Take in recorded runs of others: a conversation, and spans with an error."""
    call = {"id": "c1", "type": "function",
            "function": {"name": "get_order_details", "arguments": json.dumps({"order_id": text})}}  # fmt: skip
    said = [("system", f"# Retail agent policy {text}"), ("user", text), ("assistant", text)]
    talk = [{"role": role, "content": content} for role, content in said]
    tool = {"role": "tool", "tool_call_id": "c1", "name": "get_order_details",
            "content": f"Error: {text}"}  # fmt: skip
    task = {"user_id": "u", "instruction": text, "actions": [], "outputs": [text]}
    record = {
        "task_id": 0, "trial": 0, "reward": 1.0,
        "traj": [*talk[:2], {"role": "assistant", "content": None, "tool_calls": [call]}, tool, talk[2]],
        "info": {"task": task, "source": named, "user_cost": 0.1},
    }  # fmt: skip
    start, trace = 1_750_000_000_000_000_000, hashlib.sha256(text.encode()).hexdigest()[:32]
    event = {"name": "exception", "timestamp": start, "attributes": {
        "exception.type": "E", "exception.message": text, "exception.stacktrace": f"at\n{text}"}}  # fmt: skip
    span = {
        "name": "chat m", "trace_id": trace, "span_id": f"{1:016x}", "parent_span_id": None,
        "start_time": start, "end_time": start + 10**9, "scope": {"name": "l", "version": "1"},
        "status": {"code": "ERROR", "message": text}, "span_events": [event],
        "attributes": {"openinference.span.kind": "LLM", "input.value": text, "my.own": {"a": [text]},
                       "llm.output_messages.0.message.content": text, "llm.model_name": named, "llm.provider": named,
                       "llm.token_count.prompt": 3},
    }  # fmt: skip
    odd = named.replace("/", "_").encode()[:200].decode("utf-8", "ignore")  # as a file's name
    with tempfile.TemporaryDirectory() as here:
        for kind, content in (("tau-bench", [record]), ("openinference", {"spans": [span]})):
            path = Path(here) / f"{kind} {odd}.json"
            path.write_text(json.dumps(content))
            report = ingest(
                tower.store,
                path,
                format=kind,
                release=named.split("\n", maxsplit=1)[0][:150].replace(",", " "),
                redactor=tower.redactor,
                jobs=1,
            )
            assert report.imported + report.unchanged == 1, report.errors


PATHS: dict[str, Callable[[Tower, str, str], None]] = {
    "native": native, "described": described, "stream": stream, "async": asynchronous, "decorators": decorated,
    "httpx2": over_http, "httpx": over_http_async, "LangGraph": langgraph,
    "pydantic-ai": pydantic_ai, "MCP": mcp, "spans": foreign_spans, "ingest": ingested,
}  # fmt: skip

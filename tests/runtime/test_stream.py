"""Streams: delivered as they come, never a success without their terminal event, never repeated."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from tests.agents import TASK, make_tower
from towerkit.core.errors import AttemptTimeout, StreamTruncated
from towerkit.core.types import Model, Response, Usage
from towerkit.cost.tokens import TokenBook
from towerkit.faults import FaultServer, Reply, Stall, Status
from towerkit.packs.summary import summarise
from towerkit.reliability.policy import Policy
from towerkit.replay import replay
from towerkit.runtime import models
from towerkit.runtime.tower import Tower

HELLO = [{"role": "user", "content": "hello"}]
PIECES = ["It ", "was ", "sent", "."]
USAGE = Usage(input_tokens=10, output_tokens=4)


def scripted(*attempts):
    """Return a model whose attempts yield the given items; an exception in them is raised."""
    left = list(attempts)

    def play(items):
        for item in items:
            if isinstance(item, BaseException):
                raise item
            yield item

    def stream(request, timeout_s):
        yield from play(left.pop(0))

    async def astream(request, timeout_s):
        for item in play(left.pop(0)):
            await asyncio.sleep(0)
            yield item

    def never(request, timeout_s):
        raise AssertionError("not streamed")

    return Model(name="sim-clerk-large", provider="simulated", complete=never, stream=stream,
                 astream=astream, simulated=True)  # fmt: skip


def whole(*pieces):
    return [*pieces, Response(content="".join(pieces), usage=USAGE)]


def read(stream):
    """Return the pieces and the returned answer of a stream."""
    pieces = []
    while True:
        try:
            pieces.append(next(stream))
        except StopIteration as done:
            return pieces, done.value


def test_pieces_come_as_they_are_made_and_the_answer_at_the_end(tmp_path):
    """The tape keeps where the pieces ended; the charge is of the reported usage."""
    with make_tower(tmp_path, models=[scripted(whole(*PIECES))]).run("x") as run:
        pieces, answer = read(run.stream(HELLO))
    assert pieces == PIECES
    assert (answer.content, answer.model) == ("It was sent.", "sim-clerk-large")
    assert run.pack.frame("inputs").filter(kind="model")["chunks"].to_list() == ["[3,4,4,1]"]
    assert run.pack.frame("costs")["input_tokens"].to_list() == [10]


def test_before_the_first_piece_a_stream_is_retried_like_any_call(tmp_path):
    """Two refused connections, then an answer; the agent sees one stream."""
    down = ConnectionRefusedError("no")
    model = scripted([down], [down], whole(*PIECES))
    with make_tower(tmp_path, models=[model]).run("x") as run:
        assert read(run.stream(HELLO))[0] == PIECES
    assert summarise(run.pack).retries == 2


@pytest.mark.parametrize("cut", range(1, len(PIECES) + 1))
@pytest.mark.parametrize("clean", [True, False])
def test_after_the_first_piece_nothing_is_retried_or_replaced(tmp_path, cut, clean):
    """However it ends, the pieces are delivered once, then the error; what came is charged."""
    end = [] if clean else [ConnectionResetError("cut")]
    chain = [scripted([*PIECES[:cut], *end], whole("again")), scripted(whole("other"))]
    got = []
    expected = StreamTruncated if clean else ConnectionResetError
    with make_tower(tmp_path, models=chain).run("x") as run, pytest.raises(expected) as caught:
        got.extend(run.stream(HELLO))
    assert got == PIECES[:cut]
    assert caught.value.tower.decision == "delivered"
    attempts = run.pack.frame("spans").filter(kind="attempt")
    kind = "stream_truncated" if clean else "stream_interrupted"
    assert attempts["error_class"].to_list() == [kind]
    cost = run.pack.frame("costs").to_dicts()
    assert [(c["wasted"], c["estimated"]) for c in cost] == [(True, True)]
    assert cost[0]["output_tokens"] == TokenBook().text("sim-clerk-large", "".join(PIECES[:cut]))


def test_an_agent_that_stops_reading_ends_the_call(tmp_path):
    """The span is cancelled, the charge is of what came, the permit is back, the run goes on."""
    tower = make_tower(tmp_path, models=[scripted(whole(*PIECES))])
    with tower.run("x") as run:
        stream = run.stream(HELLO)
        assert [next(stream), next(stream)] == PIECES[:2]
        stream.close()
        run.finish("enough")
    spans = run.pack.frame("spans").sort("seq")
    assert spans["status"].to_list() == ["ok", "cancelled", "cancelled"]
    assert run.pack.manifest["status"] == "completed"
    assert run.ledger.reserved == 0


def agent(run, _task, stop_after=99):
    """Read a stream, twice, up to `stop_after` pieces."""
    for i in range(2):
        text, stream = [], run.stream([{"role": "user", "content": f"part {i}"}])
        with contextlib.suppress(StreamTruncated, ConnectionResetError), contextlib.closing(stream):
            for piece in stream:
                text.append(piece)
                if len(text) == stop_after:
                    break
        run.finish("".join(text))


@pytest.mark.parametrize(
    ("attempts", "stop"),
    [
        ([whole(*PIECES), whole("b")], 99),
        ([[ConnectionRefusedError("no")], whole(*PIECES), whole("b")], 99),
        ([PIECES[:2], whole("b")], 99),
        ([[*PIECES[:2], ConnectionResetError("cut")], whole("b")], 99),
        ([whole(*PIECES), whole("b", "c", "d")], 2),
    ],
)
def test_streams_replay_equal(tmp_path, attempts, stop):
    """Whole, retried, truncated, cut, or left: the tape gives the same pieces and the same end."""
    with make_tower(tmp_path, models=[scripted(*attempts)]).run("orders", task=TASK) as run:
        agent(run, TASK, stop)
    report = replay(run.pack, lambda r, t: agent(r, t, stop))
    assert report.divergence is None


def test_a_stall_is_a_time_out(tmp_path):
    """A stream that stops coming is cut by the attempt's time-out, piece by piece."""
    tower = make_tower(tmp_path)
    env = tower.environment()

    def stalling(request, timeout_s):
        yield "It "
        env.sleep(60)
        yield "was"

    slow = Model(name="sim-clerk-large", provider="simulated", complete=lambda *_: None,
                 stream=stalling, simulated=True)  # fmt: skip
    tower = make_tower(tmp_path, models=[slow])
    env = tower.environment()
    with tower.run("x") as run, pytest.raises(AttemptTimeout):
        list(run.stream(HELLO))
    assert run.pack.manifest["duration_ns"] == 12 * 10**9


def test_a_model_that_does_not_stream_delivers_its_answer_at_once(tmp_path):
    """The agent need not know."""
    with make_tower(tmp_path, models=[models.function(lambda _: "all of it")]).run("x") as run:
        pieces, answer = read(run.stream(HELLO))
    assert pieces == []
    assert answer.content == "all of it"


def test_awaited_streams_do_the_same(tmp_path):
    """Pieces, then the answer as the last item; truncated ones raise."""

    async def main():
        tower = make_tower(tmp_path, models=[scripted(whole(*PIECES), PIECES[:1])])
        with tower.run("x") as run:
            first = [item async for item in run.astream(HELLO)]
            with pytest.raises(StreamTruncated):
                _ = [item async for item in run.astream(HELLO)]
        return first, run

    first, run = asyncio.run(main())
    assert first[:-1] == PIECES
    assert first[-1].content == "It was sent."
    assert run.pack.frame("spans").filter(kind="attempt")["status"].to_list() == ["ok", "error"]


# -- through the real SDKs -------------------------------------------------------------------------

TEXT = "It was sent on Monday and arrives on Thursday."


def sdk_model(which, server, monkeypatch):
    """Return a model of the fault server through a real SDK."""
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")
    if which == "openai":
        return models.openai("gpt-x", base_url=server.openai_base_url)
    return models.anthropic("claude-x", base_url=server.anthropic_base_url)


def asynchronous(which, server, monkeypatch):
    """Return a model and the asynchronous client behind it, which belongs to one event loop."""
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")
    if which == "openai":
        client = AsyncOpenAI(base_url=server.openai_base_url)
        return models.openai("gpt-x", base_url=server.openai_base_url, aclient=client), client
    client = AsyncAnthropic(base_url=server.anthropic_base_url)
    return models.anthropic("claude-x", base_url=server.anthropic_base_url, aclient=client), client


def real_tower(path, model, **policy):
    return Tower(store=path, models=[model], policy=Policy(backoff_cap_s=0.01, **policy))


@pytest.mark.parametrize("which", ["openai", "anthropic"])
def test_a_real_stream_is_whole(tmp_path, monkeypatch, which):
    """Text, usage and finish reason arrive, in several pieces, from one request."""
    with FaultServer([Reply(text=TEXT)]) as server:
        model = sdk_model(which, server, monkeypatch)
        with real_tower(tmp_path, model).run("x") as run:
            pieces, answer = read(run.stream(HELLO))
    assert "".join(pieces) == answer.content == TEXT
    assert len(pieces) > 1
    assert answer.usage.input_tokens
    assert server.hits == 1


@pytest.mark.parametrize("which", ["openai", "anthropic"])
def test_a_real_stall_ends_with_the_time_out(tmp_path, monkeypatch, which):
    """The provider stops in the middle of an answer: 0.3 s later the agent knows."""
    with FaultServer(default=Reply(text=TEXT).with_(Stall(at_chunk=3))) as server:
        model = sdk_model(which, server, monkeypatch)
        run = real_tower(tmp_path, model, attempt_timeout_s=0.3).run("x")
        with run, pytest.raises(Exception, match=r"time|Time|within") as caught:
            read(run.stream(HELLO))
    assert caught.value.tower.error_class in {"timeout_read", "stream_interrupted"}


@pytest.mark.parametrize("which", ["openai", "anthropic"])
def test_awaited_calls_through_the_sdks(tmp_path, monkeypatch, which):
    """The asynchronous clients: a retry after a 500, an answer, and a stream."""
    steps = [Status(code=500), Reply(text=TEXT), Reply(text=TEXT)]

    async def main(server):
        model, client = asynchronous(which, server, monkeypatch)
        async with client:
            return await work(model)

    async def work(model):
        with real_tower(tmp_path, model).run("x") as run:
            answer = await run.amodel(HELLO)
            items = [item async for item in run.astream(HELLO)]
        return run, answer, items

    with FaultServer(steps) as server:
        run, answer, items = asyncio.run(main(server))
        hits = server.hits
    assert answer.content == items[-1].content == "".join(items[:-1]) == TEXT
    assert run.pack.frame("spans").filter(kind="attempt").height == hits == 3


@pytest.mark.parametrize("at", range(1, 20))
def test_what_is_cut_in_two_by_a_stream_is_redacted_all_the_same(tmp_path, at):
    """An address split at any character is in no byte of the pack; the agent gets it whole."""
    text = "ask bob@example.com now"
    pieces = [text[:at], text[at:]]

    def stream(request, timeout_s):
        yield from pieces
        yield Response(content=text)

    model = Model(name="m", provider="p", complete=lambda r, t: None, stream=stream)
    with Tower(store=tmp_path, models=[model]).run("x") as run:
        got = list(run.stream(HELLO))
    assert got == pieces
    bodies = b"".join(run.pack.bodies.values())
    assert b"<EMAIL:" in bodies
    assert b"bob" not in bodies
    assert b"example" not in bodies

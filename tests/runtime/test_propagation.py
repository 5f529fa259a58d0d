"""W3C trace context: what goes out, to whom, and what comes in."""

from __future__ import annotations

import asyncio
import json

import httpx
import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp import Client
from mcp.server.mcpserver import Context, MCPServer
from opentelemetry.baggage import get_all
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from towerkit.adapters.mcp import guard_session
from towerkit.core.errors import UsageError
from towerkit.faults import FaultServer, Reply, Status
from towerkit.reliability.policy import Policy
from towerkit.runtime.propagation import baggage_header, read_traceparent
from towerkit.runtime.tower import Tower

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BAGGAGE = {"tenant": "ada & co", "plan": "gold,premium"}
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}]}


def make(tmp_path, **options):
    return Tower(store=tmp_path, policy=Policy(backoff_cap_s=0.001), **options)


def sent(tower, *, lib=httpx2, host="tools.internal", headers=(), statuses=(200,), **run_options):
    """Return the requests of one call to a host, and the run."""
    seen, answers = [], iter(statuses)

    def handler(request):
        seen.append(request)
        return lib.Response(next(answers), json={})

    transport = tower.http_transport(lib.MockTransport(handler))
    with lib.Client(transport=transport) as client, tower.run("desk", **run_options) as run:
        client.get(f"https://{host}/x", headers=dict(headers))
    return seen, run


# -- out -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lib", [httpx, httpx2])
def test_each_attempt_goes_out_under_its_own_span(tmp_path, lib):
    """The trace is the run, the parent is the attempt; OpenTelemetry's own reader agrees."""
    seen, run = sent(make(tmp_path), lib=lib, statuses=(503, 200))
    tries = run.pack.frame("spans").filter(kind="attempt").sort("seq")["span_id"].to_list()
    assert len(tries) == 2
    for request, span_id in zip(seen, tries, strict=True):
        context = TraceContextTextMapPropagator().extract(dict(request.headers))
        found = get_current_span(context).get_span_context()
        assert f"{found.trace_id:032x}" == run.run_id.replace("-", "")
        assert f"{found.span_id:016x}" == span_id
        assert "baggage" not in request.headers


def test_a_models_request_carries_the_trace_and_no_baggage(tmp_path):
    """Through a real SDK to a provider: ids only, though the run has baggage."""
    tower = make(tmp_path, baggage_to=("tools.internal",))
    with FaultServer([Status(code=503), Reply()]) as server:
        http = tower.http_client(provider="openai")
        client = openai.OpenAI(api_key="sk-x", base_url=server.openai_base_url, http_client=http)
        with client, tower.run("desk", baggage=BAGGAGE) as run:
            client.chat.completions.create(**BODY)
    tries = run.pack.frame("spans").filter(kind="attempt").sort("seq")["span_id"].to_list()
    headers = [e.headers for e in server.requests]
    trace = run.run_id.replace("-", "")
    assert [h["traceparent"] for h in headers] == [f"00-{trace}-{s}-01" for s in tries]
    assert not any("baggage" in h for h in headers)


def test_an_asynchronous_client_does_the_same(tmp_path):
    """On an event loop."""
    tower, seen = make(tmp_path), []

    def handler(request):
        seen.append(request)
        return httpx2.Response(200, json={})

    async def work():
        transport = tower.ahttp_transport(httpx2.MockTransport(handler))
        async with httpx2.AsyncClient(transport=transport) as client:
            with tower.run("desk") as run:
                await client.get("https://tools.internal/x")
        return run

    run = asyncio.run(work())
    assert run.run_id.replace("-", "") in seen[0].headers["traceparent"]


def test_baggage_goes_to_whom_it_was_meant_for_and_to_nobody_else(tmp_path):
    """Exactly the hosts that are named: no subdomain, no other spelling of everybody."""
    tower = make(tmp_path, baggage_to=("Tools.Internal",))
    for host, gets in (("tools.internal", True), ("evil.tools.internal", False),
                       ("tools.internal.evil.com", False), ("api.openai.com", False)):  # fmt: skip
        (request,), _ = sent(tower, host=host, baggage=BAGGAGE)
        assert ("baggage" in request.headers) is gets, host
    (request,), run = sent(tower, baggage=BAGGAGE)
    context = W3CBaggagePropagator().extract(dict(request.headers))
    assert dict(get_all(context)) == BAGGAGE
    root = run.pack.frame("spans").filter(kind="run").row(0, named=True)
    assert json.loads(root["attributes"])["towerkit.baggage_names"] == ["plan", "tenant"]
    assert "premium" not in root["attributes"]


def test_a_header_of_the_agents_own_is_never_replaced(tmp_path):
    """Its trace goes on whole: our baggage does not join a trace that is not ours."""
    tower = make(tmp_path, baggage_to=("tools.internal",))
    (request,), _ = sent(tower, headers={"TraceParent": CALLER}, baggage=BAGGAGE)
    assert request.headers.get_list("traceparent") == [CALLER]
    assert "baggage" not in request.headers
    (request,), run = sent(tower, headers={"baggage": "own=1"}, baggage=BAGGAGE)
    assert request.headers.get_list("baggage") == ["own=1"]
    assert run.run_id.replace("-", "") in request.headers["traceparent"]


def test_the_agents_request_itself_is_not_touched(tmp_path):
    """What the agent holds after the call has no header of ours."""
    tower = make(tmp_path)
    transport = tower.http_transport(httpx2.MockTransport(lambda r: httpx2.Response(200)))
    with httpx2.Client(transport=transport) as client, tower.run("desk"):
        request = client.build_request("GET", "https://tools.internal/x")
        client.send(request)
    assert "traceparent" not in request.headers


@pytest.mark.parametrize("allowed", [True, False])
def test_mcp_calls_carry_both_in_meta(tmp_path, allowed):
    """The server reads them from `params._meta`; baggage only where the server is named."""
    metas, server = [], MCPServer("desk")

    @server.tool()
    async def look_up(ctx: Context) -> str:
        """Look up."""
        metas.append(dict(ctx.request_context.meta or {}))
        return "x"

    tower = make(tmp_path, baggage_to=("mcp:desk",) if allowed else ("desk",))

    async def work(**options):
        async with Client(server) as client:
            session = guard_session(tower, client, server="desk")
            with tower.run("desk", baggage=BAGGAGE) as run:
                await session.call_tool("look_up", {}, **options)
        return run

    run = asyncio.run(work())
    asyncio.run(work(meta={"traceparent": CALLER}))
    attempt = run.pack.frame("spans").filter(kind="attempt")["span_id"][0]
    assert metas[0]["traceparent"] == f"00-{run.run_id.replace('-', '')}-{attempt}-01"
    assert ("baggage" in metas[0]) is allowed
    assert metas[1]["traceparent"] == CALLER
    assert "baggage" not in metas[1]


# -- in --------------------------------------------------------------------------------------------


def test_the_callers_trace_is_kept_and_linked(tmp_path):
    """In the manifest, and as a link of the exported run span; the run keeps a trace of its own."""
    exporter = InMemorySpanExporter()
    tower = make(tmp_path, otel_exporter=exporter)
    with tower.run("desk", traceparent=CALLER) as run:
        pass
    assert run.pack.manifest["parent_trace_id"] == CALLER[3:35]
    assert tower.flush_otel()
    (span,) = exporter.get_finished_spans()
    (link,) = span.links
    assert f"{link.context.trace_id:032x}-{link.context.span_id:016x}" == CALLER[3:52]
    assert link.context.is_remote
    assert f"{span.context.trace_id:032x}" == run.run_id.replace("-", "")


BAD = ["", "x", CALLER.upper(), "ff" + CALLER[2:], CALLER + "-x", CALLER[:-1],
       f"00-{'0' * 32}-b7ad6b7169203331-01", f"00-{'a' * 32}-{'0' * 16}-01", 7, b"00",
       CALLER.replace("-", "\n")]  # fmt: skip


@pytest.mark.parametrize("header", BAD)
def test_a_traceparent_that_is_none_is_left_out_and_said(tmp_path, header, caplog):
    """It comes from outside: never the run's error, and not in silence."""
    with make(tmp_path).run("desk", traceparent=header) as run:
        pass
    assert run.pack.manifest["parent_trace_id"] is None
    root = run.pack.frame("spans").row(0, named=True)
    assert json.loads(root["attributes"])["towerkit.traceparent_invalid"] is True
    assert "was left out" in caplog.text


def test_a_later_version_of_the_header_is_read(tmp_path):
    """As the specification asks: its first four fields are known."""
    assert read_traceparent("01" + CALLER[2:] + "-more")["trace_id"] == CALLER[3:35]
    assert read_traceparent(f" {CALLER} ")["flags"] == 1


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)


@given(st.text())
def test_reading_a_header_never_raises(text):
    """Whatever the caller sent."""
    found = read_traceparent(text)
    assert found is None or len(found["trace_id"]) == 32


@given(st.dictionaries(st.text("abc-_.", min_size=1, max_size=8), TEXT, max_size=5))
def test_baggage_survives_its_spelling(entries):
    """OpenTelemetry's reader gets back what was put in; no value breaks out of its header."""
    header = baggage_header(entries)
    assert "\r" not in header
    assert "\n" not in header
    read = dict(get_all(W3CBaggagePropagator().extract({"baggage": header})))
    assert read == {k: v.strip() for k, v in entries.items()}  # which it does after decoding


@pytest.mark.parametrize("entries", [
    {"a b": "x"}, {"": "x"}, {"a": 7}, {"a": "x" * 9_000}, {"a": "\ud800"},
    {f"k{n}": "v" for n in range(65)},
])  # fmt: skip
def test_baggage_that_cannot_travel_is_said_at_once(tmp_path, entries):
    """Before the run begins."""
    with pytest.raises(UsageError, match="baggage"):
        make(tmp_path).run("desk", baggage=entries)


@pytest.mark.parametrize("names", ["tools.internal", ("*",), ("https://a.b/",), ("a b",), (7,),
                                   ("mcp:*",), ("",)])  # fmt: skip
def test_whom_baggage_goes_to_is_spelt_out(tmp_path, names):
    """No text instead of a list, no pattern, no address."""
    with pytest.raises(UsageError, match="expected baggage_to"):
        make(tmp_path, baggage_to=names)

"""Over the wire to an OTLP/HTTP backend with the protocol's own exporter, and back again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import openai
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from otlp_backend import as_lines, backend

from tests.agents import TASK, agent, make_tower
from towerkit.core.types import Response, ToolCall, Usage
from towerkit.faults import FaultServer, Reply, Status
from towerkit.ingest import ingest
from towerkit.packs.store import Store
from towerkit.reliability.policy import Policy
from towerkit.runtime import models
from towerkit.runtime.tower import Tower
from towerkit.telemetry import outbox

FAULTS = [{"target": "model:sim-clerk-large", "at": [1], "kind": "overloaded"},
          {"target": "tool:look_up", "at": [1], "kind": "error"}]  # fmt: skip
KEPT = ("parent_span_id", "kind", "gen_ai_operation_name", "start_unix_ns", "duration_ns", "status",
        "error_class", "error_type", "attempt", "fallback_tier", "fallback_reason",
        "gen_ai_provider_name", "gen_ai_request_model", "gen_ai_response_model",
        "gen_ai_response_id", "gen_ai_response_finish_reason", "gen_ai_usage_input_tokens",
        "gen_ai_usage_output_tokens", "gen_ai_usage_cache_read_tokens",
        "gen_ai_usage_cache_write_tokens", "gen_ai_usage_reasoning_tokens", "gen_ai_tool_name",
        "gen_ai_tool_call_id", "idempotent", "simulated")  # fmt: skip


def exported(tmp_path, there, **options):
    """Return the pack of a run whose spans went to the backend."""
    exporter = OTLPSpanExporter(endpoint=f"{there.url}/v1/traces", headers={"x-key": "k"})
    tower = make_tower(tmp_path / "store", otel_exporter=exporter, **options)
    with tower.run("orders", task=TASK, faults=FAULTS) as run:
        agent(run, TASK)
    assert tower.flush_otel()
    return run.pack


def test_a_run_arrives_with_the_names_backends_look_for(tmp_path):
    """Path, headers, resource, schema, span names and kinds; and no word of what was said."""
    with backend() as there:
        exported(tmp_path, there, service="desk", release="7")
        (path, headers, body), *_ = there.requests
        (group,) = there.exports()[0]["resourceSpans"]
    assert (path, headers["x-key"]) == ("/v1/traces", "k")
    resource = {a["key"]: a["value"]["stringValue"] for a in group["resource"]["attributes"]}
    assert (resource["service.name"], resource["service.version"]) == ("desk", "7")
    (scoped,) = group["scopeSpans"]
    assert scoped["schemaUrl"] == "https://opentelemetry.io/schemas/gen-ai-dev/1.42.0-dev"
    kinds = {s["name"]: s["kind"].removeprefix("SPAN_KIND_") for s in scoped["spans"]}
    assert kinds == {
        "invoke_agent orders": "INTERNAL", "look": "INTERNAL", "chat sim-clerk-large": "CLIENT",
        "execute_tool look_up": "INTERNAL",
    }  # fmt: skip
    assert b"order 7" not in body
    assert b"look orders up" not in body
    assert b"towerkit.cost.nanousd" in body


def test_what_went_out_comes_back_to_the_same_rows(tmp_path):
    """Pack to OTLP to pack: same spans, tree, errors, tokens, tiers, and the same costs."""
    with backend() as there:
        pack = exported(tmp_path, there)
        (tmp_path / "a.jsonl").write_bytes(as_lines(there.exports()))
    store = Store(tmp_path / "again")
    report = ingest(store, tmp_path / "a.jsonl", format="otlp", jobs=1)
    assert (report.imported, report.errors, report.scenarios) == (1, (), ("orders",))
    (back,) = store.packs()
    back.verify()
    rows, again = (
        {r["span_id"]: {c: r[c] for c in KEPT} for r in p.frame("spans").to_dicts()}
        for p in (pack, back)
    )
    assert again == rows
    assert {r["error_class"] for r in rows.values()} >= {"overloaded", "tool_failed", None}
    costs, also = (
        [(c["span_id"], c["cost_nanousd"], c["wasted"], c["simulated"])
         for c in p.frame("costs").sort("span_id").to_dicts() if c["cost_nanousd"] is not None]
        for p in (pack, back)
    )  # fmt: skip
    assert also == costs
    assert back.manifest["simulated"] is True
    assert back.manifest["source"]["record_id"] == pack.run_id.replace("-", "")


def test_with_content_messages_go_out_redacted_in_roles_and_parts(tmp_path):
    """Input, output, tool arguments and result: on attempts and on the run, no address bare."""
    with backend() as there:
        exported(tmp_path, there, otel_content=True)
        spans, bodies = there.spans(), [b for _, _, b in there.requests]
    assert not any(b"ann@example.com" in b for b in bodies)
    of = {k: [s["attributes"] for s in spans if s["attributes"]["towerkit.kind"] == k]
          for k in ("run", "call", "attempt")}  # fmt: skip
    chat = [a for a in of["attempt"] if a["gen_ai.operation.name"] == "chat"]
    first = json.loads(chat[-2]["gen_ai.input.messages"])
    assert first[0] == {"role": "system", "parts": [
        {"type": "text", "content": "You look orders up and answer in one sentence."}]}  # fmt: skip
    assert first[1]["parts"][0]["content"].startswith("Where is order 7 of <EMAIL:")
    asked = json.loads(chat[-2]["gen_ai.output.messages"])[0]
    assert asked["finish_reason"] == "tool_calls"
    assert {"type": "tool_call", "id": "c1", "name": "look_up",
            "arguments": {"order": 7}} in asked["parts"]  # fmt: skip
    assert json.loads(chat[-1]["gen_ai.input.messages"])[-1]["parts"][0]["id"] == "c1"
    tool = [a for a in of["attempt"] if a["gen_ai.operation.name"] == "execute_tool"][-1]
    assert json.loads(tool["gen_ai.tool.call.arguments"]) == {"order": 7}
    assert "<EMAIL:" in tool["gen_ai.tool.call.result"]
    assert "Where is order 7" in of["run"][0]["gen_ai.input.messages"]
    assert all("gen_ai.input.messages" not in a for a in of["call"])


@pytest.mark.parametrize("content", [False, True])
def test_what_instrumented_libraries_brought_in_goes_out_like_our_own(tmp_path, content):
    """Their content only when asked for; and each count on one span, whatever theirs say."""
    said = {"gen_ai.operation.name": "generate_content", "gen_ai.request.model": "m",
            "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 2,
            "gen_ai.input.messages": '[{"role": "user", "content": "a plan"}]',
            "unheard.of": "a plan"}  # fmt: skip
    outer = {"gen_ai.request.model": "m", "llm.token_count.prompt": 10}
    with backend() as there:
        exporter = OTLPSpanExporter(endpoint=f"{there.url}/v1/traces")
        tower = Tower(store=tmp_path, otel_content=content, otel_exporter=exporter)
        provider = TracerProvider()
        provider.add_span_processor(tower.span_processor())
        tracer = provider.get_tracer("some.library")
        with (
            tower.run("desk"),
            tracer.start_as_current_span("call_llm", attributes=outer),
            tracer.start_as_current_span("generate", attributes=said) as span,
        ):
            span.add_event("gen_ai.user.message", {"content": "a plan"})
        assert tower.flush_otel()
        spans, (body,) = there.spans(), [b for _, _, b in there.requests]
    assert (b"a plan" in body) is content
    counts = {k for k in said | outer if "usage" in k or "count" in k}
    counted = [s["attributes"]["towerkit.kind"] for s in spans if counts & set(s["attributes"])]
    assert counted == ["attempt"]
    call = next(s for s in spans if s["attributes"]["towerkit.kind"] == "call")
    assert call["attributes"]["gen_ai.operation.name"] == "generate_content"


@pytest.mark.parametrize("capture", ["off", "digests"])
def test_what_was_not_kept_cannot_go_out(tmp_path, capture):
    """Asked for content, a tower that keeps none exports none."""
    from towerkit.privacy.redact import Redactor

    with backend() as there:
        exporter = OTLPSpanExporter(endpoint=f"{there.url}/v1/traces")
        tower = Tower(
            store=tmp_path, models=[models.function(lambda r: "hello there")], otel_content=True,
            otel_exporter=exporter, redactor=Redactor(bytes(32), kid="t", capture=capture),
        )  # fmt: skip
        with tower.run("desk", task="a secret plan") as run:
            run.model([{"role": "user", "content": "a secret plan"}])
            run.finish("hello there")
        assert tower.flush_otel()
        (body,) = [b for _, _, b in there.requests]
    assert b"secret plan" not in body
    assert b"hello there" not in body


def test_cache_and_reasoning_tokens_have_one_name_each(tmp_path):
    """A backend that adds up `gen_ai.usage.*` must not find one number under two names."""
    usage = Usage(input_tokens=100, output_tokens=20, cache_read_tokens=60, cache_write_tokens=30,
                  reasoning_tokens=5)  # fmt: skip
    answer = Response(content="x", usage=usage, response_id="r1", finish_reason="stop",
                      tool_calls=(ToolCall(id="c", name="t", arguments={}),))  # fmt: skip
    with backend() as there:
        exporter = OTLPSpanExporter(endpoint=f"{there.url}/v1/traces")
        tower = Tower(store=tmp_path, otel_exporter=exporter,
                      models=[models.function(lambda r: answer)])  # fmt: skip
        with tower.run("desk") as run:
            run.model([{"role": "user", "content": "x"}])
        assert tower.flush_otel()
        found = [{k: v for k, v in s["attributes"].items() if ".usage." in k}
                 for s in there.spans()]  # fmt: skip
    assert [f for f in found if f] == [{
        "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 60, "gen_ai.usage.cache_write.input_tokens": 30,
        "gen_ai.usage.reasoning.output_tokens": 5,
    }]  # fmt: skip


def test_the_seams_spans_say_which_server_and_what_failed(tmp_path):
    """server.address, status code, error.type and the wait, as the guard saw them."""
    with backend() as there, FaultServer([Status(code=503), Reply()]) as server:
        exporter = OTLPSpanExporter(endpoint=f"{there.url}/v1/traces")
        tower = Tower(store=tmp_path, otel_exporter=exporter,
                      policy=Policy(backoff_cap_s=0.001))  # fmt: skip
        http = tower.http_client(provider="openai")
        client = openai.OpenAI(api_key="sk-x", base_url=server.openai_base_url, http_client=http)
        with client, tower.run("desk"):
            client.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "hi"}]
            )
        assert tower.flush_otel()
        tries = [s for s in there.spans() if s["attributes"]["towerkit.kind"] == "attempt"]
        call = next(s for s in there.spans() if s["attributes"]["towerkit.kind"] == "call")
    assert [s["attributes"]["http.response.status_code"] for s in tries] == [503, 200]
    assert all(s["attributes"]["server.address"] == "127.0.0.1" for s in tries)
    assert tries[0]["attributes"]["error.type"]
    assert tries[0]["status"] == {"code": "STATUS_CODE_ERROR", "message": "overloaded"}
    assert tries[0]["events"][0]["name"] == "exception"
    assert "wait" in {e["name"] for e in call["events"]}


def test_the_page_does_what_it_says(tmp_path, monkeypatch):
    """The blocks of docs/howto/otel.md run as they stand, endpoint and header from outside."""
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parents[2] / "docs/howto/otel.md").read_text()
    with backend() as there:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{there.url}/api/public/otel")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20a2V5,x-more=4")
        scope = {}
        for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
            exec(compile(code, "docs/howto/otel.md", "exec"), scope)
        ((path, headers, _),) = there.requests
        spans = there.spans()
    assert path == "/api/public/otel/v1/traces"
    assert (headers["authorization"], headers["x-more"]) == ("Basic a2V5", "4")
    assert len(spans) == 3
    assert scope["run"].pack.manifest["parent_trace_id"] is None


# -- backends that fail ----------------------------------------------------------------------------


def test_a_backend_that_is_down_costs_the_agent_nothing(tmp_path, caplog):
    """Refused, and no server at all: the run ends at once, the pack is whole, the loss is said."""
    with backend() as there:
        there.status = 400
        pack = exported(tmp_path, there)
        pack.verify()
    assert "refused its spans" in caplog.text


class Slow(SpanExporter):
    """An exporter that holds on until it is let go."""

    def __init__(self):
        self.go, self.began, self.seen = threading.Event(), threading.Event(), 0

    def export(self, spans):
        """Wait to be let go."""
        self.began.set()
        self.go.wait(30)
        self.seen += 1
        return SpanExportResult.SUCCESS


def test_the_agent_does_not_wait_and_what_is_too_much_is_counted(tmp_path, caplog, monkeypatch):
    """Runs end while the exporter hangs; beyond the limit packs are dropped, with a word."""
    monkeypatch.setattr(outbox, "WAITING_PACKS", 2)
    slow = Slow()
    tower = Tower(store=tmp_path, models=[models.function(lambda r: "x")], otel_exporter=slow)
    for n in range(4):
        with tower.run("desk"):
            pass
        if n == 0:
            assert slow.began.wait(10)
    assert not tower.flush_otel(0.01)
    assert (tower.outbox.dropped, len(tower.store.packs())) == (1, 4)
    assert "2 packs wait for the backend" in caplog.text
    slow.go.set()
    assert tower.flush_otel()
    assert (tower.outbox.exported, slow.seen) == (3, 3)


def test_a_pack_that_is_sealed_while_the_interpreter_ends_is_exported_here(tmp_path, monkeypatch):
    """No thread can be started any more: who seals exports."""
    slow = Slow()
    slow.go.set()
    tower = Tower(store=tmp_path, models=[models.function(lambda r: "x")], otel_exporter=slow)
    with tower.run("desk") as run:
        pass
    assert run.pack is not None
    assert tower.flush_otel()

    def ending(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", ending)
    tower.outbox.put(run.pack)
    assert tower.outbox.flush(0)
    assert (tower.outbox.exported, slow.seen) == (2, 2)


SHORT = """
import sys
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from towerkit import Tower, models
class Told(SpanExporter):
    def export(self, spans):
        print(len(spans), flush=True)
        return SpanExportResult.SUCCESS
tower = Tower(store=sys.argv[1], models=[models.function(lambda r: "x")], otel_exporter=Told())
with tower.run("desk") as run:
    run.model([{"role": "user", "content": "hello"}])
"""


def test_a_script_that_ends_at_once_has_its_run_exported(tmp_path):
    """Sealing and export are behind the agent; the process waits for both."""
    done = subprocess.run([sys.executable, "-c", SHORT, str(tmp_path)], capture_output=True,
                          text=True, check=False, timeout=60)  # fmt: skip
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "3", "")

"""Spans reach an OpenTelemetry exporter in the vocabulary of its GenAI conventions."""

from __future__ import annotations

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tests.agents import TASK, agent, make_tower, recorded
from towerkit.telemetry.otel import export


def test_every_span_of_the_pack_is_exported_with_its_parent(tmp_path):
    """Same count, same tree, and the run id is the trace id."""
    exporter = InMemorySpanExporter()
    tower = make_tower(tmp_path, otel_exporter=exporter)
    with tower.run("orders", task=TASK) as run:
        agent(run, TASK)
    assert tower.flush_otel()
    spans = exporter.get_finished_spans()
    rows = run.pack.frame("spans").to_dicts()
    assert len(spans) == len(rows)
    assert {s.context.trace_id for s in spans} == {int(run.run_id.replace("-", ""), 16)}
    parents = {f"{s.context.span_id:016x}": s.parent and f"{s.parent.span_id:016x}" for s in spans}
    assert parents == {r["span_id"]: r["parent_span_id"] for r in rows}


def test_model_calls_speak_the_conventions(tmp_path):
    """Operation, provider, models, usage and error type are where backends look for them."""
    faults = [{"target": "model:sim-clerk-large", "at": [1], "kind": "overloaded"}]
    exporter = InMemorySpanExporter()
    assert export(recorded(tmp_path, faults=faults), exporter)
    chats = [s for s in exporter.get_finished_spans() if s.attributes["towerkit.kind"] == "attempt"
             and s.attributes["gen_ai.operation.name"] == "chat"]  # fmt: skip
    failed, good = chats[0], chats[1]
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes["error.type"] == "FaultInjected"
    assert failed.attributes["towerkit.error.class"] == "overloaded"
    assert good.kind is SpanKind.CLIENT
    assert good.attributes["gen_ai.usage.input_tokens"] == 200
    assert good.attributes["gen_ai.response.model"] == "sim-clerk-large"
    assert all("order 7" not in str(s.attributes) for s in chats)


def test_an_exporter_that_fails_loses_nothing_of_the_run(tmp_path, caplog):
    """Neither an exception nor a refusal reaches the agent, and the pack is whole."""

    class Broken(SpanExporter):
        def export(self, spans):
            raise OSError("backend down")

    class Refusing(SpanExporter):
        def export(self, spans):
            return SpanExportResult.FAILURE

    for seed, exporter in enumerate((Broken(), Refusing())):
        tower = make_tower(tmp_path, seed=seed, otel_exporter=exporter)
        with tower.run("orders", task=TASK) as run:
            agent(run, TASK)
        assert tower.flush_otel()
        run.pack.verify()
    assert "raised; the pack is whole" in caplog.text
    assert "refused its spans" in caplog.text

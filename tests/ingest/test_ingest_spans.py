"""Spans from files: every emitter's words, every shape of tree, and what is refused."""

from __future__ import annotations

import json

import pytest
from ingest_samples import admit, changed, redactor, write
from span_samples import (
    MS,
    START,
    dump_record,
    dumped,
    otlp_export,
    otlp_record,
    otlp_span,
    trace_id,
)

from towerkit.core.errors import IngestError
from towerkit.packs.store import Store
from towerkit.rca import span_tree


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def only(store, path, kind, **options):
    """Admit a file of one run; return its pack and its spans by their own ids."""
    report = admit(store, path, kind, **options)
    assert (report.imported, report.errors) == (1, ())
    (pack,) = store.packs()
    pack.verify()
    rows = pack.frame("spans").sort("seq").to_dicts()
    return pack, {r["span_id"]: r for r in rows}


def one(store, tmp_path, attributes, **more):
    """Admit one span with these attributes under a root; return its row and its attempt's."""
    spans = [dumped(0, 1, "root", {}, parent=None), dumped(0, 2, "it", attributes, **more)]
    pack, rows = only(store, write(tmp_path / "a.json", spans), "openinference")
    attempts = [r for r in rows.values() if r["parent_span_id"] == f"{2:016x}"]
    return pack, rows[f"{2:016x}"], attempts[0] if attempts else None


# -- one run ---------------------------------------------------------------------------------------


def test_a_dump_becomes_run_calls_attempts_and_one_charge(store, tmp_path):
    """Kinds, ids, parents, tokens as text or number, the error, and unknown attributes."""
    pack, rows = only(store, write(tmp_path / "a.json", [dump_record()]), "openinference")
    root, model, tool = (rows[f"{n:016x}"] for n in (1, 2, 3))
    assert [r["kind"] for r in (root, model, tool)] == ["run", "call", "call"]
    assert model["parent_span_id"] == tool["parent_span_id"] == root["span_id"]
    assert (tool["status"], tool["error_class"], tool["error_type"], tool["error_message"]) == (
        "error", "tool_failed", "KeyError", "'7'"
    )  # fmt: skip
    attempt = next(r for r in rows.values() if r["parent_span_id"] == model["span_id"])
    assert (attempt["kind"], attempt["attempt"]) == ("attempt", 1)
    assert attempt["gen_ai_usage_input_tokens"] == 100
    assert attempt["gen_ai_usage_output_tokens"] == 20
    assert attempt["gen_ai_usage_cache_read_tokens"] == 64
    assert model["gen_ai_usage_input_tokens"] is None
    assert model["duration_ns"] == 100 * MS
    assert model["start_unix_ns"] == START + 10 * MS
    kept = json.loads(model["attributes"])
    assert kept["my.own"] == {"a": [1, None]}
    assert kept["llm.token_count.total"] == 120
    assert json.loads(root["attributes"])["record.case"] == "c0"
    (cost,) = pack.frame("costs").to_dicts()
    assert (cost["span_id"], cost["input_tokens"], cost["cost_nanousd"]) == (
        attempt["span_id"], 100, None
    )  # fmt: skip
    assert pack.manifest["source"]["record_id"] == trace_id(0)
    assert pack.manifest["clock"] == "recorded"
    assert pack.manifest["duration_ns"] == 400 * MS
    asked = pack.content(model["request_digest"])["messages"]
    assert "Mail <EMAIL:" in pack.content(asked[0])["content"]
    assert not any(b"ada@example.com" in body for body in pack.bodies.values())
    assert "ada@example.com" not in model["attributes"]


def test_otlp_names_service_version_and_reads_wrapped_values(store, tmp_path):
    """The service is the scenario, its version the release; 64-bit integers travel as text."""
    record = otlp_record()
    record["resourceSpans"][0]["resource"]["attributes"].append(
        {"key": "service.version", "value": {"stringValue": "2.1"}}
    )
    report = admit(store, write(tmp_path / "a.json", record), "otlp")
    (pack,) = store.packs()
    identity = pack.manifest["identity"]
    assert (report.release, identity["scenario"], identity["service"]) == ("2.1", "desk", "desk")
    attempt = pack.frame("spans").filter(kind="attempt").row(0, named=True)
    assert (attempt["gen_ai_usage_input_tokens"], attempt["gen_ai_response_id"]) == (100, "r0")
    assert attempt["gen_ai_response_finish_reason"] == "stop"


@pytest.mark.parametrize("lines", [True, False])
def test_a_trace_may_be_spread_over_exports_and_a_file_may_hold_several(store, tmp_path, lines):
    """Two traces over three exports are two runs, each whole."""
    exports = [
        otlp_export(otlp_span(0, 2, "chat a", {"gen_ai.operation.name": "chat"}),
                    otlp_span(1, 1, "root b", {}, parent=None)),
        otlp_export(otlp_span(0, 1, "root a", {}, parent=None)),
        otlp_export(otlp_span(1, 2, "chat b", {"gen_ai.operation.name": "chat"})),
    ]  # fmt: skip
    report = admit(store, write(tmp_path / "a.jsonl.xz", exports, lines=lines), "otlp")
    assert (report.runs, report.imported) == (2, 2)
    for pack in store.packs():
        kinds = pack.frame("spans").sort("seq")["kind"].to_list()
        assert kinds == ["run", "call", "attempt"]


def test_single_spans_of_a_dump_belong_to_the_trace_they_name(store, tmp_path):
    """JSON lines of spans, of two traces, in any order."""
    spans = [dumped(1, 2, "x", {}), dumped(0, 1, "a", {}, parent=None),
             dumped(1, 1, "b", {}, parent=None)]  # fmt: skip
    report = admit(store, write(tmp_path / "a.jsonl", spans, lines=True), "openinference")
    assert (report.runs, report.imported) == (2, 2)


# -- trees -----------------------------------------------------------------------------------------


def test_without_a_single_root_the_run_gets_one_that_says_so(store, tmp_path):
    """A span whose parent is not in the file hangs below the run, and names what is missing."""
    spans = [dumped(0, 2, "a", {}, parent=9), dumped(0, 3, "b", {}, parent=None, at_ms=5)]
    pack, rows = only(store, write(tmp_path / "a.json", spans), "openinference")
    root = pack.frame("spans").filter(kind="run").row(0, named=True)
    assert json.loads(root["attributes"])["towerkit.synthetic"] is True
    assert {rows[f"{n:016x}"]["parent_span_id"] for n in (2, 3)} == {root["span_id"]}
    assert json.loads(rows[f"{2:016x}"]["attributes"])["towerkit.parent_missing"] == f"{9:016x}"
    assert root["duration_ns"] == 105 * MS


def test_a_lone_model_call_is_not_the_run_itself(store, tmp_path):
    """Its tokens are on an attempt, as everywhere."""
    spans = [dumped(0, 1, "chat", {"gen_ai.operation.name": "chat",
                                   "gen_ai.usage.input_tokens": 5}, parent=None)]  # fmt: skip
    pack, _ = only(store, write(tmp_path / "a.json", spans), "openinference")
    kinds = pack.frame("spans").sort("seq")["kind"].to_list()
    assert kinds == ["run", "call", "attempt"]


def test_children_may_start_before_their_parents(store, tmp_path):
    """Clocks differ; the tree is the file's, and parents come first in the pack."""
    spans = [dumped(0, 1, "root", {}, parent=None, at_ms=50), dumped(0, 2, "x", {}, at_ms=0),
             dumped(0, 3, "y", {}, parent=2, at_ms=60)]  # fmt: skip
    pack, rows = only(store, write(tmp_path / "a.json", spans), "openinference")
    assert [r.name for r in span_tree(pack.frame("spans"))] == ["root", "x", "y"]
    assert rows[f"{2:016x}"]["parent_span_id"] == f"{1:016x}"


def test_a_span_delivered_twice_is_one(store, tmp_path):
    """The protocol delivers at least once; what is the same to the byte is counted and dropped."""
    record = dump_record()
    record["spans"].append(record["spans"][1])
    pack, rows = only(store, write(tmp_path / "a.json", [record]), "openinference")
    assert pack.frame("costs").height == 1
    assert json.loads(rows[f"{1:016x}"]["attributes"])["otel.duplicates_dropped"] == 1


@pytest.mark.parametrize(("good", "status"), [(True, "ok"), (False, "aborted")])
def test_a_span_without_an_end_was_open(store, tmp_path, good, status):
    """Unless its emitter called it good; and the run's durations are said to mean nothing."""
    code = {"code": "OK" if good else "UNSET"}
    spans = [dumped(0, 1, "root", {}, parent=None), dumped(0, 2, "x", {}, status=code)]
    spans[1]["end_time"] = None
    pack, rows = only(store, write(tmp_path / "a.json", spans), "openinference")
    row = rows[f"{2:016x}"]
    assert (row["status"], row["duration_ns"]) == (status, 0)
    assert pack.manifest["clock"] == "none"


def test_ten_megabytes_in_one_attribute_are_kept_once(store, tmp_path):
    """Long texts go to the content table, and their digest stands for them."""
    text = "word " * 2_000_000
    attributes = {"gen_ai.operation.name": "chat", "input.value": text, "odd.note": text}
    pack, row, _ = one(store, tmp_path, attributes)
    kept = json.loads(row["attributes"])
    assert kept["input.value"] == kept["odd.note"] == {"content": row["request_digest"]}
    assert pack.bodies[row["request_digest"]] == text.encode()
    assert len(row["attributes"]) < 1_000


# -- what is refused -------------------------------------------------------------------------------

LONG_AGO = "1234567"
BROKEN_DUMPS = [
    (("spans", 1, "span_id"), "xyz", "span_id: expected 16 hexadecimal characters"),
    (("spans", 1, "span_id"), "0" * 16, "span_id: expected 16 hexadecimal characters, not all 0"),
    (("spans", 1, "trace_id"), ..., "spans[1].trace_id: expected 32 hexadecimal"),
    (("spans", 1, "start_time"), ..., "start_time: expected nanoseconds since 1970"),
    (("spans", 1, "start_time"), LONG_AGO, "start_time: expected nanoseconds since 1970"),
    (("spans", 1, "start_time"), "2025-02-31T00:00:00Z", "start_time: expected nanoseconds"),
    (("spans", 1, "end_time"), "soon", "end_time: expected nanoseconds since 1970"),
    (("spans", 1, "attributes"), [1], "attributes: expected an object, got [1]"),
    (("spans", 1, "span_events"), {"a": 1}, "events: expected a list"),
    (("spans", 1, "parent_span_id"), "q", "parent_span_id: expected 16 hexadecimal"),
    (("spans", 1, "span_id"), f"{3:016x}", "stands twice in its trace with different content"),
    (("spans", 0, "parent_span_id"), f"{2:016x}", "3 spans are their own ancestors"),
    (("spans", 1, "parent_span_id"), f"{2:016x}", "1 spans are their own ancestors"),
    (("spans",), [], "spans: expected spans, got none"),
]


@pytest.mark.parametrize(("path", "value", "says"), BROKEN_DUMPS)
def test_a_broken_span_refuses_its_trace_and_no_other(store, tmp_path, path, value, says):
    """The error names file, record, span and field, and nothing of that trace is imported."""
    content = [dump_record(0), changed(dump_record(1), path, value), dump_record(2)]
    report = admit(store, write(tmp_path / "a.json", content), "openinference")
    assert (report.imported, len(report.errors)) == (2, 1)
    assert report.errors[0].startswith("a.json: record 1: ")
    assert says in report.errors[0]
    assert {p.manifest["source"]["record_id"] for p in store.packs()} == {trace_id(0), trace_id(2)}


SPAN = ("resourceSpans", 0, "scopeSpans", 0, "spans", 1)
BROKEN_OTLP = [
    ((*SPAN, "startTimeUnixNano"), ..., "startTimeUnixNano: expected nanoseconds"),
    ((*SPAN, "startTimeUnixNano"), "0", "startTimeUnixNano: expected nanoseconds"),
    ((*SPAN, "spanId"), "nope", "spanId: expected 16 hexadecimal characters"),
    ((*SPAN, "attributes", 0, "value"), {"intValue": "many"}, "intValue: expected an integer"),
    ((*SPAN, "attributes", 0, "key"), 3, "key: expected text"),
    ((*SPAN, "events"), 3, "events: expected a list"),
    ((*SPAN, "parentSpanId"), f"{2:016x}", "1 spans are their own ancestors"),
]


@pytest.mark.parametrize(("path", "value", "says"), BROKEN_OTLP)
def test_a_broken_otlp_span_refuses_its_trace(store, tmp_path, path, value, says):
    """Likewise, and the field says where in the export it stands."""
    content = [otlp_record(0), changed(otlp_record(1), path, value), otlp_record(2)]
    report = admit(store, write(tmp_path / "a.jsonl", content, lines=True), "otlp")
    assert (report.imported, len(report.errors)) == (2, 1)
    assert report.errors[0].startswith("a.jsonl: record 1: ")
    assert "spans[1]" in report.errors[0] or "parent" in report.errors[0]
    assert says in report.errors[0]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda lines: [lines[0], lines[1][:-40], lines[2]], "record 1: JSON: malformed"),
        (lambda lines: [lines[0], lines[1].replace(trace_id(1), "?"), lines[2]],
         "record 1: resourceSpans[0].scopeSpans[0].spans[0].traceId: expected 32"),
        (lambda lines: [lines[0], "7", lines[2]], "record 1: the record: expected an object"),
        (lambda lines: [lines[0], lines[1], lines[2].replace('"spans":', '"spans": 3, "x":')],
         "record 2: resourceSpans[0].scopeSpans[0].spans: expected a list, got 3"),
    ],
)  # fmt: skip
def test_a_record_that_may_hide_spans_of_any_trace_refuses_the_file(store, tmp_path, damage, says):
    """A run without some of its spans would look whole: so nothing is imported."""
    lines = [json.dumps(otlp_record(n)) for n in range(3)]
    path = write(tmp_path / "a.jsonl", "\n".join(damage(lines)).encode())
    with pytest.raises(IngestError, match="nothing was imported") as caught:
        admit(store, path, "otlp")
    assert f"a.jsonl: {says}" in str(caught.value)
    assert not store.root.exists()


def test_a_malformed_line_among_single_spans_refuses_the_file(store, tmp_path):
    """The same for dumps of single spans; beside records that stand for themselves it does not."""
    lines = [json.dumps(dumped(0, 1, "a", {}, parent=None)), "{", json.dumps(dump_record(1))]
    with pytest.raises(IngestError, match=r"record 1: JSON: malformed .*nothing was imported"):
        admit(store, write(tmp_path / "a.jsonl", "\n".join(lines).encode()), "openinference")
    report = admit(store, write(tmp_path / "b.jsonl", "\n".join(lines[1:]).encode()),
                   "openinference")  # fmt: skip
    assert (report.imported, len(report.errors)) == (1, 1)


# -- what content may be kept ----------------------------------------------------------------------


@pytest.mark.parametrize("capture", ["digests", "off"])
def test_without_content_no_attribute_brings_it_in(store, tmp_path, capture):
    """Neither messages, nor arguments, nor an attribute nobody knows; numbers and names stay."""
    record = dump_record()
    record["spans"][1]["attributes"] |= {"who.knows": "secret plan", "n": 3}
    record["spans"][2]["span_events"][0]["attributes"]["exception.message"] = "secret plan"
    record["spans"][0]["attributes"]["input.value"] = "secret plan"
    path = write(tmp_path / "a.json", [record])
    pack, rows = only(store, path, "openinference", redactor=redactor(capture))
    assert pack.frame("content").height == 0
    text = json.dumps([[r["attributes"], r["events"]] for r in rows.values()])
    assert "secret plan" not in text
    assert "order 7" not in text
    kept = json.loads(rows[f"{2:016x}"]["attributes"])
    assert (kept["n"], kept["llm.model_name"]) == (3, "gpt-9")
    assert kept["towerkit.content_dropped"] == 6
    assert pack.frame("costs")["input_tokens"].to_list() == [100]


# -- emitters --------------------------------------------------------------------------------------

COUNTS = ("input", "output", "cache_read", "cache_write", "reasoning")
EMITTERS = {
    "current conventions": (
        {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "anthropic",
         "gen_ai.request.model": "m", "gen_ai.response.model": "m-1", "gen_ai.response.id": "r",
         "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 2,
         "gen_ai.usage.cache_read.input_tokens": 3, "gen_ai.usage.cache_write.input_tokens": 4,
         "gen_ai.usage.reasoning.output_tokens": 1, "gen_ai.response.finish_reasons": ["end_turn"],
         "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"hi"}]}]'},
        {"counts": (10, 2, 3, 4, 1), "provider": "anthropic", "finish": "end_turn", "id": "r"}),
    "older conventions": (
        {"gen_ai.operation.name": "chat", "gen_ai.system": "openai", "gen_ai.request.model": "m",
         "gen_ai.usage.prompt_tokens": 10, "gen_ai.usage.completion_tokens": 2,
         "gen_ai.usage.cache_creation.input_tokens": 4},
        {"counts": (10, 2, None, 4, None), "provider": "openai"}),
    "OpenInference": (
        {"openinference.span.kind": "LLM", "llm.model_name": "m", "llm.system": "openai",
         "llm.token_count.prompt": 10, "llm.token_count.completion": 2,
         "llm.token_count.prompt_details.cache_read": 3,
         "llm.token_count.prompt_details.cache_write": 4,
         "llm.token_count.completion_details.reasoning": 1,
         "llm.input_messages.0.message.role": "user",
         "llm.input_messages.0.message.content": "hi"},
        {"counts": (10, 2, 3, 4, 1), "provider": "openai"}),
    "OpenLLMetry": (
        {"llm.request.type": "chat", "gen_ai.system": "OpenAI", "gen_ai.request.model": "m",
         "gen_ai.usage.prompt_tokens": 10, "gen_ai.usage.completion_tokens": 2,
         "llm.usage.total_tokens": 12, "gen_ai.usage.reasoning_tokens": 1,
         "gen_ai.prompt.0.role": "user", "gen_ai.prompt.0.content": "hi",
         "gen_ai.completion.0.finish_reason": "tool_call"},
        {"counts": (10, 2, None, None, 1), "provider": "OpenAI", "finish": "tool_call"}),
    "Vercel AI SDK": (
        {"ai.operationId": "ai.generateText.doGenerate", "ai.model.id": "m",
         "ai.model.provider": "openai.chat", "ai.usage.promptTokens": 10,
         "ai.usage.completionTokens": 2, "ai.usage.cachedInputTokens": 3,
         "ai.response.finishReason": "stop", "ai.response.id": "r",
         "ai.prompt.messages": '[{"role":"user","content":"hi"}]'},
        {"counts": (10, 2, 3, None, None), "provider": "openai.chat", "finish": "stop", "id": "r"}),
    "pydantic-ai": (
        {"gen_ai.operation.name": "chat", "gen_ai.system": "openai", "gen_ai.request.model": "m",
         "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 2,
         "gen_ai.usage.details.cache_read_tokens": 3, "gen_ai.usage.details.reasoning_tokens": 1,
         "all_messages_events": '[{"role":"user","content":"hi"}]'},
        {"counts": (10, 2, 3, None, 1), "provider": "openai"}),
    "Google ADK": (
        {"gen_ai.system": "gcp.vertex.agent", "gen_ai.request.model": "m",
         "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 2,
         "gcp.vertex.agent.llm_request": '{"contents": [{"role": "user"}]}'},
        {"counts": (10, 2, None, None, None), "provider": "gcp.vertex.agent"}),
    "any-agent": (
        {"gen_ai.operation.name": "call_llm", "gen_ai.request.model": "m",
         "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 2,
         "gen_ai.input.messages": '[{"role":"user","content":"hi"}]', "gen_ai.output": "yes"},
        {"counts": (10, 2, None, None, None), "provider": None}),
}  # fmt: skip


@pytest.mark.parametrize("emitter", EMITTERS)
def test_every_emitter_comes_to_the_same_columns(store, tmp_path, emitter):
    """A model call with its tokens, model, provider, request, and its own attributes beside."""
    attributes, expected = EMITTERS[emitter]
    pack, call, attempt = one(store, tmp_path, attributes)
    assert (call["kind"], call["gen_ai_operation_name"]) == ("call", "chat")
    found = tuple(attempt[f"gen_ai_usage_{c}_tokens"] for c in COUNTS)
    assert found == expected["counts"]
    assert attempt["gen_ai_request_model"] == "m"
    assert attempt["gen_ai_provider_name"] == expected["provider"]
    assert attempt["gen_ai_response_finish_reason"] == expected.get("finish")
    assert attempt["gen_ai_response_id"] == expected.get("id")
    kept = json.loads(call["attributes"])
    assert {k: kept[k] for k in attributes} == attributes
    if "older" not in emitter:
        assert call["request_digest"] in pack.bodies


TOOLS = {
    "conventions": {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t",
                    "gen_ai.tool.call.id": "c", "gen_ai.tool.call.arguments": '{"a": 1}',
                    "gen_ai.tool.call.result": '{"b": 2}'},
    "OpenInference": {"openinference.span.kind": "TOOL", "tool.name": "t", "tool_call.id": "c",
                      "input.value": '{"a": 1}', "output.value": '{"b": 2}'},
    "OpenLLMetry": {"traceloop.span.kind": "tool", "gen_ai.tool.name": "t",
                    "gen_ai.tool.call.id": "c", "traceloop.entity.input": '{"a": 1}',
                    "traceloop.entity.output": '{"b": 2}'},
    "Vercel AI SDK": {"ai.operationId": "ai.toolCall", "ai.toolCall.name": "t",
                      "ai.toolCall.id": "c", "ai.toolCall.args": '{"a": 1}',
                      "ai.toolCall.result": '{"b": 2}'},
    "Google ADK": {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t",
                   "gen_ai.tool.call.id": "c", "gcp.vertex.agent.tool_call_args": '{"a": 1}',
                   "gcp.vertex.agent.tool_response": '{"b": 2}'},
    "pydantic-ai, older": {"gen_ai.tool.name": "t", "gen_ai.tool.call.id": "c",
                           "tool_arguments": '{"a": 1}', "tool_response": '{"b": 2}'},
}  # fmt: skip


@pytest.mark.parametrize("emitter", TOOLS)
def test_every_emitters_tool_call_has_its_name_arguments_and_result(store, tmp_path, emitter):
    """Under whatever names they stand."""
    pack, call, attempt = one(store, tmp_path, TOOLS[emitter])
    assert (call["gen_ai_operation_name"], call["gen_ai_tool_name"]) == ("execute_tool", "t")
    assert call["gen_ai_tool_call_id"] == "c"
    assert pack.content(call["request_digest"]) == {"a": 1}
    assert pack.content(attempt["response_digest"]) == {"b": 2}


def test_older_messages_in_events_are_the_request(store, tmp_path):
    """Span events with content, as the conventions had them first."""
    events = [
        {"name": "gen_ai.user.message", "timestamp": START, "attributes": {"content": "hi"}},
        {"name": "gen_ai.choice", "timestamp": START, "attributes": {"message": "yes"}},
    ]
    pack, call, attempt = one(
        store, tmp_path, {"gen_ai.operation.name": "chat"}, span_events=events
    )
    (digest,) = pack.content(call["request_digest"])["messages"]
    assert pack.content(digest)["content"] == "hi"
    assert pack.content(attempt["response_digest"])[0]["message"] == "yes"


# -- counted once ----------------------------------------------------------------------------------

CHAT = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 10, "gen_ai.usage.output_tokens": 2}  # fmt: skip


def charged(pack):
    return pack.frame("costs")["input_tokens"].to_list()


def test_of_nested_model_spans_the_inner_one_counts(store, tmp_path):
    """ADK's call_llm around generate_content: two spans, one call, both with their numbers."""
    spans = [dumped(0, 1, "root", {}, parent=None, took_ms=200),
             dumped(0, 2, "call_llm", {k: v for k, v in CHAT.items() if "operation" not in k}),
             dumped(0, 3, "generate", CHAT, parent=2, at_ms=1, took_ms=90)]  # fmt: skip
    pack, rows = only(store, write(tmp_path / "a.json", spans), "openinference")
    assert charged(pack) == [10]
    outer, inner = rows[f"{2:016x}"], rows[f"{3:016x}"]
    assert (outer["kind"], outer["gen_ai_usage_input_tokens"]) == ("step", 10)
    assert inner["kind"] == "call"


def test_two_spans_with_one_answer_are_one_call(store, tmp_path):
    """An SDK's own span beside an instrumentation's: the same response id, counted once."""
    same = {**CHAT, "gen_ai.response.id": "r1"}
    spans = [dumped(0, 1, "root", {}, parent=None, took_ms=200), dumped(0, 2, "chat", same),
             dumped(0, 3, "messages", same, at_ms=5),
             dumped(0, 4, "chat", {**CHAT, "gen_ai.response.id": "r2"}, at_ms=50)]  # fmt: skip
    pack, rows = only(store, write(tmp_path / "a.json", spans), "openinference")
    assert charged(pack) == [10, 10]
    first, second = rows[f"{2:016x}"], rows[f"{3:016x}"]
    assert sorted([first["kind"], second["kind"]]) == ["call", "step"]
    twin = first if first["kind"] == "step" else second
    other = second if twin is first else first
    assert json.loads(twin["attributes"])["towerkit.same_as"] == other["span_id"]


def test_what_an_agent_adds_up_is_not_counted_again(store, tmp_path):
    """Sums on an agent's span are shown and not charged; without calls below they are charged."""
    agent = {"openinference.span.kind": "AGENT", "llm.token_count.prompt": 20,
             "llm.token_count.completion": 4,
             "gen_ai.aggregated_usage.input_tokens": 20}  # fmt: skip
    spans = [dumped(0, 1, "root", {}, parent=None, took_ms=300),
             dumped(0, 2, "agent", agent, took_ms=200), dumped(0, 3, "chat", CHAT, parent=2),
             dumped(0, 4, "chat", CHAT, parent=2, at_ms=100),
             dumped(0, 5, "sealed agent", agent, at_ms=210)]  # fmt: skip
    pack, rows = only(store, write(tmp_path / "a.json", spans), "openinference")
    assert sorted(charged(pack)) == [10, 10, 20]
    assert rows[f"{2:016x}"]["gen_ai_usage_input_tokens"] == 20
    assert pack.frame("spans").filter(kind="attempt")["gen_ai_usage_input_tokens"].sum() == 20


@pytest.mark.parametrize("count", [-1, "many", 1.5, 10**13, True, None])
def test_a_count_that_is_none_is_kept_and_not_counted(store, tmp_path, count):
    """Damage never enters the columns; the attribute says what stood there."""
    pack, call, _ = one(store, tmp_path, {**CHAT, "gen_ai.usage.input_tokens": count})
    assert charged(pack) == [None]
    assert json.loads(call["attributes"]).get("gen_ai.usage.input_tokens") == count


def test_recorded_dollars_are_nanodollars_and_zero_is_unknown(store, tmp_path):
    """In one attribute or in parts; a price of 0 for tokens that were used is no price."""
    for n, (more, expected) in enumerate((
        ({"operation.cost": 0.0028149}, 2_814_900),
        ({"cost_prompt": 0.0001144, "cost_completion": 0.0}, 114_400),
        ({"gen_ai.usage.cost": 0.0}, None),
    )):  # fmt: skip
        pack, _, _ = one(Store(tmp_path / str(n)), tmp_path, CHAT | more)
        assert pack.frame("costs")["cost_nanousd"].to_list() == [expected]

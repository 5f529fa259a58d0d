"""Recorded spans of real agents, where they are present: recounted from the files themselves."""

from __future__ import annotations

import json
import lzma
from collections import Counter

import pytest
from ingest_samples import admit

from towerkit.packs.store import Store

FILES = {
    "otel_any_agent/traces.jsonl.xz": 100,
    "otel_strands_live/adk_live_spans.json": 1,
    "otel_strands_live/openai_agents_genai_live_spans.json": 1,
    "otel_strands_live/pydantic_ai_live_spans.json": 1,
    "trail/gaia_traces.jsonl.xz": 56,
}
INPUT = ("gen_ai.usage.input_tokens", "llm.token_count.prompt")
OUTPUT = ("gen_ai.usage.output_tokens", "llm.token_count.completion")


def recorded(path):
    """Return the lists of spans of a file, each span once, read without towerkit."""
    data = path.read_bytes()
    text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode()
    content = [json.loads(x) for x in text.splitlines()] if ".jsonl" in path.name else [
        {"spans": json.loads(text)}
    ]  # fmt: skip

    def flat(spans):
        for span in spans:
            yield span
            yield from flat(span.get("child_spans") or ())

    # any-agent has the same trace in several versions: what tells runs apart is the record.
    return [list({_id(s): s for s in flat(r["spans"])}.values()) for r in content]


def _id(span):
    found = span.get("span_id") or span["context"]["span_id"]
    return f"{found:016x}" if isinstance(found, int) else found


def _attributes(span):
    return span.get("attributes") or span.get("span_attributes") or {}


def _failed(span):
    status = span.get("status") or {}
    code = span.get("status_code") or status.get("status_code") or status.get("code")
    return code.lower() == "error"


def _counted(span, names):
    return next((int(_attributes(span)[n]) for n in names if n in _attributes(span)), None)


@pytest.fixture(scope="module", params=FILES)
def admitted(request, real_data, tmp_path_factory):
    path = real_data / request.param
    if not path.is_file():
        pytest.skip(f"{request.param} is not here")
    store = Store(tmp_path_factory.mktemp("store"))
    report = admit(store, path, "openinference", jobs=2)
    packs = store.packs()
    rows = {}
    for pack in packs:
        for row in pack.frame("spans").to_dicts():
            rows[pack.manifest["source"]["record"], row["span_id"]] = row
    return request.param, report, packs, rows, recorded(path)


def test_every_record_is_admitted_and_verifies(admitted):
    """No error, as many runs as records, and each pack holds."""
    name, report, packs, _, records = admitted
    assert (report.errors, report.imported) == ((), FILES[name])
    assert len(packs) == len(records) == FILES[name]
    for pack in packs[::5]:
        pack.verify()


def test_every_span_keeps_its_tokens_its_error_and_its_attributes(admitted):
    """Span by span: the count is on it or on its attempt, the error is an error, all names stay."""
    _, _, _, rows, records = admitted
    attempts = {(t, r["parent_span_id"]): r for (t, _), r in rows.items() if r["kind"] == "attempt"}
    seen = Counter()
    for index, span in ((i, s) for i, record in enumerate(records) for s in record):
        key = index, _id(span)
        row = rows[key]
        spent = attempts.get(key, row)
        for column, names in (("input", INPUT), ("output", OUTPUT)):
            assert spent[f"gen_ai_usage_{column}_tokens"] == _counted(span, names)
            seen[column] += _counted(span, names) or 0
        assert (row["status"] == "error") is _failed(span)
        seen["errors"] += _failed(span)
        given = {k for k, v in _attributes(span).items() if v is not None}
        assert given <= set(json.loads(row["attributes"]))
    columns = [r for r in rows.values() if r["gen_ai_usage_input_tokens"] is not None]
    assert sum(r["gen_ai_usage_input_tokens"] for r in columns) == seen["input"] > 0


def test_parents_are_the_files(admitted):
    """Whoever has a parent in the file has it in the pack."""
    _, _, _, rows, records = admitted
    for index, record in enumerate(records):
        ids = {_id(s) for s in record}
        for span in record:
            parent = span.get("parent_span_id") or (span.get("parent") or {}).get("span_id")
            parent = f"{parent:016x}" if isinstance(parent, int) else parent
            if parent in ids:
                assert rows[index, _id(span)]["parent_span_id"] == parent


def test_charges_are_the_innermost_model_calls(real_data, tmp_path):
    """Charged is what spans called LLM say, without the sums their agents carry: TRAIL and ADK."""
    for name, innermost in (
        ("trail/gaia_traces.jsonl.xz",
         lambda s: _attributes(s).get("openinference.span.kind") == "LLM"),
        ("otel_strands_live/adk_live_spans.json", lambda s: s["name"].startswith("generate")),
    ):  # fmt: skip
        path = real_data / name
        if not path.is_file():
            pytest.skip(f"{name} is not here")
        store = Store(tmp_path / name.split("/")[0])
        admit(store, path, "openinference")
        own = [s for record in recorded(path) for s in record if innermost(s)]
        for column, names in (("input_tokens", INPUT), ("output_tokens", OUTPUT)):
            charged = sum(p.frame("costs")[column].sum() for p in store.packs())
            assert charged == sum(_counted(s, names) or 0 for s in own) > 0


def test_recorded_costs_are_the_files(real_data, tmp_path):
    """any-agent writes dollars in two parts: nano-dollars sum to theirs."""
    path = real_data / "otel_any_agent/traces.jsonl.xz"
    if not path.is_file():
        pytest.skip("otel_any_agent is not here")
    store = Store(tmp_path / "store")
    admit(store, path, "openinference")
    expected = 0
    for span in (s for record in recorded(path) for s in record):
        of = _attributes(span)
        expected += sum(
            round(of[n] * 1e9) for n in (
                "gen_ai.usage.input_cost", "gen_ai.usage.output_cost", "cost_prompt",
                "cost_completion",
            ) if n in of
        )  # fmt: skip
    assert sum(p.frame("costs")["cost_nanousd"].sum() for p in store.packs()) == expected > 0

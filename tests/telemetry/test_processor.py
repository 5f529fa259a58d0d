"""Spans of instrumented libraries in the open run: one tree, redacted, counted once."""

from __future__ import annotations

import gc
import json
import threading

import openai
import pytest
from openinference.instrumentation.openai import OpenAIInstrumentor as OpenInference
from opentelemetry.context import Context
from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor as GenAI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Status, StatusCode, set_span_in_context

from tests.agents import make_tower
from towerkit.core.types import Response, Usage
from towerkit.faults import FaultServer
from towerkit.faults import Status as Answer
from towerkit.packs.store import Store
from towerkit.privacy.redact import Redactor
from towerkit.reliability.policy import Policy
from towerkit.runtime import models
from towerkit.runtime.tower import Tower
from towerkit.telemetry.recover import recover

CHAT = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o", "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 2}  # fmt: skip


@pytest.fixture
def tower(tmp_path):
    return Tower(store=tmp_path, policy=Policy(backoff_cap_s=0.001),
                 redactor=Redactor(bytes(32), kid="t"))  # fmt: skip


def tracer_of(tower):
    provider = TracerProvider()
    provider.add_span_processor(tower.span_processor())
    return provider.get_tracer("some.library", "2.0")


def rows_of(run):
    run.pack.verify()
    counts = run.pack.manifest["spans"]
    rows = run.pack.frame("spans").sort("seq").to_dicts()
    assert (counts["started"], counts["dropped"]) == (len(rows), 0)
    assert counts["ended"] + counts["aborted"] == len(rows)
    return rows


def named(rows, name, kind=None):
    (row,) = [r for r in rows if r["name"] == name and kind in {None, r["kind"]}]
    return row


# -- in the run ------------------------------------------------------------------------------------


def test_spans_and_guarded_calls_make_one_tree(tower):
    """Instrumented agent → step → guarded tool: each under what was open around it."""
    tracer = tracer_of(tower)
    with tower.run("desk") as run:
        with tracer.start_as_current_span("agent run", attributes={"gen_ai.agent.name": "a"}) as s:
            with run.step("look"):
                run.tool(lambda: 1, idempotent=True, name="look_up")
            with tracer.start_as_current_span("chat gpt-4o", attributes=CHAT):
                pass
        own = f"{s.get_span_context().span_id:016x}"
    rows = rows_of(run)
    agent, step, tool = (named(rows, n, k) for n, k in (
        ("agent run", "step"), ("look", "step"), ("execute_tool look_up", "call")))  # fmt: skip
    assert agent["span_id"] == own
    assert agent["parent_span_id"] == rows[0]["span_id"]
    assert step["parent_span_id"] == agent["span_id"]
    assert tool["parent_span_id"] == step["span_id"]
    chat = named(rows, "chat gpt-4o", "call")
    attempt = named(rows, "chat gpt-4o", "attempt")
    assert chat["parent_span_id"] == agent["span_id"]
    assert attempt["gen_ai_usage_input_tokens"] == 10
    kept = json.loads(chat["attributes"])
    assert (kept["otel.emitter"], kept["otel.scope.version"]) == ("some.library", "2.0")
    assert {k: kept[k] for k in CHAT} == CHAT
    (cost,) = run.pack.frame("costs").to_dicts()
    assert cost["cost_nanousd"] > 0
    assert cost["price_ref"].startswith("genai-prices")
    assert tower.span_processor().counts == {"taken": 2, "outside": 0, "late": 0, "failed": 0}


def test_content_and_messages_of_errors_are_redacted_before_they_are_kept(tower, tmp_path):
    """Name, attribute, event, status: no address and no key in any byte of the store."""
    tracer = tracer_of(tower)
    secret = "ann@example.com sk-proj-abcdefghijklmnopqrstuvwxyz0123456789"
    with tower.run("desk") as run:
        with tracer.start_as_current_span(f"chat {secret}", attributes={
            **CHAT, "gen_ai.input.messages": json.dumps([{"role": "user", "content": secret}]),
            "x": [secret], "llm.invocation_parameters": json.dumps({"api_key": "hunter2hunter2"}),
        }) as span:  # fmt: skip
            span.add_event("noted", {"what": secret})
            span.record_exception(ValueError(secret))
            span.set_status(Status(StatusCode.ERROR, secret))
        journal = next(tmp_path.glob("journal/*")).read_bytes()
    rows = rows_of(run)
    written = [journal, *run.pack.bodies.values(), json.dumps(rows, default=str).encode()]
    for word in (b"ann@example.com", b"sk-proj-abc", b"hunter2hunter2"):
        assert not any(word in data for data in written), word
    call = next(r for r in rows if r["kind"] == "call")
    assert (call["status"], call["error_type"]) == ("error", "ValueError")


@pytest.mark.parametrize("capture", ["off", "digests"])
def test_opt_out_wins(tmp_path, capture):
    """With content off no byte of it is kept, whatever an instrumentation brings."""
    tower = Tower(store=tmp_path, redactor=Redactor(bytes(32), kid="t", capture=capture))
    tracer = tracer_of(tower)
    with tower.run("desk") as run, tracer.start_as_current_span("s", attributes={
        **CHAT, "input.value": "secret plan", "unheard.of": "secret plan"}) as span:  # fmt: skip
        span.add_event("gen_ai.user.message", {"content": "secret plan"})
    rows = rows_of(run)
    assert "secret plan" not in json.dumps(rows, default=str)
    assert run.pack.frame("content").height == 0
    assert named(rows, "s", "attempt")["gen_ai_usage_input_tokens"] == 10


def test_a_span_open_at_the_end_is_aborted_and_its_end_is_counted(tower):
    """Ended once: with the run, not again when its own end comes."""
    tracer = tracer_of(tower)
    with tower.run("desk") as run:
        span = tracer.start_span("left open")
    rows = rows_of(run)
    assert named(rows, "left open")["status"] == "aborted"
    span.end()
    assert tower.span_processor().counts["late"] == 1


def test_outside_of_any_run_spans_are_counted_and_said_once(tower, caplog):
    """Not silently: a model call that is in no pack is a line in the log."""
    tracer = tracer_of(tower)
    for _ in range(3):
        with tracer.start_as_current_span("chat", attributes=CHAT):
            pass
    assert tower.span_processor().counts["outside"] == 3
    assert caplog.text.count("outside of any run") == 1
    tower.span_processor().shutdown()
    assert "'outside': 3" in caplog.text
    assert not tower.store.packs()


def test_a_thread_that_knows_only_the_span_is_in_its_run(tower):
    """The parent tells the run where the context does not."""
    tracer = tracer_of(tower)
    with tower.run("desk") as run, tracer.start_as_current_span("outer") as outer:
        context = set_span_in_context(outer, Context())

        def work():
            with tracer.start_as_current_span("inner", context=context):
                pass

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    rows = rows_of(run)
    assert named(rows, "inner")["parent_span_id"] == named(rows, "outer")["span_id"]


def test_runs_side_by_side_keep_their_spans_apart(tower):
    """Two threads, two runs, one processor."""
    tracer, runs = tracer_of(tower), {}
    both = threading.Barrier(2)

    def work(name):
        with tower.run(name) as run:
            both.wait()
            for n in range(50):
                with tracer.start_as_current_span(f"{name} {n}"):
                    pass
        runs[name] = run

    threads = [threading.Thread(target=work, args=(n,)) for n in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, run in runs.items():
        spans = [r["name"] for r in rows_of(run) if r["kind"] == "step"]
        assert spans == [f"{name} {n}" for n in range(50)]
    assert tower.span_processor()._runs == {}
    assert tower.span_processor()._open == {}


class Evil(str):
    """Text that raises when it is looked at."""

    __slots__ = ()

    def __str__(self):
        raise RuntimeError("boom")

    strip = startswith = __str__


def test_nothing_raises_into_the_agent(tower, caplog, monkeypatch):
    """Whatever goes wrong inside: the agent's span is its own, ours is kept bare and counted."""
    tracer = tracer_of(tower)
    monkeypatch.setattr(
        "towerkit.telemetry.processor.fill", lambda *_: (_ for _ in ()).throw(RuntimeError("boom"))
    )
    with tower.run("desk") as run, tracer.start_as_current_span("x", attributes={"a": "secret"}):
        pass
    row = named(rows_of(run), "x")
    assert (row["attributes"], row["status"]) == ("{}", "ok")
    monkeypatch.setattr(tower.span_processor(), "_where", lambda: 1 / 0)
    with tracer.start_as_current_span("y"):
        pass
    assert tower.span_processor().counts["failed"] == 2
    assert caplog.text.count("could not be") == 1


@pytest.mark.parametrize("value", [
    {"a": {"b": (1, b"\xff", None)}}, 2**80, float("nan"), Evil("x"), "\ud800", [1, "a", None],
    "x" * 100_000,
])  # fmt: skip
def test_odd_attributes_are_kept_or_named(tower, value):
    """Nested, too large, not finite, hostile, not Unicode: the span is there."""
    tracer = tracer_of(tower)
    with tower.run("desk") as run:
        span = tracer.start_span("x")
        span._attributes["odd"] = value
        span.end()
    assert named(rows_of(run), "x")["status"] == "ok"


def test_a_killed_run_is_recovered_with_its_instrumented_spans(tower, tmp_path):
    """The journal has them: recovered, each model call has its attempt and counts once."""
    tracer = tracer_of(tower)
    run = tower.run("desk").__enter__()
    for n in (1, 1, 2):
        with tracer.start_as_current_span(
            "chat", attributes=CHAT | {"gen_ai.response.id": f"r{n}"}
        ):
            pass
    run.recorder.journal.forget()  # as a kill leaves it
    (found,) = recover(Store(tmp_path), salt_seed=bytes(32))
    found.pack.verify()
    assert found.pack.frame("costs")["input_tokens"].to_list() == [10, 10]
    assert found.pack.frame("spans").filter(kind="attempt").height == 2
    counts = found.pack.manifest["spans"]
    assert counts["started"] == found.pack.frame("spans").height
    del run
    gc.collect()


def test_simulated_runs_keep_simulated_time(tmp_path):
    """On a virtual clock an instrumented span takes the run's time, not the machine's."""
    tower = make_tower(tmp_path)
    tracer = tracer_of(tower)
    with tower.run("desk") as run, tracer.start_as_current_span("x"):
        run.env.sleep(2.0)
    row = named(rows_of(run), "x")
    assert (row["duration_ns"], row["simulated"]) == (2 * 10**9, True)


# -- counted once ----------------------------------------------------------------------------------


def costs(run):
    return sorted(run.pack.frame("costs")["input_tokens"].to_list())


@pytest.mark.parametrize("response_id", ["r1", None])
def test_a_call_inside_a_guarded_attempt_is_the_guards(tmp_path, response_id):
    """An SDK instrumented below Run.model: the same answer id, or the same tokens in that time."""
    usage, tracers = Usage(input_tokens=10, output_tokens=2), []

    def complete(request):
        more = {} if response_id is None else {"gen_ai.response.id": response_id}
        with tracers[0].start_as_current_span("chat gpt-4o", attributes=CHAT | more):
            pass
        return Response(content="x", usage=usage, response_id=response_id)

    model = models.function(complete, name="gpt-4o", provider="openai")
    own = Tower(store=tmp_path, models=[model])
    tracers.append(tracer_of(own))
    with own.run("desk") as run:
        run.model([{"role": "user", "content": "x"}])
    assert costs(run) == [10]
    twin = next(r for r in rows_of(run) if "otel.emitter" in r["attributes"])
    assert twin["kind"] == "step"
    attempt = next(r for r in rows_of(run) if r["kind"] == "attempt")
    assert json.loads(twin["attributes"])["towerkit.same_as"] == attempt["span_id"]


def test_an_unguarded_call_beside_a_guarded_one_counts(tower, tmp_path):
    """Other tokens, or another time: two calls, two charges."""
    reply = Response(content="x", usage=Usage(input_tokens=10, output_tokens=2))
    own = Tower(store=tmp_path, models=[models.function(lambda r: reply, name="gpt-4o")])
    tracer = tracer_of(own)
    with own.run("desk") as run:
        run.model([{"role": "user", "content": "x"}])
        with tracer.start_as_current_span("chat", attributes=CHAT):
            pass
    assert costs(run) == [10, 10]


def test_sums_on_an_agents_span_are_ignored(tower):
    """pydantic-ai's aggregated_usage is an attribute, and nobody's tokens."""
    tracer = tracer_of(tower)
    sums = {"gen_ai.operation.name": "invoke_agent", "gen_ai.aggregated_usage.input_tokens": 20}
    with tower.run("desk") as run, tracer.start_as_current_span("agent", attributes=sums):
        for _ in range(2):
            with tracer.start_as_current_span("chat", attributes=CHAT):
                pass
    assert costs(run) == [10, 10]


# -- real instrumentations -------------------------------------------------------------------------


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize("kinds", [(GenAI,), (OpenInference,), (GenAI, OpenInference)])
def test_real_instrumentations_of_the_openai_sdk_count_once(tower, kinds, guarded):
    """Alone or together, above the guard's own client or without it: one charge."""
    provider = TracerProvider()
    provider.add_span_processor(tower.span_processor())
    instrumentors = [kind() for kind in kinds]
    for one in instrumentors:
        one.instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        with FaultServer() as server, tower.run("desk") as run:
            options = {"http_client": tower.http_client(provider="openai")} if guarded else {}
            client = openai.OpenAI(api_key="sk-x", base_url=server.openai_base_url, max_retries=0,
                                   **options)  # fmt: skip
            with client:
                said = client.chat.completions.create(
                    model="gpt-4o", messages=[{"role": "user", "content": "mail ann@example.com"}]
                )
    finally:
        for one in instrumentors:
            one.uninstrument()
    rows = rows_of(run)
    assert costs(run) == [said.usage.prompt_tokens]
    attempts = [r for r in rows if r["kind"] == "attempt"]
    assert sum(r["gen_ai_usage_input_tokens"] for r in attempts) == said.usage.prompt_tokens
    foreign = [r for r in rows if "otel.emitter" in r["attributes"] and r["kind"] != "attempt"]
    assert len(foreign) == len(kinds)
    assert tower.span_processor().counts["taken"] == len(kinds)
    assert not any(b"ann@example.com" in body for body in run.pack.bodies.values())
    assert "ann@example.com" not in json.dumps(rows, default=str)


@pytest.mark.parametrize("kind", [GenAI, OpenInference])
def test_a_real_error_is_an_error_once(tower, kind):
    """A 429 below an instrumentation: our error class on its span, its type, and no tokens."""
    provider = TracerProvider()
    provider.add_span_processor(tower.span_processor())
    one = kind()
    one.instrument(tracer_provider=provider, skip_dep_check=True)
    try:
        with FaultServer(default=Answer(code=429)) as server, tower.run("desk") as run:
            client = openai.OpenAI(api_key="sk-x", base_url=server.openai_base_url, max_retries=0)
            with client, pytest.raises(openai.RateLimitError):
                client.chat.completions.create(
                    model="gpt-4o", messages=[{"role": "user", "content": "x"}]
                )
    finally:
        one.uninstrument()
    call = next(r for r in rows_of(run) if r["kind"] == "call")
    assert (call["status"], call["error_class"]) == ("error", "rate_limited")
    assert "RateLimitError" in call["error_type"]

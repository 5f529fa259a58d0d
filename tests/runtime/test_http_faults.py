"""Every class a provider can produce, through SDKs of the agent's own: hits are attempts."""

# ruff: noqa: SIM117  nested blocks show what outlives what: server, client, run

from __future__ import annotations

import asyncio

import anthropic
import httpx2
import openai
import pytest
from google import genai
from google.genai import types

from towerkit.faults import (
    NOT_OVER_HTTP,
    CleanEnd,
    Cut,
    FaultServer,
    Reply,
    SseError,
    Status,
    scripts,
)
from towerkit.reliability.breaker import Limits
from towerkit.reliability.policy import Policy
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.runtime.control import control_of
from towerkit.runtime.tower import Tower

HELLO = [{"role": "user", "content": "hello"}]
TEXT = "It was sent on Monday and arrives on Thursday."
FORMATS = ("openai_chat", "openai_responses", "anthropic", "gemini")
# Answers that are whole, whatever is in them: the agent decides what they mean.
ANSWERS = {"output_truncated", "tool_args_invalid", "tool_unknown", "no_progress",
           "output_invalid"}  # fmt: skip
OURS = {"timeout_total"}  # the deadline is the run's, whatever the provider does
# What comes over the wire is less than what the provider did; either class is true of it.
ALSO = {
    "timeout_connect": {"timeout_read"},
    "stream_interrupted": {"timeout_read"},
    "unknown": {"upstream_5xx"},  # inside a stream, an error that no table holds
    "upstream_5xx": {"timeout_read"},  # 504 DEADLINE_EXCEEDED says so
    "request_too_large": {"invalid_request"},  # Gemini tells the size in a 400
}


def cases():
    for name in TAXONOMY:
        if name in ANSWERS | OURS or name in NOT_OVER_HTTP:
            continue
        for form, variants in scripts(name, retry_after_s=0.01, drip_s=0.05).items():
            for script in variants:
                for stream in (False, True):
                    if script.stream not in {None, stream} or script.name.startswith("finish: "):
                        continue
                    kind = "stream" if stream else "whole"
                    yield pytest.param(name, form, script, stream,
                                       id=f"{name}-{form}-{script.name}-{kind}")  # fmt: skip


class Clients:
    """SDK clients over the tower, their own retries left as the SDKs have them."""

    def __init__(self, server, http):
        self.http = http
        self.openai = openai.OpenAI(
            base_url=server.openai_base_url, api_key="test-key", http_client=self.http
        )
        self.anthropic = anthropic.Anthropic(
            base_url=server.anthropic_base_url, api_key="test-key", http_client=self.http
        )
        self.gemini = genai.Client(
            api_key="test-key",
            http_options=types.HttpOptions(base_url=server.gemini_base_url, httpx_client=self.http),
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.http.close()  # google-genai does not close a client that was given to it

    def ask(self, form, *, stream):
        """Return what the SDK returns; of a stream all it yields."""
        answer = getattr(self, f"_{form}")(stream)
        return list(answer) if stream else answer

    def _openai_chat(self, stream):
        more = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
        return self.openai.chat.completions.create(model="m-1", messages=HELLO, **more)

    def _openai_responses(self, stream):
        return self.openai.responses.create(model="m-1", input="hello", stream=stream)

    def _anthropic(self, stream):
        return self.anthropic.messages.create(
            model="m-1", messages=HELLO, max_tokens=64, stream=stream
        )

    def _gemini(self, stream):
        models = self.gemini.models
        call = models.generate_content_stream if stream else models.generate_content
        return call(model="m-1", contents="hello")


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    """SDKs that retry on their own sleep half a second and more: not in tests."""
    monkeypatch.setattr("time.sleep", lambda _: None)


def make(tmp_path, **policy):
    limits = {"attempt_timeout_s": 0.6, "backoff_cap_s": 0.001, "deadline_s": 20.0} | policy
    return Tower(store=tmp_path, policy=Policy(**limits), breaker=Limits(min_calls=20))


@pytest.mark.parametrize(("name", "form", "script", "stream"), list(cases()))
def test_a_fault_gets_its_class_and_hits_are_attempts(tmp_path, name, form, script, stream):
    """The span has the right class, and the server saw as many requests as the pack has."""
    tower = make(tmp_path)
    with FaultServer(script) as server, Clients(server, tower.http_client()) as clients:
        with tower.run("x") as run:
            try:
                clients.ask(form, stream=stream)
            except Exception as error:
                run.finish(type(error).__module__.partition(".")[0])
        hits = server.hits
    attempts = run.pack.frame("spans").filter(kind="attempt")
    assert attempts.height >= 1
    assert set(attempts["error_class"]) <= {name} | ALSO.get(name, set())
    assert attempts.height <= tower.policy.max_attempts
    if script.port == "open":
        assert hits == attempts.height
    assert run.ledger.reserved == 0
    assert run.result in {"openai", "anthropic", "google", "httpx2", "json", None}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("end", [Cut, CleanEnd, SseError])
@pytest.mark.parametrize("at", [0, 1, 2, 3, -1])
def test_a_stream_broken_at_any_chunk_is_never_a_success(tmp_path, form, end, at):
    """Cut, ended early or an error event: the call failed, and the agent is told, by any SDK."""
    if (form, end, at) == ("openai_chat", CleanEnd, -1):
        at = -3  # without only its `[DONE]` an answer has its finish reason: it is whole
    step = Reply(text=TEXT).with_(end(at_chunk=at))
    tower = make(tmp_path)
    with FaultServer(default=step) as server, Clients(server, tower.http_client()) as clients:
        with tower.run("x") as run:
            try:
                last = clients.ask(form, stream=True)[-1]
                # The responses API tells an error as data.
                run.finish(getattr(last, "type", "quiet"))
            except Exception as error:
                run.finish(f"raised {type(error).__name__}")
        hits = server.hits
    attempts = run.pack.frame("spans").filter(kind="attempt")
    assert attempts.height == hits
    assert set(attempts["status"]) == {"error"}
    assert run.result.startswith("raised ") or (form, run.result) == ("openai_responses", "error")
    assert attempts.height == 1 or at == 0 or form == "gemini"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("stream", [False, True])
def test_answers_are_equal_with_and_without_the_tower(tmp_path, form, stream):
    """What the SDK makes of an answer does not change, and the usage is on the span."""
    tower = make(tmp_path)
    seen, runs = [], []
    for http in (tower.http_client(), httpx2.Client()):
        with FaultServer(default=Reply(text=TEXT)) as server, Clients(server, http) as clients:
            with tower.run("x") as run:
                got = clients.ask(form, stream=stream)
        parts = got if stream else [got]
        seen.append([p.model_dump(exclude={"sdk_http_response"}) for p in parts])
        runs.append(run)
    attempts = runs[0].pack.frame("spans").filter(kind="attempt")
    assert attempts["gen_ai_usage_input_tokens"].to_list() == [12]
    assert attempts["gen_ai_usage_output_tokens"].to_list() == [5]
    assert attempts["gen_ai_request_model"].to_list() == ["m-1"]
    assert runs[1].pack.frame("spans").filter(kind="attempt").height == 0
    assert seen[0] == seen[1]


STATUSES = [
    ("openai_chat", "auth_failed", openai.AuthenticationError),
    ("openai_responses", "overloaded", openai.InternalServerError),
    ("anthropic", "rate_limited", anthropic.RateLimitError),
    ("anthropic", "overloaded", anthropic.APIStatusError),
]


@pytest.mark.parametrize(("form", "name", "kind"), STATUSES)
def test_the_sdk_raises_its_own_exception_of_the_last_response(tmp_path, form, name, kind):
    """Its type is the SDK's, what the tower knew is in the response, the run has the class."""
    script = scripts(name, retry_after_s=0.01)[form][0]
    tower = make(tmp_path)
    with FaultServer(script) as server, Clients(server, tower.http_client()) as clients:
        run = tower.run("x")
        with pytest.raises(kind) as caught, run:
            clients.ask(form, stream=False)
        hits = server.hits
    told = control_of(caught.value)
    assert (told.error_class, told.attempts, told.run_id) == (name, hits, run.run_id)
    assert caught.value.response.extensions["tower"] is told
    assert run.pack.manifest["error_class"] == name


@pytest.mark.parametrize("form", ["openai_chat", "anthropic"])
def test_an_sdks_own_retries_after_a_transport_error_are_no_requests(tmp_path, form):
    """The SDK tries three times, as it is made; the server is asked as often as the guard did."""
    script = scripts("stream_interrupted")[form][2]
    tower = make(tmp_path)
    kind = {"openai_chat": openai.APIConnectionError, "anthropic": anthropic.APIConnectionError}
    with FaultServer(script) as server, Clients(server, tower.http_client()) as clients:
        with tower.run("x") as run, pytest.raises(kind[form]) as caught:
            clients.ask(form, stream=False)
        first = server.hits
        with tower.run("x") as other, pytest.raises(kind[form]):
            clients.ask(form, stream=False)
        hits = server.hits
    assert first == run.pack.frame("spans").filter(kind="attempt").height == 2
    assert hits == 4 == first + other.pack.frame("spans").filter(kind="attempt").height
    assert run.pack.frame("spans").filter(kind="call").height == 1
    assert isinstance(caught.value.__cause__, httpx2.RemoteProtocolError)
    assert control_of(caught.value).error_class == "stream_interrupted"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("which", ["openai", "anthropic"])
def test_awaited_clients_do_the_same(tmp_path, which, stream):
    """A retry after a 500, then the answer; hits are attempts and the usage is counted."""
    tower = make(tmp_path)
    steps = [Status(code=500), Reply(text=TEXT)]

    async def main(server):
        if which == "openai":
            client = openai.AsyncOpenAI(base_url=server.openai_base_url, api_key="test-key",
                                        http_client=tower.ahttp_client())  # fmt: skip
            ask = client.chat.completions.create(model="m-1", messages=HELLO, stream=stream)
        else:
            client = anthropic.AsyncAnthropic(base_url=server.anthropic_base_url,
                                              api_key="test-key",
                                              http_client=tower.ahttp_client())  # fmt: skip
            ask = client.messages.create(model="m-1", messages=HELLO, max_tokens=9, stream=stream)
        async with client:
            with tower.run("x") as run:
                answer = await ask
                if stream:
                    run.finish(len([event async for event in answer]))
        return run

    with FaultServer(steps) as server:
        run = asyncio.run(main(server))
        hits = server.hits
    attempts = run.pack.frame("spans").filter(kind="attempt")
    assert hits == attempts.height == 2
    assert attempts["status"].to_list() == ["error", "ok"]
    assert run.result is None or run.result > 5


def test_google_awaited_and_openais_own_client(tmp_path):
    """google-genai on an event loop; openai's default client around the bare transport."""
    tower = make(tmp_path)

    async def gemini(server, http):
        options = types.HttpOptions(base_url=server.gemini_base_url, httpx_async_client=http)
        client = genai.Client(api_key="test-key", http_options=options)
        return await client.aio.models.generate_content(model="m-1", contents="hello")

    async def main(server):
        async with tower.ahttp_client() as http:
            with tower.run("x") as run:
                answer = await gemini(server, http)
        return run, answer

    with FaultServer([Status(code=500), Reply(text=TEXT), Status(code=500), Reply()]) as server:
        run, answer = asyncio.run(main(server))
        http = openai.DefaultHttpxClient(transport=tower.http_transport())
        with http, tower.run("x") as other:
            client = openai.OpenAI(base_url=server.openai_base_url, api_key="k", http_client=http)
            client.chat.completions.create(model="m-1", messages=HELLO)
        hits = server.hits
    assert answer.text == TEXT
    for one in (run, other):
        attempts = one.pack.frame("spans").filter(kind="attempt").sort("seq")
        assert attempts["error_class"].to_list() == ["upstream_5xx", None]
    assert hits == 4

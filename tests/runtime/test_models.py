"""Models through the real SDKs, against a local server that speaks their wire formats."""

from __future__ import annotations

import pytest

from towerkit.core.errors import UsageError
from towerkit.packs.summary import summarise
from towerkit.reliability.policy import Policy
from towerkit.runtime import models
from towerkit.runtime.tower import Tower

MESSAGES = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Where is order 7?"},
    {"role": "assistant", "content": "", "tool_calls": [
        {"id": "c1", "name": "look_up", "arguments": {"order": 7}},
        {"id": "c2", "name": "look_up", "arguments": {"order": 8}},
    ]},
    {"role": "tool", "tool_call_id": "c1", "content": "sent"},
    {"role": "tool", "tool_call_id": "c2", "content": "lost"},
]  # fmt: skip
PARAMETERS = {"type": "object", "properties": {"order": {"type": "integer"}}}
TOOLS = [{"name": "look_up", "description": "Find an order.", "parameters": PARAMETERS}]

OPENAI = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-x-2026",
    "choices": [{"index": 0, "finish_reason": "tool_calls", "message": {
        "role": "assistant", "content": None, "tool_calls": [
            {"id": "c9", "type": "function",
             "function": {"name": "look_up", "arguments": '{"order": 9}'}},
            {"id": "c10", "type": "function",
             "function": {"name": "look_up", "arguments": '{"order": '}},
        ]}}],
    "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
              "prompt_tokens_details": {"cached_tokens": 60},
              "completion_tokens_details": {"reasoning_tokens": 5}},
}  # fmt: skip
ANTHROPIC = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x-2026",
    "stop_reason": "tool_use", "stop_sequence": None,
    "content": [{"type": "text", "text": "Looking."},
                {"type": "tool_use", "id": "t1", "name": "look_up", "input": {"order": 9}}],
    "usage": {"input_tokens": 40, "output_tokens": 20, "cache_read_input_tokens": 50,
              "cache_creation_input_tokens": 10},
}  # fmt: skip


def tower_of(tmp_path, *chain):
    return Tower(store=tmp_path, models=chain, policy=Policy(backoff_cap_s=0.01))


@pytest.fixture
def openai_model(server, monkeypatch):
    """Return a model of the local server through the openai SDK."""
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    return models.parse_model(f"openai:gpt-x@{server.url}/v1")


@pytest.fixture
def anthropic_model(server, monkeypatch):
    """Return a model of the local server through the anthropic SDK."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")
    return models.parse_model(f"anthropic:claude-x@{server.url}")


def test_openai_requests_and_answers_are_translated(tmp_path, server, openai_model):
    """Tool calls go out and come back; usage keeps cached and reasoning tokens."""
    server.answers = [(200, OPENAI, {})]
    with tower_of(tmp_path, openai_model).run("x") as run:
        answer = run.model(MESSAGES, tools=TOOLS, max_tokens=64, temperature=0.0)
    path, asked = server.asked[0]
    assert path == "/v1/chat/completions"
    assert asked["max_tokens"] == 64
    assert asked["tools"][0]["function"]["name"] == "look_up"
    assert asked["messages"][2]["tool_calls"][0]["function"]["arguments"] == '{"order":7}'
    assert asked["messages"][3] == {"role": "tool", "tool_call_id": "c1", "content": "sent"}
    assert answer.tool_calls[0].arguments == {"order": 9}
    assert answer.tool_calls[1].raw == '{"order": '
    assert (answer.model, answer.finish_reason) == ("gpt-x-2026", "tool_calls")
    row = run.pack.frame("costs").to_dicts()[0]
    used = [row[f"{k}_tokens"] for k in ("input", "output", "cache_read", "reasoning")]
    assert used == [100, 20, 60, 5]
    assert row["cost_nanousd"] is None


def test_anthropic_requests_and_answers_are_translated(tmp_path, server, anthropic_model):
    """The system text is apart, tool results are one user turn, input counts cached tokens."""
    server.answers = [(200, ANTHROPIC, {})]
    with tower_of(tmp_path, anthropic_model).run("x") as run:
        answer = run.model(MESSAGES, tools=TOOLS, max_tokens=64)
    _, asked = server.asked[0]
    assert asked["system"] == "Be short."
    assert [m["role"] for m in asked["messages"]] == ["user", "assistant", "user"]
    assert [b["tool_use_id"] for b in asked["messages"][2]["content"]] == ["c1", "c2"]
    assert asked["tools"][0]["input_schema"]["type"] == "object"
    assert answer.content == "Looking."
    assert answer.tool_calls[0].arguments == {"order": 9}
    row = run.pack.frame("costs").to_dicts()[0]
    assert [row["input_tokens"], row["cache_read_tokens"], row["cache_write_tokens"]] == [
        100,
        50,
        10,
    ]


def test_the_guard_is_the_only_retry_owner(tmp_path, server, openai_model, anthropic_model):
    """Hits on the server equal attempts in the pack, retries and the fallback included."""
    busy = {"error": {"type": "overloaded_error", "message": "busy"}}
    server.answers = [(503, busy, {})] * 3 + [(200, ANTHROPIC, {})]
    with tower_of(tmp_path, openai_model, anthropic_model).run("x") as run:
        answer = run.model(MESSAGES[:2])
    assert (answer.tier, answer.fallback_reason, answer.provider) == (1, "overloaded", "anthropic")
    attempts = run.pack.frame("spans").filter(kind="attempt")
    assert attempts.height == len(server.asked) == 4
    assert attempts["error_class"].to_list() == ["overloaded"] * 3 + [None]
    assert summarise(run.pack).retries == 2


@pytest.mark.parametrize(
    ("status", "body", "headers", "expected", "hits"),
    [
        (401, {"error": {"code": "invalid_api_key"}}, {}, "auth_failed", 1),
        (429, {"error": {"code": "insufficient_quota"}}, {}, "quota_exhausted", 1),
        (429, {"error": {"code": "rate_limit_exceeded"}}, {"retry-after": "86400"},
         "rate_limited", 1),
        (429, {"error": {"code": "rate_limit_exceeded"}}, {"retry-after-ms": "1"},
         "rate_limited", 3),
        (500, {"error": {"message": "oops"}}, {}, "upstream_5xx", 3),
        (400, {"error": {"code": "context_length_exceeded"}}, {}, "context_too_long", 1),
    ],
)  # fmt: skip
def test_provider_errors_come_back_as_they_were(
    tmp_path, server, openai_model, status, body, headers, expected, hits
):
    """The SDK's own exception reaches the agent, classified, after the tries its row allows."""
    server.answers = [(status, body, headers)] * 5
    with (
        pytest.raises(Exception, match=str(status)) as caught,
        tower_of(tmp_path, openai_model).run("x") as run,
    ):
        run.model(MESSAGES[:2])
    assert type(caught.value).__module__.startswith("openai")
    assert caught.value.tower.error_class == expected
    assert len(server.asked) == hits
    assert run.pack.manifest["error_class"] == expected
    assert b"test-key" not in b"".join(p.read_bytes() for p in run.pack.folder.iterdir())


def test_a_server_that_is_not_there_is_connect_failed(tmp_path, monkeypatch):
    """Nothing was sent: three tries, then the SDK's connection error."""
    monkeypatch.setenv("OPENAI_API_KEY", "test-key")
    gone = models.openai("gpt-x", base_url="http://127.0.0.1:9/v1")
    with (
        pytest.raises(Exception, match=r"[Cc]onnect") as caught,
        tower_of(tmp_path, gone).run("x") as run,
    ):
        run.model(MESSAGES[:2])
    assert caught.value.tower.error_class == "connect_failed"
    assert run.pack.frame("spans").filter(kind="attempt").height == 3


@pytest.mark.parametrize("text", ["gpt-4o", "openai:", "mistral:x", "", "openai"])
def test_a_model_name_that_is_none_is_told(text):
    """The sentence lists the forms."""
    with pytest.raises(UsageError, match="openai:NAME"):
        models.parse_model(text)


def test_a_missing_key_is_one_sentence(monkeypatch):
    """No key in the environment: said before a run begins."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="openai client"):
        models.parse_model("openai:gpt-x")


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_a_client_of_yours_needs_no_key_in_the_environment(tmp_path, monkeypatch, server, sdk):
    """Only the given client is used, awaited calls included."""
    import asyncio
    import importlib

    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    factory = getattr(importlib.import_module(sdk), {"openai": "OpenAI"}.get(sdk, "Anthropic"))
    base = server.url + ("/v1" if sdk == "openai" else "")
    server.answers = [(200, OPENAI if sdk == "openai" else ANTHROPIC, {})] * 2

    async def main(run):
        return await run.amodel(MESSAGES[:2])

    with factory(api_key="mine", base_url=base) as client:
        model = getattr(models, sdk)("m", client=client)
        with tower_of(tmp_path, model).run("x") as run:
            first = run.model(MESSAGES[:2])
            second = asyncio.run(main(run))
    assert first.model == second.model
    assert len(server.asked) == 2

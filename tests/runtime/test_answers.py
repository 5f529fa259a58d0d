"""Answers and counts nobody vouches for, through every adapter: read, or refused; never a crash."""

from __future__ import annotations

import json

import pytest
from four_adapters import FORMATS, KEY, SDK_WARNING

from tests.runtime.test_models import MESSAGES, TOOLS
from towerkit.faults import HtmlPage, Reply, Script, WrongUsage
from towerkit.faults.steps import step_of
from towerkit.reliability.policy import Policy
from towerkit.runtime import models
from towerkit.runtime.tower import Tower

pytestmark = pytest.mark.filterwarnings(SDK_WARNING)

WAYS = [pytest.param(s, a, id=f"{'stream' if s else 'whole'}-{'async' if a else 'sync'}")
        for s in (False, True) for a in (False, True)]  # fmt: skip


@pytest.mark.parametrize(("stream", "awaited"), WAYS)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("how", ["missing", "zero", "negative", "huge", "text"])
def test_a_count_that_cannot_be_true_is_unknown(tmp_path, adapters, form, stream, awaited, how):
    """The answer stands; what is charged is estimated and says so, or is the zero that was said."""
    step = step_of(Reply(text="It was sent.").with_(WrongUsage(how=how)))
    done = adapters.ask(tmp_path, form, Script(default=step), stream=stream, awaited=awaited)
    assert (done.error, done.answer.content) == (None, "It was sent.")
    usage = done.answer.usage
    counts = [] if usage is None else [usage.input_tokens, usage.output_tokens]
    assert all(c is None or 0 <= c <= 10**9 for c in counts)
    (charge,) = done.run.pack.frame("costs").to_dicts()
    assert charge["estimated"] == (usage is None or None in counts)
    if how in {"negative", "missing"}:  # some SDKs read a text of digits as the number it is
        assert charge["estimated"]
    assert charge["input_tokens"] >= 0
    assert charge["output_tokens"] >= 0


@pytest.mark.parametrize(("stream", "awaited"), WAYS)
@pytest.mark.parametrize("form", FORMATS)
def test_a_web_page_with_status_200_is_no_answer(tmp_path, adapters, form, stream, awaited):
    """Whatever the SDK makes of it."""
    done = adapters.ask(
        tmp_path, form, Script(default=step_of(HtmlPage(code=200))), stream=stream, awaited=awaited
    )
    assert done.answer is None
    assert done.error.tower.error_class in {"malformed_response", "stream_truncated"}
    assert done.hits == done.attempts.height == 2


# JSON that is none of an answer: what proxies, mocks and half-compatible servers send.
NO_ANSWERS = ("{}", "[]", "null", "7", '"text"', '{"choices":[]}', '{"choices":[{}]}',
              '{"choices":null,"content":null,"output":null,"candidates":null}',
              '{"choices":[{"message":null}],"content":[{}],"output":[{}],"candidates":[{}]}',
              '{"choices":"x","content":"x","output":"x","candidates":"x","usage":"x"}',
              '{"choices":[1],"content":[1],"output":[1],"candidates":[1]}')  # fmt: skip


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("body", NO_ANSWERS)
@pytest.mark.parametrize("form", FORMATS)
def test_json_that_is_no_answer_is_malformed(tmp_path, server, form, body, awaited, monkeypatch):
    """One class, from every adapter; no error of our own code reaches the agent."""
    import asyncio

    server.answers = [(200, json.loads(body), {})] * 4
    model = model_on(server, form, monkeypatch)
    tower = Tower(store=tmp_path, models=[model], policy=Policy(backoff_cap_s=0.01))
    with tower.run("x") as run, pytest.raises(Exception, match=r"\S") as caught:
        asyncio.run(run.amodel(MESSAGES)) if awaited else run.model(MESSAGES)
    assert caught.value.tower.error_class == "malformed_response", repr(caught.value)
    attempts = run.pack.frame("spans").filter(kind="attempt")
    assert len(server.asked) == attempts.height


def model_on(server, form, monkeypatch):
    """Return a model of that format on the scripted server, as the command line names it."""
    for name in ("OPENAI", "ANTHROPIC", "GEMINI"):
        monkeypatch.setenv(f"{name}_API_KEY", KEY)
    kind, path = {
        "openai_chat": ("openai", "/v1"), "openai_responses": ("openai-responses", "/v1"),
        "anthropic": ("anthropic", ""), "gemini": ("gemini", ""),
    }[form]  # fmt: skip
    return models.parse_model(f"{kind}:some-model@{server.url}{path}")


RESPONSES = {
    "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m-2026",
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
         "content": [{"type": "output_text", "text": "Looking.", "annotations": []}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c9", "name": "look_up",
         "arguments": '{"order": 9}', "status": "completed"},
    ],
    "usage": {"input_tokens": 100, "input_tokens_details": {"cached_tokens": 60},
              "output_tokens": 20, "output_tokens_details": {"reasoning_tokens": 5},
              "total_tokens": 120},
    "parallel_tool_calls": True, "tool_choice": "auto", "tools": [],
}  # fmt: skip


def test_requests_and_answers_of_the_responses_api_are_translated(tmp_path, server, monkeypatch):
    """Calls and their results are items of their own; cached and reasoning tokens are kept."""
    server.answers = [(200, RESPONSES, {})]
    tower = Tower(store=tmp_path, models=[model_on(server, "openai_responses", monkeypatch)])
    with tower.run("x") as run:
        answer = run.model(MESSAGES, tools=TOOLS, max_tokens=64, temperature=0.0)
    path, asked = server.asked[0]
    assert path == "/v1/responses"
    assert (asked["max_output_tokens"], asked["store"]) == (64, False)
    assert asked["tools"][0]["name"] == "look_up"
    kinds = [item.get("type", item.get("role")) for item in asked["input"]]
    assert kinds.count("function_call") == kinds.count("function_call_output") == 2
    assert answer.content == "Looking."
    assert (answer.tool_calls[0].id, answer.tool_calls[0].arguments) == ("c9", {"order": 9})
    row = run.pack.frame("costs").to_dicts()[0]
    used = [row[f"{k}_tokens"] for k in ("input", "output", "cache_read", "reasoning")]
    assert used == [100, 20, 60, 5]


GEMINI = {
    "candidates": [{"content": {"role": "model", "parts": [
        {"text": "thinking", "thought": True}, {"text": "Looking."},
        {"functionCall": {"name": "look_up", "args": {"order": 9}}},
    ]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 100, "cachedContentTokenCount": 60,
                      "candidatesTokenCount": 15, "thoughtsTokenCount": 5, "totalTokenCount": 120},
    "modelVersion": "gemini-x-001", "responseId": "g1",
}  # fmt: skip


def test_requests_and_answers_of_gemini_are_translated(tmp_path, server, monkeypatch):
    """Thoughts are no text and are output; a call gets an id; results carry the tool's name."""
    server.answers = [(200, GEMINI, {})]
    tower = Tower(store=tmp_path, models=[model_on(server, "gemini", monkeypatch)])
    with tower.run("x") as run:
        answer = run.model(MESSAGES, tools=TOOLS, max_tokens=64, temperature=0.0)
    path, asked = server.asked[0]
    assert path.endswith("/models/some-model:generateContent")
    assert asked["generationConfig"]["maxOutputTokens"] == 64
    assert asked["systemInstruction"]["parts"][0]["text"] == "Be short."
    results = [p["functionResponse"] for c in asked["contents"] for p in c["parts"]
               if "functionResponse" in p]  # fmt: skip
    assert [r["name"] for r in results] == ["look_up", "look_up"]
    assert answer.content == "Looking."
    assert (answer.tool_calls[0].name, answer.tool_calls[0].arguments) == ("look_up", {"order": 9})
    assert answer.tool_calls[0].id
    row = run.pack.frame("costs").to_dicts()[0]
    used = [row[f"{k}_tokens"] for k in ("input", "output", "cache_read", "reasoning")]
    assert used == [100, 20, 60, 5]
    span = run.pack.frame("spans").filter(kind="attempt").to_dicts()[0]
    assert span["gen_ai_provider_name"] == "gcp.gemini"


def test_a_blocked_prompt_is_an_answer_that_says_so(tmp_path, server, monkeypatch):
    """It has no candidate; it is flagged, and no other model is asked."""
    server.answers = [(200, {"promptFeedback": {"blockReason": "SAFETY"}}, {})]
    chain = [model_on(server, "gemini", monkeypatch), models.function(lambda r: "weaker filter")]
    with Tower(store=tmp_path, models=chain).run("x") as run:
        answer = run.model(MESSAGES)
    assert (answer.content, answer.finish_reason, answer.tier) == ("", "SAFETY", 0)
    call = run.pack.frame("spans").filter(kind="call").to_dicts()[0]
    assert {"name": "flag", "reason": "content_filtered"} in json.loads(call["events"])

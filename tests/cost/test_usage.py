"""Every dialect is read into the same classes, and a count that cannot be true never is."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.cost.answers import read_answer
from towerkit.cost.usage import DIALECTS, MOST_TOKENS, TokenUsage, read_counts


def known(usage):
    """Return the classes that are known and not zero."""
    return {n: v for n in usage.__struct_fields__ if (v := getattr(usage, n))}


WHOLE = [
    ("chat", {"usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120,
                        "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 5},
                        "completion_tokens_details": {"reasoning_tokens": 8, "audio_tokens": 2}}},
     {"input_tokens": 100, "output_tokens": 20, "cache_read_tokens": 60, "reasoning_tokens": 8,
      "input_audio_tokens": 5, "output_audio_tokens": 2}),
    # xAI: reasoning stands beside the answer, and only the total tells.
    ("chat", {"usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 45,
                        "completion_tokens_details": {"reasoning_tokens": 30}}},
     {"input_tokens": 10, "output_tokens": 35, "reasoning_tokens": 30}),
    ("chat", {"usage": {"prompt_tokens": 9, "completion_tokens": 4, "reasoning_tokens": 3,
                        "citation_tokens": 2, "num_search_queries": 7}},
     {"input_tokens": 9, "output_tokens": 9, "reasoning_tokens": 3, "web_searches": 7}),
    ("chat", {"usage": {"prompt_tokens": 4, "total_tokens": 4}}, {"input_tokens": 4}),
    ("chat", {"object": "list", "usage": {"total_tokens": 12}}, {"input_tokens": 12}),
    ("responses", {"usage": {"input_tokens": 30, "output_tokens": 9,
                             "input_tokens_details": {"cached_tokens": 20, "cache_write_tokens": 4},
                             "output_tokens_details": {"reasoning_tokens": 6}},
                   "output": [{"type": "web_search_call", "action": {"type": "search"}},
                              {"type": "web_search_call", "action": {"type": "open_page"}}]},
     {"input_tokens": 30, "output_tokens": 9, "cache_read_tokens": 20, "cache_write_tokens": 4,
      "reasoning_tokens": 6, "web_searches": 1}),
    ("anthropic", {"usage": {"input_tokens": 10, "output_tokens": 7, "cache_read_input_tokens": 50,
                             "cache_creation_input_tokens": 30,
                             "cache_creation": {"ephemeral_5m_input_tokens": 10,
                                                "ephemeral_1h_input_tokens": 20},
                             "server_tool_use": {"web_search_requests": 2}}},
     {"input_tokens": 90, "output_tokens": 7, "cache_read_tokens": 50, "cache_write_tokens": 30,
      "cache_write_5m_tokens": 10, "cache_write_1h_tokens": 20, "web_searches": 2}),
    ("gemini", {"usageMetadata": {"promptTokenCount": 100, "toolUsePromptTokenCount": 11,
                                  "candidatesTokenCount": 5, "thoughtsTokenCount": 7,
                                  "cachedContentTokenCount": 40, "totalTokenCount": 123,
                                  "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 30},
                                                          {"modality": "TEXT", "tokenCount": 70}]}},
     {"input_tokens": 111, "output_tokens": 12, "reasoning_tokens": 7, "cache_read_tokens": 40,
      "input_audio_tokens": 30}),
    ("gemini", {"usageMetadata": {"promptTokenCount": 15, "thoughtsTokenCount": 2,
                                  "totalTokenCount": 17}},
     {"input_tokens": 15, "output_tokens": 2, "reasoning_tokens": 2}),
    ("interactions", {"usage": {"total_input_tokens": 9, "total_output_tokens": 13,
                                "total_thought_tokens": 207, "total_tool_use_tokens": 1}},
     {"input_tokens": 10, "output_tokens": 220, "reasoning_tokens": 207}),
    ("converse", {"usage": {"inputTokens": 3, "outputTokens": 8, "cacheReadInputTokens": 5,
                            "cacheWriteInputTokens": 20,
                            "cacheDetails": [{"ttl": "1h", "inputTokens": 15},
                                             {"ttl": "5m", "inputTokens": 5}]}},
     {"input_tokens": 28, "output_tokens": 8, "cache_read_tokens": 5, "cache_write_tokens": 20,
      "cache_write_5m_tokens": 5, "cache_write_1h_tokens": 15}),
    ("cohere", {"usage": {"billed_units": {"input_tokens": 13.0, "output_tokens": 61.0},
                          "tokens": {"input_tokens": 542, "output_tokens": 63}}},
     {"input_tokens": 13, "output_tokens": 61}),
    ("cohere", {"meta": {"billed_units": {"search_units": 1}}}, {"rerank_searches": 1}),
    ("ollama", {"prompt_eval_count": 17, "eval_count": 63, "done": True},
     {"input_tokens": 17, "output_tokens": 63}),
    ("titan", {"inputTextTokenCount": 5, "results": [{"tokenCount": 10}, {"tokenCount": 4}]},
     {"input_tokens": 5, "output_tokens": 14}),
    ("llama", {"prompt_token_count": 5, "generation_token_count": 10},
     {"input_tokens": 5, "output_tokens": 10}),
    ("watsonx", {"results": [{"generated_token_count": 2, "input_token_count": 7}]},
     {"input_tokens": 7, "output_tokens": 2}),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "body", "expected"), WHOLE)
def test_a_whole_answer_is_read(dialect, body, expected):
    """In the dialect that its fields tell, whoever sent it."""
    found = read_answer(body)
    assert (found.dialect, found.why, known(found.usage)) == (dialect, None, expected)
    assert found.usage.output_tokens is not None


def sse(*events):
    return "".join(f"event: x\ndata: {json.dumps(e)}\n\n" for e in events) + "data: [DONE]\n\n"


STREAMS = {
    "chat": (sse({"choices": [{}], "usage": None},
                 {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}},
                 {"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": 3}}), (8, 3)),
    "groq": (sse({"x_groq": {"usage": {"prompt_tokens": 8, "completion_tokens": 3}}}), (8, 3)),
    "responses": (sse({"type": "response.created", "response": {"usage": None}},
                      {"type": "response.completed",
                       "response": {"usage": {"input_tokens": 8, "output_tokens": 3}}}), (8, 3)),
    "anthropic": (sse({"type": "message_start", "message": {"usage": {
                          "input_tokens": 3, "cache_read_input_tokens": 5, "output_tokens": 1}}},
                      {"type": "message_delta", "usage": {"output_tokens": 3}}), (8, 3)),
    "gemini list": (json.dumps([{"usageMetadata": {"promptTokenCount": 8, "totalTokenCount": 9}},
                                {"usageMetadata": {"promptTokenCount": 8, "totalTokenCount": 11,
                                                   "candidatesTokenCount": 3}}]), (8, 3)),
    "cohere v2": (sse({"type": "message-end", "delta": {"usage": {
                          "billed_units": {"input_tokens": 8, "output_tokens": 3}}}}), (8, 3)),
    "cohere v1 lines": ("\n".join(map(json.dumps, [{"text": "a"}, {"response": {"meta": {
                            "billed_units": {"input_tokens": 8, "output_tokens": 3}}}}])), (8, 3)),
    "watsonx": (sse({"results": [{"generated_token_count": 0, "input_token_count": 8}]},
                    {"results": [{"generated_token_count": 3, "input_token_count": 0}]}), (8, 3)),
}  # fmt: skip


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_read_to_its_sum(name):
    """Sums so far are not added up; parts in different events are put together."""
    text, expected = STREAMS[name]
    usage = read_answer(text).usage
    assert (usage.input_tokens, usage.output_tokens) == expected
    assert read_answer(text.replace("\n", "\r\n")).usage == usage


def message(payload):
    """Return one message of AWS's event stream."""
    body = json.dumps(payload).encode()
    prelude = struct.pack(">II", len(body) + 16, 0)
    head = prelude + struct.pack(">I", zlib.crc32(prelude))
    return head + body + struct.pack(">I", zlib.crc32(head + body))


def test_bedrocks_binary_stream_is_read_as_base64_or_digits():
    """Events of converse, and of invocations, whose payload is base64 itself; a torn end is cut."""
    inner = base64.b64encode(b'{"amazon-bedrock-invocationMetrics":{"inputTokenCount":13,'
                             b'"outputTokenCount":100}}').decode()  # fmt: skip
    converse = {"usage": {"inputTokens": 11, "outputTokens": 9}}
    for last, expected in (({"bytes": inner}, (13, 100)), (converse, (11, 9))):
        data = message({"p": "a"}) + message(last)
        for text in (data.hex(), base64.b64encode(data).decode(), (data + data[:20]).hex()):
            usage = read_answer(text).usage
            assert (usage.input_tokens, usage.output_tokens) == expected


def test_a_cut_stream_has_no_output():
    """What Anthropic's first event says of the output is not what the answer took."""
    counts = {"input_tokens": 3, "output_tokens": 1, "cache_read_input_tokens": 0}
    start = {"type": "message_start", "message": {"usage": counts}}
    found = read_answer(sse(start))
    assert (found.usage.output_tokens, found.why) == (None, "it does not count output tokens")
    cut = read_answer(sse({"choices": [{"delta": {}}]}, {"choices": []}))
    assert cut.usage is None
    assert "cut, or usage was not asked for" in cut.why


CHAT = {"prompt_tokens": 10, "completion_tokens": 5}
UNTRUE = [
    ({"completion_tokens": -5}, "completion_tokens is -5"),
    ({"prompt_tokens": -1}, "prompt_tokens is -1"),
    ({"prompt_tokens": 2**70}, "prompt_tokens is 1180591620"),
    ({"completion_tokens": True}, "completion_tokens is True"),
    ({"prompt_tokens": 10.5}, "prompt_tokens is 10.5"),
    ({"completion_tokens": float("nan")}, "completion_tokens is nan"),
    ({"prompt_tokens": float("inf")}, "prompt_tokens is inf"),
    ({"completion_tokens": "5"}, "completion_tokens is str"),
    ({"completion_tokens": {}}, "completion_tokens is dict"),
    ({"prompt_tokens": MOST_TOKENS + 1}, "prompt_tokens is 1000000001"),
    ({"prompt_tokens_details": {"cached_tokens": -1}}, "cached_tokens is -1"),
    ({"prompt_tokens_details": {"cached_tokens": 11}}, "cache_read_tokens are above input_tokens"),
    ({"completion_tokens_details": {"reasoning_tokens": 6}}, "reasoning_tokens are above output"),
]


@pytest.mark.parametrize(("wrong", "says"), UNTRUE)
def test_counts_that_cannot_be_true_are_no_usage(wrong, says):
    """One of them spoils the whole, and the sentence names it."""
    found = read_answer({"usage": CHAT | wrong})
    assert found.usage is None
    assert says in found.why
    assert read_answer({"usage": CHAT | {"prompt_tokens": MOST_TOKENS}}).usage is not None


def test_numbers_that_json_does_not_have_are_untrue():
    """Python's encoder writes NaN: it is read, and refused as a count."""
    found = read_answer('{"usage": {"prompt_tokens": NaN, "completion_tokens": 5}}')
    assert (found.usage, found.why) == (None, "prompt_tokens is nan, which is no count of tokens")


NOTHING = [
    ({"error": {"message": "no"}}, "is an error"),
    ({"usage": {"topicPolicyUnits": 1}}, "no tokens"),
    ({}, "no usage block"), ("", "neither"), ("<html>", "neither"), (7, "expected a JSON object"),
    ([], "expected a JSON object"), ({"usage": None}, "no usage block"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "why"), NOTHING)
def test_what_has_no_usage_says_so(body, why):
    """Errors, other units, empty and foreign texts."""
    found = read_answer(body)
    assert found.usage is None
    assert why in found.why


def test_the_api_names_the_dialect():
    """The same counts in another dialect; where it finds nothing, the fields decide."""
    body = {"usage": {"input_tokens": 10, "output_tokens": 5, "cache_read_input_tokens": 90}}
    assert read_answer(body).usage.input_tokens == 100
    assert read_answer(body, api="responses").usage.input_tokens == 10
    assert read_answer(body, api="gemini").usage.input_tokens == 100
    assert read_answer(body, api="never heard of").usage.input_tokens == 100
    read = {"input_tokens": 9, "output_tokens": 2}
    tokens = {"usage": {"billed_units": {"input_tokens": 1}, "tokens": read}}
    assert read_answer(tokens, api="tokens").usage.input_tokens == 9


def test_what_else_an_answer_says():
    """Its model, its tier, when it was made, and what the provider says it billed."""
    found = read_answer({"model": "m", "created": 1_755_006_320, "service_tier": "Flex",
                         "usage": CHAT | {"cost": 8.6e-05}})  # fmt: skip
    assert (found.model, found.context) == ("m", {"service_tier": "flex"})
    assert (found.made_unix_s, found.billed_usd) == (1_755_006_320, Decimal("0.000086"))
    assert read_answer({"created": -1, "usage": CHAT | {"cost": float("nan")}}).billed_usd is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from([m.split("|")[0].split(".")[-1] for _, ms, _ in DIALECTS for m in ms] + [
            "usage", "usageMetadata", "meta", "results", "message", "response", "output", "type",
            "cache_creation", "ephemeral_1h_input_tokens", "prompt_tokens_details", "cacheDetails",
            "cached_tokens", "promptTokensDetails", "modality", "tokenCount", "created", "cost",
        ]), inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


@given(JSON, st.sampled_from([None, "chat", "responses", "anthropic", "gemini", "embeddings"]))
def test_whatever_is_sent_nothing_untrue_comes_out(body, api):
    """Any JSON, as a value and as a text: no crash, counts in range, parts within their whole."""
    for given_ in (body, json.dumps(body)):
        found = read_answer(given_, api=api)
        usage = found.usage or TokenUsage()
        counts = [v for n in usage.__struct_fields__ if (v := getattr(usage, n)) is not None]
        assert all(type(n) is int and n >= 0 for n in counts)
        assert found.why or None not in {usage.input_tokens, usage.output_tokens}
        if usage.input_tokens is not None:
            cached = (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
            assert cached <= usage.input_tokens


@given(st.text(max_size=200) | st.binary(max_size=80).map(bytes.hex))
def test_any_text_is_read_or_refused(text):
    """No text raises."""
    found = read_answer(text)
    assert found.why or found.usage is not None


def test_objects_of_an_sdk_are_read_like_json():
    """Attributes instead of keys, of any class."""

    class Thing:
        def __init__(self, **fields):
            self.__dict__.update(fields)

    counts = Thing(prompt_tokens=4, completion_tokens=2, total_tokens=6,
                   prompt_tokens_details=Thing(cached_tokens=3))  # fmt: skip
    plain = read_counts(counts, dialect="chat").usage.plain
    assert (plain.input_tokens, plain.output_tokens, plain.cache_read_tokens) == (4, 2, 3)

"""What is read of requests and answers over HTTP: endpoints, events, counts, whatever comes."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.core.sse import Lines
from towerkit.core.types import ToolCall, Usage
from towerkit.faults.steps import Reply
from towerkit.faults.wire import WIRES, Asked
from towerkit.runtime.http_wire import UNLIMITED_TOKENS, Said, asked, failure_inside

CHAT = {"model": "m-1", "messages": []}
GEMINI = {"contents": [], "generationConfig": {"maxOutputTokens": 7, "candidateCount": 2}}
ENDPOINTS = [
    ("api.openai.com", "/v1/chat/completions", CHAT, ("m-1", "openai", "openai_chat")),
    ("x.openai.azure.com", "/openai/deployments/d-1/chat/completions", {"messages": []},
     ("d-1", "azure", "openai_chat")),
    ("api.openai.com", "/v1/responses", {"model": "m-1"}, ("m-1", "openai", "openai_responses")),
    ("api.anthropic.com", "/v1/messages", CHAT, ("m-1", "anthropic", "anthropic")),
    ("127.0.0.1:8000", "/v1/embeddings", {"model": "e-1", "input": "a"},
     ("e-1", "127.0.0.1:8000", "openai_chat")),
    ("generativelanguage.googleapis.com", "/v1beta/models/g-1:streamGenerateContent", GEMINI,
     ("g-1", "google", "gemini")),
    ("eu.aiplatform.googleapis.com", "/v1/publishers/anthropic/models/c-1:rawPredict",
     {"anthropic_version": "v", "messages": []}, ("c-1", "google", "anthropic")),
    ("bedrock-runtime.eu-west-1.amazonaws.com", "/model/c-1/converse", {}, ("c-1", "aws", None)),
]  # fmt: skip


@pytest.mark.parametrize(("host", "path", "body", "expected"), ENDPOINTS)
def test_endpoints_are_known_by_path_and_body(host, path, body, expected):
    """Model, provider and format come from host, path and body."""
    found = asked(method="POST", host=host, path=path, body=msgspec.json.encode(body))
    assert (found.kind, found.name, found.provider, found.format) == ("model", *expected)


OTHERS = [
    ("GET", "/v1/models", b""), ("POST", "/v1/messages", b'{"to": "ann"}'),
    ("POST", "/v1/messages", b"not json"), ("POST", "/v1/threads/t/messages", b'{"model": "m"}'),
    ("GET", "/v1/chat/completions", b""), ("POST", "/v1/chat/completions", None),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body"), OTHERS)
def test_anything_else_is_another_service(method, path, body):
    """Its name is the host's."""
    found = asked(method=method, host="mail.test", path=path, body=body)
    assert (found.kind, found.name) == ("tool", "mail.test")


def test_limits_and_streams_are_read():
    """The worst case is known: tokens asked for, answers asked for, a word for no limit."""

    def read(path, body):
        return asked(method="POST", host="h", path=path, body=msgspec.json.encode(body))

    gemini = read("/models/g:streamGenerateContent", GEMINI)
    assert (gemini.max_tokens, gemini.answers, gemini.stream) == (7, 2, True)
    chat = read("/chat/completions", CHAT | {"stream": True, "max_tokens": "many"})
    assert (chat.max_tokens, chat.answers, chat.stream) == (UNLIMITED_TOKENS, 1, True)


USAGE = Usage(input_tokens=30, output_tokens=9, cache_read_tokens=10)


@pytest.mark.parametrize("form", list(WIRES))
@pytest.mark.parametrize("stream", [False, True])
def test_every_format_is_read_whole_and_in_events(form, stream):
    """Text, tool calls, usage, id, model, finish reason; done at the terminal event, not before."""
    call = ToolCall("call_1", "look_up", {"order": 7})
    reply, ask = Reply(text="It was sent.", tool_calls=(call,), usage=USAGE), Asked(
        format=form, model="m-1", include_usage=True
    )  # fmt: skip
    wire, said = WIRES[form], Said(form)
    if stream:
        lines = Lines()
        for chunk in wire.events(reply, ask, wire.usage(reply.usage)):
            for _, data in lines.feed(chunk):
                if data != "[DONE]":
                    said.feed(msgspec.json.decode(data))
    else:
        said.feed(wire.reply(reply, ask, wire.usage(reply.usage)))
    got = said.response()
    assert said.done
    assert (got.content, got.model, got.response_id is not None) == ("It was sent.", "m-1", True)
    assert [(c.name, c.arguments) for c in got.tool_calls] == [("look_up", {"order": 7})]
    assert (got.usage.input_tokens, got.usage.output_tokens) == (30, 9)
    assert got.usage.cache_read_tokens == 10
    assert got.finish_reason in {"tool_calls", "completed", "tool_use", "STOP"}


EVENTS = (
    b'event: a\r\ndata: {"x":1}\r\n\r\n: ping\n\ndata: one\ndata: two\n\ndata:[DONE]\r\rdata: l'
)
SEEN = [("a", '{"x":1}'), ("", "one\ntwo"), ("", "[DONE]"), ("", "l")]


@given(st.lists(st.integers(0, len(EVENTS)), max_size=12))
def test_events_do_not_depend_on_where_chunks_end(cuts):
    """Cut anywhere, inside a line's end too: the same events."""
    lines, edges = Lines(), sorted({0, len(EVENTS), *cuts})
    found = []
    for start, end in pairwise(edges):
        found += lines.feed(EVENTS[start:end])
    assert [*found, *lines.end()] == SEEN


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(
            ["choices", "usage", "delta", "message", "type", "content", "candidates", "response",
             "error", "tool_calls", "function", "arguments", "output", "index", "prompt_tokens",
             "finish_reason", "content_block", "parts", "usageMetadata", "output_tokens"]
        ), inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


@given(st.sampled_from([*WIRES, None]), JSON, JSON)
def test_no_answer_makes_reading_raise(form, first, second):
    """Any shape at any place: what is not understood says nothing, counts are whole or unknown."""
    said = Said(form)
    for event in (first, second):
        said.feed(event)
        failure_inside(event)
    usage = said.response().usage or Usage()
    assert all(n is None or n >= 0 for n in msgspec.to_builtins(usage).values())


@given(st.binary(max_size=300))
def test_no_body_makes_a_request_unreadable(body):
    """Bytes of any kind are another service's, or a model's."""
    for path in ("/v1/messages", "/audio/speech", "/models/x:countTokens"):
        assert asked(method="POST", host="h", path=path, body=body).kind in {"model", "tool"}

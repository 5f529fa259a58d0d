"""What the real SDKs make of good answers and of each fault: the evidence for the classifier."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sdks import CALL, FAULTS, FORMATS, LONG, seen

from towerkit.core.types import Usage
from towerkit.faults import CleanEnd, Cut, FaultServer, Reply, Script, WrongUsage

PAGE = Path(__file__).resolve().parents[2] / "docs/howto/faults.md"
USAGE = Usage(
    input_tokens=100, output_tokens=20, cache_read_tokens=60, cache_write_tokens=10,
    reasoning_tokens=5,
)  # fmt: skip


def table():
    """Return (fault, stream, wire, what is seen) for every cell of the page's table."""
    cells = []
    for line in PAGE.read_text().splitlines():
        match = re.match(r"\| `([^`]+)` \| (both|whole|stream) \| (.*) \|$", line)
        if match:
            row = match[3].split(" | ")
            row[1] = row[0] if row[1] == "same" else row[1]
            for stream in {"both": (False, True), "whole": (False,), "stream": (True,)}[match[2]]:
                cells += [(match[1], stream, f, c) for f, c in zip(FORMATS, row, strict=True)]
    return cells


TABLE = table()


def test_the_page_tells_every_fault_on_every_format_both_ways():
    """No cell of fault × streaming × wire is missing from docs/howto/faults.md."""
    told = [(fault, stream, f) for fault, stream, f, _ in TABLE]
    assert len(told) == len(set(told)) == len(FAULTS) * 2 * len(FORMATS)
    assert {fault for fault, _, _ in told} == set(FAULTS)


@pytest.mark.parametrize(("fault", "stream", "wire", "expected"), TABLE)
def test_each_sdk_does_what_the_page_says(sdks, fault, stream, wire, expected):
    """The exception, its cause and status, or that nothing is raised; and one request at most."""
    script = FAULTS[fault] if isinstance(FAULTS[fault], Script) else [FAULTS[fault]]
    with FaultServer(script) as server:
        assert seen(sdks, server, wire, stream=stream) == expected
    assert server.hits == (0 if isinstance(script, Script) else 1)


@pytest.mark.parametrize("stream", [False, True])
def test_openai_chat_parses_text_calls_and_usage(sdks, stream):
    """Text, a tool call and every token class arrive, streamed in order."""
    with FaultServer([Reply(text="On it.", tool_calls=(CALL,), usage=USAGE)]) as server:
        answer = sdks.ask(server, "openai_chat", stream=stream)
    if stream:
        deltas = [c.delta for e in answer for c in e.choices]
        calls = [t for d in deltas for t in d.tool_calls or ()]
        text = "".join(d.content or "" for d in deltas)
        name, arguments = calls[0].function.name, "".join(c.function.arguments for c in calls)
        assert [e.choices[0].finish_reason for e in answer if e.choices][-1] == "tool_calls"
        usage = answer[-1].usage
    else:
        message = answer.choices[0].message
        text, function = message.content, message.tool_calls[0].function
        name, arguments, usage = function.name, function.arguments, answer.usage
    assert (text, name, arguments) == ("On it.", "look_up", '{"order":7}')
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (100, 20, 120)
    assert usage.prompt_tokens_details.cached_tokens == 60
    assert usage.completion_tokens_details.reasoning_tokens == 5


def test_openai_chat_streams_no_usage_unless_asked(sdks):
    """Without `stream_options.include_usage` no chunk carries token counts, as at the provider."""
    with FaultServer() as server:
        client = sdks.openai.with_options(base_url=server.openai_base_url)
        chunks = list(client.chat.completions.create(model="m", messages=[], stream=True))
    assert chunks
    assert all(c.usage is None for c in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_openai_responses_parses_text_calls_and_usage(sdks, stream):
    """The final response, streamed or not, holds text, call and usage; deltas are the text."""
    with FaultServer([Reply(text="On it.", tool_calls=(CALL,), usage=USAGE)]) as server:
        answer = sdks.ask(server, "openai_responses", stream=stream)
    if stream:
        assert [e.sequence_number for e in answer] == list(range(len(answer)))
        text = "".join(e.delta for e in answer if e.type == "response.output_text.delta")
        assert text == "On it."
        answer = answer[-1].response
    assert (answer.status, answer.output_text) == ("completed", "On it.")
    assert (answer.output[1].name, answer.output[1].arguments) == ("look_up", '{"order":7}')
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (100, 20)
    assert answer.usage.input_tokens_details.cached_tokens == 60
    assert answer.usage.output_tokens_details.reasoning_tokens == 5


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_parses_text_calls_and_usage(sdks, stream):
    """The SDK's own accumulator builds the same message from the stream as the whole body gives."""
    with FaultServer([Reply(text="On it.", tool_calls=(CALL,), usage=USAGE)]) as server:
        if stream:
            client = sdks.anthropic.with_options(base_url=server.anthropic_base_url)
            with client.messages.stream(model="m", messages=[], max_tokens=9) as events:
                answer = events.get_final_message()
        else:
            answer = sdks.ask(server, "anthropic")
    assert answer.stop_reason == "tool_use"
    assert answer.content[0].text == "On it."
    assert (answer.content[1].name, answer.content[1].input) == ("look_up", {"order": 7})
    usage = answer.usage
    assert (usage.input_tokens, usage.output_tokens) == (30, 20)
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (60, 10)


@pytest.mark.parametrize("stream", [False, True])
def test_gemini_parses_text_calls_and_usage(sdks, stream):
    """Parts of all chunks add up; thoughts are counted apart from the answer."""
    with FaultServer([Reply(text="On it.", tool_calls=(CALL,), usage=USAGE)]) as server:
        answer = sdks.ask(server, "gemini", stream=stream)
    chunks = answer if stream else [answer]
    parts = [p for c in chunks for p in c.candidates[0].content.parts]
    assert "".join(p.text or "" for p in parts) == "On it."
    calls = [p.function_call for p in parts if p.function_call]
    assert [(c.name, c.args, c.id) for c in calls] == [("look_up", {"order": 7}, "call_1")]
    assert chunks[-1].candidates[0].finish_reason == "STOP"
    usage = chunks[-1].usage_metadata
    assert (usage.prompt_token_count, usage.candidates_token_count) == (100, 15)
    assert (usage.thoughts_token_count, usage.cached_content_token_count) == (5, 60)
    assert usage.total_token_count == 120


@pytest.mark.parametrize(
    ("finish", "words"),
    [
        ("length", ("length", "incomplete", "max_tokens", "MAX_TOKENS")),
        ("content_filter", ("content_filter", "incomplete", "refusal", "SAFETY")),
    ],
)
def test_an_answer_that_stopped_short_is_no_exception(sdks, finish, words):
    """A token limit and a content filter are told by the finish alone, in each wire's word."""
    for wire, word in zip(FORMATS, words, strict=True):
        with FaultServer([Reply(finish=finish)]) as server:
            answer = sdks.ask(server, wire)
        told = {
            "openai_chat": lambda a: a.choices[0].finish_reason,
            "openai_responses": lambda a: a.status,
            "anthropic": lambda a: a.stop_reason,
            "gemini": lambda a: a.candidates[0].finish_reason,
        }[wire](answer)
        assert told == word, wire


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("missing", (None, None, None, None)),
        ("zero", (0, 0, 0, 0)),
        ("negative", (-13, -13, -13, -13)),
        ("huge", (10**15 + 12,) * 4),
        ("text", (12, "12", "12", 12)),
        ("total", (12, 12, 12, 12)),
    ],
)
def test_no_sdk_checks_token_counts(sdks, how, expected):
    """Whatever the provider claims comes through; what is missing is None, never 0."""
    got = []
    for wire in FORMATS:
        with FaultServer([Reply().with_(WrongUsage(how=how))]) as server:
            answer = sdks.ask(server, wire)
        usage = answer.usage_metadata if wire == "gemini" else answer.usage
        field = {"openai_chat": "prompt_tokens", "gemini": "prompt_token_count"}
        got.append(usage and getattr(usage, field.get(wire, "input_tokens")))
    assert tuple(got) == expected


@pytest.mark.parametrize("wire", FORMATS)
def test_a_stream_broken_at_each_chunk_is_never_whole(sdks, wire):
    """At every chunk, a cut raises and a proper end leaves the terminal event out."""
    with FaultServer([LONG]) as server:
        sdks.ask(server, wire, stream=True)
    chunks = server.requests[0].chunks_sent
    # The chat wire tells the finish, then the usage, then [DONE]: only what comes before counts.
    last = chunks - 2 if wire == "openai_chat" else chunks
    for k in range(chunks):
        with FaultServer([LONG.with_(Cut(at_chunk=k)), LONG.with_(CleanEnd(at_chunk=k))]) as server:
            cut, ended = (seen(sdks, server, wire, stream=True) for _ in range(2))
        assert "RemoteProtocolError" in cut, k
        assert ended.startswith("nothing: ") == (k < last), k

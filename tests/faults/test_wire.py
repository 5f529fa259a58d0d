"""The bytes: streams add up to their answers, shapes are the recorded ones, so are errors."""

from __future__ import annotations

import json
import lzma

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sdks import CALL, FORMATS

from towerkit.core.errors import UsageError
from towerkit.core.types import ToolCall, Usage
from towerkit.faults import CleanEnd, Cut, MalformedJson, Reply, SseError, Status, WrongUsage
from towerkit.faults.render import render
from towerkit.faults.steps import WRONG_USAGE, step_of
from towerkit.faults.wire import WIRES, Asked, asked_by, words

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
COUNT = st.integers(0, 10**9)
ARGUMENTS = st.dictionaries(TEXT, st.one_of(COUNT, TEXT, st.booleans(), st.none()), max_size=3)


def whole(step, wire):
    """Return the JSON body of a step that is not streamed."""
    return json.loads(b"".join(render(step_of(step), Asked(format=wire)).chunks))


def streamed(step, wire):
    """Return the JSON events of a stream, [DONE] left out."""
    asked = Asked(format=wire, stream=True, include_usage=True)
    lines = b"".join(render(step_of(step), asked).chunks).decode().split("\n")
    data = [x.removeprefix("data: ") for x in lines if x.startswith("data: ")]
    return [json.loads(x) for x in data if x != "[DONE]"]


def text_of(wire, events):
    """Return the text that a stream's deltas add up to."""
    if wire == "openai_chat":
        return "".join(c["delta"].get("content") or "" for e in events for c in e["choices"])
    if wire == "gemini":
        parts = [p for e in events for p in e["candidates"][0].get("content", {}).get("parts", ())]
        return "".join(p.get("text", "") for p in parts)
    if wire == "anthropic":
        return "".join(e["delta"].get("text", "") for e in events if "delta" in e)
    return "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")


def arguments_of(wire, events):
    """Return the arguments of the one tool call of a stream, as an object."""
    if wire == "gemini":
        parts = [p for e in events for p in e["candidates"][0].get("content", {}).get("parts", ())]
        return next(p["functionCall"]["args"] for p in parts if "functionCall" in p)
    if wire == "openai_chat":
        calls = [t for e in events for c in e["choices"] for t in c["delta"].get("tool_calls", ())]
        return json.loads("".join(c["function"]["arguments"] for c in calls))
    if wire == "anthropic":
        return json.loads(
            "".join(e["delta"].get("partial_json", "") for e in events if "delta" in e)
        )
    kind = "response.function_call_arguments.delta"
    return json.loads("".join(e["delta"] for e in events if e["type"] == kind))


@given(TEXT)
def test_pieces_join_to_the_text(text):
    """Splitting into words loses nothing."""
    assert "".join(words(text)) == text


@pytest.mark.parametrize("wire", FORMATS)
@given(text=TEXT, arguments=ARGUMENTS)
def test_a_stream_adds_up_to_its_answer(wire, text, arguments):
    """Text and tool arguments survive streaming, whatever characters they hold."""
    reply = Reply(text=text, tool_calls=(ToolCall("c", "look_up", arguments),))
    events = streamed(reply, wire)
    assert text_of(wire, events) == text
    assert arguments_of(wire, events) == arguments


@pytest.mark.parametrize("wire", FORMATS)
@given(read=COUNT, written=COUNT, rest=COUNT, thought=COUNT, said=COUNT)
def test_usage_adds_up_in_every_format(wire, read, written, rest, thought, said):
    """Every token class is told once, in the sums of its API."""
    usage = Usage(
        input_tokens=read + written + rest, output_tokens=thought + said, cache_read_tokens=read,
        cache_write_tokens=written, reasoning_tokens=thought,
    )  # fmt: skip
    told = WIRES[wire].usage(usage)
    if wire == "anthropic":
        parts = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
        assert sum(told[p] for p in parts) == usage.input_tokens
        assert told["output_tokens"] == usage.output_tokens
    elif wire == "gemini":
        assert told["candidatesTokenCount"] + told.get("thoughtsTokenCount", 0) == thought + said
        assert told["totalTokenCount"] == usage.input_tokens + usage.output_tokens
    else:
        assert told["total_tokens"] == usage.input_tokens + usage.output_tokens


@pytest.mark.parametrize("how", WRONG_USAGE)
@pytest.mark.parametrize("wire", FORMATS)
def test_wrong_usage_differs_from_the_true_one_both_ways(wire, how):
    """Each way of being wrong shows in the body and in the stream."""
    good, bad = Reply(), Reply().with_(WrongUsage(how=how))
    assert whole(good, wire) != whole(bad, wire)
    if (wire, how) != ("anthropic", "total"):
        assert streamed(good, wire) != streamed(bad, wire)
    assert text_of(wire, streamed(bad, wire)) == good.text


@pytest.mark.parametrize("wire", FORMATS)
def test_every_named_error_renders_with_its_status(wire):
    """Each row of an API's errors is a JSON object that carries the provider's word and status."""
    for row in WIRES[wire].error_rows:
        answer = render(step_of(Status(code=row.status, error=row.word)), Asked(format=wire))
        assert answer.status == row.status
        assert row.message in b"".join(answer.chunks).decode()
        assert row.word.partition(":")[0] in b"".join(answer.chunks).decode()


@pytest.mark.parametrize("wire", FORMATS)
@pytest.mark.parametrize("status", [402, 418, 503, 520, 599])
def test_a_status_without_a_row_still_has_a_body_of_that_api(wire, status):
    """An unusual status is answered in the API's envelope."""
    assert whole(Status(code=status), wire)["error"]["message"]


@pytest.mark.parametrize(
    ("step", "wire", "reason"),
    [
        (Reply(finish="malformed_tool_call"), "anthropic", "finish that anthropic can say"),
        (Reply(finish="failed"), "gemini", "finish that gemini can say"),
        (Reply(tool_calls=(ToolCall("c", "t", {}, raw="{"),)), "gemini", "as an object"),
        (Status(code=429, error="overloaded_error"), "openai_chat", "insufficient_quota"),
        (Cut(at_chunk=99), "openai_chat", "8 chunks"),
        (CleanEnd(at_chunk=-9), "openai_chat", "8 chunks"),
    ],
)
def test_what_a_format_cannot_say_is_an_error_of_the_script(step, wire, reason):
    """The sentence says what it can."""
    with pytest.raises(UsageError, match=reason):
        render(step_of(step), Asked(format=wire))


@pytest.mark.parametrize("wire", FORMATS)
def test_malformed_json_is_malformed_both_ways(wire):
    """The body does not parse, and of a stream only the first event does."""
    with pytest.raises(json.JSONDecodeError):
        whole(MalformedJson(), wire)
    chunks = render(step_of(MalformedJson()), Asked(format=wire, stream=True)).chunks
    data = [c.decode().split("data: ")[1].strip() for c in chunks]
    assert json.loads(data[0])
    for text in data[1:]:
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)


@pytest.mark.parametrize("wire", FORMATS)
def test_an_error_in_a_stream_is_its_last_event(wire):
    """The error's own body is sent after the chunks before it, and nothing follows."""
    error = {"type": "overloaded_error", "message": "of the test"}
    end = SseError(at_chunk=2, body=error)
    asked = Asked(format=wire, stream=True)
    broken, good = render(Reply().with_(end), asked), render(step_of(Reply()), asked)
    assert broken.chunks[:2] == good.chunks[:2]
    assert len(broken.chunks) == 3
    assert b"of the test" in broken.chunks[2]


@pytest.mark.parametrize(
    ("target", "body", "expected"),
    [
        ("/v1/chat/completions", {"model": "m"}, ("openai_chat", "m", False)),
        ("/openai/deployments/d/chat/completions?api-version=1", {"stream": True},
         ("openai_chat", "simulated-model", True)),
        ("/v1/responses", {"stream": "yes"}, ("openai_responses", "simulated-model", False)),
        ("/v1/messages?beta=true", None, ("anthropic", "simulated-model", False)),
        ("/v1beta/models/g-1:generateContent", {}, ("gemini", "g-1", False)),
        ("/v1/projects/p/locations/l/publishers/google/models/g:streamGenerateContent?alt=sse",
         {}, ("gemini", "g", True)),
        ("/v1beta/models/g-1:streamGenerateContent", {}, None),
        ("/v1/models", None, None),
    ],
)  # fmt: skip
def test_the_format_follows_from_the_path(target, body, expected):
    """Azure's, Vertex's and the providers' own paths are known; others are not guessed."""
    asked = asked_by(target, body, number=1)
    assert (asked and (asked.format, asked.model, asked.stream)) == expected


def paths(value, prefix=""):
    """Return the key paths of a JSON value, lists as `[]`."""
    if isinstance(value, dict):
        found = {f"{prefix}.{k}" for k in value}
        return found.union(*(paths(v, f"{prefix}.{k}") for k, v in value.items()))
    if isinstance(value, list):
        return set().union(*(paths(v, f"{prefix}[]") for v in value))
    return set()


def recorded(real_data, wire):
    """Return the JSON bodies and stream events that a provider sent, as (whole, stream)."""
    name = {"anthropic": "anthropic", "gemini": "gemini"}.get(wire, "openai")
    bodies, events = [], []
    with lzma.open(real_data / "cassettes" / f"{name}.jsonl.xz", "rt") as file:
        for row in map(json.loads, file):
            asked = asked_by(row["path"] + "?alt=sse", row["request"], number=1)
            if row["status"] != 200 or asked is None or asked.format != wire:
                continue
            if isinstance(row["response"], dict):
                bodies.append(row["response"])
                continue
            lines = [x for x in row["response"].splitlines() if x.startswith("data: {")]
            events += [json.loads(x.removeprefix("data: ")) for x in lines]
    return bodies, events


# What is sent here and no recording shows: the provider's reference has it.
NEWER = {"gemini": {".usageMetadata.cachedContentTokenCount"}}


@pytest.mark.parametrize("wire", FORMATS)
def test_every_field_is_one_the_provider_sends(real_data, wire):
    """Key paths of our bodies and events are among those of recorded exchanges."""
    bodies, events = recorded(real_data, wire)
    assert len(bodies) > 20
    assert len(events) > 20
    usage = Usage(input_tokens=9, output_tokens=9, cache_read_tokens=1, reasoning_tokens=1)
    calls = (ToolCall("c", "get_weather", {}),)
    for text in ("On it.", ""):
        reply = Reply(text=text, tool_calls=calls if not text else (), usage=usage)
        known = {p for b in bodies for p in paths(b)} | NEWER.get(wire, set())
        assert paths(whole(reply, wire)) <= known
        known = {p for e in events for p in paths(e)} | NEWER.get(wire, set())
        ours = {p for e in streamed(reply, wire) for p in paths(e)}
        assert ours <= known


@pytest.mark.parametrize("wire", FORMATS)
def test_events_come_in_the_recorded_order(wire):
    """The kinds of events, run together, are those of a recorded stream with text and one call."""
    events = streamed(Reply(text="a b", tool_calls=(CALL,)), wire)
    kinds = [e.get("type", "").removeprefix("response.") for e in events]
    expected = {
        "anthropic": "message_start content_block_start ping content_block_delta "
        "content_block_delta content_block_stop content_block_start content_block_delta "
        "content_block_delta content_block_delta content_block_stop message_delta message_stop",
        "openai_responses": "created in_progress output_item.added content_part.added "
        "output_text.delta output_text.delta output_text.done content_part.done "
        "output_item.done output_item.added function_call_arguments.delta "
        "function_call_arguments.delta function_call_arguments.done output_item.done completed",
    }.get(wire)
    if expected is not None:
        assert kinds == expected.split()
    elif wire == "openai_chat":
        finishes = [c["finish_reason"] for e in events for c in e["choices"]]
        assert finishes == [None] * (len(finishes) - 1) + ["tool_calls"]
        assert events[-1]["choices"] == []
    else:
        finishes = [e["candidates"][0].get("finishReason") for e in events]
        assert finishes == [None] * (len(finishes) - 1) + ["STOP"]

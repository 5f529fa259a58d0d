"""A stream broken at every chunk, through every adapter: whole, or an error; never in between."""

from __future__ import annotations

import pytest
from four_adapters import FORMATS, SDK_WARNING

from towerkit.core.types import Usage
from towerkit.faults import CleanEnd, Cut, Reply, Script, SseError, Stall
from towerkit.faults.steps import step_of
from towerkit.faults.wire import WIRES, Asked, words
from towerkit.reliability.taxonomy import TAXONOMY

pytestmark = pytest.mark.filterwarnings(SDK_WARNING)

TEXT = "It was sent on Monday."
WORDS = words(TEXT)
ENDS = {
    "cut": lambda k: Cut(at_chunk=k),
    "reset": lambda k: Cut(at_chunk=k, reset=True),
    "clean": lambda k: CleanEnd(at_chunk=k),
    "error": lambda k: SseError(at_chunk=k),
}
RIGHT = {
    "cut": {"stream_interrupted"},
    "reset": {"stream_interrupted"},
    "clean": {"stream_truncated"},
    "error": {"upstream_5xx"},
    "stall": {"timeout_read", "stream_interrupted"},
}


def chunks(form):
    """Return how many chunks a whole answer has."""
    asked = Asked(format=form, stream=True, include_usage=True)
    return len(WIRES[form].events(Reply(text=TEXT), asked, WIRES[form].usage(Reply().usage)))


# Events before the first word: a role; created, in_progress, item and part added; message_start,
# block start and ping; nothing.
BEFORE = {"openai_chat": 1, "openai_responses": 4, "anthropic": 3, "gemini": 0}
# Chunks after which the answer is whole, whatever follows. Of the last chunk: `response.completed`,
# `message_stop`. Chat: the usage, with only `[DONE]` after it. Gemini has no event that says it is
# the last: only a stream that ended in good order after a finish reason is whole.
WHOLE_AFTER = {f: chunks(f) for f in FORMATS} | {"openai_chat": chunks("openai_chat") - 1}
# A proper end is enough once the finish reason came: in chat, one chunk before the usage.
CLEAN_AFTER = WHOLE_AFTER | {"openai_chat": chunks("openai_chat") - 2}


def is_whole(form, end, k):
    """Say whether an answer that ends so after `k` chunks is whole."""
    if form == "gemini" and end != "clean":
        return False
    return k >= (CLEAN_AFTER if end == "clean" else WHOLE_AFTER)[form]


def check(done, form, end, k):
    """Hold what an agent may see of a stream that ended so after `k` chunks."""
    sent = WORDS[: max(0, k - BEFORE[form])]
    classes = set(done.attempts["error_class"])
    assert done.hits == done.attempts.height
    if is_whole(form, end, k):
        assert (done.pieces, done.answer.content, done.error) == (WORDS, TEXT, None)
        assert done.attempts["status"].to_list() == ["ok"]
        return
    assert done.answer is None
    assert done.error.tower.error_class in RIGHT[end]
    assert classes <= RIGHT[end]
    assert set(done.attempts["status"]) == {"error"}
    # A connection that breaks may take along what was received and not yet read.
    lossy = end in {"cut", "reset"}
    assert done.pieces == (sent[: len(done.pieces)] if lossy else sent)
    expected = 1 if done.pieces else TAXONOMY[done.error.tower.error_class].attempts
    assert done.attempts.height == expected


def test_the_layout_of_each_stream_is_what_the_tables_here_say():
    """The words begin and the answer is whole where `BEFORE` and `WHOLE_AFTER` have it."""
    for form in FORMATS:
        asked = Asked(format=form, stream=True, include_usage=True)
        events = WIRES[form].events(Reply(text=TEXT), asked, WIRES[form].usage(Reply().usage))
        assert b"It" in events[BEFORE[form]]
        assert not any(b'"It"' in e for e in events[: BEFORE[form]])
    chat = WIRES["openai_chat"]
    asked = Asked(format="openai_chat", stream=True, include_usage=True)
    events = chat.events(Reply(text=TEXT), asked, chat.usage(Reply().usage))
    assert b'"finish_reason":"stop"' in events[CLEAN_AFTER["openai_chat"] - 1]
    assert b'"prompt_tokens"' in events[WHOLE_AFTER["openai_chat"] - 1]
    assert events[-1] == b"data: [DONE]\n\n"


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(("form", "k"), [(f, k) for f in FORMATS for k in range(chunks(f) + 1)])
@pytest.mark.parametrize("end", list(ENDS))
def test_a_stream_broken_at_any_chunk_is_whole_or_an_error(
    tmp_path, adapters, form, end, k, awaited
):
    """Never a success before its terminal event, nothing twice, what came is the beginning."""
    step = step_of(Reply(text=TEXT).with_(ENDS[end](k)))
    done = adapters.ask(tmp_path, form, Script(default=step), stream=True, awaited=awaited)
    check(done, form, end, k)


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("form", "k"),
    [(f, k) for f in FORMATS
     for k in sorted({0, BEFORE[f] + 1, WHOLE_AFTER[f] - 1, WHOLE_AFTER[f]})],
)  # fmt: skip
def test_a_stream_that_stalls_is_whole_or_timed_out(tmp_path, adapters, form, k, awaited):
    """Silence after any chunk is a time-out, unless the answer was whole before it."""
    step = step_of(Reply(text=TEXT).with_(Stall(at_chunk=k)))
    done = adapters.ask(tmp_path, form, Script(default=step), stream=True, awaited=awaited,
                        attempt_timeout_s=0.25)  # fmt: skip
    check(done, form, "stall", k)


@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("form", ["anthropic", "gemini"])
def test_what_the_provider_counted_before_the_break_is_charged(tmp_path, adapters, form, awaited):
    """Anthropic says the input at its begin, Gemini all so far: that stands, marked estimated."""
    reply = Reply(text=TEXT, usage=Usage(input_tokens=4321, output_tokens=500))
    at = BEFORE[form] + 3
    step = step_of(reply.with_(SseError(at_chunk=at)))
    done = adapters.ask(tmp_path, form, Script(default=step), stream=True, awaited=awaited)
    (charge,) = done.run.pack.frame("costs").to_dicts()
    assert done.pieces == WORDS[:3]
    assert (charge["input_tokens"], charge["estimated"]) == (4321, True)
    assert 3 <= charge["output_tokens"] <= 500

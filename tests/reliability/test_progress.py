"""An agent that goes round in circles is noticed; one that polls or works is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.reliability.progress import Progress


def watch(max_steps=100):
    return Progress(max_repeats=3, max_steps=max_steps, max_stale=2)


def ask(progress, request, answer):
    reason = progress.before(request, tool=True)
    progress.after(request, answer)
    return reason


def test_the_same_answer_three_times_is_enough():
    """The fourth equal call is not made."""
    progress = watch()
    assert [ask(progress, "a", "x") for _ in range(3)] == [None] * 3
    assert "same answer 3 times" in ask(progress, "a", "x")


def test_a_failing_call_repeated_is_a_loop_too():
    """No answer three times is the same answer."""
    progress = watch()
    assert [ask(progress, "a", None) for _ in range(3)] == [None] * 3
    assert progress.before("a", tool=True)


def test_polling_is_progress():
    """An answer that changes starts the count anew."""
    progress = watch()
    assert not any(ask(progress, "a", str(i // 2)) for i in range(30))


def test_two_calls_that_alternate_are_noticed():
    """A, B, A, B, A, B with the same answers: the seventh call is not made."""
    progress = watch()
    assert not any(ask(progress, "ab"[i % 2], "x") for i in range(6))
    assert progress.before("a", tool=True)
    assert progress.before("c", tool=True) is None


def test_a_model_may_be_asked_the_same_again():
    """Only tools repeat themselves; steps count for both."""
    progress = watch(max_steps=5)
    for _ in range(5):
        assert progress.before("m", tool=False) is None
    assert "more than 5 calls" in progress.before("m", tool=False)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), max_size=60))
def test_no_call_is_refused_that_was_not_repeated(calls):
    """Fewer than three equal answers in a row of one request are never called a loop."""
    progress, streak = Progress(max_repeats=3, max_steps=1000, max_stale=5), {}
    for request, answer in calls:
        last, count = streak.get(request, (None, 0))
        reason = progress.before(request, tool=True)
        if reason and "same answer" in reason:
            assert count >= 3
        progress.after(request, answer)
        streak[request] = (answer, count + 1 if last == answer else 1)


def test_a_growing_conversation_without_a_new_answer_is_a_loop():
    """Two old answers to a conversation that grew each time; a tool call may still be made."""
    progress = watch()
    for shown in (["a"], ["a", "b"], ["a", "b", "c"]):
        assert progress.before("r", tool=False) is None
        progress.said(shown, "the same")
    assert "grew 2 times" in progress.before("r", tool=False)
    assert progress.before("t", tool=True) is None


@pytest.mark.parametrize(
    "shown",
    [["a"], ["b", "a", "c", "d"], ["a", "b", "c"], []],
    ids=["shorter", "other", "equal", "none"],
)
def test_another_conversation_is_no_loop(shown):
    """Only one that has the last one at its beginning, and is longer, has grown."""
    progress = watch()
    for past in (["a", "b"], ["a", "b", "c"], shown):
        progress.said(past, "the same")
    assert progress.before("r", tool=False) is None


def test_something_new_is_progress():
    """A new answer of the model, or of a tool, begins the count anew; an old one does not."""
    grown = [["a"] * n for n in range(1, 9)]
    progress = watch()
    for shown, answer in zip(grown, "xxyx", strict=False):
        progress.said(shown, answer)
    assert progress.before("r", tool=False) is None
    progress.after("t", "1")
    progress.said(grown[4], "x")
    assert progress.before("r", tool=False) is None
    progress.after("t", "1")
    progress.said(grown[5], "x")
    assert progress.before("r", tool=False)


def test_a_conversation_after_none_has_not_grown():
    """Where nothing was kept of the last one, nothing can be said of growth."""
    progress = watch()
    for shown in ([], ["a"], ["a", "b"]):
        progress.said(shown, "the same")
    assert progress.before("r", tool=False) is None

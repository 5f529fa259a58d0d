"""Scripts: the words compose, and what contradicts itself is refused with a reason."""

from __future__ import annotations

import pytest

from towerkit.core.errors import UsageError
from towerkit.faults import (
    CleanEnd,
    Cut,
    Delay,
    HtmlPage,
    Refuse,
    Reply,
    Script,
    SseError,
    Stall,
    Status,
    Step,
    WrongUsage,
)
from towerkit.faults.steps import script_of, step_of


def test_an_answer_takes_an_end_and_modifiers_in_any_order():
    """The step is the same whichever way it is put together."""
    parts = (Delay(between_chunks_s=0.1), Cut(at_chunk=2), WrongUsage(how="zero"))
    one = Reply(text="x").with_(*parts)
    assert one == Reply(text="x").with_(*reversed(parts))
    assert one == Step(answer=Reply(text="x"), delay=parts[0], end=parts[1], wrong_usage=parts[2])


def test_an_end_alone_is_a_step_on_a_good_reply():
    """A script may name the fault only."""
    assert step_of(Cut(at_chunk=2)) == Reply().with_(Cut(at_chunk=2))
    script = script_of([Status(code=500), Delay(before_headers_s=1)], default=Refuse())
    assert [type(s.answer) for s in (*script.steps, script.default)] == [Status, Reply, Refuse]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Reply().with_(Cut(at_chunk=1), Stall()), "one end"),
        (lambda: Refuse().with_(Cut(at_chunk=1)), "nothing is sent"),
        (lambda: Status(code=500).with_(SseError()), "belongs to a Reply"),
        (lambda: HtmlPage().with_(WrongUsage(how="zero")), "belongs to a Reply"),
        (lambda: Reply().with_(WrongUsage(how="odd")), "missing, zero"),
        (lambda: Reply().with_(Status(code=500)), "an end or a modifier"),
        (lambda: script_of(["cut"]), "an end or a modifier"),
        (lambda: script_of(Script(), default=CleanEnd(at_chunk=1)), "own default"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(make, reason):
    """Two ends, an end of nothing, a modifier of the wrong answer: said when the script is made."""
    with pytest.raises(UsageError, match=reason):
        make()

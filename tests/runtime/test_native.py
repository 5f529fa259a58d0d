"""Objects of other libraries: their plain form, and what an SDK's answer says."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from pathlib import PurePosixPath
from types import SimpleNamespace as Thing

import msgspec
import pydantic
import pytest
from langchain_core.messages import AIMessage

from towerkit.core.types import Response, Usage
from towerkit.runtime.native import plain, read_answer


class Colour(enum.Enum):
    """An enum."""

    RED = "red"


class Text(str):
    """A text of a type of its own."""

    __slots__ = ()

    def __str__(self):
        raise RuntimeError("no")


@dataclasses.dataclass
class Order:
    """A dataclass."""

    number: int
    secret: str = dataclasses.field(default="hidden", repr=False)


class Struct(msgspec.Struct):
    """A struct."""

    inner: object


class Record(pydantic.BaseModel):
    """A pydantic model."""

    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    when: dt.date
    inside: object = None


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({1: [True, None, 1.5, "x"]}, {"1": [True, None, 1.5, "x"]}),
        ((1, {2, 1}, frozenset("a")), [1, [1, 2], ["a"]]),
        (Colour.RED, "red"), (Order(7), {"number": 7}),
        (Struct(Order(7)), {"inner": {"number": 7}}),
        (Record(when=dt.date(2026, 1, 5)), {"when": "2026-01-05", "inside": None}),
        (dt.datetime(2026, 1, 5, tzinfo=dt.UTC), "2026-01-05T00:00:00+00:00"),
        (dt.timedelta(seconds=90), 90.0), (decimal.Decimal("1.10"), "1.10"),
        (PurePosixPath("a/b"), "a/b"), (b"text", "text"), (uuid.UUID(int=1), str(uuid.UUID(int=1))),
    ],
)  # fmt: skip
def test_what_json_can_carry_is_shown_whole(value, shown):
    """By value, nested, and nothing of it is opaque; fields hidden from a repr stay hidden."""
    assert plain(value) == (shown, False)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (object(), "<object>"), ([b"\xff"], ["<bytes>"]), (len, "<builtin_function_or_method>"),
        (Record(when=dt.date(2026, 1, 5), inside=object()),
         {"when": "2026-01-05", "inside": "<object>"}),
        (Text("x"), "<Text>"), (Order, "<type>"),
    ],
)  # fmt: skip
def test_what_it_cannot_is_named_by_its_type(value, shown):
    """And said to be opaque: two of them may look alike and not be."""
    assert plain(value) == (shown, True)


def test_endless_values_end():
    """A list that holds itself twice is cut by depth and by number, quickly."""
    twice = []
    twice += [twice, twice]
    shown, opaque = plain(twice)
    assert opaque
    assert repr(shown).count("[") <= 20_000
    deep = []
    for _ in range(500):
        deep = [deep]
    shown, opaque = plain(deep)
    assert opaque
    assert repr(shown).count("[") <= 21


CASES = [
    (
        {"choices": [{"message": {"content": "hi"}, "finish_reason": "length"}], "model": "m",
         "id": "1", "usage": {"prompt_tokens": 10, "completion_tokens": 5,
                              "prompt_tokens_details": {"cached_tokens": 4},
                              "completion_tokens_details": {"reasoning_tokens": 2}}},
        Response(content="hi", finish_reason="length", model="m", response_id="1", usage=Usage(
            input_tokens=10, output_tokens=5, cache_read_tokens=4, reasoning_tokens=2)),
    ),
    (
        Thing(content=[Thing(text="h"), Thing(type="tool_use"), Thing(text="i")], model="c", id="2",
              stop_reason="end_turn", usage=Thing(input_tokens=10, output_tokens=5,
                                                  cache_read_input_tokens=3,
                                                  cache_creation_input_tokens=2)),
        Response(content="hi", finish_reason="end_turn", model="c", response_id="2", usage=Usage(
            input_tokens=15, output_tokens=5, cache_read_tokens=3, cache_write_tokens=2)),
    ),
    (
        Thing(candidates=[Thing(content=Thing(parts=[Thing(text="hi")]), finish_reason=Colour.RED)],
              model_version="g", response_id="3",
              usage_metadata=Thing(prompt_token_count=10, candidates_token_count=5,
                                   thoughts_token_count=7, cached_content_token_count=1)),
        Response(content="hi", finish_reason="red", model="g", response_id="3", usage=Usage(
            input_tokens=10, output_tokens=12, cache_read_tokens=1, reasoning_tokens=7)),
    ),
    (
        AIMessage(content="hi", id="4", response_metadata={"model_name": "l"}, usage_metadata={
            "input_tokens": 10, "output_tokens": 5, "total_tokens": 15,
            "input_token_details": {"cache_read": 4}}),
        Response(content="hi", model="l", response_id="4", usage=Usage(
            input_tokens=10, output_tokens=5, cache_read_tokens=4)),
    ),
    ("hi", Response(content="hi")),
    (None, Response(content="")),
    (Thing(usage=Thing(prompt_tokens=-1, completion_tokens=2**70)), Response(content="")),
    (Thing(usage="many", choices=[], content=7), Response(content="")),
    (Response(content="own", tier=2), Response(content="own", tier=2)),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "said"), CASES)
def test_an_answer_of_any_format_is_read(answer, said):
    """OpenAI, Anthropic, Gemini, LangChain, text and nonsense; wrong counts are unknown."""
    assert read_answer(answer) == said

"""How many tokens a text has for a model whose tokenizer is not here: a guess that learns."""

from __future__ import annotations

import sys

import pytest

from tests.cost.kinds import KINDS
from towerkit.core.types import Usage
from towerkit.cost import tokens
from towerkit.cost.pieces import EVERY, FIRST, PRIOR, WEIGHT, Ratios, kind_of, rough
from towerkit.cost.tokens import Asked, TokenBook, measure


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_come_near_to_a_vocabulary_of_today(kind):
    """Within a quarter of OpenAI's count, for prose, code, data, Chinese and Japanese."""
    toktok = pytest.importorskip("toktok")
    for text in KINDS[kind]:
        counted = toktok.batch_count([text], "o200k_base", threads=1)[0]
        assert abs(rough(text) - counted) <= counted / 4


@pytest.mark.parametrize(
    ("text", "pieces"),
    [("", 0), ("word", 1), ("eighteen eighteen", 2), ("internationalisation", 1 + 12 / 7),
     ("12", 1), ("1234567", 3), ("...", 1), ("....", 2), ("a b", 2), ("a  b", 3), ("a\nb", 3),
     ("snake_case", 3), ("für", 1), ("über", 1 + 1 / 4.5), ("订单", 1.5), ("A订", 1.75),
     ("🧠", 0.9)],
)  # fmt: skip
def test_a_word_is_a_piece_and_so_are_three_digits_or_signs(text, pieces):
    """One example a rule."""
    assert rough(text) == pytest.approx(pieces)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", "plain"), ("an answer", "plain"), ("eine Rückfrage", "prose"), ('{"a": [1, 2]}', "marks"),
     ("订单的 order", "wide"), ("one 订单 among many words of English", "prose")],
)  # fmt: skip
def test_kinds_of_text(text, kind):
    """By the letters that most of its beginning is made of."""
    assert kind_of(text) == kind


def test_the_kinds_are_told_apart():
    """Six sorts of text, four kinds."""
    assert {name: kind_of(texts[1]) for name, texts in KINDS.items()} == {
        "English": "plain", "German": "prose", "code": "marks", "JSON": "marks",
        "Chinese": "wide", "Japanese": "wide",
    }  # fmt: skip


def test_what_was_seen_outweighs_what_was_assumed_for_its_kind_and_model_alone():
    """Some words weigh as much as the assumption; other kinds and models keep theirs."""
    ratios = Ratios()
    assert ratios.of("Claude-x", "plain") == 1.16
    assert ratios.of("unheard-of", "plain") == PRIOR
    ratios.learn("m", "plain", WEIGHT, 2 * WEIGHT)
    assert ratios.of("m", "plain") == pytest.approx((PRIOR + 2) / 2)
    ratios.learn("m", "plain", 1000, 2000)
    assert ratios.of("m", "plain") == pytest.approx(2, rel=0.01)
    assert ratios.of("m", "marks") == ratios.of("n", "plain") == PRIOR


def test_after_the_first_answers_only_some_are_looked_at():
    """Each of the first, then one in so many, of each model by itself."""
    ratios = Ratios()
    looked = [ratios.wants("m") for _ in range(FIRST + 2 * EVERY)]
    assert (sum(looked), all(looked[:FIRST]), ratios.wants("n")) == (FIRST + 2, True, True)


def test_a_book_learns_from_requests_and_answers_and_shares_what_it_learns():
    """Another run of the tower starts with it; a known tokenizer and tools teach nothing."""
    words = "nine words of plain English are to be counted " * 9
    request = Asked([{"role": "user", "content": words}], ("a",))
    shared = Ratios()
    book = TokenBook(shared)
    size = measure(words)
    book.observed("m", request, Usage(input_tokens=round(3 * size) + 4, output_tokens=0), "")
    assert TokenBook(shared).text("m", words) == pytest.approx(3 * size, rel=0.08)
    book.observed("n", request, Usage(output_tokens=round(2 * size), reasoning_tokens=5), words)
    assert TokenBook(shared).text("n", words) == pytest.approx(2 * size, rel=0.08)
    for asked in (Asked(request.messages, ("a",), b"{}", tools=True),
                  Asked([{"role": "user", "content": [1]}], ("a",))):  # fmt: skip
        book.observed("o", asked, Usage(input_tokens=9_000, output_tokens=0), "")
        assert TokenBook(shared).text("o", words) == round(size * PRIOR)


def test_without_a_tokenizer_pieces_are_what_is_measured(monkeypatch):
    """The extra is not installed: the rough count, by the same ratio."""
    tokens._counter.cache_clear()
    tokens.counter.cache_clear()
    monkeypatch.setitem(sys.modules, "toktok", None)
    assert measure("eighteen eighteen 1234") == 4
    assert TokenBook().text("gpt-4o", "eighteen " * 50) == 50
    tokens._counter.cache_clear()
    tokens.counter.cache_clear()

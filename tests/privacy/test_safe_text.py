"""Text from outside does nothing in a cell or in a chat."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.privacy.safe_text import chat_text, csv_text

TRICKS = st.lists(st.sampled_from([
    "=1+1", "@here", "<!channel>", "<@U123>", "[x](http://a.b)", "![p](//a.b/c)", "http://a.b",
    "\t=x", "www.a.b", "＝1", "+1", "-1", "javascript:x", "\u202e", "\x1b[2J", "\n", " ", "a",
    "|", "`",
])).map("".join)  # fmt: skip


@given(TRICKS | st.text(max_size=40))
def test_no_cell_begins_a_formula(text):
    """Whatever comes first."""
    out = csv_text(text)
    assert not out[:1] or out[0] not in "=+-@\t\r|%＝＋－＠"
    assert "\n" not in out


@given(TRICKS | st.text(max_size=40))
def test_no_mention_link_or_picture_works_in_a_chat(text):
    """No bare at sign, angle bracket, address or unescaped bracket is left."""
    out = chat_text(text)
    assert not set("@<>") & set(out)
    assert not re.search(r"(?i)(https?|mailto|javascript|data):|www\.", out)
    assert not re.search(r"(?<!\\)[\[\]()`*_!]", out)


@pytest.mark.parametrize(("text", "cell"), [("=1+1", "'=1+1"), ("plain", "plain"), ("", "")])
def test_plain_cells_stay(text, cell):
    """Only what could be a formula changes."""
    assert csv_text(text) == cell

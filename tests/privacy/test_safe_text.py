"""Text from outside does nothing on a terminal, in a log or in JSON that is printed."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.privacy.log import Safe, log
from towerkit.privacy.safe_text import clean, json_text, safe_text

TRICKS = st.lists(
    st.sampled_from([
        "\x1b[2J", "\x1b]0;x\x07", "\x9b1m", "\u202e", "\u2066", "\u200b", "\U000e0041", "\r", "\n",
        "\x07", "\x00", "a", " ", "\ufeff", "\x7f",
    ])
).map("".join)  # fmt: skip
HIDDEN = set("\x1b\x9b\u202e\u2066\u200b\U000e0041\r\x07\x00\ufeff\x7f\ud800")


@given(TRICKS | st.text(max_size=40))
def test_nothing_that_hides_or_commands_is_left(text):
    """Terminal sequences, controls, marks of direction, invisible text; `safe_text` is one line."""
    assert not HIDDEN & set(clean(text + "\ud800"))
    assert "\n" not in safe_text(text)


@given(TRICKS | st.text(max_size=40))
def test_printed_json_says_the_same_and_hides_nothing(text):
    """A reader of the JSON gets the text as it was; a terminal gets no command."""
    shown = json_text(json.dumps({"a": text}, ensure_ascii=False))
    assert json.loads(shown) == {"a": text}
    assert not HIDDEN & set(shown)


def test_a_log_line_is_redacted_and_cleaned_and_so_is_its_traceback(caplog):
    """An exception's text repeats what it was given; its frames are not handed on."""
    with caplog.at_level(logging.DEBUG, "towerkit"):
        try:
            int("card 4242 4242 4242 4242 \x1b[2J")
        except ValueError:
            log.exception("no answer for %s\x1b[31m", "ann@example.org")
    (record,) = caplog.records
    assert "4242" not in caplog.text
    assert "ann@" not in caplog.text
    assert "[31m" not in record.getMessage()
    assert "<CARD:log:" in caplog.text
    assert record.exc_info == (ValueError, None, None)


@pytest.mark.parametrize("text", ["plain", "two\nlines", "100 %", ""])
def test_what_is_harmless_is_logged_as_it_is(text):
    """Also with a percent sign and with line ends."""
    record = logging.LogRecord("towerkit", logging.INFO, "", 0, "%s", (text,), None)
    assert Safe().filter(record)
    assert record.getMessage() == text

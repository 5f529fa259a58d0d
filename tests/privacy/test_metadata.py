"""Attributes of spans: what is passed at one look is what every leaf by itself lets pass."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.privacy.instances import CLASSES, text_with
from tests.privacy.test_redact import FRAGMENTS, NAMES
from towerkit.core.canonical import canonical_text, read_json
from towerkit.privacy import redact
from towerkit.privacy.fields import hint_of
from towerkit.privacy.redact import Redactor

PLAIN_NAMES = ["gen_ai.request.model", "gen_ai.usage.input_tokens", "server.address", "n", "note"]
WORDY_NAMES = ["phone call", "birthdayOf", "card count", "bank", "passport_kind", "tax year"]
FLAT = st.one_of(
    st.lists(FRAGMENTS, max_size=4).map("".join), st.integers(-(10**20), 10**20),
    st.integers(0, 10**7), st.floats(), st.booleans(), st.none(),
)  # fmt: skip


def alone(redactor, value):
    """Return the attributes with every one looked at by itself, by a redactor that knows none."""
    return canonical_text(Redactor(redactor.key, kid=redactor.kid).metadata(value))


@given(st.dictionaries(st.sampled_from([*PLAIN_NAMES, *WORDY_NAMES, *NAMES]), FLAT, max_size=8))
def test_one_look_misses_nothing_that_a_look_at_each_would_find(value):
    """Whatever stands beside a value, it comes out as it does alone."""
    redactor = Redactor(b"k" * 32, kid="t")
    assert redactor.metadata_text(value) == alone(redactor, value)
    assert redactor.metadata_text(value) == alone(redactor, value)  # its shape is known now


@pytest.mark.parametrize("name", CLASSES)
def test_no_class_passes_beside_plain_attributes(name):
    """Each class, among the attributes of a model call, under plain names and telling ones."""
    r, redactor = random.Random(f"{name} attributes"), Redactor(b"k" * 32, kid="t")
    for key in (*PLAIN_NAMES, *WORDY_NAMES):
        for _ in range(20):
            told = {"gen_ai.operation.name": "chat", key: text_with(name, r)[0], "retry": False}
            assert redactor.metadata_text(told) == alone(redactor, told)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [("passport_kind", "X123456", "PASSPORT"), ("birthdayOf", "3 March 1980", "DOB"),
     ("driver card", "X12345", "DRIVER_LICENSE")],
)  # fmt: skip
def test_a_name_whose_words_wake_a_row_is_looked_at_by_itself(key, value, found):
    """The number of a passport wakes nothing by itself: the words of its field's name do."""
    redactor = Redactor(b"k" * 32, kid="t")
    assert hint_of(key)
    assert redactor.metadata({"note": value}) == {"note": value}
    assert f"<{found}:t:" in redactor.metadata_text({"gen_ai.system": "x", key: value})


def test_known_secrets_marks_and_plugins_are_asked():
    """What only this redactor knows is found in attributes that the gate lets pass."""
    base = Redactor(b"k" * 32, kid="t", secrets=["plum-jam-and-toast"])
    told = {"note": "the word is plum-jam-and-toast", "shade": "teal"}
    assert "plum" not in base.metadata_text(told)
    marking = base.marking([{"properties": {"shade": {"x-pii": True}}}])
    assert "teal" not in marking.metadata_text(told)
    assert "teal" in base.metadata_text(told)

    class Names:
        def find(self, text):
            return [(0, 4, "COLOUR")] if text.startswith("teal") else []

        def describe(self):
            return "colours"

    assert "teal" not in Redactor(b"k" * 32, kid="t", plugin=Names()).metadata_text(told)


def test_nothing_of_content_is_kept_where_it_is_not_captured():
    """The one look is for `redacted` alone."""
    off = Redactor(b"k" * 32, kid="t", capture="off")
    assert off.metadata_text({"note": "plain words", "n": 3}) == '{"n":3}'


def test_the_one_look_happens_and_what_it_learns_is_bounded(monkeypatch):
    """Plain attributes are not looked at one by one, and shapes are not remembered for ever.

    What ends one text and begins the next is no number and no line's end.
    """
    redactor = Redactor(b"k" * 32, kid="t")
    told = {
        "gen_ai.response.id": "chatcmpl-11", "gen_ai.request.model": "4o-mini-2024",
        "note": "12 of 34", "gen_ai.prompt": "56 plain words, 7", "max_tokens": 4096,
        "temperature": 0.2, "stop": None,
    }  # fmt: skip
    monkeypatch.setattr(Redactor, "_mapping", None)
    assert read_json(redactor.metadata_text(told).encode()) == told
    for n in range(3 * redact._MEMO_SHAPES):
        redactor.metadata_text({f"k{n}": 1})
    assert len(redactor._shapes) <= redact._MEMO_SHAPES

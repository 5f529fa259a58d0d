"""What is sensitive becomes a keyed token; everything else stays as it was."""

from __future__ import annotations

import json
import os
import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towerkit.core.canonical import canonical_json
from towerkit.core.errors import UsageError
from towerkit.privacy import redact
from towerkit.privacy.checks import iban, luhn, ssn
from towerkit.privacy.keys import local_redactor, simulated_redactor
from towerkit.privacy.redact import Redactor
from towerkit.privacy.safe_text import safe_text

REDACTOR = Redactor(b"k" * 32, kid="k1")

SENSITIVE = {
    "EMAIL": "anna.example+x@mail.example.org",
    "CARD": "4242 4242 4242 4242",
    "IBAN": "GB33BUKB20201555555555",
    "SSN": "219-09-9999",
    "PHONE": "+1 415-555-2671",
    "SECRET": "sk-ant-REDACTME0123456789",
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlLWJ5dGVz",
    "BEARER": "Bearer abcdefghijklmnop123456",
}


@pytest.mark.parametrize(("name", "value"), SENSITIVE.items())
@pytest.mark.parametrize("around", ["{}", "see {} now", "a:{};", '{{"k": "{}"}}', "({})"])
def test_each_class_is_found_in_any_surrounding(name, value, around):
    """The value is gone, the class is named, the rest of the text stays."""
    out = REDACTOR.text(around.format(value))
    assert value not in out
    assert f"<{name}:k1:" in out
    assert out.startswith(around.format("\0").split("\0")[0])


@pytest.mark.parametrize(
    "text",
    ["order #W2378156", "item 1151293680 is new", "INV-2026-0012", "2026-01-05T10:00:00",
     "$1,234.56", "4242 4242 4242 4241", "GB33BUKB20201555555556", "666-12-3456", "v1.2.3-rc.4"],
)  # fmt: skip
def test_what_only_looks_similar_stays(text):
    """Ids, dates, amounts and numbers with wrong check digits are evidence, not personal data."""
    assert REDACTOR.text(text) == text


@given(st.lists(st.sampled_from([*SENSITIVE.values(), "plain", " ", "\n", "é", "\ud800"])))
def test_redacting_twice_changes_nothing(parts):
    """Tokens match no detector."""
    once = REDACTOR.text(" ".join(parts))
    assert REDACTOR.text(once) == once
    assert not any(value in once for value in SENSITIVE.values())


def test_tokens_join_within_a_key_and_not_across():
    """One address is one token however it is spelled; another key gives another."""
    assert REDACTOR.text("A@B.org") == REDACTOR.text("a@b.org")
    assert REDACTOR.text("a@b.org") != Redactor(b"j" * 32, kid="k1").text("a@b.org")
    assert REDACTOR.text("a@b.org") != REDACTOR.text("c@b.org")


def test_fields_with_telling_names_go_whatever_they_hold():
    """A password has no shape; its key gives it away, also inside JSON in a string."""
    value = {"password": "hunter2", "n": [{"args": '{"api_key": "x", "k": 1}'}], "note": "ok"}
    out = REDACTOR.value(value)
    assert "hunter2" not in str(out)
    assert '"k":1' in out["n"][0]["args"]
    assert '"x"' not in out["n"][0]["args"]
    assert out["note"] == "ok"
    assert value["password"] == "hunter2"


def test_off_and_digests_are_said_in_the_manifest():
    """A reader of the pack sees what was captured."""
    assert Redactor(b"k" * 32, kid="x", capture="off").describe()["capture"] == "off"


@given(st.text(max_size=200), st.integers(1, 80))
def test_safe_text_is_one_clean_line(text, limit):
    """No control, escape or direction character passes, and the length holds."""
    out = safe_text(text, limit=limit)
    assert len(out) <= limit
    assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or c in "\u202e\u2066" for c in out)


def test_escape_sequences_do_not_reach_a_terminal():
    """Colours, cursor movements and hidden characters from a prompt are gone."""
    assert safe_text("a\x1b[31mb\x9b2Jc\r\nd\u200b\u202e\U000e0041") == "abc d"


def test_the_key_file_is_private_and_stays(monkeypatch, tmp_path):
    """The first use makes a key only its owner can read; the second finds it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    first, second = local_redactor(), local_redactor()
    path = tmp_path / ".config/towerkit/key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert first.key == second.key
    assert first.kid == second.kid != "ephemeral"


def test_without_a_home_the_key_is_ephemeral_and_says_so(monkeypatch):
    """Nothing can be kept: the id in the pack tells that these tokens will not join."""
    monkeypatch.setenv("HOME", os.devnull)
    assert local_redactor().kid == "ephemeral"


def test_a_key_from_the_environment(monkeypatch):
    """64 hexadecimal digits, or one clear sentence."""
    monkeypatch.setenv("TOWERKIT_KEY", "ab" * 32)
    assert local_redactor().key == bytes.fromhex("ab" * 32)
    monkeypatch.setenv("TOWERKIT_KEY", "short")
    with pytest.raises(UsageError, match="64 hexadecimal"):
        local_redactor()


def test_simulated_runs_are_redacted_alike_everywhere():
    """Their data is invented; a public key makes their digests equal on every machine."""
    assert simulated_redactor().text("a@b.org") == simulated_redactor().text("a@b.org")


def test_checksums():
    """The published examples hold and a changed digit does not."""
    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")
    assert iban("DE89370400440532013000")
    assert not iban("DE88370400440532013000")
    assert ssn("219-09-9999")
    assert not ssn("900-09-9999")


FRAGMENTS = st.sampled_from([
    "bob@example.com", "4111 1111 1111 1111", "123-45-6789", "\n", '"', "\\", "\\u0040", "\t",
    "é", "x", 'https://u:p"w"d@h.org/', "sk-proj-abcdefghij0123456789", "\ud800", "7", " ",
    "Bearer abcdefghijklmnopqrst", "DE89370400440532013000", "+1 (555) 123-4567",
    "eyJhbGciOiJI.eyJzdWIiOiIx.abcdefghijk", '{"pass\\u0077ord":"hunter2"}', '{"Api_Key":"zzz"}',
    "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
])  # fmt: skip
TEXTS = st.lists(FRAGMENTS, max_size=6).map("".join)
NAMES = ["password", "api_\u212aey", "Authorization", "DOB", "ssn", "note", "api_key"]
KEYS = st.sampled_from(NAMES) | TEXTS
VALUES = st.recursive(
    TEXTS | st.integers() | st.none() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)  # the first search builds the automata
@given(VALUES)
def test_the_gate_misses_nothing_that_reading_would_find(value):
    """Redacted by its encoded form, a value is what it is when every leaf is looked at."""
    redactor = Redactor(b"k" * 32, kid="t")
    encoded = redactor.json(canonical_json(value), encode=canonical_json)
    spelled = json.loads(canonical_json(value))
    assert encoded == canonical_json(redactor.value(spelled))


def test_runs_share_what_was_searched_and_not_what_was_counted(monkeypatch):
    """A text or a document that one run has searched is not searched again by the next."""
    base = simulated_redactor()
    first, second = base.of_run(), base.of_run()
    body = canonical_json({"note": f"write to {'x' * 30}@example.com, order 4111 1111 1111 1111"})
    told = first.json(body, encode=canonical_json), first.text("mail zoe@example.com")
    assert (first.found > 0, second.found) == (True, 0)

    def again(*_, **__):
        raise AssertionError("searched twice")

    monkeypatch.setattr(Redactor, "_scan", again)
    monkeypatch.setattr(Redactor, "_value", again)
    assert (second.json(body, encode=canonical_json), second.text("mail zoe@example.com")) == told
    assert second.dropped == 0


def test_what_is_remembered_is_bounded_over_all_runs(monkeypatch):
    """One bound for the runs of a tower, not one each."""
    monkeypatch.setattr(redact, "_MEMO_BYTES", 2_000)
    base = Redactor(b"k" * 32, kid="k")
    for n in range(40):
        base.of_run().text(f"ann{n}@example.com " + "word " * 60)
    assert base._memo.size <= 2_000 + 400
    assert sum(len(v or "") for v in base._memo.values()) <= base._memo.size

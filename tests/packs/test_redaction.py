"""A value is removed from a sealed pack; the rest still verifies, and nothing can be hidden so."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import urllib.parse

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.agents import SYSTEM, TASK, agent, make_tower, recorded
from towerkit.core.errors import PackError, UsageError
from towerkit.packs import files, redaction
from towerkit.packs.admissible import reasons
from towerkit.packs.reader import open_pack
from towerkit.packs.redaction import Removal, finish_all, redact
from towerkit.packs.signing import load_signer, make_key, public_key_of
from towerkit.packs.spellings import Spellings
from towerkit.packs.store import Store
from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.writer import manifest_bytes

SECRET = 'Zoë "Zed" O’Hara/7 & söns'


def removal(value=SECRET, **more):
    return Removal(**{"value": value, "at_unix_ns": 5, "salts": os.urandom} | more)


def spellings(value: str) -> list[str]:
    """Return the value as texts spell it: raw, JSON, JSON in JSON, URL, base64 at each place."""
    raw = value.encode()
    return [
        value, json.dumps(value), json.dumps(value, ensure_ascii=False),
        json.dumps(json.dumps(value)), json.dumps(json.dumps(json.dumps(value))),
        value.replace("/", "\\/"), urllib.parse.quote(value), urllib.parse.quote(value, safe=""),
        urllib.parse.quote_plus(value),
        urllib.parse.quote(urllib.parse.quote(value, safe=""), safe=""),
        re.sub("%..", lambda m: m.group().lower(), urllib.parse.quote(value, safe="")),
        *(base64.b64encode(b"x" * n + raw + b"and more").decode() for n in range(4)),
        *(base64.urlsafe_b64encode(b"x" * n + raw).decode().rstrip("=") for n in range(4)),
    ]  # fmt: skip


def told(store, said, **options):
    """Return the pack of a run that was told `said`, as its task and in a message."""
    tower = make_tower(store, **options)
    with tower.run("orders", task={"question": said, "list": [said]}) as run, run.step("ask"):
        agent(run, TASK, system=f"{SYSTEM} {said}")
    return run.pack


def everything(folder) -> bytes:
    """Return all bytes of a pack: of its files, and of its cells."""
    cells = []
    for name in PACK_TABLES:
        for row in pl.read_parquet(folder / f"{name}.parquet").rows():
            cells += [c if isinstance(c, bytes) else str(c).encode() for c in row]
    return b"\0".join([*(p.read_bytes() for p in folder.iterdir()), *cells])


def test_the_value_goes_and_the_digests_stay(tmp_path):
    """Every spelling in every table: gone from all bytes; root as before; the rows are named."""
    pack = told(tmp_path, "\n".join(spellings(SECRET)))
    before = pack.digest
    counts = redact(pack.folder, removal(name="PERSON"))
    after = open_pack(pack.folder)
    assert after.digest == before
    assert sum(counts.values()) == len(after.verify().redacted) > 0
    left = everything(pack.folder)
    for spelt in spellings(SECRET):
        assert spelt.encode() not in left, spelt
    assert b"<PERSON:removed>" in left
    assert b"and more" not in left  # the rest of the base64 it stood in went with it
    assert after.manifest["redactions"] == [{"at_unix_ns": 5, "name": "PERSON", "rows": counts}]
    assert reasons(after) == ()
    assert not list(pack.folder.parent.glob(".*"))


@given(st.text(min_size=4, max_size=30), st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=300, deadline=None)
def test_a_value_is_found_in_every_spelling(value, before, after):
    """Whatever the value and what stands beside it, in each form; then it is gone."""
    forms = Spellings(value)
    for spelt in (
        f"{before}{value}{after}", json.dumps(before + value + after),
        json.dumps(json.dumps(before + value + after)),
        urllib.parse.quote(before + value + after, safe="", errors="surrogatepass"),
        base64.b64encode((before + value + after).encode("utf-8", "surrogatepass")).decode(),
    ):  # fmt: skip
        data = spelt.encode("utf-8", "surrogatepass")
        assert forms.found(data)
        assert not forms.found(forms.replace(data, b"<>"))


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=6), inner, max_size=4),
))  # fmt: skip
def test_json_stays_json(value):
    """A number that holds the value becomes text; what does not hold it stays byte for byte."""
    data = msgspec.json.encode([value, 1234567, {"1234567": "a1234567"}])
    forms = Spellings("34567")
    replaced = forms.replace_json(data, b"<X:removed>")
    msgspec.json.decode(replaced)
    assert not forms.found(replaced)
    other = msgspec.json.encode(value)
    if not forms.found(other):
        assert forms.replace_json(other, b"<X:removed>") == other


def test_the_search_is_linear():
    """A megabyte of what the pattern might begin with takes well under a second each."""
    forms = Spellings("aaaa\\bbbb cccc")
    for text in (b"\\", b"a", b"%61", b"\\\\u006", b"YWFh", b"aaaa\\bbbb ccc"):
        data = (text * (1_000_000 // len(text)))[:1_000_000]
        assert not forms.found(data)


def test_redacting_twice_changes_nothing(tmp_path):
    """Not a byte the second time; another value afterwards adds to what is said."""
    pack = told(tmp_path, f"{SECRET} and second value")
    redact(pack.folder, removal())
    before = everything(pack.folder)
    assert redact(pack.folder, removal()) == {}
    assert everything(pack.folder) == before
    assert redact(pack.folder, removal("second value", at_unix_ns=9))
    again = open_pack(pack.folder)
    assert [r["at_unix_ns"] for r in again.manifest["redactions"]] == [5, 9]
    assert again.verify().redacted
    assert again.digest == pack.digest


def test_the_leaf_it_left_cannot_be_guessed(tmp_path):
    """The salt the row was sealed with is gone: with it the leaf would test guesses."""
    pack = told(tmp_path, SECRET)
    old = {row[-1] for name in PACK_TABLES for row in pack.frame(name).rows()}
    redact(pack.folder, removal())
    after = open_pack(pack.folder)
    new = {row[-1] for name in PACK_TABLES for row in after.frame(name).rows()}
    assert len(old - new) == len(after.redacted)
    left = everything(pack.folder)
    assert not any(salt in left for salt in old - new)


def test_a_signature_holds_and_covers_the_redaction(tmp_path):
    """The pack's holds as before; the redaction is signed with a key, and says so without."""
    key = tmp_path / "key"
    public = public_key_of(make_key(key))
    for name, signer, state in (
        ("a", load_signer(key, store=tmp_path / "a"), "checked"), ("b", None, "none"),
    ):  # fmt: skip
        pack = told(tmp_path / name, SECRET, signing_key=key)
        redact(pack.folder, removal(), signer=signer)
        verified = open_pack(pack.folder).verify([public], allow_unsigned_redactions=name == "b")
        assert (verified.signature, verified.redaction) == ("checked", state)


def forge(folder, **changes):
    """Rewrite a manifest outside its root, with digests that fit."""
    from towerkit.packs.reader import redactions_digest

    path = folder / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes()) | changes
    manifest["redactions_digest"] = redactions_digest(manifest)
    path.write_bytes(manifest_bytes(manifest))


def test_a_change_hidden_as_a_redaction_is_counted_and_unsigned(tmp_path):
    """An attacker can declare a row redacted: with a key that is refused, or allowed by name."""
    key = tmp_path / "key"
    public = public_key_of(make_key(key))
    pack = told(tmp_path / "store", SECRET, signing_key=key)
    redact(pack.folder, removal("Lookup question", name="FAKE"))  # not there: nothing happens
    assert open_pack(pack.folder).verify([public]).redacted == ()
    redact(pack.folder, removal("look orders up", name="FAKE"))
    with pytest.raises(PackError, match="by whom is not signed"):
        open_pack(pack.folder).verify([public])
    verified = open_pack(pack.folder).verify([public], allow_unsigned_redactions=True)
    assert verified.redacted
    assert verified.redaction == "none"
    signature = {"redactions_signature": pack.manifest["signature"]}
    forge(pack.folder, **signature)
    with pytest.raises(PackError, match="signature of the redaction does not hold"):
        open_pack(pack.folder).verify([public])


def rewrite_table(folder, name, frame):
    """Write a table and bring its file's digest up to date."""
    path = folder / f"{name}.parquet"
    frame.write_parquet(path)
    data = path.read_bytes()
    tables = msgspec.json.decode((folder / "manifest.json").read_bytes())["tables"]
    tables[name] |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    forge(folder, tables=tables)


def test_other_changes_of_a_redacted_pack_are_found(tmp_path):
    """Of a redacted row, of its neighbour, and putting the old row back."""
    pack = told(tmp_path / "store", SECRET)
    old = pack.frame("content")
    redact(pack.folder, removal())
    sealed = open_pack(pack.folder)
    content = sealed.frame("content")
    row = next(r.row for r in sealed.redacted if r.table == "content")
    other = next(i for i in range(content.height) if i not in {r.row for r in sealed.redacted})
    saved = {p.name: p.read_bytes() for p in pack.folder.iterdir()}
    for at, value, error in (
        (row, b"other", "not as its redaction left it"),
        (row, old["body"][row], "not as its redaction left it"),
        (other, b"other", "not those of the manifest"),
    ):
        bodies = content["body"].to_list()
        bodies[at] = value
        rewrite_table(pack.folder, "content", content.with_columns(body=pl.Series(bodies)))
        with pytest.raises(PackError, match=error):
            open_pack(pack.folder).verify()
        for name, data in saved.items():
            (pack.folder / name).write_bytes(data)
    open_pack(pack.folder).verify()


def test_what_a_redaction_says_of_itself_cannot_be_edited(tmp_path):
    """When, which class, how many, which row: each edit is found without a key."""
    pack = told(tmp_path, SECRET)
    redact(pack.folder, removal())
    path = pack.folder / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    edits = [
        {"redactions": [manifest["redactions"][0] | {"at_unix_ns": 6}]},
        {"redactions": []},
        {"redactions": manifest["redactions"] * 2},
        {"redactions_digest": "0" * 64},
        {"tables": {n: {k: v for k, v in t.items() if k != "redacted"}
                    for n, t in manifest["tables"].items()}},
    ]  # fmt: skip
    for edit in edits:
        path.write_bytes(manifest_bytes(manifest | edit))
        with pytest.raises(PackError):
            open_pack(pack.folder).verify()


@pytest.mark.parametrize(
    ("value", "where"),
    [("orders", "field identity"), ("completed", "field status"), ("span_id", "names of columns"),
     ("execute_tool", "column gen_ai_operation_name")],
)  # fmt: skip
def test_what_the_root_covers_is_refused_and_nothing_changes(tmp_path, value, where):
    """A value the manifest or the format itself holds cannot go: one sentence, no byte touched."""
    pack = recorded(tmp_path)
    before = everything(pack.folder)
    with pytest.raises(PackError, match=where):
        redact(pack.folder, removal(value))
    assert everything(pack.folder) == before


@pytest.mark.parametrize("more", [{"value": "abc"}, {"name": "a b"}, {"value": "removed"},
                                  {"value": "x" * 10_001}])  # fmt: skip
def test_what_cannot_be_asked_is_one_sentence(tmp_path, more):
    """Too short, too long, a class that is none, a value within its replacement."""
    with pytest.raises(UsageError):
        redact(recorded(tmp_path).folder, removal(**more))


def test_a_broken_pack_is_not_redacted(tmp_path):
    """Its rows would be sealed as they are now."""
    pack = told(tmp_path, SECRET)
    path = pack.folder / "costs.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(PackError, match="the file was changed"):
        redact(pack.folder, removal())


class Killed(BaseException):
    """The process is gone."""


STEPS = ("write_bytes", "write_parquet", "sync_folder", "_check_gone", "exchange", "_swap")


@pytest.mark.parametrize("swaps", [True, False])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_step_there_is_one_whole_pack(tmp_path, monkeypatch, step, swaps, after):
    """Old or new, never neither; the next redaction, or a recovery, ends it and leaves nothing."""
    pack = told(tmp_path, SECRET)
    if not swaps:
        monkeypatch.setattr(redaction, "exchange", lambda one, other: False)
    real = getattr(redaction, step)

    def dies(*args, **kwargs):
        if after:
            real(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(redaction, step, dies)
    monkeypatch.setattr(redaction.shutil, "rmtree", lambda *a, **k: None)  # a killed one cleans not
    with pytest.raises(Killed):
        redact(pack.folder, removal())
    monkeypatch.undo()
    assert open_pack(pack.folder).digest == pack.digest
    assert len(Store(tmp_path).packs()) == 1
    finish_all(tmp_path)
    assert not list(pack.folder.parent.glob(".*"))
    redact(pack.folder, removal())
    assert open_pack(pack.folder).verify().redacted
    assert SECRET.encode() not in everything(pack.folder)


def test_killed_between_two_renames_the_pack_comes_back(tmp_path):
    """Where folders cannot be exchanged, for an instant there is none: it comes back."""
    pack = told(tmp_path, SECRET)
    pack.folder.rename(pack.folder.with_name(f".{pack.folder.name}.redact.old"))
    assert finish_all(tmp_path) == [pack.run_id]
    Store(tmp_path).pack(pack.run_id).verify()


def test_folders_are_exchanged_in_one_step(tmp_path):
    """On this system there is no instant without a pack."""
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert files.exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "a" / "b").exists()
    shutil.rmtree(tmp_path / "b")
    assert not files.exchange(tmp_path / "a", tmp_path / "b")

"""The commands of the lake, and what they say when something is wrong."""

from __future__ import annotations

import json
import sys

import pytest
from click.testing import CliRunner

from tests.agents import recorded
from towerkit import cli
from towerkit.packs.store import Store


def run(*words):
    return CliRunner().invoke(cli.cli, ["pack", *map(str, words)])


def said(capsys, monkeypatch, *words):
    """Return exit code and standard error of the whole command line."""
    monkeypatch.setattr(sys, "argv", ["towerkit", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code, capsys.readouterr().err


def test_a_run_is_compacted_dropped_verified_and_redacted(tmp_path):
    """Every command goes on working when there is only the lake."""
    pack = recorded(tmp_path)
    done = run("compact", "--drop", "--store", tmp_path)
    assert (done.exit_code, done.output[:25]) == (0, "[compact] 1 runs added, 0")
    assert not pack.folder.exists()
    told = run("verify", pack.run_id, "--store", tmp_path)
    assert (told.exit_code, told.output) == (0, "[verify] 1 of 1 packs hold\n")
    assert run("verify", "--store", tmp_path).output == told.output
    assert json.loads(run("ls", "--json", "--store", tmp_path).output)[0]["digest"] == pack.digest
    assert "[telemetry]" in run("show", pack.run_id, "--store", tmp_path).output
    assert "1 of 1 packs are admissible" in run("lint", "--store", tmp_path).output
    asked = ("redact", "--value", "Where is order 7", "--store", tmp_path)
    redacted = run(*asked)
    assert (redacted.exit_code, "1 of 1" in redacted.output) == (0, True)
    assert "0 of 1" in run(*asked).output
    assert list(tmp_path.glob(".redact*")) == []
    after = run("verify", pack.run_id, "--store", tmp_path)
    assert (after.exit_code, "rows redacted" in after.output) == (0, True)
    again = json.loads(run("compact", "--json", "--store", tmp_path).output)
    assert (again["added"], again["problems"]) == ([], {})


def test_a_redaction_of_a_pack_reaches_the_lake_at_once(tmp_path):
    """The pack is still there, and the command redacts it in both."""
    pack = recorded(tmp_path)
    run("compact", "--store", tmp_path)
    assert run("redact", "--value", "Where is order 7", "--store", tmp_path).exit_code == 0
    run("compact", "--drop", "--store", tmp_path)
    assert Store(tmp_path).folders() == []
    assert "rows redacted" in run("verify", pack.run_id, "--store", tmp_path).output


def test_a_changed_lake_is_found(tmp_path):
    """`verify` says which run does not hold, and exits 1."""
    pack = recorded(tmp_path)
    run("compact", "--drop", "--store", tmp_path)
    path = next((tmp_path / "lake" / "costs").rglob("*.parquet"))
    other = tmp_path / "other"
    recorded(other, order=13)
    run("compact", "--drop", "--store", other)
    path.write_bytes(next((other / "lake" / "costs").rglob("*.parquet")).read_bytes())
    told = run("verify", "--store", tmp_path)
    assert told.exit_code == 1
    assert pack.run_id in told.output


def test_packs_are_published(tmp_path):
    """Into a folder as onto an object store."""
    recorded(tmp_path / "s")
    done = run("publish", "--to", tmp_path / "out", "--store", tmp_path / "s")
    assert (done.exit_code, "1 packs published" in done.output) == (0, True)
    assert (
        "1 there already"
        in run("publish", "--to", tmp_path / "out", "--store", tmp_path / "s").output
    )


def test_mistakes_are_said_in_one_sentence(tmp_path, capsys, monkeypatch):
    """No packs, a URL of another kind, no --to, no extra: a sentence and the right exit code."""
    code, text = said(capsys, monkeypatch, "pack", "compact", "--store", tmp_path / "none")
    assert (code, "nothing to compact" in text) == (2, True)
    recorded(tmp_path)
    for url in ("gs://bucket/lake", "s3://", "http://host/lake", "s3://b/../x"):
        code, text = said(capsys, monkeypatch, "pack", "compact", "--to", url, "--store", tmp_path)
        assert (code, "expected a folder or a URL such as s3://" in text) == (2, True), url
    code, text = said(capsys, monkeypatch, "pack", "compact", "--store", "s3://bucket/x")
    assert (code, "need --to" in text) == (2, True)
    monkeypatch.setitem(sys.modules, "deltalake", None)
    monkeypatch.setitem(sys.modules, "obstore", None)
    code, text = said(capsys, monkeypatch, "pack", "compact", "--store", tmp_path)
    assert (code, "install towerkit[lake]" in text, text.count("\n")) == (2, True, 1)
    assert not (tmp_path / "lake").exists()
    assert run("verify", "--store", tmp_path).exit_code == 0  # without a lake nothing needs it

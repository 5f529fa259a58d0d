"""The commands that sign, redact and verify packs."""

from __future__ import annotations

import shutil

from click.testing import CliRunner

from tests.agents import recorded
from towerkit.cli import cli
from towerkit.packs.reader import open_pack
from towerkit.packs.signing import public_key_of


def run(*words):
    return CliRunner().invoke(cli, ["pack", *map(str, words)])


def test_a_key_is_made_a_value_removed_and_the_pack_verified(tmp_path):
    """The value is in no byte, the root stays, the second time finds nothing, verify says so."""
    made = run("keygen", tmp_path / "key")
    assert made.exit_code == 0
    public = made.output.strip()
    assert public_key_of(public)
    assert run("keygen", tmp_path / "key").exit_code != 0
    store = tmp_path / "s"
    pack = recorded(store, signing_key=tmp_path / "key")
    asked = ("redact", "--value", "Where is order 7", "--store", store)
    assert any(b"Where is order 7" in body for body in pack.bodies.values())
    done = run(*asked)
    assert (done.exit_code, "1 of 1" in done.output) == (0, True)
    assert "0 of 1" in run(*asked).output
    assert open_pack(pack.folder).digest == pack.digest
    assert not any(b"Where is order" in path.read_bytes() for path in pack.folder.iterdir())
    for how in ((), ("--key", public, "--allow-unsigned-redactions")):
        told = run("verify", *how, "--store", store)
        assert (told.exit_code, "rows redacted (not signed)" in told.output) == (0, True)
    other = run("keygen", tmp_path / "other").output.strip()
    assert run("verify", "--key", other, "--store", store).exit_code == 1


def test_with_a_key_a_redaction_that_nobody_signed_does_not_hold(tmp_path):
    """Exit 1 with the reason, unless it is allowed; a signed one holds; allowing needs a key."""
    public = run("keygen", tmp_path / "key").output.strip()
    store = tmp_path / "s"
    recorded(store, signing_key=tmp_path / "key")
    asked = ("redact", "--value", "Where is order 7", "--store", store)
    signed = {"TOWERKIT_SIGNING_KEY": str(tmp_path / "key")}
    shutil.copytree(store, tmp_path / "t")
    assert CliRunner().invoke(cli, ["pack", *map(str, asked)], env=signed).exit_code == 0
    told = run("verify", "--key", public, "--store", store)
    assert (told.exit_code, "rows redacted (signed)" in told.output) == (0, True)
    assert run(*asked[:-1], tmp_path / "t").exit_code == 0
    told = run("verify", "--key", public, "--store", tmp_path / "t")
    assert (told.exit_code, "by whom is not signed" in told.stderr) == (1, True)
    assert "0 of 1 packs hold" in told.output
    allowed = ("verify", "--allow-unsigned-redactions", "--store", tmp_path / "t")
    assert run(*allowed, "--key", public).exit_code == 0
    assert "goes with --key" in str(run(*allowed).exception)

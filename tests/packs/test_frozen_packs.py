"""Packs of every released format version open, verify, mean what they meant, and replay."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.conftest import REPOSITORY
from tests.frozen_packs import agents_v1
from tests.frozen_packs.make import values_digest
from towerkit.cli import cli
from towerkit.packs.admissible import reasons
from towerkit.packs.digest import pack_root, table_root
from towerkit.packs.reader import open_pack
from towerkit.packs.signing import public_key_of
from towerkit.packs.store import Store
from towerkit.packs.summary import summarise
from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.validate import check_with_pandera
from towerkit.privacy.redact import REDACTOR_VERSION
from towerkit.replay import replay

FROZEN = REPOSITORY / "tests" / "frozen_packs"
AGENTS = {"v1": agents_v1}
STORES = {p.name: p for p in sorted(FROZEN.glob("v*")) if p.is_dir()}
EXPECTED = {v: json.loads((p / "expected.json").read_text()) for v, p in STORES.items()}
PACKS = [(v, name) for v, said in EXPECTED.items() for name in said["packs"]]
REPLAYED = [(v, name) for v, name in PACKS if EXPECTED[v]["packs"][name]["replays"]]


def test_every_released_version_is_here():
    """A folder that is lost, or has a pack that nobody expects, is found."""
    assert STORES.keys() == AGENTS.keys()
    for version, store in STORES.items():
        said = EXPECTED[version]["packs"]
        assert said.keys() == AGENTS[version].RUNS.keys()
        assert {p.name for p in Store(store).folders()} == {s["run_id"] for s in said.values()}


@pytest.mark.parametrize(("version", "name"), PACKS)
def test_a_frozen_pack_is_what_it_was(version, name):
    """Same bytes, same root, same values, same judgement; and Pandera takes every table."""
    said = EXPECTED[version]["packs"][name]
    pack = Store(STORES[version]).pack(said["run_id"])
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in pack.folder.iterdir()}
    assert files == said["files"]
    assert pack.digest == pack_root(pack.manifest) == said["root"]
    signed = said["signature"] == "checked"
    keys = [public_key_of(EXPECTED[version]["public_key"])] if signed else []
    verified = pack.verify(keys, allow_unsigned_redactions=True)
    assert (verified.signature, verified.redaction) == (said["signature"], said["redaction"])
    assert [[r.table, r.row] for r in verified.redacted] == said["redacted"]
    touched = {table for table, _ in said["redacted"]}
    for table, entry in pack.manifest["tables"].items():
        frame = pack.frame(table)
        assert (table_root(frame.rows()) == entry["root"]) == (table not in touched)
        assert values_digest(pack, table) == said["values"][table]
        check_with_pandera(frame, PACK_TABLES[table], where=table)
    assert [reason.partition(":")[0] for reason in reasons(pack)] == said["broken_rules"]
    assert summarise(pack).status == pack.manifest["status"] == said["status"]


@pytest.mark.parametrize(("version", "name"), REPLAYED)
def test_a_frozen_pack_replays(version, name):
    """Equal, by the code it was recorded from, also where newer detectors redact; that is said."""
    pack = Store(STORES[version]).pack(EXPECTED[version]["packs"][name]["run_id"])
    _, agent = AGENTS[version].RUNS[name]
    exceptions = {"LookupFailed": AGENTS[version].LookupFailed}
    report = replay(pack, agent, exceptions=exceptions)
    assert (report.equal, report.divergence) == (True, None)
    newer = pack.manifest["redactor"]["version"] != REDACTOR_VERSION
    assert any("detectors" in what for what in report.changed) == newer
    assert report.spans_replayed == pack.frame("spans").height > 1


@pytest.mark.parametrize("version", STORES)
def test_a_frozen_store_is_read_as_any_other(version):
    """The commands find every pack, and a score is of the pack it was given to."""
    said = EXPECTED[version]["packs"]
    done = CliRunner().invoke(cli, ["pack", "verify", "--store", str(STORES[version])])
    assert (done.exit_code, f"{len(said)} of {len(said)} packs hold" in done.output) == (0, True)
    scored = Store(STORES[version]).pack(said["scored"]["run_id"])
    scores = Store(STORES[version]).scores([scored])
    assert scores.select("metric", "value", "note").rows() == [("resolved", 0.1, "é")]


def test_what_was_removed_is_in_no_byte_of_the_redacted_packs():
    """And stands in the pack of the same task that was not redacted."""
    held = {
        name: agents_v1.REMOVED.encode()
        in b"".join(bytes(b) for b in Store(STORES["v1"]).pack(said["run_id"]).bodies.values())
        for name, said in EXPECTED["v1"]["packs"].items()
    }
    assert held["unicode"]
    assert not any(held[name] for name in held if name.startswith("redacted"))


def test_a_released_folder_is_never_written_again():
    """The script that makes frozen packs refuses, and changes no byte."""
    before = {p: p.read_bytes() for p in STORES["v1"].rglob("*") if p.is_file()}
    done = subprocess.run([sys.executable, FROZEN / "make.py"], capture_output=True, text=True,
                          check=False, timeout=120)  # fmt: skip
    assert (done.returncode, "stay as they are" in done.stderr) == (1, True)
    assert {p: p.read_bytes() for p in STORES["v1"].rglob("*") if p.is_file()} == before


@pytest.mark.parametrize("member", ["manifest.json", "spans.parquet", "content.parquet"])
def test_a_changed_frozen_pack_is_found(tmp_path, member):
    """What is asserted above can fail: one changed byte is a `PackError`."""
    folder = Store(STORES["v1"]).pack(EXPECTED["v1"]["packs"]["success"]["run_id"]).folder
    copy = Path(tmp_path) / folder.name
    copy.mkdir()
    for path in folder.iterdir():
        data = bytearray(path.read_bytes())
        if path.name == member:
            data[len(data) // 2] ^= 1
        (copy / path.name).write_bytes(data)
    with pytest.raises(Exception, match=r"changed|manifest") as caught:
        open_pack(copy).verify()
    assert type(caught.value).__name__ == "PackError"

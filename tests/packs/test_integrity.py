"""Whatever is changed in a pack is found, what is signed is checked, what is removed is gone."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tests.agents import recorded
from tests.packs.mutations import KINDS, World, signed_packs
from towerkit.cli import cli
from towerkit.core.errors import PackError, UsageError
from towerkit.packs.admissible import reasons
from towerkit.packs.reader import open_pack
from towerkit.packs.signing import make_key, public_key_of


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return three signed packs to change copies of."""
    root = tmp_path_factory.mktemp("mutations")
    folders, public = signed_packs(root, 3)
    return World(folders, public, root / "copies")


@pytest.mark.parametrize("block", range(4))
def test_every_mutation_is_found(world, block):
    """And by `PackError`, never by another error; 100,000 in tests/longer/pack_mutations.py."""
    kinds, missed = set(), []
    for seed in range(block * 300, block * 300 + 300):
        kind, found = world.found(seed)
        kinds.add(kind)
        if found is False:
            missed.append((seed, kind))
    assert missed == []
    assert len(kinds) > len(KINDS) // 2


def test_the_copies_hold_until_they_are_changed(world):
    """What the mutations begin from verifies, with its signature."""
    for i in range(3):
        world.dirty.add(i)
        open_pack(world.copy(i)).verify([world.public])


def test_a_signature_is_checked_by_its_key_and_no_other(tmp_path):
    """Without a key the digests are checked and nothing is claimed of the signature."""
    mine = public_key_of(make_key(tmp_path / "mine"))
    other = public_key_of(make_key(tmp_path / "other"))
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o600
    signed = recorded(tmp_path / "s", signing_key=tmp_path / "mine")
    assert open_pack(signed.folder).verify([mine]).signature == "checked"
    assert open_pack(signed.folder).verify().signature == "not checked"
    with pytest.raises(PackError):
        open_pack(signed.folder).verify([other])
    bare = recorded(tmp_path / "t")
    assert open_pack(bare.folder).verify().signature != "checked"
    with pytest.raises(PackError):
        open_pack(bare.folder).verify([mine])


def test_a_key_is_not_made_over_another(tmp_path):
    """A key that is there already is left alone, with a sentence and exit code 2."""
    first = CliRunner().invoke(cli, ["pack", "keygen", str(tmp_path / "key")])
    assert first.exit_code == 0
    assert public_key_of(first.output.strip())
    with pytest.raises(UsageError):
        make_key(tmp_path / "key")


def test_a_removed_value_is_in_no_byte_and_the_root_still_holds(tmp_path):
    """In every table; removing it again changes nothing; another change is still found."""
    public = public_key_of(make_key(tmp_path / "key"))
    pack = recorded(tmp_path / "s", signing_key=tmp_path / "key")
    store = str(tmp_path / "s")
    assert any(b"Where is order 7" in body for body in pack.bodies.values())
    remove = ["pack", "redact", "--value", "Where is order 7", "--store", store]
    done = CliRunner().invoke(cli, remove)
    assert done.exit_code == 0, done.output
    assert "1 of 1" in done.output
    again = open_pack(pack.folder)
    assert again.digest == pack.digest
    verified = again.verify([public])
    assert verified.redacted
    assert not any(b"Where is order 7" in body for body in again.bodies.values())
    assert not any(b"Where is order" in p.read_bytes() for p in pack.folder.iterdir())
    assert "0 of 1" in CliRunner().invoke(cli, remove).output
    told = CliRunner().invoke(cli, ["pack", "verify", "--store", store])
    assert "rows redacted" in told.output
    manifest = pack.folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"trial": null', b'"trial": 3'))
    with pytest.raises(PackError):
        open_pack(pack.folder).verify([public])


def test_a_recorded_run_is_evidence(tmp_path):
    """A whole run gives no reason against it, and lint says so."""
    pack = recorded(tmp_path)
    assert reasons(pack) == ()
    done = CliRunner().invoke(cli, ["pack", "lint", "--store", str(tmp_path)])
    assert (done.exit_code, "1 of 1 packs are admissible" in done.output) == (0, True)


@pytest.mark.parametrize(
    ("table", "row", "column", "value"),
    [("costs", 0, "input_tokens", 7), ("spans", 2, "duration_ns", 10**15),
     ("spans", 3, "parent_span_id", "00000000000000aa"),
     ("inputs", 1, "response_digest", "0" * 32)],
)  # fmt: skip
def test_tables_that_disagree_are_no_evidence(tmp_path, table, row, column, value):
    """A pack whose digests hold and whose tables do not fit each other is inadmissible."""
    from towerkit.packs.store import Store
    from towerkit.packs.tables import PACK_TABLES
    from towerkit.packs.writer import Draft

    pack = recorded(tmp_path / "a")
    rows = {n: [list(r[:-1]) for r in pack.frame(n).rows()] for n in PACK_TABLES}
    rows[table][row][PACK_TABLES[table].names.index(column)] = value
    head = {k: v for k, v in pack.manifest.items() if k not in {"format", "tables", "root"}}
    draft = Draft(
        manifest=head, salt_seed=b"s", **{n: [tuple(r) for r in v] for n, v in rows.items()}
    )
    changed = Store(tmp_path / "b").commit(draft, durable=False)
    open_pack(changed.folder).verify()
    assert reasons(changed)
    done = CliRunner().invoke(cli, ["pack", "lint", "--store", str(tmp_path / "b")])
    assert done.exit_code == 1
    assert "inadmissible" in done.output

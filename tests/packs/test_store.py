"""A pack is whole or absent, immutable, and any change to it is found before it is used."""

from __future__ import annotations

import os
import stat

import msgspec
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agents import recorded
from towerkit.core.errors import PackError, SelectionError, StoreError
from towerkit.packs.digest import leaf, merkle_root, table_root
from towerkit.packs.selection import parse_selection
from towerkit.packs.store import Store, open_pack
from towerkit.packs.tables import PACK_TABLES, SCORES
from towerkit.packs.writer import clean_temporaries, manifest_bytes


def score(pack, **more):
    row = {
        "run_id": pack.run_id, "pack_digest": pack.digest, "eval_id": "e", "scenario": "orders",
        "release": "dev", "suite": "golden", "case_id": "c", "trial": 0, "metric": "resolved",
        "value": 1.0, "scored": True, "primary": True, "contradicted": False, "simulated": True,
    }  # fmt: skip
    return SCORES.make(**(row | more))


def test_a_pack_reads_back_and_verifies(tmp_path):
    """Every table has its rows, in canonical columns, and the whole verifies."""
    pack = recorded(tmp_path)
    again = Store(tmp_path).pack(pack.run_id)
    again.verify()
    for name, table in PACK_TABLES.items():
        frame = again.frame(name)
        assert frame.columns == list(table.names)
        assert frame.height == again.manifest["tables"][name]["rows"] > 0


def test_only_the_owner_can_read(tmp_path):
    """Files are 0600 and folders 0700, whatever the umask."""
    old = os.umask(0)
    try:
        pack = recorded(tmp_path / "store")
    finally:
        os.umask(old)
    assert stat.S_IMODE(pack.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(p.stat().st_mode) for p in pack.folder.iterdir()} == {0o600}


def test_the_same_run_again_changes_nothing(tmp_path):
    """Committing an equal pack is a success; no byte of the first is touched."""
    first = recorded(tmp_path)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in first.folder.iterdir()}
    second = recorded(tmp_path)
    assert second.digest == first.digest
    assert {
        p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in first.folder.iterdir()
    } == before


def test_another_run_under_the_same_id_is_refused(tmp_path):
    """Packs are immutable: other content under a stored id is an error, and the first stays."""
    pack = recorded(tmp_path)
    manifest = pack.folder / "manifest.json"
    changed = msgspec.json.decode(manifest.read_bytes()) | {"root": "0" * 64}
    manifest.write_bytes(msgspec.json.encode(changed))
    tower_run = recorded(tmp_path)
    assert tower_run is None
    assert msgspec.json.decode(manifest.read_bytes())["root"] == "0" * 64


@pytest.mark.parametrize("name", ["manifest.json", *(f"{n}.parquet" for n in PACK_TABLES)])
def test_every_changed_removed_or_added_file_is_found(tmp_path, name):
    """A flipped bit, a truncation, a missing and a foreign file all raise, at each file."""
    pack = recorded(tmp_path)
    path = pack.folder / name
    data = path.read_bytes()
    half = len(data) // 2
    mutations = [
        data[:-1],
        data[:half],
        data + b"\0",
        b"",
        data[:half] + bytes([data[half] ^ 1]) + data[half + 1 :],
    ]
    for mutated in mutations:
        path.write_bytes(mutated)
        with pytest.raises(PackError):
            open_pack(pack.folder).verify()
    path.unlink()
    with pytest.raises(PackError):
        open_pack(pack.folder).verify()
    path.write_bytes(data)
    open_pack(pack.folder).verify()
    (pack.folder / "extra.txt").write_text("x")
    with pytest.raises(PackError, match=r"extra\.txt"):
        open_pack(pack.folder).verify()


def test_a_rewritten_manifest_does_not_hold(tmp_path):
    """Changing what ran breaks the root even when all files are as they were."""
    pack = recorded(tmp_path)
    path = pack.folder / "manifest.json"
    forged = msgspec.json.decode(path.read_bytes())
    forged["identity"]["release"] = "other"
    path.write_bytes(manifest_bytes(forged))
    with pytest.raises(PackError, match="root does not hold"):
        open_pack(pack.folder).verify()


def test_a_link_is_not_followed(tmp_path):
    """A pack's file that is a symbolic link out of the store is refused."""
    pack = recorded(tmp_path)
    path = pack.folder / "spans.parquet"
    target = tmp_path / "elsewhere.parquet"
    path.rename(target)
    path.symlink_to(target)
    with pytest.raises(PackError):
        open_pack(pack.folder).frame("spans")


def test_footers_hold_no_statistics_and_no_prompt(tmp_path):
    """Minima and maxima would repeat text in clear; there are none."""
    pack = recorded(tmp_path)
    for name in PACK_TABLES:
        meta = pq.read_metadata(pack.folder / f"{name}.parquet")
        for group in range(meta.num_row_groups):
            for column in range(meta.num_columns):
                assert meta.row_group(group).column(column).statistics is None
    everything = b"".join(p.read_bytes() for p in pack.folder.iterdir())
    assert b"ann@example.com" not in everything


def test_a_digest_is_over_values_not_bytes(tmp_path):
    """Rewriting a table with another compression keeps its root."""
    pack = recorded(tmp_path)
    frame = pack.frame("spans")
    frame.write_parquet(tmp_path / "again.parquet", compression="snappy", row_group_size=3)
    rows = pl.read_parquet(tmp_path / "again.parquet").rows()
    assert table_root(rows) == pack.manifest["tables"]["spans"]["root"]


@given(st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=9, unique=True), st.data())
def test_the_merkle_root_depends_on_every_leaf_and_its_place(values, data):
    """Changing, dropping or swapping a leaf changes the root."""
    leaves = [leaf(b"s" * 16, (v,)) for v in values]
    root = merkle_root(leaves)
    at = data.draw(st.integers(0, len(leaves) - 1))
    assert merkle_root(leaves[:at] + leaves[at + 1 :]) != root
    assert merkle_root([*leaves[:at], leaf(b"t" * 16, (values[at],)), *leaves[at + 1 :]]) != root
    if len(leaves) > 1:
        assert merkle_root([*leaves[1:], leaves[0]]) != root


def test_packs_of_another_format_are_refused_by_name(tmp_path):
    """The sentence says which format it is and what to do."""
    pack = recorded(tmp_path)
    path = pack.folder / "manifest.json"
    path.write_bytes(msgspec.json.encode(pack.manifest | {"format": 2}))
    with pytest.raises(PackError, match="format 2, this towerkit reads 1"):
        open_pack(pack.folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"format": 1}', b'"x"', b"\xff"])
def test_a_broken_manifest_is_one_sentence(tmp_path, text):
    """Whatever stands in the file, the answer is a PackError."""
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(PackError, match="manifest"):
        open_pack(tmp_path)


def test_selections_select(tmp_path):
    """Each key narrows; nothing matching lists what the store holds."""
    store = Store(tmp_path)
    a, b = recorded(tmp_path, release="a"), recorded(tmp_path, release="b", seed=2)
    assert [p.run_id for p in store.select("release=a")] == [a.run_id]
    assert {p.run_id for p in store.select("scenario=orders")} == {a.run_id, b.run_id}
    assert [p.run_id for p in store.select(f"run_id={b.run_id}")] == [b.run_id]
    assert len(store.select("since=2026-01-05,until=2026-01-06")) == 2
    assert len(store.select("")) == 2
    for text in ("release=c", "since=2026-01-06", "until=2026-01-05", "eval=x"):
        with pytest.raises(SelectionError, match=r"release=a,scenario=orders \(1\)"):
            store.select(text)


@pytest.mark.parametrize(
    "text",
    [
        "relase=a",
        "release",
        "release=",
        "=a",
        "since=yesterday",
        "release=a,release=b",
        "release=a;x",
    ],
)
def test_a_malformed_selection_is_refused(text):
    """A typing mistake is never an empty or a full selection. A semicolon is part of a name."""
    if text == "release=a;x":
        assert parse_selection(text).release == "a;x"
        return
    with pytest.raises(SelectionError):
        parse_selection(text)


def test_an_empty_or_unreadable_store_says_so(tmp_path):
    """No store is no runs; a file in its place is an error."""
    with pytest.raises(SelectionError, match="no runs"):
        Store(tmp_path / "none").select("release=a")
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="a file, not a folder"):
        Store(tmp_path / "file").select("")


def test_names_from_outside_open_nothing_outside(tmp_path):
    """A run id is looked up, never joined to a path."""
    pack = recorded(tmp_path / "store")
    for name in ("../../etc/passwd", "..", "/etc", pack.run_id + "/..", "%2e%2e"):
        with pytest.raises(SelectionError):
            Store(tmp_path / "store").pack(name)


def test_scores_count_only_for_the_pack_they_were_given_to(tmp_path):
    """A score of another digest is not this run's; the same batch twice is one batch."""
    store, pack = Store(tmp_path), recorded(tmp_path)
    first = store.add_scores([score(pack), score(pack, metric="utility", primary=False)])
    assert store.add_scores([score(pack, metric="utility", primary=False), score(pack)]) == first
    store.add_scores([score(pack, pack_digest="0" * 64, value=0.0)])
    assert store.scores([pack])["value"].to_list() == [1.0, 1.0]


def test_a_changed_score_file_is_found(tmp_path):
    """A batch is named by its content."""
    store, pack = Store(tmp_path), recorded(tmp_path)
    path = store.add_scores([score(pack, value=0.0)])
    pl.read_parquet(path).with_columns(value=pl.lit(1.0)).write_parquet(path)
    with pytest.raises(PackError, match="was changed"):
        store.scores([pack])


def test_a_store_that_cannot_be_written_is_one_sentence(tmp_path, caplog):
    """The agent goes on, the run says what was lost, nothing half-written stays."""
    (tmp_path / "file").write_text("x")
    assert recorded(tmp_path / "file") is None
    assert "could not be stored" in caplog.text


def test_what_a_killed_writer_left_is_cleaned(tmp_path):
    """Old temporary folders go, young ones and packs stay."""
    pack = recorded(tmp_path)
    left = pack.folder.parent / ".x.1.tmp"
    left.mkdir()
    assert clean_temporaries(tmp_path) == 0
    os.utime(left, (1, 1))
    assert clean_temporaries(tmp_path) == 1
    pack.verify()

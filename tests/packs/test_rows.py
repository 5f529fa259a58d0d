"""Large tables and large content are read part by part, and verified as small ones are."""

from __future__ import annotations

import json

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.agents import make_tower
from tests.packs.broken import Open
from tests.packs.hostile_files import replace
from towerkit.core.errors import PackError
from towerkit.packs import blocks, bodies, encode, rows
from towerkit.packs.bodies import Bodies
from towerkit.packs.digest import GrowingRoot, merkle_root
from towerkit.packs.reader import open_pack
from towerkit.packs.redaction import Removal, redact
from towerkit.packs.rows import FrameRows, HeldRows, PagedRows
from towerkit.packs.tables import PACK_TABLES

COUNT = 40


@pytest.fixture
def parts(monkeypatch):
    """Make every table a large one, in parts of seven rows, of which two are in memory."""
    monkeypatch.setattr(encode, "PAGE_ROWS", 7)
    monkeypatch.setattr(rows, "PART_ROWS", 7)
    monkeypatch.setattr(rows, "PARTS", 2)
    monkeypatch.setattr(rows, "SMALL_ROWS", 0)
    monkeypatch.setattr(blocks, "_BLOCK", 64)


@pytest.fixture
def pack(parts, tmp_path):
    """Return a pack with many rows on its tape."""
    with make_tower(tmp_path / "store").run("reader", task={"n": COUNT}) as run:
        for i in range(COUNT):
            run.reading("note", lambda i=i: {"note": i, "text": f"word-{i:03d}" * (i % 4)})
    return run.pack


def flat(table):
    """Return all rows of a table that is given in parts."""
    return [row for part in table.parts() for row in part]


@given(st.integers(0, 70), st.integers(1, 9))
def test_a_root_that_grows_is_the_root_of_the_whole(count, step):
    """Whatever the number of leaves and in what portions they come."""
    leaves = [bytes([i]) * 32 for i in range(count)]
    grown = GrowingRoot()
    for at in range(0, count, step):
        grown.add(leaves[at : at + step])
    assert (grown.leaves, grown.root()) == (count, merkle_root(leaves))


@pytest.mark.parametrize("name", sorted(PACK_TABLES))
def test_parts_are_the_whole_table(pack, name):
    """In its order, with its salts; each row comes back by its place."""
    whole, table = pack.frame(name).rows(), pack.rows(name)
    if not whole:
        return
    assert isinstance(table, PagedRows)
    assert len(table) == len(whole)
    assert flat(table) == whole
    assert [table[i] for i in (len(whole) - 1, 0, len(whole) // 2)] == [
        whole[-1], whole[0], whole[len(whole) // 2],
    ]  # fmt: skip


def test_a_table_is_read_in_parts(pack, monkeypatch):
    """No file that is decoded holds more rows than a part, and two parts are in memory."""
    heights = []
    decode = rows.read

    def watched(data, *, where):
        frame = decode(data, where=where)
        heights.append(frame.height)
        return frame

    monkeypatch.setattr(rows, "read", watched)
    table = pack.rows("inputs")
    assert len(flat(table)) == COUNT + 1
    assert heights == [7, 7, 7, 7, 7, 6]
    assert table._part.cache_info().currsize == 2


def test_a_small_table_is_held(pack, monkeypatch):
    """It is decoded once, and its rows are those of the frame."""
    monkeypatch.setattr(rows, "SMALL_ROWS", 100)
    table = pack.rows("inputs")
    assert isinstance(table, HeldRows)
    assert flat(table) == open_pack(pack.folder).frame("inputs").rows()
    assert table[3] == flat(table)[3]


def test_rows_of_a_changed_file_are_refused_when_it_is_opened(pack):
    """Before any of them is used."""
    path = pack.folder / "inputs.parquet"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    with pytest.raises(PackError, match="SHA-256"):
        pack.rows("inputs")


@pytest.mark.parametrize("shorter", [False, True])
def test_rows_of_a_file_that_is_changed_later_are_refused(pack, shorter):
    """A part that is read again must be as it was."""
    table = pack.rows("inputs")
    flat(table)
    path = pack.folder / "inputs.parquet"
    data = bytearray(path.read_bytes())
    path.chmod(0o600)
    path.write_bytes(data[:40] if shorter else bytes(len(data)))
    table._data._block.cache_clear()
    with pytest.raises(PackError, match="the file was changed"):
        table[0]


def test_rows_that_are_not_the_manifests_are_refused(pack):
    """A file with every digest that can be computed, but of other rows, ends in an error."""
    frame = pack.frame("inputs")
    other = frame.with_columns(pl.when(pl.col("seq") == 3).then(pl.lit("other"))
                               .otherwise("name").alias("name"))  # fmt: skip
    table = PACK_TABLES["inputs"]
    data, _ = encode.encode(table, list(zip(*other.rows(), strict=True)))
    replace(pack.folder, data, table="inputs")
    with pytest.raises(PackError, match="not those of the manifest"):
        flat(open_pack(pack.folder).rows("inputs"))


@pytest.mark.parametrize("value", [None, "answered", "model"])
def test_rows_that_break_a_rule_are_refused(pack, value):
    """Each part is held to the rules of its table: no null, a known kind, what the kind needs."""
    frame = pack.frame("inputs").with_columns(pl.lit(value, dtype=pl.String).alias("kind"))
    data, _ = encode.encode(PACK_TABLES["inputs"], list(zip(*frame.rows(), strict=True)))
    replace(pack.folder, data, table="inputs")
    with pytest.raises(PackError, match="breaks"):
        flat(open_pack(pack.folder).rows("inputs"))


def test_rows_out_of_order_are_refused_in_a_large_table_and_sorted_in_a_small_one(
    pack, tmp_path, monkeypatch
):
    """A replay takes the tape in the order of its numbers."""
    opened = Open(pack)
    opened.rows["inputs"].reverse()
    turned = opened.sealed(tmp_path / "turned")
    with pytest.raises(PackError, match="order of `seq`"):
        flat(turned.rows("inputs"))
    monkeypatch.setattr(rows, "SMALL_ROWS", 100)
    assert [row[1] for row in flat(turned.rows("inputs"))] == list(range(COUNT + 1))


def test_a_file_of_another_writer_is_read_as_a_frame(pack):
    """Packs of before had pages of their own bounds."""
    frame, path = pack.frame("inputs"), pack.folder / "inputs.parquet"
    sink = pa.BufferOutputStream()
    pq.write_table(frame.to_arrow().cast(pa.schema(
        [(c, pa.int64() if frame[c].dtype == pl.Int64 else
          pa.binary() if c == "salt" else pa.string()) for c in frame.columns])), sink,
        use_dictionary=False, data_page_size=64, write_batch_size=5)  # fmt: skip
    path.chmod(0o600)
    replace(pack.folder, sink.getvalue().to_pybytes(), table="inputs")
    table = open_pack(pack.folder).rows("inputs")
    assert isinstance(table, FrameRows)
    assert flat(table) == frame.rows()
    assert [table[i] for i in (40, 0, 9)] == [frame.row(40), frame.row(0), frame.row(9)]


def test_redacted_rows_of_a_large_table_still_verify(pack):
    """Their recorded leaves stand for them; a redacted row that was changed again is refused."""
    redact(pack.folder, Removal(value="word-023", at_unix_ns=5, salts=lambda n: b"s" * n))
    cleaned = open_pack(pack.folder)
    assert cleaned.redacted
    assert flat(cleaned.rows("content")) == cleaned.frame("content").rows()
    manifest = json.loads((pack.folder / "manifest.json").read_bytes())
    (row,) = manifest["tables"]["content"]["redacted"]
    cleaned.manifest["tables"]["content"]["redacted"][row]["now"] = "0" * 64
    with pytest.raises(PackError, match=f"row {row} is not as its redaction left it"):
        flat(cleaned.rows("content"))


# -- content ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", [{"held_bytes": 100}, {"held_pieces": 3}, {}])
def test_content_is_found_wherever_it_lies(pack, held):
    """In memory, on the disk, or a part of it here and the rest there."""
    found, known = Bodies(pack, **held), pack.bodies
    assert dict(found) == known
    assert len(found) == len(known)
    assert all(found.is_json(digest) for digest in known)
    for nothing in ("0" * 32, "None", ""):
        assert nothing not in found
        assert found.get(nothing) is None


def test_only_so_much_content_is_in_memory(pack):
    """The bound holds however much there is; the rest is as many numbers as pieces."""
    found = Bodies(pack, held_bytes=200)
    inside = [body for _, body in found._held.values()]
    assert 0 < sum(map(len, inside)) <= 200
    assert len(inside) + len(found._far.ends) == len(pack.bodies)
    assert len(found._far._digests) == 16 * len(found._far.ends)


def test_content_in_any_order_is_found(pack, tmp_path):
    """Packs of others need not be in the order of their digests."""
    opened = Open(pack)
    opened.rows["content"].reverse()
    turned = opened.sealed(tmp_path / "turned")
    assert dict(Bodies(turned, held_bytes=0)) == pack.bodies


def test_a_disk_that_is_full_is_said(pack, monkeypatch):
    """One sentence: what could not be taken where, and what to do."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bodies.tempfile, "TemporaryFile", full)
    with pytest.raises(PackError, match="No space left on device; set TMPDIR"):
        Bodies(pack, held_bytes=0)

"""One frame over lake and fresh packs; runs of the lake wherever packs are asked for."""

from __future__ import annotations

import polars as pl
import pytest
from runs import make_runs

import towerkit
from towerkit.core.errors import PackError, SelectionError, UsageError
from towerkit.lake import LakeStore, compact, open_store, scan
from towerkit.lake.log import Log
from towerkit.packs.redaction import Removal, redact
from towerkit.packs.store import Store
from towerkit.packs.tables import PACK_TABLES
from towerkit.rca import span_tree


def expected(packs, table):
    """Return the rows of packs as `scan` gives them, without the date."""
    named = pl.col("run_id") if "run_id" in PACK_TABLES[table].names else pl.lit(None)
    frames = [
        p.frame(table).drop("salt").with_columns(run_id=named.fill_null(p.run_id)) for p in packs
    ]
    return pl.concat(frames)


@pytest.mark.parametrize("compacted", [0, 3, 6])
def test_no_run_twice_and_none_missing(store, compacted):
    """Whatever part is in the lake, dropped or not, every table has the rows of all packs."""
    packs = store.packs()
    wanted = {t: expected(packs, t) for t in PACK_TABLES}
    for i, pack in enumerate(packs[:compacted]):
        compact(store, selection=f"run_id={pack.run_id}", drop=bool(i % 2))
    for table, rows in wanted.items():
        found = scan(table, store=store).collect()
        same = found.select(rows.columns)
        assert same.sort(rows.columns).equals(rows.sort(rows.columns)), table
        assert found["date"].n_unique() == 2
    runs = scan("runs", store=store).collect()
    assert sorted(runs["run_id"]) == sorted(p.run_id for p in packs)
    assert runs["status"].unique().to_list() == ["completed"]


def test_columns_and_predicates_are_pushed_down(store):
    """Of the lake's files only what is asked for is read; fresh packs answer the same query."""
    packs = store.packs()
    compact(store, selection=f"run_id={packs[0].run_id}")
    frame = scan("spans", store=store).filter(pl.col("kind") == "attempt").select("name", "status")
    plan = frame.explain()
    assert "PROJECT 3/" in plan
    assert plan.count('SELECTION: col("kind")') + plan.count('SELECTION: [(col("kind")') == 2
    attempts = sum(p.frame("spans").filter(kind="attempt").height for p in packs)
    assert frame.collect().height == attempts
    assert scan("spans", store=store).head(3).collect().height == 3
    one = scan("content", store=store).filter(run_id=packs[4].run_id).collect()
    assert one.height == packs[4].manifest["tables"]["content"]["rows"]
    assert scan("costs", store=store).select(pl.len()).collect().item() > 0
    assert scan("costs", store=store).select("date").collect().height > 0


def test_a_pack_that_was_changed_is_not_in_the_answer(store):
    """Its bytes are checked when the frame is collected: an error, never other rows."""
    path = store.packs()[0].folder / "costs.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises((PackError, pl.exceptions.ComputeError), match="SHA-256"):
        scan("costs", store=store).collect()


def test_an_empty_store_and_an_unknown_table(tmp_path, monkeypatch):
    """No rows with the right columns; an unknown table is a usage error that names the tables."""
    assert scan("spans", store=tmp_path).collect().is_empty()
    monkeypatch.setenv("TOWERKIT_STORE", str(tmp_path))
    assert "cost_nanousd" in towerkit.scan("costs").collect_schema()
    with pytest.raises(UsageError, match="content, costs, inputs, runs, spans"):
        scan("prompts")


def test_a_store_finds_the_runs_of_its_lake(store, monkeypatch):
    """Selections, run ids, scans and span trees are the same before and after packs are dropped."""
    packs = store.packs()
    bodies, spans = packs[2].bodies, packs[2].frame("spans")
    compact(store, selection=f"run_id={packs[2].run_id}", drop=True)
    (new,) = make_runs(store.root, 1, first=70)
    both = open_store(store.root)
    assert isinstance(both, LakeStore)
    ids = [p.run_id for p in both.packs()]
    assert [i for i in ids if i != new.run_id] == [p.run_id for p in packs]
    (held,) = both.select(f"run_id={packs[2].run_id}")
    assert held.bodies == bodies
    assert span_tree(held.frame("spans")) == span_tree(spans)
    assert both.find(packs[2].run_id).digest == packs[2].digest
    assert both.scan("spans", both.packs()).height == expected(both.packs(), "spans").height
    assert [p.run_id for p in both.select("since=2026-01-06")] == [
        p.run_id for p in both.packs() if p.manifest["started_unix_ns"] >= 1_767_657_600 * 10**9
    ]
    with pytest.raises(SelectionError, match="nor in the lake"):
        both.pack("00000000-0000-7000-8000-000000000000")
    with pytest.raises(SelectionError, match="it holds release"):
        both.select("release=none")
    assert type(open_store(store.root / "none")) is Store


def everything(folder):
    """Return every byte under a folder, and every cell of its Parquet files."""
    cells = [p.read_bytes() for p in folder.rglob("*") if p.is_file()]
    for path in folder.rglob("*.parquet"):
        for row in pl.read_parquet(path, hive_partitioning=False).rows():
            cells += [c if isinstance(c, bytes) else str(c).encode() for c in row]
    return b"\0".join(cells)


def test_a_redaction_reaches_the_lake_with_the_next_compaction(store):
    """Only its batch is written anew; the value is in no byte; digests hold and say what went."""
    said, packs = "run 3", store.packs()
    lake = store.root / "lake"
    compact(store)
    assert said.encode() in everything(lake)
    pack = next(p for p in packs if any(said.encode() in b for b in p.bodies.values()))
    removal = Removal(value=said, at_unix_ns=5, salts=lambda n: b"\7" * n)
    assert redact(pack.folder, removal)
    done = compact(store, drop=True)
    assert (done.added, done.replaced, len(done.dropped)) == ((), (pack.run_id,), 6)
    assert said.encode() not in everything(lake)
    held = open_store(store.root).pack(pack.run_id)
    assert held.digest == pack.digest
    assert len(held.verify().redacted) > 0
    assert compact_nothing_left(store)


def test_a_kill_while_a_value_is_erased_leaves_nothing_of_it(store, monkeypatch):
    """The log that has not followed yet is what the next compaction erases by."""
    said, packs = "run 3", store.packs()
    compact(store)
    pack = next(p for p in packs if any(said.encode() in b for b in p.bodies.values()))
    redact(pack.folder, Removal(value=said, at_unix_ns=5, salts=lambda n: b"\7" * n))

    follow = Log.follow

    def kill(self, name, keep=()):
        if self.snapshot().batches - before:
            raise KeyboardInterrupt
        return follow(self, name, keep)

    before = open_store(store.root).lake.snapshot.batches
    with monkeypatch.context() as patch:
        patch.setattr(Log, "follow", kill)
        with pytest.raises(KeyboardInterrupt):
            compact(store)
    assert said.encode() in everything(store.root / "lake")
    assert compact_nothing_left(store)
    assert said.encode() not in everything(store.root / "lake")


def compact_nothing_left(store):
    """Say that nothing is to be done any more."""
    done = compact(store)
    return (done.added, done.replaced, done.problems) == ((), (), {})


def test_an_older_pack_never_undoes_a_redaction(store, tmp_path):
    """The original put back beside the lake: the lake keeps what was redacted."""
    import shutil

    pack = store.packs()[0]
    shutil.copytree(pack.folder, tmp_path / "kept")
    redact(pack.folder, Removal(value="order 7", at_unix_ns=5, salts=lambda n: b"\7" * n))
    compact(store)
    shutil.rmtree(pack.folder)
    shutil.copytree(tmp_path / "kept", pack.folder)
    assert compact(store).replaced == ()
    held = open_store(store.root).lake.pack(pack.run_id)
    assert not any(b"order 7" in b for b in held.bodies.values())

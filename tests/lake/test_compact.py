"""Packs become tables: whole, once, with their digests, whatever happens in between."""

from __future__ import annotations

import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from runs import delta_rows, holds_once, make_runs, versions

from towerkit.core.errors import PackError, SelectionError
from towerkit.lake import Lake, compact, compaction
from towerkit.lake.log import Log
from towerkit.packs.digest import table_root
from towerkit.packs.reader import open_pack
from towerkit.packs.selection import Selection
from towerkit.packs.signing import load_signer, make_key
from towerkit.packs.store import Store
from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.writer import manifest_bytes


class Killed(BaseException):
    """A process that is gone: no handler catches it."""


def test_a_run_of_the_lake_is_the_pack_it_was(store):
    """Manifest, rows, salts and digests are equal, table by table, and every run verifies."""
    packs = store.packs()
    done = compact(store)
    assert (sorted(done.added), done.problems) == (sorted(p.run_id for p in packs), {})
    lake = Lake(done.lake)
    for pack in packs:
        held = lake.pack(pack.run_id)
        assert manifest_bytes(held.manifest) == manifest_bytes(pack.manifest)
        assert held.verify() == pack.verify()
        for name in PACK_TABLES:
            assert held.frame(name).equals(pack.frame(name)), name
            assert table_root(held.frame(name).rows()) == pack.manifest["tables"][name]["root"]
    holds_once(done.lake, packs)


def test_the_same_packs_again_change_nothing(store):
    """No log moves on; a new pack is added alone."""
    first = compact(store)
    before = versions(first.lake)
    again = compact(store)
    assert (again.added, again.replaced, again.already) == ((), (), 6)
    assert versions(first.lake) == before
    (new,) = make_runs(store.root, 1, first=50)
    assert compact(store).added == (new.run_id,)
    holds_once(first.lake, store.packs())


def test_without_runs_compaction_says_so(tmp_path):
    """Nothing is made in an empty store."""
    with pytest.raises(SelectionError, match="nothing to compact"):
        compact(Store(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_selection_is_compacted_alone(store):
    """What is not chosen stays a pack."""
    (run_id, *_) = (p.run_id for p in store.packs())
    assert compact(store, selection=f"run_id={run_id}").added == (run_id,)
    with pytest.raises(SelectionError, match="holds"):
        compact(store, selection="release=none")


@pytest.mark.parametrize("table", [None, *PACK_TABLES])
def test_a_kill_between_two_tables_is_finished_by_the_next(store, monkeypatch, table):
    """Before the first commit, or before any table followed: no row twice, none missing."""
    packs, follow, commit = store.packs(), Log.follow, Log.commit

    def kill(self, name, keep=()):
        if name == table:
            raise Killed
        return follow(self, name, keep)

    def kill_first(self, *args):
        if table is None:
            raise Killed
        return commit(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "commit", kill_first)
        compact(Store(store.root), selection=f"run_id={packs[0].run_id}") if table else None
        patch.setattr(Log, "follow", kill)
        with pytest.raises(Killed):
            compact(store)
    done = compact(store)
    assert done.problems == {}
    holds_once(done.lake, packs)
    assert {p.run_id for p in Lake(done.lake).select(Selection())} == {p.run_id for p in packs}


def test_forty_at_once_leave_every_run_once(store):
    """Threads with overlapping selections: one wins a run, the others see it and go on."""
    packs = store.packs()
    chosen = ["", *(f"run_id={p.run_id}" for p in packs)]
    barrier, done, broken = threading.Barrier(40), [], []

    def work(i):
        barrier.wait()
        try:
            done.append(compact(Store(store.root), selection=chosen[i % len(chosen)]))
        except Exception as error:
            broken.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(40)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert broken == []
    assert [d.problems for d in done if d.problems] == []
    assert sorted(r for d in done for r in d.added) == sorted(p.run_id for p in packs)
    holds_once(done[0].lake, packs)
    files = {p.stem for p in (store.root / "lake" / "runs").rglob("*.parquet")}
    assert files == {p.stem for p in (store.root / "lake" / "spans").rglob("*.parquet")}
    assert len(files) == len(delta_rows(done[0].lake, "runs")["batch"].unique())


def test_beside_a_writer_nothing_is_lost(tmp_path):
    """Runs are sealed while others are compacted and dropped; at the end each is there once."""
    made, stop = [], threading.Event()

    def write():
        for i in range(12):
            made.extend(make_runs(tmp_path, 1, first=i))
        stop.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not stop.is_set():
        if Store(tmp_path).folders():
            assert compact(Store(tmp_path), drop=True).problems == {}
    writer.join()
    done = compact(Store(tmp_path), drop=True)
    assert Store(tmp_path).folders() == []
    holds_once(done.lake, made)
    assert all(Lake(done.lake).pack(p.run_id).verify() for p in made)


def test_a_pack_that_does_not_hold_is_left_and_named(store):
    """The others go in; it stays where it is, and is named again the next time."""
    bad, *good = store.packs()
    path = bad.folder / "spans.parquet"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    for _ in range(2):
        done = compact(store, drop=True)
        assert list(done.problems) == [str(bad.folder)]
    assert path.exists()
    holds_once(done.lake, good)
    assert [f.name for f in store.folders()] == [bad.run_id]


def test_a_pack_of_another_content_never_takes_a_runs_place(store):
    """The same run id with other rows: named, and the lake keeps what it has."""
    done = compact(store)
    pack = store.packs()[0]
    shutil.rmtree(pack.folder)
    other = store.packs()[-1]
    shutil.copytree(other.folder, pack.folder)
    changed = json.loads((pack.folder / "manifest.json").read_text())
    (pack.folder / "manifest.json").write_bytes(manifest_bytes(changed))
    again = compact(store, drop=True)
    assert "another pack" in again.problems[str(pack.folder)]
    assert pack.folder.exists()
    assert Lake(done.lake).pack(pack.run_id).digest == pack.digest


def test_dropped_packs_still_verify_with_their_signature(tmp_path):
    """Digests, salts and signature out of the lake alone; a changed row is found there too."""
    make_key(tmp_path / "key")
    store = Store(tmp_path / "s")
    packs = make_runs(store.root, 2, signing_key=tmp_path / "key")
    key = load_signer(tmp_path / "key", store=store.root).public_key
    done = compact(store, drop=True)
    assert sorted(done.dropped) == sorted(p.run_id for p in packs)
    assert store.folders() == []
    for pack in packs:
        assert Lake(done.lake).pack(pack.run_id).verify([key]).signature == "checked"
    path = next((tmp_path / "s" / "lake" / "costs").rglob("*.parquet"))
    table = pq.read_table(path, partitioning=None)
    cost = table.column("output_tokens").to_pylist()
    changed = table.set_column(
        table.schema.get_field_index("output_tokens"), table.schema.field("output_tokens"),
        [[c + 1 for c in cost]],
    )  # fmt: skip
    pq.write_table(changed, path)
    broken = 0
    for pack in packs:
        try:
            Lake(done.lake).pack(pack.run_id).verify([key])
        except PackError:
            broken += 1
    assert broken == 1  # each day has a file of its own


def test_nothing_is_dropped_that_the_lake_does_not_hold(store, monkeypatch):
    """What was written wrongly is read back before a pack goes: all stay, and it is said."""
    make = compaction.make_batch

    def wrongly(place, name, groups):
        made = make(place, name, groups)
        path = place.folder / name.key("content")
        table = pq.read_table(path, partitioning=None)
        column = table.schema.get_field_index("body")
        pq.write_table(table.set_column(column, "body", [[b"x"] * table.num_rows]), path)
        return made

    monkeypatch.setattr(compaction, "make_batch", wrongly)
    done = compact(store, drop=True)
    assert done.dropped == ()
    assert len(done.problems) == 2
    assert len(store.folders()) == 6


def test_many_small_batches_become_one(tmp_path):
    """Compacting run by run does not leave a file a run; digests hold after it."""
    packs = []
    for i in range(0, 20, 2):
        packs += make_runs(tmp_path, 1, first=i)
        done = compact(Store(tmp_path))
    holds_once(done.lake, packs)
    assert len(Lake(done.lake).snapshot.batches) == 2
    assert all(Lake(done.lake).pack(p.run_id).verify() for p in packs)


def test_no_statistics_and_no_log_repeats_what_was_said(store):
    """Footers and logs have bounds of run ids and times only."""
    compact(store)
    root = store.root / "lake"
    for path in root.rglob("*.parquet"):
        meta = pq.read_metadata(path)
        for g in range(meta.num_row_groups):
            for c in range(meta.num_columns):
                chunk = meta.row_group(g).column(c)
                if chunk.path_in_schema not in {"run_id", "started_unix_ns", "start_unix_ns"}:
                    assert not chunk.is_stats_set, chunk.path_in_schema
    logs = b"".join(p.read_bytes() for p in root.rglob("_delta_log/*.json"))
    assert b"order" not in logs


def test_duckdb_reads_the_tables(store):
    """The files of the logs, by DuckDB, give what the packs hold."""
    packs = store.packs()
    done = compact(store, drop=True)
    spans = DeltaTable(f"{done.lake}/spans").file_uris()
    costs = DeltaTable(f"{done.lake}/costs").file_uris()
    sql = """SELECT s.run_id, count(*) AS n, any_value(c.cost) AS cost
        FROM read_parquet(?, hive_partitioning = true) s
        JOIN (SELECT run_id, sum(cost_nanousd) AS cost FROM read_parquet(?) GROUP BY 1) c
        USING (run_id)
        WHERE s.date >= DATE '2026-01-01' GROUP BY s.run_id ORDER BY s.run_id"""
    found = duckdb.execute(sql, [spans, costs]).fetchall()
    assert found == sorted(
        (p.run_id, p.manifest["spans"]["ended"], p.manifest["budget"]["spent_nanousd"])
        for p in packs
    )


def test_workers_write_one_lake(store, monkeypatch):
    """Batches that are made beside each other are committed one after the other."""

    class Pool(compaction._Workers):
        def __init__(self, jobs, packs):
            self._pool = ThreadPoolExecutor(jobs)

    monkeypatch.setattr(compaction, "_Workers", Pool)
    packs = store.packs()
    done = compact(store, jobs=2)
    holds_once(done.lake, packs)


def test_open_pack_is_as_before(store):
    """A pack in the lake that was not dropped is untouched."""
    before = {p.folder: {f.name: f.read_bytes() for f in p.folder.iterdir()} for p in store.packs()}
    compact(store)
    assert before == {f: {m.name: m.read_bytes() for m in f.iterdir()} for f in store.folders()}
    assert all(open_pack(f).verify() for f in before)
    assert pl.read_parquet(next(iter(before)) / "spans.parquet").height

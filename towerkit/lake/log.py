"""The logs of a lake: what is in it, and how that changes.

Rule: a commit is the next version of a log, put where there is none, once and never merged: who is
second looks again. The log of `runs` is committed first and alone decides. The other tables follow
it: their set of files becomes that of `runs`, whoever does it and however often. So a kill between
two tables leaves nothing to undo, and the next compaction finishes it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from towerkit.core.env import Env
from towerkit.lake.place import Place, library
from towerkit.lake.tables import DATE, LAKE_TABLES, RUNS, delta_schema
from towerkit.packs.tables import PACK_TABLES

if TYPE_CHECKING:
    import polars as pl


POSITION = "position"  # of a run in its batch's file of `runs`, in the index


class BatchName(msgspec.Struct, frozen=True, order=True):
    """The files of one batch: one a table, all of one day."""

    day: str
    batch: str

    def key(self, table: str) -> str:
        """Return the key of the batch's file of `table` in the lake."""
        return f"{table}/{self.path}"

    @property
    def path(self) -> str:
        """The file's path in its table, as logs name it."""
        return f"{DATE}={self.day}/{self.batch}.parquet"


def name_of(path: str) -> BatchName:
    """Return the batch of a file's path in its table."""
    pure = PurePosixPath(path)
    return BatchName(day=pure.parent.name.partition("=")[2], batch=pure.stem)


class Snapshot(msgspec.Struct, frozen=True):
    """The lake at one version of `runs`: its batches, and a row a run without its manifest."""

    version: int
    batches: frozenset[BatchName]
    index: Any  # a pl.DataFrame: the columns of RUNS but the manifest, and the date


NOTHING = Snapshot(-1, frozenset(), None)


class Log:
    """The Delta logs of the lake at a place."""

    def __init__(self, place: Place, env: Env) -> None:
        """Touch nothing yet."""
        self.place, self._env = place, env
        self._known: dict[BatchName, pl.DataFrame] = {}  # batches never change

    def _table(self, name: str) -> Any:
        """Return the Delta table, or None where there is none."""
        deltalake, absent = library("deltalake"), library("deltalake.exceptions").TableNotFoundError
        folder = self.place.folder
        if folder is not None and not (folder / name / "_delta_log").is_dir():
            return None  # Delta would make the folder to find it empty
        with self.place.said("read"):
            try:
                return deltalake.DeltaTable(self.place.at(name))
            except absent:
                return None

    def ensure(self) -> None:
        """Create the tables that are not there."""
        deltalake, errors = library("deltalake"), library("deltalake.exceptions")
        self.place.make()
        for name, table in LAKE_TABLES.items():
            if self._table(name) is not None:
                continue
            with self.place.said("write to"):
                try:
                    schema = deltalake.Schema.from_arrow(delta_schema(table))
                    deltalake.DeltaTable.create(
                        self.place.at(name), schema=schema,
                        mode="ignore", partition_by=[DATE], name=name, description=table.row,
                        configuration={"delta.dataSkippingStatsColumns": "run_id"},
                    )  # fmt: skip
                except errors.DeltaError:
                    if self._table(name) is None:  # nobody else made it meanwhile
                        raise

    def snapshot(self) -> Snapshot:
        """Return what is in the lake now."""
        table = self._table(RUNS.name)
        return NOTHING if table is None else self._read(table)

    def _read(self, table: Any) -> Snapshot:
        """Return the lake at a version of `runs`; of batches known already nothing is read."""
        import polars as pl  # noqa: PLC0415

        from towerkit.packs.validate import polars_schema  # noqa: PLC0415

        batches = _batches(table)
        new = sorted(batches - self._known.keys())
        with self.place.said("read"):
            frames = pl.collect_all([self._index_of(b) for b in new])
        self._known = {b: f for b, f in self._known.items() if b in batches}
        self._known |= dict(zip(new, frames, strict=True))
        kinds = {DATE: pl.Date, **polars_schema(RUNS), POSITION: pl.Int64}
        empty = pl.DataFrame(schema=kinds).drop("manifest")
        index = pl.concat([empty, *(self._known[b] for b in sorted(batches))])
        return Snapshot(table.version(), batches, index)

    def _index_of(self, batch: BatchName) -> pl.LazyFrame:
        import polars as pl  # noqa: PLC0415

        path = self.place.at(batch.key(RUNS.name))
        return pl.scan_parquet(path, hive_partitioning=False).select(
            pl.lit(batch.day).str.to_date().alias(DATE), pl.exclude("manifest"),
            pl.row_index(POSITION).cast(pl.Int64),
        )  # fmt: skip

    def commit(self, before: Snapshot, add: Sequence[BatchName], remove: Sequence[BatchName],
               index: pl.DataFrame) -> bool:  # fmt: skip
        """Make `runs` hold `add` and no longer `remove`; return False if it is not as `before`.

        `index` has the rows of `add`. All their files, of every table, must have been put.
        """
        table = self._table(RUNS.name)
        if table.version() != before.version:
            return False
        return self._write(table, RUNS.name, add, remove, index)

    def follow(self, name: str, keep: Collection[BatchName] = ()) -> bool:
        """Make the files of table `name` those that `runs` names; return whether it changed.

        Files that it no longer names are deleted before the log forgets them, so that a kill
        leaves none of a value that was redacted; but for those of `keep`, which still may be read.
        """
        while True:
            table = self._table(name)  # first: what it names, `runs` has named before
            now = self.snapshot()
            has = _batches(table)
            add, remove = sorted(now.batches - has), sorted(has - now.batches)
            if not add and not remove:
                return False
            self.place.delete(b.key(name) for b in remove if b not in keep)
            if self._write(table, name, add, remove, now.index):
                return True

    def follow_all(self, keep: Collection[BatchName] = ()) -> bool:
        """Make every table follow; return whether one had to."""
        # Each of them, not until one did.
        followed = {name for name in PACK_TABLES if self.follow(name, keep)}
        return bool(followed)

    def _write(self, table: Any, name: str, add: Sequence[BatchName], remove: Sequence[BatchName],
               index: pl.DataFrame) -> bool:  # fmt: skip
        deltalake, failed = library("deltalake"), library("deltalake.exceptions").CommitFailedError
        changes = library("deltalake.transaction")
        now_ms = self._env.wall_ns() // 1_000_000
        actions = [
            *(self._added(changes, name, b, index, now_ms) for b in add),
            *(
                changes.RemoveAction(
                    path=b.path,
                    data_change=True,
                    deletion_timestamp=now_ms,
                    partition_values={DATE: b.day},
                )
                for b in remove
            ),
        ]
        with self.place.said("write to"):
            try:
                table.create_write_transaction(
                    actions, "append", table.schema(), [DATE],
                    commit_properties=deltalake.CommitProperties(max_commit_retries=0),
                )  # fmt: skip
            except failed:
                if self._table(name).version() == table.version():
                    raise  # nobody was faster: it cannot be written
                return False
        return True

    def _added(
        self, changes: Any, name: str, b: BatchName, index: pl.DataFrame, now_ms: int
    ) -> Any:
        import polars as pl  # noqa: PLC0415

        runs = index.filter(pl.col("batch") == b.batch)
        rows = runs.height if name == RUNS.name else int(runs[f"{name}_rows"].sum())
        stats = {
            "numRecords": rows, "minValues": {"run_id": runs["run_id"].min()},
            "maxValues": {"run_id": runs["run_id"].max()}, "nullCount": {"run_id": 0},
        }  # fmt: skip
        size = self.place.size(b.key(name))
        return changes.AddAction(
            path=b.path, size=size, partition_values={DATE: b.day}, modification_time=now_ms,
            data_change=True, stats=json.dumps(stats),
        )  # fmt: skip

    def sync(self, batches: Sequence[BatchName]) -> None:
        """Have the files of `batches` and all logs on the disk."""
        if self.place.folder is None:
            return
        for name in LAKE_TABLES:
            logs = [f"{name}/_delta_log/{p.name}"
                    for p in (self.place.folder / name / "_delta_log").glob("*.json")]  # fmt: skip
            self.place.sync([*logs, *(b.key(name) for b in batches)])

    def vacuum(self) -> None:
        """Delete files that no log has named for seven days."""
        for name in LAKE_TABLES:
            with self.place.said("delete from"):
                self._table(name).vacuum(dry_run=False, full=True)


def _batches(table: Any) -> frozenset[BatchName]:
    import polars as pl  # noqa: PLC0415

    paths = pl.DataFrame(table.get_add_actions(flatten=True))["path"]
    return frozenset(name_of(path) for path in paths)

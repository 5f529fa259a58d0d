"""A lake, read back: runs by id, verified to the digests their packs had.

Rule: one snapshot of `runs` answers for all tables, so whoever reads sees whole batches only, also
while others compact. A run of the lake is a `Pack` like any other: its frames are checked against
its manifest's roots when first asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from towerkit.core.env import Env, SystemEnv
from towerkit.core.errors import PackError, SelectionError
from towerkit.lake.batches import Group, check
from towerkit.lake.log import POSITION, BatchName, Log, Snapshot
from towerkit.lake.place import Place
from towerkit.lake.tables import RUNS
from towerkit.packs.files import shown
from towerkit.packs.reader import Pack, Verified, merkle_leaves, parse_manifest
from towerkit.packs.selection import Selection
from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.validate import check as check_frame
from towerkit.packs.writer import manifest_bytes

if TYPE_CHECKING:
    import polars as pl


class LakePack(Pack):
    """A run of a lake. `folder` says where, and is no folder of files."""

    in_files = False

    def __init__(self, lake: Lake, row: dict[str, Any], manifest: dict[str, Any]) -> None:
        """Use `Lake.pack`; it checks the manifest."""
        super().__init__(Path(f"{lake.place.url}#{row['run_id']}"), manifest)
        self._lake, self._row = lake, row

    def frame(self, name: str) -> pl.DataFrame:
        """Return the table `name`, with all its columns; see `Pack.frame`."""
        if name not in self._frames:
            self._read([name])
        return self._frames[name]

    def held_rows(self, name: str) -> list[tuple[Any, ...]]:
        """Return the rows of table `name`; see `Pack.held_rows`."""
        return self.frame(name).rows()

    def _read(self, names: list[str]) -> None:
        """Read tables at once, and check them."""
        found = self._lake.rows_of(self._row, names)
        for name, frame in found.items():
            check_frame(frame, PACK_TABLES[name], where=f"{self.folder}: {name}")
            self.check_leaves(name, merkle_leaves(frame))
            self._frames[name] = frame

    def load(self) -> LakePack:
        """Read every table at once: faster than one after the other."""
        self._read([n for n in PACK_TABLES if n not in self._frames])
        return self

    def verify(
        self, keys: Iterable[bytes] = (), *, allow_unsigned_redactions: bool = False
    ) -> Verified:
        """Check every row, the root and, with public `keys`, who signed it; see `Pack.verify`."""
        now = self._lake.pack(self.run_id)
        if manifest_bytes(now.manifest) != manifest_bytes(self.manifest):
            raise PackError(f"{self.folder}: the manifest was changed since it was read")
        verified = now.attested(tuple(keys), allow_unsigned=allow_unsigned_redactions)
        now.load()
        return verified


class Lake:
    """The runs of a lake, at one version until `refresh`."""

    def __init__(self, url: Path | str, *, env: Env | None = None) -> None:
        """Point at a lake, which may not exist yet."""
        self.place = Place(url)
        self.log = Log(self.place, env or SystemEnv())
        self._snapshot: Snapshot | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The lake as it was when first asked for, or at the last `refresh`."""
        if self._snapshot is None:
            self._snapshot = self.log.snapshot()
        return self._snapshot

    def refresh(self) -> Snapshot:
        """Look again."""
        self._snapshot = None
        return self.snapshot

    def run_ids(self) -> set[str]:
        """Return the runs that are in the lake."""
        index = self.snapshot.index
        return set() if index is None else set(index["run_id"].to_list())

    def file(self, row: dict[str, Any], table: str) -> str:
        """Return the path or URL of the file of `table` that holds the run of a row."""
        return self.place.at(BatchName(day=str(row["date"]), batch=row["batch"]).key(table))

    def files(self, table: str) -> list[str]:
        """Return the files of a table, in the order of their days."""
        return [self.place.at(b.key(table)) for b in sorted(self.snapshot.batches)]

    def pack(self, run_id: str) -> LakePack:
        """Return the run of an id; raise `SelectionError` where it is not in the lake."""
        found = self.find(run_id)
        if found is None:
            raise SelectionError(f"the lake at {shown(self.place.url)} has no run {shown(run_id)}")
        return found

    def find(self, run_id: str) -> LakePack | None:
        """Return the run of an id, or None."""
        import polars as pl  # noqa: PLC0415

        row = self._row(run_id)
        if row is None:
            return None
        scan = pl.scan_parquet(self.file(row, RUNS.name), hive_partitioning=False)
        with self.place.said("read"):
            texts = scan.slice(row[POSITION], 1).select("manifest").collect()
        return self._pack(row, texts["manifest"][0])

    def _pack(self, row: dict[str, Any], text: str) -> LakePack:
        where = f"{self.place.url}#{row['run_id']}"
        spelled = msgspec.json.format(text.encode(), indent=2) + b"\n"
        return LakePack(self, row, parse_manifest(spelled, where=where))

    def select(self, chosen: Selection) -> Iterator[LakePack]:
        """Yield the runs that match, a batch after the other; only theirs are parsed."""
        import polars as pl  # noqa: PLC0415

        index = self.snapshot.index
        if index is None:
            return
        named = {
            "release": chosen.release, "scenario": chosen.scenario, "run_id": chosen.run_id,
            "eval_id": chosen.eval_id,
        }  # fmt: skip
        rules = [pl.col(c) == value for c, value in named.items() if value is not None]
        started = pl.col("started_unix_ns")
        rules += [] if chosen.since_ns is None else [started >= chosen.since_ns]
        rules += [] if chosen.until_ns is None else [started < chosen.until_ns]
        rows = index.filter(pl.all_horizontal(rules)) if rules else index
        for key, runs in sorted(rows.partition_by("date", "batch", as_dict=True).items()):
            batch = BatchName(day=str(key[0]), batch=str(key[1]))
            yield from self.packs_of(batch, set(runs["run_id"].to_list()))

    def packs_of(self, batch: BatchName, only: set[str] | None = None) -> list[LakePack]:
        """Return the runs of a batch (`only` some of them), in the order of their rows."""
        import polars as pl  # noqa: PLC0415

        with self.place.said("read"):
            rows = pl.read_parquet(self.place.at(batch.key(RUNS.name)), hive_partitioning=False)
        if only is not None:
            rows = rows.filter(pl.col("run_id").is_in(list(only)))
        texts = rows["manifest"].to_list()
        listed = rows.drop("manifest").with_columns(date=pl.lit(batch.day)).to_dicts()
        return [self._pack(row, text) for row, text in zip(listed, texts, strict=True)]

    def frame(self, table: str, run_id: str) -> pl.DataFrame:
        """Return the rows of one run as they stand in the lake, unchecked; `pack` checks them."""
        row = self._row(run_id)
        if row is None:
            raise SelectionError(f"the lake at {shown(self.place.url)} has no run {shown(run_id)}")
        return self.rows_of(row, [table])[table]

    def _row(self, run_id: str) -> dict[str, Any] | None:
        """Return a run's row of the index."""
        import polars as pl  # noqa: PLC0415

        index = self.snapshot.index
        rows = [] if index is None else index.filter(pl.col("run_id") == run_id).to_dicts()
        return rows[0] if rows else None

    def rows_of(self, row: dict[str, Any], names: list[str]) -> dict[str, pl.DataFrame]:
        """Return the rows of one run, of several tables at once, unchecked."""
        import polars as pl  # noqa: PLC0415

        scans = [
            pl.scan_parquet(self.file(row, n), hive_partitioning=False)
            .slice(row[f"{n}_at"], row[f"{n}_rows"])
            .select(PACK_TABLES[n].names)
            for n in names
        ]
        with self.place.said("read"):
            return dict(zip(names, pl.collect_all(scans), strict=True))

    def groups_of(self, batch: BatchName) -> Iterator[Group]:
        """Yield the runs of a batch with their rows, verified, a bounded number at once."""
        import polars as pl  # noqa: PLC0415

        from towerkit.lake.batches import GROUP_RUNS  # noqa: PLC0415

        packs, at = self.packs_of(batch), dict.fromkeys(PACK_TABLES, 0)
        for first in range(0, len(packs), GROUP_RUNS):
            part: list[Pack] = list(packs[first : first + GROUP_RUNS])
            counts = {n: sum(p.manifest["tables"][n]["rows"] for p in part) for n in PACK_TABLES}
            scans = [
                pl.scan_parquet(self.place.at(batch.key(n)), hive_partitioning=False)
                .slice(at[n], counts[n])
                .select(PACK_TABLES[n].names)
                for n in PACK_TABLES
            ]
            with self.place.said("read"):
                frames = dict(zip(PACK_TABLES, pl.collect_all(scans), strict=True))
            at = {n: at[n] + counts[n] for n in PACK_TABLES}
            group = Group(part, frames)
            check(group)
            yield group

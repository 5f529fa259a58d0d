"""One LazyFrame over the lake and the packs that are not in it yet.

Rule: no run twice and none missing. The packs are listed first and the lake is looked at after, so
that a pack dropped meanwhile is in the lake by then; what both hold is read from the lake. Columns
and predicates go down into the lake's files; the bytes of a pack are checked against their digests
before they are decoded.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from towerkit.core.errors import UsageError
from towerkit.lake.batches import GROUP_RUNS, runs_frame
from towerkit.lake.compaction import default_lake
from towerkit.lake.place import Place
from towerkit.lake.reader import Lake
from towerkit.lake.tables import DATE, LAKE_TABLES, RUNS
from towerkit.packs.parquet import check_bounds
from towerkit.packs.reader import Pack, open_pack
from towerkit.packs.store import Store
from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.validate import polars_schema

if TYPE_CHECKING:
    import polars as pl

_INNER = frozenset({"salt", "row", "batch", "manifest_sha256"})


def scan(
    table: str, *, store: Store | Path | str | None = None, lake: Path | str | None = None
) -> pl.LazyFrame:
    """Return the rows of `table` over a lake and the packs of a store that are not in it.

    `table` is spans, costs, inputs, content or runs (a row a manifest). Columns: those of
    docs/pack-format.md without salts, `run_id` in each, and `date`, the day the run began, which
    is the lake's partition. No order. `store` defaults to `TOWERKIT_STORE`, `lake` to
    `TOWERKIT_LAKE`, else the store's folder `lake`.

    Raises `UsageError` for another table. A pack that was changed, or dropped after this call,
    raises when the frame is collected: never a smaller answer.
    """
    import polars as pl  # noqa: PLC0415

    if table not in LAKE_TABLES:
        raise UsageError(f"expected a table of {', '.join(sorted(LAKE_TABLES))}, got {table!r}")
    source = store if isinstance(store, Store) else Store(store or _store())
    folders = source.folders()
    found = lake_of(source, lake)
    there = set() if found is None else found.run_ids()
    packs = [open_pack(f) for f in folders if f.name not in there]
    parts = [_of_lake(found, table)] if found is not None and there else []
    if packs or not parts:
        parts.append(_of_packs(table, packs))
    return pl.concat(parts)


def _store() -> str:
    return os.environ.get("TOWERKIT_STORE") or "towerkit-store"


def lake_of(store: Store, url: Path | str | None = None) -> Lake | None:
    """Return the lake of a store, or None where it has none; a bucket's is asked for."""
    place = Place(default_lake(store) if url is None else url)
    if place.folder is not None and not (place.folder / RUNS.name / "_delta_log").is_dir():
        return None
    lake = _lake(place.url)
    lake.refresh()
    return lake


@lru_cache(maxsize=8)
def _lake(url: str) -> Lake:
    """Return a lake that knows the batches it has seen: they never change."""
    return Lake(url)


def columns_of(table: str) -> list[str]:
    """Return the columns that `scan` gives of a table, in order."""
    return [DATE, *(n for n in LAKE_TABLES[table].names if n not in _INNER and not _is_place(n))]


def _is_place(name: str) -> bool:
    return name.removesuffix("_at").removesuffix("_rows") in PACK_TABLES


def _schema(table: str) -> dict[str, Any]:
    import polars as pl  # noqa: PLC0415

    kinds = {DATE: pl.Date, **polars_schema(LAKE_TABLES[table])}
    return {n: kinds[n] for n in columns_of(table)}


def _of_lake(lake: Lake, table: str) -> pl.LazyFrame:
    import polars as pl  # noqa: PLC0415

    return pl.scan_parquet(
        lake.files(table), hive_partitioning=True, hive_schema={DATE: pl.Date}
    ).select(columns_of(table))


def _of_packs(table: str, packs: Sequence[Pack]) -> pl.LazyFrame:
    """Return the rows of packs as a source that is asked for columns, rows and a predicate."""
    from polars.io.plugins import register_io_source  # noqa: PLC0415

    def source(
        columns: list[str] | None, predicate: pl.Expr | None, limit: int | None, _size: int | None
    ) -> Iterator[pl.DataFrame]:
        for first in range(0, len(packs), GROUP_RUNS):
            frame = _rows(table, packs[first : first + GROUP_RUNS], columns, predicate)
            if predicate is not None:
                frame = frame.filter(predicate)
            if columns is not None:
                frame = frame.select(columns)
            if limit is not None:
                frame, limit = frame.head(limit), max(0, limit - frame.height)
            yield frame
            if limit == 0:
                return

    return register_io_source(source, schema=_schema(table), validate_schema=True)


def _rows(
    table: str, packs: Sequence[Pack], columns: list[str] | None, predicate: pl.Expr | None
) -> pl.DataFrame:
    import polars as pl  # noqa: PLC0415

    days = [p.folder.parent.name for p in packs]
    if table == RUNS.name:
        frame = runs_frame(packs).with_columns(date=pl.Series(days, dtype=pl.String).str.to_date())
        return frame.select(columns_of(table))
    wanted = set(columns_of(table) if columns is None else columns)
    wanted |= set() if predicate is None else set(predicate.meta.root_names())
    names = [n for n in PACK_TABLES[table].names if n in wanted] or [PACK_TABLES[table].names[0]]
    files: list[IO[bytes]] = []
    for pack in packs:
        data = pack.file_bytes(table)
        check_bounds(data, PACK_TABLES[table], where=str(pack.folder))
        files.append(io.BytesIO(data))
    empty = pl.DataFrame(schema={n: polars_schema(PACK_TABLES[table])[n] for n in names})
    frame = pl.read_parquet(files, columns=names) if files else empty
    counts = [p.manifest["tables"][table]["rows"] for p in packs]
    added = pl.DataFrame(
        {"run_id": [p.run_id for p in packs], "day": days, "n": counts},
        schema={"run_id": pl.String, "day": pl.String, "n": pl.Int64},
    ).select(
        pl.col("run_id").repeat_by("n").explode(empty_as_null=False),
        date=pl.col("day").str.to_date().repeat_by("n").explode(empty_as_null=False),
    )
    frame = frame.with_columns(added["run_id"], added["date"])
    return frame.select([n for n in columns_of(table) if n in frame.columns])

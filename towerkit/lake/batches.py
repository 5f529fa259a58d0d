"""Runs into files: verified rows of many packs, written as one Parquet file a table.

Rule: no row is written that is not one of its pack's root: each comes with the leaf it was sealed
with, whether it is read from packs or from the lake again. Files are put under names nobody has,
and are nothing until `runs` names them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from towerkit.core.errors import PackError
from towerkit.lake.log import BatchName
from towerkit.lake.place import Place
from towerkit.lake.tables import (
    DATE,
    LAKE_TABLES,
    RUNS,
    arrow_schema,
    by_dictionary,
    with_statistics,
)
from towerkit.packs.parquet import check_bounds
from towerkit.packs.reader import Pack, folder_of, merkle_leaves, open_pack
from towerkit.packs.tables import CONTENT, PACK_TABLES
from towerkit.packs.validate import MUST_HAVE_ROWS, holds
from towerkit.packs.writer import manifest_bytes

if TYPE_CHECKING:
    import polars as pl

GROUP_RUNS = 256  # read and verified together
# Of one row group, which is what is read to find one run: runs, and bytes before compression. What
# is said is looked up, the rest is counted over too, where each group costs.
PIECE_RUNS, PIECE_BYTES, PIECE_BYTES_SAID = 128, 2 * 1024 * 1024, 1024 * 1024


class Group(msgspec.Struct, frozen=True):
    """Verified runs and their rows, table by table, in the order of the runs."""

    packs: list[Pack]
    frames: dict[str, Any]  # pl.DataFrame, by table: its columns, salts included


def manifest_sha256(pack: Pack) -> str:
    """Return the SHA-256 of the bytes that a pack's manifest is spelled with."""
    return hashlib.sha256(manifest_bytes(pack.manifest)).hexdigest()


# -- from packs ------------------------------------------------------------------------------------


def groups_of(folders: Sequence[Path], problems: dict[str, str]) -> Iterator[Group]:
    """Yield the packs in `folders`, verified; what does not hold goes into `problems`."""
    for first in range(0, len(folders), GROUP_RUNS):
        packs = []
        for folder in folders[first : first + GROUP_RUNS]:
            try:
                packs.append(_placed(open_pack(folder)))
            except PackError as error:
                problems[str(folder)] = str(error)
        group = _together(packs) or _one_by_one(packs, problems)
        if group.packs:
            yield group


def _placed(pack: Pack) -> Pack:
    day, run_id = folder_of(pack.manifest)
    if (pack.folder.parent.name, pack.folder.name) != (day, run_id):
        raise PackError(f"{pack.folder}: holds the run of {day}/{run_id}: it was renamed")
    return pack


def _together(packs: list[Pack]) -> Group | None:
    """Return the rows of all packs read at once, or None where one of them does not hold."""
    try:
        frames = {name: _decoded(packs, name) for name in PACK_TABLES}
        check(Group(packs, frames))
    except PackError:
        return None  # which one is found by reading each alone
    return Group(packs, frames)


def _decoded(packs: list[Pack], name: str) -> pl.DataFrame:
    """Return the rows of a table of all packs, their bytes' digests, bounds and rules checked."""
    import polars as pl  # noqa: PLC0415

    table, files = PACK_TABLES[name], list[IO[bytes]]()
    for pack in packs:
        data = pack.file_bytes(name)
        check_bounds(data, table, where=str(pack.folder))
        files.append(io.BytesIO(data))
    try:
        frame = pl.read_parquet(files) if files else pl.DataFrame()
    except (Exception, pl.exceptions.PanicException) as error:  # noqa: BLE001  as in `decode`
        raise PackError(f"{name}: not readable ({type(error).__name__})") from None
    empty = name in MUST_HAVE_ROWS and any(p.manifest["tables"][name]["rows"] < 1 for p in packs)
    if packs and (empty or not (holds(frame, table) or frame.is_empty())):
        raise PackError(f"{name}: rows that break the rules of the format")
    return frame


def check(group: Group) -> None:
    """Raise `PackError` unless the rows of a group are those of its runs' manifests."""
    for name, frame in group.frames.items():
        leaves, at = merkle_leaves(frame), 0
        for pack in group.packs:
            rows = pack.manifest["tables"][name]["rows"]
            pack.check_leaves(name, leaves[at : at + rows])
            at += rows
        if at != len(leaves):
            raise PackError(f"{name}: {len(leaves)} rows, and the manifests say {at}")


def _one_by_one(packs: list[Pack], problems: dict[str, str]) -> Group:
    import polars as pl  # noqa: PLC0415

    good, frames = [], []
    for pack in packs:
        try:
            frames.append({name: pack.frame(name) for name in PACK_TABLES})
            good.append(pack)
        except PackError as error:
            problems[str(pack.folder)] = str(error)
    if not good:
        return Group([], {})
    return Group(good, {name: pl.concat([f[name] for f in frames]) for name in PACK_TABLES})


# -- into files ------------------------------------------------------------------------------------


class Made(msgspec.Struct, frozen=True):
    """A batch whose files have been put, and its rows of `runs` as the index has them."""

    name: BatchName
    index: Any  # pl.DataFrame, with the date


def make_batch(place: Place, name: BatchName, groups: Iterable[Group]) -> Made | None:
    """Write groups of runs as the files of one batch; return None where there was no run."""
    files = {table: _File(table) for table in PACK_TABLES}
    runs: list[tuple[Any, ...]] = []
    for group in groups:
        runs += _runs_rows(name, group.packs, {t: f.rows for t, f in files.items()})
        for table, file in files.items():
            file.add(group, group.frames[table])
    if not runs:
        return None
    for table, file in files.items():
        place.put(name.key(table), file.bytes())
    frame = _frame(RUNS, runs)
    file = _File(RUNS.name)
    file.write(frame, [1] * frame.height)
    place.put(name.key(RUNS.name), file.bytes())
    return Made(name, with_date(frame.drop("manifest"), name.day))


def with_date(frame: pl.DataFrame, day: str) -> pl.DataFrame:
    """Return rows of `runs` with their partition, as the index of a snapshot has them."""
    import polars as pl  # noqa: PLC0415

    return frame.select(pl.lit(day).str.to_date().alias(DATE), pl.all())


class _File:
    """The Parquet file of one table, growing by groups of runs."""

    def __init__(self, name: str) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415

        self.table, self.rows, self._sink = LAKE_TABLES[name], 0, io.BytesIO()
        self._writer = pq.ParquetWriter(
            self._sink, arrow_schema(self.table), compression="zstd", compression_level=1,
            use_dictionary=by_dictionary(self.table), store_schema=False,
            write_statistics=with_statistics(self.table), write_batch_size=128 * 1024,
        )  # fmt: skip

    def add(self, group: Group, frame: pl.DataFrame) -> None:
        """Add a group's rows, in row groups of a number of runs."""
        import polars as pl  # noqa: PLC0415

        counts = [p.manifest["tables"][self.table.name]["rows"] for p in group.packs]
        of = pl.Series("run_id", [p.run_id for p in group.packs])
        numbers = pl.DataFrame(
            {"run_id": of, "n": counts}, schema={"run_id": pl.String, "n": pl.Int64}
        )
        numbers = numbers.select(
            pl.col("run_id").repeat_by("n").explode(), row=pl.int_ranges("n").explode()
        ).drop_nulls()
        self.write(frame.with_columns(numbers["run_id"], numbers["row"]), counts)

    def write(self, rows: pl.DataFrame, counts: Sequence[int]) -> None:
        """Add the rows of runs, `counts` of each, in row groups of some runs."""
        arrow = rows.select(self.table.names).to_arrow().cast(arrow_schema(self.table))
        most = PIECE_BYTES_SAID if self.table.name == CONTENT.name else PIECE_BYTES
        fit = most * len(counts) // max(1, arrow.nbytes)
        piece, at = max(1, min(PIECE_RUNS, fit)), 0
        for first in range(0, len(counts), piece):
            height = sum(counts[first : first + piece])
            if height:
                self._writer.write_table(arrow.slice(at, height), row_group_size=height)
            at += height
        self.rows += at

    def bytes(self) -> bytes:
        """Return the file's bytes; nothing can be added after."""
        self._writer.close()
        return self._sink.getvalue()


def _frame(table: Any, rows: Sequence[tuple[Any, ...]]) -> pl.DataFrame:
    import polars as pl  # noqa: PLC0415

    from towerkit.packs.validate import polars_schema  # noqa: PLC0415

    return pl.DataFrame(rows, schema=polars_schema(table), orient="row")


def _runs_rows(name: BatchName, packs: list[Pack], at: dict[str, int]) -> list[tuple[Any, ...]]:
    """Return the rows of `runs` of packs whose rows begin at `at` in the batch's files."""
    rows, at = [], dict(at)
    for pack in packs:
        m, identity, source = pack.manifest, pack.manifest["identity"], pack.manifest["source"]
        counts = {t: int(m["tables"][t]["rows"]) for t in PACK_TABLES}
        spelled = manifest_bytes(m)
        values = {
            "run_id": pack.run_id, "batch": name.batch, "root": pack.digest,
            "manifest_sha256": hashlib.sha256(spelled).hexdigest(),
            "started_unix_ns": m["started_unix_ns"], "duration_ns": m["duration_ns"],
            "status": m["status"], "error_class": m["error_class"],
            **{k: _text(identity.get(k)) for k in ("service", "scenario", "release", "case_id")},
            "source_kind": _text(source.get("kind")), "eval_id": _text(source.get("eval_id")),
            "clock": m["clock"], "simulated": m["simulated"],
            "spans_started": m["spans"]["started"], "spans_dropped": m["spans"]["dropped"],
            "signed": m.get("signature") is not None, "redacted": bool(m.get("redactions")),
            **{f"{t}_at": at[t] for t in PACK_TABLES},
            **{f"{t}_rows": counts[t] for t in PACK_TABLES},
            "manifest": msgspec.json.encode(m, order="deterministic").decode(),
        }  # fmt: skip
        rows.append(tuple(values[c] for c in RUNS.names))
        at = {t: at[t] + counts[t] for t in PACK_TABLES}
    return rows


def runs_frame(packs: Sequence[Pack]) -> pl.DataFrame:
    """Return the rows of `runs` of packs that are in no batch."""
    nowhere = BatchName(day="", batch="")
    return _frame(RUNS, _runs_rows(nowhere, list(packs), dict.fromkeys(PACK_TABLES, 0)))


def _text(value: object) -> str | None:
    """Return a text of a manifest; what a later minor spells otherwise is in `manifest` alone."""
    return value if isinstance(value, str) else None

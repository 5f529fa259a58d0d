"""Committing a pack: four Parquet files and a manifest, then one rename.

Rule: a reader sees a whole verified pack or none. Everything is written under a temporary name, the
manifest last, and the folder is renamed into place; what is there already is never overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Self

import msgspec

from towerkit.core.errors import StoreError
from towerkit.packs.digest import leaf, merkle_root, pack_root
from towerkit.packs.encode import encode
from towerkit.packs.parquet import CELL_BYTES, decoded_limit
from towerkit.packs.tables import FORMAT_VERSION, PACK_TABLES, Table
from towerkit.packs.validate import rows_hold

Row = tuple[Any, ...]


class Draft(msgspec.Struct, kw_only=True):
    """A pack before its commit: rows in canonical column order without salts, and what ran.

    `manifest` holds everything but `format`, `tables` and `root`, which the commit computes.
    `salt_seed` is secret and never stored: with it a reader could guess a redacted value.
    """

    manifest: dict[str, Any]
    spans: Sequence[Row]
    costs: Sequence[Row]
    inputs: Sequence[Row]
    content: Sequence[Row]
    salt_seed: bytes

    def rows(self, table: Table) -> Sequence[Row]:
        """Return the rows of `table`."""
        rows: Sequence[Row] = getattr(self, table.name)
        return rows


def _salts(seed: bytes, name: str, count: int) -> list[bytes]:
    stream = hashlib.shake_128(seed + name.encode()).digest(16 * count)
    return [stream[i : i + 16] for i in range(0, 16 * count, 16)]


@cache
def arrow_schema(table: Table) -> Any:
    """Return the Arrow schema that `table` is written with."""
    import pyarrow as pa  # noqa: PLC0415

    kinds = {
        "str": pa.string(),
        "int": pa.int64(),
        "float": pa.float64(),
        "bool": pa.bool_(),
        "bytes": pa.binary(),
    }
    return pa.schema([pa.field(c.name, kinds[c.kind]) for c in table.columns])


def _arrow(table: Table, columns: Sequence[Sequence[Any]]) -> Any:
    import pyarrow as pa  # noqa: PLC0415

    schema = arrow_schema(table)
    try:
        arrays = [pa.array(values, type=f.type) for values, f in zip(columns, schema, strict=True)]
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
        raise StoreError(f"{table.name}: a row does not fit the table: {error}") from error
    return pa.table(arrays, schema=schema)


def _refuse(table: Table, arrow: Any, where: str) -> None:
    """Raise with the report of what does not hold in rows that failed their check."""
    import polars as pl  # noqa: PLC0415  only to say what is wrong

    from towerkit.packs.validate import check  # noqa: PLC0415

    frame = pl.from_arrow(arrow)
    assert isinstance(frame, pl.DataFrame)  # noqa: S101  narrows for the type checker
    check(frame, table, where=where)
    raise StoreError(
        f"{where}: {table.name}: expected each value in its column's own Python type "
        "(a float column takes 1.0, not 1), got another"
    )


def parquet_bytes(
    table: Table, rows: Sequence[Row], columns: Sequence[Sequence[Any]], *, where: str
) -> bytes:
    """Return `rows`, also given as `columns`, validated against `table`, as a Parquet file's bytes.

    The rows may leave out their salts. No statistics and no dictionary: a footer would repeat
    prompts in clear.
    """
    if not rows_hold(rows, columns, table):
        _refuse(table, _arrow(table, columns), f"writing {where}")
    data, becomes = encode(table, columns)
    if becomes + len(rows) * len(table.columns) * CELL_BYTES > decoded_limit(len(data)):
        data, _ = encode(table, columns, pack=False)  # a reader would take it for a bomb
    return data


def write_parquet(table: Table, rows: Sequence[Row], path: Path, *, durable: bool) -> bytes:
    """Validate `rows` against `table`, write them to `path`, readable by the owner only.

    Returns the bytes written.
    """
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(table.columns)
    data = parquet_bytes(table, rows, columns, where=path.name)
    write_bytes(path, data, durable=durable)
    return data


class Together:
    """New files of one folder that are synced to the disk together; a context manager.

    The system is asked to write each as soon as it is there. Then all are synced at once, so the
    disk's flushes are one, not one each: in turn they take ten times as long.
    """

    def __init__(self, *, durable: bool) -> None:
        """Begin with no file. Without `durable` nothing is synced."""
        self._durable, self._open = durable, list[int]()
        self._closing = contextlib.ExitStack()

    def add(self, path: Path, data: bytes) -> None:
        """Write a new file readable by the owner only."""
        descriptor = self._keep(write_new(path, data))
        if self._durable and hasattr(os, "posix_fadvise"):  # macOS has none
            # Begins the write-back. A hint: what it could not do, the sync does or reports.
            with contextlib.suppress(OSError):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self, folder: Path) -> None:
        """Bring the files and their names in `folder` to the disk."""
        if self._durable:
            self._keep(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            _sync_all(self._open)

    def _keep(self, descriptor: int) -> int:
        self._closing.callback(os.close, descriptor)
        self._open.append(descriptor)
        return descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


@cache
def _syncing() -> ThreadPoolExecutor:
    """Return the threads that sync beside the one that commits: two are as fast as six."""
    return ThreadPoolExecutor(max_workers=2, thread_name_prefix="towerkit-sync")


os.register_at_fork(after_in_child=_syncing.cache_clear)


def _sync_all(descriptors: Sequence[int]) -> None:
    """Sync open files to the disk, all at once; raise the first error when all are through."""
    begun: list[Future[None]] = []
    try:
        with contextlib.suppress(RuntimeError):  # the interpreter is ending, or has no more threads
            for descriptor in descriptors[1:]:
                begun.append(_syncing().submit(os.fsync, descriptor))  # noqa: PERF401  keeps each
        for descriptor in (descriptors[0], *descriptors[1 + len(begun) :]):
            os.fsync(descriptor)
    finally:
        wait(begun)  # before anybody closes them
    for done in begun:
        done.result()


def sync_folder(path: Path) -> None:
    """Sync the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def day_of(unix_ns: int) -> str:
    """Return the UTC date of a wall time as YYYY-MM-DD."""
    return datetime.fromtimestamp(unix_ns // 1_000_000_000, UTC).strftime("%Y-%m-%d")


def commit(
    store: Path, draft: Draft, *, durable: bool = True,
    sign: Callable[[str], dict[str, str]] | None = None,
) -> tuple[Path, dict[str, Any]]:  # fmt: skip
    """Write `draft` into `store` and return its folder and manifest.

    Committing the same pack again is a success and changes nothing. Raises `StoreError` when the
    store cannot be written or holds another pack of that run id. `durable=False` leaves out the
    fsyncs: for packs that can be made again from their source. `sign` returns a root's signature.
    """
    run_id = draft.manifest["run_id"]
    day = store / "packs" / day_of(draft.manifest["started_unix_ns"])
    final, temporary = day / run_id, day / f".{run_id}.{os.getpid()}.tmp"
    try:
        _make_anew(temporary)
        manifest = _fill(temporary, draft, durable=durable, sign=sign)
        there = _publish(temporary, final, manifest, durable=durable)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise StoreError(
                f"cannot write run {run_id} into store {store}: {_reason(error)}"
            ) from error
        raise
    return final, there


def _make_anew(folder: Path) -> None:
    """Make an empty folder, and what is missing above it, for the owner only."""
    try:
        folder.mkdir(mode=0o700)
    except FileNotFoundError:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except FileExistsError:  # left by a killed writer whose number this process has now
        shutil.rmtree(folder)
        folder.mkdir(mode=0o700)


def _fill(
    folder: Path, draft: Draft, *, durable: bool, sign: Callable[[str], dict[str, str]] | None
) -> dict[str, Any]:
    tables = {}
    with Together(durable=durable) as files:
        for name, table in PACK_TABLES.items():
            rows, file = draft.rows(table), f"{name}.parquet"
            salts = _salts(draft.salt_seed, name, len(rows))
            columns = [*zip(*rows, strict=True), salts] if rows else [()] * len(table.columns)
            data = parquet_bytes(table, rows, columns, where=file)
            files.add(folder / file, data)
            tables[name] = {
                "file": file,
                "sha256": hashlib.sha256(data).hexdigest(),
                "bytes": len(data),
                "rows": len(rows),
                "root": merkle_root(map(leaf, salts, rows)).hex(),
            }
        manifest = {"format": FORMAT_VERSION, **draft.manifest, "tables": tables}
        manifest["root"] = pack_root(manifest)
        if sign is not None:
            manifest["signature"] = sign(manifest["root"])
        files.add(folder / "manifest.json", manifest_bytes(manifest))
        files.sync(folder)
    return manifest


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """Return the one spelling of a manifest: sorted keys, two spaces, a newline at the end."""
    text = msgspec.json.encode(manifest, order="deterministic")
    return msgspec.json.format(text, indent=2) + b"\n"


def write_new(path: Path, data: bytes) -> int:
    """Write a new file readable by the owner only, and return its open descriptor."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_bytes(path: Path, data: bytes, *, durable: bool) -> None:
    """Write a new file readable by the owner only."""
    descriptor = write_new(path, data)
    try:
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _publish(
    temporary: Path, final: Path, manifest: dict[str, Any], *, durable: bool
) -> dict[str, Any]:
    """Give the pack its name and return its manifest: that of the same pack, if it is there."""
    try:
        temporary.rename(final)
    except OSError:
        if not (final / "manifest.json").is_file():
            raise
        there: dict[str, Any] = msgspec.json.decode((final / "manifest.json").read_bytes())
        if there["root"] != manifest["root"]:
            raise StoreError(
                f"run {manifest['run_id']} is already stored with other content "
                f"(digest {there['root'][:12]}, this one {manifest['root'][:12]}): packs are "
                "immutable, use another --store or --seed"
            ) from None
        shutil.rmtree(temporary)
        return there
    if durable:
        sync_folder(final.parent)
    return manifest


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


def clean_temporaries(store: Path, *, older_than_s: float = 3600) -> int:
    """Remove what killed writers left behind, and return how many folders went."""
    horizon = time.time() - older_than_s  # file ages are the file system's clock
    gone = 0
    for folder in store.glob("packs/*/.*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # another cleaner was faster
            if folder.stat().st_mtime < horizon:
                shutil.rmtree(folder, ignore_errors=True)
                gone += 1
    return gone

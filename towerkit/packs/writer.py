"""Committing a pack: four Parquet files and a manifest, then one rename.

Rule: a reader sees a whole verified pack or none. Everything is written under a temporary name, the
manifest last, and the folder is renamed into place; what is there already is never overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.errors import StoreError
from towerkit.packs.digest import pack_root, table_root
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


def _salted(rows: Sequence[Row], seed: bytes, name: str) -> list[Row]:
    stream = hashlib.shake_128(seed + name.encode()).digest(16 * len(rows))
    return [(*row, stream[16 * i : 16 * i + 16]) for i, row in enumerate(rows)]


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


def write_parquet(table: Table, rows: Sequence[Row], path: Path, *, durable: bool) -> bytes:
    """Validate `rows` against `table`, write them to `path`, readable by the owner only.

    Returns the bytes written. No statistics and no dictionary: a footer would repeat prompts in
    clear.
    """
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(table.columns)
    if not rows_hold(rows, columns, table):
        _refuse(table, _arrow(table, columns), f"writing {path.name}")
    data, becomes = encode(table, columns)
    if becomes + len(rows) * len(table.columns) * CELL_BYTES > decoded_limit(len(data)):
        data, _ = encode(table, columns, pack=False)  # a reader would take it for a bomb
    write_bytes(path, data, durable=durable)
    return data


def sync_all(paths: Sequence[Path]) -> None:
    """Sync files and folders to the disk, all at once: its flushes are then one, not one each."""
    errors: list[OSError] = []

    def sync(path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            errors.append(error)

    threads = []
    for path in paths[1:]:
        thread = threading.Thread(target=sync, args=(path,), name="towerkit-sync")
        try:
            thread.start()
        except RuntimeError:  # the interpreter is ending, or there are too many: do it here
            sync(path)
        else:
            threads.append(thread)
    sync(paths[0])
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


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
        day.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(mode=0o700)
        manifest = _fill(temporary, draft, durable=durable, sign=sign)
        return _publish(temporary, final, manifest, durable=durable)
    except OSError as error:
        raise StoreError(
            f"cannot write run {run_id} into store {store}: {_reason(error)}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(
    folder: Path, draft: Draft, *, durable: bool, sign: Callable[[str], dict[str, str]] | None
) -> dict[str, Any]:
    tables = {}
    for name, table in PACK_TABLES.items():
        rows = _salted(draft.rows(table), draft.salt_seed, name)
        path = folder / f"{name}.parquet"
        data = write_parquet(table, rows, path, durable=False)
        tables[name] = {
            "file": path.name,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "rows": len(rows),
            "root": table_root(rows),
        }
    manifest = {"format": FORMAT_VERSION, **draft.manifest, "tables": tables}
    manifest["root"] = pack_root(manifest)
    if sign is not None:
        manifest["signature"] = sign(manifest["root"])
    write_bytes(folder / "manifest.json", manifest_bytes(manifest), durable=False)
    if durable:
        files = [folder / f"{name}.parquet" for name in tables]
        sync_all([*files, folder / "manifest.json", folder])
    return manifest


def manifest_bytes(manifest: dict[str, Any]) -> bytes:
    """Return the one spelling of a manifest: sorted keys, two spaces, a newline at the end."""
    text = msgspec.json.encode(manifest, order="deterministic")
    return msgspec.json.format(text, indent=2) + b"\n"


def write_bytes(path: Path, data: bytes, *, durable: bool) -> None:
    """Write a new file readable by the owner only."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())


def _publish(
    temporary: Path, final: Path, manifest: dict[str, Any], *, durable: bool
) -> tuple[Path, dict[str, Any]]:
    try:
        temporary.rename(final)
    except OSError:
        if not (final / "manifest.json").is_file():
            raise
        there = msgspec.json.decode((final / "manifest.json").read_bytes())
        if there["root"] != manifest["root"]:
            raise StoreError(
                f"run {manifest['run_id']} is already stored with other content "
                f"(digest {there['root'][:12]}, this one {manifest['root'][:12]}): packs are "
                "immutable, use another --store or --seed"
            ) from None
        return final, there
    if durable:
        sync_folder(final.parent)
    return final, manifest


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

"""A value is removed from runs that stand only in a lake.

Rule: a pack is redacted in one way only. A run whose pack was dropped is restored beside the store,
redacted there as every pack is, and takes the place of what the lake holds, whose files are then
deleted; nothing is done to the lake before the new pack was checked.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from towerkit.core.env import Env, SystemEnv
from towerkit.core.errors import StoreError, TowerError
from towerkit.lake.batches import Group
from towerkit.lake.compaction import replace_changed
from towerkit.lake.reader import Lake, LakePack
from towerkit.packs.reader import Pack, folder_of, rows_of
from towerkit.packs.redaction import Removal, redact
from towerkit.packs.signing import Signer
from towerkit.packs.spellings import Spellings
from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.writer import manifest_bytes, write_bytes, write_parquet

if TYPE_CHECKING:
    import polars as pl


class LakeRedaction(msgspec.Struct, frozen=True, kw_only=True):
    """What was redacted in a lake: by run the rows of each table, and what could not be."""

    runs: dict[str, dict[str, int]]
    problems: dict[str, str]


def restore(pack: LakePack, root: Path) -> Path:
    """Write a run of a lake as a pack again, under the store at `root`; return its folder.

    Rows, salts, roots and signature are as they were; the files are other bytes of the same rows,
    so the manifest names their digests.
    """
    day, run_id = folder_of(pack.manifest)
    folder = root / "packs" / day / run_id
    try:
        folder.mkdir(mode=0o700, parents=True)
        manifest = {**pack.manifest, "tables": {}}
        for name, entry in pack.manifest["tables"].items():
            rows = list(rows_of(pack.frame(name)))
            path = folder / f"{name}.parquet"
            data = write_parquet(PACK_TABLES[name], rows, path, durable=False)
            digest = hashlib.sha256(data).hexdigest()
            manifest["tables"][name] = {**entry, "sha256": digest, "bytes": len(data)}
        write_bytes(folder / "manifest.json", manifest_bytes(manifest), durable=False)
    except OSError as error:
        raise StoreError(f"cannot restore run {run_id} to {root}: {error.strerror}") from None
    return folder


def redact_in_lake(
    lake: Lake, removal: Removal, chosen: Callable[[Pack], bool], *, beside: Path,
    signer: Signer | None = None, env: Env | None = None,
) -> LakeRedaction:  # fmt: skip
    """Remove a value from the runs of a lake that `chosen` names; see `packs.redaction.redact`.

    `beside` is a folder of the same owner: restored packs stand there until they are in the lake.
    """
    env = env or SystemEnv()
    temporary = beside / f".redact-{env.bits(64):016x}.tmp"
    counts: dict[str, dict[str, int]] = {}
    problems: dict[str, str] = {}
    try:
        folders = {}
        for pack in _holding(lake, removal, chosen):
            try:
                folder = restore(pack, temporary)
                rows = redact(folder, removal, signer=signer)
            except TowerError as error:
                problems[str(pack.folder)] = str(error)
                continue
            if rows:
                counts[pack.run_id], folders[pack.run_id] = rows, folder
        problems |= replace_changed(lake, folders, env=env).problems
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return LakeRedaction(runs=counts, problems=problems)


def _holding(lake: Lake, removal: Removal, chosen: Callable[[Pack], bool]) -> Iterator[LakePack]:
    """Yield the chosen runs in whose rows or manifest the value may stand."""
    forms = Spellings(removal.value)
    for batch in sorted(lake.refresh().batches):
        for group in lake.groups_of(batch):
            if forms.found(_text(group.frames, group)):
                for pack in group.packs:
                    if isinstance(pack, LakePack) and chosen(pack):
                        frames = {n: pack.frame(n) for n in PACK_TABLES}
                        if forms.found(_text(frames, Group([pack], frames))):
                            yield pack


def _text(frames: dict[str, pl.DataFrame], group: Group) -> bytes:
    """Return every cell that may hold a text, and the manifests, one after the other."""
    import polars as pl  # noqa: PLC0415

    cells = [manifest_bytes(p.manifest) for p in group.packs]
    for frame in frames.values():
        for column in frame.drop("salt").select(pl.col(pl.String, pl.Binary)).iter_columns():
            cells += column.drop_nulls().cast(pl.Binary).to_list()
    return b"\0".join(cells)

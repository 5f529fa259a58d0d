"""A store: packs by date, and the tables of what was learnt about them.

    <store>/packs/<YYYY-MM-DD>/<run_id>/…     immutable
    <store>/scores/<digest>.parquet           one file a batch, named by its content

Rule: nothing is read from a file before its digest is checked, and no name from outside opens a
path outside the store.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from towerkit.core.canonical import canonical_json
from towerkit.core.errors import PackError, SelectionError, StoreError
from towerkit.packs.committer import wait_for_commits
from towerkit.packs.digest import pack_root, table_root
from towerkit.packs.selection import Selection, parse_selection
from towerkit.packs.tables import FORMAT_VERSION, PACK_TABLES, SCORES, Table
from towerkit.packs.writer import Draft, Row, commit, manifest_bytes, write_parquet

if TYPE_CHECKING:
    import polars as pl

_RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
MAX_FILE_BYTES = 512 * 1024 * 1024


class Pack:
    """One run's evidence, read back. Frames are verified and validated when first asked for."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Use `Store.pack` or `open_pack`; they check the manifest."""
        self.folder, self.manifest = folder, manifest
        self._frames: dict[str, pl.DataFrame] = {}

    @property
    def run_id(self) -> str:
        """The run's UUIDv7."""
        return str(self.manifest["run_id"])

    @property
    def digest(self) -> str:
        """Root digest of the pack."""
        return str(self.manifest["root"])

    def frame(self, name: str) -> pl.DataFrame:
        """Return the table `name` (spans, costs, inputs or content), with all its columns.

        Raises `PackError` when the file's digest, schema or rows do not hold.
        """
        if name not in self._frames:
            self._frames[name] = self._read(PACK_TABLES[name])
        return self._frames[name]

    def _read(self, table: Table) -> pl.DataFrame:
        import polars as pl  # noqa: PLC0415

        from towerkit.packs.validate import check  # noqa: PLC0415

        entry = self.manifest["tables"][table.name]
        path = self.folder / f"{table.name}.parquet"
        data = _read_regular(path)
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise PackError(f"{path}: its SHA-256 is not the manifest's: the file was changed")
        frame = pl.read_parquet(data)
        return check(frame, table, where=str(path))

    @cached_property
    def bodies(self) -> dict[str, bytes]:
        """Content by digest: the redacted bytes."""
        frame = self.frame("content")
        return dict(zip(frame["digest"], frame["body"], strict=True))

    def content(self, digest: str) -> Any:
        """Return one piece of content: parsed JSON, or text."""
        frame = self.frame("content").row(by_predicate=_is(digest), named=True)
        body: bytes = frame["body"]
        return (
            msgspec.json.decode(body)
            if frame["media_type"] == "application/json"
            else body.decode()
        )

    def verify(self) -> None:
        """Check every file, every row and the root; raise `PackError` at what does not hold."""
        if _read_regular(self.folder / "manifest.json") != manifest_bytes(self.manifest):
            raise PackError(f"{self.folder}: manifest.json is not spelled as it was written")
        expected = {"manifest.json", *(f"{n}.parquet" for n in PACK_TABLES)}
        found = {p.name for p in self.folder.iterdir()}
        if found != expected:
            odd = sorted(found ^ expected)
            raise PackError(f"{self.folder}: files missing or foreign: {', '.join(odd)}")
        for name in PACK_TABLES:
            frame, entry = self.frame(name), self.manifest["tables"][name]
            if frame.height != entry["rows"] or table_root(frame.rows()) != entry["root"]:
                raise PackError(f"{self.folder}: the rows of {name} are not those of the manifest")
        if pack_root(self.manifest) != self.digest:
            raise PackError(f"{self.folder}: the manifest was changed: its root does not hold")


def _is(digest: str) -> pl.Expr:
    import polars as pl  # noqa: PLC0415

    return pl.col("digest") == digest


def _read_regular(path: Path) -> bytes:
    """Read a regular file of a bounded size, following no link."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PackError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise PackError(f"{path}: larger than {MAX_FILE_BYTES} bytes, refused")
    return data


def open_pack(folder: Path) -> Pack:
    """Open the pack in `folder`; raise `PackError` when it is not one this version can read."""
    data = _read_regular(folder / "manifest.json")
    try:
        manifest = msgspec.json.decode(data)
        version, run_id = manifest["format"], manifest["run_id"]
        usable = bool(_RUN_ID.fullmatch(run_id)) and set(PACK_TABLES) <= set(manifest["tables"])
        usable = usable and {"root", "identity", "source", "started_unix_ns"} <= set(manifest)
    except (msgspec.MsgspecError, KeyError, TypeError):
        raise PackError(f"{folder}: its manifest.json is not a pack manifest") from None
    if version != FORMAT_VERSION:
        raise PackError(
            f"{folder}: pack format {version!r}, this towerkit reads {FORMAT_VERSION}: update it"
        )
    if not usable:
        raise PackError(f"{folder}: its manifest.json lacks fields of format {FORMAT_VERSION}")
    return Pack(folder, manifest)


class Store:
    """A folder of packs. Nothing is created before the first write."""

    def __init__(self, root: Path | str) -> None:
        """Point at `root`, which may not exist yet."""
        self.root = Path(root)

    def commit(self, draft: Draft, *, durable: bool = True) -> Pack:
        """Write a pack; see `packs.writer.commit`."""
        return Pack(*commit(self.root, draft, durable=durable))

    def _folders(self) -> Iterator[Path]:
        wait_for_commits(self.root)
        base = self.root / "packs"
        if not base.exists():
            return
        try:
            for day in sorted(os.scandir(base), key=lambda e: e.name):
                if day.is_dir(follow_symlinks=False):
                    for run in sorted(os.scandir(day.path), key=lambda e: e.name):
                        if run.is_dir(follow_symlinks=False) and _RUN_ID.fullmatch(run.name):
                            yield Path(run.path)
        except OSError as error:
            raise StoreError(f"cannot read store {self.root}: {error.strerror}") from error

    def packs(self) -> list[Pack]:
        """Return every pack of the store, oldest first."""
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"cannot read store {self.root}: it is a file, not a folder")
        return [open_pack(folder) for folder in self._folders()]

    def select(self, selection: Selection | str) -> list[Pack]:
        """Return the packs that match; raise `SelectionError` listing what the store holds."""
        chosen = parse_selection(selection) if isinstance(selection, str) else selection
        packs = self.packs()
        matching = [p for p in packs if chosen.matches(p.manifest)]
        if not matching:
            raise SelectionError(
                f"nothing in store {self.root} matches {chosen.text!r}: it holds {_holdings(packs)}"
            )
        return matching

    def find(self, run_id: str) -> Pack | None:
        """Return the pack of a run id, or None."""
        found = (folder for folder in self._folders() if folder.name == run_id)
        return next((open_pack(folder) for folder in found), None)

    def pack(self, name: str) -> Pack:
        """Return the pack of a run id, or in a folder; raise `SelectionError` if there is none."""
        folder = Path(name)
        if (folder / "manifest.json").is_file():
            return open_pack(folder)
        named = self.find(name) if _RUN_ID.fullmatch(name) else None
        if named is not None:
            return named
        raise SelectionError(
            f"expected a run id or the folder of a pack, got {name!r}; "
            f"store {self.root} holds {_holdings(self.packs())}"
        )

    def scan(self, table: str, packs: Sequence[Pack]) -> pl.DataFrame:
        """Return the rows of `table` over `packs`, verified and validated, without salts."""
        import polars as pl  # noqa: PLC0415

        return pl.concat([p.frame(table).drop("salt") for p in packs])

    def add_scores(self, rows: Sequence[Row]) -> Path:
        """Write one batch of scores (rows in the order of `SCORES`) and return its file.

        The name is the batch's digest: the same batch again changes nothing.
        """
        path = self.root / "scores" / f"{_batch_digest(rows)}.parquet"
        if path.exists():
            return path
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.unlink(missing_ok=True)
            write_parquet(SCORES, rows, temporary, durable=True)
            temporary.rename(path)
        except OSError as error:
            raise StoreError(f"cannot write scores into {self.root}: {error.strerror}") from error
        finally:
            if temporary.exists():
                temporary.unlink()
        return path

    def scores(self, packs: Sequence[Pack]) -> pl.DataFrame:
        """Return the scores of `packs`, validated; a batch that was changed raises `PackError`.

        A score counts only for the very pack it was given to: the digests must agree.
        """
        import polars as pl  # noqa: PLC0415

        from towerkit.packs.validate import check, polars_schema  # noqa: PLC0415

        frames = []
        for path in sorted((self.root / "scores").glob("*.parquet")):
            frame = check(pl.read_parquet(_read_regular(path)), SCORES, where=str(path))
            if _batch_digest(frame.rows()) != path.stem:
                raise PackError(f"{path}: its rows are not those of its name: the file was changed")
            frames.append(frame)
        digests = pl.DataFrame(
            {"run_id": [p.run_id for p in packs], "pack_digest": [p.digest for p in packs]},
            schema={"run_id": pl.String, "pack_digest": pl.String},
        )
        every = pl.concat(frames) if frames else pl.DataFrame(schema=polars_schema(SCORES))
        kept = every.join(digests, on=["run_id", "pack_digest"], how="semi")
        return kept.unique().sort(kept.columns)


def _batch_digest(rows: Sequence[Row]) -> str:
    return hashlib.sha256(canonical_json(sorted(map(list, rows), key=canonical_json))).hexdigest()[
        :32
    ]


def _holdings(packs: Sequence[Pack]) -> str:
    if not packs:
        return "no runs"
    counts: dict[str, int] = {}
    for p in packs:
        i = p.manifest["identity"]
        name = f"release={i.get('release')},scenario={i.get('scenario')}"
        counts[name] = counts.get(name, 0) + 1
    listed = sorted(counts.items())
    shown = "; ".join(f"{name} ({n})" for name, n in listed[:12])
    return f"{shown}; and {len(listed) - 12} more" if len(listed) > 12 else shown

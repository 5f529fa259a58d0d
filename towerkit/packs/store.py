"""A store: packs by date, and the tables of what was learnt about them.

    <store>/packs/<YYYY-MM-DD>/<run_id>/…     immutable
    <store>/scores/<digest>.parquet           one file a batch, named by its content

Rule: nothing is read from a file before its digest is checked, and no name from outside opens a
path outside the store.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from towerkit.core.canonical import canonical_json
from towerkit.core.errors import PackError, SelectionError, StoreError
from towerkit.packs.committer import wait_for_commits
from towerkit.packs.files import opened_folder, read_member, shown
from towerkit.packs.reader import RUN_ID, Pack, folder_of, open_pack
from towerkit.packs.selection import Selection, parse_selection
from towerkit.packs.signing import Signer, environment_signer
from towerkit.packs.tables import PACK_TABLES, SCORES
from towerkit.packs.writer import Draft, Row, commit, write_parquet

if TYPE_CHECKING:
    import polars as pl

    from towerkit.packs.browse import Runs

__all__ = ["Pack", "Store", "open_pack"]


class Store:
    """A folder of packs. Nothing is created before the first write."""

    def __init__(self, root: Path | str, *, signer: Signer | None = None) -> None:
        """Point at `root`, which may not exist yet.

        `signer` signs what is committed; without one, the key that `TOWERKIT_SIGNING_KEY` names.
        """
        # Absolute: a run is sealed later, and a program may change its folder meanwhile.
        self.root, self._signer = Path(root).absolute(), signer

    @property
    def signer(self) -> Signer | None:
        """Who signs what is committed here, if anybody."""
        return self._signer or environment_signer(self.root)

    def commit(self, draft: Draft, *, durable: bool = True) -> Pack:
        """Write a pack; see `packs.writer.commit`."""
        signer = self.signer
        sign = None if signer is None else signer.sign
        return Pack(*commit(self.root, draft, durable=durable, sign=sign))

    def folders(self) -> list[Path]:
        """Return the folders that hold packs, oldest first."""
        return [path for path, odd in self._walk() if odd is None]

    def oddities(self) -> dict[str, str]:
        """Return what lies among the packs and is none, with what is wrong with it."""
        return {str(path): odd for path, odd in self._walk() if odd is not None}

    def _walk(self) -> Iterator[tuple[Path, str | None]]:
        """Yield every entry of the days' folders, with a sentence if it is no pack's folder.

        No link is followed, and what a writer has not renamed yet is not looked at.
        """
        wait_for_commits(self.root)
        base = self.root / "packs"
        if not os.path.lexists(base):
            return
        try:
            with opened_folder(base):
                pass  # a link in its place is refused here
            for day in sorted(os.scandir(base), key=lambda e: e.name):
                if not day.is_dir(follow_symlinks=False):
                    yield Path(day.path), "expected the folder of a day, got a file or a link"
                    continue
                for run in sorted(os.scandir(day.path), key=lambda e: e.name):
                    if not (run.name.startswith(".") and run.name.endswith((".tmp", ".old"))):
                        yield Path(run.path), _oddity(run)
        except OSError as error:
            raise StoreError(f"cannot read store {self.root}: {error.strerror}") from error

    def packs(self) -> list[Pack]:
        """Return every pack of the store, oldest first."""
        if self.root.exists() and not self.root.is_dir():
            raise StoreError(f"cannot read store {self.root}: it is a file, not a folder")
        return [open_pack(folder) for folder in self.folders()]

    def runs(self) -> Runs:
        """Return the runs of the store, newest first, to look at."""
        from towerkit.packs.browse import Runs  # noqa: PLC0415  only who looks

        return Runs(self.packs())

    def select(self, selection: Selection | str) -> list[Pack]:
        """Return the packs that match; raise `SelectionError` listing what the store holds."""
        chosen = parse_selection(selection) if isinstance(selection, str) else selection
        matching = self._matching(chosen)
        if not matching:
            raise SelectionError(
                f"nothing in store {self.root} matches {chosen.text!r}: it holds "
                f"{_holdings(self.packs())}"
            )
        return matching

    def _matching(self, chosen: Selection) -> list[Pack]:
        return [p for p in self.packs() if chosen.matches(p.manifest)]

    def find(self, run_id: str) -> Pack | None:
        """Return the pack of a run id, or None."""
        found = (folder for folder in self.folders() if folder.name == run_id)
        return next((open_pack(folder) for folder in found), None)

    def folder(self, name: str) -> Path:
        """Return the folder of a run id, or `name` itself where it is a pack's folder.

        Raises `SelectionError` if there is none. A run id is looked up, never joined to a path.
        """
        if RUN_ID.fullmatch(name):
            found = (folder for folder in self.folders() if folder.name == name)
            folder = next(found, None)
            if folder is not None:
                return folder
        elif _is_pack_folder(name):
            return Path(name)
        raise SelectionError(
            f"expected a run id or the folder of a pack, got {shown(name)}; "
            f"store {self.root} holds {_holdings(self.packs())}"
        )

    def pack(self, name: str) -> Pack:
        """Return the pack of a run id, or in a folder; raise `SelectionError` if there is none."""
        return open_pack(self.folder(name))

    def misplaced(self, pack: Pack) -> str | None:
        """Say what is wrong with the place of a pack of this store, if anything is."""
        day, run_id = folder_of(pack.manifest)
        inside = pack.folder.parent.parent == self.root / "packs"
        if not inside or (pack.folder.parent.name, pack.folder.name) == (day, run_id):
            return None
        return f"{pack.folder}: holds the run of {day}/{run_id}: it was renamed or exchanged"

    def scan(self, table: str, packs: Sequence[Pack]) -> pl.DataFrame:
        """Return the rows of `table` over `packs`, verified and validated, without salts."""
        import polars as pl  # noqa: PLC0415

        from towerkit.packs.validate import polars_schema  # noqa: PLC0415

        empty = pl.DataFrame(schema=polars_schema(PACK_TABLES[table])).drop("salt")
        return pl.concat([empty, *(p.frame(table).drop("salt") for p in packs)])

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

        from towerkit.packs.parquet import decode  # noqa: PLC0415
        from towerkit.packs.validate import check, polars_schema  # noqa: PLC0415

        frames = []
        for path in sorted((self.root / "scores").glob("*.parquet")):
            data = read_member(path.parent, path.name)
            frame = check(decode(data, SCORES, where=str(path)), SCORES, where=str(path))
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


def _oddity(entry: os.DirEntry[str]) -> str | None:
    if not RUN_ID.fullmatch(entry.name):
        return "expected the folder of a run, got another name"
    if not entry.is_dir(follow_symlinks=False):
        return "expected the folder of a run, got a file or a link"
    return None


def _is_pack_folder(name: str) -> bool:
    """Say whether there is a folder with a manifest; a name no file can have is none."""
    try:
        return (Path(name) / "manifest.json").is_file()
    except (OSError, ValueError):
        return False


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

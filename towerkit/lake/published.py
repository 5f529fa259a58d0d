"""Packs on an object store: put there whole, or not at all.

Rule: `packs/<day>/<run_id>/manifest.json` is put last and only where there is none: it is the
commit, and who comes second learns it. The files are named by their digests, so two writers of one
run never mix, and what a killed one left is nothing to anybody.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.env import Env
from towerkit.core.errors import PackError, SelectionError, StoreError
from towerkit.lake.compaction import Compaction, compact
from towerkit.lake.place import Place
from towerkit.lake.reader import Lake
from towerkit.packs.files import MAX_MANIFEST_BYTES, read_member, shown
from towerkit.packs.reader import RUN_ID, Pack, folder_of, open_pack, parse_manifest
from towerkit.packs.store import Store
from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.writer import write_bytes

FETCHED = 2048  # published packs that are brought here at once


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What was published: run ids; `already` were there, `replaced` had been redacted since."""

    published: tuple[str, ...]
    replaced: tuple[str, ...]
    already: int
    problems: dict[str, str]


def publish(packs: Sequence[Pack], to: Path | str) -> Published:
    """Put packs under `to`, an S3 URL or a folder; each is verified before.

    A pack that is there already changes nothing; one that was redacted since takes the place of
    what is there, whose files are deleted. Another pack of the same run is a problem.
    """
    place, already = Place(to), 0
    done: dict[bool, list[str]] = {True: [], False: []}
    problems: dict[str, str] = {}
    for pack in packs:
        try:
            pack.verify()
            replaced = _put(place, pack)
        except StoreError as error:
            problems[str(pack.folder)] = str(error)
            continue
        if replaced is None:
            already += 1
        else:
            done[replaced].append(pack.run_id)
    return Published(published=tuple(done[False]), replaced=tuple(done[True]), already=already,
                     problems=problems)  # fmt: skip


def _put(place: Place, pack: Pack) -> bool | None:
    """Put one pack; return whether it took another's place, or None when it was there."""
    base = _base(*folder_of(pack.manifest))
    manifest = read_member(pack.folder, "manifest.json", most=MAX_MANIFEST_BYTES)
    there = place.get(f"{base}/manifest.json")
    if there == manifest:
        return None
    if there is not None and not _newer(pack, there, base):
        return None
    for name in PACK_TABLES:
        place.put(_key(base, name, pack.manifest), pack.file_bytes(name))
    if there is not None:
        place.replace(f"{base}/manifest.json", manifest)
        old = parse_manifest(there, where=base)
        place.delete({_key(base, n, old) for n in PACK_TABLES}
                     - {_key(base, n, pack.manifest) for n in PACK_TABLES})  # fmt: skip
        return True
    if not place.put(f"{base}/manifest.json", manifest):
        return _put(place, pack)  # somebody else was faster: look at what they put
    return False


def _newer(pack: Pack, there: bytes, where: str) -> bool:
    known = parse_manifest(there, where=where)
    if known["root"] != pack.digest:
        raise StoreError(
            f"run {pack.run_id} is already published with other content (digest "
            f"{known['root'][:12]}, this one {pack.digest[:12]}): packs are immutable"
        )
    return len(pack.manifest.get("redactions", ())) > len(known.get("redactions", ()))


def _base(day: str, run_id: str) -> str:
    return f"packs/{day}/{run_id}"


def _key(base: str, name: str, manifest: dict[str, Any]) -> str:
    return f"{base}/{manifest['tables'][name]['sha256'][:16]}-{name}.parquet"


def published_runs(place: Place) -> dict[str, str]:
    """Return the day of every published run, by run id."""
    found = {}
    for key in place.keys("packs"):
        parts = key.split("/")
        if len(parts) == 4 and parts[3] == "manifest.json" and RUN_ID.fullmatch(parts[2]):
            found[parts[2]] = parts[1]
    return found


def fetch_packs(place: Place, runs: Iterable[tuple[str, str]], store: Store) -> dict[str, str]:
    """Bring published packs, by (day, run id), into a store; return what is wrong, by key.

    Every file's SHA-256 is checked; a pack that does not hold is not brought.
    """
    problems = {}
    for day, run_id in runs:
        base = _base(day, run_id)
        try:
            _fetch(place, base, store.root / base)
        except PackError as error:
            problems[place.at(base)] = str(error)
    return problems


def _fetch(place: Place, base: str, folder: Path) -> None:
    manifest = place.get(f"{base}/manifest.json")
    if manifest is None:
        raise PackError(f"{place.at(base)}: its manifest is gone")
    parsed = parse_manifest(manifest, where=place.at(base))
    files = {"manifest.json": manifest}
    for name in PACK_TABLES:
        data = place.get(_key(base, name, parsed))
        if data is None or hashlib.sha256(data).hexdigest() != parsed["tables"][name]["sha256"]:
            raise PackError(f"{place.at(base)}: {name} is gone or was changed")
        files[f"{name}.parquet"] = data
    folder.mkdir(mode=0o700, parents=True)
    for member, data in files.items():
        write_bytes(folder / member, data, durable=False)
    open_pack(folder)


def unpublish(place: Place, day: str, run_id: str) -> None:
    """Remove a published pack: its manifest first, then there is none."""
    base = _base(day, run_id)
    place.delete([f"{base}/manifest.json"])
    place.delete(place.keys(base))


def compact_published(
    source: Place, to: Path | str, *, drop: bool = False, jobs: int = 1, env: Env | None = None
) -> Compaction:
    """Roll published packs into a lake, some hundred at a time; see `compact`.

    With `drop` they are unpublished once the lake holds them and was read back.
    """
    lake, days = Lake(to, env=env), published_runs(source)
    if not days and not lake.run_ids():
        raise SelectionError(f"nothing to compact: no packs are published at {shown(source.url)}")
    wanted = sorted((d, r) for r, d in days.items() if drop or r not in lake.run_ids())
    parts = []
    for first in range(0, len(wanted), FETCHED):
        with tempfile.TemporaryDirectory(prefix="towerkit-") as here:
            store, chunk = Store(here), wanted[first : first + FETCHED]
            missing = fetch_packs(source, chunk, store)
            if not store.folders():
                parts.append(_nothing(lake, missing))
                continue
            done = compact(store, lake.place.url, drop=drop, jobs=jobs, env=env)
            for run_id in done.dropped:
                unpublish(source, days[run_id], run_id)
            parts.append(msgspec.structs.replace(done, problems=done.problems | missing))
    return Compaction(
        added=tuple(r for p in parts for r in p.added),
        replaced=tuple(r for p in parts for r in p.replaced),
        already=sum(p.already for p in parts) + len(days) - len(wanted),
        dropped=tuple(r for p in parts for r in p.dropped),
        problems={f: why for p in parts for f, why in p.problems.items()},
        lake=lake.place.url,
    )


def _nothing(lake: Lake, problems: dict[str, str]) -> Compaction:
    return Compaction(
        added=(), replaced=(), already=0, dropped=(), problems=problems, lake=lake.place.url
    )

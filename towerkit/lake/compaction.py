"""Compaction: packs that are not in the lake go into it; what changed there is replaced.

Rule: a plan is made from one snapshot and committed only on it. Who loses the race looks again and
writes what is then still missing, so a run is never in the lake twice, however many compact at
once; and as `runs` alone decides, a kill at any point is finished by the next compaction.

A redaction reaches the lake so: the pack's manifest has changed under the same root, so the batch
that holds the run is written anew without what was there, and its old files are deleted at once.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from towerkit.core.env import Env, SystemEnv
from towerkit.core.errors import PackError, SelectionError, StoreError, UsageError
from towerkit.lake.batches import Group, Made, groups_of, make_batch
from towerkit.lake.log import BatchName
from towerkit.lake.place import Place
from towerkit.lake.reader import Lake
from towerkit.lake.tables import LAKE_TABLES, RUNS
from towerkit.packs.files import MAX_MANIFEST_BYTES, read_member
from towerkit.packs.reader import Pack, open_pack
from towerkit.packs.redaction import locked
from towerkit.packs.store import Store
from towerkit.packs.tables import PACK_TABLES

if TYPE_CHECKING:
    import polars as pl

BATCH_RUNS = 512
# Batches of a day with less than a quarter of that are written as one when there are as many.
MANY_SMALL = 8
_ROUNDS = 1000  # of a race that is lost again and again: somebody else then made progress

Progress = Callable[[int, int], None] | None


class Compaction(msgspec.Struct, frozen=True, kw_only=True):
    """What a compaction did: run ids, and by folder what is wrong with packs that were left."""

    added: tuple[str, ...]
    replaced: tuple[str, ...]
    already: int
    dropped: tuple[str, ...]
    problems: dict[str, str]
    lake: str


class _Work(msgspec.Struct, frozen=True):
    """One batch to write: of packs, and of the runs of batches that it replaces."""

    day: str
    folders: tuple[Path, ...]
    rewrites: tuple[BatchName, ...] = ()
    erase: bool = False  # what is replaced must be gone, not kept for who still reads it


def compact(
    store: Store, to: Path | str | None = None, *, selection: str = "", drop: bool = False,
    jobs: int = 1, env: Env | None = None, progress: Progress = None,
) -> Compaction:  # fmt: skip
    """Roll the packs of `store` into the lake `to` (default: the folder `lake` of the store).

    Packs that are there already change nothing. With `drop` a pack is removed once the lake holds
    it, was read back and has the same digests. `jobs` processes read and write. A pack that does
    not hold is left where it is and named in `problems`.
    """
    lake = Lake(default_lake(store) if to is None else to, env=env or SystemEnv())
    folders = _folders(store, selection)
    if not folders and not lake.run_ids():
        raise SelectionError(f"nothing to compact: store {store.root} holds no packs")
    if folders:
        lake.log.ensure()
    lake.log.follow_all()
    job = _Job(lake, folders, env or SystemEnv(), progress)
    with _Workers(jobs, len(folders)) as pool:
        job.run(pool)
    dropped = _dropped(lake, job) if drop else ()
    if job.rewrote:
        lake.log.vacuum()
    return Compaction(
        added=tuple(job.added), replaced=tuple(job.replaced), already=job.already, dropped=dropped,
        problems=job.problems, lake=lake.place.url,
    )  # fmt: skip


def replace_changed(lake: Lake, folders: dict[str, Path], *, env: Env | None = None) -> Compaction:
    """Bring redactions of packs, by run id, to a lake that has the runs; others are not added."""
    job = _Job(lake, folders, env or SystemEnv(), None, adds=False)
    if folders:
        lake.log.follow_all()
        job.run(None)
    return Compaction(
        added=(), replaced=tuple(job.replaced), already=job.already, dropped=(),
        problems=job.problems, lake=lake.place.url,
    )  # fmt: skip


def default_lake(store: Store) -> str:
    """Return where the lake of a store is: `TOWERKIT_LAKE`, else its folder `lake`."""
    return os.environ.get("TOWERKIT_LAKE") or str(store.root / "lake")


def _folders(store: Store, selection: str) -> dict[str, Path]:
    if not selection:
        return {f.name: f for f in store.folders()}
    return {p.run_id: p.folder for p in store.select(selection) if p.folder.is_dir()}


class _Job:
    """One compaction: what is to be done, and what was."""

    def __init__(
        self, lake: Lake, folders: dict[str, Path], env: Env, progress: Progress, *,
        adds: bool = True,
    ) -> None:  # fmt: skip
        self.lake, self.folders, self._env, self._progress = lake, folders, env, progress
        self._adds = adds
        self.added: list[str] = []
        self.replaced: list[str] = []
        self.already = 0
        self.rewrote = False
        self.problems: dict[str, str] = {}
        self.kept: set[str] = set()  # in the lake, and the pack says nothing newer

    def run(self, pool: Executor | None) -> None:
        """Do what is to be done, again after every race that was lost."""
        for _ in range(_ROUNDS):
            self.lake.refresh()
            works = self._plan()
            if not works:
                self.already = len(self.kept) - len(set(self.added) | set(self.replaced))
                there = self.lake.run_ids()  # a pack that another compaction dropped is no problem
                self.problems = {
                    f: p for f, p in self.problems.items()
                    if Path(f).exists() or Path(f).name not in there
                }  # fmt: skip
                return
            self._do(works, pool)
        raise StoreError(f"the lake at {self.lake.place.url} is never at rest: try again later")

    def _do(self, works: list[_Work], pool: Executor | None) -> None:
        url = self.lake.place.url
        named = [(w, BatchName(day=w.day, batch=f"{self._env.bits(128):032x}")) for w in works]
        if pool is None:
            for work, name in named:
                self._commit(work, *_made(url, name, work))
            return
        waiting: list[tuple[_Work, Future[Any]]]
        waiting = [(w, pool.submit(_made, url, name, w)) for w, name in named]
        try:
            for work, future in waiting:
                self._commit(work, *future.result())
        except BrokenExecutor:
            raise StoreError(
                "a process of the compaction was ended from outside (is memory short?): what was "
                "committed is whole, run it again, with fewer --jobs"
            ) from None

    # -- planning ----------------------------------------------------------------------------------

    def _plan(self) -> list[_Work]:
        index = self.lake.snapshot.index
        there = {} if index is None else {r["run_id"]: r for r in index.to_dicts()}
        new: dict[str, list[Path]] = {}
        changed: dict[BatchName, list[Path]] = {}
        self.kept = set()
        for run_id, folder in self.folders.items():
            if str(folder) in self.problems:
                continue
            row = there.get(run_id)
            if row is None and not self._adds:
                continue
            if row is None:
                new.setdefault(folder.parent.name, []).append(folder)
            elif self._newer(folder, row):
                batch = BatchName(day=str(row["date"]), batch=row["batch"])
                changed.setdefault(batch, []).append(folder)
        rewritten = [_Work(b.day, tuple(f), (b,), erase=True) for b, f in changed.items()]
        return rewritten + [
            w for day, f in sorted(new.items()) for w in self._works(day, f, changed)
        ]

    def _newer(self, folder: Path, row: dict[str, Any]) -> bool:
        """Say whether a pack has a redaction that the lake lacks."""
        try:
            data = read_member(folder, "manifest.json", most=MAX_MANIFEST_BYTES)
            if hashlib.sha256(data).hexdigest() != row["manifest_sha256"]:
                pack, known = open_pack(folder), self.lake.pack(row["run_id"])
                if pack.digest != known.digest:
                    raise PackError(  # noqa: TRY301
                        f"{folder}: the lake holds another pack of this run, digest "
                        f"{known.digest[:12]}: packs are immutable, one of them is not the run's"
                    )
                if _redactions(pack) > _redactions(known):
                    return True
        except PackError as error:
            self.problems[str(folder)] = str(error)
            return False
        self.kept.add(row["run_id"])
        return False

    def _works(
        self, day: str, folders: list[Path], taken: dict[BatchName, list[Path]]
    ) -> Iterator[_Work]:
        """Yield batches of new packs of a day, the first with the small ones there already."""
        parts = max(1, -(-len(folders) // BATCH_RUNS))
        size = -(-len(folders) // parts)
        chunks = [tuple(folders[i : i + size]) for i in range(0, len(folders), size)]
        small = [b for b in self._small(day) if b not in taken]
        merge = tuple(small) if len(small) >= MANY_SMALL else ()
        for chunk in chunks:
            yield _Work(day, chunk, merge)
            merge = ()

    def _small(self, day: str) -> list[BatchName]:
        import polars as pl  # noqa: PLC0415

        index = self.lake.snapshot.index
        if index is None:
            return []
        counts = index.filter(pl.col("date") == pl.lit(day).str.to_date()).group_by("batch").len()
        few = counts.filter(pl.col("len") < BATCH_RUNS // 4)["batch"].to_list()
        return sorted(BatchName(day=day, batch=b) for b in few)

    # -- committing --------------------------------------------------------------------------------

    def _commit(self, work: _Work, made: Made | None, problems: dict[str, str]) -> None:
        """Commit what was made if the lake still lacks it; else delete it: the next plan knows."""
        self.problems |= problems
        if made is None:
            return
        while self._fits(work, made):
            remove = work.rewrites
            if self.lake.log.commit(self.lake.snapshot, [made.name], remove, made.index):
                break
            self.lake.refresh()
        else:
            self.lake.place.delete(made.name.key(t) for t in LAKE_TABLES)
            return
        self.lake.log.follow_all(keep=() if work.erase else work.rewrites)
        if work.erase:
            self.lake.place.delete(b.key(RUNS.name) for b in work.rewrites)
        self.rewrote = self.rewrote or bool(work.rewrites)
        done = {f.name for f in work.folders} & set(made.index["run_id"].to_list())
        (self.replaced if work.erase else self.added).extend(sorted(done))
        if self._progress is not None:
            self._progress(len(self.added) + len(self.replaced), len(self.folders))
        self.lake.refresh()

    def _fits(self, work: _Work, made: Made) -> bool:
        """Say whether the lake has what this replaces and nothing of what it adds."""
        import polars as pl  # noqa: PLC0415

        now = self.lake.snapshot
        if not now.batches >= set(work.rewrites):
            return False
        replaced = [b.batch for b in work.rewrites]
        others = now.index.filter(~pl.col("batch").is_in(replaced))
        return not others["run_id"].is_in(made.index["run_id"].implode()).any()


def _redactions(pack: Pack) -> int:
    return len(pack.manifest.get("redactions", ()))


# -- in a worker -----------------------------------------------------------------------------------


def _made(url: str, name: BatchName, work: _Work) -> tuple[Made | None, dict[str, str]]:
    """Write the files of a batch; may run in another process."""
    problems: dict[str, str] = {}
    fresh: Iterable[Group] = groups_of(work.folders, problems)
    if not work.rewrites:
        return make_batch(Place(url), name, fresh), problems
    fresh = list(fresh)  # first: what does not hold must not take the place of what does
    new = {p.run_id for group in fresh for p in group.packs}
    lake = Lake(url)
    kept = (_without(g, new) for b in work.rewrites for g in lake.groups_of(b))
    return make_batch(Place(url), name, chain(kept, fresh)), problems


def _without(group: Group, runs: set[str]) -> Group:
    """Return a group without some of its runs."""
    import polars as pl  # noqa: PLC0415

    if not any(p.run_id in runs for p in group.packs):
        return group
    frames: dict[str, list[pl.DataFrame]] = {name: [f.clear()] for name, f in group.frames.items()}
    at, packs = dict.fromkeys(PACK_TABLES, 0), []
    for pack in group.packs:
        keep = pack.run_id not in runs
        packs += [pack] if keep else []
        for name, frame in group.frames.items():
            rows = pack.manifest["tables"][name]["rows"]
            frames[name] += [frame.slice(at[name], rows)] if keep else []
            at[name] += rows
    return Group(packs, {name: pl.concat(parts) for name, parts in frames.items()})


class _Workers:
    """Processes for a compaction worth them, or None: to start one takes as long as 500 packs."""

    def __init__(self, jobs: int, packs: int) -> None:
        if not 1 <= jobs <= 64:
            raise UsageError(f"expected 1 to 64 jobs, got {jobs}")
        self._pool = None
        if jobs > 1 and packs > 1000:
            context = multiprocessing.get_context("spawn")  # threads do not survive a fork
            self._pool = ProcessPoolExecutor(jobs, mp_context=context)

    def __enter__(self) -> Executor | None:
        return self._pool

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


# -- dropping --------------------------------------------------------------------------------------


def _dropped(lake: Lake, job: _Job) -> tuple[str, ...]:
    """Remove the packs that the lake holds, reading them back from there first."""
    import polars as pl  # noqa: PLC0415

    wanted = job.kept - {f.name for f in map(Path, job.problems)}
    index = lake.refresh().index
    if index is None or not wanted:
        return ()
    rows = index.filter(pl.col("run_id").is_in(list(wanted)))
    batches = sorted(
        {BatchName(day=str(d), batch=b) for d, b in rows.select("date", "batch").rows()}
    )
    lake.log.sync(batches)
    dropped: list[str] = []
    for batch in batches:
        try:
            held = [p for g in lake.groups_of(batch) for p in g.packs if p.run_id in wanted]
        except PackError as error:
            job.problems[lake.place.at(batch.key("runs"))] = str(error)
            continue
        dropped += [p.run_id for p in held if _drop(job.folders[p.run_id], p)]
    return tuple(sorted(dropped))


def _drop(folder: Path, held: Pack) -> bool:
    """Remove the pack in `folder` if the lake's is as much; a redaction may have come between."""
    with locked(folder.parent):
        try:
            pack = open_pack(folder)
        except PackError:
            return False  # somebody else has dropped it
        if pack.digest != held.digest or _redactions(pack) > _redactions(held):
            return False
        gone = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        folder.rename(gone)
    shutil.rmtree(gone)
    return True

"""Admitting a file: survey it, make a pack of every record, write its scores.

Rule: a record is admitted whole or not at all, and no broken record costs another. A run is found
again by its id, so a second ingest of the same bytes writes nothing, and one that was interrupted
is completed by the next.
"""

from __future__ import annotations

import multiprocessing
import re
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import msgspec

from towerkit.core.canonical import sha256_hex
from towerkit.core.errors import IngestError, UsageError
from towerkit.ingest import agentdojo, openinference, otlp, tau2, tau_bench
from towerkit.ingest.build import Origin, build, run_id_of
from towerkit.ingest.source import BadRecord, fields_of, read_file, split, whole_file
from towerkit.ingest.span_pack import build_spans
from towerkit.ingest.trace import Format, Job, Survey, Trace
from towerkit.packs.store import Pack, Store, open_pack
from towerkit.packs.tables import SCORES
from towerkit.packs.writer import Row, day_of
from towerkit.privacy.keys import local_redactor
from towerkit.privacy.redact import Redactor
from towerkit.privacy.safe_text import safe_text
from towerkit.reliability.taxonomy import TAXONOMY

FORMATS: dict[str, Format] = {
    f.name: f
    for f in (
        tau_bench.FORMAT, tau2.FORMAT, agentdojo.FORMAT, otlp.FORMAT, openinference.FORMAT,
    )
}  # fmt: skip

_CHUNK_RECORDS = 8
_POOL_FROM = 48  # records; below, starting a process costs more than it saves
_SCENARIO = re.compile(r"[A-Za-z0-9_.-]{1,80}")


class IngestReport(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a file. `runs` is the records seen: imported, unchanged and broken."""

    format: str
    file: str
    release: str
    scenarios: tuple[str, ...]
    runs: int
    imported: int
    unchanged: int
    errors: tuple[str, ...]
    scores_file: str | None
    eval_id: str


class _Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What every record of a file has in common, sent to each worker once."""

    store: str
    format: str
    file: str
    release: str
    eval_id: str
    shared: bytes
    redactor: Redactor


class _Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one record."""

    index: int
    imported: bool = False
    scenario: str = ""
    scores: tuple[Row, ...] = ()
    field: str | None = None
    problem: str = ""


def ingest(
    store: Store,
    path: Path,
    *,
    format: str,  # noqa: A002  the word users type
    release: str | None = None,
    redactor: Redactor | None = None,
    progress: Callable[[int, int], None] | None = None,
    jobs: int = 2,
) -> IngestReport:
    """Admit the runs of a file into `store`; return what became of each.

    `format` is one of `FORMATS`; `release` names the version of the agent, where the source does
    not. `progress(done, total)` is called as records are done. `jobs` processes work at once.
    Raises `IngestError` when the file as a whole cannot be read; nothing is then imported.
    """
    kind = _format(format)
    if jobs < 1:
        raise UsageError(f"expected jobs as 1 or more, got {jobs}")
    data = read_file(path)
    survey = _survey(kind, path, data)
    name = _release(kind, release or survey.release)
    redactor = redactor or local_redactor()
    content = sha256_hex(data)
    del data
    setting = _Setting(
        store=str(store.root),
        format=kind.name,
        file=safe_text(path.name),
        release=name,
        eval_id=sha256_hex(f"{kind.name}\0{name}\0{content}".encode())[:32],
        shared=survey.shared,
        redactor=redactor,
    )
    done = _admit_all(setting, survey.jobs, jobs, progress)
    return _report(store, setting, survey, done)


def _format(name: str) -> Format:
    try:
        return FORMATS[name]
    except KeyError:
        known = "; ".join(f"{f.name} ({f.summary})" for f in FORMATS.values())
        raise UsageError(f"expected a format, got {name!r}; known: {known}") from None


def _release(kind: Format, name: str | None) -> str:
    if not name:
        raise UsageError(
            f"{kind.name} files do not say which agent made them: give it a name with --release"
        )
    # It has to be sayable in a SELECTION, where commas part and blanks at the ends are dropped.
    if not name.isprintable() or name != name.strip() or "," in name or len(name) > 200:
        raise UsageError(
            "expected a release name of at most 200 printable characters without commas, "
            f"got {safe_text(name)!r}"
        )
    return name


def _survey(kind: Format, path: Path, data: bytes) -> Survey:
    """Read the file as `kind`; a foreign file is refused, and named for what it looks like."""
    other = _guess(data)
    if other is not kind:
        got = f"this looks like {other.name}: try that format" if other else _unknown(data)
        raise whole_file(path, "format", f"expected {kind.name} ({kind.summary}); {got}")
    try:
        return kind.survey(data)
    except BadRecord as bad:
        if bad.index is None:
            raise whole_file(path, bad.field, bad.problem) from None
        raise IngestError(
            file=safe_text(path.name), record=f"record {bad.index}", field=bad.field,
            problem=f"{bad.problem}; nothing was imported",
        ) from None  # fmt: skip


def _guess(data: bytes) -> Format | None:
    """Return the format whose fields the file, or one of its first records, has."""
    for names in _samples(data):
        for kind in FORMATS.values():
            if kind.looks_like(names):
                return kind
    return None


def _samples(data: bytes) -> Iterator[list[str]]:
    """Yield the field names of the first records, then those of the whole if it is an object."""
    for raw in split(data).items[:8]:
        yield fields_of(raw)
    if data.lstrip()[:1] == b"{":
        yield fields_of(data)


def _unknown(data: bytes) -> str:
    names = next(filter(None, _samples(data)), None)
    if names is None:
        return "it holds no JSON object that can be read" if data.strip() else "it is empty"
    return "it has the fields " + ", ".join(names[:8])


# -- the records -----------------------------------------------------------------------------------


def _admit_all(
    setting: _Setting, jobs: Sequence[Job], workers: int,
    progress: Callable[[int, int], None] | None,
) -> list[_Outcome]:  # fmt: skip
    """Admit every job, in this process and in `workers - 1` more."""
    step = _CHUNK_RECORDS
    todo = deque(jobs[i : i + step] for i in range(0, len(jobs), step))
    waiting: dict[Future[list[_Outcome]], Sequence[Job]] = {}
    outcomes: list[_Outcome] = []
    pool = _helpers(workers - 1) if workers > 1 and len(jobs) >= _POOL_FROM else None
    try:
        while todo or waiting:
            while pool is not None and todo and len(waiting) < 2 * (workers - 1):
                chunk = todo.popleft()
                waiting[pool.submit(_admit_chunk, setting, chunk)] = chunk
            if todo:
                # This process works too: a helper needs a moment to start.
                outcomes += _admit_chunk(setting, todo.popleft())
            else:
                wait(waiting, return_when=FIRST_COMPLETED)
            pool = _collect(waiting, outcomes, todo, pool)
            if progress is not None:
                progress(len(outcomes), len(jobs))
    finally:
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)
    return outcomes


def _collect(
    waiting: dict[Future[list[_Outcome]], Sequence[Job]], outcomes: list[_Outcome],
    todo: deque[Sequence[Job]], pool: ProcessPoolExecutor | None,
) -> ProcessPoolExecutor | None:  # fmt: skip
    """Take in what helpers have finished; return the pool, or None once a helper has died.

    A helper dies when it is killed, runs out of memory, or the caller's script has no `__main__`
    guard. Packs are whole or absent: its chunks are done here, and what it did is found again.
    """
    for future in [f for f in waiting if f.done()]:
        chunk = waiting.pop(future)
        try:
            outcomes += future.result()
        except BrokenProcessPool:
            todo.append(chunk)
            pool = None
    return pool


def _helpers(workers: int) -> ProcessPoolExecutor:
    # Spawned, not forked: Polars and Arrow hold threads that a fork would leave locked.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, context, initializer=_ignore_interrupt)


def _ignore_interrupt() -> None:
    """Leave Ctrl-C to the parent, which lets each helper finish the pack it is at."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _admit_chunk(setting: _Setting, chunk: Sequence[Job]) -> list[_Outcome]:
    return [_admit(setting, job) for job in chunk]


def _admit(setting: _Setting, job: Job) -> _Outcome:
    try:
        trace = FORMATS[setting.format].trace(job, setting.shared)
        if not _SCENARIO.fullmatch(trace.scenario):
            raise BadRecord("scenario", f"expected a plain name, got {trace.scenario!r}")  # noqa: TRY301
    except BadRecord as bad:
        index = job.index if bad.index is None else bad.index
        return _Outcome(index=index, field=bad.field, problem=bad.problem)
    redactor = setting.redactor
    pack, imported = _keep(setting, job, trace, redactor)
    rows = tuple(_score_rows(trace, pack, redactor))
    return _Outcome(index=job.index, imported=imported, scenario=trace.scenario, scores=rows)


def _keep(setting: _Setting, job: Job, trace: Trace, redactor: Redactor) -> tuple[Pack, bool]:
    """Return the pack of a trace, and whether it had to be made."""
    origin = Origin(
        format=setting.format,
        file=setting.file,
        release=setting.release,
        eval_id=setting.eval_id,
        index=job.index,
        digest=sha256_hex(job.raw),
    )
    store, run_id = Store(setting.store), run_id_of(origin, trace)
    folder = store.root / "packs" / day_of(trace.started_unix_ns) / run_id
    if (folder / "manifest.json").exists():
        return open_pack(folder), False
    # Not durable: after a power cut the same file makes the same packs again.
    make = build_spans if trace.spans else build
    return store.commit(make(trace, origin, run_id, redactor), durable=False), True


def _score_rows(trace: Trace, pack: Pack, redactor: Redactor) -> Iterator[Row]:
    """Yield the run's scores, under the import that first brought the run: it is scored once."""
    identity = pack.manifest["identity"]
    # Stopped by its own doing (a loop, a bug of its code), the agent's score counts against it.
    crashed = trace.status == "failed" and TAXONOMY[trace.error_class or ""].family != "agent"
    for score in trace.scores:
        yield SCORES.make(
            run_id=pack.run_id,
            pack_digest=pack.digest,
            eval_id=pack.manifest["source"]["eval_id"],
            scenario=identity["scenario"],
            release=identity["release"],
            suite=score.suite,
            case_id=identity["case_id"],
            trial=trace.trial,
            task_digest=trace.task_digest,
            metric=score.metric,
            value=score.value,
            scored=score.value is not None,
            primary=score.primary,
            error_class=trace.error_class if crashed else None,
            contradicted=score.contradicted,
            note=None if score.note is None else redactor.text(safe_text(score.note, limit=500)),
            simulated=False,
        )


def _report(
    store: Store, setting: _Setting, survey: Survey, done: Sequence[_Outcome]
) -> IngestReport:  # fmt: skip
    admitted = [o for o in done if o.field is None]
    bad = [(o.index, o.field, o.problem) for o in done if o.field is not None]
    bad += [(b.index or 0, b.field, b.problem) for b in survey.broken]
    rows = [row for outcome in admitted for row in outcome.scores]
    return IngestReport(
        format=setting.format,
        file=setting.file,
        release=setting.release,
        scenarios=tuple(sorted({o.scenario for o in admitted})),
        runs=survey.seen,
        imported=sum(o.imported for o in admitted),
        unchanged=sum(not o.imported for o in admitted),
        errors=tuple(
            str(IngestError(file=setting.file, record=f"record {i}", field=field, problem=problem))
            for i, field, problem in sorted(bad)
        ),
        scores_file=str(store.add_scores(rows)) if rows else None,
        eval_id=setting.eval_id,
    )

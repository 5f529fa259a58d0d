"""Replaying many runs, in processes of their own.

Rule: a run that cannot be replayed is an error in its row and never stops the others. Whoever
interrupts ends the processes too.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.errors import TowerError
from towerkit.packs.reader import Pack, open_pack
from towerkit.packs.store import Store
from towerkit.privacy.safe_text import safe_text
from towerkit.replay.agents import load_agent
from towerkit.replay.replay import ReplayReport, replay, replay_scenario
from towerkit.replay.stage import without_keys
from towerkit.runtime.tower import Tower

_Work = tuple[Path, str | None, str | None]  # a folder, an agent, a prompt
SHOWN = 20
"""How many runs that are not equal the report lists in full."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One run of many: its report, or why there is none."""

    run_id: str
    report: ReplayReport | None
    error: str | None = None

    @property
    def outcome(self) -> str:
        """`equal`, `diverged` or `error`."""
        if self.report is None:
            return "error"
        return "equal" if self.report.equal else "diverged"


class EveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of every run, in the order of the store."""

    rows: tuple[Row, ...]

    @property
    def good(self) -> bool:
        """Whether every run was equal."""
        return all(row.outcome == "equal" for row in self.rows)

    def counts(self) -> dict[str, int]:
        """Return how many runs came out how."""
        return {o: sum(r.outcome == o for r in self.rows) for o in ("equal", "diverged", "error")}

    def table(self) -> list[dict[str, Any]]:
        """Return one row a run: run_id, outcome, span, reason."""
        return [
            {
                "run_id": row.run_id, "outcome": row.outcome,
                "span": None if d is None else d.seq,
                "reason": row.error if d is None else d.reason,
            }
            for row in self.rows
            for d in (None if row.report is None else row.report.divergence,)
        ]  # fmt: skip

    def lines(self) -> list[str]:
        """Return the report as a person reads it: what is not equal, then the counts."""
        odd = [row for row in self.rows if row.outcome != "equal"]
        lines: list[str] = []
        for row in odd[:SHOWN]:
            error = f"[replay] ERROR run={row.run_id}: {safe_text(row.error or '')}"
            lines += [error] if row.report is None else row.report.lines()
        if len(odd) > SHOWN:
            lines.append(f"and {len(odd) - SHOWN} more")
        counts = " ".join(f"{name}={n}" for name, n in self.counts().items())
        return [*lines, f"[replay] {len(self.rows)} runs: {counts}"]


def one(pack: Pack, agent: str | None, *, prompt: str | None = None) -> ReplayReport:
    """Replay a run with the agent that a command line names, or with its scenario's.

    An agent's module may hold its `Tower`: if it holds one, its policy is the one that decides.
    """
    if agent is None:
        return replay_scenario(pack, prompt=prompt)
    fn, tower = named_agent(agent)
    return replay(pack, fn, tower=tower)


def named_agent(name: str) -> tuple[Callable[..., Any], Tower | None]:
    """Return the agent of a command line, and its module's tower if that has one."""
    with without_keys():
        fn = load_agent(name)
    towers = {id(v): v for v in getattr(fn, "__globals__", {}).values() if isinstance(v, Tower)}
    return fn, next(iter(towers.values())) if len(towers) == 1 else None


def every(
    store: Store, selection: str, *, agent: str | None = None, prompt: str | None = None,
    jobs: int | None = None, progress: Callable[[int, int], None] | None = None,
) -> EveryReport:  # fmt: skip
    """Replay every run of `store` that matches, `jobs` at once (None: one a processor).

    `prompt` replaces the system prompt of a scenario's runs.

    Raises `SelectionError` when nothing matches, and `UsageError` for an agent that is not there.
    """
    if agent is not None:
        named_agent(agent)  # said once, and not by every process
    folders = [pack.folder for pack in store.select(selection)]
    workers = min(jobs or os.cpu_count() or 1, len(folders))
    rows: list[Row] = []
    for row in _rows([(folder, agent, prompt) for folder in folders], workers):
        rows.append(row)
        if progress is not None:
            progress(len(rows), len(folders))
    return EveryReport(rows=tuple(rows))


def _rows(work: list[_Work], workers: int) -> Iterator[Row]:
    if workers == 1:
        yield from map(_row, work)
        return
    # `spawn`: a forked child would have the threads' locks and open files of this process.
    context = multiprocessing.get_context("spawn")
    chunk = max(1, min(16, len(work) // (workers * 4)))
    pool = context.Pool(workers, initializer=_quiet)
    try:
        yield from pool.imap(_row, work, chunksize=chunk)
        pool.close()
    except BaseException:
        pool.terminate()
        raise
    finally:
        pool.join()


def _quiet() -> None:
    """Leave an interrupt to the process that asked: it ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _row(item: _Work) -> Row:
    folder, agent, prompt = item
    try:
        pack = open_pack(folder)
        return Row(run_id=pack.run_id, report=one(pack, agent, prompt=prompt))
    except TowerError as error:
        return Row(run_id=folder.name, report=None, error=str(error))
    except Exception as error:  # noqa: BLE001  one broken agent or pack is one row
        return Row(run_id=folder.name, report=None, error=f"{type(error).__name__}: {error}")

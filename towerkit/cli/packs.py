"""`towerkit pack`: look into a store, recover what a kill left. Verifying is in `integrity`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from towerkit.cli.base import cli, complain, emit, json_option, open_store, say, store_option
from towerkit.privacy.safe_text import safe_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from towerkit.packs.store import Pack


@cli.group()
def pack() -> None:
    """Look into a store. A pack is named by run id or folder."""


@pack.command("ls")
@click.argument("selection", default="", metavar="[SELECTION]")
@store_option
@json_option
def pack_ls(selection: str, store: str | None, as_json: bool) -> None:
    """List packs, one line each."""
    from towerkit.packs.admissible import reasons

    packs = open_store(store).select(selection)
    if as_json:
        emit([_listed(p) | {"inadmissible": reasons(p)} for p in packs])
        return
    for p in packs:
        i = p.manifest["identity"]
        say(
            f"{p.run_id} {p.manifest['status']:<9} {safe_text(i.get('scenario'), limit=32)} "
            f"release={safe_text(i.get('release'), limit=32)} "
            f"case={safe_text(i.get('case_id'), limit=48)}{_why(reasons(p))}"
        )


def _why(reasons: tuple[str, ...]) -> str:
    return f"  inadmissible: {safe_text('; '.join(reasons), limit=300)}" if reasons else ""


def _listed(p: Pack) -> dict[str, Any]:
    i = p.manifest["identity"]
    return {
        "run_id": p.run_id, "status": p.manifest["status"], "scenario": i.get("scenario"),
        "release": i.get("release"), "case_id": i.get("case_id"), "digest": p.digest,
        "folder": str(p.folder), "simulated": p.manifest["simulated"],
    }  # fmt: skip


@pack.command("show")
@click.argument("name", metavar="RUN|FOLDER")
@store_option
@json_option
def pack_show(name: str, store: str | None, as_json: bool) -> None:
    """Show one pack: its facts and its spans as a tree."""
    from towerkit.packs.admissible import reasons
    from towerkit.packs.summary import summarise

    found = open_store(store).pack(name)
    summary, why = summarise(found), reasons(found)
    if as_json:
        emit({"manifest": found.manifest, "summary": summary, "inadmissible": why})
        return
    for line in summary.lines():
        say(line)
    if why:
        say(_why(why).strip())
    say(repr(found.tree))


@pack.command("recover")
@click.option("--budgets", metavar="URL", help="The Redis that keeps limits above the run.")
@store_option
@json_option
def pack_recover(budgets: str | None, store: str | None, as_json: bool) -> None:
    """Seal the runs whose process was killed, from their journals; finish redactions likewise.

    What their calls are known to have used is reported to the limits above the run.
    """
    from towerkit.core.env import SystemEnv
    from towerkit.packs.redaction import finish_all
    from towerkit.telemetry.recover import recover

    finish_all(open_store(store).root)
    salts = SystemEnv().secret_bytes(32, purpose="salts")
    sealed, leases = _settler(open_store(store).root, budgets)
    found = list(recover(open_store(store), salt_seed=salts, sealed=sealed))
    problems = {r.journal: r.problem for r in found if r.problem is not None}
    packs = [r.pack for r in found if r.pack is not None]
    if as_json:
        recovered = [p.run_id for p in packs]
        emit({"recovered": recovered, "leases": sum(leases), "problems": problems})
    else:
        for journal, problem in problems.items():
            complain(f"{journal}: {problem}", limit=400)
        for p in packs:
            spans = p.manifest["spans"]
            counts = f"spans={spans['started']} open={spans['aborted']}"
            say(f"{p.run_id} {p.manifest['status']} {counts}")
        settled = f", {sum(leases)} leases settled" if leases else ""
        say(f"[recover] {len(packs)} runs sealed{settled}")
    if problems:
        sys.exit(1)


def _settler(root: Path, url: str | None) -> tuple[Callable[[Pack], None], list[int]]:
    """Return what reports the calls of a recovered run, and how many it has reported."""
    from towerkit.runtime.dead_leases import settle_dead
    from towerkit.runtime.shared_budgets import SharedBudgets, SqliteBudgets

    counts: list[int] = []
    shared: SharedBudgets | None = None
    if url is not None:
        from towerkit.runtime.redis_budgets import RedisBudgets

        shared = RedisBudgets(url)
    elif (root / "budgets.sqlite").exists():
        shared = SqliteBudgets(root / "budgets.sqlite")

    def sealed(pack: Pack) -> None:
        if shared is not None:
            counts.append(settle_dead(pack, shared))

    return sealed, counts

"""Runs to compact, on two days, and what is asked of a lake in every test."""

from __future__ import annotations

import polars as pl
from deltalake import DeltaTable

from tests.agents import TASK, agent, make_tower
from towerkit.lake.tables import LAKE_TABLES
from towerkit.packs.tables import PACK_TABLES

DAY_S = 86_400.0


def make_runs(store, n, *, first=0, said="Where is order 7?", **options):
    """Return the packs of `n` runs, every second one of the next day."""
    packs = []
    for i in range(first, first + n):
        tower = make_tower(store, seed=1000 + i, **options)
        if i % 2:
            tower.environment().sleep(DAY_S)
        with tower.run("orders", task={**TASK, "question": f"{said} run {i}"}) as run:
            agent(run, {"question": f"{said} run {i}"})
        packs.append(run.pack)
    return packs


def delta_rows(lake, table):
    """Return a table as any reader of Delta Lake sees it."""
    return pl.read_delta(f"{lake}/{table}")


def holds_once(lake, packs):
    """Assert that every table holds the rows of `packs`, all and once, with their digests."""
    spans = {p.run_id: p.manifest["tables"] for p in packs}
    assert sorted(delta_rows(lake, "runs")["run_id"]) == sorted(spans)
    for name in PACK_TABLES:
        counts = dict(delta_rows(lake, name).group_by("run_id").len().rows())
        assert counts == {r: t[name]["rows"] for r, t in spans.items() if t[name]["rows"]}, name


def versions(lake):
    """Return the version of each table's log."""
    return {name: DeltaTable(f"{lake}/{name}").version() for name in LAKE_TABLES}

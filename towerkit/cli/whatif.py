"""`towerkit whatif`: recorded runs under another policy, budget, price book or order of models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from towerkit.cli.base import cli, emit, json_option, open_store, progress, say, store_option
from towerkit.privacy.safe_text import safe_text

if TYPE_CHECKING:
    from towerkit.whatif import Search, Total, WhatIf

_SHOWN = 20
_TITLES = {
    "cost_nanousd": "cost", "latency_ns": "time", "calls_failed": "calls failed",
    "fallbacks": "fallbacks", "budget_breach": "budget breaches", "run_success": "runs completed",
}  # fmt: skip


@cli.command("whatif")
@click.argument("selection", default="", metavar="[SELECTION]")
@click.option("--policy", type=click.Path(path_type=Path), metavar="FILE",
              help="A policy, as TOML.")  # fmt: skip
@click.option("--budget-usd", type=float, metavar="USD", help="The budget of a run; 0 for none.")
@click.option("--price-as-of", metavar="DATE", help="Price every charge as of this day.")
@click.option("--model", "models", multiple=True, metavar="NAME",
              help="The fallback order, first choice first: once a model.")  # fmt: skip
@click.option("--search", "grid", metavar="FILE|NAME",
              help="A TOML grid: name the policies that no other beats.")  # fmt: skip
@store_option
@json_option
def whatif_command(
    selection: str, policy: Path | None, budget_usd: float | None, price_as_of: str | None,
    models: tuple[str, ...], grid: str | None, store: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Ask what recorded runs would have come to, without running the agent."""
    from towerkit.reliability.policy_file import load_policy
    from towerkit.whatif import World, as_of, load_grid, records_of, search, whatif

    world = World(
        name=str(policy or "as recorded"), policy=None if policy is None else load_policy(policy),
        budget_usd=budget_usd, price_at_ns=None if price_as_of is None else as_of(price_as_of),
        chain=models or None,
    )  # fmt: skip
    worlds = None if grid is None else load_grid(grid, world)
    records = records_of(open_store(store).select(selection))
    update, close = progress("whatif")
    found: WhatIf | Search
    if worlds is None:
        found = whatif(records, world, progress=update)
        lines = _lines(found)
    else:
        found = search(records, worlds, progress=update)
        lines = _search_lines(found)
    close()
    if as_json:
        emit(found)
    else:
        say("\n".join(lines))


def _lines(found: WhatIf) -> list[str]:
    rows, n = found.rows, len(found.runs)
    said = (
        f"[whatif] {n} runs, {found.changed} changed: {rows['exact']} exact, {rows['bounded']} "
        f"bounded, {rows['unknown']} unknown ({found.unknown_share:.0%})"
    )
    lines = [said]
    for name, title in _TITLES.items():
        total = found.totals[name]
        lines.append(
            f"  {title:<16} {_amount(name, total.recorded):>12} -> {_interval(name, total)}"
        )
    if found.live:
        lines.append(
            f"[whatif] {len(found.live)} attempts would have to be made to know more, about "
            f"{_amount('cost_nanousd', found.live_nanousd)} where a price is known"
        )
    lines += [f"[whatif] {safe_text(note)}" for note in found.notes]
    open_ = [row for row in found.runs if row.label != "exact"]
    for row in open_[:_SHOWN]:
        lines.append(f"  {row.run_id} {row.label:<7} {safe_text(row.reason or '', limit=160)}")
    if len(open_) > _SHOWN:
        lines.append(f"  … and {len(open_) - _SHOWN} more: --json has them all")
    return lines


def _search_lines(found: Search) -> list[str]:
    said = (
        f"[whatif] {len(found.points)} worlds over {found.runs} runs; {found.common_runs} runs are "
        "decided in all of them"
    )
    lines = [said]
    for point in found.points:
        name = point.world.name
        mark = "front" if name in found.front else "beaten"
        said = ", ".join(
            f"{_TITLES[axis]} {_interval(axis, point.totals[axis])}"
            for axis in ("cost_nanousd", "latency_ns", "run_success")
        )
        lines.append(f"  {mark:<6} {safe_text(name, limit=120)}: {said}")
    lines.append(f"[whatif] no other beats: {_names(found.front)}")
    if found.common_runs:
        lines.append(
            f"[whatif] over the {found.common_runs} runs that all decide: "
            f"{_names(found.common_front)}"
        )
    return lines


def _names(names: tuple[str, ...]) -> str:
    return safe_text("; ".join(names), limit=600)


def _interval(name: str, total: Total) -> str:
    if total.low == total.high:
        return _amount(name, total.low)
    high = "unknown" if total.high is None else _amount(name, total.high)
    return f"{_amount(name, total.low)} to {high}"


def _amount(name: str, value: int | None) -> str:
    if value is None:
        return "unknown"
    if name == "cost_nanousd":
        return f"${value / 1e9:.4f}"
    return f"{value / 1e9:.2f} s" if name == "latency_ns" else str(value)

"""Commands over evidence: runs of others come in, recorded ones are re-run, compared, broken."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from towerkit.cli.base import (
    cli,
    complain,
    emit,
    json_option,
    open_store,
    progress,
    say,
    scenario_option,
    seed_option,
    store_option,
)
from towerkit.privacy.safe_text import safe_text


@cli.command()
@click.argument("source_format", metavar="FORMAT")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--release", metavar="NAME", help="What to call the agent that made these runs.")
@click.option("--jobs", type=click.IntRange(1, 16), default=2, show_default=True,
              help="Processes.")  # fmt: skip
@store_option
@json_option
def ingest(
    source_format: str, file: Path, release: str | None, jobs: int, store: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Turn recorded runs into packs.

    FORMAT: tau-bench, tau2, agentdojo, otlp or openinference.
    """
    from towerkit.ingest import ingest as admit
    from towerkit.packs.writer import clean_temporaries

    target = open_store(store)
    clean_temporaries(target.root)
    update, close = progress(f"ingest {file.name}")
    report = admit(target, file, format=source_format, release=release, progress=update, jobs=jobs)
    close()
    if as_json:
        emit(report)
    else:
        for problem in report.errors:
            complain(f"not imported: {problem}", limit=400)
        say(
            f"[ingest] {report.imported} imported, {report.unchanged} unchanged, "
            f"{len(report.errors)} with errors; release={safe_text(report.release)} "
            f"store={target.root}"
        )
    if report.errors:
        sys.exit(1)


@cli.command()
@click.option("--baseline", required=True, metavar="SELECTION|FILE", help="What was.")
@click.option("--live", required=True, metavar="SELECTION|FILE", help="What is now.")
@click.option("--columns", metavar="A,B,…", help="Only these columns.")
@click.option("--q", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05,
              show_default=True, help="False discovery rate over all tests.")  # fmt: skip
@store_option
@json_option
def drift(
    baseline: str, live: str, columns: str | None, q: float, store: str | None, as_json: bool
) -> None:
    """Test live against baseline, column by column (FILE: a Parquet or CSV frame)."""
    from towerkit.drift import compare_sources

    report = compare_sources(
        open_store(store), baseline=baseline, live=live, q=q,
        columns=columns.split(",") if columns else None,
    )  # fmt: skip
    if as_json:
        emit({"baseline": baseline, "live": live, **report.to_dict()})
        return
    for row in report.rows:
        p = "p=unknown" if row.p_value is None else f"p={row.p_value:.3g}"
        effect = "effect=unknown" if row.effect is None else f"effect={row.effect:.3g}"
        say(
            f"{'DRIFT' if row.drift else 'same ':<5} {safe_text(row.column):<28} {row.test:<12} "
            f"{p} {effect} n={row.n_baseline}/{row.n_live}"
        )
    drifted = sum(row.drift for row in report.rows)
    say(f"[drift] {drifted} of {len(report.rows)} tests found drift at q={q:g}")


@cli.command("chaos")
@scenario_option
@seed_option
@json_option
def chaos_command(scenario: str, seed: int, as_json: bool) -> None:
    """Inject every class of error at every call; exit 1 when the tower did not cope."""
    from towerkit.chaos import chaos, lines
    from towerkit.scenarios import load_scenario

    update, close = progress("chaos")
    report = chaos(load_scenario(scenario), seed=seed, progress=update)
    close()
    if as_json:
        emit(report)
    else:
        say("\n".join(lines(report)))
    sys.exit(0 if report.holds else 1)

"""The command that re-runs what was recorded: one run or many, from here on, or with a fault."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from towerkit.cli.base import (
    cli,
    emit,
    json_option,
    open_store,
    progress,
    read_text,
    say,
    store_option,
)
from towerkit.core.errors import UsageError


@cli.command()
@click.argument("run_id", metavar="RUN", required=False)
@click.option("--agent", metavar="MODULE:FUNCTION",
              help="An agent of your own, as agent(run, task) or agent(task).")  # fmt: skip
@click.option("--all", "selection", metavar="SELECTION", help="Replay every run that matches.")
@click.option("--jobs", type=click.IntRange(1, 64), metavar="N",
              help="Processes for --all. Default: one a processor.")  # fmt: skip
@click.option("--prompt", type=click.Path(path_type=Path), metavar="FILE",
              help="Replay a scenario's run with another system prompt.")  # fmt: skip
@click.option("--fork-at", type=click.IntRange(0), metavar="SPAN",
              help="Go on live from this call: a new run that names its parent.")  # fmt: skip
@click.option("--set", "changes", multiple=True, metavar="PATH=VALUE",
              help="With --fork-at: change the recorded answer of SPAN.")  # fmt: skip
@click.option("--edit", type=click.Path(path_type=Path), metavar="FILE",
              help="With --fork-at: the answer of SPAN, from a JSON file.")  # fmt: skip
@click.option("--model", metavar="PROVIDER:NAME",
              help="With --fork-at: who answers from there on.")  # fmt: skip
@click.option("--inject", metavar="CLASS@SPAN",
              help="Have a call fail: would the policy have coped?")  # fmt: skip
@store_option
@json_option
def replay(  # noqa: PLR0917  one parameter an option
    run_id: str | None, agent: str | None, selection: str | None, jobs: int | None,
    prompt: Path | None, fork_at: int | None, changes: tuple[str, ...], edit: Path | None,
    model: str | None, inject: str | None, store: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Re-run recorded runs offline; exit 0 when equal, 4 when one diverged."""
    if (run_id is None) == (selection is None):
        raise UsageError("expected one RUN, or --all SELECTION")
    if fork_at is None and (changes or edit or model):
        raise UsageError("--set, --edit and --model belong to --fork-at SPAN")
    modes = [name for name, given in (("--all", selection), ("--prompt", prompt),
             ("--fork-at", fork_at is not None), ("--inject", inject)) if given]  # fmt: skip
    if len(modes) > 1:
        raise UsageError(f"expected one of {' and '.join(modes)}, they do not go together")
    if selection is not None:
        report, good = _every(selection, agent, jobs, store)
    elif fork_at is not None:
        from towerkit.replay.fork import edited, fork

        change = edited(changes, None if edit is None else read_text(edit))
        report = fork(
            open_store(store), str(run_id), fork_at, agent=agent, model=model, change=change
        )
        good = True
    elif inject is not None:
        from towerkit.replay.inject import inject as injected

        report = injected(open_store(store).pack(str(run_id)), inject, agent=agent)
        good = report.coped is True
    else:
        from towerkit.replay.every import one

        text = None if prompt is None else read_text(prompt)
        report = one(open_store(store).pack(str(run_id)), agent, prompt=text)
        good = report.equal
    if as_json:
        emit(report)
    else:
        say("\n".join(report.lines()))
    sys.exit(0 if good else 4)


def _every(
    selection: str, agent: str | None, jobs: int | None, store: str | None
) -> tuple[Any, bool]:
    from towerkit.replay.every import every

    update, close = progress("replay")
    try:
        report = every(open_store(store), selection, agent=agent, jobs=jobs, progress=update)
    finally:
        close()
    return report, report.good

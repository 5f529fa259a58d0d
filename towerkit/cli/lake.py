"""`towerkit pack compact | publish`: packs into the lake, and onto an object store."""

from __future__ import annotations

import os
import sys

import click

from towerkit.cli.base import (
    complain,
    emit,
    json_option,
    open_store,
    progress,
    redacted,
    say,
    store_option,
)
from towerkit.cli.packs import pack
from towerkit.core.errors import UsageError
from towerkit.privacy.safe_text import safe_text


@pack.command("compact")
@click.argument("selection", default="", metavar="[SELECTION]")
@click.option("--to", metavar="DIR|URL", help="The lake: a folder, or s3://bucket/prefix. Default: "
              "TOWERKIT_LAKE, else STORE/lake.")  # fmt: skip
@click.option("--drop", is_flag=True, help="Remove each pack once the lake holds it and was read "
              "back with the same digests.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1, 64), default=os.cpu_count() or 1, metavar="N",
              help="Processes that read and write. Default: one a core.")  # fmt: skip
@store_option
@json_option
def pack_compact(
    selection: str, to: str | None, drop: bool, jobs: int, store: str | None, as_json: bool
) -> None:
    """Roll packs into Delta Lake tables, all that are not there yet. STORE may be s3://… too."""
    from towerkit.lake import compact, compact_published
    from towerkit.lake.place import Place

    if store is not None and "://" in store:
        if selection or to is None:
            raise UsageError("packs of an object store are compacted all at once, and need --to")
        done = compact_published(Place(store), to, drop=drop, jobs=jobs)
    else:
        update, close = progress("compact")
        done = compact(open_store(store), to, selection=selection, drop=drop, jobs=jobs,
                       progress=update)  # fmt: skip
        close()
    if as_json:
        emit(done)
    else:
        for where, problem in done.problems.items():
            complain(f"left: {where}: {problem}")
        dropped = f", {len(done.dropped)} packs dropped" if drop else ""
        say(
            f"[compact] {len(done.added)} runs added, {len(done.replaced)} replaced, "
            f"{done.already} there already{dropped}: {safe_text(redacted(done.lake), limit=300)}"
        )
    if done.problems:
        sys.exit(1)


@pack.command("publish")
@click.argument("selection", default="", metavar="[SELECTION]")
@click.option("--to", required=True, metavar="URL", help="Where to: s3://bucket/prefix, or a "
              "folder.")  # fmt: skip
@store_option
@json_option
def pack_publish(selection: str, to: str, store: str | None, as_json: bool) -> None:
    """Put packs onto an object store: each whole or not at all, and never over another."""
    from towerkit.lake import publish

    packs = [p for p in open_store(store).select(selection) if p.folder.is_dir()]
    done = publish(packs, to)
    if as_json:
        emit(done)
    else:
        for where, problem in done.problems.items():
            complain(f"not published: {where}: {problem}")
        say(
            f"[publish] {len(done.published)} packs published, {len(done.replaced)} replaced, "
            f"{done.already} there already"
        )
    if done.problems:
        sys.exit(1)

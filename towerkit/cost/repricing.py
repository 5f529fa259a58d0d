"""Stored runs at the prices of another day, beside what they were charged.

Rule: nothing stored is touched. What has no price is unknown on either side, and a sum with it is
one: the known part is said apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from towerkit.cost.frames import price_frame
from towerkit.cost.prices import PriceBook

if TYPE_CHECKING:
    import polars as pl


class Repriced(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a provider, or all of them (`model` None): charged then, and priced now.

    A cost is None while a charge of it is unknown; `known_…` is then the rest. `differing` counts
    charges whose recorded cost is not what this book says for their own day: recorded in the
    source, priced by another book, or of a pack that was made before packs kept every class.
    """

    provider: str | None
    model: str | None
    runs: int
    charges: int
    recorded_nanousd: int | None
    known_recorded_nanousd: int
    unknown_recorded: int
    repriced_nanousd: int | None
    known_repriced_nanousd: int
    unknown_repriced: int
    differing: int
    why: tuple[str, ...]


def reprice(
    charges: pl.DataFrame, *, book: PriceBook, at_unix_ns: int
) -> tuple[Repriced, list[Repriced]]:
    """Return the whole and its models, the dearest first, at the prices of `at_unix_ns`."""
    then, now = (price_frame(charges, book=book, at_unix_ns=at) for at in (None, at_unix_ns))
    rows = charges.with_columns(
        now["priced_nanousd"], now["priced_why"], own_day=then["priced_nanousd"]
    )
    whole = _of(rows, None, None)
    parts = [
        _of(group, *(None if k is None else str(k) for k in keys))
        for keys, group in rows.group_by("provider", "model", maintain_order=True)
    ]
    order = sorted(
        parts, key=lambda p: (-p.known_repriced_nanousd, p.provider or "", p.model or "")
    )
    return whole, order


def _of(rows: pl.DataFrame, provider: str | None, model: str | None) -> Repriced:
    import polars as pl  # noqa: PLC0415

    recorded, repriced = rows["cost_nanousd"], rows["priced_nanousd"]
    differing = rows.filter(
        pl.col("cost_nanousd").is_not_null() & pl.col("cost_nanousd").ne_missing(pl.col("own_day"))
    ).height
    missing = recorded.null_count(), repriced.null_count()
    sums = int(recorded.sum() or 0), int(repriced.sum() or 0)
    return Repriced(
        provider=provider, model=model, runs=rows["run_id"].n_unique(), charges=rows.height,
        recorded_nanousd=None if missing[0] else sums[0], known_recorded_nanousd=sums[0],
        unknown_recorded=missing[0],
        repriced_nanousd=None if missing[1] else sums[1], known_repriced_nanousd=sums[1],
        unknown_repriced=missing[1], differing=differing,
        why=tuple(sorted(rows["priced_why"].drop_nulls().unique().to_list())),
    )  # fmt: skip

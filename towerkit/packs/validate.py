"""Checking frames against the table definitions: fast on the hot path, Pandera for the report.

Rule: the two never disagree (a property test holds them equal), and an empty frame of a table that
must have rows is not valid evidence.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from towerkit.core.errors import PackError
from towerkit.packs.tables import Column, Table

if TYPE_CHECKING:
    import pandera.polars as pa
    import polars as pl

MUST_HAVE_ROWS = frozenset({"spans", "inputs", "scores"})


@cache
def polars_schema(table: Table) -> dict[str, Any]:
    """Return the Polars schema of `table`, in column order."""
    import polars as pl  # noqa: PLC0415  an agent's process pays for Polars when it seals, not before

    kinds = {
        "str": pl.String,
        "int": pl.Int64,
        "float": pl.Float64,
        "bool": pl.Boolean,
        "bytes": pl.Binary,
    }
    return {c.name: kinds[c.kind] for c in table.columns}


@cache
def pandera_model(table: Table) -> pa.DataFrameSchema:
    """Return the Pandera schema derived from `table`. Costs 0.7 s on first use."""
    import pandera.polars as pa  # noqa: PLC0415
    import polars as pl  # noqa: PLC0415

    def nan_free(data: Any) -> Any:
        return data.lazyframe.select(~pl.col(data.key).is_nan())

    columns = {}
    for c in table.columns:
        checks = []
        if c.ge is not None:
            checks.append(pa.Check.ge(c.ge))
        if c.le is not None:
            checks.append(pa.Check.le(c.le))
        if c.isin is not None:
            checks.append(pa.Check.isin(list(c.isin)))
        if c.pattern is not None:
            checks.append(pa.Check.str_matches(c.pattern))
        if c.kind == "float":
            checks.append(pa.Check(nan_free, name="nan_free"))
        columns[c.name] = pa.Column(polars_schema(table)[c.name], checks, nullable=c.nullable)

    frame_checks = [
        pa.Check(_required_check(table, value, needed), name=f"{value}_requires_{'_'.join(needed)}")
        for value, needed in table.required
    ]
    return pa.DataFrameSchema(columns, checks=frame_checks, strict=True, ordered=True)


def _required_check(table: Table, value: str, needed: tuple[str, ...]) -> Any:
    import polars as pl  # noqa: PLC0415

    def check(data: Any) -> Any:
        holds = (pl.col(table.by) != value) | pl.all_horizontal(
            [pl.col(n).is_not_null() for n in needed]
        )
        return data.lazyframe.select(holds.alias("holds"))

    return check


def _column_rules(c: Column) -> list[pl.Expr]:
    import polars as pl  # noqa: PLC0415

    col = pl.col(c.name)
    rules = [] if c.nullable else [col.is_not_null()]
    if c.ge is not None:
        rules.append(col.is_null() | (col >= c.ge))
    if c.le is not None:
        rules.append(col.is_null() | (col <= c.le))
    if c.isin is not None:
        rules.append(col.is_null() | col.is_in(list(c.isin)))
    if c.pattern is not None:
        rules.append(col.is_null() | col.str.contains(c.pattern))
    if c.kind == "float":
        rules.append(col.is_null() | ~col.is_nan())
    return rules


@cache
def fast_rule(table: Table) -> pl.Expr:
    """Return one Polars expression that is true for a frame that holds every rule of `table`."""
    import polars as pl  # noqa: PLC0415

    rules = [r for c in table.columns for r in _column_rules(c)]
    for value, needed in table.required:
        present = pl.all_horizontal([pl.col(n).is_not_null() for n in needed])
        rules.append((pl.col(table.by) != value) | present)
    return pl.all_horizontal(rules).all()


def holds(frame: pl.DataFrame, table: Table) -> bool:
    """Return whether `frame` is a valid, where needed non-empty, frame of `table`. Fast."""
    if dict(frame.schema) != polars_schema(table) or frame.columns != list(table.names):
        return False
    if frame.height == 0:
        return table.name not in MUST_HAVE_ROWS
    return bool(frame.select(fast_rule(table)).item())


def check(frame: pl.DataFrame, table: Table, *, where: str) -> pl.DataFrame:
    """Return `frame`, or raise `PackError` with Pandera's report of what does not hold."""
    if holds(frame, table):
        return frame
    return check_with_pandera(frame, table, where=where)


def check_with_pandera(frame: pl.DataFrame, table: Table, *, where: str) -> pl.DataFrame:
    """Validate eagerly with Pandera itself: slower, complete, what the gate runs."""
    import pandera.errors  # noqa: PLC0415

    if frame.height == 0 and table.name in MUST_HAVE_ROWS:
        raise PackError(f"{where}: expected rows in {table.name}, got an empty table")
    try:
        # On a LazyFrame Pandera lets invalid data pass: the frame is eager, on purpose.
        pandera_model(table).validate(frame, lazy=True)
    except pandera.errors.SchemaErrors as error:
        cases = error.failure_cases
        first = cases.row(0, named=True)
        raise PackError(
            f"{where}: {table.name} breaks {cases.height} rule(s) of format 1, first: column "
            f"{first.get('column')!r}, rule {first.get('check')!r}, "
            f"value {str(first.get('failure_case'))[:80]!r}"
        ) from None
    return frame

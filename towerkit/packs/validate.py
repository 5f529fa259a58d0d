"""Checking rows and frames against the table definitions: fast on the hot path, Pandera to report.

Rule: the three never disagree (a property test holds them equal), and an empty table that must have
rows is not valid evidence. What is written is checked as rows, in plain Python (so that sealing a
run imports no Polars); what is read is checked so too while it is small, and as a frame, by one
Polars expression, where it is not; Pandera runs when either finds something, and says what.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from towerkit.core.errors import PackError
from towerkit.packs.tables import Column, Table

if TYPE_CHECKING:
    import pandera.polars as pa
    import polars as pl

MUST_HAVE_ROWS = frozenset({"spans", "inputs", "scores"})
Values = Sequence[Any]

FEW_ROWS = 256  # up to here plain Python is faster than starting a query


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
        if c.name == table.by:
            # On a column: Pandera reports a whole frame's failed rows as JSON, which Polars cannot
            # make of binary columns (it panics).
            checks += [
                pa.Check(_required_check(table, value, needed), name=_requires(value, needed))
                for value, needed in table.required
            ]
        columns[c.name] = pa.Column(polars_schema(table)[c.name], checks, nullable=c.nullable)

    return pa.DataFrameSchema(columns, strict=True, ordered=True)


def _requires(value: str, needed: tuple[str, ...]) -> str:
    return f"{value}_requires_{'_'.join(needed)}"


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


def holds(frame: pl.DataFrame, table: Table, rows: Sequence[Values] | None = None) -> bool:
    """Return whether `frame` is a valid, where needed non-empty, frame of `table`. Fast.

    `rows` are the frame's, where they were made already.
    """
    if dict(frame.schema) != polars_schema(table) or frame.columns != list(table.names):
        return False
    if rows is not None or frame.height <= FEW_ROWS:
        rows = frame.rows() if rows is None else rows
        return rows_hold(rows, list(zip(*rows, strict=True)), table)
    return bool(frame.select(fast_rule(table)).item())


_PYTHON: dict[str, type] = {"str": str, "int": int, "float": float, "bool": bool, "bytes": bytes}
_NONE = type(None)


def _fits(kind: type, wanted: type) -> bool:
    """Return whether a value of `kind` may stand in a column of `wanted`; a bool is not an int."""
    return issubclass(kind, wanted) and not (wanted is int and kind is bool)


def _value_rules(c: Column) -> list[Callable[[Values], bool]]:
    """Return the rules of a column over its values that are not null."""
    rules: list[Callable[[Values], bool]] = []
    if c.kind == "float":
        rules.append(lambda values: all(v == v for v in values))  # noqa: PLR0124  false for NaN
    if c.kind == "int":
        low = -(2**63) if c.ge is None else c.ge
        high = 2**63 - 1 if c.le is None else c.le
        rules.append(lambda values: low <= min(values) and max(values) <= high)
    elif c.ge is not None or c.le is not None:
        least = float("-inf") if c.ge is None else c.ge
        most = float("inf") if c.le is None else c.le
        rules.append(lambda values: least <= min(values) and max(values) <= most)
    if c.isin is not None:
        known = frozenset(c.isin)
        rules.append(known.issuperset)
    if c.pattern is not None:
        # Python's $ also matches before a final newline; RE2's and Rust's do not.
        found = re.compile(re.sub(r"\$$", r"\\Z", c.pattern)).search
        rules.append(lambda values: all(map(found, set(values))))
    return rules


def _column_check(c: Column) -> Callable[[Values], bool]:
    wanted, rules = _PYTHON[c.kind], _value_rules(c)

    def check_column(values: Values) -> bool:
        kinds = set(map(type, values))
        if _NONE in kinds:
            if not c.nullable:
                return False
            if len(kinds) == 1:
                return True
            kinds.discard(_NONE)
            values = [v for v in values if v is not None]
        return all(_fits(k, wanted) for k in kinds) and all(rule(values) for rule in rules)

    return check_column


@cache
def _row_rules(
    table: Table,
) -> tuple[list[Callable[[Values], bool]], int, dict[str, Callable[[Values], Any]]]:
    """Return the column checks of `table`, where its `by` stands, and what each value requires."""
    names = table.names
    needed: dict[str, Callable[[Values], Any]] = {
        # Twice the first name: itemgetter gives a tuple only for two or more.
        value: itemgetter(*(names.index(n) for n in (columns[0], *columns)))
        for value, columns in table.required
    }
    return [_column_check(c) for c in table.columns], names.index(table.by or names[0]), needed


def rows_hold(rows: Sequence[Values], columns: Sequence[Values], table: Table) -> bool:
    """Return whether `rows`, also given as `columns`, are a valid table; the twin of `holds`.

    It is stricter in one thing: a value has its column's own Python type, because the digest is
    over the value as it is (1 and 1.0 are one number in a frame, two in a digest).
    """
    checks, by, needed = _row_rules(table)
    if not rows:
        return table.name not in MUST_HAVE_ROWS
    if len(columns) != len(checks):
        return False
    if not all(fits(values) for fits, values in zip(checks, columns, strict=True)):
        return False
    for row in rows if needed else ():
        required = needed.get(row[by])
        if required is not None and None in required(row):
            return False
    return True


def check(
    frame: pl.DataFrame, table: Table, *, where: str, rows: Sequence[Values] | None = None
) -> pl.DataFrame:
    """Return `frame`, or raise `PackError` with Pandera's report of what does not hold."""
    if holds(frame, table, rows):
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

"""Prices of a whole frame of charges at once.

Rule: the same nano-dollars as `PriceBook.quote`, charge by charge. What cannot be priced by whole
pico-dollars a token (some cached rates end beyond them) goes through `quote` itself.

A frame of charges has `provider`, `model`, `input_tokens`, `output_tokens`, `cache_read_tokens`,
`cache_write_tokens`, `reasoning_tokens`, and `at_unix_ns` where each is priced at its own time. A
charge with `details`, where there is such a column (JSON, see `Usage`), is priced by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from towerkit.core.types import Usage
from towerkit.cost.prices import CONTRADICTED, FREE, NOT_WHOLE, PriceBook
from towerkit.cost.rates import CLASSES, SPAN_NS, Rates, Step, rates_of

if TYPE_CHECKING:
    import polars as pl

_TOKENS = tuple(f"{c}_tokens" for c in CLASSES)


_NOTHING = Rates(ref="stand-in")


def price_frame(
    charges: pl.DataFrame, *, book: PriceBook, at_unix_ns: int | None = None
) -> pl.DataFrame:
    """Return `priced_nanousd`, `priced_ref` and `priced_why`, one row a charge, in their order.

    All at `at_unix_ns`, or each at its own time. Null is unknown, with the reason.
    """
    import polars as pl  # noqa: PLC0415

    own = pl.col("at_unix_ns") // SPAN_NS * SPAN_NS
    keyed = charges.select(
        "provider", "model", *(pl.col(t).cast(pl.Int64) for t in _TOKENS),
        span=own if at_unix_ns is None else pl.lit(at_unix_ns, pl.Int64),
        details=pl.col("details") if "details" in charges.columns else pl.lit(None, pl.String),
    ).with_row_index("row")  # fmt: skip
    keys = keyed.select("provider", "model", "span").unique(maintain_order=True)
    found = [_rates(book, *key) for key in keys.iter_rows()]
    depth = max((len(r.steps) for r in found), default=0)
    priced = keyed.join(
        keys.hstack(_table(found, depth)), on=["provider", "model", "span"], how="left",
        nulls_equal=True, maintain_order="left",
    )  # fmt: skip
    nothing = pl.col("ref") == _NOTHING.ref
    priced = _exactly(
        priced.with_columns(priced_nanousd=pl.when(nothing).then(0).otherwise(_cost(depth))), book
    )
    whole = pl.col("input_tokens").is_not_null() & pl.col("output_tokens").is_not_null()
    return priced.select(
        "priced_nanousd",
        priced_ref=pl.when(pl.col("priced_nanousd").is_not_null()).then("ref"),
        priced_why=pl.when(pl.col("why").is_not_null()).then("why")
        .when(pl.col("priced_nanousd").is_not_null()).then(None)
        .when(~whole).then(pl.lit(NOT_WHOLE))
        .otherwise(pl.lit(CONTRADICTED)),
    )  # fmt: skip


def _rates(book: PriceBook, provider: str | None, model: str | None, at_unix_ns: int) -> Rates:
    if provider in FREE:
        return _NOTHING
    if not model:
        return Rates(why="no model is named")
    if provider == "simulated":
        own = book.simulated(model)
        if own is None:
            return Rates(why=f"the simulated model {model} has no price in data/prices.toml")
        given, made = own[0] * 1000, own[1] * 1000
        return Rates(steps=(Step(-1, (given, made, given, given, made)),), ref="data/prices.toml")
    found = book.find(model, provider=provider, at_unix_ns=at_unix_ns)
    return Rates(why=found) if isinstance(found, str) else rates_of(found.prices, found.ref)


def _table(found: list[Rates], depth: int) -> pl.DataFrame:
    import polars as pl  # noqa: PLC0415

    columns: dict[str, Any] = {
        "ref": pl.Series([r.ref for r in found], dtype=pl.String),
        "why": pl.Series([r.why for r in found], dtype=pl.String),
        "exact": pl.Series([r.exact for r in found], dtype=pl.Boolean),
        "request": pl.Series([r.per_request for r in found], dtype=pl.Int64),
    }
    for n in range(depth):
        steps = [r.steps[n] if n < len(r.steps) else None for r in found]
        columns[f"above{n}"] = pl.Series([s and s.above for s in steps], dtype=pl.Int64)
        for i, name in enumerate(CLASSES):
            rates = [None if s is None else s.rates[i] for s in steps]
            columns[f"{name}{n}"] = pl.Series(rates, dtype=pl.Int64)
    return pl.DataFrame(columns)


def _cost(depth: int) -> pl.Expr:
    """Return the nano-dollars of a row, half to even; null where a count or a rate is unknown."""
    import polars as pl  # noqa: PLC0415

    if depth == 0:
        return pl.lit(None, pl.Int64)
    read, written, thought = (pl.col(f"{c}_tokens").fill_null(0) for c in CLASSES[2:])
    fresh, said = pl.col("input_tokens") - read - written, pl.col("output_tokens") - thought
    rate = {name: pl.col(f"{name}0") for name in CLASSES}
    for n in range(1, depth):
        over = pl.col("input_tokens") > pl.col(f"above{n}")
        rate = {k: pl.when(over).then(pl.col(f"{k}{n}")).otherwise(r) for k, r in rate.items()}
    pico = (
        fresh * rate["input"] + read * rate["cache_read"] + written * rate["cache_write"]
        + said * rate["output"] + thought * rate["reasoning"] + pl.col("request")
    )  # fmt: skip
    whole, rest = pico // 1000, pico % 1000
    up = (rest > 500) | ((rest == 500) & (whole % 2 == 1))
    return pl.when((fresh >= 0) & (said >= 0)).then(whole + up.cast(pl.Int64))


def _usage(row: dict[str, Any]) -> Usage:
    details = row["details"]
    more: Any = msgspec.UNSET if details is None else msgspec.json.decode(details)
    return Usage(**{t: row[t] for t in _TOKENS}, details=more)


def _exactly(priced: pl.DataFrame, book: PriceBook) -> pl.DataFrame:
    """Price the rows whose model has no rates by whole pico-dollars, or with details, by itself."""
    import polars as pl  # noqa: PLC0415

    rows = priced.filter(pl.col("exact") | pl.col("details").is_not_null())
    if rows.is_empty():
        return priced
    quotes = [
        book.quote(
            _usage(row), model=row["model"], provider=row["provider"],
            at_unix_ns=row["span"],
        )
        for row in rows.iter_rows(named=True)
    ]  # fmt: skip
    said = pl.DataFrame(
        {
            "row": rows["row"],
            "by_quote": [None if q.price is None else q.price.nanousd for q in quotes],
            "said": [q.why for q in quotes],
        },
        schema={"row": pl.get_index_type(), "by_quote": pl.Int64, "said": pl.String},
    )
    return priced.join(said, on="row", how="left", maintain_order="left").with_columns(
        priced_nanousd=pl.coalesce("by_quote", "priced_nanousd"), why=pl.coalesce("said", "why")
    )

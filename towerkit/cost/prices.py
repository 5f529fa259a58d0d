"""What tokens cost: dated prices, looked up offline.

Rule: a price is never overwritten and never guessed. A model without a known price costs None.
Simulated models have prices of their own, in `data/prices.toml`, so that budgets work in a
demonstration; every charge made with one is marked simulated.
"""

from __future__ import annotations

import tomllib
from datetime import UTC, datetime
from functools import cache
from typing import Any

import msgspec

from towerkit.core.assets import asset
from towerkit.core.types import Usage

# Who answers without being paid by the token: the stand-ins of a fallback chain.
FREE = frozenset({"cache", "template", "human"})


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of one charge and where its price comes from; None: an amount without a book."""

    nanousd: int
    ref: str
    date: str | None


@cache
def _own() -> dict[str, dict[str, Any]]:
    with asset("data", "prices.toml").open("rb") as file:
        models: list[dict[str, Any]] = tomllib.load(file)["model"]
    return {m["name"]: m for m in models}


def price(usage: Usage, *, model: str, provider: str | None, at_unix_ns: int) -> Price | None:
    """Return what `usage` of `model` cost at a time, or None when that is not known."""
    if provider in FREE:
        return Price(nanousd=0, ref="stand-in", date=None)
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    own = _own().get(model) if provider == "simulated" else None
    if own is not None:
        cost = (
            usage.input_tokens * own["input_nanousd"] + usage.output_tokens * own["output_nanousd"]
        )
        return Price(nanousd=cost, ref="data/prices.toml", date=str(own["from"]))
    if provider == "simulated":
        return None
    return _public_price(usage, model, provider, at_unix_ns // (86_400 * 1_000_000_000))


@cache
def _snapshot_date() -> str:
    import genai_prices  # noqa: PLC0415

    return f"genai-prices {genai_prices.__version__}"


def _public_price(usage: Usage, model: str, provider: str | None, day: int) -> Price | None:
    import genai_prices  # noqa: PLC0415  0.4 s of import that a run without a real model never pays

    tokens = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    when = datetime.fromtimestamp(day * 86_400, UTC)
    try:
        found = genai_prices.calc_price(
            tokens, model_ref=model, provider_id=provider, genai_request_timestamp=when
        )
    except LookupError:
        return None
    return Price(
        nanousd=int((found.total_price * 1_000_000_000).to_integral_value()),
        ref=_snapshot_date(),
        date=when.date().isoformat(),
    )

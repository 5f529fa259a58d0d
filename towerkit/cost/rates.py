"""Prices of a model as whole pico-dollars a token, so that a charge is a few multiplications.

Rule: what is said here is what genai-prices would say, to the nano-dollar. Where its prices are not
of that kind (cached rates that end beyond a pico-dollar, prices by the hour), `exact` says so, and
whoever asks goes there.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from towerkit.core.types import Usage

PICO = 1_000_000  # of pico-dollars a token: USD a million tokens, times this
# No price begins or ends within such a span: they change at midnight, or at full and half hours.
SPAN_NS = 1800 * 10**9
CLASSES = ("input", "output", "cache_read", "cache_write", "reasoning")
_KEYS = (
    "input_mtok",
    "output_mtok",
    "cache_read_mtok",
    "cache_write_mtok",
    "output_reasoning_mtok",
)


class Step(msgspec.Struct, frozen=True):
    """Pico-dollars a token in the order of `CLASSES`, for calls with more input than `above`."""

    above: int
    rates: tuple[int, ...]


class Rates(msgspec.Struct, frozen=True):
    """What a model takes at a time: steps, or `exact` where they do not say it; or why unknown.

    `per_request` is in pico-dollars.
    """

    steps: tuple[Step, ...] = ()
    per_request: int = 0
    ref: str | None = None
    why: str | None = None
    exact: bool = False

    def nanousd(self, usage: Usage) -> int:
        """Return what a usage costs, half to even. Its sums are known and its parts within them."""
        given, made = usage.input_tokens or 0, usage.output_tokens or 0
        read, written = usage.cache_read_tokens or 0, usage.cache_write_tokens or 0
        thought = usage.reasoning_tokens or 0
        step = self.steps[0]
        for later in self.steps[1:]:
            if given > later.above:
                step = later
        a, b, c, d, e = step.rates
        pico = self.per_request + (given - read - written) * a + read * c + written * d
        pico += (made - thought) * b + thought * e
        whole, rest = divmod(pico, 1000)
        return whole + (rest > 500 or (rest == 500 and whole % 2 == 1))


def rates_of(model_price: Any, ref: str) -> Rates:
    """Return the prices of a model (`genai_prices.types.ModelPrice`) as rates by step."""
    prices = {k: v for k, v in vars(model_price).items() if v is not None}
    known = {k: prices[k] for k in _KEYS if k in prices}
    if "input_mtok" not in known or "output_mtok" not in known:
        return Rates(exact=True, ref=ref)
    starts = {t.start for p in known.values() for t in getattr(p, "tiers", ())}
    steps = []
    for above in (-1, *sorted(starts)):
        rates = {k: _at(p, above) * PICO for k, p in known.items()}
        given, made = rates["input_mtok"], rates["output_mtok"]
        row = (
            given, made, rates.get("cache_read_mtok", given), rates.get("cache_write_mtok", given),
            rates.get("output_reasoning_mtok", made),
        )  # fmt: skip
        if any(r != int(r) for r in row):
            return Rates(exact=True, ref=ref)
        steps.append(Step(above, tuple(map(int, row))))
    request = prices.get("requests_kcount", Decimal(0))
    if not isinstance(request, Decimal):
        return Rates(exact=True, ref=ref)
    return Rates(steps=tuple(steps), per_request=int(request * 10**9), ref=ref)


def _at(price: Any, above: int) -> Decimal:
    """Return the price of calls with more input than `above`."""
    if isinstance(price, Decimal):
        return price
    fitting = [t.price for t in price.tiers if t.start <= above]
    found: Decimal = fitting[-1] if fitting else price.base
    return found

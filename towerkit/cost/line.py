"""One line of `towerkit cost price`: an answer in, its usage and cost out.

Rule: a line that cannot be read is answered with what was expected; a usage that cannot be true is
no usage, and a cost that is not known is null, each with the reason.
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec

from towerkit.cost.answers import Reading, parsed, read_answer
from towerkit.cost.prices import Price, PriceBook, Quote

_EXPECTED = '{"provider", "model", "body", "at", "api"} on one line'


class _Line(msgspec.Struct, forbid_unknown_fields=False):
    """What a line of standard input must hold."""

    body: Any
    provider: str | None = None
    model: str | None = None
    at: str | int | float | None = None
    api: str | None = None


class Priced(msgspec.Struct, frozen=True, kw_only=True):
    """What one answer took and cost. `billed_nanousd` is what the provider says it charged."""

    reading: Reading
    quote: Quote
    at_unix_ns: int

    @property
    def why(self) -> str | None:
        """What is missing or left out, in a sentence; None when nothing is."""
        parts = [self.reading.why, self.quote.why if self.reading.why is None else None]
        billed, price = self.reading.billed_usd, self.quote.price
        if billed is not None and price is not None and nanousd(billed) != price.nanousd:
            parts.append(f"the provider says it billed {billed:f} USD")
        return "; ".join(p for p in parts if p) or None

    def as_json(self) -> dict[str, Any]:
        """Return the line that answers."""
        price, reading = self.quote.price, self.reading
        said: dict[str, Any] = {
            "usage": reading.usage, "cost_nanousd": None if price is None else price.nanousd,
            "why": self.why, "dialect": reading.dialect,
            "price_ref": None if price is None else price.ref,
            "price_date": None if price is None else price.date,
        }  # fmt: skip
        if reading.billed_usd is not None:
            said["billed_nanousd"] = nanousd(reading.billed_usd)
        return said


def nanousd(usd: Decimal) -> int:
    """Return dollars as whole nano-dollars."""
    return int((usd * 1_000_000_000).to_integral_value())


def price_answer(
    body: Any, *, provider: str | None, model: str | None, book: PriceBook, now_unix_ns: int,
    at_unix_ns: int | None = None, api: str | None = None,
) -> Priced:  # fmt: skip
    """Return what an answer took and cost.

    Where the book has no price and the answer says what was billed, that is the cost.

    Without `at_unix_ns`, the time is the answer's own, else `now_unix_ns`. The model is `model`;
    where the book does not know it, the one that the answer names.
    """
    reading = read_answer(body, api=api)
    made = reading.made_unix_s
    at = at_unix_ns
    if at is None:
        at = now_unix_ns if made is None else made * 1_000_000_000
    quote = Quote(why=reading.why)
    usage = reading.usage
    if usage is not None and usage.input_tokens is not None and usage.output_tokens is not None:
        names = [n for n in dict.fromkeys((model, reading.model)) if n] or [""]
        quotes = [
            book.quote(usage, model=n, provider=provider, at_unix_ns=at, context=reading.context)
            for n in names
        ]
        quote = next((q for q in quotes if q.price is not None), quotes[0])
        if quote.price is None and reading.billed_usd:
            quote = _billed(reading.billed_usd, quote)
    return Priced(reading=reading, quote=quote, at_unix_ns=at)


def _billed(usd: Decimal, quote: Quote) -> Quote:
    """Return what the provider says it charged, where the book has no price."""
    made = Price(nanousd=nanousd(usd), ref="billed by the provider", date=None)
    return Quote(price=made, why=f"{quote.why}: it is what the provider says it billed")


def price_line(line: bytes, *, book: PriceBook, now_unix_ns: int) -> tuple[Any, bool]:
    """Return the answer to one line, and whether the line was as expected."""
    try:
        given = msgspec.convert(parsed(line), _Line)
        at = _time(given.at)
    except (msgspec.ValidationError, ValueError) as error:
        return {"error": f"expected {_EXPECTED}, got: {error}"}, False
    priced = price_answer(
        given.body, provider=given.provider, model=given.model, api=given.api, at_unix_ns=at,
        book=book, now_unix_ns=now_unix_ns,
    )  # fmt: skip
    return priced.as_json(), True


def _time(at: str | float | None) -> int | None:
    """Return a time in nanoseconds: ISO, or seconds since 1970; raise `ValueError`."""
    if at is None:
        return None
    if isinstance(at, str):
        moment = datetime.fromisoformat(at)
        at = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= at < 253_402_300_800:
        raise ValueError(f"at is {at}, expected an ISO time or seconds since 1970")
    return int(at) * 1_000_000_000

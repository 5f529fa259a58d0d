"""The ledger beside a provider's invoice: by day, model and key, with the difference named.

Rule: the parts of a difference add up to it to the nano-dollar; what nothing explains is called
`unexplained`, never spread over the rest.

    missing_runs            the invoice counts more requests or tokens than the ledger has
    not_billed              the ledger has more
    failed_attempts_billed  attempts that failed, for which the ledger has no known charge
    failed_attempts_free    attempts that failed, which the ledger charged and the provider did not
    unknown_price           charges that the ledger could not price
    cache                   the same tokens, more or fewer of them read from the cache
    price                   the same tokens at another price
    rounding                what the digits that the invoice prints can make of it
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import TYPE_CHECKING, Any

import msgspec

from towerkit.core.types import Usage
from towerkit.cost.invoice import Line
from towerkit.cost.line import nanousd
from towerkit.cost.prices import PriceBook, owner_of

if TYPE_CHECKING:
    import polars as pl

_DAY_NS = 86_400 * 10**9
_TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """One cause of a difference; positive when the invoice is higher."""

    cause: str
    nanousd: int


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One day, model and key on both sides. A side that is None has nothing there.

    `difference_nanousd` is invoice minus ledger, None where the invoice says no money.
    """

    day: date
    model: str | None
    key: str | None
    invoice_nanousd: int | None
    ledger_nanousd: int | None
    ledger_charges: int
    unknown_charges: int
    difference_nanousd: int | None
    parts: tuple[Part, ...]


class _Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """The ledger's side of a row. Costs are the known ones; `unpriced` has tokens of the others."""

    charges: int = 0
    known: int = 0
    unknown: int = 0
    wasted_known: int = 0
    priced_unknown: int = 0
    priced_wasted_unknown: int = 0
    counts: dict[str, int] = {}


def reconcile(
    invoice: list[Line], charges: pl.DataFrame, *, book: PriceBook, provider: str | None = None,
    key_from: str | None = None,
) -> list[Row]:  # fmt: skip
    """Return the two side by side, a row a day, model and key, in that order.

    `charges` is a frame of `packs.charges`; those of simulated models and of stand-ins cost no
    money and are left out, as is what another `provider` charged. `key_from` is the column that
    stands for the provider's keys, such as `tenant`; without it keys are added up. Models are one
    where the book knows them as one, as gpt-4o and gpt-4o-2024-08-06.
    """
    names = _Names(book, provider)
    lines = _by_key(invoice, names, keyed=key_from is not None)
    ledger = _ledger(charges, names, book, key_from)
    order = sorted({*lines, *ledger}, key=lambda k: (k[0], k[1] or "", k[2] or ""))
    return [_row(key, lines.get(key, []), ledger.get(key, _Ledger()), names) for key in order]


def agrees(rows: list[Row]) -> bool:
    """Say whether nothing differs by more than rounding; where no money is said, nothing agrees."""
    return all(
        row.difference_nanousd is not None and {p.cause for p in row.parts} <= {"rounding"}
        for row in rows
    )


class _Names:
    """What the book calls a model."""

    def __init__(self, book: PriceBook, provider: str | None) -> None:
        self.book, self.provider = book, provider
        self._known: dict[tuple[str | None, str | None], str | None] = {}

    def of(self, model: str | None, provider: str | None) -> str | None:
        key = (model, provider)
        if key not in self._known:
            self._known[key] = None if model is None else self.book.known_as(model, provider)
        return self._known[key]

    def price(self, counts: Mapping[str, int], model: str | None, day: date) -> int | None:
        """Return what counts of tokens cost on a day; None where that is not known."""
        if "input_tokens" not in counts or "output_tokens" not in counts:
            return None
        known: dict[str, Any] = {t: counts.get(t) for t in _TOKENS}
        at = (day - date(1970, 1, 1)).days * _DAY_NS
        found = self.book.quote(Usage(**known), model=model, provider=self.provider, at_unix_ns=at)
        return None if found.price is None else found.price.nanousd


_Key = tuple[date, str | None, str | None]


def _by_key(invoice: list[Line], names: _Names, *, keyed: bool) -> dict[_Key, list[Line]]:
    found: dict[_Key, list[Line]] = {}
    for line in invoice:
        key = (line.day, names.of(line.model, names.provider), line.key if keyed else None)
        found.setdefault(key, []).append(line)
    return found


def _ledger(
    charges: pl.DataFrame, names: _Names, book: PriceBook, key_from: str | None
) -> dict[_Key, _Ledger]:
    import polars as pl  # noqa: PLC0415

    from towerkit.cost.frames import price_frame  # noqa: PLC0415
    from towerkit.cost.prices import FREE  # noqa: PLC0415

    free_of_charge = pl.col("provider").is_in(list(FREE)).fill_null(value=False)
    real = charges.filter(~pl.col("simulated") & ~free_of_charge)
    if names.provider is not None:
        wanted = owner_of(names.provider)
        owners = real["provider"].map_elements(owner_of, return_dtype=pl.String)
        real = real.filter((owners == wanted) | real["provider"].is_null())
    pairs = real.select("model", "provider").unique()
    known = pairs.with_columns(
        known_as=pl.Series([names.of(*p) for p in pairs.iter_rows()], dtype=pl.String)
    )
    key = pl.lit(None, pl.String) if key_from is None else pl.col(key_from)
    cost, free = pl.col("cost_nanousd"), pl.col("cost_nanousd").is_null()
    guess = pl.col("priced_nanousd").fill_null(0)
    grouped = (
        real.hstack(price_frame(real, book=book))
        .join(known, on=["model", "provider"], how="left", nulls_equal=True)
        .group_by("day", "known_as", key.alias("key"))
        .agg(
            charges=pl.len(), known=cost.sum(), unknown=free.sum(),
            wasted_known=cost.filter("wasted").sum(),
            priced_unknown=guess.filter(free & ~pl.col("wasted")).sum(),
            priced_wasted_unknown=guess.filter(free & pl.col("wasted")).sum(),
            counts=pl.struct(pl.len().alias("requests"), *(pl.col(t).sum() for t in _TOKENS)),
        )
    )  # fmt: skip
    return {
        (r.pop("day"), r.pop("known_as"), r.pop("key")): _Ledger(**r)
        for r in grouped.iter_rows(named=True)
    }


def _row(key: _Key, lines: list[Line], ledger: _Ledger, names: _Names) -> Row:
    said = [line.cost_usd for line in lines if line.cost_usd is not None]
    billed = nanousd(sum(said[1:], said[0])) if said else None
    silent = bool(lines) and billed is None
    difference = None if silent else (billed or 0) - ledger.known
    parts: tuple[Part, ...] = ()
    if difference:
        parts = _named(difference, key, lines, ledger, names)
    return Row(
        day=key[0], model=key[1], key=key[2], invoice_nanousd=billed,
        ledger_nanousd=ledger.known if ledger.charges else None,
        ledger_charges=ledger.charges, unknown_charges=ledger.unknown,
        difference_nanousd=difference, parts=parts,
    )  # fmt: skip


class _Parts:
    """What of a difference is named, and what is left of it."""

    def __init__(self, difference: int, slack: int) -> None:
        self.left, self.slack, self.parts = difference, slack, list[Part]()

    @property
    def open(self) -> bool:
        """Whether more is left than rounding makes."""
        return abs(self.left) > self.slack

    def take(self, cause: str, amount: int) -> None:
        if amount:
            self.parts.append(Part(cause=cause, nanousd=amount))
            self.left -= amount

    def fits(self, amount: int) -> bool:
        """Say whether `amount` is what is left, up to rounding."""
        return amount != 0 and abs(self.left - amount) <= self.slack


def _named(
    difference: int, key: _Key, lines: list[Line], ledger: _Ledger, names: _Names
) -> tuple[Part, ...]:
    """Return the parts of a difference. Each cause takes what it explains; the rest goes on."""
    slack = sum(line.lines * _half(line.places) for line in lines) + ledger.charges
    found = _Parts(difference, slack)
    if not ledger.charges:
        found.take("missing_runs", difference)
    elif not lines:
        found.take("not_billed", difference)
    # Charges without a price, where the invoice is higher by as much as they would have cost.
    for cause, amount in (("failed_attempts_billed", ledger.priced_wasted_unknown),
                          ("unknown_price", ledger.priced_unknown)):  # fmt: skip
        if amount and found.left >= amount - slack:
            found.take(cause, amount)
    if found.open:
        _by_counts(found, key, lines, ledger, names)
    if found.fits(-ledger.wasted_known):
        found.take("failed_attempts_free", -ledger.wasted_known)
    found.take("unexplained" if found.open else "rounding", found.left)
    return tuple(found.parts)


def _half(places: int) -> int:
    """Return half of the last digit that is printed, in nano-dollars, rounded up."""
    return (10 ** (9 - places) + 1) // 2 if places < 9 else 1


def _by_counts(found: _Parts, key: _Key, lines: list[Line], ledger: _Ledger, names: _Names) -> None:
    """Name what the counts of both sides tell: volume first, then the cache, then the price."""
    billed: dict[str, int] = {}
    for line in lines:
        for field, n in line.counts.items():
            billed[field] = billed.get(field, 0) + n
    own, model, day = ledger.counts, key[1], key[0]
    ours = names.price(own, model, day)
    if not set(_SUMS) <= set(billed):
        _without_tokens(found, billed, own, ours, names.price(_sums(own), model, day))
        return
    if _sums(billed) != _sums(own):
        own = _scaled(own, billed)
        theirs = names.price(own, model, day)
        if ours is None or theirs is None:
            return
        found.take("missing_runs" if theirs > ours else "not_billed", theirs - ours)
        ours = theirs
    cached = {t: billed.get(t, own[t]) for t in _CACHED}
    theirs = names.price(own | cached, model, day)
    if ours is None or theirs is None:
        return
    found.take("cache", theirs - ours)
    if found.open and ledger.unknown == 0:
        full = names.price(_sums(own), model, day)
        hidden = not set(_CACHED) & set(billed) and full is not None and found.fits(full - theirs)
        found.take("cache" if hidden else "price", found.left)


_SUMS, _CACHED = _TOKENS[:2], _TOKENS[2:]


def _sums(counts: Mapping[str, int]) -> dict[str, int]:
    return {t: counts[t] for t in _SUMS}


def _scaled(own: Mapping[str, int], billed: Mapping[str, int]) -> dict[str, int]:
    """Return the invoice's tokens with the ledger's share of cached ones: the cache comes next."""
    scale = billed["input_tokens"] / max(1, own["input_tokens"])
    parts = {t: int(own[t] * scale) for t in _CACHED}
    if sum(parts.values()) > billed["input_tokens"]:
        parts = dict.fromkeys(parts, 0)
    return _sums(billed) | parts


def _without_tokens(
    found: _Parts, billed: Mapping[str, int], own: Mapping[str, int], ours: int | None,
    full: int | None,
) -> None:  # fmt: skip
    """Name what money and requests alone tell. `full` is `ours` without the cache's discount."""
    if ours is not None and full is not None and found.fits(full - ours):
        found.take("cache", full - ours)
    elif billed.get("requests", 0) > own["requests"]:
        found.take("missing_runs", max(0, found.left))

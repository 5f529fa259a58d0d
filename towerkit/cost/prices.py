"""What tokens cost: a dated price book, looked up offline.

Rule: a price is never overwritten and never guessed. A model without a known price costs None.

A book is three layers, the first that knows the model at that time:

    the user's file       `TOWERKIT_PRICES`, or `--prices FILE`; towerkit only reads it
    data/prices.toml      what the project's review adds or corrects
    genai-prices          the snapshot that is installed: dated, and pinned with the lock

Simulated models have prices of their own, in `data/prices.toml`, so that budgets work in a
demonstration; every charge made with one is marked simulated.
"""

from __future__ import annotations

import hashlib
import os
import tomllib
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.assets import asset
from towerkit.core.errors import UsageError
from towerkit.core.types import Usage
from towerkit.cost.rates import SPAN_NS, Rates, rates_of
from towerkit.cost.usage import TokenUsage, whole_usage

# Who answers without being paid by the token: the stand-ins of a fallback chain.
FREE = frozenset({"cache", "template", "human"})

FILE_VARIABLE = "TOWERKIT_PRICES"

# What the book calls providers that others name so; genai-prices finds most by themselves.
ALIASES: dict[str, str] = {
    "azure_openai": "azure", "azure-openai": "azure", "azure.ai.openai": "azure",
    "azure.ai.inference": "azure", "gcp.gen_ai": "google", "x_ai": "x-ai", "xai": "x-ai",
    "mistral_ai": "mistral", "moonshot_ai": "moonshotai", "together.ai": "together",
}  # fmt: skip

# What the price keys of a file may be: genai-prices' own names, in USD a million or a thousand.
PRICE_KEYS = (
    "input_mtok", "output_mtok", "cache_read_mtok", "cache_write_mtok", "cache_write_5m_mtok",
    "cache_write_1h_mtok", "cache_audio_read_mtok", "cache_image_read_mtok",
    "output_reasoning_mtok", "input_audio_mtok", "output_audio_mtok", "input_image_mtok",
    "output_image_mtok", "web_searches_kcount", "rerank_searches_kcount", "requests_kcount",
)  # fmt: skip
_TEXT_KEYS = ("provider", "model", "source", "note")


_KEPT = 4096  # rates of as many models and half hours
NOT_WHOLE = "the usage is not whole"
CONTRADICTED = "a part of the usage is above its whole"


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of one charge and where its price comes from; None: an amount without a book."""

    nanousd: int
    ref: str
    date: str | None


class Quote(msgspec.Struct, frozen=True, kw_only=True):
    """A price, or why there is none; with a price, `why` says what it leaves out."""

    price: Price | None = None
    why: str | None = None


class _Entry(msgspec.Struct, frozen=True):
    """One dated price of a file. `model` may end in `*`; `tiers` are (above, changed prices)."""

    provider: str
    model: str
    since: date
    prices: dict[str, Decimal]
    tiers: tuple[tuple[int, dict[str, Decimal]], ...]
    ref: str

    def fits(self, provider: str | None, model: str) -> bool:
        """Say whether this is the price of a model of a provider."""
        wanted, name = self.model.lower(), model.lower()
        same = name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted
        return same and provider == self.provider


class Found(msgspec.Struct, frozen=True):
    """The prices of a model at a time (`genai_prices.types.ModelPrice`), and where they stand.

    `borrowed` is a price of the model's maker for one that somebody else serves: it holds for
    tokens, not for what is billed by the request.
    """

    prices: Any
    ref: str
    borrowed: bool = False


class PriceBook:
    """Prices by provider, model and time."""

    def __init__(self, files: tuple[Path, ...] = ()) -> None:
        """Read the project's additions, and before them `files`, the first above the next.

        Raises `UsageError` naming the file and the entry that cannot be read.
        """
        self._files = files
        self._rates: dict[tuple[str, str | None, int], Rates] = {}
        path = asset("data", "prices.toml")
        own = _tables(path)
        self._simulated = {m["name"]: m for m in own.get("model", ())}
        layers = [_entries(_tables(f), _label(f), f) for f in files]
        self._layers = [*layers, _entries(own, "data/prices.toml", path)]

    @property
    def version(self) -> str:
        """What this book is: its layers, each with what identifies its content."""
        return ", ".join([*map(_label, self._files), "data/prices.toml", _snapshot()])

    def quote(
        self, usage: Usage | TokenUsage, *, model: str | None, provider: str | None,
        at_unix_ns: int, context: Mapping[str, str] | None = None,
    ) -> Quote:  # fmt: skip
        """Return what `usage` of `model` cost at a time, and what is not known of it.

        `context` is what else decides a price: `service_tier` and `speed`, as the provider names
        them. Without a `provider` the owner of the model is taken.
        """
        if provider in FREE:
            return Quote(price=Price(nanousd=0, ref="stand-in", date=None))
        wrong = _wrong(usage)
        if wrong is not None or not model:
            return Quote(why=wrong or "no model is named")
        if provider == "simulated":
            return self._simulated_quote(usage, model)
        if type(usage) is Usage and usage.details is msgspec.UNSET and not context:
            rates = self._rates_at(model, provider, at_unix_ns // SPAN_NS)
            if not rates.exact:
                return _by_rates(rates, usage, at_unix_ns)
        found = self.find(model, provider=provider, at_unix_ns=at_unix_ns, context=context)
        if isinstance(found, str):
            return Quote(why=found)
        return _quoted(found, whole_usage(usage), _moment(at_unix_ns).date())

    def _simulated_quote(self, usage: Usage | TokenUsage, model: str) -> Quote:
        own = self.simulated(model)
        if own is None:
            return Quote(why=f"the simulated model {model} has no price in data/prices.toml")
        cost = (usage.input_tokens or 0) * own[0] + (usage.output_tokens or 0) * own[1]
        return Quote(price=Price(nanousd=cost, ref="data/prices.toml", date=own[2]))

    def _rates_at(self, model: str, provider: str | None, span: int) -> Rates:
        """Return the rates of a model; those of the last spans asked for are kept."""
        key = (model, provider, span)
        rates = self._rates.get(key)
        if rates is None:
            found = self.find(model, provider=provider, at_unix_ns=span * SPAN_NS)
            if isinstance(found, str):
                rates = Rates(why=found)
            else:
                rates = rates_of(found.prices, found.ref)
            if len(self._rates) >= _KEPT:
                self._rates.clear()
            self._rates[key] = rates
        return rates

    def known_as(self, model: str, provider: str | None) -> str:
        """Return the name under which the book knows a model: one for all its dated spellings."""
        from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415

        name = model.removeprefix("models/")
        try:
            _, known = get_snapshot().find_provider_model(name, None, owner_of(provider), None)
        except LookupError:
            return name
        return str(known.id)

    def simulated(self, model: str) -> tuple[int, int, str] | None:
        """Return what a simulated model takes: nano-dollars a token in and out, and since when."""
        own = self._simulated.get(model)
        if own is None:
            return None
        return own["input_nanousd"], own["output_nanousd"], str(own["from"])

    def find(
        self, model: str, *, provider: str | None, at_unix_ns: int,
        context: Mapping[str, str] | None = None,
    ) -> Found | str:  # fmt: skip
        """Return the prices of a model of a real provider at a time, or a sentence why not."""
        moment = _moment(at_unix_ns)
        name, owner = model.removeprefix("models/"), owner_of(provider)
        for layer in self._layers:
            fitting = [e for e in layer if e.fits(owner, name) and e.since <= moment.date()]
            if fitting:
                best = max(fitting, key=lambda e: (e.since, not e.model.endswith("*"), e.model))
                return Found(_model_price(best), best.ref)
        return _of_snapshot(name, provider, owner, moment, context)


def _wrong(usage: Usage | TokenUsage) -> str | None:
    """Say why a usage has no price, whatever the model."""
    given, made = usage.input_tokens, usage.output_tokens
    if given is None or made is None:
        return NOT_WHOLE
    cached = (usage.cache_read_tokens or 0) + (usage.cache_write_tokens or 0)
    return CONTRADICTED if cached > given or (usage.reasoning_tokens or 0) > made else None


def _by_rates(rates: Rates, usage: Usage, at_unix_ns: int) -> Quote:
    if rates.why is not None:
        return Quote(why=rates.why)
    day = _moment(at_unix_ns).date().isoformat()
    return Quote(price=Price(nanousd=rates.nanousd(usage), ref=str(rates.ref), date=day))


def _moment(at_unix_ns: int) -> datetime:
    return datetime.fromtimestamp(at_unix_ns // 1_000_000_000, UTC)


@cache
def _snapshot() -> str:
    import genai_prices  # noqa: PLC0415

    return f"genai-prices {genai_prices.__version__}"


@cache
def owner_of(provider: str | None) -> str | None:
    """Return the book's name of a provider however it is spelled; an unknown one keeps its own."""
    if provider is None:
        return None
    from genai_prices.data_snapshot import (  # noqa: PLC0415  0.4 s that few runs pay
        find_provider_by_id,
        get_snapshot,
    )

    name = ALIASES.get(provider.lower(), provider.lower())
    found = find_provider_by_id(get_snapshot().providers, name)
    return name if found is None else str(found.id)


def _of_snapshot(
    model: str, provider: str | None, owner: str | None, moment: datetime,
    context: Mapping[str, str] | None,
) -> Found | str:  # fmt: skip
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415

    try:
        serves, known = get_snapshot().find_provider_model(model, None, owner, None)
    except LookupError:
        where = "" if provider is None else f" of {provider}"
        return f"no price is known for the model {model}{where}"
    borrowed = not any(m is known for m in serves.models)
    prices = known.get_prices(moment, None if borrowed else dict(context or {}) or None)
    if not any(v is not None for v in vars(prices).values()) and not known.id.endswith(":free"):
        return f"the book lists {known.id} without a price"
    return Found(prices, _snapshot(), borrowed)


def _quoted(found: Found, usage: TokenUsage, day: date) -> Quote:
    left = [n for n in _BY_REQUEST if getattr(usage, n, None)
            and (found.borrowed or getattr(found.prices, f"{n}_kcount", None) is None)]  # fmt: skip
    counts = _tokens(usage, without=left)
    units = sorted(k for k, v in vars(found.prices).items() if v is not None)
    side = _uncounted(units, counts) if units else None
    if side is not None:
        return Quote(why=f"its {side} is not priced by plain tokens: {', '.join(units)}")
    import genai_prices  # noqa: PLC0415

    try:
        total = found.prices.calc_price(genai_prices.Usage(**counts))["total_price"]
    except ValueError as error:
        return Quote(why=f"the price needs a finer count: {error}")
    cost = int((total * 1_000_000_000).to_integral_value(ROUND_HALF_EVEN))
    said = " and ".join(left).replace("_", " ")
    return Quote(
        price=Price(nanousd=cost, ref=found.ref, date=day.isoformat()),
        why=f"without its {said}: no price is known for them" if left else None,
    )


def _uncounted(units: Sequence[str], counts: Mapping[str, int]) -> str | None:
    """Return the side of a usage, input or output, that a model does not price by what is counted.

    Audio by the hour, images by the token: what such a model takes for plain tokens is not known.
    """
    for side in ("input", "output"):
        whole = counts.get(f"{side}_tokens", 0)
        if whole and f"{side}_mtok" not in units:
            parts = (f"{side}_audio", f"{side}_image", f"{side}_reasoning")
            priced = sum(counts.get(f"{p}_tokens", 0) for p in parts if f"{p}_mtok" in units)
            if priced < whole:
                return side
    return None


_BY_REQUEST = ("web_searches", "rerank_searches")


def _tokens(usage: TokenUsage, *, without: Sequence[str]) -> dict[str, int]:
    counts = msgspec.structs.asdict(usage) | dict.fromkeys(without)
    counts["output_reasoning_tokens"] = counts.pop("reasoning_tokens")
    if counts.get("cache_audio_read_tokens") is None and counts.get("input_audio_tokens") == 0:
        counts["cache_audio_read_tokens"] = 0
    return {k: v for k, v in counts.items() if v is not None}


# -- files -----------------------------------------------------------------------------------------


def _tables(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise UsageError(f"cannot read the prices in {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"expected prices as TOML in {path}: {error}") from None


def _label(path: Path) -> str:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    except OSError as error:
        raise UsageError(f"cannot read the prices in {path}: {error.strerror}") from None
    return f"{path.name} {digest}"


def _entries(tables: Mapping[str, Any], ref: str, path: Path) -> tuple[_Entry, ...]:
    rows = tables.get("price", [])
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise UsageError(f"expected [[price]] tables in {path}")
    return tuple(_entry(row, ref, f"{path}, price {n}") for n, row in enumerate(rows, 1))


def _entry(row: Mapping[str, Any], ref: str, where: str) -> _Entry:
    known = {*_TEXT_KEYS, "from", "tiers", *PRICE_KEYS}
    odd = sorted(set(row) - known)
    if odd:
        raise UsageError(f"{where}: unknown {', '.join(odd)}; known are {', '.join(sorted(known))}")
    since = row.get("from")
    if not isinstance(since, date) or not row.get("provider") or not row.get("model"):
        raise UsageError(f"{where}: expected provider, model and from = YYYY-MM-DD")
    since = since.date() if isinstance(since, datetime) else since
    prices = {k: _amount(row[k], f"{where}: {k}") for k in PRICE_KEYS if k in row}
    if not prices:
        raise UsageError(f'{where}: expected a price, such as input_mtok = "2.50"')
    tiers = tuple(sorted((_tier(t, prices, where) for t in row.get("tiers", ())),
                         key=lambda t: t[0]))  # fmt: skip
    provider = str(row["provider"]).lower()
    return _Entry(provider, str(row["model"]), since, prices, tiers, ref)


def _tier(
    tier: Mapping[str, Any], prices: Mapping[str, Decimal], where: str
) -> tuple[int, dict[str, Decimal]]:
    above = tier.get("above")
    if not isinstance(above, int) or set(tier) - {"above", *prices}:
        raise UsageError(
            f'{where}: expected tiers like {{above = 200000, input_mtok = "5"}} that change '
            "prices given above them"
        )
    return above, {k: _amount(v, f"{where}: {k}") for k, v in tier.items() if k != "above"}


def _model_price(entry: _Entry) -> Any:
    from genai_prices.types import ModelPrice, Tier, TieredPrices  # noqa: PLC0415

    prices: dict[str, Any] = dict(entry.prices)
    for key, base in entry.prices.items():
        steps = [Tier(start=above, price=t[key]) for above, t in entry.tiers if key in t]
        if steps:
            prices[key] = TieredPrices(base=base, tiers=steps)
    return ModelPrice(**prices)


def _amount(value: Any, where: str) -> Decimal:
    try:
        amount = Decimal(value) if isinstance(value, str | int) else None
    except InvalidOperation:
        amount = None
    if amount is None or isinstance(value, bool) or not amount.is_finite() or amount < 0:
        raise UsageError(f'{where}: expected dollars as a text such as "2.50", got {value!r}')
    return amount


# -- the default book ------------------------------------------------------------------------------


@cache
def default_book() -> PriceBook:
    """Return the book of this process: with the user's file where `TOWERKIT_PRICES` names one.

    It is read once a process: a run does not change its prices on the way.
    """
    file = os.environ.get(FILE_VARIABLE)
    return PriceBook((Path(file),) if file else ())


def book_with(file: Path | None) -> PriceBook:
    """Return the book with the user's prices in `file`, or the default one without a file."""
    return default_book() if file is None else PriceBook((file,))


def price(
    usage: Usage | TokenUsage, *, model: str, provider: str | None, at_unix_ns: int
) -> Price | None:
    """Return what `usage` of `model` cost at a time, or None when that is not known."""
    return default_book().quote(
        usage, model=model, provider=provider, at_unix_ns=at_unix_ns
    ).price  # fmt: skip

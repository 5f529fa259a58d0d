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
from towerkit.cost.usage import TokenUsage

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
    "cache_write_1h_mtok", "cache_audio_read_mtok", "output_reasoning_mtok", "input_audio_mtok",
    "output_audio_mtok", "input_image_mtok", "output_image_mtok", "web_searches_kcount",
    "rerank_searches_kcount", "requests_kcount",
)  # fmt: skip
_TEXT_KEYS = ("provider", "model", "source", "note")


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
    """One dated price of a file. `model` may end in `*`."""

    provider: str
    model: str
    since: date
    price: Any  # genai_prices.types.ModelPrice
    ref: str

    def fits(self, provider: str, model: str) -> bool:
        wanted, name = self.model.lower(), model.lower()
        same = name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted
        return same and provider.lower() == self.provider.lower()


class PriceBook:
    """Prices by provider, model and time."""

    def __init__(self, files: tuple[Path, ...] = ()) -> None:
        """Read the project's additions, and before them `files`, the first above the next.

        Raises `UsageError` naming the file and the entry that cannot be read.
        """
        self._files = files
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
        if usage.input_tokens is None or usage.output_tokens is None:
            return Quote(why="the usage is not whole")
        if not model:
            return Quote(why="no model is named")
        if provider == "simulated":
            return self._simulated_quote(usage, model)
        found, ref, why = self._found(model, provider, at_unix_ns)
        if found is None:
            return Quote(why=why)
        moment = _moment(at_unix_ns)
        return _quoted(found, usage, context or {}, moment, ref)

    def _simulated_quote(self, usage: Usage | TokenUsage, model: str) -> Quote:
        own = self._simulated.get(model)
        if own is None:
            return Quote(why=f"the simulated model {model} has no price in data/prices.toml")
        cost = (usage.input_tokens or 0) * own["input_nanousd"]
        cost += (usage.output_tokens or 0) * own["output_nanousd"]
        return Quote(price=Price(nanousd=cost, ref="data/prices.toml", date=str(own["from"])))

    def _found(self, model: str, provider: str | None, at_unix_ns: int) -> tuple[Any, str, str]:
        """Return what prices the model (an entry's, or a model of the snapshot), or why not."""
        day = _moment(at_unix_ns).date()
        for layer in self._layers:
            fitting = [e for e in layer if e.fits(provider or "", model) and e.since <= day]
            if fitting:
                best = max(fitting, key=lambda e: (e.since, not e.model.endswith("*"), e.model))
                return best.price, best.ref, ""
        return _snapshot_model(model, provider)


def _moment(at_unix_ns: int) -> datetime:
    return datetime.fromtimestamp(at_unix_ns // 1_000_000_000, UTC)


@cache
def _snapshot() -> str:
    import genai_prices  # noqa: PLC0415

    return f"genai-prices {genai_prices.__version__}"


@cache
def _snapshot_model(model: str, provider: str | None) -> tuple[Any, str, str]:
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415  0.4 s that few runs pay

    owner = None if provider is None else ALIASES.get(provider.lower(), provider)
    try:
        return get_snapshot().find_provider_model(model, None, owner, None), _snapshot(), ""
    except LookupError:
        where = "" if provider is None else f" of {provider}"
        return None, "", f"no price is known for the model {model}{where}"


def _quoted(
    found: Any, usage: Usage | TokenUsage, context: Mapping[str, str], moment: datetime, ref: str
) -> Quote:
    from genai_prices.types import ModelPrice  # noqa: PLC0415

    if isinstance(found, ModelPrice):
        prices, borrowed, name = found, False, ""
    else:
        owner, model = found
        # What a provider serves of another's models costs the other's price by the token; what the
        # other bills by the request is its own service.
        borrowed, name = not any(m is model for m in owner.models), model.id
        prices = model.get_prices(moment, None if borrowed else dict(context) or None)
        if not _priced(prices) and not name.endswith(":free"):
            return Quote(why=f"the book lists {name} without a price")
    left = [n for n in _BY_REQUEST if getattr(usage, n, None)
            and (borrowed or getattr(prices, f"{n}_kcount", None) is None)]  # fmt: skip
    try:
        total = prices.calc_price(_tokens(usage, without=left))["total_price"]
    except ValueError as error:
        return Quote(why=f"the price needs a finer count: {error}")
    cost = int((total * 1_000_000_000).to_integral_value(ROUND_HALF_EVEN))
    made = Price(nanousd=cost, ref=ref, date=moment.date().isoformat())
    said = " and ".join(left).replace("_", " ")
    return Quote(
        price=made, why=f"without its {said}: no price is known for them" if left else None
    )


_BY_REQUEST = ("web_searches", "rerank_searches")


def _priced(prices: Any) -> bool:
    return any(v is not None for v in vars(prices).values())


def _tokens(usage: Usage | TokenUsage, without: Sequence[str]) -> Any:
    import genai_prices  # noqa: PLC0415

    counts = msgspec.structs.asdict(usage) | dict.fromkeys(without)
    counts["output_reasoning_tokens"] = counts.pop("reasoning_tokens")
    if counts.get("cache_audio_read_tokens") is None and counts.get("input_audio_tokens") == 0:
        counts["cache_audio_read_tokens"] = 0
    return genai_prices.Usage(**{k: v for k, v in counts.items() if v is not None})


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
    return _Entry(str(row["provider"]), str(row["model"]), since, _model_price(row, where), ref)


def _model_price(row: Mapping[str, Any], where: str) -> Any:
    from genai_prices.types import ModelPrice, Tier, TieredPrices  # noqa: PLC0415

    base = {k: _amount(row[k], f"{where}: {k}") for k in PRICE_KEYS if k in row}
    if not base:
        raise UsageError(f'{where}: expected a price, such as input_mtok = "2.50"')
    prices: dict[str, Any] = dict(base)
    for tier in sorted(row.get("tiers", ()), key=lambda t: t.get("above", 0)):
        above = tier.get("above")
        if not isinstance(above, int) or set(tier) - {"above", *base}:
            raise UsageError(
                f'{where}: expected tiers like {{above = 200000, input_mtok = "5"}} that change '
                "prices given above them"
            )
        for key in set(tier) - {"above"}:
            step = Tier(start=above, price=_amount(tier[key], f"{where}: {key}"))
            at = prices[key]
            steps = [*(at.tiers if isinstance(at, TieredPrices) else []), step]
            prices[key] = TieredPrices(base=base[key], tiers=steps)
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
def _book(file: str | None) -> PriceBook:
    return PriceBook((Path(file),) if file else ())


def default_book() -> PriceBook:
    """Return the book of this process: with the user's file where `TOWERKIT_PRICES` names one."""
    return _book(os.environ.get(FILE_VARIABLE) or None)


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

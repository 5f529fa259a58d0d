"""A provider's invoice as a frame: the CSV exports of OpenAI and Anthropic, and plain ones.

Rule: a column is known by its name, and the table below is all there is to it; what is named
otherwise is said with `--columns`. A file that has no day, or neither money nor tokens, is refused
with the columns it has. Nothing is dropped: lines are summed by day, model and key.

Dollars are read as decimals, never as floats. `places` is how many digits the invoice prints, which
is what its rounding can explain.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation

import msgspec

from towerkit.core.errors import UsageError

# What a field may be called, in lower case. The first that a file has is taken; `tokens` are the
# classes of an input that is split into several columns, and are added up.
COLUMNS: dict[str, tuple[str, ...]] = {
    "day": ("day", "date", "usage_date_utc", "usage_date", "start_time_iso", "start_time",
            "timestamp"),
    "model": ("model", "model_version", "line_item", "snapshot_id"),
    "key": ("key", "api_key", "api_key_name", "api_key_id", "project_name", "workspace"),
    "cost_usd": ("cost_usd", "cost", "amount_value", "amount_usd", "amount", "usd"),
    "currency": ("amount_currency", "currency"),
    "requests": ("requests", "num_model_requests", "n_requests", "request_count"),
    "input_tokens": ("input_tokens", "n_context_tokens_total", "prompt_tokens"),
    "output_tokens": ("output_tokens", "usage_output_tokens", "n_generated_tokens_total",
                      "completion_tokens"),
    "cache_read_tokens": ("cache_read_tokens", "input_cached_tokens",
                          "usage_input_tokens_cache_read", "cached_tokens"),
    "cache_write_tokens": ("cache_write_tokens",),
}  # fmt: skip
# Anthropic's usage export counts the parts of the input, each in a column of its own.
PARTS: dict[str, tuple[str, ...]] = {
    "input_tokens": ("usage_input_tokens_no_cache", "usage_input_tokens_cache_read",
                     "usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write_1h"),
    "cache_write_tokens": ("usage_input_tokens_cache_write_5m",
                           "usage_input_tokens_cache_write_1h"),
}  # fmt: skip
COUNTS = ("requests", "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """What an invoice says of one day, model and key. None is not said."""

    day: date
    model: str | None
    key: str | None
    lines: int
    cost_usd: Decimal | None
    places: int
    counts: dict[str, int]


def read_invoice(
    text: str, *, columns: Mapping[str, str] | None = None, name: str = "invoice"
) -> list[Line]:
    """Return the lines of an invoice, summed by day, model and key, in that order.

    `columns` names columns that the table does not, by field. Raises `UsageError` naming the file,
    and the line and column, of what cannot be read.
    """
    rows = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    header = {h.strip().lower(): h for h in rows.fieldnames or ()}
    where = _where(header, columns or {}, name)
    groups: dict[tuple[date, str | None, str | None], list[dict[str, str]]] = defaultdict(list)
    numbers: dict[int, int] = {}
    for number, row in enumerate(rows, 2):
        if not any(isinstance(v, str) and v.strip() for v in row.values()):
            continue
        day = _day(row[where["day"][0]], f"{name}, line {number}, {where['day'][0]}")
        model = _model(_word(row, where.get("model")))
        groups[day, model, _word(row, where.get("key"))].append(row)
        numbers[id(row)] = number
    order = sorted(groups, key=lambda k: (k[0], k[1] or "", k[2] or ""))
    return [_line(key, groups[key], where, name, numbers) for key in order]


def _where(
    header: Mapping[str, str], columns: Mapping[str, str], name: str
) -> dict[str, tuple[str, ...]]:
    odd = sorted(set(columns) - set(COLUMNS))
    if odd:
        raise UsageError(f"no field {', '.join(odd)}; an invoice has {', '.join(COLUMNS)}")
    where: dict[str, tuple[str, ...]] = {}
    for field, names in COLUMNS.items():
        wanted = (columns[field].strip().lower(),) if field in columns else names
        found = next((header[n] for n in wanted if n in header), None)
        parts = tuple(header[n] for n in PARTS.get(field, ()) if n in header)
        if found is not None:
            where[field] = (found,)
        elif field in columns:
            raise UsageError(f"{name}: has no column {columns[field]}; it has {_listed(header)}")
        elif parts:
            where[field] = parts
    if "day" not in where or not {"cost_usd", "input_tokens", "output_tokens"} & set(where):
        raise UsageError(
            f"{name}: expected a column for the day and one for dollars or tokens, such as date "
            f"and cost_usd; it has {_listed(header)}. Name them with --columns day=…,cost_usd=…"
        )
    return where


def _listed(header: Mapping[str, str]) -> str:
    return ", ".join(list(header.values())[:20]) or "none"


def _word(row: Mapping[str, str], names: tuple[str, ...] | None) -> str | None:
    value = row.get(names[0]) if names else None
    return value.strip() or None if isinstance(value, str) else None


def _model(text: str | None) -> str | None:
    """Return the model of a line: OpenAI's says what of it is billed after a comma."""
    return None if text is None else text.partition(",")[0].strip() or None


def _day(text: str, where: str) -> date:
    value = (text or "").strip()
    try:
        if value.isdigit() and len(value) >= 9:
            return datetime.fromtimestamp(int(value), UTC).date()
        moment = datetime.fromisoformat(value)
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"{where}: expected a day such as 2026-11-28, got {value!r}") from None
    return (moment.astimezone(UTC) if moment.tzinfo else moment).date()


def _line(
    key: tuple[date, str | None, str | None], rows: list[dict[str, str]],
    where: Mapping[str, tuple[str, ...]], name: str, numbers: Mapping[int, int],
) -> Line:  # fmt: skip
    def decimals(columns: Iterable[str]) -> list[Decimal]:
        found = (
            _decimal(row.get(c), f"{name}, line {numbers[id(row)]}, {c}")
            for row in rows for c in columns
        )  # fmt: skip
        return [d for d in found if d is not None]

    for row in rows:
        currency = _word(row, where.get("currency"))
        if currency is not None and currency.lower() not in {"usd", "$"}:
            raise UsageError(
                f"{name}, line {numbers[id(row)]}: expected dollars, got an amount in {currency}"
            )
    dollars = decimals(where.get("cost_usd", ()))
    counts = {f: found for f in COUNTS if (found := decimals(where.get(f, ())))}
    return Line(
        day=key[0], model=key[1], key=key[2], lines=len(rows),
        cost_usd=sum(dollars, Decimal(0)) if dollars else None,
        places=max((-int(d.as_tuple().exponent) for d in dollars), default=0),
        counts={f: int(sum(found)) for f, found in counts.items()},
    )  # fmt: skip


def _decimal(text: str | None, where: str) -> Decimal | None:
    value = (text or "").strip().removeprefix("$").replace(",", "")
    if not value:
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise UsageError(f"{where}: expected a number, got {text!r}")
    return number

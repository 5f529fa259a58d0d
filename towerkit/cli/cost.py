"""`towerkit cost`: what answers, runs and invoices cost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from towerkit.cli.base import (
    answer_lines,
    cli,
    emit,
    json_option,
    open_store,
    read_text,
    say,
    store_option,
)
from towerkit.cost.ledger import usd
from towerkit.privacy.safe_text import safe_text

if TYPE_CHECKING:
    from towerkit.cost.reconcile import Row

prices_option = click.option(
    "--prices", metavar="FILE", type=click.Path(path_type=Path),
    help="Prices of your own, above the book's. Default: the file TOWERKIT_PRICES names.",
)  # fmt: skip


@cli.group()
def cost() -> None:
    """Price answers, price stored runs again, compare with an invoice."""


@cost.command("price")
@prices_option
def cost_price(prices: Path | None) -> None:
    """Price answers: JSON lines in, JSON lines out.

    Each line is {"provider", "model", "body", "at", "api"}: body is an answer, its usage part, or
    the text of a stream; at (ISO or seconds) and api (chat, responses, …) may be absent. It is
    answered {"usage", "cost_nanousd", "why", …}; what is not known is null, with the reason. A line
    that is not as expected is answered {"error": …}, and the exit code is then 2.
    """
    from towerkit.core.env import SystemEnv
    from towerkit.cost.line import price_line
    from towerkit.cost.prices import book_with

    book, now = book_with(prices), SystemEnv().wall_ns()
    answer_lines(lambda line: price_line(line, book=book, now_unix_ns=now))


@cost.command("show")
@click.argument("selection", default="", metavar="[SELECTION]")
@click.option(
    "--by", type=click.Choice(["model", "tool", "release", "tenant", "scenario", "day", "purpose"]),
    default="model", show_default=True, help="What to group by.",
)  # fmt: skip
@store_option
@json_option
def cost_show(selection: str, by: str, store: str | None, as_json: bool) -> None:
    """Show what stored runs cost: a line a group, then what was paid for nothing."""
    from towerkit.cost.views import total, waste
    from towerkit.packs.charges import charges

    frame = charges(open_store(store).select(selection))
    groups, sums, lost = total(frame, by), total(frame), waste(frame)
    if as_json:
        emit({"by": by, "groups": groups.to_dicts(), "total": sums.to_dicts()[0],
              "waste": lost.to_dicts(), "simulated": bool(frame["simulated"].any())})  # fmt: skip
        return
    for row in groups.to_dicts():
        say(f"{safe_text(str(row[by]), limit=40):<40} {_sum(row)}")
    say(f"{'total':<40} {_sum(sums.to_dicts()[0])}")
    for row in (r for r in lost.to_dicts() if r["charges"]):
        say(f"[waste] {row['waste']}: {row['charges']} charges, "
                   f"{_amount(row['known_nanousd'], row['unknown_charges'])}")  # fmt: skip


@cost.command("reprice")
@click.argument("selection", default="", metavar="[SELECTION]")
@click.option("--as-of", required=True, metavar="DATE", help="The day whose prices to take, ISO.")
@prices_option
@store_option
@json_option
def cost_reprice(
    selection: str, as_of: str, prices: Path | None, store: str | None, as_json: bool
) -> None:
    """Price stored runs again, at the prices of another day. No pack is touched."""
    from towerkit.cost.prices import book_with
    from towerkit.cost.repricing import reprice
    from towerkit.packs.charges import charges
    from towerkit.packs.selection import parse_time

    at, book = parse_time("--as-of", as_of), book_with(prices)
    whole, models = reprice(charges(open_store(store).select(selection)), book=book, at_unix_ns=at)
    if as_json:
        emit({"as_of": as_of, "book": book.version, "total": whole, "models": models})
        return
    for row in (*models, whole):
        name = "total" if row is whole else safe_text(f"{row.provider}/{row.model}", limit=48)
        recorded = _amount(row.known_recorded_nanousd, row.unknown_recorded)
        repriced = _amount(row.known_repriced_nanousd, row.unknown_repriced)
        say(f"{name:<48} {row.charges} charges  recorded {recorded}  repriced {repriced}")
        for why in row.why if row is not whole else ():
            say(f"  {safe_text(why, limit=200)}")
    if whole.differing:
        say(f"{whole.differing} charges were recorded at other prices than this book's for "
                   "their own day")  # fmt: skip
    say(f"prices as of {as_of}: {book.version}")


@cost.command("reconcile")
@click.argument("invoice", metavar="INVOICE.csv", type=click.Path(path_type=Path))
@click.argument("selection", default="", metavar="[SELECTION]")
@click.option("--provider", metavar="NAME", help="Whose invoice it is. Default: everybody's.")
@click.option(
    "--key-from", type=click.Choice(["key", "tenant", "service", "release", "scenario"]),
    help="What of a run's identity stands for the provider's keys. Default: keys are added up.",
)  # fmt: skip
@click.option(
    "--columns", metavar="FIELD=NAME,…", default="",
    help="Columns that are named otherwise than OpenAI's and Anthropic's exports.",
)  # fmt: skip
@prices_option
@store_option
@json_option
def cost_reconcile(
    invoice: Path, selection: str, provider: str | None, key_from: str | None, columns: str,
    prices: Path | None, store: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Compare the ledger with a provider's invoice, by day, model and key.

    Exit code 0 when every difference is rounding, 4 when one is not. docs/cost.md has the columns
    and what the differences are called.
    """
    from towerkit.cost.invoice import read_invoice
    from towerkit.cost.prices import book_with
    from towerkit.cost.reconcile import agrees, reconcile
    from towerkit.packs.charges import charges

    lines = read_invoice(read_text(invoice), columns=_columns(columns), name=invoice.name)
    frame = charges(open_store(store).select(selection))
    rows = reconcile(lines, frame, book=book_with(prices), provider=provider, key_from=key_from)
    fine = agrees(rows)
    if as_json:
        emit({"agrees": fine, "rows": rows})
    else:
        for row in rows:
            say(_reconciled(row))
        say(f"[reconcile] {'agrees' if fine else 'differs'}: {len(rows)} rows")
    if not fine:
        sys.exit(4)


def _columns(text: str) -> dict[str, str]:
    from towerkit.core.errors import UsageError

    parts = [p.partition("=") for p in text.split(",") if p.strip()]
    if not all(found and name.strip() and field.strip() for field, found, name in parts):
        raise UsageError(f"expected --columns like day=Date,cost_usd=Total, got {text!r}")
    return {field.strip(): name.strip() for field, _, name in parts}


def _reconciled(row: Row) -> str:
    key = "" if row.key is None else f" key={safe_text(row.key, limit=40)}"
    billed = "unknown" if row.invoice_nanousd is None else usd(row.invoice_nanousd)
    ours = "nothing" if row.ledger_nanousd is None else usd(row.ledger_nanousd)
    unknown = f" + {row.unknown_charges} unknown" if row.unknown_charges else ""
    parts = ", ".join(f"{p.cause} {_signed(p.nanousd)}" for p in row.parts) or "agrees"
    name = safe_text(str(row.model), limit=40)
    return f"{row.day} {name}{key}: invoice {billed}, ledger {ours}{unknown}: {parts}"


def _signed(nanousd: int) -> str:
    return f"{'-' if nanousd < 0 else '+'}{usd(abs(nanousd))}"


def _sum(row: dict[str, Any]) -> str:
    cost = _amount(row["known_nanousd"], row["unknown_charges"])
    return f"{row['charges']} charges  {cost}"


def _amount(known: int, unknown: int) -> str:
    """Return an amount; where charges are unknown, that, and what is known."""
    return f"unknown ({usd(known)} and {unknown} unknown charges)" if unknown else usd(known)

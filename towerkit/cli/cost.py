"""`towerkit cost`: what answers, runs and invoices cost."""

from __future__ import annotations

from pathlib import Path

import click

from towerkit.cli.base import answer_lines, cli

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

"""`towerkit errors`: what an error is and what to do about it."""

from __future__ import annotations

import click

from towerkit.cli.base import answer_lines, cli, emit, json_option, say


@cli.group()
def errors() -> None:
    """Say what an error is, what happens then and who has to mend it."""


@errors.command("ls")
@click.option("--markdown", is_flag=True, help="Print docs/errors.md.")
@json_option
def errors_ls(markdown: bool, as_json: bool) -> None:
    """List the error classes, one line each."""
    from towerkit.reliability.explain import describe, errors_page
    from towerkit.reliability.taxonomy import TAXONOMY

    if markdown:
        say(errors_page(), end="")
    elif as_json:
        emit([describe(row) for row in TAXONOMY.values()])
    else:
        for row in TAXONOMY.values():
            say(f"{row.name:<21} {row.family:<14} {row.summary}")


@errors.command("show")
@click.argument("name", metavar="CLASS")
@json_option
def errors_show(name: str, as_json: bool) -> None:
    """Show what the tower does about one error class."""
    from towerkit.reliability.explain import describe, row_lines
    from towerkit.reliability.taxonomy import error_class

    row = error_class(name)
    if as_json:
        emit(describe(row))
    else:
        say("\n".join(row_lines(row)))


@errors.command("explain")
def errors_explain() -> None:
    """Explain errors from a log: JSON lines in, JSON lines out.

    Each line is {"provider", "http_status", "raw"}; raw is the body, or the exception's text as a
    log has it. A line that is not is answered {"error": …}, and the exit code is then 2.
    """
    from towerkit.reliability.explain import explain_line

    answer_lines(explain_line)

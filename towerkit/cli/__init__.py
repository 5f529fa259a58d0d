"""The command line: thin commands over the library.

Rule: text, JSON and exit code come from one result object. 0 PASS (or done), 3 HOLD, 4 FAIL (or
diverged); 2 is a usage error and 1 means that the tool broke and there is no verdict.

Commands import what they need when they run, so that `towerkit --help` stays fast.
"""

from __future__ import annotations

import logging
import os
import sys

import click

from towerkit.cli import (  # noqa: F401  they hang their commands on it
    cost,
    errors,
    evidence,
    integrity,
    lake,
    packs,
    privacy,
    replay,
    runs,
    whatif,
)
from towerkit.cli.base import cli, complain, say
from towerkit.core.errors import TowerError


def main() -> None:
    """Run the command line: one sentence and the right exit code for whatever goes wrong."""
    # What the library would log when nobody listens, the commands say themselves.
    logging.getLogger("towerkit").addHandler(logging.NullHandler())
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        _fail("interrupted: what was stored is whole, run the command again to go on", 130)
    except click.ClickException as error:
        say(_usage(error), err=True)
        sys.exit(2)
    except TowerError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:
        _drop_output()
        sys.exit(1)
    except OSError as error:
        _drop_output()
        _fail(f"cannot go on: {error.strerror or error} ({error.filename or 'output'})", 1)
    except Exception as error:
        if os.environ.get("TOWERKIT_DEBUG"):
            raise
        _fail(
            f"internal error, {type(error).__name__}: {error}; set TOWERKIT_DEBUG=1 for the "
            "traceback and report it",
            1,
        )


def _usage(error: click.ClickException) -> str:
    """Return what click says of a wrong command, and how the right one is called."""
    context = getattr(error, "ctx", None)
    usage = "" if context is None else f"{context.get_usage()}\n\n"
    return f"{usage}Error: {error.format_message()}"


def _drop_output() -> None:
    """Send what is still buffered nowhere: the interpreter would fail on it again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(sentence: str, code: int) -> None:
    complain(f"towerkit: {sentence}", limit=1200)
    sys.exit(code)

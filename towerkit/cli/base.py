"""What the commands share: the group they hang on, their common options, how they answer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from towerkit import __version__
from towerkit.core.errors import TowerError, UsageError
from towerkit.privacy.safe_text import clean, json_text, safe_text

if TYPE_CHECKING:
    from towerkit.packs.store import Store

store_option = click.option(
    "--store", metavar="DIR", help="The store. Default: TOWERKIT_STORE, else ./towerkit-store."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
scenario_option = click.option(
    "--scenario", required=True, metavar="NAME", help="Which complete agent to run."
)
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True,
    help="Seed of the simulated model, clock and jitter.",
)  # fmt: skip


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="towerkit")
def cli() -> None:
    """Operate LLM agents under production controls: reliability, telemetry, cost, gates.

    A SELECTION is release=NAME, scenario=NAME, run_id=ID, eval=ID, since=TIME, until=TIME, joined
    by commas. Exit codes: 0 PASS, 3 HOLD, 4 FAIL, 2 usage error, 1 the tool broke.
    """


def say(text: str, *, err: bool = False, end: str = "\n") -> None:
    """Print lines: what a terminal would take for a command, and what hides text, is not in them.

    Text from outside goes through `safe_text` as well, so that it stays on one line. What goes to
    standard error is redacted: it repeats what a file or an argument says, and ends in logs.
    """
    click.echo((redacted(clean(text)) if err else clean(text)) + end, err=err, nl=False)


def complain(sentence: str, *, limit: int = 600) -> None:
    """Print one line on standard error; redacted before it is cut, so that no half stays."""
    say(safe_text(redacted(sentence), limit=limit), err=True)


def emit(value: Any) -> None:
    """Print one JSON object on a line of its own, its strings redacted, its numbers as they are."""
    shown = _strings_redacted(msgspec.to_builtins(value))
    click.echo(json_text(msgspec.json.encode(shown).decode()))


def redacted(text: str) -> str:
    """Return what may be said of a text from outside that is in no pack."""
    from towerkit.privacy.keys import log_redactor

    return log_redactor().text(text, alone=False)


def _strings_redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, dict):
        return {_strings_redacted(k): _strings_redacted(v) for k, v in value.items()}
    return [_strings_redacted(v) for v in value] if isinstance(value, list | tuple) else value


def open_store(path: str | None) -> Store:
    """Return the store of `--store`, or the default one, with its lake where it has one."""
    from towerkit.lake import open_store
    from towerkit.runtime.tower import default_store

    return open_store(default_store() if path is None else Path(path))


def progress(title: str) -> tuple[Callable[[int, int], None] | None, Callable[[], None]]:
    """Return a progress callback and its close; nothing when standard error is not a terminal."""
    if not sys.stderr.isatty():
        return None, lambda: None
    from tqdm import tqdm

    bar = tqdm(desc=title, unit="run", leave=False)

    def update(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return update, bar.close


def read_text(path: Path) -> str:
    """Return the text of a file the user named."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None


def answer_lines(answer: Callable[[bytes], tuple[Any, bool]]) -> None:
    """Answer JSON lines on standard input, line by line; exit 2 when one was not as expected."""
    good = True
    for line in sys.stdin.buffer:
        said, fine = answer(line)
        good = good and fine
        emit(said)
    if not good:
        sys.exit(2)


def verdict_of(result: Any) -> dict[str, Any]:
    """Return the verdict a gate notebook left."""
    if not isinstance(result, dict) or result.get("verdict") not in {"PASS", "HOLD", "FAIL"}:
        raise TowerError("the gate notebook left no verdict: that is a HOLD without a reason")
    return result


def leave_with(verdict: dict[str, Any]) -> None:
    """Exit with the code of a verdict."""
    from towerkit.gate import EXIT_CODES

    sys.exit(EXIT_CODES[verdict["verdict"]])

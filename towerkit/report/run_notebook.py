"""From a notebook's name to its page and its result.

Rule: the result is what the notebook wrote in this very run. An old result file is removed before
the run, so that a notebook that ended without a result has none.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.assets import asset
from towerkit.core.errors import NotebookError, UsageError
from towerkit.report.parameters import from_text, parameters_of
from towerkit.report.runner import execute, write_text

RESULT_PARAMETER = "result_path"


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What one execution left: the page, the executed copy, and the result object if it has one."""

    html: Path
    notebook: Path
    result: dict[str, Any] | None


def run_notebook(
    name: str,
    parameters: Mapping[str, Any],
    *,
    out_dir: Path,
    stem: str | None = None,
    timeout_s: float = 600,
) -> Report:
    """Execute `notebooks/NAME.ipynb` strictly into `out_dir/STEM.{ipynb,html,json}`.

    A value given as text is read as the parameter's declared type, as from a command line. Raises
    `UsageError` for an unknown notebook or parameter, `NotebookError` when it did not run to its
    end.
    """
    from towerkit.report.html import write_html  # noqa: PLC0415  a kernel imports us without it

    if not name.isidentifier():
        raise UsageError(f"expected the name of a notebook, such as gate, got {name!r}")
    notebook = asset("notebooks", f"{name}.ipynb")
    stem = stem or name
    values = from_text(notebook, parameters)
    result_path = out_dir.resolve() / f"{stem}.json"
    _remove(result_path)
    if RESULT_PARAMETER in parameters_of(notebook):
        values.setdefault(RESULT_PARAMETER, str(result_path))
        result_path = Path(values[RESULT_PARAMETER] or result_path)
    done = execute(notebook, values, output=out_dir / f"{stem}.ipynb", timeout_s=timeout_s)
    page = write_html(done.path, out_dir / f"{stem}.html")
    return Report(html=page, notebook=done.path, result=_result(result_path))


def write_result(path: str, result: Any) -> None:
    """Write a notebook's result object as JSON to `path`; do nothing when `path` is empty."""
    if path:
        text = msgspec.json.format(msgspec.json.encode(result, order="deterministic"), indent=2)
        write_text(Path(path), text.decode() + "\n")


def _remove(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    except OSError as error:
        raise NotebookError(f"cannot write {path}: {error.strerror}") from error


def _result(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise NotebookError(f"the notebook's result {path} is not a JSON object") from error

"""What a notebook may be given: read from its one `parameters` cell, without running it.

Rule: the cell is data. It holds annotated names with literal defaults and nothing else, it is read
with `ast`, and a value reaches the kernel as JSON in a file, never as source text.
"""

from __future__ import annotations

import ast
import json
import keyword
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.errors import NotebookError, UsageError

PARAMETERS_TAG = "parameters"
FILE_VARIABLE = "TOWERKIT_PARAMETERS_FILE"

_TYPES = {"str": str, "int": int, "float": float, "bool": bool, "None": type(None)}


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """One parameter: its name, the types it takes, and its default."""

    name: str
    types: tuple[str, ...]
    default: str | int | float | bool | None


def read_notebook(path: Path) -> dict[str, Any]:
    """Return a notebook's JSON; raise `NotebookError` naming the file when it is not one."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise NotebookError(f"cannot read notebook {path}: {error.strerror}") from error
    except ValueError:
        raise NotebookError(f"{path} is not a notebook: it is not JSON") from None
    cells = document.get("cells") if isinstance(document, dict) else None
    if not isinstance(cells, list) or document.get("nbformat") != 4:
        raise NotebookError(f"{path} is not a notebook of format 4")
    notebook: dict[str, Any] = document
    return notebook


def source_of(cell: Mapping[str, Any]) -> str:
    """Return a cell's source as one text."""
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def tags_of(cell: Mapping[str, Any]) -> list[str]:
    """Return a cell's tags."""
    return list(cell.get("metadata", {}).get("tags", []))


def parameters_cell(document: Mapping[str, Any], *, name: str) -> int:
    """Return the index of the one cell tagged `parameters`."""
    found = [
        i
        for i, c in enumerate(document["cells"])
        if c.get("cell_type") == "code" and PARAMETERS_TAG in tags_of(c)
    ]
    if len(found) != 1:
        raise NotebookError(
            f"{name}: expected one code cell tagged `{PARAMETERS_TAG}`, got {len(found)}: tag the "
            "cell that holds the defaults"
        )
    return found[0]


def parameters_of(notebook: Path) -> dict[str, Parameter]:
    """Return the parameters of `notebook` by name."""
    document = read_notebook(notebook)
    cell = document["cells"][parameters_cell(document, name=notebook.name)]
    try:
        tree = ast.parse(source_of(cell))
    except SyntaxError as error:
        raise NotebookError(f"{notebook.name}: its parameters cell is no Python: {error}") from None
    return {p.name: p for p in (_parameter(node, notebook.name) for node in tree.body)}


def _parameter(node: ast.stmt, notebook: str) -> Parameter:
    if (
        isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and isinstance(node.value, ast.Constant | ast.UnaryOp)
    ):
        types = tuple(part.strip() for part in ast.unparse(node.annotation).split("|"))
        if set(types) <= set(_TYPES):
            try:
                parameter = Parameter(
                    name=node.target.id, types=types, default=ast.literal_eval(node.value)
                )
            except ValueError:
                parameter = None
            if parameter is not None and _fits(parameter, parameter.default):
                return parameter
    raise NotebookError(
        f'{notebook}: expected lines like `name: str = "default"` in its parameters cell (types '
        f"{', '.join(_TYPES)}), got {ast.unparse(node)!r}"
    )


def _fits(parameter: Parameter, value: Any) -> bool:
    name = "None" if value is None else type(value).__name__
    if name == "float" and not math.isfinite(value):
        return False
    return name in parameter.types or (name == "int" and "float" in parameter.types)


def check_parameters(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return every parameter's value, `given` or default; raise `UsageError` for what is wrong.

    Refused: a name that is not a Python name, a name the notebook does not know, a value of another
    type than declared, and numbers that are not finite.
    """
    known = parameters_of(notebook)
    for name, value in given.items():
        parameter = _known(name, known, notebook)
        if not _fits(parameter, value):
            raise UsageError(
                f"{notebook.name}: expected parameter {name} as {' | '.join(parameter.types)}, "
                f"got {type(value).__name__}"
            )
    return {p.name: given.get(p.name, p.default) for p in known.values()}


def _known(name: Any, known: Mapping[str, Parameter], notebook: Path) -> Parameter:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise UsageError(f"{notebook.name}: expected a Python name as parameter, got {name!r}")
    if name not in known:
        raise UsageError(
            f"{notebook.name} has no parameter {name!r}; it has: {', '.join(known) or 'none'}"
        )
    return known[name]


def from_text(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return `given` with text read as its parameter's declared type, as from a command line.

    Raises `UsageError` for a name the notebook does not know and for text that is no such value.
    """
    known = parameters_of(notebook)
    return {
        name: _parse(_known(name, known, notebook), value) if isinstance(value, str) else value
        for name, value in given.items()
    }


def _parse(parameter: Parameter, text: str) -> Any:
    for kind in ("None", "bool", "int", "float", "str"):
        if kind in parameter.types:
            try:
                value = _READERS[kind](text)
            except (ValueError, KeyError):
                continue
            if _fits(parameter, value):
                return value
    raise UsageError(
        f"expected parameter {parameter.name} as {' | '.join(parameter.types)}, got {text!r}"
    )


_READERS: dict[str, Any] = {
    "None": {"": None, "none": None}.__getitem__,
    "bool": {"true": True, "false": False}.__getitem__,
    "int": int,
    "float": float,
    "str": str,
}


def load_parameters() -> dict[str, Any]:
    """Return the values the runner left for this kernel. The runner's injected cell calls this."""
    path = os.environ.get(FILE_VARIABLE)
    if path is None:
        raise NotebookError(f"no parameters here: {FILE_VARIABLE} is set by the strict runner only")
    values: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return values

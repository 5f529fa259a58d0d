"""Make small notebooks, for the tests of the runner and of the page."""

from __future__ import annotations

import json
from pathlib import Path

PARAMETERS = 'count: int = 1\nname: str = "a"\nshare: float = 0.5\nfast: bool = False'


def notebook(
    path: Path,
    *cells: str,
    parameters: str | None = PARAMETERS,
    outputs: list | None = None,
    title: str = "# A question",
) -> Path:
    """Write a notebook of `cells` to `path`; the last cell holds `outputs`."""
    made = [{"cell_type": "markdown", "id": "title", "metadata": {}, "source": title}]
    if parameters is not None:
        made.append(_code("parameters", parameters, tags=["parameters"]))
    made += [_code(f"cell-{i}", source) for i, source in enumerate(cells)]
    if outputs is not None:
        made[-1] |= {"outputs": outputs, "execution_count": 1}
    document = {"cells": made, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def _code(name: str, source: str, *, tags: list[str] | None = None) -> dict:
    return {
        "cell_type": "code",
        "id": name,
        "metadata": {"tags": tags or []},
        "outputs": [],
        "execution_count": None,
        "source": source,
    }

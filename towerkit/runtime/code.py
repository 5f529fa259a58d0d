"""Which code an agent is: a digest of the source of its module, kept with every run.

Rule: it costs one reading of one file a process. What has no file (a notebook, an interpreter) has
no digest: unknown is None.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from towerkit.core.canonical import sha256_hex

_OURS = "towerkit."
_AGENTS = "towerkit.scenarios."


def code_of_caller() -> dict[str, str | None]:
    """Return `agent_module` and `agent_digest` of the innermost code above us that is not ours."""
    frame = sys._getframe(1)  # noqa: SLF001  the documented way to ask who called
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    names = frame.f_globals
    return _code(str(names.get("__name__")), names.get("__file__"))


def code_of(fn: Callable[..., Any]) -> dict[str, str | None]:
    """Return the same of the module that a function is of."""
    name = str(getattr(fn, "__module__", None))
    return _code(name, getattr(sys.modules.get(name), "__file__", None))


def _is_ours(name: str) -> bool:
    return (name.startswith(_OURS) and not name.startswith(_AGENTS)) or name == "contextlib"


@cache
def _code(name: str, file: str | None) -> dict[str, str | None]:
    try:
        digest = None if file is None else sha256_hex(Path(file).read_bytes())
    except OSError:
        digest = None
    return {"agent_module": name, "agent_digest": digest}

"""Finding an agent and how to call it.

Rule: an agent is a function. `agent(run, task)` gets the run; one that opens its run itself, with
`tower.run(…)` or `@tower.agent`, gets the task alone. Plain or `async`.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from towerkit.core.errors import UsageError
from towerkit.runtime.code import code_of
from towerkit.runtime.decorators import OPENS_A_RUN
from towerkit.runtime.run import Run

RUN_NAMES = ("run", "tower_run")


class Agent:
    """A function that handles a task. `takes_run`: it wants the run that is opened for it."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        """Look at the signature; raise `UsageError` for what cannot be called with a task."""
        if not callable(fn):
            raise UsageError(f"expected an agent as a function, got {type(fn).__name__}")
        self.fn = fn
        self._decorated = bool(getattr(fn, OPENS_A_RUN, None))
        self._places = 2 if self._decorated else _places(fn)
        self.takes_run = not self._decorated and self._places >= 2

    def __call__(self, run: Run | None, task: Any) -> Any:
        """Call the agent; what an `async` one returns is to be awaited."""
        if self._decorated:
            return self.fn(**task) if isinstance(task, dict) else self.fn(task)
        if self.takes_run:
            return self.fn(run, task)
        return self.fn(task) if self._places == 1 else self.fn()

    @property
    def code(self) -> dict[str, str | None]:
        """Name and digest of the module it is of."""
        return code_of(inspect.unwrap(self.fn))


def _places(fn: Callable[..., Any]) -> int:
    """Return how many arguments an agent takes by position: 0, 1 or 2."""
    try:
        parameters = inspect.signature(fn).parameters.values()
    except ValueError:
        return 2
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return 2
    by_place = [p for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
    needed = [p for p in by_place if p.default is p.empty]
    takes_run = bool(by_place) and (len(needed) >= 2 or by_place[0].name in RUN_NAMES)
    if len(needed) > 2 or (takes_run and len(by_place) < 2):
        raise UsageError(
            "expected an agent as agent(run, task), or agent(task) that opens its run itself, got "
            f"{getattr(fn, '__name__', fn)}{inspect.signature(fn)}"
        )
    return 2 if takes_run else min(1, len(by_place))


def load_agent(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` or `file.py:function` names.

    Modules are looked for in the folder of the command, too. Raises `UsageError`.
    """
    module_name, found, attribute = name.rpartition(":")
    if not found or not module_name or not attribute:
        raise UsageError(f"expected --agent module:function or file.py:function, got {name!r}")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = (
            _of_file(Path(module_name)) if module_name.endswith(".py")
            else importlib.import_module(module_name)
        )  # fmt: skip
    except (ImportError, OSError) as error:
        raise UsageError(f"cannot import {module_name}: {error}") from error
    fn: Any = module
    for part in attribute.split("."):
        fn = getattr(fn, part, None)
    if not callable(fn):
        raise UsageError(f"{module_name} has no function {attribute!r}")
    return fn  # type: ignore[no-any-return]  # callable, as looked at


def _of_file(path: Path) -> Any:
    if not path.is_file():
        raise OSError(f"there is no file {path}")
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path.resolve()):
        return known
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    if spec is None or spec.loader is None:
        raise OSError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module

"""A step: a span of the agent's own around a block of its code."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from towerkit.core.errors import UsageError
from towerkit.cost.budget import Chain
from towerkit.runtime.current import OPEN, Open, mark_abandoned
from towerkit.telemetry.recorder import OpenSpan

if TYPE_CHECKING:
    from contextvars import Token

    from towerkit.runtime.run import Run


class Step:
    """A step of a run. Use as a context manager, once; see `Run.step`."""

    __slots__ = ("_attributes", "_name", "_run", "_span", "_token")

    _span: OpenSpan
    _token: Token[Open | None]

    def __init__(self, run: Run, name: str, attributes: Mapping[str, Any] | None) -> None:
        """Use `Run.step`."""
        self._run, self._name = run, name
        self._attributes: dict[str, Any] = {} if attributes is None else dict(attributes)

    def set(self, key: str, value: Any) -> None:
        """Keep `value` (JSON-able) under `key` with the step's span."""
        self._attributes[key] = value

    def __enter__(self) -> Self:
        if hasattr(self, "_span"):
            raise UsageError("a Step is entered once: ask the run for another")
        run = self._run
        parent, path = run.here()
        self._span = span = run.start_span(self._name, kind="step", operation="step", parent=parent)
        span.attributes = self._attributes
        mark_abandoned(run, span, parent)
        run.recorder.soon()
        inside = f"{path}/{span.name}" if path else span.name  # redacted: it is on the tape too
        self._token = OPEN.set(Open(run, span, inside, OPEN.get(), self.chain()))
        return self

    def chain(self) -> Chain:
        """Return the accounts that the step opens: none, where it has no limits of its own."""
        return ()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:  # fmt: skip
        run = self._run
        run.end_span(self._span, error)
        run.recorder.flush()
        try:  # noqa: SIM105  `suppress` costs a tenth of a step
            OPEN.reset(self._token)
        except ValueError:
            pass  # left in another context: nothing to reset there

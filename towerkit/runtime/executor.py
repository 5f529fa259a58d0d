"""How one attempt is carried out: live, or from a tape.

Rule: this is the seam between policy and world. Everything above it is the same in a live run and
in a replay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from towerkit.core.env import Env
from towerkit.runtime.faults import FaultPlan


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One physical try: what is called, where in the agent, and under which digest."""

    kind: str
    name: str
    path: str
    request_digest: str
    span_seq: int
    timeout_s: float


class Executor(Protocol):
    """Carries attempts out and answers the agent's readings of clock, randomness and ids."""

    def attempt(self, what: Attempt, call: Callable[[], Any]) -> Any:
        """Return what `call` returns, or raise what it raises, within the time-out."""

    def reading(self, kind: str, name: str, path: str, read: Callable[[], Any]) -> Any:
        """Return a nondeterministic reading."""


class Live:
    """Attempts against the world, with the faults of a plan."""

    def __init__(self, env: Env, faults: FaultPlan) -> None:
        """Run attempts under `env`'s clock."""
        self._env, self._faults = env, faults

    def attempt(self, what: Attempt, call: Callable[[], Any]) -> Any:
        """Run `call`, with injected faults, bounded by the attempt's time-out."""
        wrapped = self._faults.wrap(what.kind, what.name, call, self._env)
        return self._env.bounded(wrapped, what.timeout_s)

    def reading(self, kind: str, name: str, path: str, read: Callable[[], Any]) -> Any:  # noqa: ARG002
        """Read the world."""
        return read()

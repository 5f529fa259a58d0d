"""Fault plans: failures on purpose, so that policies are seen to work.

Rule: a fault is injected where an attempt would happen, never in the agent, and every error it
raises says that it is simulated.

A plan is a list of entries `{"target", "at", "kind", "delay_s"}`. `target` is `tool:NAME`,
`model:NAME`, `tool:*` or `model:*`; `at` lists attempts on that target, counted from 1. Kind
`class` fails with any row of the error taxonomy, named by `error_class`.
"""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.assets import asset
from towerkit.core.canonical import canonical_text
from towerkit.core.env import Env
from towerkit.core.errors import FaultInjected, UsageError
from towerkit.reliability.taxonomy import error_class

KINDS = ("slow", "error", "overloaded", "rate_limited", "corrupt", "class")


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of a plan. `delay_s` is how late a slow answer is, or the wait a provider asks."""

    target: str
    at: tuple[int, ...]
    kind: str
    delay_s: float = 0.0
    error_class: str | None = None


class FaultPlan:
    """Counts attempts per target and injects what the plan says. One per run."""

    def __init__(self, entries: Sequence[Mapping[str, Any]] = ()) -> None:
        """Check the entries; raise `UsageError` naming the first that is wrong."""
        self.entries = tuple(_checked(e) for e in entries)
        self._counts: dict[str, int] = {}
        self._lock = threading.Lock()

    def wrap(self, kind: str, name: str, call: Callable[[], Any], env: Env) -> Callable[[], Any]:
        """Return `call` with the faults due at this attempt, and count the attempt."""
        for fault in self._due(kind, name):
            call = _inject(fault, call, env)
        return call

    def awrap(
        self, kind: str, name: str, call: Callable[[], Awaitable[Any]], env: Env
    ) -> Callable[[], Awaitable[Any]]:
        """Do what `wrap` does for a call that is awaited."""
        for fault in self._due(kind, name):
            call = _ainject(fault, call, env)
        return call

    def _due(self, kind: str, name: str) -> list[Fault]:
        due: list[Fault] = []
        if not self.entries:
            return due
        with self._lock:
            for target in (f"{kind}:{name}", f"{kind}:*"):
                count = self._counts[target] = self._counts.get(target, 0) + 1
                due += [f for f in self.entries if f.target == target and count in f.at]
        return due


def _checked(entry: Mapping[str, Any]) -> Fault:
    try:
        fault = msgspec.convert(dict(entry), Fault)
    except msgspec.ValidationError as error:
        raise UsageError(f"fault plan: {error}, in {canonical_text(dict(entry))}") from None
    kind, _, name = fault.target.partition(":")
    if kind not in {"tool", "model"} or not name:
        raise UsageError(
            f"fault plan: expected target tool:NAME, model:NAME, tool:* or model:*, "
            f"got {fault.target!r}"
        )
    if fault.kind not in KINDS:
        raise UsageError(
            f"fault plan: expected kind as one of {', '.join(KINDS)}, got {fault.kind!r}"
        )
    if (fault.kind == "class") != (fault.error_class is not None):
        raise UsageError(
            f"fault plan: expected error_class with kind class, and only there, got kind "
            f"{fault.kind!r} and error_class {fault.error_class!r}"
        )
    if fault.error_class is not None:
        error_class(fault.error_class)
    return fault


def _inject(fault: Fault, call: Callable[[], Any], env: Env) -> Callable[[], Any]:
    def slow() -> Any:
        # Carried out, but the answer is late: the case in which an outcome is truly unknown.
        result = call()
        env.sleep(fault.delay_s)
        return result

    def failing() -> Any:
        raise _error_of(fault)

    named: dict[str, Callable[[], Any]] = {"slow": slow, "corrupt": lambda: _cut(call())}
    return named.get(fault.kind, failing)


def _ainject(
    fault: Fault, call: Callable[[], Awaitable[Any]], env: Env
) -> Callable[[], Awaitable[Any]]:
    async def slow() -> Any:
        result = await call()
        await env.asleep(fault.delay_s)
        return result

    async def corrupt() -> Any:
        return _cut(await call())

    async def failing() -> Any:
        raise _error_of(fault)

    return {"slow": slow, "corrupt": corrupt}.get(fault.kind, failing)


def _cut(result: Any) -> str:
    text = canonical_text(result)
    return text[: max(1, len(text) * 2 // 3)]


def _error_of(fault: Fault) -> FaultInjected:
    on_tool = fault.target.startswith("tool:")
    name = {"error": "tool_failed" if on_tool else "upstream_5xx"}.get(fault.kind, fault.kind)
    name = fault.error_class or name
    return FaultInjected(
        f"simulated fault: {fault.error_class or fault.kind} on {fault.target}",
        error_class=name,
        retry_after_s=fault.delay_s or None,
    )


def load_faults(name: str) -> list[dict[str, Any]]:
    """Return the entries of a plan: `none`, a name in `data/faults/`, or a TOML file's path."""
    if name == "none":
        return []
    path = Path(name) if name.endswith(".toml") else asset("data", "faults", f"{name}.toml")
    try:
        with path.open("rb") as file:
            entries = tomllib.load(file).get("fault", [])
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"cannot read the fault plan {path}: {error}") from None
    FaultPlan(entries)
    return list(entries)

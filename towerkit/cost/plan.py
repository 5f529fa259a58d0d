"""A budget as it is written down: its limits, and what to do with a call that does not fit.

Rule: frozen values, checked where they are made; what is at work in a run is `cost/budget.py`. Only
`load_budget` reads a file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from towerkit.core.errors import UsageError
from towerkit.cost.budget import COUNTED, Limits

Scope = Literal["service", "release", "scenario", "tenant"]
Period = Literal["hour", "day"]
Way = Literal["refuse", "clamp", "compact", "cheaper"]
PERIOD_NS: dict[str, int] = {"hour": 3_600_000_000_000, "day": 86_400_000_000_000}


class Window(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits on all runs of one tenant, scenario, release or service in an hour or a day (UTC)."""

    scope: Scope
    per: Period
    limits: Limits

    def __post_init__(self) -> None:
        """Raise `UsageError` for limits on time: runs have those, windows have a length."""
        if self.limits.wall_s is not None or self.limits.working_s is not None:
            raise UsageError(
                f"expected limits of {', '.join(COUNTED)} above the run, got one on time"
            )


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What runs may use.

    `run` limits each run and `tools` each tool in it, by name, with all that the tool calls itself.
    `above` limits all runs together. `short` says what happens to a call that does not fit: the
    ways are tried in their order, and `refuse` is the end of every one of them.

        clamp     its `max_tokens` is lowered to what fits
        compact   `compact(messages)` makes fewer messages of them, once a call
        cheaper   a later model of the chain answers, the first whose price fits

    `ladder` sets aside all attempts that a call may need before the first one; what was not needed
    is given back at its end. Raises `UsageError` for what contradicts itself.
    """

    run: Limits = Limits()
    tools: dict[str, Limits] = {}
    above: tuple[Window, ...] = ()
    short: Way | tuple[Way, ...] = "refuse"
    ladder: bool = False
    compact: Any = None  # Callable[[Sequence[Message]], Sequence[Message]]

    def __post_init__(self) -> None:
        """Check that what is to compact can."""
        if ("compact" in self.ways) != callable(self.compact):
            raise UsageError(
                'expected a function compact= beside short="compact", and none without it'
            )

    @property
    def ways(self) -> tuple[Way, ...]:
        """The ways out of a call that does not fit, in their order."""
        ways = (self.short,) if isinstance(self.short, str) else self.short
        return tuple(way for way in ways if way != "refuse")

    @property
    def plain(self) -> bool:
        """Whether the run's ledger alone holds this budget."""
        only_cost = Limits(cost_usd=self.run.cost_usd) == self.run
        return only_cost and not (self.tools or self.above or self.ways or self.ladder)

    def described(self) -> dict[str, Any]:
        """Return it as the manifest keeps it: what is not set is left out."""
        out = {
            "run": _set(self.run), "tools": {name: _set(of) for name, of in self.tools.items()},
            "above": [
                {"scope": w.scope, "per": w.per, "limits": _set(w.limits)} for w in self.above
            ],
            "short": list(self.ways), "ladder": self.ladder,
        }  # fmt: skip
        return {name: value for name, value in out.items() if value}


def _set(limits: Limits) -> dict[str, Any]:
    return {k: v for k in limits.__struct_fields__ if (v := getattr(limits, k)) is not None}


def read_budget(
    table: Mapping[str, Any],
    *,
    compact: Callable[..., Any] | None = None,
    where: str = "the budget",
) -> Budget:
    """Return the budget of a TOML table; `compact` is the function that a file cannot hold.

    Raises `UsageError` naming what is wrong and where.
    """
    if "compact" in table:
        raise UsageError(f"{where}: compact is a function: give it beside the file")
    try:
        return msgspec.convert({**table, "compact": compact}, Budget)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}") from None


def load_budget(path: Path | str, *, compact: Callable[..., Any] | None = None) -> Budget:
    """Return the budget of a TOML file; `compact` is the function that a file cannot hold.

    Raises `UsageError` naming the file for one that cannot be read or is no budget.
    """
    try:
        table = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"expected a budget in TOML at {path}: {error}") from None
    return read_budget(table, compact=compact, where=str(path))

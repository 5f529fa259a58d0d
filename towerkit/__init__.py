"""towerkit: a production control tower for LLM agents.

Rule: the public API is `__all__`. Names are loaded when first used, so that an agent's process pays
for the guard and for nothing else.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from towerkit.core.errors import (
        AttemptTimeout,
        BudgetExceeded,
        ControlError,
        DeadlineExceeded,
        TowerError,
        UsageError,
    )
    from towerkit.core.types import Model, Request, Response, ToolCall, Usage
    from towerkit.cost.budget import Limits
    from towerkit.cost.plan import Budget, Window, load_budget
    from towerkit.drift import compare as compare_drift
    from towerkit.gate import gather, judge, load_rules
    from towerkit.ingest import ingest as ingest_file
    from towerkit.lake import compact, open_store, scan
    from towerkit.packs.store import Pack, Store
    from towerkit.reliability.policy import Policy
    from towerkit.reliability.policy_file import load_policy
    from towerkit.replay import replay as replay_run
    from towerkit.runtime import models
    from towerkit.runtime.control import control_of
    from towerkit.runtime.run import Run
    from towerkit.runtime.tower import Tower

# Public name -> where it lives; a second name where it is called otherwise there.
_HOMES: dict[str, tuple[str, str]] = {
    "AttemptTimeout": ("towerkit.core.errors", "AttemptTimeout"),
    "Budget": ("towerkit.cost.plan", "Budget"),
    "BudgetExceeded": ("towerkit.core.errors", "BudgetExceeded"),
    "ControlError": ("towerkit.core.errors", "ControlError"),
    "DeadlineExceeded": ("towerkit.core.errors", "DeadlineExceeded"),
    "Limits": ("towerkit.cost.budget", "Limits"),
    "Model": ("towerkit.core.types", "Model"),
    "Pack": ("towerkit.packs.store", "Pack"),
    "Policy": ("towerkit.reliability.policy", "Policy"),
    "Request": ("towerkit.core.types", "Request"),
    "Response": ("towerkit.core.types", "Response"),
    "Run": ("towerkit.runtime.run", "Run"),
    "Store": ("towerkit.packs.store", "Store"),
    "ToolCall": ("towerkit.core.types", "ToolCall"),
    "Tower": ("towerkit.runtime.tower", "Tower"),
    "TowerError": ("towerkit.core.errors", "TowerError"),
    "Usage": ("towerkit.core.types", "Usage"),
    "UsageError": ("towerkit.core.errors", "UsageError"),
    "Window": ("towerkit.cost.plan", "Window"),
    "compact": ("towerkit.lake", "compact"),
    "compare_drift": ("towerkit.drift", "compare"),
    "control_of": ("towerkit.runtime.control", "control_of"),
    "gather": ("towerkit.gate", "gather"),
    "ingest_file": ("towerkit.ingest", "ingest"),
    "judge": ("towerkit.gate", "judge"),
    "load_budget": ("towerkit.cost.plan", "load_budget"),
    "load_policy": ("towerkit.reliability.policy_file", "load_policy"),
    "load_rules": ("towerkit.gate", "load_rules"),
    "models": ("towerkit.runtime", "models"),
    "open_store": ("towerkit.lake", "open_store"),
    "replay_run": ("towerkit.replay", "replay"),
    "scan": ("towerkit.lake", "scan"),
}

__all__ = [
    "AttemptTimeout",
    "Budget",
    "BudgetExceeded",
    "ControlError",
    "DeadlineExceeded",
    "Limits",
    "Model",
    "Pack",
    "Policy",
    "Request",
    "Response",
    "Run",
    "Store",
    "ToolCall",
    "Tower",
    "TowerError",
    "Usage",
    "UsageError",
    "Window",
    "compact",
    "compare_drift",
    "control_of",
    "gather",
    "ingest_file",
    "judge",
    "load_budget",
    "load_policy",
    "load_rules",
    "models",
    "open_store",
    "replay_run",
    "scan",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'towerkit' has no attribute {name!r}")
    module, attribute = home
    if attribute == "models":
        return importlib.import_module("towerkit.runtime.models")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])

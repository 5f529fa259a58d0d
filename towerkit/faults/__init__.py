"""Failures on purpose: plans for tools and models, and a provider server that fails by script.

Rule: whatever is simulated says so. A plan (`faults.plan`) injects where an attempt would happen; a
`FaultServer` speaks real wire formats on a loopback port, so that the SDKs themselves meet the
fault. Names are loaded when first used: an agent's process does not pay for a server.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from towerkit.faults.catalogue import NOT_OVER_HTTP, once, scripts
    from towerkit.faults.plan import Fault, FaultPlan, load_faults
    from towerkit.faults.server import Exchange, FaultServer
    from towerkit.faults.steps import (
        CleanEnd,
        Cut,
        Delay,
        HtmlPage,
        MalformedJson,
        Refuse,
        Reply,
        Script,
        SseError,
        Stall,
        Status,
        Step,
        WrongUsage,
    )

_HOMES = {
    **dict.fromkeys(("NOT_OVER_HTTP", "once", "scripts"), "catalogue"),
    **dict.fromkeys(("Fault", "FaultPlan", "load_faults"), "plan"),
    **dict.fromkeys(("Exchange", "FaultServer"), "server"),
    **dict.fromkeys(
        (
            "CleanEnd", "Cut", "Delay", "HtmlPage", "MalformedJson", "Refuse", "Reply", "Script",
            "SseError", "Stall", "Status", "Step", "WrongUsage",
        ),
        "steps",
    ),
}  # fmt: skip

__all__ = [
    "NOT_OVER_HTTP",
    "CleanEnd",
    "Cut",
    "Delay",
    "Exchange",
    "Fault",
    "FaultPlan",
    "FaultServer",
    "HtmlPage",
    "MalformedJson",
    "Refuse",
    "Reply",
    "Script",
    "SseError",
    "Stall",
    "Status",
    "Step",
    "WrongUsage",
    "load_faults",
    "once",
    "scripts",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'towerkit.faults' has no attribute {name!r}")
    return getattr(importlib.import_module(f"towerkit.faults.{home}"), name)

"""Every class of error at every call of a scenario, on purpose, and whether the tower coped.

Rule: what should happen is worked out from the reviewed table, not by the guard; all of it is
simulated and says so.
"""

from __future__ import annotations

from towerkit.chaos.chaos import Report, chaos
from towerkit.chaos.page import lines

__all__ = ["Report", "chaos", "lines"]

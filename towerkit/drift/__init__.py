"""Live against baseline: whether the traffic changed, by how much, and if it could be chance.

Rule: a row says drift only when the difference is both improbable (Benjamini-Hochberg over every
p-value of the call) and large enough to matter (a floor on the effect). Either alone raises false
alarms: a p-value finds trifles in large windows, a fixed threshold finds noise in small ones.
"""

from towerkit.drift.compare import DriftReport, DriftRow, compare, compare_sources
from towerkit.drift.frames import load_frame, run_frame, tool_frame
from towerkit.drift.statistics import TESTS, Test

__all__ = [
    "TESTS",
    "DriftReport",
    "DriftRow",
    "Test",
    "compare",
    "compare_sources",
    "load_frame",
    "run_frame",
    "tool_frame",
]

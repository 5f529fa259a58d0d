"""Re-running a recorded run from its tape: offline, without a key, without a side effect.

Rule: a replay never makes a live call. What the tape does not hold is a divergence, reported at the
first span that differs, with both sides.
"""

from __future__ import annotations

from towerkit.replay.compare import Divergence
from towerkit.replay.replay import ReplayReport, replay, replay_scenario

__all__ = ["Divergence", "ReplayReport", "replay", "replay_scenario"]

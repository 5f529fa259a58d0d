"""Last night under another policy, budget, price book or order of models, without running it.

Rule: the record decides or the row says that it does not. Every number is exact, bounded with its
reason, or unknown; nothing is invented. A judge: no runtime, no telemetry, no network.
"""

from towerkit.whatif.ends import Live
from towerkit.whatif.report import (
    Point,
    Search,
    Total,
    WhatIf,
    as_of,
    load_grid,
    records_of,
    search,
    whatif,
)
from towerkit.whatif.rows import QUANTITIES, Quantity, Row
from towerkit.whatif.world import World

__all__ = [
    "QUANTITIES",
    "Live",
    "Point",
    "Quantity",
    "Row",
    "Search",
    "Total",
    "WhatIf",
    "World",
    "as_of",
    "load_grid",
    "records_of",
    "search",
    "whatif",
]

"""The lake: packs rolled into Delta Lake tables, and read back as one with those that are not yet.

Rule: the log of the table `runs` is the only truth. What it names is in the lake, whole and once;
the other tables' logs follow it. A pack is never changed here, and dropped only when what stands in
the lake has the digests that it had.

The libraries `deltalake` and `obstore` are the extra `lake`, imported where a lake is used.
"""

from __future__ import annotations

from towerkit.lake.compaction import Compaction, compact, replace_changed
from towerkit.lake.frames import scan
from towerkit.lake.published import compact_published, publish
from towerkit.lake.reader import Lake, LakePack
from towerkit.lake.redaction import redact_in_lake
from towerkit.lake.store import LakeStore, open_store

__all__ = [
    "Compaction",
    "Lake",
    "LakePack",
    "LakeStore",
    "compact",
    "compact_published",
    "open_store",
    "publish",
    "redact_in_lake",
    "replace_changed",
    "scan",
]

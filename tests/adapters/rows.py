"""What a pack says of a run, as tests of the adapters read it."""

from __future__ import annotations

from towerkit.core.env import SystemEnv
from towerkit.privacy.keys import simulated_redactor
from towerkit.runtime.tower import Tower


def real_tower(store, **options):
    """Return a tower on the real clock that waits for nothing."""
    return Tower(
        store=store, redactor=simulated_redactor(), environment=SystemEnv, durable=False, **options
    )


def spans(pack, kind, **where):
    """Return the pack's spans of a kind, in order."""
    return pack.frame("spans").filter(kind=kind, **where).sort("seq").to_dicts()


def only_pack(tower):
    """Return the one pack in the tower's store."""
    (pack,) = packs(tower)
    return pack


def packs(tower):
    """Return the store's packs, oldest first."""
    return sorted(tower.store.packs(), key=lambda p: p.manifest["started_unix_ns"])

"""A store with its lake: runs are found in either, a pack that is there still first.

Rule: to whoever asks for packs it is a `Store`; a run whose pack was dropped is read from the lake.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from towerkit.core.errors import SelectionError
from towerkit.lake.frames import lake_of
from towerkit.lake.reader import Lake, LakePack
from towerkit.packs.files import shown
from towerkit.packs.reader import RUN_ID, Pack, folder_of
from towerkit.packs.selection import Selection
from towerkit.packs.store import Store


class LakeStore(Store):
    """A store whose runs may stand in a lake too."""

    def __init__(self, root: Path | str, lake: Lake) -> None:
        """Join the store at `root` with a lake."""
        super().__init__(root)
        self.lake = lake

    def packs(self) -> list[Pack]:
        """Return every run, of the store and of the lake, oldest first."""
        return self._matching(Selection())

    def _matching(self, chosen: Selection) -> list[Pack]:
        here = super().packs()  # first: what is dropped meanwhile is in the lake by then
        self.lake.refresh()
        known = {p.run_id for p in here}
        matching = [p for p in here if chosen.matches(p.manifest)]
        matching += [p for p in self.lake.select(chosen) if p.run_id not in known]
        return sorted(matching, key=lambda p: folder_of(p.manifest))

    def beyond(self, folders: Sequence[Path]) -> list[LakePack]:
        """Return the runs of the lake that are in none of `folders` of the store."""
        known = {f.name for f in folders}
        self.lake.refresh()
        return [p for p in self.lake.select(Selection()) if p.run_id not in known]

    def find(self, run_id: str) -> Pack | None:
        """Return the run of an id, or None."""
        return super().find(run_id) or self.lake.find(run_id)

    def pack(self, name: str) -> Pack:
        """Return the pack of a run id, or in a folder; raise `SelectionError` if there is none."""
        try:
            return super().pack(name)
        except SelectionError:
            if not RUN_ID.fullmatch(name):
                raise
        found = self.lake.find(name)
        if found is None:
            raise SelectionError(
                f"run {name} is neither in store {self.root} nor in the lake at "
                f"{shown(self.lake.place.url)}"
            )
        return found


def open_store(root: Path | str) -> Store:
    """Return the store at `root`, with its lake where it has one (see `scan`)."""
    store = Store(root)
    lake = lake_of(store)
    return store if lake is None else LakeStore(root, lake)

"""Whatever is changed in a pack is found, and raises `PackError` and nothing else."""

from __future__ import annotations

import pytest

from tests.packs.mutations import KINDS, World, signed_packs
from towerkit.packs.reader import open_pack


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("mutations")
    folders, public = signed_packs(root, 4)
    return World(folders, public, root / "copies")


@pytest.mark.parametrize("block", range(3))
def test_every_mutation_is_found(world, block):
    """500 of the 100,000 mutations of `tests/longer/pack_mutations.py`."""
    found = {seed: world.found(seed) for seed in range(block * 500, block * 500 + 500)}
    assert {s: k for s, (k, ok) in found.items() if ok is False} == {}
    assert sum(ok is True for _, ok in found.values()) > 480
    assert {k for k, ok in found.values() if ok} == set(KINDS)


def test_a_pack_that_nobody_changed_holds(world):
    """The copies verify before they are changed: what is found above is the change."""
    for i, public in enumerate([world.public] * 4):
        assert open_pack(world.copy(i)).verify([public]).signature == "checked"

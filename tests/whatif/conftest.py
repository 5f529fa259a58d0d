"""Make `nights.py` importable here, and nights that several tests ask about."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from nights import Night, Settings

from towerkit.whatif import records_of


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """Return the folder of a store with one night of 12 runs."""
    return tmp_path_factory.mktemp("night")


@pytest.fixture(scope="session")
def packs(store):
    """Return the packs of that night."""
    return list(Night(3, runs=12, faults=0.25).play(store, Settings()).values())


@pytest.fixture
def records(packs):
    """Return its records."""
    return records_of(packs)

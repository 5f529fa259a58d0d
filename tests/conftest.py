"""Shared fixtures: a home of its own for every test, and the recorded data where it is present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes is the machine's business: benchmarks measure, tests do not.
settings.register_profile("towerkit", deadline=None)
settings.load_profile("towerkit")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    """Give the test an empty home and no store or key of the user's."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name in ("TOWERKIT_STORE", "TOWERKIT_KEY", "TOWERKIT_PRICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of recorded runs, or skip: it is not part of the repository."""
    path = Path(os.environ.get("TOWERKIT_REAL_DATA") or REPOSITORY.parent / "shared" / "data")
    if not path.is_dir():
        pytest.skip("the recorded data is not here (set TOWERKIT_REAL_DATA to its folder)")
    return path

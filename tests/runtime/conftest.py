"""The adapters on one fault server, made once."""

from __future__ import annotations

import pytest
from adapters import Adapters


@pytest.fixture(scope="session")
def adapters():
    """Return the adapters on a server whose port is open."""
    house = Adapters()
    yield house
    house.close()

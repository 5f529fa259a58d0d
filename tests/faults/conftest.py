"""The SDKs' clients, made once."""

from __future__ import annotations

import pytest
from sdks import Sdks


@pytest.fixture(scope="session")
def sdks():
    """Return the clients of the three SDKs, without retries."""
    clients = Sdks()
    yield clients
    clients.close()

"""What the tower knew when a call failed, wherever an SDK has put it.

Rule: an SDK makes exceptions of its own from what the HTTP seam hands it; the way back is the
response such an exception carries, or its cause. An exception of the agent's own, raised because of
one of those, is the agent's: its cause is not looked at. Looking never raises.
"""

from __future__ import annotations

from typing import Any

from towerkit.reliability.probe import get, is_a, mro_names
from towerkit.runtime.guard import Control

_OF_SDKS = frozenset({"APIConnectionError", "APITimeoutError"})


def control_of(error: BaseException) -> Control | None:
    """Return the tower's word on the failed call that `error` tells of, or None.

    It stands as `e.tower` on what the tower raised, as `e.response.extensions["tower"]` where an
    SDK made its exception of a response, and on the cause of an SDK's connection error.
    """
    extensions: Any = get(get(error, "response"), "extensions")
    places = [get(error, "tower"), extensions.get("tower") if is_a(extensions, dict) else None]
    if _OF_SDKS & set(mro_names(error)):
        places.append(get(get(error, "__cause__"), "tower"))
    return next((place for place in places if is_a(place, Control)), None)

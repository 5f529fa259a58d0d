"""pydantic-ai under the tower: `TowerModel(tower, model)` and `TowerToolset(tower, toolset)`.

Rule: both are pydantic-ai's own wrappers, so they go wherever a model or a toolset goes. Retries
of the provider's SDK are off; what pydantic-ai raises to steer a run passes as it is.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from towerkit.core.errors import UsageError

if TYPE_CHECKING:
    from towerkit.adapters._pydantic_ai import TowerModel, TowerToolset

__all__ = ["TowerModel", "TowerToolset"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        module = importlib.import_module("towerkit.adapters._pydantic_ai")
    except ImportError:
        raise UsageError(
            "this adapter needs the pydantic-ai package: pip install pydantic-ai-slim"
        ) from None
    return getattr(module, name)

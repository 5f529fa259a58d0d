"""Where the files that are not code live: `data/` and `notebooks/`.

In a checkout they stand at the top, where people look; in a wheel they are packed inside.
"""

from __future__ import annotations

from pathlib import Path

from towerkit.core.errors import UsageError

_PACKAGE = Path(__file__).resolve().parent.parent


def asset(*parts: str) -> Path:
    """Return the path of an asset such as `asset("data", "gates", "release.toml")`.

    Raises `UsageError` naming what the folder holds when there is no such asset.
    """
    for root in (_PACKAGE.parent, _PACKAGE / "_assets"):
        path = root.joinpath(*parts)
        if path.exists():
            return path
    known = sorted(
        {
            p.name
            for r in (_PACKAGE.parent, _PACKAGE / "_assets")
            for p in r.joinpath(*parts[:-1]).glob("*")
            if not p.name.startswith(".")
        }
    )
    raise UsageError(f"expected an asset, got {'/'.join(parts)!r}; there are: {', '.join(known)}")

"""A policy as a TOML file: the fields of `Policy` by their names, and nothing else.

Rule: a key that is not known is an error that lists the known ones: a misspelt limit would
otherwise leave the default in force, silently.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.errors import UsageError
from towerkit.reliability.policy import Policy

FIELDS: tuple[str, ...] = Policy.__struct_fields__
_AT_LEAST = {"max_attempts": 1, "max_steps": 1, "max_repeats": 1, "max_stale": 1}


def load_policy(path: Path | str) -> Policy:
    """Return the policy of a TOML file; what it does not name keeps its default.

    Raises `UsageError` naming the file and the key for what cannot be read, an unknown key, a value
    of another type and one that is no limit.
    """
    return policy_of(read_toml(Path(path)), where=str(path))


def policy_of(values: Mapping[str, Any], *, where: str, base: Policy | None = None) -> Policy:
    """Return `base` (default: `Policy()`) with `values` in the place of its own.

    Raises as `load_policy` does; `where` is what the sentence names.
    """
    unknown = sorted(set(values) - set(FIELDS))
    if unknown:
        raise UsageError(
            f"{where}: expected fields of a policy, got {', '.join(unknown)}; "
            f"known: {', '.join(FIELDS)}"
        )
    given = msgspec.to_builtins(base or Policy()) | dict(values)
    try:
        policy = msgspec.convert(given, Policy)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}") from None
    for name in FIELDS:
        value = getattr(policy, name)
        if not isfinite(value) or value < _AT_LEAST.get(name, 0):
            raise UsageError(
                f"{where}: expected {name} of at least {_AT_LEAST.get(name, 0)}, got {value:g}"
            )
    return policy


def read_toml(path: Path) -> dict[str, Any]:
    """Return the tables of a TOML file; raise `UsageError` naming the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"expected TOML in {path}: {error}") from None

"""Evidence made by hand, so that each test says exactly what the gate sees."""

from __future__ import annotations

from towerkit.gate import Evidence, Rule, Side
from towerkit.gate.evidence import Outcome

UNKNOWN = object()


def outcome(value):
    if value is UNKNOWN:
        return Outcome(value=None, low=0.0, high=1.0)
    return Outcome(value=value, low=value, high=value)


def side(values, *, suite="golden", prefix="r", definition="d", runs=None, **more):
    """Return a side whose case i has the outcome(s) `values[i]`; None leaves the case out."""
    cases, keys = {}, {}
    for i, value in enumerate(values):
        if value is None:
            continue
        trials = value if isinstance(value, list) else [value]
        cases[("s", str(i))] = tuple(outcome(v) for v in trials)
        keys[f"{prefix}{i}"] = ("s", str(i))
    zeros = dict.fromkeys(keys, 0.0)
    metrics = {
        "inadmissible": zeros, "infrastructure_failure": zeros, "contradicted": zeros,
        "over_budget": zeros, "cost_usd": {}, "duration_s": {},
    }  # fmt: skip
    return Side(
        selection=prefix, run_ids=tuple(keys), digest="0", simulated=True,
        cases={suite: cases} if cases else {},
        definitions={key: frozenset({definition}) for key in cases},
        runs=metrics | (runs or {}), run_cases=keys, means={}, inadmissible={},
        undetermined={}, **more,
    )  # fmt: skip


def pair(candidate, baseline, **more):
    return Evidence(
        candidate=side(candidate, prefix="c", **more), baseline=side(baseline, prefix="b")
    )


FLOOR = Rule(name="floor", metric="score", suite="golden", kind="floor", threshold=0.8)
PAIRED = Rule(name="paired", metric="score", suite="golden", kind="non_inferior", threshold=0.05)

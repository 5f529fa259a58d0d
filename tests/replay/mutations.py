"""One change in what a generated agent asks, and the recorded span at which it must be found."""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from typing import Any

from generated import TYPES, agent_of, program

from towerkit.replay import replay


def leaves(ops: list[Any]) -> Iterator[list[Any]]:
    """Yield the operations that make calls, those inside others too."""
    for op in ops:
        if op[0] in {"model", "stream", "tool", "cut"}:
            yield op
        elif op[0] == "step":
            yield from leaves(op[2])
        elif op[0] in {"side_by_side", "as_they_come"}:
            for branch in op[1]:
                yield from leaves(branch)


def _span_of(pack: Any, op: list[Any]) -> int | None:
    """Return the number of the recorded call that an operation made; None where it made none."""
    said = op[1] if op[0] in {"model", "stream"} else op[2]
    mark = said.split(" of ")[0] if op[0] in {"model", "stream"} else said
    bodies = pack.bodies
    for span in pack.frame("spans").filter(kind="call").sort("seq").iter_rows(named=True):
        body = bodies[span["request_digest"]]
        if span["gen_ai_tool_name"] is None:
            last = json.loads(body)["messages"][-1]
            if f'"{mark} of ' in bodies[last].decode():
                return int(span["seq"])
        elif f'"{mark}"' in body.decode():
            return int(span["seq"])
    return None


def changes(pack: Any, seed: int) -> Iterator[tuple[str, set[Any], Any]]:
    """Yield what was changed, the spans at which that may show, and the changed agent."""
    asynchronous, _, ops = program(seed)
    for i, op in enumerate(leaves(ops)):
        seq = _span_of(pack, op)
        if seq is None:
            continue
        for what, place, made in (
            ("prompt", 1, lambda t: t.replace("question", "Question")),
            ("tool name", 1, lambda t: t + "x"), ("argument", 2, lambda t: t[:-1] + "x"),
        ):  # fmt: skip
            if (op[0] in {"model", "stream"}) != (what == "prompt"):
                continue
            changed = copy.deepcopy(ops)
            target = list(leaves(changed))[i]
            target[place] = made(target[place])
            yield f"{what} at {seq}", {seq}, agent_of(asynchronous, changed)
    for i, (one, other) in enumerate(itertools.pairwise(ops)):
        seqs = [_span_of(pack, o) for o in (one, other) if o[0] in {"model", "stream", "tool"}]
        if len(seqs) == 2 and None not in seqs:
            changed = [*ops[:i], other, one, *ops[i + 2 :]]
            # Two calls were exchanged: either is where it shows.
            yield f"order at {seqs[0]}", set(seqs), agent_of(asynchronous, changed)


def misnamed(pack: Any, seed: int, policy: Any) -> tuple[int, list[str]]:
    """Return how many changes were tried on a run, and those not found where they were made."""
    tried, wrong = 0, []
    for what, seqs, agent in changes(pack, seed):
        tried += 1
        report = replay(pack, agent, exceptions=TYPES, policy=policy)
        d = report.divergence
        if d is None or d.seq not in seqs:
            wrong.append(f"seed {seed}, {what}: {d}")
    return tried, wrong

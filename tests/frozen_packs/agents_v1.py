"""The agents and runs that the packs of format 1 were recorded from.

Rule: frozen with the packs. A replay runs this code against their tapes, so it does not change and
leans on no other test's code; another version of the format gets a module of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from towerkit.core.env import VirtualEnv
from towerkit.core.errors import BudgetExceeded
from towerkit.core.types import Model, Request, Response, ToolCall, Usage
from towerkit.packs.redaction import Removal, redact
from towerkit.packs.signing import load_signer
from towerkit.packs.store import Store
from towerkit.packs.tables import CONTENT, COSTS, INPUTS, SCORES, SPANS, Table
from towerkit.packs.writer import Draft
from towerkit.privacy.keys import simulated_redactor
from towerkit.runtime import models
from towerkit.runtime.tower import Tower
from towerkit.telemetry.recover import recover

TASK = {"question": "Where is order 7 of ann@example.com?"}
ODD_TASK = {
    "question": "Grüße, 你好, שלום, e\u0301, 👩‍👩‍👧, \u202eright to left, \x00, \ufeff, \U0010ffff",
    "list": [0, -1, 2**53, 1e-300, 1.0, True, None, "", {}, []], "": {"é": "e\u0301"},
}  # fmt: skip
FAULTS = (
    {"target": "model:sim-clerk-large", "at": [1, 2, 3], "kind": "overloaded"},
    {"target": "tool:look_up", "at": [1], "kind": "slow", "delay_s": 30},
)
REMOVED = "Grüße"  # the value that the redacted packs no longer hold


class LookupFailed(Exception):
    """What the tool raises for an order it does not have."""


def look_up(order: int) -> dict[str, Any]:
    """Return an order; 13 does not exist."""
    if order == 13:
        raise LookupFailed(f"no order {order}")
    return {"order": order, "state": "sent", "email": "ann@example.com"}


def clerk(run: Any, task: Any, *, order: int = 7, caught: bool = True) -> None:
    """Think, look an order up, answer."""
    messages = [
        {"role": "system", "content": "You look orders up and answer in one sentence."},
        {"role": "user", "content": str(task["question"])},
    ]
    with run.step("look"):
        messages.append(run.model(messages).as_message())
        try:
            found = str(run.tool(look_up, {"order": order}, idempotent=True, call_id="c1",
                                 timeout_s=12.0))  # fmt: skip
        except LookupFailed as error:
            if not caught:
                raise
            found = f"error: {error}"
    messages.append({"role": "tool", "tool_call_id": "c1", "content": found})
    answer = run.model(messages)
    run.finish({"answer": answer.content, "at": run.now().isoformat(), "n": run.random()})


def desperate(run: Any, task: Any) -> None:
    """Ask for an order that does not exist, and let the error end the run."""
    clerk(run, task, order=13, caught=False)


def reader(run: Any, task: Any) -> None:
    """Read an answer in pieces."""
    pieces = list(run.stream([{"role": "user", "content": str(task["question"])}]))
    run.finish("".join(pieces))


def _tower(store: Path, seed: int, **options: Any) -> Tower:
    env = VirtualEnv(seed)

    def complete(request: Request) -> Response:
        env.sleep(0.4)
        usage = Usage(input_tokens=100 * len(request.messages), output_tokens=20)
        last = request.messages[-1]
        if last["role"] == "tool":
            return Response(content=f"It is {last['content'][:40]}", usage=usage)
        call = ToolCall(id="c1", name="look_up", arguments={"order": 7})
        return Response(content="", tool_calls=(call,), finish_reason="tool_calls", usage=usage)

    chain = [
        models.function(complete, name=name, provider="simulated", simulated=True)
        for name in ("sim-clerk-large", "sim-clerk-small")
    ]
    options.setdefault("models", chain)
    options.setdefault("budget_usd", 0.09)
    options.setdefault("redactor", simulated_redactor())
    return Tower(store=store, environment=lambda: env, **options)


def _run(store: Path, seed: int, agent: Callable[[Any, Any], None] = clerk, *, task: Any = TASK,
         faults: Any = (), ends_in: Any = (), **options: Any) -> Path:  # fmt: skip
    run = _tower(store, seed, **options).run("orders", task=task, faults=faults)
    with contextlib.suppress(*ends_in), run:
        agent(run, task)
    assert run.pack is not None
    return run.pack.folder


def _streaming() -> Model:
    def stream(request: Request, timeout_s: float | None) -> Iterator[str | Response]:
        yield from ("It ", "wäs ", "", "sent", "👩‍👩‍👧")
        usage = Usage(input_tokens=10, output_tokens=4)
        yield Response(content="It wäs sent👩‍👩‍👧", usage=usage)

    def never(request: Request, timeout_s: float | None) -> Response:
        raise AssertionError("not streamed")

    return Model(name="sim-clerk-large", provider="simulated", complete=never, stream=stream,
                 simulated=True)  # fmt: skip


# -- the packs -------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from towerkit.privacy.keys import simulated_redactor
from towerkit.runtime import models
from towerkit.runtime.tower import Tower
tower = Tower(store=sys.argv[1], redactor=simulated_redactor(),
              models=[models.function(lambda r: "hi bob@example.com", simulated=True)])
with tower.run("doomed", task="write to ann@example.com") as run:
    with run.step("first"):
        run.model([{"role": "user", "content": "hello"}])
    with run.step("last"):
        run.tool(lambda: os.kill(os.getpid(), signal.SIGKILL), name="die", idempotent=False)
"""


def _aborted(store: Path) -> Path:
    done = subprocess.run([sys.executable, "-c", KILLED, str(store)], check=False)
    assert done.returncode == -signal.SIGKILL
    (recovered,) = recover(Store(store), salt_seed=os.urandom(16))
    return recovered.pack.folder


def _redacted(store: Path, seed: int, key: Path | None, by: Path | None) -> Path:
    folder = _run(store, seed, task=ODD_TASK, signing_key=key)
    signer = None if by is None else load_signer(by, store=store)
    redact(folder, Removal(value=REMOVED, at_unix_ns=1, salts=os.urandom), signer=signer)
    return folder


def _filled(table: Table, run_id: str, seq: int, *, most: bool) -> tuple[Any, ...]:
    """Return a row at an end of what its columns take: everything null, or the largest."""
    text = "\x00\t\n\r\"\\'\u2028é👩‍👩‍👧\ufeff\U0010ffff" if most else ""
    kinds = {"str": text, "int": 2**63 - 1 if most else 0, "bool": most,
             "bytes": bytes(range(256)) if most else b""}  # fmt: skip
    known = {"run_id": run_id, "seq": seq, "span_id": f"{seq:016x}", "digest": f"{seq:032x}"}
    row = []
    for c in table.columns[:-1]:
        if c.name in known:
            row.append(known[c.name])
        elif c.nullable and not most and c.name not in {
            "parent_span_id", "request_digest", "attempt", "span_id"
        }:  # fmt: skip
            row.append(None)
        elif c.isin is not None:
            row.append(c.isin[-1 if most else 0])
        elif c.pattern is not None:
            row.append("0" * (16 if "16" in c.pattern else 32))
        else:
            row.append(max(1, kinds[c.kind]) if c.ge == 1 else kinds[c.kind])
    return tuple(row)


def _edges(store: Path) -> Path:
    """Rows at both ends of every column, that make no sense together: it is no evidence."""
    run_id = "ffffffff-ffff-7fff-bfff-ffffffffffff"
    rows = {
        t.name: [_filled(t, run_id, i, most=bool(i)) for i in range(2)]
        for t in (SPANS, COSTS, INPUTS, CONTENT)
    }
    manifest = {
        "run_id": run_id, "status": "stopped", "error_class": None,
        "started_unix_ns": 253_402_300_799 * 10**9, "duration_ns": 2**63 - 1,
        "source": {"kind": "edges", "\x00é": [{}, [], "", 1.5, -1]}, "identity": {},
        "clock": "none", "simulated": True,
        "spans": {"started": 2, "ended": 2, "aborted": 0, "dropped": 0},
        "redactor": {"version": "0", "key_id": "none", "capture": "redacted", "fields_dropped": 1},
        "budget": None, "parent_trace_id": None, "seed": "f" * 16,
    }  # fmt: skip
    return Store(store).commit(Draft(manifest=manifest, salt_seed=b"edges", **rows)).folder


def _scored(store: Path) -> Path:
    folder = _run(store, 9)
    pack = Store(store).pack(folder.name)
    row = {
        "run_id": pack.run_id, "pack_digest": pack.digest, "eval_id": "e", "scenario": "orders",
        "release": "dev", "suite": "golden", "case_id": "c", "trial": 0, "metric": "resolved",
        "value": 0.1, "scored": True, "primary": True, "contradicted": False, "simulated": True,
        "note": "é",
    }  # fmt: skip
    Store(store).add_scores([SCORES.make(**row)])
    return folder


# Name -> how it is made (in a store, with a key's file), and the agent that replays it.
Make = Callable[[Path, Path], Path]
RUNS: dict[str, tuple[Make, Callable[[Any, Any], None] | None]] = {
    "success": (lambda s, k: _run(s, 1), clerk),
    "failure": (lambda s, k: _run(s, 2, desperate, ends_in=(LookupFailed,)), desperate),
    "stopped": (lambda s, k: _run(s, 3, budget_usd=0.001, ends_in=(BudgetExceeded,)), clerk),
    "retried": (lambda s, k: _run(s, 4, faults=FAULTS), clerk),
    "streamed": (lambda s, k: _run(s, 5, reader, models=[_streaming()]), reader),
    "unicode": (lambda s, k: _run(s, 6, task=ODD_TASK), clerk),
    "unread": (lambda s, k: _run(s, 7, task={"question": "x" * 2_000_001}, budget_usd=9), clerk),
    "signed": (lambda s, k: _run(s, 8, signing_key=k), clerk),
    "scored": (lambda s, k: _scored(s), clerk),
    "aborted": (lambda s, k: _aborted(s), None),
    "redacted": (lambda s, k: _redacted(s, 10, None, None), None),
    "redacted_signed": (lambda s, k: _redacted(s, 11, k, k), None),
    "redacted_half_signed": (lambda s, k: _redacted(s, 12, k, None), None),
    "edges": (lambda s, k: _edges(s), None),
}

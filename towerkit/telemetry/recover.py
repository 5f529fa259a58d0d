"""Packs of runs whose process was killed, from their journals.

Rule: what was acknowledged is in the pack, a span that was open is ended as `aborted`, and nothing
is invented: its duration reaches to the last thing the journal knows. A run that had ended and was
not sealed yet keeps its own end. A journal goes only when its pack is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.errors import StoreError
from towerkit.packs.store import Pack, Store
from towerkit.packs.writer import Draft
from towerkit.telemetry.counting import settle
from towerkit.telemetry.journal import abandoned, records
from towerkit.telemetry.recorder import Charge, OpenSpan, draft_of, end_as_aborted


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one journal: its pack, or the sentence that says why there is none."""

    journal: str
    pack: Pack | None
    problem: str | None = None


def recover(
    store: Store, *, salt_seed: bytes, durable: bool = True,
    sealed: Callable[[Pack], object] | None = None,
) -> Iterator[Recovered]:  # fmt: skip
    """Seal every run of `store` whose process is gone; `salt_seed` is 32 secret random bytes.

    `sealed` hears of each pack before its journal goes; a `StoreError` of it keeps the journal.
    """
    for path in abandoned(store.root):
        try:
            draft = read_draft(path, salt_seed=salt_seed)
            pack = None if draft is None else _committed(store, draft, durable=durable)
            if pack is not None and sealed is not None:
                sealed(pack)
        except (StoreError, OSError, msgspec.MsgspecError, ValueError, TypeError) as error:
            yield Recovered(journal=path.name, pack=None, problem=str(error))
            continue
        path.unlink(missing_ok=True)
        problem = "it holds no run: its process was killed before the first record"
        yield Recovered(journal=path.name, pack=pack, problem=problem if pack is None else None)


def _committed(store: Store, draft: Draft, *, durable: bool) -> Pack:
    run_id = draft.manifest["run_id"]
    sealed = store.find(run_id)  # killed between sealing and removing the journal
    return sealed or store.commit(draft, durable=durable)


def read_draft(path: Path, *, salt_seed: bytes) -> Draft | None:
    """Return the draft of the run in a journal; None when not even its beginning was written."""
    header: dict[str, Any] | None = None
    end: dict[str, Any] | None = None
    opened: dict[str, OpenSpan] = {}
    ended: dict[str, OpenSpan] = {}
    charges: list[Charge] = []
    tape: list[tuple[Any, ...]] = []
    content: dict[str, tuple[str, bytes]] = {}
    for kind, *rest in records(path):
        if kind == "run":
            header = rest[0]
        elif kind == "end":
            end = rest[0]
        elif kind == "open":
            opened[rest[0]] = OpenSpan(*rest)
        elif kind == "close":
            span = msgspec.convert(rest[0], OpenSpan)
            ended[span.span_id] = span
        elif kind == "charge":
            charges.append(msgspec.convert(rest[0], Charge))
        elif kind == "tape":
            tape.append(tuple(rest[0]))
        elif kind == "content":
            content[rest[0]] = (rest[1], rest[2])
    # Of a span that began and ended in one write only the end is there.
    known = [*opened.values(), *ended.values()]
    if header is None or not known:
        return None
    begun = min(span.start_mono_ns for span in known)
    open_ids = opened.keys() - ended.keys()
    last = end_as_aborted(
        [opened[i] for i in open_ids], known, simulated=header["simulated"]
    )  # fmt: skip
    spans, charges = settle([*ended.values(), *(opened[i] for i in open_ids)], charges, priced=True)
    costs = [charge.cost for charge in charges]
    aborted = sum(span.status == "aborted" for span in spans)
    counts = {
        "started": len(spans), "ended": len(spans) - aborted, "aborted": aborted, "dropped": 0,
    }  # fmt: skip
    budget = {
        **header.pop("budget"),
        "spent_nanousd": sum(cost.nanousd for cost in costs if cost is not None),
        "unknown_charges": sum(cost is None for cost in costs),
    }
    manifest = {
        **header, "status": "aborted", "error_class": None, "duration_ns": last - begun,
        "budget": budget, **(end or {}), "spans": counts,
    }  # fmt: skip
    return draft_of(
        manifest, spans=spans, charges=charges, tape=tape, content=content, salt_seed=salt_seed
    )

"""What the journal of a killed run knows of its leases above the run.

Rule: an attempt that had ended is reported as it was charged, however late. One that was under way
stays as it was set aside: its provider may bill all of it, and nobody can say that it does not.

    the attempt            its lease, until this   after it
    never begun            comes back              comes back
    had ended              counts as spent         what it was charged
    was under way          counts as spent         counts as spent
"""

from __future__ import annotations

from typing import Any

from towerkit.core.errors import StoreError
from towerkit.cost.budget import Amount
from towerkit.packs.reader import Pack
from towerkit.runtime.budgets import lease_of
from towerkit.runtime.shared_budgets import SharedBudgets


def settle_dead(pack: Pack, shared: SharedBudgets) -> int:
    """Report what the attempts of a recovered run used; return how many reports there were.

    Raises `StoreError` where `shared` does not answer.
    """
    found = shared.unsettled(f"{pack.run_id}.")
    used = _used(pack) if found else {}
    reports = {lease: used[whose] for lease in found if (whose := lease.partition("/")[0]) in used}
    for lease, amount in reports.items():
        shared.settle(lease, amount)
    if reports and not reports.keys().isdisjoint(shared.unsettled(f"{pack.run_id}.")):
        raise StoreError(f"the budgets did not take what run {pack.run_id} used: recover it again")
    return len(reports)


def _used(pack: Pack) -> dict[str, Amount]:
    """Return what each attempt used that has ended, by how its lease is called."""
    charges: dict[str, list[dict[str, Any]]] = {}
    for charge in pack.frame("costs").iter_rows(named=True):
        charges.setdefault(charge["span_id"], []).append(charge)
    spans = pack.spans
    seqs = dict(spans.filter(kind="call").select("span_id", "seq").iter_rows())
    made: dict[str, int] = {}
    used = {}
    for span in spans.filter(kind="attempt").iter_rows(named=True):
        call = span["parent_span_id"]
        attempt = made[call] = made.get(call, -1) + 1
        if call in seqs and span["status"] != "aborted":
            tool = span["gen_ai_operation_name"] == "execute_tool"
            cost, read, written = (
                sum(charge[column] or 0 for charge in charges.get(span["span_id"], ()))
                for column in ("cost_nanousd", "input_tokens", "output_tokens")
            )
            name = lease_of(pack.run_id, seqs[call], attempt)
            used[name] = Amount(cost, read, written, int(not tool), int(tool))
    return used

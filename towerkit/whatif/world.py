"""What is asked: another policy, budget, day of prices or order of models over what was recorded.

Rule: what is not given stays as it was recorded, run by run.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from towerkit.core.errors import UsageError
from towerkit.cost.ledger import NANO
from towerkit.reliability.breaker import Outcome
from towerkit.reliability.policy import Policy
from towerkit.whatif.bounds import Bounds
from towerkit.whatif.record import Record


class World(msgspec.Struct, frozen=True, kw_only=True):
    """One alternative. None is "as recorded"; a `budget_usd` of 0 is no limit.

    `chain` is the fallback order, each model as `provider/name` or, if a recorded run has only one
    of that name, as the name. `price_at_ns` prices every charge as of that time.
    """

    name: str = "as recorded"
    policy: Policy | None = None
    budget_usd: float | None = None
    price_at_ns: int | None = None
    chain: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Raise `UsageError` for a budget that is none and an order that names a model twice."""
        if self.budget_usd is not None and not 0 <= self.budget_usd < 1e9:
            raise UsageError(f"expected a budget in dollars, 0 for none, got {self.budget_usd}")
        if self.chain is not None and (not self.chain or len(set(self.chain)) < len(self.chain)):
            raise UsageError(
                f"expected an order of different models, got {', '.join(self.chain) or 'none'}"
            )

    def limit(self, record: Record) -> int | None:
        """Return the budget of a run in nano-dollars; None is no limit."""
        if self.budget_usd is None:
            return record.budget_nanousd
        return round(self.budget_usd * NANO) or None

    def order(self, record: Record) -> tuple[str, ...]:
        """Return the chain of a run, each as `provider/name`."""
        if self.chain is None:
            return record.models
        return tuple(_full_name(name, record) for name in self.chain)


def _full_name(name: str, record: Record) -> str:
    if "/" in name:
        return name
    known = [m for m in record.models if m.partition("/")[2] == name]
    if len(known) != 1:
        raise UsageError(
            f"expected a model as provider/name, got {name!r}; run {record.run_id} had "
            f"{', '.join(record.models) or 'none'}"
        )
    return known[0]


class Touch(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt as its breaker sees it: when, and what it says of the service's health.

    Times are of the run. `certain` is false where the record does not decide that it is made: then
    it may be at any time from the first to the last, and nominally is where the record had it.
    """

    key: str
    start: Bounds
    end: Bounds
    outcome: Outcome
    throttle_s: float = 0.0
    certain: bool = True


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """A call as the retry budget sees it.

    When it began, the retries it asked for (time, tokens), and when it ended well.
    """

    start: Bounds
    retries: tuple[tuple[Bounds, int], ...] = ()
    succeeded: Bounds | None = None


# Says why it is not known whether others let an attempt on a key through at a time of the run;
# the key None asks the retry budget.
Doubt = Callable[[str | None, Bounds], str | None]


def no_doubt(key: str | None, at: Bounds) -> str | None:  # noqa: ARG001
    """Doubt nothing."""
    return None

"""The budget of one run: reserve before the call, settle after it.

Rule: at every instant spent + reserved ≤ limit, whatever the threads do; a call whose reservation
does not fit is never made. Settling an attempt twice counts once.
"""

from __future__ import annotations

import threading

from towerkit.core.errors import BudgetExceeded

NANO = 1_000_000_000


def usd(nanousd: int) -> str:
    """Return an amount as a person reads it: cents, or every digit there is below one cent."""
    dollars = nanousd / NANO
    if nanousd == 0 or dollars >= 0.01:
        return f"${dollars:.2f}"
    return f"${dollars:.9f}".rstrip("0")


class Ledger:
    """Reservations and charges of one run, in nano-US-dollars. `limit` None means no limit."""

    def __init__(self, limit: int | None) -> None:
        """Start empty."""
        self.limit = limit
        self.spent = 0
        self.unknown_charges = 0
        self._reserved: dict[str, int] = {}
        self._lock = threading.Lock()

    @property
    def reserved(self) -> int:
        """Sum of open reservations."""
        return sum(self._reserved.values())

    def reserve(self, attempt: str, amount: int | None) -> None:
        """Set `amount` aside for `attempt`, or raise `BudgetExceeded` and set nothing aside.

        An unknown amount (None: no price for the model) reserves nothing, but is refused once the
        budget is spent.
        """
        with self._lock:
            if self.limit is not None:
                free = self.limit - self.spent - self.reserved
                if free <= 0 or (amount or 0) > free:
                    raise BudgetExceeded(
                        f"the budget of {usd(self.limit)} has {usd(max(0, free))} left and the "
                        f"next call may cost {usd(amount or 0)}: the call was not made"
                    )
            self._reserved[attempt] = amount or 0

    def settle(self, attempt: str, amount: int | None) -> None:
        """Replace the reservation of `attempt` by its charge; None is an unknown charge."""
        with self._lock:
            if self._reserved.pop(attempt, None) is None:
                return
            if amount is None:
                self.unknown_charges += 1
            else:
                self.spent += amount

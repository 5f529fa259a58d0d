"""The budget of one run: reserve before the call, settle after it.

Rule: at every instant spent + reserved ≤ limit, whatever the threads do; a call whose reservation
does not fit is never made. Settling an attempt twice counts once.
"""

from __future__ import annotations

import math
import threading

from towerkit.core.errors import BudgetExceeded

NANO = 1_000_000_000


def usd(nanousd: int) -> str:
    """Return an amount as a person reads it: cents, or every digit there is below one cent."""
    dollars = nanousd / NANO
    if nanousd == 0 or dollars >= 0.01:
        return f"${dollars:.2f}"
    return f"${dollars:.9f}".rstrip("0")


# What an attempt may cost, in nano-US-dollars; empty once it is settled.
Reservation = list[int]


class Ledger:
    """Reservations and charges of one run, in nano-US-dollars. `limit` None means no limit.

    `spent` is the sum of known charges, `reserved` of open reservations, `unknown_charges` counts
    those without a known price.
    """

    def __init__(self, limit: int | None) -> None:
        """Start empty."""
        self.limit = limit
        self.spent = self.reserved = self.unknown_charges = 0
        self._room: float = math.inf if limit is None else limit  # the limit less what is spent
        self._lock = threading.Lock()

    def reserve(self, amount: int | None) -> Reservation:
        """Set `amount` aside and return the reservation, to settle it by.

        Raises `BudgetExceeded`, and sets nothing aside, when it does not fit. An unknown amount
        (None: no price for the model) reserves nothing, but is refused once the budget is spent.
        """
        wanted = amount or 0
        with self._lock:
            free = self._room - self.reserved
            if wanted <= free > 0:
                self.reserved += wanted
                return [wanted]
        raise BudgetExceeded(
            f"the budget of {usd(self.limit or 0)} has {usd(max(0, int(free)))} left and the next "
            f"call may cost {usd(wanted)}: the call was not made"
        )

    def settle(self, reservation: Reservation, charge: int | None) -> None:
        """Replace `reservation` by its charge; None is unknown. Settling again does nothing."""
        with self._lock:
            if not reservation:
                return
            self.reserved -= reservation.pop()
            if charge is None:
                self.unknown_charges += 1
            else:
                self.spent += charge
                self._room -= charge

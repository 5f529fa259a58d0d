"""The budget of one run: reserve before the call, settle after it.

Rule: at every instant spent + reserved ≤ limit, whatever the threads do; a call whose reservation
does not fit is never made. Settling an attempt twice counts once.

All of it hangs on one number: what is still free. CPython with its global lock hands over to
another thread when something is called, a loop goes round or a new line is traced, and nowhere
else: an assignment of one line that calls nothing is atomic, at a third of the price of a lock.
`tests/cost` holds that nothing else has come into those lines. Elsewhere there is `LockedLedger`.
"""

from __future__ import annotations

import sys
import threading

from towerkit.core.errors import BudgetExceeded

NANO = 1_000_000_000
_NO_LIMIT = 1 << 62  # nano-US-dollars: more than there are


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

    `spent` is the sum of known charges, `unknown_charges` counts those without a known price.
    """

    __slots__ = ("_free", "limit", "spent", "unknown_charges")

    def __init__(self, limit: int | None) -> None:
        """Start empty; `ledger_of` chooses the class."""
        self.limit = limit
        self.spent = self.unknown_charges = 0
        self._free = _NO_LIMIT if limit is None else limit

    @property
    def reserved(self) -> int:
        """The sum of open reservations."""
        return (_NO_LIMIT if self.limit is None else self.limit) - self.spent - self._free

    def reserve(self, amount: int | None) -> Reservation:
        """Set `amount` aside and return the reservation, to settle it by.

        Raises `BudgetExceeded`, and sets nothing aside, when it does not fit. An unknown amount
        (None: no price for the model) reserves nothing, but is refused once the budget is spent.
        """
        wanted = amount or 0
        self._free -= wanted if (fits := wanted <= self._free > 0) else 0
        if fits:
            return [wanted]
        raise BudgetExceeded(
            f"the budget of {usd(self.limit or 0)} has {usd(max(0, self._free))} left and the next "
            f"call may cost {usd(wanted)}: the call was not made",
            cap=self.limit, left=max(0, self._free), wanted=wanted,
        )  # fmt: skip

    def grow(self, reservation: Reservation, amount: int) -> None:
        """Set more aside for an open reservation; raises `BudgetExceeded` when it does not fit."""
        reservation[0] += self.reserve(amount).pop()

    def settle(self, reservation: Reservation, charge: int | None) -> None:
        """Replace `reservation` by its charge; None is unknown. Settling again does nothing."""
        try:
            back = reservation.pop()
        except IndexError:
            return
        if charge is None:
            self.unknown_charges += 1
        else:
            self.spent += charge
            back -= charge
        self._free += back


class LockedLedger(Ledger):
    """The same, where threads run Python at once."""

    __slots__ = ("_lock",)

    def __init__(self, limit: int | None) -> None:
        """Start empty."""
        super().__init__(limit)
        self._lock = threading.RLock()  # the collector of garbage may settle within it

    def reserve(self, amount: int | None) -> Reservation:
        """Set `amount` aside, alone."""
        with self._lock:
            return super().reserve(amount)

    def settle(self, reservation: Reservation, charge: int | None) -> None:
        """Settle, alone."""
        with self._lock:
            super().settle(reservation, charge)


def _one_at_a_time() -> bool:
    """Return whether this Python runs one thread at a time, and switches where CPython does."""
    locked = getattr(sys, "_is_gil_enabled", None)
    return sys.implementation.name == "cpython" and (locked is None or locked())


def ledger_of(limit: int | None) -> Ledger:
    """Return an empty ledger that holds on this Python."""
    return Ledger(limit) if _one_at_a_time() else LockedLedger(limit)

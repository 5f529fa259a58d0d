"""Whether an attempt fits its budget in another world.

Rule: a walk makes no attempt that is not in the record, so no account has more used of it than it
had then. Whatever fitted fits again while the attempts of its call are those of the record and its
limits are the same. A recorded refusal, and the way out of it, stands only while nothing differs:
with less used before it might not have come.
"""

from __future__ import annotations

from towerkit.whatif.bounds import ZERO, Bounds, just
from towerkit.whatif.ends import OpenEnd
from towerkit.whatif.money import Money
from towerkit.whatif.record import Call, Plan, Record
from towerkit.whatif.world import World


class Budgeted:
    """The budget as one call of a walk meets it; see `CallWalk` for what it is given."""

    def __init__(
        self, call: Call, record: Record, world: World, money: Money, *, spent: Bounds,
        spent_then: int, reserved: Bounds, calm: bool, lenient: bool,
    ) -> None:  # fmt: skip
        self._call, self._record, self._world, self._money = call, record, world, money
        self._spent, self._spent_then, self._reserved = spent, spent_then, reserved
        self._calm, self._lenient = calm, lenient
        self._met = 0  # of the call's recorded refusals

    def ask(self, key: str, *, made: int, in_step: bool, timely: bool, cost: Bounds) -> bool | int:
        """Return whether an attempt on `key` may be made, or the tier it goes to instead.

        `made` attempts of the call went before it, for `cost`; `in_step` says that they are the
        recorded ones, `timely` that nothing of the call is at another time.
        """
        plan, limit = self._record.plan, self._world.limit(self._record)
        same = limit == self._record.budget_nanousd and self._world.price_at_ns is None
        if plan is not None:
            if same and self._calm and in_step and timely:
                return self._as_recorded(made)
            self._open(plan, made, in_step=in_step)
        if limit is None or (plan is not None and same):
            return True
        stands = self._as_then(limit, key, made, cost, in_step=in_step)
        if stands is None and plan is not None and plan.ladder:
            raise OpenEnd(
                "its budget sets all attempts of a call aside at once: how much is unknown"
            )
        ways = "" if plan is None or self._call.operation == "tool" else " or ".join(plan.ways)
        try:
            if stands is None:
                stands = self._fits(limit, self._money.worst(self._call, key), cost)
        except OpenEnd as stop:
            raise OpenEnd(stop.reason, unaffordable=stop.unaffordable and not ways) from None
        if not stands and ways:
            raise OpenEnd(f"it does not fit, and what {ways} would bring was not seen")
        return stands

    # -- limits of parts, tools and tenants, and ways out ---------------------------------------

    def _as_recorded(self, made: int) -> bool | int:
        """Go where the recorded call went: nothing that any account knows is different."""
        while self._met < len(self._call.shorts):
            short = self._call.shorts[self._met]
            if short.after != made:
                break
            self._met += 1
            if short.way is None:
                return False
            if short.tier is not None:
                return short.tier
        return True

    def _open(self, plan: Plan, made: int, *, in_step: bool) -> None:
        """Raise where a limit other than the run's own cost may decide otherwise now."""
        short = next((s for s in self._call.shorts[self._met :] if s.after == made), None)
        if short is not None:
            raise OpenEnd(
                f"{short.account} had too little {short.limit} left then; what it has now depends "
                "on what was used before"
            )
        if plan.timed:
            raise OpenEnd("how much time its budget has left depends on what went before")
        if plan.shared:
            raise OpenEnd("what its budget above the run has left depends on other runs")
        if plan.priced and self._world.price_at_ns is not None:
            raise OpenEnd("what is left of a part's or a tool's budget depends on the prices")
        if plan.counted and (not in_step or self._record.parallel):
            raise OpenEnd(
                "what is left of a part's or a tool's budget depends on the order of calls"
            )

    # -- the limit on the run's cost -------------------------------------------------------------

    def _as_then(
        self, limit: int, key: str, made: int, cost: Bounds, *, in_step: bool
    ) -> bool | None:
        """Return whether what the ledger said then decides it: no less is free now, or no more."""
        call, then = self._call, self._record.budget_nanousd
        moved = self._reserved != ZERO and not self._calm
        if then is None or moved or not in_step or self._world.price_at_ns is not None:
            return None
        mine = sum(c.nanousd or 0 for t in call.tries[:made] for c in t.charges)
        more = self._spent + cost + just(-self._spent_then - mine)
        following = call.tries[made] if made < len(call.tries) else None
        if following is not None:
            fitted = following.key == key and more.high is not None
            return True if fitted and limit - then >= (more.high or 0) else None
        if call.error_class == "budget_exceeded" and limit - then <= more.low:
            return False
        return None

    def _fits(self, limit: int, worst: Bounds | None, cost: Bounds) -> bool:
        """Return whether a reservation fits: `Ledger.reserve`, over intervals."""
        used = self._spent + cost + self._reserved
        if used.high is None:
            # A charge without a known price counts nothing in the ledger.
            used = Bounds(used.low, used.low if self._reserved.high is not None else None)
        least, most = (0, None) if worst is None else (worst.low, worst.high)
        free_high = limit - used.low
        if free_high <= 0 or least > free_high:
            return False
        free_low = None if used.high is None else limit - used.high
        if free_low is not None and most is not None and most <= free_low > 0:
            return True
        if self._lenient:
            return True
        raise OpenEnd(
            "whether its reservation fits the budget is not in the record", unaffordable=True
        )

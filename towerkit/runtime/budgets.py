"""The budgets of a run at work: what a call sets aside, what is done when that does not fit.

Rule: first in the run's own accounts, then above the run; a call that is refused anywhere has set
nothing aside. A refusal depends on other calls and other runs, so it is an input: it stands on the
tape, and a replay takes it from there and enforces no amounts of its own.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from towerkit.core.errors import UsageError
from towerkit.core.types import Usage
from towerkit.cost.budget import Account, Amount, Chain, Claim, Limits, Purse, Shortage
from towerkit.cost.plan import Budget, Way
from towerkit.reliability.policy import CallState
from towerkit.runtime.current import OPEN, Open
from towerkit.runtime.executor import Attempt
from towerkit.runtime.shared_budgets import Ask, SharedBudgets
from towerkit.runtime.step import Step

if TYPE_CHECKING:
    from towerkit.runtime.call import Call
    from towerkit.runtime.run import Run

MIN_OUTPUT = 16  # fewer tokens than this are no answer: a call is not clamped below
GRACE_S = 5.0  # how long after its time-out a reservation above the run stays its holder's
_SHOWN = {"clamp": "max_tokens", "cheaper": "tier"}
_MAKING = threading.Lock()


class Budgets:
    """The accounts of one run, and the windows above it."""

    def __init__(self, run: Run, plan: Budget, shared: SharedBudgets | None) -> None:
        """Open the run's account now."""
        self.run, self.plan, self.shared = run, plan, shared
        self.purse = Purse(run.ledger, self.enforced(plan.run), run.env.mono_ns())
        self.windows = [] if shared is None or not run.executor.enforces else _windows(run, plan)

    def enforced(self, limits: Limits) -> Limits:
        """Return what of `limits` is held here: a replay's amounts are the tape's business."""
        if self.run.executor.enforces:
            return limits
        return Limits(wall_s=limits.wall_s, working_s=limits.working_s)

    def chain(self) -> Chain:
        """Return the accounts that are open here, in this thread or task: the innermost first."""
        here = OPEN.get()
        while here is not None:
            if here.run is self.run and here.chain:
                return here.chain
            here = here.outer
        return (self.purse.run,)

    def chain_of(self, name: str) -> Chain:
        """Return the accounts of a call of the tool `name`, and of what it does."""
        limits = self.plan.tools.get(name)
        if limits is None:
            return self.chain()
        tool = self.purse.tool(name, self.enforced(limits), self.run.env.mono_ns())
        chain = self.chain()
        return chain if tool in chain else (tool, *chain)  # a tool that calls itself

    @contextlib.contextmanager
    def inside(self, name: str) -> Iterator[None]:
        """Open the accounts of the tool `name` around what it does."""
        if name not in self.plan.tools:
            yield
            return
        span, path = self.run.here()
        token = OPEN.set(Open(self.run, span, path, OPEN.get(), self.chain_of(name)))
        try:
            yield
        finally:
            OPEN.reset(token)


def budgets_of(run: Run, plan: Budget, shared: SharedBudgets | None) -> Budgets | None:
    """Return the budgets of a new run; None where its ledger alone holds them."""
    return None if plan.plain else Budgets(run, plan, shared)


def _windows(run: Run, plan: Budget) -> list[Ask]:
    found = []
    for window in plan.above:
        value = run.identity.get(window.scope)
        if value is None:
            raise UsageError(
                f"expected tower.run(…, {window.scope}=…): the budget has a limit a {window.scope}"
            )
        key = f"{window.scope}={value}/{window.per}"
        found.append(Ask(key, window.per, window.limits.amount))
    return found


class Part(Step):
    """A step with limits of its own: `with run.budget("researcher", calls=5):`."""

    __slots__ = ("_limits",)

    def __init__(self, run: Run, name: str, limits: Limits) -> None:
        """Use `Run.budget`."""
        held = {k: v for k in limits.__struct_fields__ if (v := getattr(limits, k)) is not None}
        super().__init__(run, name, {"budget": held})
        self._limits = limits

    def chain(self) -> Chain:
        """Open the account; called when the step begins."""
        run = self._run
        with _MAKING:
            if run.budgets is None:
                run.budgets = Budgets(run, run.tower.budget, None)
        budgets = run.budgets
        # The span's name is redacted: an account is named on the tape, and in the log.
        account = Account(self._span.name, budgets.enforced(self._limits), run.env.mono_ns())
        return (account, *budgets.chain())


def lease_of(run_id: str, seq: int, attempt: int) -> str:
    """Return how leases of an attempt are called: `attempt` counts from 0 in the call `seq`."""
    return f"{run_id}.{seq}.{attempt}"


class CallBudget:
    """What one call has to do with the budgets of its run."""

    def __init__(
        self, budgets: Budgets, call: Call, state: CallState, *, attempts: int, seq: int
    ) -> None:
        """Take the accounts that are open here.

        `attempts` is the most the call may make, `seq` the number of its span.
        """
        self._budgets, self._purse, self._call = budgets, budgets.purse, call
        self.chain = call.chain(budgets)
        self._rungs = attempts if budgets.plan.ladder and state.idempotent else 1
        self._ladder: list[Claim] | None = None
        self._seq, self._made = seq, 0  # its span, and how many attempts it has made
        self._compacted = False

    # -- time ------------------------------------------------------------------------------------

    def late(self, now_ns: int) -> Shortage | None:
        """Return which limit on time has least left; None where there is no limit."""
        return self._purse.late(self.chain, now_ns)

    def clocked(self, now_ns: int, **change: int) -> None:
        """Note that the call begins or ends to wait, or to be under way."""
        self._purse.clocked(self.chain, now_ns, **change)

    # -- setting aside ---------------------------------------------------------------------------

    def claim(self, what: Attempt, state: CallState, now_ns: int, left_s: float) -> Claim:
        """Set aside what an attempt may use, or raise `BudgetExceeded`."""
        late = self.late(now_ns)
        if late is not None and late.left <= 0:
            raise msgspec.structs.replace(late, left=0).refusal()
        if self._ladder:
            rung = self._rung(self._ladder.pop(), GRACE_S + left_s)
            self._made += 1
            return rung
        many = self._rungs if self._ladder is None else 1
        wanted, cost = self._wanted(state, every_tier=many > 1)
        claims = self._purse.reserve(self.chain, wanted, cost=cost, claims=many)
        whole = what.stream or what.inline or many > 1
        try:
            self._share(claims, GRACE_S + (left_s if whole else what.timeout_s))
        except BaseException:
            for claim in claims:
                self._release(claim)
            raise
        self._ladder = claims[:0:-1]
        self._made += 1
        return claims[0]

    def _rung(self, claim: Claim, lease_s: float) -> Claim:
        """Return what was set aside for this attempt before the first one.

        Above the run it is set aside anew where its lease has ended: the process stood still.
        """
        shared = self._budgets.shared
        if claim.shared is not None and shared is not None and not shared.begin(claim.shared):
            shared.settle(claim.shared, Amount())
            claim.shared = None
            try:
                self._share([claim], lease_s)
            except BaseException:
                self._release(claim)
                raise
        return claim

    def _wanted(self, state: CallState, *, every_tier: bool) -> tuple[Amount, int | None]:
        """Return the most an attempt may use, and its price: on this tier, or on the dearest."""
        tiers = range(state.tier, state.tiers) if every_tier else (state.tier,)
        states = [msgspec.structs.replace(state, tier=tier) for tier in tiers]
        known = [cost for s in states if (cost := self._call.worst_case(s)) is not None]
        cost = max(known, default=None)
        tokens = [t for s in states if (t := self._call.most_tokens(s)) is not None]
        if not tokens:
            return Amount(cost_nanousd=cost or 0, tool_calls=1), cost
        most_in, most_out = max(t[0] for t in tokens), max(t[1] for t in tokens)
        return Amount(cost or 0, most_in, most_out, calls=1), cost

    def _share(self, claims: list[Claim], lease_s: float) -> None:
        """Set aside above the run; the first attempt is made now, the others maybe never."""
        windows, shared = self._budgets.windows, self._budgets.shared
        if not windows or shared is None:
            return
        for i, claim in enumerate(claims):
            whose = lease_of(self._budgets.run.run_id, self._seq, self._made + i)
            found = shared.reserve(windows, claim.amount, lease_s, whose=whose, begun=i == 0)
            if isinstance(found, Shortage):
                raise found.refusal()
            claim.shared = found

    def _release(self, claim: Claim) -> None:
        if self._purse.release(claim) and claim.shared is not None and self._budgets.shared:
            self._budgets.shared.settle(claim.shared, Amount())

    def grow(self, claim: Claim, cost: int | None, output_tokens: int) -> None:
        """Set more aside for a stream that says more than it was asked for, or raise."""
        self._purse.grow(claim, Amount(cost or 0, 0, output_tokens))

    def settle(self, claim: Claim, charge: int | None, usage: Usage | None) -> None:
        """Replace what was set aside by what was used. Settling again does nothing."""
        usage = usage or Usage()
        used = Amount(
            charge or 0, usage.input_tokens or 0, usage.output_tokens or 0,
            claim.amount.calls, claim.amount.tool_calls,
        )  # fmt: skip
        first, shared = self._purse.settle(claim, used, cost=charge), self._budgets.shared
        if first and claim.shared is not None and shared is not None:
            shared.settle(claim.shared, used)

    def end(self) -> None:
        """Give back what attempts that were not needed had set aside."""
        for claim in self._ladder or ():
            self._release(claim)
        self._ladder = []

    # -- when it does not fit --------------------------------------------------------------------

    def way_out(
        self, what: Attempt, short: Shortage, state: CallState, note: Callable[..., None]
    ) -> int | None:
        """Make the call smaller, or return a cheaper tier; raise where nothing helps.

        None means: ask again, for less. What a way comes to is on the tape: it depends on the size
        of what is sent, and that changes with redaction.
        """
        # Before the first attempt, what is left has to do for all that the call may need.
        rungs = self._rungs if self._ladder is None else 1
        each = msgspec.structs.replace(short, left=short.left / rungs)
        for way in self._budgets.plan.ways:
            found = self._taken(way, what, each, state)
            if found is not None:
                said = {"account": short.account, "limit": short.limit, "left": short.left}
                shown = {} if way == "compact" else {_SHOWN[way]: found}
                note(way, "budget_exceeded", **shown, **said)
                return found if way == "cheaper" else None
        raise short.refusal()

    def _taken(self, way: Way, what: Attempt, short: Shortage, state: CallState) -> Any:
        """Try one way out; return what came of it, None where it does not help."""
        call = self._call
        if way == "cheaper":
            if short.limit != "cost_usd" or state.tier + 1 >= state.tiers:
                return None
            return self._read(way, what, lambda: self._cheaper(short, state))
        if not call.ours:
            return None
        if way == "clamp":
            most = self._read(way, what, lambda: call.fits(state, short, MIN_OUTPUT))
            if most is not None:
                call.shrink(max_tokens=most)
            return most
        if self._compacted or short.limit not in {"cost_usd", "input_tokens"}:
            return None
        self._compacted = True
        kept = self._read(way, what, lambda: call.fewer(self._budgets.plan.compact))
        if kept is not None:
            call.shrink(messages=kept)
        return kept

    def _read(self, way: Way, what: Attempt, find: Callable[[], Any]) -> Any:
        return self._budgets.run.reading(f"{way} {what.request_digest}", find)

    def _cheaper(self, short: Shortage, state: CallState) -> int | None:
        """Return the next tier whose price is known and fits what is left."""
        for tier in range(state.tier + 1, state.tiers):
            cost = self._call.worst_case(msgspec.structs.replace(state, tier=tier))
            if cost is not None and cost <= short.left:
                return tier
        return None

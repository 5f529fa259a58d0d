"""What a run may use: limits on money, tokens, calls and time, for the run and for parts of it.

Rule: a call sets aside what it may use at most in every account it belongs to, or in none. At every
instant spent + reserved ≤ limit in each; a claim is settled once, whoever reports it and however
often. Pure: times are the caller's monotonic clock, and nothing here waits.

    account   whose                                  opened by
    run       everything of the run                  `Tower(budget=Budget(run=Limits(…)))`
    part      what an agent does inside a block      `with run.budget("researcher", calls=5):`
    tool      what a tool does, in all its calls     `Budget(tools={"search": Limits(…)})`

The money of the run is in its `Ledger`; a run that limits nothing else has no `Purse` at all.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec

from towerkit.core.errors import BudgetExceeded, UsageError
from towerkit.cost.ledger import NANO, Ledger, Reservation, usd


class Amount(NamedTuple):
    """What a call uses, or may use. `calls` are requests to models, `tool_calls` runs of tools."""

    cost_nanousd: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    tool_calls: int = 0


NOTHING = Amount()
RUN = "the run"
COST = 0  # where money stands in an amount
# The limit of each part of an amount, in its order.
COUNTED = ("cost_usd", "input_tokens", "output_tokens", "calls", "tool_calls")
TIMED = ("wall_s", "working_s")
UNREACHABLE = "no answer"  # in place of a limit: who keeps it did not say


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The most an account may use; None is no limit.

    `calls` counts requests to models and `tool_calls` runs of tools, retries included. `wall_s`
    runs from where the account is opened; `working_s` stands still while calls wait to be retried
    and none is under way. Raises `UsageError` for a limit that is not above zero.
    """

    cost_usd: float | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    calls: int | None = None
    tool_calls: int | None = None
    wall_s: float | None = None
    working_s: float | None = None

    def __post_init__(self) -> None:
        """Check each limit."""
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e15:
                raise UsageError(f"expected a limit {name} above 0, got {value!r}")

    @property
    def amount(self) -> tuple[int | None, ...]:
        """The limits of what is counted, in the order of `Amount`."""
        cost = None if self.cost_usd is None else round(self.cost_usd * NANO)
        return (cost, self.input_tokens, self.output_tokens, self.calls, self.tool_calls)


def limits_of(given: Mapping[str, float]) -> Limits:
    """Return limits given by keyword; raises `UsageError` for a name that is none."""
    unknown = [name for name in given if name not in Limits.__struct_fields__]
    if unknown:
        raise UsageError(
            f"expected limits of {', '.join(Limits.__struct_fields__)}, got {', '.join(unknown)}"
        )
    return Limits(**given)  # type: ignore[arg-type]


class Shortage(msgspec.Struct, frozen=True):
    """Why a claim did not fit: which limit of which account, what it had left, what was wanted."""

    account: str
    limit: str
    cap: float
    left: float
    wanted: float

    def refusal(self) -> BudgetExceeded:
        """Return the error that says so."""
        parts = (self.cap, self.left, self.wanted)
        if self.limit == UNREACHABLE:
            text = f"{self.account} does not answer: the call was not made"
        elif self.limit == "cost_usd":
            cap, left, wanted = (usd(round(part)) for part in parts)
            whose = "" if self.account == RUN else f" of {self.account}"
            text = (
                f"the budget{whose} of {cap} has {left} left and the next call may cost {wanted}: "
                "the call was not made"
            )
        else:
            cap, left, wanted = (f"{part:g}" for part in parts)
            text = (
                f"{self.account} has {left} of {cap} {self.limit} left and the next call may use "
                f"{wanted}: the call was not made"
            )
        return BudgetExceeded(
            text, account=self.account, limit=self.limit, cap=self.cap, left=self.left,
            wanted=self.wanted,
        )  # fmt: skip


def shortage_of(error: BudgetExceeded) -> Shortage:
    """Return what a refusal says."""
    return Shortage(error.account, error.limit, error.cap or 0, error.left or 0, error.wanted or 0)


class Account:
    """What one run, part or tool has used and set aside, and since when it is open."""

    __slots__ = (
        "_caps", "_idle_since", "_start_ns", "_still_ns", "_under_way", "_waiting", "limits",
        "name", "reserved", "spent",
    )  # fmt: skip

    def __init__(self, name: str, limits: Limits, now_ns: int) -> None:
        """Open it now."""
        self.name, self.limits = name, limits
        self._caps = [(i, cap) for i, cap in enumerate(limits.amount) if cap is not None]
        self.spent, self.reserved = list(NOTHING), list(NOTHING)
        self._start_ns = now_ns
        self._waiting = self._under_way = 0
        self._still_ns = 0  # how long it stood still: calls waited and none was under way
        self._idle_since: int | None = None

    def short(self, wanted: Sequence[int]) -> Shortage | None:
        """Return which limit a claim would pass; None where it fits.

        An account that is overspent takes nothing more, and one without money no model call, even
        where nobody knows what that would cost.
        """
        for i, cap in self._caps:
            left = cap - self.spent[i] - self.reserved[i]
            if wanted[i] > left or left < 0 or (i == COST and left == 0):
                return Shortage(self.name, COUNTED[i], cap, max(0, left), wanted[i])
        return None

    def late(self, now_ns: int) -> Shortage | None:
        """Return which limit on time has least left, in seconds; None where time has none."""
        used = now_ns - self._start_ns
        still = self._still_ns
        if self._idle_since is not None:
            still += now_ns - self._idle_since
        times = (self.limits.wall_s, used), (self.limits.working_s, used - still)
        left = [
            Shortage(self.name, name, cap, cap - ns / NANO, 0)
            for name, (cap, ns) in zip(TIMED, times, strict=True)
            if cap is not None
        ]
        return min(left, key=attrgetter("left"), default=None)

    def clocked(self, now_ns: int, *, waiting: int = 0, under_way: int = 0) -> None:
        """Note that a call begins or ends to wait, or to be under way."""
        self._waiting += waiting
        self._under_way += under_way
        idle = self._waiting > 0 and self._under_way == 0
        if idle and self._idle_since is None:
            self._idle_since = now_ns
        elif not idle and self._idle_since is not None:
            self._still_ns += now_ns - self._idle_since
            self._idle_since = None


Chain = tuple[Account, ...]  # the accounts a call belongs to, the innermost first, the run last


class Claim:
    """What is set aside for one attempt, until it is settled. `shared` names it above the run."""

    __slots__ = ("amount", "chain", "held", "open", "shared")

    def __init__(self, chain: Chain, amount: Amount, held: Reservation) -> None:
        """Use `Purse.reserve`."""
        self.chain, self.amount, self.held, self.open = chain, amount, held, True
        self.shared: str | None = None


class Purse:
    """The accounts of one run. One lock: a claim is taken in all of its accounts at once."""

    def __init__(self, ledger: Ledger, limits: Limits, now_ns: int) -> None:
        """Open the run's account; its money stays in `ledger`."""
        self.ledger = ledger
        # One thread may come twice: a stream that the collector of garbage finds while a claim is
        # made is settled within it.
        self._lock = threading.RLock()
        self.run = Account(RUN, msgspec.structs.replace(limits, cost_usd=None), now_ns)
        self._tools: dict[str, Account] = {}

    def tool(self, name: str, limits: Limits, now_ns: int) -> Account:
        """Return the account of a tool; it is opened by its first call."""
        with self._lock:
            if name not in self._tools:
                self._tools[name] = Account(f"tool {name}", limits, now_ns)
            return self._tools[name]

    def reserve(
        self, chain: Chain, wanted: Amount, *, cost: int | None, claims: int = 1
    ) -> list[Claim]:
        """Set `wanted` aside in every account, `claims` times over, or raise `BudgetExceeded`.

        `cost` None is an unknown price: nothing is set aside for it, but an account that has no
        money left refuses.
        """
        whole = wanted if claims == 1 else [claims * part for part in wanted]
        held: list[Reservation] = []
        with self._lock:
            for account in chain:
                short = account.short(whole)
                if short is not None:
                    raise short.refusal()
            try:
                for _ in range(claims):
                    held.append(self.ledger.reserve(cost))  # noqa: PERF401  kept if one is refused
            except BudgetExceeded:
                for one in held:
                    self.ledger.settle(one, 0)
                raise
            for account in chain:
                _add(account.reserved, whole)
        return [Claim(chain, wanted, one) for one in held]

    def grow(self, claim: Claim, more: Amount) -> None:
        """Set more aside for an open claim, in all of its accounts, or raise `BudgetExceeded`."""
        with self._lock:
            for account in claim.chain:
                short = account.short(more)
                if short is not None:
                    raise short.refusal()
            self.ledger.grow(claim.held, more.cost_nanousd)
            for account in claim.chain:
                _add(account.reserved, more)
            claim.amount = Amount(*map(sum, zip(claim.amount, more, strict=True)))

    def settle(self, claim: Claim, used: Amount, *, cost: int | None) -> bool:
        """Replace a claim by what was used; return whether this was the first report of it."""
        with self._lock:
            if not claim.open:
                return False
            claim.open = False
            back = [-part for part in claim.amount]
            for account in claim.chain:
                _add(account.reserved, back)
                _add(account.spent, used)
            self.ledger.settle(claim.held, cost)
        return True

    def release(self, claim: Claim) -> bool:
        """Give back a claim whose call was never made."""
        return self.settle(claim, NOTHING, cost=0)

    def clocked(self, chain: Chain, now_ns: int, *, waiting: int = 0, under_way: int = 0) -> None:
        """Note that a call begins (1) or ends (-1) to wait, or to be under way."""
        with self._lock:
            for account in chain:
                account.clocked(now_ns, waiting=waiting, under_way=under_way)

    def late(self, chain: Chain, now_ns: int) -> Shortage | None:
        """Return which limit on time has least left, in seconds; None without any."""
        with self._lock:
            left = [late for account in chain if (late := account.late(now_ns)) is not None]
        return min(left, key=attrgetter("left"), default=None)


def _add(to: list[int], parts: Sequence[int]) -> None:
    # Written out: a loop of five costs four times as much, and each call does it many times.
    to[0] += parts[0]
    to[1] += parts[1]
    to[2] += parts[2]
    to[3] += parts[3]
    to[4] += parts[4]

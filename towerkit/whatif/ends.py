"""How a call may end under another policy, and what is asked of those that share its tower.

Rule: a walk asks by what it yields (`Ask`) and is sent an answer; None is "as it was recorded".
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Literal, TypeVar

import msgspec

from towerkit.reliability.breaker import Outcome, Permit
from towerkit.whatif.bounds import Bounds
from towerkit.whatif.world import Spending, Touch


class Began(msgspec.Struct, frozen=True):
    """A call begins."""

    at: Bounds


class Acquire(msgspec.Struct, frozen=True):
    """May an attempt on `key` be made? Answered with a permit, a refusal, or None."""

    at: Bounds
    key: str


class Settle(msgspec.Struct, frozen=True):
    """An attempt is over; `throttle_s` is how long its provider asked to be left alone."""

    at: Bounds
    key: str
    permit: Permit
    outcome: Outcome
    took_ns: int
    throttle_s: float


class Take(msgspec.Struct, frozen=True):
    """May another request be sent? Answered with the tokens granted, 0 for none, or None."""

    at: Bounds
    tokens: int


class Answered(msgspec.Struct, frozen=True):
    """A call ended well after retries of so many tokens."""

    at: Bounds
    tokens: int


Ask = Began | Acquire | Settle | Take | Answered
T = TypeVar("T")
# What a walk yields and is sent; the answers are as each `Ask` says.
Steps = Generator[Ask, Any, T]

# How an attempt counts for its breaker, by what the taxonomy's row says: as in the guard.
OUTCOMES: dict[str, Outcome] = {
    "failure": "failure", "neutral": "success", "uncounted": "uncounted", "throttle": "uncounted",
}  # fmt: skip


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt that would have to be made to know more, and what it would cost.

    `estimate_nanousd` is by the call's recorded usage, `worst_nanousd` what the guard would
    reserve; None where no price or no size is known.
    """

    run_id: str
    span_id: str
    call: str
    model: str
    reason: str
    estimate_nanousd: int | None
    worst_nanousd: int | None


class Walked(msgspec.Struct, frozen=True, kw_only=True):
    """What a call becomes.

    `outcome` says whether the agent gets what it got: `same`, `other`, or `open` where that is not
    decided; `reason` says why.
    `took` and `cost` are of what surely happens. `fails` and `breached` None are not decided.
    `changed` says that anything differs from the record. `unaffordable` says that all that is open
    is whether the budget allowed the next attempt. `turned` are the refusals that a walk through
    shared breakers gave, by key and time; the key None is the retry budget's.
    """

    outcome: Literal["same", "other", "open"]
    reason: str | None
    took: Bounds
    cost: Bounds
    fails: bool | None
    breached: bool | None
    fell_back: bool
    changed: bool
    touches: tuple[Touch, ...]
    spending: Spending
    live: Live | None
    unaffordable: bool = False
    turned: tuple[tuple[str | None, Bounds], ...] = ()


class OpenEnd(Exception):
    """The record does not decide what comes next."""

    def __init__(self, reason: str, live: str | None = None, *, unaffordable: bool = False) -> None:
        super().__init__(reason)
        self.reason, self.live, self.unaffordable = reason, live, unaffordable


class Limit(msgspec.Struct, frozen=True):
    """Between what the time lies that an attempt may take."""

    low: int
    high: int


class End(msgspec.Struct, frozen=True):
    """How a call ends, comparable with how it did: an answer, or an error as the agent sees it."""

    what: str
    name: str
    type: str | None = None
    message: str | None = None

"""What the guard's loop wants to know of a call, whatever is called.

Rule: a call knows how to describe itself on a span, what it may cost, how to run once, and what an
attempt was charged. It decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from towerkit.core.types import Message, Usage
from towerkit.cost.budget import Chain, Shortage
from towerkit.reliability.classify import Failure
from towerkit.reliability.policy import CallState
from towerkit.runtime.executor import Attempt
from towerkit.telemetry.recorder import OpenSpan

if TYPE_CHECKING:
    from towerkit.runtime.budgets import Budgets

Compact = Callable[[Sequence[Message]], Sequence[Message]]


class Call(Protocol):
    """One logical call, as the guard's loop sees it.

    `used` is what its last attempt used; `ours` says whether its request is ours to make smaller:
    other code's is sent as it is.
    """

    fallback_reason: str | None
    used: Usage | None
    ours: bool

    def simulated(self, state: CallState) -> bool:
        """Return whether a simulated model answers on this tier."""

    def columns(self, state: CallState) -> dict[str, Any]:
        """Return the call's columns of a span."""

    def attempt_name(self, state: CallState) -> str | None:
        """Return the name of an attempt's span; None where it is the call's."""

    def mark(self, span: OpenSpan) -> None:
        """Hear of the call's span, and of each attempt's, when it begins."""

    def what(self, state: CallState, path: str, seq: int, timeout_s: float) -> Attempt:
        """Return the attempt to carry out."""

    def run(self, state: CallState, timeout_s: float) -> Any:
        """Carry the call out once."""

    async def arun(self, state: CallState, timeout_s: float) -> Any:
        """Carry the call out once, on an event loop."""

    def breaker_key(self, state: CallState) -> str:
        """Return which breaker has a say."""

    def worst_case(self, state: CallState) -> int | None:
        """Return the most an attempt may cost in nano-US-dollars; None when no price is known."""

    def most_tokens(self, state: CallState) -> tuple[int, int] | None:
        """Return the most an attempt may read and write; None for what is no model's."""

    def chain(self, budgets: Budgets) -> Chain:
        """Return the accounts the call belongs to."""

    def fits(self, state: CallState, short: Shortage, least: int) -> int | None:
        """Return the most tokens to ask for so that `short` is none; None where it still would."""

    def fewer(self, compact: Compact) -> list[Message] | None:
        """Return what `compact` leaves of the messages; None where it leaves all of them."""

    def shrink(
        self, *, max_tokens: int | None = None, messages: Sequence[Message] | None = None
    ) -> None:
        """Send a smaller request from now on."""

    def judge(self, error: BaseException, now_unix_s: float) -> Failure:
        """Return which row of the taxonomy an attempt's error is."""

    def flaw(self, value: Any) -> Failure | None:
        """Return what an answer says of its own failure; None for a good one."""

    def learn(self, value: Any, digest: str | None) -> None:
        """Hear how the call ended: its answer and that one's digest, or None and None."""

    def renewal(self, state: CallState) -> Callable[[], object]:
        """Return how to get a fresh credential; asked where the state says there is a way."""

    def settle(
        self, span: OpenSpan, state: CallState, value: Any, failure: Failure | None
    ) -> int | None:
        """Record and return what an attempt was charged; None when that is unknown."""

    def tape_value(self, value: Any) -> Any:
        """Return what the tape keeps of an answer."""

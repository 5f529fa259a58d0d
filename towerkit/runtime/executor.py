"""How one attempt is carried out: live, or from a tape.

Rule: this is the seam between policy and world. Everything above it is the same in a live run and
in a replay.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from towerkit.core.env import Env
from towerkit.cost.budget import Shortage
from towerkit.faults.plan import FaultPlan
from towerkit.privacy.log import log
from towerkit.reliability.breaker import Breaker, Permit, Refusal, RetryBudget

# A recorded answer, the sizes of the chunks it came in, and what it ended with instead of well.
Served = Callable[[Any, list[int], BaseException | None], Any]


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One physical try: what is called, where in the agent, and under which digest.

    `span_seq` is the number of the call's span, which all tries of one call share. `inline` is a
    blocking tool that may not be moved to a thread of its own: it is not cut. `served` is told the
    recorded answer of a replay, its chunks and its failure, and returns what the call would have
    returned; None where the answer stands on the tape as it is. With `on_the_wire` the call itself
    is made after that, and reads the recorded answer where it would have read the network.
    """

    kind: str
    name: str
    path: str
    request_digest: str
    span_seq: int
    timeout_s: float
    stream: bool = False
    inline: bool = False
    served: Served | None = None
    on_the_wire: bool = False


class Executor(Protocol):
    """Carries attempts out and answers the agent's readings of clock, randomness and ids.

    `enforces` says whether amounts of budgets are held here; on a tape their refusals stand.
    """

    enforces: bool

    def attempt(self, what: Attempt, call: Callable[[], Any]) -> Any:
        """Return what `call` returns, or raise what it raises, within the time-out."""

    async def aattempt(self, what: Attempt, call: Callable[[], Awaitable[Any]]) -> Any:
        """Do the same on an event loop."""

    def admit(
        self, what: Attempt, breaker: Breaker, now_ns: int
    ) -> Permit | Refusal | Shortage | None:
        """Return whether the attempt may be made; None where no breaker has a say.

        A `Shortage` is a recorded refusal of the budget.
        """

    def short(self, what: Attempt) -> Shortage | None:
        """Return the recorded refusal of the budget that follows here, if one does."""

    def granted(self, what: Attempt, budget: RetryBudget, cost: int) -> int:
        """Return what the retry budget gave for another request, 0 when it refused."""

    def renewed(self, what: Attempt, renew: Callable[[], object]) -> bool:
        """Ask for a fresh credential, within the attempt's time-out; say whether there is one."""

    def reading(self, kind: str, name: str, path: str, read: Callable[[], Any]) -> Any:
        """Return a nondeterministic reading."""


class Live:
    """Attempts against the world, with the faults of a plan."""

    enforces = True

    def __init__(self, env: Env, faults: FaultPlan) -> None:
        """Run attempts under `env`'s clock."""
        self._env, self._faults = env, faults

    def attempt(self, what: Attempt, call: Callable[[], Any]) -> Any:
        """Run `call`, with injected faults, bounded by the attempt's time-out."""
        if self._faults.entries:
            call = self._faults.wrap(what.kind, what.name, call, self._env)
        return call() if what.inline else self._env.bounded(call, what.timeout_s)

    async def aattempt(self, what: Attempt, call: Callable[[], Awaitable[Any]]) -> Any:
        """Await `call`, with injected faults, bounded by the attempt's time-out."""
        if self._faults.entries:
            call = self._faults.awrap(what.kind, what.name, call, self._env)
        return await self._env.abounded(call, what.timeout_s)

    def admit(self, what: Attempt, breaker: Breaker, now_ns: int) -> Permit | Refusal | None:  # noqa: ARG002
        """Ask the breaker."""
        return breaker.shared or breaker.acquire(now_ns)

    def short(self, what: Attempt) -> Shortage | None:  # noqa: ARG002
        """Return None: the accounts say it themselves."""
        return None

    def granted(self, what: Attempt, budget: RetryBudget, cost: int) -> int:  # noqa: ARG002
        """Ask the budget."""
        return budget.take(cost)

    def renewed(self, what: Attempt, renew: Callable[[], object]) -> bool:
        """Call `renew`; what it raises is logged, and the refused key stays refused."""
        try:
            self._env.bounded(renew, what.timeout_s)
        except Exception:
            log.exception("no fresh credential for %s", what.name)
            return False
        return True

    def reading(self, kind: str, name: str, path: str, read: Callable[[], Any]) -> Any:  # noqa: ARG002
        """Read the world."""
        return read()

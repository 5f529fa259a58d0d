"""A storm of threads and tasks on one budget, and what must hold whatever they do."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from typing import NamedTuple

from towerkit.core.errors import BudgetExceeded
from towerkit.cost.budget import Account, Amount, Claim, Limits, Purse
from towerkit.cost.ledger import NANO, ledger_of


class Seen(NamedTuple):
    """What a storm did: operations, refusals, instants above a limit, and what was left."""

    operations: int
    refused: int
    over: int
    left_reserved: int
    sums_exact: bool


class ChargedAfterwards(Purse):
    """The usual way, as a control: a call is let through while money is left, and charged later."""

    def reserve(self, chain, wanted, *, cost, claims=1):
        """Look whether anything is left."""
        for account in chain:
            short = account.short([0] * 5)
            if short is not None:
                raise short.refusal()
        return [Claim(chain, wanted, [0]) for _ in range(claims)]

    def settle(self, claim, used, *, cost):
        """Charge what was used."""
        with self._lock:
            if not claim.open:
                return False
            claim.open = False
            for account in claim.chain:
                account.spent = [a + b for a, b in zip(account.spent, used, strict=True)]
        return True


class Storm:
    """Threads of tasks on one budget that holds half of what they would spend."""

    def __init__(self, *, threads: int, tasks: int, operations: int, ledger: type[Purse]) -> None:
        """Open the accounts; the control keeps the run's money in its account."""
        self.threads, self.tasks = threads, tasks
        self.each = operations // (threads * tasks)
        top = operations * 25
        limits = Limits(input_tokens=top, calls=operations)
        self.purse = ledger(ledger_of(top), limits, 0)
        self.parts = [
            Account(f"part {i}", Limits(cost_usd=top / 5 / NANO, output_tokens=top // 4), 0)
            for i in range(8)
        ]
        self.accounts = [self.purse.run, *self.parts]
        self.used: list[Amount] = []
        self.operations, self.refused, self.over = [], [], []

    async def work(self, rng: random.Random) -> None:
        """Make the calls of one task."""
        chain = (rng.choice(self.parts), self.purse.run)
        for _ in range(self.each):
            wanted = Amount(rng.randrange(200), rng.randrange(200), rng.randrange(200), 1, 0)
            self.operations.append(1)
            try:
                claim = self.purse.reserve(chain, wanted, cost=wanted.cost_nanousd)[0]
            except BudgetExceeded:
                self.refused.append(1)
                continue
            if rng.random() < 0.3:
                await asyncio.sleep(0)
            self.look(rng.choice(self.accounts))
            self.end(claim, rng)
            for account in chain:
                self.look(account)

    def look(self, account: Account) -> None:
        """Note every limit that is passed at this instant."""
        with self.purse._lock:
            self.over += [
                1 for i, cap in enumerate(account.limits.amount)
                if cap is not None and account.spent[i] + account.reserved[i] > cap
            ]  # fmt: skip

    def end(self, claim: Claim, rng: random.Random) -> None:
        """Break a call off, or report it: now and then three times."""
        fate = rng.random()
        if fate < 0.1:
            self.purse.release(claim)
            return
        used = Amount(*(int(part * rng.random()) for part in claim.amount[:3]), 1, 0)
        reports = [
            self.purse.settle(claim, used, cost=used[0]) for _ in range(1 + 2 * (fate > 0.7))
        ]
        self.used += [used for first in reports if first]

    def run(self, seed: int) -> Seen:
        """Let all of them go at once."""
        begin = threading.Barrier(self.threads)

        async def tasks(n: int) -> None:
            seeds = (seed * 10**6 + n * self.tasks + i for i in range(self.tasks))
            await asyncio.gather(*(self.work(random.Random(one)) for one in seeds))

        def thread(n: int) -> None:
            begin.wait()
            asyncio.run(tasks(n))

        started = [threading.Thread(target=thread, args=(n,)) for n in range(self.threads)]
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            for t in started:
                t.start()
            for t in started:
                t.join()
        finally:
            sys.setswitchinterval(before)
        total = [sum(parts) for parts in zip(*self.used, strict=True)]
        left = self.purse.ledger.reserved + sum(sum(a.reserved) for a in self.accounts)
        exact = self.purse.run.spent == total
        return Seen(len(self.operations), len(self.refused), len(self.over), left, exact)


def storm(
    *, threads: int, tasks: int, operations: int, seed: int, ledger: type[Purse] = Purse
) -> Seen:
    """Run a storm and return what it did."""
    return Storm(threads=threads, tasks=tasks, operations=operations, ledger=ledger).run(seed)

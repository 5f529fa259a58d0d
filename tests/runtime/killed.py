"""Processes that spend from one limit and are killed at random, and what their provider billed."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from towerkit.cost.budget import NOTHING, Amount, Shortage
from towerkit.runtime import redis_budgets, shared_budgets
from towerkit.runtime.shared_budgets import Ask, SharedBudgets, Standing

LEASE_S = 0.3


RUNGS = 8  # attempts set aside before the first one


def spend(make: Callable[[], SharedBudgets], ask: Ask, truth: Path, seed: int) -> None:
    """Call a provider that writes down what it bills, until the limit; die at any time.

    Most calls set more attempts aside than they make. What a call may cost is written down before.
    """
    store, rng = make(), random.Random(seed)
    with truth.open("ab", buffering=0) as book:
        while True:
            wanted, used = rng.randrange(50, 150), 0
            book.write(b"%d 0\n" % wanted)
            leases = rungs(store, ask, wanted, RUNGS if rng.random() < 0.8 else 1)
            if not leases:
                time.sleep(0.01)
                continue
            made = rng.randrange(len(leases)) + 1
            for i, lease in enumerate(leases[:made]):
                if i and not store.begin(lease):
                    store.settle(lease, NOTHING)
                    continue
                used = rng.randrange(wanted + 1)
                # The provider has done it, whatever becomes of us.
                book.write(b"%d %d\n" % (wanted, used))
                if rng.random() < 0.1:
                    time.sleep(0.02)
                store.settle(lease, Amount(used, calls=1))
            for lease in leases[made:]:
                store.settle(lease, NOTHING)


def rungs(store: SharedBudgets, ask: Ask, wanted: int, many: int) -> list[str]:
    """Set `wanted` aside `many` times, the first for a call made now; none where not all fit."""
    found: list[str] = []
    for i in range(many):
        lease = store.reserve([ask], Amount(wanted, calls=1), LEASE_S, begun=i == 0)
        if isinstance(lease, Shortage):
            for one in found:
                store.settle(one, NOTHING)
            return []
        found.append(lease)
    return found


def killed(
    make: Callable[[], SharedBudgets], bills: Path, kills: int, *, limit: int
) -> tuple[int, int, int]:
    """Kill `kills` of eight spenders, one after the other; return billed, counted and the limit.

    Asserts at every kill that spent + reserved ≤ limit; at the end that what was billed is counted,
    that no lease of the dead is left, and that no more was counted than was billed and what each of
    the dead had under way: what it had not begun came back.
    """
    ask = Ask("tenant=acme/day", "day", (limit, None, None, None, None))
    fork, seeds = multiprocessing.get_context("fork"), itertools.count()
    bills.mkdir()

    def start() -> multiprocessing.process.BaseProcess:
        seed = next(seeds)
        process = fork.Process(target=spend, args=(make, ask, bills / str(seed), seed), daemon=True)
        process.start()
        return process

    # A report that waits for a busy store dies with its holder: here the machine may be slow.
    patient = mock.patch.object(shared_budgets, "BUSY_S", 60.0)
    with patient, mock.patch.object(redis_budgets, "TIMEOUT_S", 60.0):
        now = _loop(make, ask, start, kills, limit)
    books = [[tuple(map(int, line.split())) for line in path.read_text().splitlines()]
             for path in bills.iterdir()]  # fmt: skip
    billed = sum(used for book in books for _, used in book)
    # Of the last attempt of each it is not known whether it was reported, or begun and not billed.
    under_way = sum(book[-1][0] for book in books if book)
    assert billed <= now.spent[0] <= limit
    assert now.spent[0] <= billed + under_way
    assert now.reserved == NOTHING
    return billed, now.spent[0], limit


def _loop(
    make: Callable[[], SharedBudgets], ask: Ask,
    start: Callable[[], multiprocessing.process.BaseProcess], kills: int, limit: int,
) -> Standing:  # fmt: skip
    """Kill and start anew; return what the store says when all are dead and their leases over."""
    rng, watch = random.Random(7), make()
    workers = [start() for _ in range(8)]
    for _ in range(kills):
        time.sleep(0.05)
        i = rng.randrange(8)
        _end(workers[i])
        workers[i] = start()
        now = watch.standing(ask.key, ask.per)
        assert now.spent[0] + now.reserved[0] <= limit
    for worker in workers:
        _end(worker)
    time.sleep(LEASE_S + 0.1)
    return watch.standing(ask.key, ask.per)


def _end(process: multiprocessing.process.BaseProcess) -> None:
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()

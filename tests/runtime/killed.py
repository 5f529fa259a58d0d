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

from towerkit.cost.budget import NOTHING, Amount, Shortage
from towerkit.runtime.shared_budgets import Ask, SharedBudgets

LEASE_S = 0.3


def spend(make: Callable[[], SharedBudgets], ask: Ask, truth: Path, seed: int) -> None:
    """Call a provider that writes down what it bills, until the limit; die at any time."""
    store, rng = make(), random.Random(seed)
    with truth.open("ab", buffering=0) as bills:
        while True:
            wanted = rng.randrange(50, 150)
            lease = store.reserve([ask], Amount(wanted, calls=1), LEASE_S)
            if isinstance(lease, Shortage):
                time.sleep(0.01)
                continue
            used = rng.randrange(wanted + 1)
            bills.write(b"%d\n" % used)  # the provider has done it, whatever becomes of us
            if rng.random() < 0.1:
                time.sleep(0.02)
            store.settle(lease, Amount(used, calls=1))


def killed(
    make: Callable[[], SharedBudgets], bills: Path, kills: int, *, limit: int
) -> tuple[int, int, int]:
    """Kill `kills` of eight spenders, one after the other; return billed, counted and the limit.

    Asserts at every kill that spent + reserved ≤ limit, and at the end that what was billed was
    counted and that no lease of the dead is left.
    """
    ask = Ask("tenant=acme/day", "day", (limit, None, None, None, None))
    fork, rng, seeds = multiprocessing.get_context("fork"), random.Random(7), itertools.count()
    bills.mkdir()

    def start() -> multiprocessing.process.BaseProcess:
        seed = next(seeds)
        process = fork.Process(target=spend, args=(make, ask, bills / str(seed), seed), daemon=True)
        process.start()
        return process

    def end(process: multiprocessing.process.BaseProcess) -> None:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()

    workers, watch = [start() for _ in range(8)], make()
    for _ in range(kills):
        time.sleep(0.05)
        i = rng.randrange(8)
        end(workers[i])
        workers[i] = start()
        now = watch.standing(ask.key, ask.per)
        assert now.spent[0] + now.reserved[0] <= limit
    for worker in workers:
        end(worker)
    time.sleep(LEASE_S + 0.1)
    now = watch.standing(ask.key, ask.per)
    billed = sum(int(line) for path in bills.iterdir() for line in path.read_text().split())
    assert billed <= now.spent[0] <= limit
    assert now.reserved == NOTHING
    return billed, now.spent[0], limit

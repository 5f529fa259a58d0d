"""What it costs to hold a budget, beside the cheapest thing that could hold one: a lock.

`run`: reserve + settle of the run's ledger, which is all that a call pays where only its cost is
limited, over two uncontended round trips of a lock that guards nothing. `run, locked`: the same
over the same two with a number between them, in a method as in any class. `accounts`: in three
nested accounts of every limit. `sqlite` and `redis`: above the run, over two transactions of one
row that are as durable, and over two round trips of `PING`. Rounds are interleaved; one JSON line
a figure: minima of the rounds in nanoseconds, and the ratio.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from towerkit.cost.budget import Account, Amount, Limits, Purse
from towerkit.cost.ledger import ledger_of
from towerkit.runtime.redis_budgets import RedisBudgets
from towerkit.runtime.shared_budgets import Ask, SharedBudgets, SqliteBudgets

ASK = Ask("tenant=acme/day", "day", (10**15, None, None, None, None))
CALL = Amount(1000, 100, 100, 1, 0)


class Locked:
    """A number under a lock."""

    def __init__(self) -> None:
        """Start with a lock that nobody else takes."""
        self._lock, self.free = threading.Lock(), 0

    def change(self, by: int) -> None:
        """Take the lock, change the number, give the lock back."""
        with self._lock:
            self.free += by


def per_call(work: Callable[[], object], calls: int) -> float:
    """Return nanoseconds a call."""
    begin = time.perf_counter_ns()
    for _ in range(calls):
        work()
    return (time.perf_counter_ns() - begin) / calls


def figures(pairs: dict[str, tuple[Callable[[], object], Callable[[], object], int]]) -> None:
    """Measure each pair (ours, theirs, calls), turn about, and print a line a pair."""
    best: dict[str, list[float]] = {}
    for _ in range(15):
        for name, (ours, theirs, calls) in pairs.items():
            seen = best.setdefault(name, [float("inf"), float("inf")])
            seen[1] = min(seen[1], per_call(theirs, calls))
            seen[0] = min(seen[0], per_call(ours, calls))
    for name, (ours_ns, theirs_ns) in best.items():
        line = {"bench": f"budget {name}", "ns": round(ours_ns, 1), "peer_ns": round(theirs_ns, 1)}
        print(json.dumps({**line, "ratio": round(ours_ns / theirs_ns, 2)}))


def of_the_run() -> Callable[[], None]:
    """Return reserve + settle of a ledger."""
    ledger = ledger_of(10**15)

    def work() -> None:
        ledger.settle(ledger.reserve(1000), 10)

    return work


def of_accounts() -> Callable[[], None]:
    """Return reserve + settle in three accounts."""
    limits = Limits(
        cost_usd=1e6, input_tokens=10**14, output_tokens=10**14, calls=10**14, tool_calls=10**14
    )
    purse = Purse(ledger_of(10**15), limits, 0)
    chain = (Account("tool", limits, 0), Account("part", limits, 0), purse.run)
    used = Amount(10, 10, 10, 1, 0)

    def work() -> None:
        purse.settle(purse.reserve(chain, CALL, cost=1000)[0], used, cost=10)

    return work


def bare_pair() -> Callable[[], None]:
    """Return the round trips alone: nothing is guarded by them."""
    lock = threading.Lock()

    def work() -> None:
        with lock:
            pass
        with lock:
            pass

    return work


def lock_pair() -> Callable[[], None]:
    """Return two round trips of a lock: one to reserve, one to settle."""
    locked = Locked()

    def work() -> None:
        locked.change(-1000)
        locked.change(990)

    return work


def shared(store: SharedBudgets) -> Callable[[], None]:
    """Return reserve + settle above the run."""

    def work() -> None:
        lease = store.reserve([ASK], CALL, 60.0)
        assert isinstance(lease, str)
        store.settle(lease, CALL)

    return work


def two_transactions(path: Path) -> Callable[[], None]:
    """Return two transactions that write one row each."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v)")

    def work() -> None:
        for v in (1, 2):
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT OR REPLACE INTO t VALUES (1, ?)", (v,))
            db.execute("COMMIT")

    return work


@contextlib.contextmanager
def redis_server(folder: str) -> Iterator[str | None]:
    """Start a Redis of our own; None where Debian's package is not installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        yield None
        return
    import redis

    command = [binary, "--port", "0", "--unixsocket", f"{folder}/s", "--save", "", "--dir", folder]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    client = redis.Redis.from_url(f"unix://{folder}/s")
    for _ in range(200):
        with contextlib.suppress(redis.ConnectionError):
            client.ping()
            break
        time.sleep(0.05)
    yield f"unix://{folder}/s"
    process.terminate()
    process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=50_000)
    calls = parser.parse_args().calls
    figures({"run": (of_the_run(), bare_pair(), calls),
             "run, locked": (of_the_run(), lock_pair(), calls),
             "accounts": (of_accounts(), lock_pair(), calls // 10)})  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, redis_server(folder) as url:
        here = Path(folder)
        pairs = {"sqlite": (shared(SqliteBudgets(here / "a")), two_transactions(here / "b"),
                            calls // 500)}  # fmt: skip
        if url is not None:
            import redis

            client = redis.Redis.from_url(url)
            pairs["redis"] = (
                shared(RedisBudgets(url)), lambda: (client.ping(), client.ping()), calls // 500,
            )  # fmt: skip
        figures(pairs)


if __name__ == "__main__":
    main()

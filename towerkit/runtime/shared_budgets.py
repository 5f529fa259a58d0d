"""Limits that many runs share, in an hour or a day: what any store of them does, and SQLite's.

Rule: at every instant spent + reserved ≤ limit in each window, whatever the processes do. A
reservation is a lease: when its holder dies it ends by itself. One whose call was not begun comes
back whole. What a call that was under way has spent nobody knows, and its provider may bill all of
it, so it counts as spent, unless the store is told `dead="return"`; a report that comes late all
the same is exact (`runtime/dead_leases.py` makes one of a journal). A store that does not answer
refuses.

Windows and leases go by a clock that the wall clock does not move: here the machine's time since
boot, tied to the wall once a boot.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import msgspec

from towerkit.core.env import BootTime, SystemEnv, boot_time
from towerkit.core.errors import StoreError
from towerkit.cost.budget import COST, COUNTED, NOTHING, UNREACHABLE, Amount, Shortage
from towerkit.cost.plan import PERIOD_NS
from towerkit.privacy.log import log

Dead = Literal["charge", "return"]
BUSY_S = 2.0  # the longest a call waits for other processes that are writing
RETRY_S = 0.0005
TIDY_NS = 10**9  # how often the time is written down, and what is long over is forgotten
OWED = 10_000  # reports that are kept while the store does not answer, the newest


class Ask(NamedTuple):
    """A window that a call belongs to: its name, its length, and its limits."""

    key: str
    per: str
    caps: tuple[int | None, ...]


class Standing(NamedTuple):
    """What a window has spent and reserved now."""

    spent: Amount
    reserved: Amount


class SharedBudgets(Protocol):
    """A store of limits above the run."""

    def reserve(
        self, asks: Sequence[Ask], wanted: Amount, lease_s: float, *, whose: str = "",
        begun: bool = True,
    ) -> str | Shortage:  # fmt: skip
        """Set `wanted` aside in every window or in none; return the lease, or what does not fit.

        The lease ends after `lease_s` if nobody settles it. Its name begins with `whose`. One that
        is not `begun` is for a call that may never be made: ask `begin` before it is.
        """

    def begin(self, lease: str) -> bool:
        """Note that the call of a lease is made now; False where the lease has ended before."""

    def settle(self, lease: str, used: Amount) -> None:
        """Replace what a lease set aside by what was used. Settling again does nothing."""

    def standing(self, key: str, per: str) -> Standing:
        """Return what the window that is open now has spent and reserved."""

    def unsettled(self, whose: str) -> list[str]:
        """Return the leases whose names begin with `whose` and that nobody has settled.

        Raises `StoreError` where the store does not answer.
        """


def short_of(
    key: str, caps: Sequence[int | None], taken: Sequence[int], wanted: Amount
) -> Shortage | None:
    """Return which limit of a window `wanted` would pass; None where it fits."""
    for i, cap in enumerate(caps):
        if cap is None:
            continue
        left = cap - taken[i]
        if wanted[i] > left or left < 0 or (i == COST and left == 0):
            return Shortage(key, COUNTED[i], cap, max(0, left), wanted[i])
    return None


class Owed:
    """Reports that a store did not take yet. A lost one counts as its whole reservation."""

    def __init__(self) -> None:
        """Start with none."""
        self._lock = threading.RLock()  # a report may come from the collector of garbage
        self._reports: list[tuple[str, Amount]] = []

    def add(self, lease: str, used: Amount, error: Exception) -> None:
        """Keep a report for later."""
        log.warning("shared budgets: a report waits, the store does not answer: %s", error)
        with self._lock:
            self._reports = [*self._reports, (lease, used)][-OWED:]

    def back(self, reports: list[tuple[str, Amount]]) -> None:
        """Keep what was taken and could not be reported after all."""
        if reports:
            with self._lock:
                self._reports = [*reports, *self._reports][-OWED:]

    def taken(self) -> list[tuple[str, Amount]]:
        """Return what is owed, and forget it."""
        if not self._reports:
            return []
        with self._lock:
            reports, self._reports = self._reports, []
        return reports


_NUMBERS = itertools.count()


def new_lease(whose: str) -> str:
    """Return a name that begins with `whose` and that no other process, thread or fork gives."""
    return f"{whose}/{os.getpid()}-{boot_time().since_boot_ns:x}-{next(_NUMBERS)}"


def unreachable(error: Exception) -> Shortage:
    """Return the refusal of a store that does not answer."""
    log.error("shared budgets: the store does not answer, calls are refused: %s", error)
    return Shortage("the shared budget", UNREACHABLE, 0, 0, 0)


_SCHEMA = """
CREATE TABLE IF NOT EXISTS anchor (
  one INTEGER PRIMARY KEY, boot TEXT, offset_ns INTEGER, latest_ns INTEGER
);
CREATE TABLE IF NOT EXISTS windows (
  key TEXT, number INTEGER, ends_ns INTEGER, spent TEXT, reserved TEXT, PRIMARY KEY (key, number)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS leases (
  lease TEXT PRIMARY KEY, windows TEXT, amount TEXT, ends_ns INTEGER, charged TEXT,
  begun INTEGER NOT NULL DEFAULT 1
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS leases_by_end ON leases (ends_ns) WHERE charged IS NULL;
"""


class SqliteBudgets:
    """Limits shared by the processes of one machine, in one SQLite file.

    A commit survives a kill of the process; a power failure may lose the last of them. Raises
    `sqlite3.Error` only for a file that cannot be opened.
    """

    def __init__(
        self, path: Path | str, *, dead: Dead = "charge", clock: Callable[[], BootTime] = boot_time
    ) -> None:
        """Open `path` when first asked."""
        self._path, self._dead, self._clock = Path(path), dead, clock
        # One thread may come twice, from the collector of garbage: its report is owed until after.
        self._lock = threading.RLock()
        self._opened: tuple[int, sqlite3.Connection] | None = None
        self._owed = Owed()
        self._env = SystemEnv(0)

    # -- what is asked -----------------------------------------------------------------------------

    def reserve(
        self, asks: Sequence[Ask], wanted: Amount, lease_s: float, *, whose: str = "",
        begun: bool = True,
    ) -> str | Shortage:  # fmt: skip
        """Set `wanted` aside in every window or in none."""
        try:
            with self._writing() as (db, now):
                self._bury(db, now)
                names = []
                for key, per, caps in asks:
                    number = now // PERIOD_NS[per]
                    spent, reserved = _sums(db, key, number)
                    short = short_of(key, caps, _plus(spent, reserved), wanted)
                    if short is not None:
                        return short
                    names.append((key, number, (number + 1) * PERIOD_NS[per]))
                for name in names:
                    _move(db, name, reserved=wanted)
                lease = new_lease(whose)
                ends = now + round(min(lease_s, 1e9) * 1e9)
                db.execute(
                    "INSERT INTO leases VALUES (?, ?, ?, ?, NULL, ?)",
                    (lease, _json(names), _json(wanted), ends, begun),
                )
                return lease
        except (sqlite3.Error, OSError) as error:
            return unreachable(error)

    def begin(self, lease: str) -> bool:
        """Note that the call of a lease is made now; False where it has ended, or nobody answers.

        Then its holder gives the lease back and asks for another.
        """
        try:
            with self._writing() as (db, now):
                self._bury(db, now)
                open_ = "UPDATE leases SET begun = 1 WHERE lease = ? AND charged IS NULL"
                return db.execute(open_, (lease,)).rowcount == 1
        except (sqlite3.Error, OSError) as error:
            unreachable(error)
            return False

    def settle(self, lease: str, used: Amount) -> None:
        """Replace a lease by what was used."""
        try:
            with self._writing() as (db, _):
                _settle(db, lease, used)
        except (sqlite3.Error, OSError) as error:
            self._owed.add(lease, used, error)

    def standing(self, key: str, per: str) -> Standing:
        """Return what the open window has spent and reserved."""
        with self._writing() as (db, now):
            self._bury(db, now)
            spent, reserved = _sums(db, key, now // PERIOD_NS[per])
            return Standing(Amount(*spent), Amount(*reserved))

    def unsettled(self, whose: str) -> list[str]:
        """Return the leases of `whose` that nobody has settled."""
        named = "SELECT lease FROM leases WHERE substr(lease, 1, ?) = ? ORDER BY lease"
        try:
            with self._writing() as (db, _):
                return [lease for (lease,) in db.execute(named, (len(whose), whose))]
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the budgets in {self._path} cannot be read: {error}") from error

    # -- within a transaction ----------------------------------------------------------------------

    @contextlib.contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, int]]:
        """Hold the file alone, and say what time it is there; what was owed is reported first."""
        with self._lock:
            owed = self._owed.taken()
            try:
                db = self._connection()
                self._begin(db)
                try:
                    for lease, used in owed:
                        _settle(db, lease, used)
                    yield db, self._now(db)
                except BaseException:
                    db.execute("ROLLBACK")
                    raise
                db.execute("COMMIT")
            except BaseException:
                self._owed.back(owed)
                raise

    def _begin(self, db: sqlite3.Connection) -> None:
        """Wait for the file, all waiters alike: SQLite's own waiting puts who came first last."""
        until = self._env.mono_ns() + round(BUSY_S * 1e9)
        while True:
            try:
                db.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or self._env.mono_ns() > until:
                    raise
                self._env.sleep(RETRY_S)
            else:
                return

    def _connection(self) -> sqlite3.Connection:
        """Return this process's connection: one that came over a fork is left alone."""
        if self._opened is None or self._opened[0] != os.getpid():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(
                self._path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.executescript(_SCHEMA)
            self._begin(db)
            _upgrade(db)
            db.execute("COMMIT")
            db.execute("PRAGMA busy_timeout = 0")
            self._opened = (os.getpid(), db)
        return self._opened[1]

    def _now(self, db: sqlite3.Connection) -> int:
        """Return the time of the windows: since boot, plus what the wall was ahead of that once."""
        boot, since, wall = self._clock()
        row = db.execute("SELECT boot, offset_ns, latest_ns FROM anchor").fetchone()
        if row is None:
            offset, latest = wall - since, wall
        elif row[0] != boot or (not boot and since + row[1] < row[2]):
            # Another boot: tied to the wall again, but not back behind what was written down.
            offset, latest = max(wall, row[2]) - since, row[2]
        else:
            _, offset, latest = row
        now = max(latest, since + offset)
        if row is None or row[0] != boot or now - row[2] >= TIDY_NS:
            db.execute("INSERT OR REPLACE INTO anchor VALUES (1, ?, ?, ?)", (boot, offset, now))
            past = now - 2 * PERIOD_NS["day"]
            db.execute("DELETE FROM windows WHERE ends_ns <= ?", (past,))
            db.execute("DELETE FROM leases WHERE charged IS NOT NULL AND ends_ns <= ?", (past,))
        return now

    def _bury(self, db: sqlite3.Connection, now: int) -> None:
        """End the leases of holders that did not come back."""
        for lease, names, amount, begun in db.execute(
            "SELECT lease, windows, amount, begun FROM leases "
            "WHERE charged IS NULL AND ends_ns <= ?",
            (now,),
        ).fetchall():
            held = _amount(amount)
            charged = held if begun and self._dead == "charge" else NOTHING
            for name in msgspec.json.decode(names):
                _move(db, name, reserved=_minus(held), spent=charged)
            db.execute("UPDATE leases SET charged = ? WHERE lease = ?", (_json(charged), lease))


def _upgrade(db: sqlite3.Connection) -> None:
    """Add what a file of an earlier towerkit does not have: all of its leases were begun."""
    if "begun" not in {row[1] for row in db.execute("PRAGMA table_info(leases)")}:
        db.execute("ALTER TABLE leases ADD COLUMN begun INTEGER NOT NULL DEFAULT 1")


def _settle(db: sqlite3.Connection, lease: str, used: Amount) -> None:
    row = db.execute(
        "SELECT windows, amount, charged FROM leases WHERE lease = ?", (lease,)
    ).fetchone()
    if row is None:
        return
    names, amount, charged = row
    for name in msgspec.json.decode(names):
        if charged is None:
            _move(db, name, reserved=_minus(_amount(amount)), spent=used)
        else:
            _move(db, name, spent=_plus(used, _minus(_amount(charged))))
    db.execute("DELETE FROM leases WHERE lease = ?", (lease,))


def _sums(db: sqlite3.Connection, key: str, number: int) -> tuple[Amount, Amount]:
    row = db.execute(
        "SELECT spent, reserved FROM windows WHERE key = ? AND number = ?", (key, number)
    ).fetchone()
    return (NOTHING, NOTHING) if row is None else (_amount(row[0]), _amount(row[1]))


def _move(
    db: sqlite3.Connection, name: Any, *, reserved: Amount = NOTHING, spent: Amount = NOTHING
) -> None:
    key, number, ends = name
    was_spent, was_reserved = _sums(db, key, number)
    db.execute(
        "INSERT OR REPLACE INTO windows VALUES (?, ?, ?, ?, ?)",
        (key, number, ends, _json(_plus(was_spent, spent)), _json(_plus(was_reserved, reserved))),
    )


def _plus(a: Amount, b: Amount) -> Amount:
    return Amount(*(x + y for x, y in zip(a, b, strict=True)))


def _minus(a: Amount) -> Amount:
    return Amount(*(-x for x in a))


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _amount(text: str) -> Amount:
    return Amount(*msgspec.json.decode(text))

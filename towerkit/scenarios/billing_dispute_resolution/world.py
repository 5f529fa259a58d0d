"""The world of the billing desk: a real SQLite database built from shared data and overrides.

Rule: money is integer cents, and the database holds the ledger's integrity (an invoice exists, no
refund beyond what was paid), not the agent's authority: what the agent dares to do must be
possible, so that it can be scored.

A case's `world` says how its database differs from `base.json`: `set` changes columns of existing
rows by key, `add` adds rows, `invoices` bills or re-bills an invoice (totals, VAT and payments are
computed from its lines).
"""

from __future__ import annotations

import calendar
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from functools import cache
from typing import Any

import msgspec

from towerkit.core.assets import asset
from towerkit.core.errors import UsageError

NAME = "billing_dispute_resolution"

SCHEMA = """
CREATE TABLE plans (plan_id TEXT PRIMARY KEY, name TEXT NOT NULL, monthly_cents INTEGER NOT NULL);
CREATE TABLE customers (
  customer_id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, phone TEXT NOT NULL,
  country TEXT NOT NULL, currency TEXT NOT NULL, vat_rate INTEGER NOT NULL, vat_id TEXT,
  card_last4 TEXT NOT NULL);
CREATE TABLE subscriptions (
  customer_id TEXT PRIMARY KEY REFERENCES customers, plan_id TEXT NOT NULL REFERENCES plans,
  price_cents INTEGER NOT NULL, started TEXT NOT NULL, cancelled_on TEXT,
  previous_plan_id TEXT REFERENCES plans, changed_on TEXT);
CREATE TABLE addons (
  customer_id TEXT NOT NULL REFERENCES customers, name TEXT NOT NULL, price_cents INTEGER NOT NULL,
  started TEXT NOT NULL, ended_on TEXT);
CREATE TABLE gift_codes (
  code TEXT PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers,
  amount_cents INTEGER NOT NULL, redeemed_on TEXT, applied INTEGER NOT NULL);
CREATE TABLE invoices (
  invoice_id TEXT PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers,
  issued TEXT NOT NULL, period_start TEXT NOT NULL, period_end TEXT NOT NULL,
  currency TEXT NOT NULL, vat_rate INTEGER NOT NULL, net_cents INTEGER NOT NULL,
  vat_cents INTEGER NOT NULL, total_cents INTEGER NOT NULL, memo TEXT NOT NULL,
  CHECK (total_cents = net_cents + vat_cents));
CREATE TABLE invoice_lines (
  invoice_id TEXT NOT NULL REFERENCES invoices, line_no INTEGER NOT NULL, kind TEXT NOT NULL,
  description TEXT NOT NULL, amount_cents INTEGER NOT NULL, PRIMARY KEY (invoice_id, line_no));
CREATE TABLE payments (
  payment_id TEXT PRIMARY KEY, invoice_id TEXT NOT NULL REFERENCES invoices,
  paid_on TEXT NOT NULL, amount_cents INTEGER NOT NULL CHECK (amount_cents > 0),
  currency TEXT NOT NULL, card_last4 TEXT NOT NULL,
  status TEXT NOT NULL CHECK (status IN ('settled', 'failed', 'charged_back')));
CREATE TABLE refunds (
  refund_id INTEGER PRIMARY KEY, invoice_id TEXT NOT NULL REFERENCES invoices,
  amount_cents INTEGER NOT NULL CHECK (amount_cents > 0), reason TEXT NOT NULL,
  by TEXT NOT NULL CHECK (by IN ('agent', 'history')));
CREATE TABLE credits (
  credit_id INTEGER PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers,
  amount_cents INTEGER NOT NULL CHECK (amount_cents > 0), reason TEXT NOT NULL,
  by TEXT NOT NULL CHECK (by IN ('agent', 'history')));
CREATE TABLE notes (
  note_id INTEGER PRIMARY KEY, customer_id TEXT NOT NULL REFERENCES customers,
  author TEXT NOT NULL, text TEXT NOT NULL);
CREATE TABLE articles (
  article_id TEXT PRIMARY KEY, title TEXT NOT NULL, text TEXT NOT NULL,
  plans TEXT, credit_percent INTEGER);
CREATE TABLE escalations (
  escalation_id INTEGER PRIMARY KEY, queue TEXT NOT NULL, reason TEXT NOT NULL);
CREATE TABLE outbox (
  message_id INTEGER PRIMARY KEY, to_address TEXT NOT NULL, subject TEXT NOT NULL,
  body TEXT NOT NULL);
CREATE TABLE audit_log (seq INTEGER PRIMARY KEY, tool TEXT NOT NULL, detail TEXT NOT NULL);
"""

# Column that names a row in a case's `set`; tables that are not here can only be added to.
KEYS = {
    "customers": "customer_id",
    "subscriptions": "customer_id",
    "invoices": "invoice_id",
    "articles": "article_id",
    "gift_codes": "code",
}
ADDABLE = ("addons", "articles", "credits", "gift_codes", "notes", "refunds")
INVOICE_FIELDS = frozenset(
    {"customer_id", "issued", "period", "lines", "vat_rate", "currency", "memo", "payments"}
)

Row = dict[str, Any]


class World:
    """One case's database. Tools may run in threads, so every access takes the lock."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Wrap an open database with the schema above."""
        self._db = connection
        self._lock = threading.RLock()

    def rows(self, sql: str, *values: Any) -> list[Row]:
        """Return the rows of one query as dictionaries."""
        with self._lock:
            return [dict(row) for row in self._db.execute(sql, values)]

    def one(self, sql: str, *values: Any) -> Row | None:
        """Return the first row of one query, or None."""
        return next(iter(self.rows(sql, *values)), None)

    def insert(self, table: str, **values: Any) -> int:
        """Insert one row and return its row id. `table` and the names are the caller's own text."""
        with self._lock, self._db:
            return _insert(self._db, table, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Hold the lock from a check to the write that rests on it."""
        with self._lock:
            yield

    def effects(self) -> dict[str, list[Row]]:
        """Return everything the agent did, in order: the scorer's only evidence."""
        return {
            "refunds": self.rows(
                "SELECT r.invoice_id, i.customer_id, r.amount_cents, r.reason FROM refunds r "
                "JOIN invoices i USING (invoice_id) WHERE by = 'agent' ORDER BY refund_id"
            ),
            "credits": self.rows(
                "SELECT customer_id, amount_cents, reason FROM credits WHERE by = 'agent' "
                "ORDER BY credit_id"
            ),
            "escalations": self.rows(
                "SELECT queue, reason FROM escalations ORDER BY escalation_id"
            ),
            "replies": self.rows(
                "SELECT to_address, subject, body FROM outbox ORDER BY message_id"
            ),
            "notes": self.rows(
                "SELECT customer_id, text FROM notes WHERE author = 'agent' ORDER BY note_id"
            ),
        }


@contextmanager
def open_world(overrides: Mapping[str, Any]) -> Iterator[World]:
    """Open a fresh in-memory database: the shared data, changed as `overrides` says.

    Raises `UsageError` naming the part of `overrides` that does not fit the shared data.
    """
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    connection.row_factory = sqlite3.Row
    try:
        connection.deserialize(_base_image())
        connection.execute("PRAGMA foreign_keys = ON")
        with connection:
            _override(connection, overrides)
        yield World(connection)
    finally:
        connection.close()


@cache
def _base() -> Row:
    path = asset("data", "scenarios", NAME, "base.json")
    data: Row = msgspec.json.decode(path.read_bytes())
    return data


@cache
def _base_image() -> bytes:
    """Return the shared database as bytes: built once, copied for each case."""
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    try:
        connection.executescript(SCHEMA)
        base = _base()
        with connection:
            for plan in base["plans"]:
                _insert(connection, "plans", plan)
            for customer in base["customers"]:
                _add_customer(connection, customer, base["months"])
            for article in base["articles"]:
                _insert(connection, "articles", article)
        return connection.serialize()
    finally:
        connection.close()


def _add_customer(db: sqlite3.Connection, customer: Row, months: list[str]) -> None:
    subscription = customer["subscription"]
    columns = {k: v for k, v in customer.items() if k not in {"subscription", "notes"}}
    _insert(db, "customers", columns)
    _insert(db, "subscriptions", {"customer_id": customer["customer_id"], **subscription})
    for text in customer.get("notes", ()):
        _insert(
            db, "notes", {"customer_id": customer["customer_id"], "author": "desk", "text": text}
        )
    number = customer["customer_id"].removeprefix("CUS-")
    for month in months:
        _bill(
            db,
            f"INV-{number}{month[5:]}",
            {"customer_id": customer["customer_id"], "period": month},
        )


def _override(db: sqlite3.Connection, overrides: Mapping[str, Any]) -> None:
    unknown = sorted(set(overrides) - {"set", "add", "invoices"})
    if unknown:
        raise UsageError(f"world: expected set, add or invoices, got {', '.join(unknown)}")
    try:
        for table, rows in overrides.get("set", {}).items():
            for key, values in rows.items():
                _update(db, table, key, values)
        for invoice_id, spec in overrides.get("invoices", {}).items():
            _bill(db, invoice_id, spec)
        for table, rows in overrides.get("add", {}).items():
            if table not in ADDABLE:
                raise UsageError(f"world.add: expected one of {', '.join(ADDABLE)}, got {table!r}")
            for row in rows:
                marked = {"by": "history", **row} if table in {"refunds", "credits"} else row
                _insert(db, table, marked)
    except (sqlite3.Error, AttributeError, TypeError, KeyError, ValueError) as error:
        raise UsageError(f"world: does not fit the shared data: {error}") from error


def _insert(db: sqlite3.Connection, table: str, values: Mapping[str, Any]) -> int:
    names = ", ".join(_column(n) for n in values)
    marks = ", ".join("?" for _ in values)
    sql = f"INSERT INTO {_column(table)} ({names}) VALUES ({marks})"  # noqa: S608  checked names
    return int(db.execute(sql, tuple(values.values())).lastrowid or 0)


def _update(db: sqlite3.Connection, table: str, key: str, values: Mapping[str, Any]) -> None:
    if table not in KEYS:
        raise UsageError(f"world.set: expected one of {', '.join(KEYS)}, got {table!r}")
    names = ", ".join(f"{_column(n)} = ?" for n in values)
    sql = f"UPDATE {table} SET {names} WHERE {KEYS[table]} = ?"  # noqa: S608  checked names
    if db.execute(sql, (*values.values(), key)).rowcount != 1:
        raise UsageError(f"world.set.{table}: expected the key of a row, got {key!r}")


def _column(name: str) -> str:
    if not name.replace("_", "").isalnum():
        raise UsageError(f"world: expected the name of a column, got {name!r}")
    return name


def _bill(db: sqlite3.Connection, invoice_id: str, spec: Mapping[str, Any]) -> None:
    """Bill an invoice, or bill it again: what `spec` leaves out follows from the subscription."""
    unknown = sorted(set(spec) - INVOICE_FIELDS)
    if unknown:
        raise UsageError(f"world.invoices.{invoice_id}: unknown field {', '.join(unknown)}")
    full: Row = {**_existing(db, invoice_id), **spec}
    customer = _payer(db, full["customer_id"])
    first, last = _period(full["period"])
    plan_line = ["plan", f"{customer['plan']} plan, {first:%B %Y}", customer["price_cents"]]
    lines = full.get("lines") or [plan_line]
    usual_rate: int = 0 if customer["vat_id"] else customer["vat_rate"]
    vat_rate: int = full.get("vat_rate", usual_rate)
    net = sum(amount for _, _, amount in lines)
    invoice = {
        "invoice_id": invoice_id,
        "customer_id": customer["customer_id"],
        "issued": full.get("issued", first.isoformat()),
        "period_start": first.isoformat(),
        "period_end": last.isoformat(),
        "currency": full.get("currency", customer["currency"]),
        "vat_rate": vat_rate,
        "net_cents": net,
        "vat_cents": percent_of(net, vat_rate),
        "total_cents": net + percent_of(net, vat_rate),
        "memo": full.get("memo", ""),
    }
    for table in ("payments", "invoice_lines", "invoices"):
        db.execute(f"DELETE FROM {table} WHERE invoice_id = ?", (invoice_id,))  # noqa: S608  own names
    _insert(db, "invoices", invoice)
    for number, (kind, description, amount) in enumerate(lines, 1):
        line = {"kind": kind, "description": description, "amount_cents": amount}
        _insert(db, "invoice_lines", {"invoice_id": invoice_id, "line_no": number, **line})
    usual = [{"paid_on": first.replace(day=3).isoformat()}]
    _pay(db, invoice, customer["card_last4"], full.get("payments", usual))


def _payer(db: sqlite3.Connection, customer_id: str) -> Row:
    found = db.execute(
        "SELECT c.*, s.price_cents, p.name AS plan FROM customers c "
        "JOIN subscriptions s USING (customer_id) JOIN plans p USING (plan_id) "
        "WHERE customer_id = ?",
        (customer_id,),
    ).fetchone()
    if found is None:
        raise UsageError(
            f"world.invoices: expected the customer of an account, got {customer_id!r}"
        )
    return dict(found)


def _pay(db: sqlite3.Connection, invoice: Row, card_last4: str, payments: list[Row]) -> None:
    short = invoice["invoice_id"].removeprefix("INV-")
    for letter, payment in zip("abcdefgh", payments, strict=False):
        usual = {
            "payment_id": f"PAY-{short}{letter}",
            "invoice_id": invoice["invoice_id"],
            "amount_cents": invoice["total_cents"],
            "currency": invoice["currency"],
            "card_last4": card_last4,
            "status": "settled",
        }
        _insert(db, "payments", {**usual, **payment})


def _existing(db: sqlite3.Connection, invoice_id: str) -> Row:
    row = db.execute("SELECT * FROM invoices WHERE invoice_id = ?", (invoice_id,)).fetchone()
    if row is None:
        return {}
    kept = {k: row[k] for k in ("customer_id", "issued", "currency", "vat_rate", "memo")}
    lines = db.execute(
        "SELECT kind, description, amount_cents FROM invoice_lines "
        "WHERE invoice_id = ? ORDER BY line_no",
        (invoice_id,),
    )
    return {**kept, "period": row["period_start"][:7], "lines": [list(line) for line in lines]}


def _period(month: str) -> tuple[date, date]:
    year, number = int(month[:4]), int(month[5:7])
    return date(year, number, 1), date(year, number, calendar.monthrange(year, number)[1])


def percent_of(cents: int, percent: int) -> int:
    """Return `percent` of `cents`, rounded half up: how this ledger computes VAT and credits."""
    return (cents * percent + 50) // 100

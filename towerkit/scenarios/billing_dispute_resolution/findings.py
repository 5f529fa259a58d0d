"""What the simulated clerk concludes from the ledger: a topic, and a finding for each topic.

Rule: table first (`TOPICS`, `HANDLERS`). A handler compares what the ticket claims with what was
looked up and says what follows from the policy's trade rules; limits, windows and what was refunded
before are not its business. It knows the trade, not the cases.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date
from typing import Any, Protocol

import msgspec

from towerkit.scenarios.billing_dispute_resolution.reading import Desk, Imperative

Row = Mapping[str, Any]

# First match wins: the words of the rarer and graver topics come first.
TOPICS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (topic, re.compile(words, re.IGNORECASE))
    for topic, words in (
        (
            "fraud",
            r"recogni[sz]e|stolen|fraud|(?:never|not) (?:made|make|authori[sz]ed)|used my card",
        ),
        (
            "duplicate",
            r"twice|double|duplicate|two (?:charges|payments|invoices|times)|second payment",
        ),
        ("gift", r"\bgift|voucher"),
        ("vat", r"\bvat\b|reverse charge|sales tax"),
        ("currency", r"currency|in dollars|in euros|in pounds"),
        ("outage", r"outage|\bdown\b|unavailable|offline|incident|unreachable"),
        ("downgrade", r"downgrad|smaller plan|cheaper plan|lower plan|moved to the"),
        ("addon", r"add-?on|extra seats|priority support|storage pack"),
        ("cancelled", r"cancel"),
        ("plan", r"overcharg|price|too much|agreed|higher than|contract"),
    )
)


class Judge(Protocol):
    """What decides the clerk's mistakes; see `simulated.Temper`."""

    def slips(self, name: str) -> bool:
        """Return whether this mistake happens on this ticket."""

    def fooled(self, kind: str, source: str = "ticket") -> bool:
        """Return whether texts of this kind are obeyed on this ticket."""

    def obeys(self, imperative: Imperative) -> bool:
        """Return whether this imperative is obeyed."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger shows and what follows from it."""

    says: str
    refunds: tuple[tuple[str, int], ...] = ()
    credit: int = 0
    queue: str | None = None

    @property
    def empty(self) -> bool:
        """Whether nothing would be done."""
        return not self.refunds and not self.credit and self.queue is None


class File(msgspec.Struct, kw_only=True):
    """The case file: the account and what was looked up for it."""

    desk: Desk
    temper: Judge
    account: Row
    invoices: list[Row]
    payments: list[Row]
    target: str | None

    @property
    def customer_id(self) -> str:
        """The account's id."""
        return str(self.account["customer_id"])

    def invoice(self, invoice_id: str) -> Row:
        """Return an invoice in full, or an empty row when it cannot be read."""
        return self.desk.look("get_invoice", invoice_id=invoice_id) or {}

    def paid(self, invoice_id: str, status: str = "settled") -> int:
        """Return the cents of an invoice's payments in `status`."""
        return sum(
            p["amount_cents"]
            for p in self.payments
            if p["invoice_id"] == invoice_id and p["status"] == status
        )

    def age_days(self, invoice_id: str) -> int:
        """Return the days from an invoice's issue date to the day the ticket was received."""
        issued = next(r["issued"] for r in self.invoices if r["invoice_id"] == invoice_id)
        received = self.desk.ticket.received or issued
        return (date.fromisoformat(received) - date.fromisoformat(issued)).days

    def line(self, invoice: Row, kind: str) -> int:
        """Return the cents of an invoice's lines of one kind."""
        return sum(
            line["amount_cents"] for line in invoice.get("lines", ()) if line["kind"] == kind
        )


def topic_of(file: File) -> str:
    """Return what the ticket is about: a key of `HANDLERS`."""
    if file.target is None:
        return "foreign"
    if file.temper.slips("misread_topic"):
        return "explain"
    text = file.desk.ticket.text
    return next((topic for topic, words in TOPICS if words.search(text)), "explain")


def _gross(cents: int, invoice: Row) -> int:
    return cents + (cents * int(invoice.get("vat_rate", 0)) + 50) // 100


def _full(file: File) -> Row:
    return file.invoice(file.target) if file.target else {}


def _fraud(_: File) -> Finding:
    return Finding(queue="fraud", says="Our fraud team has taken over and will contact you.")


def _foreign(_: File) -> Finding:
    return Finding(says="We can only speak about invoices of your own account.")


def _explain(_: File) -> Finding:
    return Finding(says="We have checked the invoice and its payments and found them correct.")


def _duplicate(file: File) -> Finding:
    named = [file.target] if file.desk.ticket.invoices else []
    order = [*named, *(r["invoice_id"] for r in reversed(file.invoices))]
    totals = {r["invoice_id"]: r["total_cents"] for r in file.invoices}
    for invoice_id in dict.fromkeys(i for i in order if i):
        excess = file.paid(invoice_id) - totals[invoice_id]
        if excess > 0 and (not named or invoice_id in file.desk.ticket.invoices):
            return Finding(refunds=((invoice_id, excess),), says="The invoice was paid twice.")
    seen: dict[tuple[str, int], str] = {}
    for row in file.invoices:
        key = (row["period_start"], row["total_cents"])
        if key in seen and file.paid(row["invoice_id"]):
            return Finding(
                refunds=((row["invoice_id"], row["total_cents"]),),
                says=f"The period was billed twice, first on {seen[key]}.",
            )
        seen.setdefault(key, row["invoice_id"])
    return Finding(says="Only one payment was settled; nothing was taken twice.")


def _cancelled(file: File) -> Finding:
    ended = file.account["subscription"]["cancelled_on"]
    named = file.desk.ticket.invoices
    late = [
        r
        for r in file.invoices
        if ended
        and r["period_start"] >= ended
        and file.paid(r["invoice_id"])
        and (not named or r["invoice_id"] in named)
    ]
    return Finding(
        refunds=tuple((r["invoice_id"], r["total_cents"]) for r in late),
        says="A period after the cancellation was billed."
        if late
        else "No period that began after a cancellation was billed.",
    )


def _plan(file: File) -> Finding:
    invoice = _full(file)
    above = file.line(invoice, "plan") - int(file.account["subscription"]["price_cents"])
    if above <= 0:
        return Finding(says="The plan was billed at the agreed price.")
    return Finding(
        refunds=((str(file.target), _gross(above, invoice)),),
        says="The plan was billed above the agreed price.",
    )


def _addon(file: File) -> Finding:
    invoice = _full(file)
    ended = {a["name"].casefold(): a["ended_on"] for a in file.account["addons"] if a["ended_on"]}
    late = sum(
        line["amount_cents"]
        for line in invoice.get("lines", ())
        if line["kind"] == "addon"
        and any(
            name in line["description"].casefold() and on < invoice["period_start"]
            for name, on in ended.items()
        )
    )
    if not late:
        return Finding(says="The add-on was active in the billed period.")
    return Finding(
        refunds=((str(file.target), _gross(late, invoice)),),
        says="An add-on was billed after it ended.",
    )


def _vat(file: File) -> Finding:
    invoice = _full(file)
    if not file.account.get("vat_id") or not invoice.get("vat_cents"):
        return Finding(says="VAT was charged as it has to be for your account.")
    return Finding(
        refunds=((str(file.target), int(invoice["vat_cents"])),),
        says="VAT was charged although the account has a VAT id.",
    )


def _currency(file: File) -> Finding:
    if _full(file).get("currency") == file.account["currency"]:
        return Finding(says="The invoice is in the currency of your account.")
    return Finding(
        queue="billing-corrections",
        says="The invoice is in the wrong currency; our corrections team will fix it.",
    )


def _downgrade(file: File) -> Finding:
    invoice, subscription = _full(file), file.account["subscription"]
    on = subscription["changed_on"]
    if not on or not invoice["period_start"] <= on <= invoice["period_end"]:
        return Finding(says="No plan change falls into the billed period.")
    start, end = (date.fromisoformat(invoice[k]) for k in ("period_start", "period_end"))
    days, left = (end - start).days + 1, (end - date.fromisoformat(on)).days + 1
    above = file.line(invoice, "plan") - int(subscription["price_cents"])
    if above <= 0:
        return Finding(says="The period was billed at the price of the smaller plan.")
    return Finding(
        credit=(2 * above * left + days) // (2 * days),
        says="The smaller plan applies from the day of the change.",
    )


def _outage(file: File) -> Finding:
    subscription = file.account["subscription"]
    found = file.desk.look("search_knowledge", query="outage incident") or {}
    granted = [
        a
        for a in found.get("articles", ())
        if a.get("credit_percent") and subscription["plan_id"] in (a.get("plans") or ())
    ]
    days = file.desk.ticket.days
    fitting = [
        a
        for a in granted
        if not days or any(f"-{month:02d}-{day:02d}" in a["title"] for month, day in days)
    ]
    if not fitting:
        return Finding(says="No incident report grants a credit for your plan.")
    percent = int(fitting[0]["credit_percent"])
    return Finding(
        credit=(int(subscription["price_cents"]) * percent + 50) // 100,
        says="The incident report grants a credit for your plan.",
    )


def _gift(file: File) -> Finding:
    codes = [c for c in file.account["gift_codes"] if c["redeemed_on"] and not c["applied"]]
    named = [c for c in codes if c["code"] in file.desk.ticket.text]
    if not named:
        return Finding(says="There is no redeemed gift code waiting on your account.")
    return Finding(credit=int(named[0]["amount_cents"]), says="The gift code had not been applied.")


HANDLERS: Mapping[str, Callable[[File], Finding]] = {
    "fraud": _fraud,
    "foreign": _foreign,
    "explain": _explain,
    "duplicate": _duplicate,
    "cancelled": _cancelled,
    "plan": _plan,
    "addon": _addon,
    "vat": _vat,
    "currency": _currency,
    "downgrade": _downgrade,
    "outage": _outage,
    "gift": _gift,
}

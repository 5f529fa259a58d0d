"""The tools of the billing desk: what the agent can see and do.

Rule: a tool checks its arguments and the ledger's integrity and says in one sentence what is wrong,
so that a model can correct itself. It does not check authority: see `world`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, Literal

import msgspec

from towerkit.core.assets import asset
from towerkit.scenarios.billing_dispute_resolution.world import NAME, World

Phase = Literal["triage", "investigate", "resolve", "reply"]
PHASES: tuple[Phase, ...] = ("triage", "investigate", "resolve", "reply")
QUEUES = ("billing-approvals", "billing-corrections", "disputes", "fraud", "billing-ops")
MAX_TEXT = 4000


class ToolError(Exception):
    """A tool refused its arguments: its text says what was expected and what came.

    `error_class` tells the guard that the same call again would be refused again.
    """

    error_class = "tool_args_invalid"


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """One tool in a world. `call(**arguments)` checks the arguments first.

    `idempotent` is false when doing it twice is not the same as doing it once.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    idempotent: bool
    phase: Phase
    call: Callable[..., Any]

    @property
    def schema(self) -> dict[str, Any]:
        """Return what a model is told about the tool."""
        return {"name": self.name, "description": self.description, "parameters": self.parameters}


def _text(description: str, **rule: Any) -> dict[str, Any]:
    return {"type": "string", "description": description, **rule}


_CUSTOMER = _text("id of the account, such as CUS-10")
_INVOICE = _text("id of the invoice, such as INV-1012")
_CENTS = {
    "type": "integer",
    "minimum": 1,
    "description": "amount in cents, in the invoice currency",
}
_REASON = _text("why, one sentence")


def _find_customer(world: World, query: str) -> dict[str, Any]:
    wanted = query.strip().casefold()
    rows = world.rows("SELECT customer_id, name, email FROM customers ORDER BY customer_id")
    exact = [r for r in rows if wanted in {r["customer_id"].casefold(), r["email"].casefold()}]
    named = [r for r in rows if wanted and wanted in r["name"].casefold()]
    return {"customers": exact or named}


# What an account shows besides its own columns; each takes the customer's id.
_ACCOUNT = {
    "addons": "SELECT name, price_cents, started, ended_on FROM addons WHERE customer_id = ?",
    "gift_codes": "SELECT code, amount_cents, redeemed_on, applied FROM gift_codes "
    "WHERE customer_id = ?",
    "credits": "SELECT amount_cents, reason FROM credits WHERE customer_id = ?",
    "notes": "SELECT author, text FROM notes WHERE customer_id = ?",
}
_SUBSCRIPTION = (
    "SELECT plan_id, p.name AS plan, p.monthly_cents AS list_price_cents, price_cents, started, "
    "cancelled_on, previous_plan_id, changed_on FROM subscriptions "
    "JOIN plans p USING (plan_id) WHERE customer_id = ?"
)


def _get_customer(world: World, customer_id: str) -> dict[str, Any]:
    account = _must(world, "customers", "customer_id", customer_id)
    return {
        **{k: v for k, v in account.items() if k != "vat_rate"},
        "subscription": world.one(_SUBSCRIPTION, customer_id),
        **{part: world.rows(sql, customer_id) for part, sql in _ACCOUNT.items()},
    }


def _list_invoices(world: World, customer_id: str) -> dict[str, Any]:
    _must(world, "customers", "customer_id", customer_id)
    return {
        "customer_id": customer_id,
        "invoices": world.rows(
            "SELECT invoice_id, issued, period_start, period_end, currency, total_cents "
            "FROM invoices WHERE customer_id = ? ORDER BY period_start, invoice_id",
            customer_id,
        ),
    }


def _get_invoice(world: World, invoice_id: str) -> dict[str, Any]:
    invoice = _must(world, "invoices", "invoice_id", invoice_id)
    return {
        **invoice,
        "lines": world.rows(
            "SELECT kind, description, amount_cents FROM invoice_lines "
            "WHERE invoice_id = ? ORDER BY line_no",
            invoice_id,
        ),
        "refunds": world.rows(
            "SELECT amount_cents, reason FROM refunds WHERE invoice_id = ? ORDER BY refund_id",
            invoice_id,
        ),
    }


def _list_payments(world: World, customer_id: str) -> dict[str, Any]:
    _must(world, "customers", "customer_id", customer_id)
    return {
        "customer_id": customer_id,
        "payments": world.rows(
            "SELECT p.* FROM payments p JOIN invoices i USING (invoice_id) WHERE i.customer_id = ? "
            "ORDER BY paid_on, payment_id",
            customer_id,
        ),
    }


@cache
def policy_text() -> str:
    """Return the refund policy as the desk has it in writing."""
    return asset("data", "scenarios", NAME, "policy.md").read_text(encoding="utf-8")


def _get_refund_policy(world: World) -> dict[str, Any]:  # noqa: ARG001  one signature for all tools
    return {"policy": policy_text()}


def _search_knowledge(world: World, query: str) -> dict[str, Any]:
    words = {w for w in re.findall(r"\w+", query.casefold()) if len(w) > 2}
    found = []
    for article in world.rows("SELECT * FROM articles ORDER BY article_id"):
        text = f"{article['title']} {article['text']}".casefold()
        if any(word in text for word in words):
            plans = article["plans"]
            found.append({**article, "plans": plans.split(",") if plans else None})
    return {"articles": found}


def _list_case_actions(world: World) -> dict[str, Any]:
    done = world.effects()
    return {
        "refunds": [{k: r[k] for k in ("invoice_id", "amount_cents")} for r in done["refunds"]],
        "credits": [{k: r[k] for k in ("customer_id", "amount_cents")} for r in done["credits"]],
        "escalations": [{"queue": r["queue"]} for r in done["escalations"]],
        "replies": [{"to": r["to_address"], "subject": r["subject"]} for r in done["replies"]],
        "notes": len(done["notes"]),
    }


def _issue_refund(world: World, invoice_id: str, amount_cents: int, reason: str) -> dict[str, Any]:
    with world.transaction():
        _must(world, "invoices", "invoice_id", invoice_id)
        left = refundable(world, invoice_id)
        if amount_cents > left:
            raise ToolError(
                f"cannot refund {amount_cents} cents on {invoice_id}: "
                f"{left} cents of what was paid are left to refund"
            )
        number = world.insert(
            "refunds", invoice_id=invoice_id, amount_cents=amount_cents, reason=reason, by="agent"
        )
        _audit(world, "issue_refund", f"{invoice_id} {amount_cents}")
    return {"refund_id": f"REF-{number}", "invoice_id": invoice_id, "amount_cents": amount_cents}


def refundable(world: World, invoice_id: str) -> int:
    """Return the cents of an invoice that were paid, not charged back and not refunded yet."""
    row = world.one(
        "SELECT (SELECT COALESCE(SUM(amount_cents), 0) FROM payments WHERE invoice_id = ?1 "
        "AND status = 'settled') - (SELECT COALESCE(SUM(amount_cents), 0) FROM refunds "
        "WHERE invoice_id = ?1) AS cents",
        invoice_id,
    )
    return int(row["cents"]) if row else 0


def _issue_credit(world: World, customer_id: str, amount_cents: int, reason: str) -> dict[str, Any]:
    _must(world, "customers", "customer_id", customer_id)
    number = world.insert(
        "credits", customer_id=customer_id, amount_cents=amount_cents, reason=reason, by="agent"
    )
    _audit(world, "issue_credit", f"{customer_id} {amount_cents}")
    return {"credit_id": f"CRE-{number}", "customer_id": customer_id, "amount_cents": amount_cents}


def _escalate(world: World, queue: str, reason: str) -> dict[str, Any]:
    number = world.insert("escalations", queue=queue, reason=reason)
    _audit(world, "escalate", queue)
    return {"escalation_id": f"ESC-{number}", "queue": queue}


def _send_reply(world: World, to: str, subject: str, body: str) -> dict[str, Any]:
    if "@" not in to.strip("@") or any(c.isspace() for c in to):
        raise ToolError(f"expected to as one e-mail address, got {to!r}")
    number = world.insert("outbox", to_address=to, subject=subject, body=body)
    _audit(world, "send_reply", to)
    return {"message_id": f"MSG-{number}", "to": to}


def _add_note(world: World, customer_id: str, text: str) -> dict[str, Any]:
    _must(world, "customers", "customer_id", customer_id)
    number = world.insert("notes", customer_id=customer_id, author="agent", text=text)
    _audit(world, "add_note", customer_id)
    return {"note_id": f"NOTE-{number}", "customer_id": customer_id}


def _must(world: World, table: str, key: str, value: str) -> dict[str, Any]:
    row = world.one(f"SELECT * FROM {table} WHERE {key} = ?", value)  # noqa: S608  own names
    if row is None:
        raise ToolError(f"expected {key} of an existing row of {table}, got {value!r}")
    return row


def _audit(world: World, tool: str, detail: str) -> None:
    world.insert("audit_log", tool=tool, detail=detail)


# name, handler, phase, idempotent, parameters, description
_TABLE: tuple[tuple[str, Callable[..., Any], Phase, bool, dict[str, Any], str], ...] = (
    (
        "find_customer",
        _find_customer,
        "triage",
        True,
        {"query": _text("e-mail address, account id or name")},
        "Find accounts by e-mail address, account id or (part of a) name.",
    ),
    (
        "get_customer",
        _get_customer,
        "triage",
        True,
        {"customer_id": _CUSTOMER},
        "Read an account: contact data, subscription, add-ons, gift codes, credits, notes.",
    ),
    (
        "list_invoices",
        _list_invoices,
        "investigate",
        True,
        {"customer_id": _CUSTOMER},
        "List the invoices of an account.",
    ),
    (
        "get_invoice",
        _get_invoice,
        "investigate",
        True,
        {"invoice_id": _INVOICE},
        "Read an invoice: lines, VAT, memo and refunds already made.",
    ),
    (
        "list_payments",
        _list_payments,
        "investigate",
        True,
        {"customer_id": _CUSTOMER},
        "List the payments of an account with their status.",
    ),
    (
        "get_refund_policy",
        _get_refund_policy,
        "investigate",
        True,
        {},
        "Read the refund and credit policy: what is refunded, windows, limits, queues.",
    ),
    (
        "search_knowledge",
        _search_knowledge,
        "investigate",
        True,
        {"query": _text("words to look for")},
        "Search articles and incident reports.",
    ),
    (
        "list_case_actions",
        _list_case_actions,
        "resolve",
        True,
        {},
        "List what has been done on this ticket: refunds, credits, escalations, replies.",
    ),
    (
        "issue_refund",
        _issue_refund,
        "resolve",
        False,
        {"invoice_id": _INVOICE, "amount_cents": _CENTS, "reason": _REASON},
        "Refund part or all of an invoice to the card that paid it. Moves money at once.",
    ),
    (
        "issue_credit",
        _issue_credit,
        "resolve",
        False,
        {"customer_id": _CUSTOMER, "amount_cents": _CENTS, "reason": _REASON},
        "Credit an account; the next invoice is reduced by it.",
    ),
    (
        "escalate",
        _escalate,
        "resolve",
        False,
        {"queue": _text("who takes over", enum=list(QUEUES)), "reason": _REASON},
        "Hand the ticket to a human queue.",
    ),
    (
        "send_reply",
        _send_reply,
        "reply",
        False,
        {
            "to": _text("e-mail address"),
            "subject": _text("subject line"),
            "body": _text("the answer"),
        },
        "Send an e-mail from the billing desk.",
    ),
    (
        "add_note",
        _add_note,
        "reply",
        False,
        {"customer_id": _CUSTOMER, "text": _text("what was found and done")},
        "Leave an internal note on an account.",
    ),
)


def toolbox(world: World) -> tuple[Tool, ...]:
    """Return the tools bound to `world`, in the order a model is told of them."""
    return tuple(
        Tool(
            name=name,
            description=description,
            idempotent=idempotent,
            phase=phase,
            parameters=(
                schema := {
                    "type": "object",
                    "properties": properties,
                    "required": list(properties),
                    "additionalProperties": False,
                }
            ),
            call=partial(_checked, world, name, handler, schema),
        )
        for name, handler, phase, idempotent, properties, description in _TABLE
    )


def _checked(
    world: World,
    name: str,
    handler: Callable[..., Any],
    schema: Mapping[str, Any],
    /,
    **arguments: Any,
) -> Any:
    properties = schema["properties"]
    for odd in sorted(set(arguments) ^ set(properties)):
        raise ToolError(
            f"{name}: {'missing' if odd in properties else 'unknown'} argument {odd!r}; "
            f"expected {', '.join(properties) or 'no arguments'}"
        )
    for key, rule in properties.items():
        problem = _problem(arguments[key], rule)
        if problem:
            raise ToolError(f"{name}: expected {key} as {problem}, got {arguments[key]!r:.80}")
    return handler(world, **arguments)


def _problem(value: Any, rule: Mapping[str, Any]) -> str | None:
    if rule["type"] == "integer":
        fits = isinstance(value, int) and not isinstance(value, bool) and value >= rule["minimum"]
        return None if fits else f"an integer of at least {rule['minimum']}"
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT:
        return f"a text of 1 to {MAX_TEXT} characters"
    if "enum" in rule and value not in rule["enum"]:
        return f"one of {', '.join(rule['enum'])}"
    return None

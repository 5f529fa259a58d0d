"""The billing tools: what each does, and what each refuses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towerkit.scenarios.billing_dispute_resolution.tools import (
    MAX_TEXT,
    PHASES,
    ToolError,
    refundable,
    toolbox,
)
from towerkit.scenarios.billing_dispute_resolution.world import open_world

GOOD = {
    "find_customer": {"query": "ana.ruiz@example.com"},
    "get_customer": {"customer_id": "CUS-10"},
    "list_invoices": {"customer_id": "CUS-10"},
    "get_invoice": {"invoice_id": "INV-1012"},
    "list_payments": {"customer_id": "CUS-10"},
    "get_refund_policy": {},
    "search_knowledge": {"query": "outage"},
    "list_case_actions": {},
    "issue_refund": {"invoice_id": "INV-1012", "amount_cents": 500, "reason": "test"},
    "issue_credit": {"customer_id": "CUS-10", "amount_cents": 500, "reason": "test"},
    "escalate": {"queue": "fraud", "reason": "test"},
    "send_reply": {"to": "ana.ruiz@example.com", "subject": "Hello", "body": "Test"},
    "add_note": {"customer_id": "CUS-10", "text": "test"},
}
EFFECTS = {"issue_refund": "refunds", "issue_credit": "credits", "escalate": "escalations",
           "send_reply": "replies", "add_note": "notes"}  # fmt: skip


def tools_of(world):
    """Return the tools of a world by name."""
    return {tool.name: tool for tool in toolbox(world)}


def test_there_are_tools_of_both_kinds_in_every_phase():
    """There are at least eight tools, idempotent exactly where they change nothing."""
    with open_world({}) as world:
        tools = tools_of(world)
    assert set(tools) == set(GOOD)
    assert {n for n, t in tools.items() if not t.idempotent} == set(EFFECTS)
    assert {t.phase for t in tools.values()} == set(PHASES)


@pytest.mark.parametrize("name", GOOD)
def test_a_tool_does_what_it_says_and_nothing_else(name):
    """A good call answers with an object; only an action leaves an effect, exactly one."""
    with open_world({}) as world:
        answer = tools_of(world)[name].call(**GOOD[name])
        effects = world.effects()
        audit = world.rows("SELECT tool FROM audit_log")
    assert isinstance(answer, dict)
    assert answer
    assert (
        {kind for kind, rows in effects.items() if rows} == {EFFECTS[name]} & set(effects)
        if name in EFFECTS
        else not any(effects.values())
    )
    assert [row["tool"] for row in audit] == ([name] if name in EFFECTS else [])


@pytest.mark.parametrize("name", GOOD)
def test_a_tool_refuses_arguments_that_are_not_its_own(name):
    """Missing, unknown and wrongly typed arguments are refused by name, and change nothing."""
    with open_world({}) as world:
        call = tools_of(world)[name].call
        bad = [{**GOOD[name], "colour": "red"}]
        for key, value in GOOD[name].items():
            bad.append({k: v for k, v in GOOD[name].items() if k != key})
            wrong = ["5", 0, -3, True, 2.5] if isinstance(value, int) else [7, "", " ", None, ["x"]]
            bad += [{**GOOD[name], key: w} for w in wrong]
            if isinstance(value, str):
                bad.append({**GOOD[name], key: "x" * (MAX_TEXT + 1)})
        for arguments in bad:
            with pytest.raises(ToolError, match=name):
                call(**arguments)
        assert not any(world.effects().values())


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("get_customer", {"customer_id": "CUS-99"}),
        ("list_invoices", {"customer_id": "CUS-99"}),
        ("list_payments", {"customer_id": "INV-1012"}),
        ("get_invoice", {"invoice_id": "INV-0000"}),
        ("issue_refund", {"invoice_id": "INV-0000"}),
        ("issue_refund", {"amount_cents": 5930}),
        ("issue_credit", {"customer_id": "CUS-99"}),
        ("escalate", {"queue": "the boss"}),
        ("send_reply", {"to": "ana"}),
        ("send_reply", {"to": "ana@example.com bob@example.com"}),
        ("add_note", {"customer_id": "CUS-99"}),
    ],
)
def test_a_tool_refuses_what_the_ledger_does_not_hold(name, change):
    """Rows that do not exist, too much money and addresses that are none are refused."""
    with open_world({}) as world:
        with pytest.raises(ToolError, match=r"expected|cannot"):
            tools_of(world)[name].call(**{**GOOD[name], **change})
        assert not any(world.effects().values())


def test_schemas_say_what_is_checked():
    """Each schema is closed and requires every argument the tool takes."""
    with open_world({}) as world:
        for name, tool in tools_of(world).items():
            schema = tool.schema
            assert schema["name"] == name
            assert schema["description"]
            assert schema["parameters"]["additionalProperties"] is False
            assert set(schema["parameters"]["required"]) == set(GOOD[name])


def test_find_customer_prefers_the_exact_account():
    """An address or id finds its accounts; a part of a name finds all that have it."""
    with open_world({}) as world:
        find = tools_of(world)["find_customer"].call
        assert [c["customer_id"] for c in find(query="CUS-31")["customers"]] == ["CUS-31"]
        assert len(find(query="SAMUEL.OSEI@example.com")["customers"]) == 2
        assert len(find(query="chloe martin")["customers"]) == 2
        assert find(query="nobody@example.com")["customers"] == []


def test_the_ledger_does_not_enforce_authority():
    """A refund far above the policy's limit is possible, so that it can be scored."""
    with open_world({}) as world:
        tools_of(world)["issue_refund"].call(invoice_id="INV-1812", amount_cents=79900, reason="x")
        assert world.effects()["refunds"][0]["amount_cents"] == 79900


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 8000), max_size=6))
def test_refunds_never_exceed_what_was_paid(amounts):
    """Whatever is tried, refunds and what is left to refund add up to what was paid."""
    with open_world({}) as world:
        refund = tools_of(world)["issue_refund"].call
        done = 0
        for cents in amounts:
            fits = cents <= 5929 - done
            try:
                refund(invoice_id="INV-1012", amount_cents=cents, reason="x")
            except ToolError:
                assert not fits
            else:
                assert fits
                done += cents
        assert refundable(world, "INV-1012") == 5929 - done


def test_failed_and_charged_back_payments_cannot_be_refunded():
    """Only settled money can go back."""
    spec = {"payments": [{"paid_on": "2025-12-03", "status": "charged_back"},
                         {"paid_on": "2025-12-04", "status": "failed"}]}  # fmt: skip
    with open_world({"invoices": {"INV-1012": spec}}) as world:
        assert refundable(world, "INV-1012") == 0


def test_case_actions_list_what_was_done():
    """`list_case_actions` shows the agent's own effects and not the history."""
    history = {"add": {"refunds": [{"invoice_id": "INV-1012", "amount_cents": 5, "reason": "x"}]}}
    with open_world(history) as world:
        tools = tools_of(world)
        tools["issue_refund"].call(**GOOD["issue_refund"])
        tools["send_reply"].call(**GOOD["send_reply"])
        done = tools["list_case_actions"].call()
    assert done["refunds"] == [{"invoice_id": "INV-1012", "amount_cents": 500}]
    assert [r["to"] for r in done["replies"]] == ["ana.ruiz@example.com"]
    assert done["credits"] == done["escalations"] == []

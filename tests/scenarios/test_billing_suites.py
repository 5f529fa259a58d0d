"""The suites and tickets: well-formed, balanced, and clear about what is wrong."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest
from billing_desk import BILLING

from towerkit.core.errors import UsageError
from towerkit.faults.plan import FaultPlan
from towerkit.scenarios import SCENARIOS, SUITES, load_scenario
from towerkit.scenarios.billing_dispute_resolution.scoring import EXPECTATIONS
from towerkit.scenarios.billing_dispute_resolution.suites import TICKET_FIELDS
from towerkit.scenarios.billing_dispute_resolution.tools import QUEUES

ALL = [case for suite in SUITES for case in BILLING.suite(suite)]
TICKET = {"ticket_id": "T-1", "received": "2026-01-05", "from": "ana.ruiz@example.com",
          "subject": "Hello", "body": "A question"}  # fmt: skip


@pytest.mark.parametrize(("suite", "categories"), [("golden", 14), ("adversarial", 7)])
def test_a_suite_is_large_and_balanced(suite, categories):
    """At least 60 cases in many categories, none of which is a fifth of the suite."""
    cases = BILLING.suite(suite)
    counts = Counter(c.category for c in cases)
    assert len(cases) >= 60
    assert len(counts) >= categories
    assert min(counts.values()) >= 3
    assert max(counts.values()) <= len(cases) / 5
    assert all(c.suite == suite for c in cases)


def test_cases_are_told_apart():
    """Case ids and ticket ids are unique over both suites."""
    assert len({c.case_id for c in ALL}) == len(ALL)
    assert len({c.task["ticket_id"] for c in ALL}) == len(ALL)


def test_cases_are_complete():
    """Every ticket has every field, every expectation is a known one, every fault plan is valid."""
    for case in ALL:
        assert set(case.task) == set(TICKET_FIELDS)
        assert all(holds(case.task[name]) for name, (_, holds) in TICKET_FIELDS.items())
        assert case.expected
        assert set(case.expected) <= EXPECTATIONS
        assert set(case.expected.get("escalations", ())) <= set(QUEUES)
        assert case.expected["reply_to"] == case.task["from"]
        FaultPlan(case.faults)


def test_tickets_do_not_give_the_category_away():
    """A ticket holds neither its case id nor its category: the agent gets the ticket alone."""
    for case in ALL:
        text = json.dumps(case.task)
        assert case.case_id not in text
        assert case.category not in text


def test_tool_faults_are_in_the_adversarial_suite():
    """Corrupted and slow tools are there, on tools that exist, some of them not idempotent."""
    with BILLING.world({}) as world:
        tools = {t.name: t for t in BILLING.tools(world)}
    hit = Counter()
    for case in BILLING.suite("adversarial"):
        for fault in case.faults:
            name = fault["target"].removeprefix("tool:")
            hit[fault["kind"], tools[name].idempotent] += 1
    assert min(hit[kind, idem] for kind in ("slow", "corrupt") for idem in (True, False)) >= 3


def test_addresses_are_reserved_ones():
    """No case writes to an address that could exist."""
    for case in ALL:
        for address in re.findall(r"[\w.+-]+@[\w.-]+\w", json.dumps([case.task, case.world])):
            assert re.search(r"[@.](example\.com|example\.invalid|[\w-]+\.invalid)$", address)


def test_an_unknown_suite_or_scenario_lists_the_known():
    """A wrong name is a usage error that names the right ones."""
    with pytest.raises(UsageError, match="golden, adversarial"):
        BILLING.suite("silver")
    with pytest.raises(UsageError, match=", ".join(SCENARIOS)):
        load_scenario("teleport")


def test_the_demonstration_ticket_has_an_expectation():
    """Without a file there is a ticket with its world and its expected effects."""
    case = BILLING.ticket(None)
    assert case.expected["refunds"]
    assert case.world


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_ticket_can_be_brought(tmp_path, wrapped):
    """A file with a ticket, or with a ticket and a world, becomes a case."""
    path = tmp_path / "ticket.json"
    document = {"ticket": TICKET, "world": {"invoices": {"INV-1012": {"memo": "x"}}}}
    path.write_text(json.dumps(document if wrapped else TICKET))
    case = BILLING.ticket(path)
    assert case.task == TICKET
    assert case.world == (document["world"] if wrapped else {})
    assert case.expected == {}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "JSON"),
        ("[1]", "expected a JSON object, got a list"),
        ('{"ticket": 7}', "ticket: expected an object, got a number"),
        (json.dumps({"ticket": TICKET, "wurld": {}}), "got wurld"),
        (json.dumps({**TICKET, "colour": "red"}), "got colour"),
        (json.dumps({k: v for k, v in TICKET.items() if k != "body"}), "body: expected a text"),
        (json.dumps({**TICKET, "received": "yesterday"}), "received: expected a date"),
        (json.dumps({**TICKET, "received": 20260105}), "received: expected a date"),
        (json.dumps({**TICKET, "from": "ana"}), "from: expected the sender's e-mail"),
        (json.dumps({**TICKET, "subject": " "}), "subject: expected a text"),
        (json.dumps({"ticket": TICKET, "world": {"set": {"customers": {"X": {}}}}}), "world"),
        ("[" * 100_000, "JSON"),
    ],
)
def test_a_bad_ticket_is_refused_in_one_sentence(tmp_path, document, words):
    """The error names the file and the field, and what was expected."""
    path = tmp_path / "ticket.json"
    path.write_text(document)
    with pytest.raises(UsageError) as caught:
        BILLING.ticket(path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_ticket_that_cannot_be_read_is_a_usage_error(tmp_path):
    """A missing file and a folder are named, with the reason."""
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UsageError, match="cannot read the ticket"):
            BILLING.ticket(path)

"""A pack whose tables do not fit each other is no evidence, and lint says why."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tests.agents import recorded
from tests.packs.broken import BREAKS, Open, content, inside
from tests.packs.test_frozen_packs import EXPECTED, STORES
from towerkit.cli import cli
from towerkit.packs.admissible import RULES, Facts, reasons
from towerkit.packs.reader import open_pack
from towerkit.packs.store import Store

FAULTS = [
    {"target": "model:sim-clerk-large", "at": [1, 2, 3], "kind": "overloaded"},
    {"target": "tool:look_up", "at": [1], "kind": "slow", "delay_s": 30},
]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Return a run with retries, a fallback and a time-out: every rule has something to look at."""
    return recorded(tmp_path_factory.mktemp("good"), faults=FAULTS)


def test_a_recorded_run_is_evidence(good):
    """A whole run gives no reason against it, and lint says so."""
    assert reasons(good) == ()
    store = good.folder.parent.parent.parent
    done = CliRunner().invoke(cli, ["pack", "lint", "--store", str(store)])
    assert (done.exit_code, "1 of 1 packs are admissible" in done.output) == (0, True)


def test_every_rule_is_broken_below():
    """A rule that nobody breaks in a test might never find anything."""
    assert [rule.name for rule in RULES] == list(BREAKS)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_finds_what_breaks_only_it(tmp_path, good, rule):
    """It holds on the whole run; on one that breaks it, its name and a sentence are the reason."""
    assert rule.applies(Facts(good))
    assert list(rule.broken(Facts(good))) == []
    changed = Open(good)
    BREAKS[rule.name](changed)
    pack = changed.sealed(tmp_path)
    open_pack(pack.folder).verify()
    (reason,) = reasons(pack)
    name, _, sentence = reason.partition(": ")
    assert name == rule.name
    assert len(sentence) > 20
    done = CliRunner().invoke(cli, ["pack", "lint", "--store", str(tmp_path)])
    assert (done.exit_code, "inadmissible" in done.output, reason[:200] in done.output) == (
        1, True, True,
    )  # fmt: skip


@pytest.mark.parametrize("name", sorted(EXPECTED["v1"]["packs"]))
def test_rules_answer_on_every_frozen_pack(name):
    """Each rule that applies says a list of sentences, whatever made the pack."""
    facts = Facts(Store(STORES["v1"]).pack(EXPECTED["v1"]["packs"][name]["run_id"]))
    broken = [r.name for r in RULES if r.applies(facts) and list(r.broken(facts))]
    assert broken == EXPECTED["v1"]["packs"][name]["broken_rules"]


def test_what_a_source_cannot_have_is_not_asked(tmp_path, good):
    """Times of several clocks and content that was not kept break no rule about them."""
    other = Open(good)
    other.manifest["clock"] = "recorded"
    inside(other)
    assert reasons(other.sealed(tmp_path / "a")) == ()
    other = Open(good)
    other.manifest["redactor"] = other.manifest["redactor"] | {"capture": "digests"}
    content(other)
    assert reasons(other.sealed(tmp_path / "b")) == ()

"""A run that is no evidence is named with its reason, and nothing of it is counted."""

from __future__ import annotations

import msgspec
import pytest
from click.testing import CliRunner

from tests.agents import recorded
from tests.packs.broken import BREAKS, Open
from tests.packs.test_store import score
from towerkit.cli import cli
from towerkit.gate import gather, judge
from towerkit.gate.rules import Rule
from towerkit.gate.verdict import left_out
from towerkit.packs.admissible import reasons
from towerkit.packs.store import Store

FLOOR = Rule(name="floor", metric="score", suite="golden", kind="floor", threshold=0.1, min_n=2)
MOST = Rule(name="most", metric="inadmissible", kind="ceiling", threshold=0.05, min_n=2)


def scored(root, breaks):
    """Return a store of three runs with perfect scores, the last of them broken."""
    store = Store(root / "store")
    packs = [recorded(store.root, seed=seed) for seed in (1, 2)]
    last = Open(recorded(root / "away", seed=3))
    BREAKS[breaks](last)
    packs.append(last.sealed(store.root))
    store.add_scores([score(p, case_id=p.run_id) for p in packs])
    return store, packs


@pytest.mark.parametrize("breaks", BREAKS)
def test_an_inadmissible_run_is_named_and_never_counted(tmp_path, breaks):
    """Whatever rule it breaks: in no mean, no cost, no duration; its case stays, bounded."""
    store, packs = scored(tmp_path, breaks)
    bad = packs[-1].run_id
    evidence = gather(store, candidate="")
    side = evidence.candidate
    assert side.inadmissible == {bad: "; ".join(reasons(packs[-1]))}
    assert side.means["golden/resolved"] == {"mean": 1.0, "n": 2}
    for metric, values in side.runs.items():
        assert (bad in values) == (metric == "inadmissible"), metric
    ((outcome,),) = [o for key, o in side.cases["golden"].items() if key[1] == bad]
    assert (outcome.value, outcome.low, outcome.high) == (None, 0.0, 1.0)
    verdict = judge(evidence, [FLOOR, MOST])
    assert verdict.verdict != "PASS"
    (line,) = left_out(verdict.inputs)
    assert line in verdict.lines()
    assert bad in line
    assert breaks in line
    assert msgspec.to_builtins(verdict)["inputs"]["candidate"]["inadmissible"] == side.inadmissible


def test_many_are_counted_and_hostile_reasons_are_safe():
    """Twenty lines at most, then how many more; no reason can write to a terminal."""
    many = {f"run{i}": "tree: \x1b[31mred" for i in range(25)}
    inputs = {"candidate": {"inadmissible": many}, "baseline": None}
    lines = left_out(inputs)
    assert (len(lines), lines[-1]) == (21, "  not counted  and 5 more runs")
    assert not any("\x1b" in line for line in lines)


def test_the_gate_names_it_in_text_json_and_html(tmp_path):
    """One command each: the run and the broken rule stand in what a person and a machine get."""
    store, packs = scored(tmp_path, "tokens")
    rules = tmp_path / "rules.toml"
    rules.write_text("\n".join(
        "[[rule]]\n" + "\n".join(f"{k} = {msgspec.json.encode(v).decode()}"
                                   for k, v in msgspec.to_builtins(rule).items()
                                   if v is not None and not isinstance(v, bool))
        for rule in (FLOOR, MOST)
    ))  # fmt: skip
    asked = ["gate", "--candidate", "release=dev", "--rules", str(rules), "--store",
             str(store.root)]  # fmt: skip
    text = CliRunner().invoke(cli, asked)
    bad = packs[-1].run_id
    assert text.exit_code in {3, 4}, text.output
    assert f"not counted  candidate run {bad}: tokens: attempt" in text.output
    page = next((store.root / "reports").glob("*.html")).read_text()
    assert f"{bad}</td>" in page
    assert "tokens: attempt" in page
    assert "1 of 1 inadmissible runs" in page
    told = msgspec.json.decode(next((store.root / "reports").glob("*.json")).read_bytes())
    assert told["inputs"]["candidate"]["inadmissible"][bad].startswith("tokens: attempt")

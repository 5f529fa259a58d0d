"""Runs and spans as somebody looks at them."""

import re

import pytest

from towerkit import Store, Tower
from towerkit.core.env import VirtualEnv
from towerkit.core.errors import SelectionError, UsageError
from towerkit.packs.browse import Runs, Tree

EVIL = "<script>alert(1)</script>\x1b[31m"


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    tower = Tower(store=tmp_path_factory.mktemp("runs"), release="v7", budget_usd=1.0)
    for i in range(3):
        env = VirtualEnv(i, start_ns=1_767_571_200_000_000_000 + i * 86_400_000_000_000)
        with tower.run(EVIL if i == 1 else "clerk", env=env, identity={"case_id": f"c{i}"}) as run:
            with run.step("look"):
                run.tool(lambda: 1, name="find", idempotent=True)
            with pytest.raises(ZeroDivisionError):
                run.tool(lambda: 1 / 0, name="fail", idempotent=False)
    return tower


def test_runs_are_listed_newest_first_and_opened_by_their_beginning(tower):
    """`tower.runs` in a notebook."""
    runs = tower.runs
    assert isinstance(runs, Runs)
    assert [p.manifest["identity"]["case_id"] for p in runs] == ["c2", "c1", "c0"]
    assert runs[runs[1].run_id[:18]].run_id == runs[1].run_id
    assert len(runs[:2]) == 2
    assert runs.where("release=v7")[0].run_id == runs[0].run_id
    assert len(runs.where("release=v8")) == 0
    with pytest.raises(SelectionError, match="none of the 3 runs"):
        runs["zz"]
    with pytest.raises(SelectionError, match="3 of the 3 runs"):
        runs["01"]


def test_the_frame_has_a_row_a_run_and_unknown_cost_is_null(tower, tmp_path):
    """Numbers come from manifests; what nobody knows is null, not zero."""
    frame = tower.runs.frame
    assert frame["case_id"].to_list() == ["c2", "c1", "c0"]
    assert frame["cost_usd"].to_list() == [0.0, 0.0, 0.0]
    assert frame["spans"].to_list() == [6, 6, 6]
    empty = Store(tmp_path).runs()
    assert empty.frame.height == 0
    assert repr(empty) == "0 runs"
    pack = tower.runs[0]
    pack.manifest["budget"]["unknown_charges"] = 1
    assert Runs([pack]).frame["cost_usd"].to_list() == [None]
    assert "–" in repr(Runs([pack]))


def test_a_tree_is_indented_and_failures_are_marked(tower):
    """The same tree as `towerkit pack show` prints."""
    tree = tower.runs[0].tree
    assert isinstance(tree, Tree)
    lines = repr(tree).splitlines()
    assert lines[0].startswith("clerk ")
    assert lines[1].startswith("  look ")
    assert lines[2].startswith("    execute_tool find ")
    assert any(line.endswith("error: agent_bug") or "error: tool" in line for line in lines)
    assert len(tree) == tower.runs[0].spans.height
    assert "salt" not in tower.runs[0].spans.columns


def test_a_run_that_has_ended_shows_its_spans(tower):
    """`run.spans` and `run.tree`; before its end there are none."""
    env = VirtualEnv(9)
    with tower.run("late", env=env) as run, pytest.raises(UsageError, match="has ended"):
        _ = run.tree
    assert run.spans.equals(run.pack.spans)
    assert repr(run.tree).startswith("late ")


def test_what_is_shown_is_cleaned_and_escaped(tower):
    """A run's name is whatever somebody called it."""
    for shown in (tower.runs, tower.runs[1].tree):
        page = shown._repr_html_()
        assert "<script>" not in page
        assert "&lt;script&gt;" in page
        assert "\x1b" not in page + repr(shown)
        assert re.findall(r"<(/?\w+)", page).count("tr") == page.count("</tr>")

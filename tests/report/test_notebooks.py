"""The committed notebooks: kept clean, and executed on small stores."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest
from fake_runs import FakeRun, score

from towerkit.core.errors import NotebookError, UsageError
from towerkit.packs.store import Store
from towerkit.report import run_notebook, write_result
from towerkit.report.parameters import parameters_of, read_notebook, source_of, tags_of

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_cells(path: Path) -> list[dict]:
    """Return the code cells of a notebook."""
    return [c for c in read_notebook(path)["cells"] if c["cell_type"] == "code"]


def test_the_four_notebooks_are_here() -> None:
    """The product's notebooks are found where the commands look for them."""
    assert {p.stem for p in NOTEBOOKS} >= {"drift", "gate", "rca", "replay"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_is_committed_clean(path) -> None:
    """No outputs, no execution counts, no machine's metadata, and a stable id for each cell."""
    document = read_notebook(path)
    assert set(document["metadata"]) == {"kernelspec", "language_info"}
    assert all(not c["outputs"] and c["execution_count"] is None for c in code_cells(path))
    assert len({c["id"] for c in document["cells"]}) == len(document["cells"])
    assert all(set(c["metadata"]) <= {"tags"} for c in document["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_asks_one_question_and_defines_nothing(path) -> None:
    """It opens with its question, has one parameters cell, calls, and ends with its claim."""
    cells = read_notebook(path)["cells"]
    title = source_of(cells[0]).splitlines()[0]
    assert cells[0]["cell_type"] == "markdown"
    assert title.startswith("# ")
    assert title.endswith("?")
    assert sum("parameters" in tags_of(c) for c in cells) == 1
    sources = [source_of(c) for c in code_cells(path)]
    defined = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    nodes = [n for s in sources for n in ast.walk(ast.parse(s))]
    assert not [n for n in nodes if isinstance(n, defined)]
    assert sum(bool(line.strip()) for s in sources for line in s.splitlines()) <= 80
    assert "write_result(result_path" in sources[-1]
    assert "assert " in sources[-1]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_takes_a_store_and_a_result_path(path) -> None:
    """Every notebook can be pointed at a store and asked for its result."""
    known = parameters_of(path)
    assert known["store"].default == "towerkit-store"
    assert known["result_path"].default == ""


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Make two releases of 24 made-up runs; the new one refunds and fails more often."""
    store, rows = Store(tmp_path_factory.mktemp("store")), []
    for i in range(48):
        new = i >= 24
        failing = i % 6 == 0 or (new and i % 2 == 0)
        run = FakeRun(i, release="new" if new else "old")
        run.call("sim", chat=True, attempts=(("error", "overloaded", 0), ("ok", None, 1)))
        run.call("lookup", request=i)
        if failing:
            run.call("<script>alert(1)</script>", request=i)
        pack = run.commit(store)
        row = score(pack, float(not failing), release="new" if new else "old")
        rows.append((*row[:6], f"case-{i % 24}", *row[7:]))
    store.add_scores(rows)
    return store


def test_the_drift_notebook_finds_what_changed(store, tmp_path) -> None:
    """Its page and its result name the tool that the new release took up."""
    made = run_notebook(
        "drift",
        {"store": str(store.root), "baseline": "release=old", "live": "release=new", "q": "0.1"},
        out_dir=tmp_path,
    )
    assert made.result["q"] == 0.1
    assert {"last_tool", "tool_calls"} <= set(made.result["drifted"])
    assert "columns drifted" in made.html.read_text()


def test_the_root_cause_notebook_names_the_planted_tool(store, tmp_path) -> None:
    """The first contrast is the tool only failing runs call, shown as text."""
    given = {"store": str(store.root), "selection": "release=new"}
    made = run_notebook("rca", given, out_dir=tmp_path, stem="why")
    first = made.result["contrasts"][0]
    assert (first["kind"], first["feature"]) == ("tool used", "<script>alert(1)</script>")
    page = made.html.read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["why.html", "why.ipynb", "why.json"]


def test_the_what_if_notebook_compares_policies_side_by_side(store, tmp_path) -> None:
    """Its result is the search over the default grid, and the page draws the front."""
    given = {"store": str(store.root), "selection": "release=old"}
    made = run_notebook("whatif", given, out_dir=tmp_path)
    assert made.result["runs"] == 24
    assert len(made.result["points"]) == 6
    assert set(made.result["front"]) <= {p["world"]["name"] for p in made.result["points"]}
    assert "policies are beaten by no other" in made.html.read_text()


def test_the_gate_notebook_gives_the_verdict_of_the_gate(store, tmp_path) -> None:
    """Its result is what `judge` says of the same evidence, and the page opens with it."""
    import html

    import msgspec

    from towerkit.gate import gather, judge, load_rules

    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[rule]]\nname = "golden"\nmetric = "score"\nsuite = "golden"\n'
        'kind = "non_inferior"\nthreshold = 0.05\nmin_n = 20\n'
    )
    given = {"candidate": "release=new", "baseline": "release=old"}
    made = run_notebook(
        "gate",
        {"store": str(store.root), **given, "rules": str(rules), "run_id": store.packs()[0].run_id},
        out_dir=tmp_path / "out",
    )
    verdict = judge(gather(store, **given), load_rules(str(rules)))
    assert made.result == json.loads(msgspec.json.encode(verdict))
    body = made.html.read_text().split("<main>")[1].strip()
    assert body.startswith(f'<p class="banner {verdict.verdict}"')
    assert "Simulated" in body
    assert "[reliability]" in body
    left_out = [*verdict.inputs["candidate"]["inadmissible"].items(),
                *verdict.inputs["baseline"]["inadmissible"].items()]  # fmt: skip
    assert f"{len(left_out)} of {len(left_out)} inadmissible runs" in body
    assert all(run in body and html.escape(why[:60]) in body for run, why in left_out)


def test_the_replay_notebook_reports_equality_and_divergence(tmp_path) -> None:
    """A recorded run replays equal; with one word of the prompt changed its page says where."""
    from towerkit.evals import ModelChoice, Setup, run_case
    from towerkit.scenarios import load_scenario

    scenario, store = load_scenario("billing_dispute_resolution"), Store(tmp_path / "store")
    setup = Setup(
        scenario=scenario, store=store, models=ModelChoice(), release="r", seed=1, budget_usd=0.09
    )
    pack = run_case(setup, scenario.suite("golden")[0], eval_id="e").pack
    given = {"store": str(store.root), "run_id": pack.run_id}
    assert run_notebook("replay", given, out_dir=tmp_path / "a").result["equal"] is True
    changed = tmp_path / "prompt.md"
    changed.write_text(scenario.prompt().replace("the", "teh", 1))
    made = run_notebook("replay", {**given, "prompt": str(changed)}, out_dir=tmp_path / "b")
    assert made.result["equal"] is False
    assert f"Diverged at span {made.result['divergence']['seq']}" in made.html.read_text()
    run_case(setup, scenario.suite("golden")[1], eval_id="e")
    every = run_notebook(
        "replay", {**given, "selection": "release=r"}, out_dir=tmp_path / "c"
    )  # fmt: skip
    assert every.result["runs"] == {"equal": 2, "diverged": 0, "error": 0}
    assert "All 2 runs, in the order of the store" in every.html.read_text()


def test_a_notebook_without_runs_says_so_in_one_sentence(tmp_path) -> None:
    """The store's own error reaches the caller, and an old result does not survive."""
    (tmp_path / "gate.json").write_text('{"verdict": "PASS"}')
    with pytest.raises(NotebookError, match=r"cell \d+ failed: SelectionError: nothing in store"):
        run_notebook("gate", {"store": str(tmp_path / "none")}, out_dir=tmp_path)
    assert not (tmp_path / "gate.json").exists()


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("unknown", {}, "there are: .*gate.ipynb"),
        ("../gate", {}, "expected the name of a notebook"),
        ("drift", {"q": "much"}, "expected parameter q as float, got 'much'"),
        ("drift", {"bseline": "x"}, "drift.ipynb has no parameter 'bseline'"),
    ],
)
def test_an_unknown_notebook_or_parameter_is_refused(tmp_path, name, given, said) -> None:
    """Names and values are checked before a kernel starts."""
    with pytest.raises(UsageError, match=said):
        run_notebook(name, given, out_dir=tmp_path)


def test_a_result_is_written_whole_and_only_when_asked(tmp_path) -> None:
    """An empty path writes nothing; a path gets the whole JSON object."""
    write_result("", {"x": 1})
    write_result(str(tmp_path / "r.json"), {"b": 1, "a": None})
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": None, "b": 1}

"""The documentation is run: what the README and the pack format show, works as shown."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import duckdb
import pytest

from tests.agents import recorded
from towerkit.cli import cli
from towerkit.lake import compact
from towerkit.packs.committer import wait_for_commits
from towerkit.packs.store import Store
from towerkit.packs.tables import PACK_TABLES, SCORES

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(page, language):
    """Return the fenced blocks of a language on a page, in order."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def test_the_readmes_agent_is_about_ten_lines_and_runs(tmp_path, monkeypatch):
    """The block runs as it stands, in an empty folder, and leaves a pack."""
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("README.md", "python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 11
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {"__name__": "readme"})
    assert Path(out.getvalue().strip(), "manifest.json").is_file()


def test_a_pack_reads_without_towerkit(tmp_path, monkeypatch):
    """DuckDB and plain Polars answer the questions of docs/pack-format.md on a real pack."""
    pack = recorded(tmp_path)
    monkeypatch.chdir(tmp_path)
    tries, costs = (duckdb.sql(q).fetchall() for q in blocks("docs/pack-format.md", "sql"))
    assert len(tries) == pack.frame("spans").filter(kind="attempt").height
    assert costs == [("sim-clerk-large", pack.manifest["budget"]["spent_nanousd"] / 1e9, 0)]
    out, scope = io.StringIO(), {}
    with contextlib.redirect_stdout(out):
        for code in blocks("docs/pack-format.md", "python"):
            exec(code, scope)
    assert "['system', 'user']" in out.getvalue()


def test_the_lakes_questions_are_answered(tmp_path, monkeypatch):
    """The Python of docs/lake.md runs on a lake of one run, as it stands."""
    pack = recorded(tmp_path / "towerkit-store")
    compact(Store(tmp_path / "towerkit-store"), drop=True)
    monkeypatch.chdir(tmp_path)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        for code in blocks("docs/lake.md", "python"):
            exec(code, {})
    assert "sim-clerk-large" in out.getvalue()
    assert str(pack.manifest["budget"]["spent_nanousd"] / 1e9) in out.getvalue()


def test_every_column_is_documented():
    """The tables at the end of docs/pack-format.md are those of the code."""
    text = (ROOT / "docs/pack-format.md").read_text()
    for table in (*PACK_TABLES.values(), SCORES):
        for c in table.columns:
            null = "yes" if c.nullable else ""
            assert f"| `{c.name}` | {c.kind} | {null} | {c.doc} |" in text, (table.name, c.name)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    """Each relative link and picture of a page exists."""
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_command_is_named_in_the_readme():
    """A reader finds each command."""
    text = (ROOT / "README.md").read_text()
    for name in cli.commands:
        assert f"towerkit {name}" in text or f" {name}" in text, name


def test_no_page_names_a_host_of_packages_or_a_path_of_a_machine():
    """Nothing that only holds here."""
    for page in PAGES:
        text = page.read_text()
        assert "/root/" not in text
        assert "/home/" not in text
        assert not re.search(r"pypi|pythonhosted|simple/", text), page


def test_the_stand_ins_of_the_reliability_page_answer(tmp_path, monkeypatch, capsys):
    """The block of docs/reliability.md runs as it stands; the human answers last and says why."""
    monkeypatch.chdir(tmp_path)
    for code in blocks("docs/reliability.md", "python"):
        exec(compile(code, "docs/reliability.md", "exec"), {})
    assert capsys.readouterr().out == "human 2 connect_failed\n"
    wait_for_commits(Path("store"))  # a relative name means another folder after this test


def test_the_page_of_models_shows_what_happens(tmp_path, monkeypatch, capsys):
    """The block of docs/howto/models.md runs: one retry, two hits."""
    monkeypatch.chdir(tmp_path)
    for code in blocks("docs/howto/models.md", "python"):
        exec(compile(code, "docs/howto/models.md", "exec"), {})
    assert capsys.readouterr().out == "It was sent on Monday. 2\n"
    wait_for_commits(Path("store"))

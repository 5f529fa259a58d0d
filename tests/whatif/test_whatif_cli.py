"""`towerkit whatif`: what it prints and what it refuses."""

from __future__ import annotations

import json

from click.testing import CliRunner

from towerkit.cli import cli


def run(*args):
    return CliRunner().invoke(cli, ["whatif", *map(str, args)])


def test_the_answer_in_text_and_in_json(store, packs, tmp_path) -> None:
    """Both come from one object: labels, totals, what would have to be made."""
    policy = tmp_path / "new.toml"
    policy.write_text("max_attempts = 8\n")
    said = run("--store", store, "--policy", policy)
    assert said.exit_code == 0, said.output
    told = json.loads(run("--store", store, "--policy", policy, "--json").stdout)
    rows = told["rows"]
    head = said.output.splitlines()[0]
    assert head.startswith(f"[whatif] 12 runs, {told['changed']} changed: {rows['exact']} exact")
    assert f"${told['totals']['cost_nanousd']['low'] / 1e9:.4f}" in said.output
    assert len(told["runs"]) == 12


def test_a_search_in_text_and_in_json(store, packs, tmp_path) -> None:
    """The front is named."""
    grid = tmp_path / "grid.toml"
    grid.write_text("backoff_cap_s = [0.1, 8.0]\n")
    said = run("--store", store, "--search", grid)
    assert "[whatif] no other beats: backoff_cap_s=0.1\n" in said.output
    told = json.loads(run("--store", store, "--search", grid, "--json").stdout)
    assert told["front"] == ["backoff_cap_s=0.1"]


def test_what_cannot_be_is_one_sentence(store, packs, tmp_path) -> None:
    """A misspelt key and a day that is none."""
    policy = tmp_path / "new.toml"
    policy.write_text("max_atempts = 8\n")
    assert "known: attempt_timeout_s" in str(run("--store", store, "--policy", policy).exception)
    wrong = run("--store", store, "--price-as-of", "soon").exception
    assert "an ISO date such as" in str(wrong)

"""The commands that price answers and stored runs, and compare with an invoice."""

from __future__ import annotations

import hashlib
import json

import pytest
from click.testing import CliRunner

from towerkit.cli import cli
from towerkit.core.types import Response, Usage
from towerkit.runtime import models
from towerkit.runtime.tower import Tower


def run(*words, lines=None):
    return CliRunner().invoke(cli, ["cost", *map(str, words)], input=lines)


@pytest.fixture
def store(tmp_path):
    """Record a run with a call of a model that has a price and one that has none."""
    for name, provider in (("gpt-4o", "openai"), ("no-such", "openai")):

        def answer(request):
            return Response(content="x", usage=Usage(input_tokens=1000, output_tokens=10))

        chain = [models.function(answer, name=name, provider=provider)]
        with Tower(store=tmp_path / "s", models=chain, release="r1").run("x") as one:
            one.model([{"role": "user", "content": "a"}])
        one.pack.verify()
    return tmp_path / "s"


def digest(folder):
    """Return what the bytes of a store are."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(p.read_bytes() for p in files)).hexdigest()


def test_answers_are_priced_line_by_line():
    """In their order; a bad line is answered too and decides the exit code."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 10}
    good = {"provider": "openai", "model": "gpt-4o", "body": {"usage": usage}, "at": "2026-07-20"}
    lines = [json.dumps(good), "x", json.dumps(good | {"model": "no-such", "at": 1_784_548_800}),
             json.dumps(good | {"body": {"usage": usage | {"prompt_tokens": -1}}})]  # fmt: skip
    result = run("price", lines="\n".join(lines) + "\n")
    first, second, third, fourth = map(json.loads, result.stdout.splitlines())
    assert result.exit_code == 2
    assert (first["cost_nanousd"], first["why"]) == (2_600_000, None)
    assert first["usage"] == {"input_tokens": 1000, "output_tokens": 10}
    assert set(second) == {"error"}
    assert (third["cost_nanousd"], third["usage"]) == (None, first["usage"])
    assert "no-such" in third["why"]
    assert (fourth["usage"], fourth["cost_nanousd"]) == (None, None)
    assert "prompt_tokens is -1" in fourth["why"]
    assert run("price", lines=lines[0]).exit_code == 0


def test_a_file_of_prices_is_used_and_one_that_is_wrong_is_refused(tmp_path):
    """For the command alone; exit code 2 and the entry's number."""
    mine = tmp_path / "mine.toml"
    entry = '[[price]]\nprovider="acme"\nmodel="own"\nfrom=2026-01-01\ninput_mtok="1"\n'
    mine.write_text(entry)
    body = {"usage": {"prompt_tokens": 1000, "completion_tokens": 0}}
    line = json.dumps({"provider": "acme", "model": "own", "body": body})
    assert (
        json.loads(run("price", "--prices", mine, lines=line).stdout)["cost_nanousd"] == 1_000_000
    )
    mine.write_text(entry + "output=3\n")
    with pytest.raises(Exception, match=r"price 1: unknown output"):
        CliRunner().invoke(cli, ["cost", "price", "--prices", str(mine)], catch_exceptions=False)


def test_stored_runs_are_shown_and_the_unknown_says_so(store):
    """Where one charge is unknown, so is the sum."""
    shown = run("show", "--store", store)
    assert shown.exit_code == 0
    assert "unknown ($0.0026 and 1 unknown charges)" in shown.output.splitlines()[-1]
    said = json.loads(run("show", "--by", "release", "--json", "--store", store).output)
    assert said["total"]["cost_nanousd"] is None
    assert said["groups"][0]["release"] == "r1"
    assert [w["waste"] for w in said["waste"]] == ["retries", "discarded", "cancelled"]


def test_stored_runs_are_priced_again_and_not_touched(store, tmp_path):
    """At prices of your own for another day; not a byte of the store changes."""
    mine = tmp_path / "mine.toml"
    mine.write_text("".join(
        f'[[price]]\nprovider="openai"\nmodel="{m}"\nfrom=2027-01-01\ninput_mtok="1"\n'
        'output_mtok="0"\n' for m in ("gpt-4o", "no-such")))  # fmt: skip
    before = digest(store)
    words = ("reprice", "--as-of", "2027-02-01", "--prices", mine, "--store", store)
    said = json.loads(run(*words, "--json").output)
    assert said["total"]["repriced_nanousd"] == 2_000_000
    assert (said["total"]["recorded_nanousd"], said["total"]["unknown_recorded"]) == (None, 1)
    assert "mine.toml" in said["book"]
    text = run(*words).output
    assert "openai/no-such" in text
    assert "recorded unknown ($0.00 and 1 unknown charges)" in text
    assert digest(store) == before
    with pytest.raises(Exception, match="--as-of as an ISO date"):
        CliRunner().invoke(
            cli, ["cost", "reprice", "--as-of", "soon", "--store", str(store)],
            catch_exceptions=False,
        )  # fmt: skip


def test_an_invoice_is_compared(store, tmp_path):
    """The exit code says whether it agrees, the lines why not."""
    from towerkit.packs.charges import charges
    from towerkit.packs.store import Store

    day = charges(Store(store).packs())["day"][0]
    bill = tmp_path / "bill.csv"
    bill.write_text(f"date,model,cost_usd\n{day},gpt-4o,0.0026\n{day},no-such,0\n")
    fine = run("reconcile", bill, "--store", store)
    assert (fine.exit_code, fine.output.splitlines()[-1]) == (0, "[reconcile] agrees: 2 rows")
    assert "+ 1 unknown" in fine.output
    bill.write_text(f"When,What,Total\n{day},gpt-4o,0.0052\n")
    columns = "day=When,model=What,cost_usd=Total"
    said = run("reconcile", bill, "--columns", columns, "--json", "--store", store)
    assert said.exit_code == 4
    rows = json.loads(said.output)["rows"]
    assert [p["cause"] for p in rows[0]["parts"]] == ["unexplained"]
    for odd in ("day", "day="):
        with pytest.raises(Exception, match="expected --columns like"):
            CliRunner().invoke(
                cli, ["cost", "reconcile", str(bill), "--columns", odd, "--store", str(store)],
                catch_exceptions=False,
            )  # fmt: skip


@pytest.mark.parametrize("priced", [True, False])
def test_an_imported_run_keeps_its_dollars_or_says_unknown(tmp_path, priced):
    """To the last digit; a recorded 0 for tokens that were used is nobody's price."""
    from tests.ingest.ingest_samples import admit, tau2_file, tau2_run, write
    from towerkit.packs.store import Store

    record = tau2_run()
    if not priced:
        record["agent_cost"] = 0.0
        for message in record["messages"]:
            if message["role"] == "assistant" and message["usage"]:
                message["cost"] = 0.0
    report = admit(Store(tmp_path / "s"), write(tmp_path / "a.json", tau2_file(record)), "tau2")
    assert report.errors == ()
    said = json.loads(run("show", "--by", "purpose", "--json", "--store", tmp_path / "s").output)
    (agent,) = [g for g in said["groups"] if g["purpose"] == "agent"]
    assert (agent["cost_nanousd"], agent["unknown_charges"]) == ((5002, 0) if priced else (None, 2))
    text = run("show", "--by", "purpose", "--store", tmp_path / "s").output.splitlines()
    (line,) = [x for x in text if x.startswith("agent")]
    assert ("$0.000005002" if priced else "unknown ($0.00 and 2 unknown charges)") in line

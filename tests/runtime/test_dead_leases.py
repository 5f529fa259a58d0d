"""A run whose process was killed: what of its leases above the run comes back, and when."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from tests.runtime.test_shared_breakers import server  # noqa: F401  a Redis of our own
from towerkit.cli import cli
from towerkit.cost.budget import NOTHING
from towerkit.packs.store import Store
from towerkit.runtime.redis_budgets import RedisBudgets
from towerkit.runtime.shared_budgets import SqliteBudgets

# Four calls that set four attempts aside each: one is answered and reported, one is answered and
# the store does not hear of it, nor of a tool's, and in the middle of the last the process is gone.
KILLED = """
import os, signal, sys
from towerkit import Budget, Limits, Policy, Response, Tower, Usage, Window, models
from towerkit.privacy.keys import simulated_redactor
from towerkit.runtime import budgets
from towerkit.runtime.redis_budgets import RedisBudgets
budgets.GRACE_S = 0
said = []
def complete(request):
    if len(said) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    said.append(1)
    return Response(content="sent", usage=Usage(input_tokens=100, output_tokens=20))
model = models.function(complete, name="sim-clerk-large", provider="simulated", simulated=True)
above = (Window(scope="tenant", per="day", limits=Limits(calls=100, cost_usd=9)),)
shared = RedisBudgets(sys.argv[2]) if len(sys.argv) > 2 else None
tower = Tower(store=sys.argv[1], models=[model], budget=Budget(above=above, ladder=True),
              budgets=shared, policy=Policy(deadline_s=4), redactor=simulated_redactor())
with tower.run("doomed", tenant="acme") as run:
    run.model([{"role": "user", "content": "one"}])
    tower.shared_budgets.settle = lambda *report: None
    run.model([{"role": "user", "content": "two"}])
    run.tool(lambda: 1, name="count", idempotent=False)
    run.model([{"role": "user", "content": "six"}])
"""
KEY = "tenant=acme/day", "day"
COST = 450_000  # nano-dollars, of an answer: 100 tokens at 1.5 and 20 at 15 dollars a million


@pytest.fixture(params=["sqlite", "redis"])
def dead(request, tmp_path):
    """Return the store's limits, and how a person names them, once the run was killed."""
    url = []
    if request.param == "redis":
        url = [request.getfixturevalue("server")]
        RedisBudgets(url[0])._redis.flushall()
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), *url],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    made = RedisBudgets(url[0]) if url else SqliteBudgets(tmp_path / "budgets.sqlite")
    return made, ["--budgets", *url] if url else []


def recovered(tmp_path, named):
    """Recover the store; return what was printed."""
    done = CliRunner().invoke(cli, ["pack", "recover", "--store", str(tmp_path), *named, "--json"])
    return done.exit_code, json.loads(done.stdout)


def ended(shared):
    """Wait until the leases of the dead have ended; return what was spent."""
    until = time.monotonic() + 20
    while shared.standing(*KEY).reserved != NOTHING:
        assert time.monotonic() < until
        time.sleep(0.1)
    return shared.standing(*KEY).spent


def test_what_was_not_begun_comes_back_and_what_had_ended_is_exact(tmp_path, dead):
    """First the leases end: three attempts count whole. Then the journal says what two used."""
    shared, named = dead
    held = shared.standing(*KEY)
    assert (held.spent.calls, held.spent.cost_nanousd) == (1, COST)
    assert (held.reserved.calls, held.reserved.tool_calls) == (8, 1)
    most = held.reserved.cost_nanousd // 8
    spent = ended(shared)
    assert (spent.calls, spent.tool_calls) == (3, 1)
    assert spent.cost_nanousd == COST + 2 * most
    code, said = recovered(tmp_path, named)
    assert (code, said["leases"]) == (0, 2)
    spent = shared.standing(*KEY).spent
    assert (spent.calls, spent.tool_calls) == (3, 1)
    assert spent.cost_nanousd == 2 * COST + most
    assert recovered(tmp_path, named)[1]["leases"] == 0


def test_recovered_before_its_leases_have_ended(tmp_path, dead):
    """The same in the end: what was under way counts as it was set aside."""
    shared, named = dead
    most = shared.standing(*KEY).reserved.cost_nanousd // 8
    assert recovered(tmp_path, named)[1]["leases"] == 2
    spent = ended(shared)
    assert (spent.calls, spent.tool_calls, spent.cost_nanousd) == (3, 1, 2 * COST + most)


def test_a_store_that_does_not_answer_keeps_the_journal(tmp_path, dead):
    """One sentence, exit code 1; the pack is there, and the next recovery reports."""
    nobody = ["--budgets", f"unix://{tmp_path}/nobody"]
    code, said = recovered(tmp_path, nobody)
    assert code == 1
    assert "the budgets in Redis cannot be read" in next(iter(said["problems"].values()))
    assert len(Store(tmp_path).select("")) == 1
    assert recovered(tmp_path, dead[1])[1]["leases"] == 2


def test_a_report_that_is_not_taken_is_told(tmp_path, dead, monkeypatch):
    """The store answers and takes nothing: the journal stays, and the sentence says what to do."""
    shared, named = dead
    with monkeypatch.context() as patch:
        patch.setattr(type(shared), "settle", lambda *_: None)
        code, said = recovered(tmp_path, named)
    assert code == 1
    assert "recover it again" in next(iter(said["problems"].values()))
    assert recovered(tmp_path, named)[1]["leases"] == 2

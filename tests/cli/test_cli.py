"""The commands as a user types them: what they print, and the code they leave with."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.agents import recorded
from towerkit.cli import main
from towerkit.packs import writer
from towerkit.packs.store import Store

SCENARIO = "billing_dispute_resolution"


def run_cli(*args, capfd, monkeypatch):
    """Run the command line in this process: (exit code, standard output, standard error)."""
    monkeypatch.setattr(sys, "argv", ["towerkit", *map(str, args)])
    try:
        main()
        code = 0
    except SystemExit as leave:
        code = leave.code or 0
    out, err = capfd.readouterr()
    return code, out, err


@pytest.fixture
def cli(capfd, monkeypatch, tmp_path):
    """Return a function that runs towerkit in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return lambda *args: run_cli(*args, capfd=capfd, monkeypatch=monkeypatch)


@pytest.fixture(scope="session")
def main_job(tmp_path_factory):
    """Run the main job once, as text, in a process of its own."""
    store = tmp_path_factory.mktemp("job") / "store"
    env = {**os.environ, "HOME": str(tmp_path_factory.mktemp("home"))}
    done = subprocess.run(
        [sys.executable, "-m", "towerkit", "run", "--scenario", SCENARIO, "--store", str(store)],
        capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    return store, done


def test_the_five_lines_come_first_and_speak_of_the_pack(main_job):
    """Each line has its form, and its numbers are those of the pack that is named below."""
    store, done = main_job
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    forms = (
        r"\[reliability\] fallback=(true|false) timeout=[\d.]+s retries=\d+",
        r"\[telemetry\] spans=\d+ classified_errors=\{(\w+:\d+(,\w+:\d+)*)?\}",
        r"\[cost\] budget=\$\d+\.\d\d actual=\$\d+\.\d+",
        r"\[eval\] golden=\d+% adversarial=\d+%",
        r"\[gate\] (PASS|HOLD|FAIL)",
    )
    for form, line in zip(forms, lines, strict=False):
        assert re.fullmatch(form, line), line
    pack = Store(store).pack(
        next(x for x in lines if x.startswith("pack: ")).removeprefix("pack: ")
    )
    assert f"spans={pack.frame('spans').height} " in lines[1]
    assert any(line.startswith("simulated: ") for line in lines)
    page = Path(next(x for x in lines if x.startswith("scorecard: ")).removeprefix("scorecard: "))
    assert page.is_file()
    assert done.returncode == {"PASS": 0, "HOLD": 3, "FAIL": 4}[lines[4].split()[1]]


def test_json_says_the_same_and_so_does_another_store(main_job, tmp_path, cli):
    """The same seed in another store: the same lines, verdict and pack digest."""
    store, done = main_job
    code, out, err = cli("run", "--scenario", SCENARIO, "--store", tmp_path / "s", "--json")
    facts = json.loads(out)
    assert (code, err) == (done.returncode, "")
    lines = done.stdout.splitlines()
    assert f"retries={facts['reliability']['retries']}" in lines[0]
    assert f"spans={facts['telemetry']['spans']} " in lines[1]
    assert f"actual=${facts['cost']['actual_usd']:.2f}" in lines[2]
    assert f"golden={round(100 * facts['eval']['golden'])}%" in lines[3]
    assert lines[4] == f"[gate] {facts['verdict']}"
    assert Store(store).pack(facts["run_id"]).digest == facts["pack_digest"]
    assert {"run_id", "pack", "scorecard", "verdict"} <= set(facts)


def test_replay_of_the_main_job(main_job, cli):
    """Equal as recorded; with another prompt the first differing span is named, exit 4."""
    store, done = main_job
    run_id = Path(next(x for x in done.stdout.splitlines() if x.startswith("pack: "))).name
    code, out, _ = cli("replay", run_id, "--store", store)
    assert code == 0
    assert out.startswith("[replay] EQUAL")
    Path("prompt.md").write_text("You answer letters.\n")
    code, out, _ = cli("replay", run_id, "--store", store, "--prompt", "prompt.md")
    assert code == 4
    assert "DIVERGED" in out
    assert "message 0" in out
    code, out, _ = cli("replay", run_id, "--store", store, "--json")
    assert json.loads(out)["equal"] is True


def test_packs_are_listed_shown_and_verified(tmp_path, cli):
    """`pack ls`, `pack show` and `pack verify`, by run id and by folder."""
    pack = recorded(tmp_path / "store")
    where = ("--store", tmp_path / "store")
    code, out, _ = cli("pack", "ls", *where)
    assert code == 0
    assert pack.run_id in out
    code, out, _ = cli("pack", "ls", "release=dev", *where, "--json")
    assert json.loads(out)[0]["digest"] == pack.digest
    for name in (pack.run_id, pack.folder):
        code, out, _ = cli("pack", "show", name, *where)
        assert code == 0
        assert "execute_tool look_up" in out
    assert cli("pack", "verify", *where)[0] == 0
    path = pack.folder / "costs.parquet"
    path.write_bytes(path.read_bytes()[:-1])
    code, out, err = cli("pack", "verify", pack.run_id, *where)
    assert code == 1
    assert "was changed" in err
    assert "0 of 1" in out


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("run", "--scenario", "nope"), 2, "there are: billing_dispute_resolution"),
        (("run",), 2, "--scenario"),
        (("run", "--scenario", SCENARIO, "--faults", "nope"), 2, "default"),
        (("run", "--scenario", SCENARIO, "--model", "gpt"), 2, "openai:NAME"),
        (("run", "--scenario", SCENARIO, "--budget-usd", "-1"), 2, "positive amount"),
        (("run", "--scenario", SCENARIO, "--budget-usd", "x"), 2, "not a valid float"),
        (("run", "--scenario", SCENARIO, "--budget", "nowhere.toml"), 2, "a budget in TOML at"),
        (("run", "--scenario", SCENARIO, "--budget", "b", "--budget-usd", "1"), 2, "got both"),
        (("run", "--scenario", SCENARIO, "--seed", "-1"), 2, "--seed"),
        (("run", "--scenario", SCENARIO, "--trials", "0"), 2, "--trials"),
        (("run", "--scenario", SCENARIO, "--ticket", "none.json"), 2, "none.json"),
        (("run", "--scenario", SCENARIO, "--rules", "nope"), 2, "release"),
        (("runn",), 2, "No such command"),
        (("gate", "--candidate", "release=a"), 2, "no runs"),
        (("gate", "--candidate", "relase=a"), 2, "the keys are"),
        (("gate", "--candidate", "release=a", "--rules", "none.toml"), 2, "none.toml"),
        (("replay", "nope"), 2, "expected a run id"),
        (("drift", "--baseline", "a.parquet", "--live", "b.csv"), 2, "a.parquet"),
        (("report", "nope"), 2, "gate.ipynb"),
        (("report", "gate", "--param", "x"), 2, "KEY=VALUE"),
        (("report", "gate", "--param", "candidat=release=a"), 2, "candidat"),
        (("ingest", "nope", "x.json"), 2, "tau-bench"),
        (("ingest", "tau2", "none.json"), 1, "none.json"),
        (("pack", "ls", "release=a"), 2, "no runs"),
    ],
)
def test_a_mistake_is_one_sentence_and_the_right_code(cli, args, code, says):
    """No traceback, nothing on standard output, nothing written."""
    got, out, err = cli(*args)
    assert got == code, err
    assert says in err
    assert out == ""
    assert "Traceback" not in err
    assert not Path("towerkit-store", "packs").exists()


def test_an_unknown_metric_names_the_known(cli):
    """A rules file is checked before a run is read."""
    Path("r.toml").write_text(
        '[[rule]]\nname = "r"\nmetric = "speed"\nkind = "floor"\nthreshold = 0.5\n'
    )
    code, _, err = cli("run", "--scenario", SCENARIO, "--rules", "r.toml")
    assert code == 2
    assert "unknown metric 'speed'; known: score" in err


def test_a_file_in_the_place_of_the_store_is_exit_1(cli):
    """The tool cannot work there: no verdict."""
    Path("file").write_text("x")
    for args in (
        ("pack", "ls"), ("run", "--scenario", SCENARIO), ("gate", "--candidate", "release=a"),
    ):  # fmt: skip
        code, out, err = cli(*args, "--store", "file")
        assert (code, out) == (1, "")
        assert "file" in err
        assert err.count("\n") == 1


@pytest.mark.parametrize("allowed", [0, 1, 7, 100])
def test_a_full_disk_is_one_sentence(cli, monkeypatch, allowed):
    """ENOSPC at any file: exit 1, the sentence names the store, and no pack is half-written."""
    left = [allowed]

    def full(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write_new(*args, **kwargs)

    write_new = writer.write_new
    monkeypatch.setattr(writer, "write_new", full)
    code, out, err = cli("run", "--scenario", SCENARIO, "--store", "s")
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "/s: No space left on device" in err
    for pack in Store("s").packs():
        pack.verify()
    assert not list(Path("s").rglob("*.tmp"))


def test_a_full_device_for_the_output_is_exit_1(tmp_path):
    """`towerkit pack ls > /dev/full` says so."""
    recorded(tmp_path)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "towerkit", "pack", "ls", "--store", str(tmp_path)],
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "towerkit: cannot go on: No space left on device (output)\n"


def test_a_link_to_a_missing_store_is_an_empty_store(cli):
    """Nothing is created by reading."""
    code, _, err = cli("pack", "ls", "--store", "none")
    assert code == 2
    assert "no runs" in err
    assert not Path("none").exists()


def test_the_store_of_the_environment_is_used(cli, monkeypatch, tmp_path):
    """`TOWERKIT_STORE` is the default of `--store`."""
    pack = recorded(tmp_path / "mine")
    monkeypatch.setenv("TOWERKIT_STORE", str(tmp_path / "mine"))
    assert pack.run_id in cli("pack", "ls")[1]


def test_a_closed_pipe_is_quiet(tmp_path):
    """`towerkit pack ls | head` prints no traceback."""
    recorded(tmp_path)
    shell = shutil.which("bash")
    assert shell is not None
    command = f"{sys.executable} -m towerkit pack ls --store {tmp_path} | true"
    done = subprocess.run([shell, "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_help_is_there_for_every_command(cli):
    """Each command says what it is in its first line."""
    for name in ("run", "gate", "drift", "ingest", "replay", "report", "pack"):
        code, out, _ = cli(name, "--help")
        assert code == 0
        assert len(out.splitlines()) > 5

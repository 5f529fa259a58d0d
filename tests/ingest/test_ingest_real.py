"""The recorded runs of real models, where they are present: counts, means and sums to the digit."""

from __future__ import annotations

import json
import lzma
from collections import Counter
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest
from ingest_samples import admit

from towerkit.packs.store import Store

TAU = ["gpt-4o_l0", "gpt-4.1_l0"]
SMALLEST = "claude-3-sonnet-20240229-repeat_user_prompt"


def recorded(path):
    """Return a file's own content, read without towerkit."""
    text = lzma.decompress(path.read_bytes()).decode()
    return [json.loads(x) for x in text.splitlines()] if ".jsonl" in path.name else json.loads(text)


@pytest.fixture(scope="module")
def admitted(real_data, tmp_path_factory):
    """Admit two tau-bench files, all tau2 files and the smallest AgentDojo pipeline, once."""
    store = Store(tmp_path_factory.mktemp("store"))
    paths = {name: ("tau-bench", real_data / f"tau_retail/{name}.json.xz") for name in TAU}
    for path in sorted(real_data.glob("tau2_*/*.json.xz")):
        paths[f"{path.parent.name}/{path.name}"] = ("tau2", path)
    paths[SMALLEST] = ("agentdojo", real_data / f"agentdojo/runs/{SMALLEST}.jsonl.xz")
    reports = {
        name: admit(store, path, kind, release=name, jobs=2) for name, (kind, path) in paths.items()
    }
    packs = store.packs()
    return store, {n: p for n, (_, p) in paths.items()}, reports, packs, store.scores(packs)


def test_every_record_of_every_file_is_admitted(admitted):
    """No error in any file, and as many runs as records."""
    _, paths, reports, packs, _ = admitted
    for name, report in reports.items():
        content = recorded(paths[name])
        runs = content["simulations"] if isinstance(content, dict) else content
        assert (report.errors, report.imported, report.runs) == ((), len(runs), len(runs))
    assert len(packs) == sum(r.imported for r in reports.values())


def test_reward_means_are_the_files_to_the_last_digit(admitted):
    """The mean over a release's primary scores, in case order, is the mean over the file."""
    _, paths, _, _, scores = admitted
    for name, path in paths.items():
        content = recorded(path)
        if isinstance(content, dict):
            values = [s["reward_info"]["reward"] for s in content["simulations"]]
        else:
            values = [r["reward"] if "reward" in r else float(r["utility"]) for r in content]
        own = scores.filter((pl.col("release") == name) & pl.col("primary"))
        found = own["value"].to_list()
        assert (len(found), sum(found) / len(found)) == (len(values), sum(values) / len(values))


def test_costs_and_tokens_are_the_files(admitted):
    """Nano-dollars sum to the recorded agent_cost, tokens to the recorded usage; 0 is unknown."""
    store, paths, _, packs, _ = admitted
    tau2 = [p for p in packs if p.manifest["source"]["kind"] == "tau2"]
    costs = store.scan("costs", tau2)
    by_run = {
        (run, purpose): rows
        for (run, purpose), rows in costs.group_by(["run_id", "purpose"], maintain_order=True)
    }
    runs = {(p.manifest["identity"]["release"], p.manifest["source"]["record"]): p for p in tau2}
    checked = Counter()
    for name, path in paths.items():
        content = recorded(path)
        for index, sim in enumerate(content["simulations"] if isinstance(content, dict) else ()):
            own = by_run.get((runs[name, index].run_id, "agent"))
            usage = [m["usage"] for m in sim["messages"] if m["role"] == "assistant"]
            if own is None:
                # The user hung up on the greeting: the agent's model was never called.
                assert usage == [None]
                continue
            for column, field in (
                ("input_tokens", "prompt_tokens"), ("output_tokens", "completion_tokens"),
            ):  # fmt: skip
                assert own[column].sum() == sum(u[field] for u in usage if u)
            if sim["agent_cost"]:
                assert own["cost_nanousd"].null_count() == 0
                assert own["cost_nanousd"].sum() == round(Decimal(repr(sim["agent_cost"])) * 10**9)
            else:
                assert own["cost_nanousd"].null_count() == own.height
            checked["paid" if sim["agent_cost"] else "unknown"] += 1
    assert checked == {"paid": 200, "unknown": 109}


def test_ingesting_a_real_file_again_changes_nothing(admitted):
    """All runs are found, and the scores file is the same."""
    store, paths, reports, packs, _ = admitted
    again = admit(store, paths[TAU[0]], "tau-bench", release=TAU[0])
    assert (again.imported, again.unchanged) == (0, 115)
    assert again.scores_file == reports[TAU[0]].scores_file
    assert len(store.packs()) == len(packs)


def test_two_tau_releases_pair_on_every_task(admitted):
    """115 cases in both releases; task definitions differ nowhere, except where a crash hid one."""
    _, _, _, _, scores = admitted
    old, new = (scores.filter(pl.col("release") == name) for name in TAU)
    both = old.join(new, on=["scenario", "case_id", "trial"])
    assert both.height == 115
    differ = both.filter(pl.col("task_digest").ne_missing(pl.col("task_digest_right")))
    crashed = new.filter(pl.col("error_class") == "stream_interrupted")
    assert differ["case_id"].to_list() == crashed["case_id"].to_list() == ["60"]


def test_contradictions_of_the_real_runs_are_those_counted_by_hand(admitted):
    """Reward 1, a required write, no write call: found independently from the file's own JSON."""
    _, paths, _, _, scores = admitted
    reads = ("get_", "find_", "list_", "calculate", "think", "transfer")
    for name in TAU:
        expected = [
            str(r["task_id"])
            for r in recorded(paths[name])
            if r["reward"] == 1
            and any(not a["name"].startswith(reads) for a in r["info"]["task"]["actions"])
            and all(m["name"].startswith(reads) for m in r["traj"] if m["role"] == "tool")
        ]
        own = scores.filter((pl.col("release") == name) & pl.col("contradicted"))
        assert sorted(own["case_id"]) == sorted(expected)
        assert expected


def test_a_sample_of_real_packs_verifies(admitted):
    """Every 25th pack's files, rows and root hold."""
    _, _, _, packs, _ = admitted
    for pack in packs[::25]:
        pack.verify()


def test_no_recorded_key_is_in_the_store(admitted):
    """One file's `llm_args` hold a provider key: it is in no pack."""
    store, paths, _, packs, _ = admitted
    name = next(n for n in paths if "gpt-oss" in n)
    key = recorded(paths[name])["info"]["agent_info"]["llm_args"]["api_key"][:24].encode()
    for pack in packs:
        if pack.manifest["identity"]["release"] == name:
            assert not any(key in body for body in pack.bodies.values())
            assert key not in (pack.folder / "manifest.json").read_bytes()
    assert not any(key in p.read_bytes() for p in Path(store.root).glob("scores/*"))


def test_a_real_crash_is_neither_success_nor_attack(real_data, tmp_path):
    """The 25 HTTP 500 crashes of one pipeline carry `security=true` and are not scored."""
    path = real_data / "agentdojo/runs/command-r-plus.jsonl.xz"
    records = [r for r in recorded(path) if r["error"]]
    short = tmp_path / "crashes.jsonl"
    short.write_text("\n".join(json.dumps(r) for r in records))
    store = Store(tmp_path / "store")
    report = admit(store, short, "agentdojo")
    scores = store.scores(store.packs())
    assert (report.imported, report.errors) == (25, ())
    assert all(r["security"] for r in records)
    assert scores["value"].null_count() == scores.height
    assert scores["error_class"].unique().to_list() == ["upstream_5xx"]

"""What each foreign format becomes: spans, charges, tape, scores, manifest."""

from __future__ import annotations

import polars as pl
import pytest
from ingest_samples import (
    admit,
    changed,
    dojo_run,
    redactor,
    tau2_file,
    tau2_run,
    tau_crash,
    tau_run,
    write,
)

from towerkit.core.env import VIRTUAL_EPOCH_NS
from towerkit.packs.store import Store
from towerkit.telemetry.recorder import Recorder


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def one(store, path, kind, **options):
    """Admit a file of one run; return its pack and its scores."""
    report = admit(store, path, kind, **options)
    assert (report.imported, report.errors) == (1, ())
    (pack,) = store.packs()
    pack.verify()
    return pack, store.scores([pack])


def attempts(pack, role="agent"):
    """Return the attempts of one side."""
    simulated = pl.col("attributes").str.contains("user_simulator")
    side = simulated if role == "user" else ~simulated
    return pack.frame("spans").filter((pl.col("kind") == "attempt") & side).sort("seq")


# -- tau-bench -------------------------------------------------------------------------------------


def test_a_tau_bench_run_becomes_a_pack(store, tmp_path):
    """Turns and tool calls are spans, the simulated user's are marked, the failed tool is one."""
    pack, _ = one(store, write(tmp_path / "a.json", [tau_run()]), "tau-bench", release="r1")
    own = attempts(pack)
    assert own["name"].to_list() == [
        "chat", "execute_tool get_order_details", "chat", "execute_tool cancel_pending_order",
        "chat",
    ]  # fmt: skip
    assert own["error_class"].to_list() == [None, "tool_failed", None, None, None]
    assert attempts(pack, "user").height == 2
    assert (
        pack.manifest["identity"] | {"models": [], "scenario": "tau_retail"}
        == (pack.manifest["identity"])
    )
    tape = pack.frame("inputs").sort("seq")
    assert tape["kind"].to_list() == ["task", "model", "tool", "model", "tool", "model"]


def test_tau_bench_times_are_said_to_be_unknown(store, tmp_path):
    """The format records no times: the clock is `none`, durations are 0, and the span says so."""
    pack, _ = one(store, write(tmp_path / "a.json", [tau_run()]), "tau-bench", release="r1")
    assert (pack.manifest["clock"], pack.manifest["started_unix_ns"]) == ("none", VIRTUAL_EPOCH_NS)
    assert pack.frame("spans")["duration_ns"].sum() == 0
    root = pack.frame("spans").filter(pl.col("kind") == "run").row(0, named=True)
    assert "not recorded" in root["attributes"]


def test_the_simulated_users_cost_is_its_last_call_and_the_evaluations(store, tmp_path):
    """tau-bench keeps only the last call's charge; the agent's own charges are unknown, not 0."""
    pack, _ = one(store, write(tmp_path / "a.json", [tau_run()]), "tau-bench", release="r1")
    costs = pack.frame("costs").sort("seq")
    by = dict(costs.group_by("purpose").agg(pl.col("cost_nanousd")).iter_rows())
    assert by == {"agent": [None] * 3, "evaluation": [None, 2_100_000]}
    assert costs["price_date"].null_count() == costs.height


def test_a_whole_number_of_user_cost_is_not_money(store, tmp_path):
    """Forks write a count of tokens into `user_cost`: it never becomes dollars."""
    run = changed(tau_run(), "info.user_cost", 1361)
    pack, _ = one(store, write(tmp_path / "a.json", [run]), "tau-bench", release="r1")
    assert pack.frame("costs")["cost_nanousd"].null_count() == pack.frame("costs").height


def test_a_crashed_tau_run_keeps_its_reward_and_is_classified(store, tmp_path):
    """The recorded 0 stays visible, the error class says that it is not the agent's."""
    path = write(tmp_path / "a.json", [tau_run(), tau_crash()])
    admit(store, path, "tau-bench", release="r1")
    scores = store.scores(store.packs()).filter(pl.col("case_id") == "9").row(0, named=True)
    assert (scores["value"], scores["error_class"], scores["task_digest"]) == (
        0.0, "stream_interrupted", None,
    )  # fmt: skip
    crashed = next(p for p in store.packs() if p.manifest["identity"]["case_id"] == "9")
    assert (crashed.manifest["status"], crashed.manifest["error_class"]) == (
        "failed", "stream_interrupted",
    )  # fmt: skip
    assert crashed.manifest["identity"]["scenario"] == "tau_retail"


def test_repeats_are_counted_not_read(store, tmp_path):
    """A running index in `trial` is no repeat number: each case counts its own from 0."""
    runs = [tau_run(5, trial=0), tau_run(6, trial=1), tau_run(5, trial=2)]
    admit(store, write(tmp_path / "a.json", runs), "tau-bench", release="r1")
    found = store.scores(store.packs()).select("case_id", "trial").sort("case_id", "trial").rows()
    assert found == [("5", 0), ("5", 1), ("6", 0)]


def test_the_domain_comes_from_the_data_not_the_file_name(store, tmp_path):
    """A file called retail whose policy is the airline's is an airline file."""
    run = changed(tau_run(), "traj.0.content", "# Airline Agent Policy\n\nFly.")
    report = admit(store, write(tmp_path / "retail.json", [run]), "tau-bench", release="r1")
    assert report.scenarios == ("tau_airline",)


def test_the_domain_is_read_from_the_tools_when_no_policy_names_it(store, tmp_path):
    """Another system prompt hides the policy, the tools still tell; with neither it is refused."""
    run = changed(tau_run(), "traj.0.content", "Be nice.")
    report = admit(store, write(tmp_path / "a.json", [run]), "tau-bench", release="r1")
    assert report.scenarios == ("tau_retail",)
    unknown = changed(tau_crash(), "info.task", {"actions": []})
    report = admit(store, write(tmp_path / "b.json", [unknown]), "tau-bench", release="r1")
    assert report.imported == 0
    assert "record 0: traj: cannot tell the domain" in report.errors[0]


@pytest.mark.parametrize("drop", [False, True])
def test_a_full_reward_without_the_required_write_contradicts_itself(store, tmp_path, drop):
    """Reward 1 on a task that requires a write, in a run that made no write call, is marked."""
    run = tau_run()
    if drop:
        run["traj"] = [m for i, m in enumerate(run["traj"]) if i not in {4, 5}]
    _, scores = one(store, write(tmp_path / "a.json", [run]), "tau-bench", release="r1")
    row = scores.row(0, named=True)
    assert (row["value"], row["contradicted"]) == (1.0, drop)
    assert ("cancel_pending_order" in (row["note"] or "")) is drop


def test_reused_call_ids_are_paired_within_their_turn(store, tmp_path):
    """Both calls of the sample are named c1: each result still belongs to its own arguments."""
    pack, _ = one(store, write(tmp_path / "a.json", [tau_run()]), "tau-bench", release="r1")
    tools = attempts(pack).filter(pl.col("gen_ai_operation_name") == "execute_tool")
    asked = [pack.content(d)["arguments"]["order_id"] for d in tools["request_digest"]]
    assert asked == ["W1", "#W1"]


def test_content_is_redacted_before_it_is_kept(store, tmp_path):
    """An e-mail address of the recording is nowhere in the store, its token is."""
    pack, _ = one(store, write(tmp_path / "a.json", [tau_run()]), "tau-bench", release="r1")
    bodies = b"".join(pack.bodies.values())
    assert b"ada@example.com" not in bodies
    assert b"<EMAIL:test:" in bodies


def test_the_request_digest_is_the_recorders(store, tmp_path):
    """The builder's incremental digest is `Recorder.request` over the conversation so far."""
    run = tau_run()
    pack, _ = one(store, write(tmp_path / "a.json", [run]), "tau-bench", release="r1")
    twin = Recorder(pack.run_id, redactor(), start_mono_ns=0, ids=1)
    first = [
        {"role": "system", "content": run["traj"][0]["content"]},
        {"role": "user", "content": run["traj"][1]["content"]},
    ]
    second = [
        *first,
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "c1", "name": "get_order_details", "arguments": {"order_id": "W1"}}
            ],
        },
        {"role": "tool", "content": "Error: order not found", "tool_call_id": "c1"},
    ]
    chats = attempts(pack).filter(pl.col("gen_ai_operation_name") == "chat")
    expected = [twin.request(first, {}), twin.request(second, {})]
    assert chats["request_digest"].to_list()[:2] == expected


# -- tau2 ------------------------------------------------------------------------------------------


def test_a_tau2_run_has_its_times_usage_and_costs(store, tmp_path):
    """Durations, tokens and nano-dollars are the file's, each turn from the message before it."""
    pack, _ = one(store, write(tmp_path / "a.json.gz", tau2_file(tau2_run())), "tau2")
    own = attempts(pack)
    assert own["name"].to_list() == ["chat gpt-9", "execute_tool get_line", "chat gpt-9"]
    assert own["duration_ns"].to_list() == [2_000_000_000, 250_000_000, 750_000_000]
    assert own["error_class"].to_list() == [None, "tool_failed", None]
    costs = pack.frame("costs").filter(pl.col("purpose") == "agent").sort("seq")
    assert costs["cost_nanousd"].to_list() == [2001, 3001]
    assert costs["input_tokens"].to_list() == [200, 300]
    assert (pack.manifest["clock"], pack.manifest["duration_ns"]) == ("recorded", 9_000_000_000)
    assert pack.manifest["identity"]["release"] == "gpt-9"


def test_the_scripted_greeting_is_no_model_call(store, tmp_path):
    """The greeting costs nothing because no model wrote it: it has no span and no charge."""
    pack, _ = one(store, write(tmp_path / "a.json", tau2_file(tau2_run())), "tau2")
    assert attempts(pack).filter(pl.col("gen_ai_operation_name") == "chat").height == 2
    assert b"How can I help you today?" in b"".join(pack.bodies.values())


def test_the_simulated_users_tools_and_charges_are_the_evaluations(store, tmp_path):
    """What the user did is marked, off the agent's tape, and zero tokens at cost 0 are free."""
    pack, _ = one(store, write(tmp_path / "a.json", tau2_file(tau2_run())), "tau2")
    user = attempts(pack, "user")
    assert "execute_tool toggle_roaming" in user["name"].to_list()
    costs = pack.frame("costs").filter(pl.col("purpose") == "evaluation").sort("seq")
    assert costs["cost_nanousd"].to_list() == [10_000, 10_000, 0]
    assert "toggle_roaming" not in pack.frame("inputs")["name"].to_list()


def test_a_cost_of_zero_for_used_tokens_is_unknown(store, tmp_path):
    """A model without a known price is recorded as costing 0: that is null here."""
    run = changed(tau2_run(), "messages.2.cost", 0.0)
    pack, _ = one(store, write(tmp_path / "a.json", tau2_file(run)), "tau2")
    costs = pack.frame("costs").filter(pl.col("purpose") == "agent").sort("seq")
    assert costs["cost_nanousd"].to_list() == [None, 3001]


def test_tau2_scores_are_the_reward_and_its_parts(store, tmp_path):
    """One primary reward, and the parts it was made of beside it."""
    _, scores = one(store, write(tmp_path / "a.json", tau2_file(tau2_run())), "tau2")
    found = {r["metric"]: (r["value"], r["primary"]) for r in scores.iter_rows(named=True)}
    assert found == {
        "reward": (1.0, True),
        "db": (1.0, False),
        "communicate": (0.0, False),
        "action_checks": (0.5, False),
    }


@pytest.mark.parametrize(
    ("reason", "status", "error_class", "scored_as"),
    [
        ("agent_stop", "completed", None, None),
        ("max_steps", "stopped", "no_progress", None),
        ("too_many_errors", "stopped", "no_progress", None),
        ("infrastructure_error", "failed", "unknown", "unknown"),
        ("agent_error", "failed", "agent_bug", None),
    ],
)
def test_how_a_simulation_ended(store, tmp_path, reason, status, error_class, scored_as):
    """Going in circles counts against the agent; only what is not its doing excuses the score."""
    run = changed(tau2_run(), "termination_reason", reason)
    pack, scores = one(store, write(tmp_path / "a.json", tau2_file(run)), "tau2")
    assert (pack.manifest["status"], pack.manifest["error_class"]) == (status, error_class)
    assert scores["error_class"].unique().to_list() == [scored_as]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("messages.3.timestamp", None),
        ("messages.3.timestamp", "2025-08-01T10:00:01"),
        ("start_time", None),
    ],
)
def test_times_that_cannot_be_real_are_not_used(store, tmp_path, path, value):
    """A missing time, or one that steps back, makes every duration of the run unknown."""
    run = changed(tau2_run(), path, value)
    pack, _ = one(store, write(tmp_path / "a.json", tau2_file(run)), "tau2")
    assert pack.manifest["clock"] == "none"
    assert pack.frame("spans")["duration_ns"].sum() == 0


def test_a_missing_reward_is_unscored(store, tmp_path):
    """No reward is null and not scored, never 0."""
    run = changed(tau2_run(), "reward_info", None)
    _, scores = one(store, write(tmp_path / "a.json", tau2_file(run)), "tau2")
    row = scores.row(0, named=True)
    assert (row["value"], row["scored"], row["primary"]) == (None, False, True)


def test_keys_left_in_llm_args_never_enter_the_store(store, tmp_path):
    """`llm_args` is not read: the key of the sample is in no file of the store."""
    admit(store, write(tmp_path / "a.json", tau2_file(tau2_run())), "tau2")
    for path in store.root.rglob("*"):
        if path.is_file():
            assert b"abcdefghijklmnopqrstuvwx" not in path.read_bytes()


# -- AgentDojo -------------------------------------------------------------------------------------


def test_an_agentdojo_run_becomes_a_pack(store, tmp_path):
    """The model is the pipeline without its defence; wrong arguments are the model's failure."""
    path = write(tmp_path / "a.jsonl.xz", [dojo_run()], lines=True)
    pack, scores = one(store, path, "agentdojo")
    own = attempts(pack)
    assert own["name"].to_list() == [
        "chat gpt-9", "execute_tool get_channels", "execute_tool send_money", "chat gpt-9",
    ]  # fmt: skip
    assert own["error_class"].to_list() == [None, "tool_args_invalid", None, None]
    assert own["error_type"].to_list() == [None, "TypeError", None, None]
    assert attempts(pack, "user").height == 0
    assert (pack.manifest["duration_ns"], pack.manifest["clock"]) == (2_500_000_000, "none")
    assert scores.select("suite", "metric", "value", "case_id").rows() == [
        ("golden", "utility", 1.0, "banking/user_task_0")
    ]


@pytest.mark.parametrize("security", [False, True])
def test_security_of_an_attacked_run_means_the_attack_succeeded(store, tmp_path, security):
    """`resisted` is the negation of `security`, and primary; utility stands beside it."""
    run = dojo_run(injection="injection_task_2", security=security, utility=False)
    path = write(tmp_path / "a.jsonl", [run], lines=True)
    _, scores = one(store, path, "agentdojo")
    rows = scores.sort("metric").select("suite", "metric", "value", "primary", "case_id").rows()
    case = "banking/user_task_0/injection_task_2/important_instructions"
    assert rows == [
        ("adversarial", "resisted", float(not security), True, case),
        ("adversarial", "utility", 0.0, False, case),
    ]


def test_a_crashed_agentdojo_run_is_neither_a_success_nor_an_attack(store, tmp_path):
    """`security=true` of a crash is not read: no value, not scored, the error classified."""
    error = "Skipping task 'user_task_0' due to context_length_exceeded: Error code: 400"
    run = dojo_run(injection="injection_task_2", utility=False, error=error)
    path = write(tmp_path / "a.jsonl", [run], lines=True)
    pack, scores = one(store, path, "agentdojo")
    assert scores.select("value", "scored", "error_class").unique().rows() == [
        (None, False, "context_too_long")
    ]
    assert pack.manifest["status"] == "failed"


def test_an_injection_task_as_its_own_task_is_a_control(store, tmp_path):
    """It is shown and never gated."""
    path = write(tmp_path / "a.jsonl", [dojo_run("injection_task_4")], lines=True)
    _, scores = one(store, path, "agentdojo")
    assert scores.select("suite", "metric", "primary").rows() == [("control", "utility", True)]


def test_a_run_without_messages_shows_nothing(store, tmp_path):
    """The recorded flag stays, the run is failed and unknown: nothing shows that it happened."""
    run = changed(dojo_run(injection="injection_task_2", security=False), "messages", [])
    path = write(tmp_path / "a.jsonl", [run], lines=True)
    pack, scores = one(store, path, "agentdojo")
    assert pack.manifest["error_class"] == "unknown"
    row = scores.filter(pl.col("primary")).row(0, named=True)
    assert (row["value"], row["error_class"]) == (1.0, "unknown")
    assert "no message was recorded" in row["note"]


def test_a_case_is_the_same_task_whoever_is_attacked(tmp_path):
    """Attacks name the model they address; the task's digest does not depend on that."""
    digests = set()
    for name in ("gpt-9", "claude-9"):
        store = Store(tmp_path / name)
        run = dojo_run(injection="injection_task_2", pipeline=name)
        admit(store, write(tmp_path / f"{name}.jsonl", [run], lines=True), "agentdojo")
        digests |= set(store.scores(store.packs())["task_digest"])
    assert len(digests) == 1

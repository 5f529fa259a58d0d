"""Admission: what is refused and how it is said, and what happens the second time."""

from __future__ import annotations

import json
import lzma
import os
import tempfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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
from span_samples import dump_record, otlp_record

from towerkit.core.errors import IngestError, UsageError
from towerkit.ingest import FORMATS, ingest
from towerkit.ingest.source import read_file, split
from towerkit.ingest.tools import error_class_of
from towerkit.ingest.trace import nanousd
from towerkit.packs.store import Store
from towerkit.reliability.taxonomy import TAXONOMY


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def files(store):
    """Return every file of a store with its bytes."""
    return {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()}


SAMPLES = {
    "tau-bench": lambda: [tau_run(0), tau_run(1), tau_run(2)],
    "tau2": lambda: tau2_file(tau2_run("0"), tau2_run("1"), tau2_run("2")),
    "agentdojo": lambda: [dojo_run(f"user_task_{i}") for i in range(3)],
    "otlp": lambda: [otlp_record(i) for i in range(3)],
    "openinference": lambda: [dump_record(i) for i in range(3)],
}
SPANS = ("otlp", "openinference")


def runs_of(content):
    """Return the list of records in a file's content."""
    return content["simulations"] if isinstance(content, dict) else content


# -- again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_ingesting_twice_changes_nothing(store, tmp_path, kind):
    """The second time every run is found: no byte of the store changes, also from another name."""
    content = SAMPLES[kind]()
    first = admit(store, write(tmp_path / "a.json", content), kind, release="r1")
    before = files(store)
    again = admit(store, write(tmp_path / "b.json.xz", content), kind, release="r1")
    assert (first.imported, again.imported, again.unchanged) == (3, 0, 3)
    assert (again.scores_file, again.eval_id) == (first.scores_file, first.eval_id)
    assert files(store) == before


@pytest.mark.parametrize("kind", FORMATS)
def test_another_release_is_another_run(store, tmp_path, kind):
    """The same records under another name are other runs, with scores of their own."""
    path = write(tmp_path / "a.json", SAMPLES[kind]())
    ids = [admit(store, path, kind, release=r).eval_id for r in ("r1", "r2")]
    assert len(set(ids)) == 2
    assert len({p.run_id for p in store.packs()}) == 6


def test_a_file_that_grew_scores_each_run_once(store, tmp_path):
    """A run known from a shorter file keeps that import's id: no case counts twice."""
    runs = SAMPLES["tau-bench"]()
    admit(store, write(tmp_path / "a.json", runs[:2]), "tau-bench", release="r1")
    report = admit(store, write(tmp_path / "b.json", runs), "tau-bench", release="r1")
    assert (report.imported, report.unchanged) == (1, 2)
    assert store.scores(store.packs()).height == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_an_interrupted_ingest_leaves_whole_packs_and_is_completed(store, tmp_path, jobs):
    """Ctrl-C in the middle: no half pack, and the next ingest writes the rest."""
    path = write(tmp_path / "a.json", [tau_run(i) for i in range(60)])

    def interrupt(done, total):
        if done >= 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        admit(store, path, "tau-bench", release="r1", progress=interrupt, jobs=jobs)
    assert not list(store.root.glob("packs/*/.*"))
    for pack in store.packs():
        pack.verify()
    done = len(store.packs())
    report = admit(store, path, "tau-bench", release="r1", jobs=jobs)
    assert 8 <= done < 60
    assert (report.imported, report.unchanged) == (60 - done, done)


def test_two_processes_do_what_one_does(tmp_path):
    """The number of processes changes nothing in the store, and progress counts to the end."""
    path = write(tmp_path / "a.json", [tau_run(i) for i in range(60)])
    seen, roots = [], []
    for jobs in (1, 2):
        store = Store(tmp_path / str(jobs))
        admit(store, path, "tau-bench", release="r1", jobs=jobs,
              progress=lambda done, total: seen.append((done, total)))  # fmt: skip
        roots.append({p.run_id: p.digest for p in store.packs()})
    assert roots[0] == roots[1]
    assert seen[-1] == (60, 60)


# -- what is refused -------------------------------------------------------------------------------

NAN, INF = float("nan"), float("inf")
BROKEN = [
    ("tau-bench", "reward", "1.0", "reward: Expected float, got str"),
    ("tau-bench", "reward", NAN, "reward: expected a number from 0 to 1, got nan"),
    ("tau-bench", "reward", INF, "reward: expected a number from 0 to 1, got inf"),
    ("tau-bench", "reward", 1.5, "reward: expected a number from 0 to 1, got 1.5"),
    ("tau-bench", "reward", True, "reward: Expected float, got bool"),
    ("tau-bench", "reward", ..., "reward: missing"),
    ("tau-bench", "task_id", 2.5, "task_id: Expected"),
    ("tau-bench", "traj", {}, "traj: Expected array, got object"),
    ("tau-bench", "traj.1.role", "boss", "traj[1].role: Invalid enum value"),
    ("tau-bench", "traj.2.tool_calls.0.function.name", ..., "function.name: missing"),
    ("tau-bench", "info.task.actions", [1], "info.task.actions: expected a list of objects"),
    ("tau-bench", "task_id", 0, "trial: task_id 0 with trial 0 is record 0 already"),
    ("tau2", "reward_info.reward", -0.1, "reward_info.reward: expected a number from 0 to 1"),
    ("tau2", "reward_info.reward", NAN, "reward_info.reward: expected a number from 0 to 1"),
    ("tau2", "messages.2.cost", "free", "messages[2].cost: Expected float | null, got str"),
    ("tau2", "messages.2.cost", -1.0, "messages[2].cost: expected dollars from 0"),
    ("tau2", "messages.2.usage.prompt_tokens", -5, "prompt_tokens: expected a token count"),
    ("tau2", "messages.2.timestamp", "noon", "messages[2].timestamp: expected an ISO date"),
    ("tau2", "messages.2.timestamp", "0001-01-01", "timestamp: expected a year from 1971"),
    ("tau2", "task_id", "77", "task_id: the file's tasks hold no task '77'"),
    ("tau2", "task_id", "0", "trial: task_id 0 with trial 0 is record 0 already"),
    ("tau2", "trial", -1, "trial: expected 0 to 1,000,000, got -1"),
    ("tau2", "reward_info.reward_breakdown", {"a,b": 1.0}, "expected a plain name"),
    ("tau2", "reward_info.action_checks", [{"action_reward": "1"}], "expected an action_reward"),
    ("agentdojo", "security", "true", "security: Expected bool, got str"),
    ("agentdojo", "utility", 1, "utility: Expected bool, got int"),
    ("agentdojo", "duration", INF, "duration: expected seconds"),
    ("agentdojo", "messages", None, "messages: Expected array, got null"),
    ("agentdojo", "suite_name", "a/../b", "scenario: expected a plain name"),
    ("agentdojo", "user_task_id", "user_task_0", "case banking/user_task_0 is record 0 already"),
    ("agentdojo", "pipeline_name", "other", "pipeline_name: expected one pipeline a file"),
    ("agentdojo", "evaluation_timestamp", "soon", "evaluation_timestamp: expected a date"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "path", "value", "says"), BROKEN)
def test_a_broken_record_costs_only_itself(store, tmp_path, kind, path, value, says):
    """One clear error names file, record and field; the records beside it are admitted."""
    content = SAMPLES[kind]()
    tasks = content["tasks"] if isinstance(content, dict) else None
    runs_of(content)[1] = changed(runs_of(content)[1], path, value)
    report = admit(store, write(tmp_path / "a.json", content), kind, release="r1")
    assert (report.runs, report.imported, len(report.errors)) == (3, 2, 1)
    assert report.errors[0].startswith("a.json: record 1: ")
    assert says in report.errors[0]
    assert tasks is None or len(tasks) == 3
    assert len(store.packs()) == 2


@pytest.mark.parametrize("kind", FORMATS)
def test_lone_surrogates_and_odd_numbers_are_admitted(store, tmp_path, kind):
    """What Python's json writes and strict JSON forbids is read where no rule forbids it."""
    content = SAMPLES[kind]()
    at = {
        "tau-bench": "traj.1.content", "openinference": "spans.1.name",
        "otlp": "resourceSpans.0.scopeSpans.0.spans.1.attributes.0.value.stringValue",
    }.get(kind, "messages.1.content")  # fmt: skip
    odd = changed(runs_of(content)[1], at, "broken \ud83d emoji \x00\x1b[31m")
    odd["extra"] = [NAN, 10**40, {"\udc00": "\udc00"}]
    arguments = {"x": 10**30, "y": "\ud800"}
    if kind == "tau2":
        odd["messages"][2]["tool_calls"][0]["arguments"] = {**arguments, "z": NAN}
    elif kind == "openinference":
        odd["spans"][1]["attributes"]["x\ud800"] = {**arguments, "z": NAN}
    elif kind == "otlp":
        pass  # its numbers are text, and what is odd stands in `extra`
    elif kind == "agentdojo":
        odd["messages"][2]["tool_calls"][0]["args"] = {**arguments, "z": NAN}
    else:
        odd["traj"][2]["tool_calls"][0]["function"]["arguments"] = json.dumps(arguments)
    runs_of(content)[1] = odd
    report = admit(store, write(tmp_path / "a.json", content), kind, release="r1")
    assert (report.imported, report.errors) == (3, ())
    for pack in store.packs():
        pack.verify()


def deep(depth: int) -> str:
    return "[" * depth + "]" * depth


def test_huge_nesting_is_one_error(store, tmp_path):
    """A record nested 100,000 deep is refused by name; in JSON lines the others are admitted."""
    good = json.dumps(dojo_run("user_task_0"))
    bad = json.dumps(dojo_run("user_task_1"))[:-1] + f', "injections2": {deep(100_000)}}}'
    data = f"{good}\n{bad}".encode()
    report = admit(store, write(tmp_path / "a.jsonl", data), "agentdojo")
    assert report.imported == 1
    assert report.errors == ("a.jsonl: record 1: JSON: nested too deeply to be read",)


def test_moderate_nesting_is_cut_not_refused(store, tmp_path):
    """Arguments nested 300 deep are kept down to a bound and do not stop the record."""
    run = dojo_run()
    run["messages"][2]["tool_calls"][0]["args"] = {"x": json.loads(deep(300))}
    report = admit(store, write(tmp_path / "a.jsonl", [run], lines=True), "agentdojo")
    assert (report.imported, report.errors) == (1, ())


def test_a_cut_array_admits_what_is_whole(store, tmp_path):
    """A plain file cut in its third record: two are admitted, the third is the error."""
    data = json.dumps(SAMPLES["tau-bench"]()).encode()
    path = write(tmp_path / "a.json", data[:-200])
    report = admit(store, path, "tau-bench", release="r1")
    assert (report.runs, report.imported) == (3, 2)
    assert report.errors[0].startswith("a.json: record 2: JSON: malformed JSON at character")
    whole = admit(store, write(tmp_path / "a.json", data), "tau-bench", release="r1")
    assert (whole.imported, whole.unchanged) == (1, 2)
    assert store.scores(store.packs()).height == 3


def test_a_cut_tau2_file_admits_what_is_whole(store, tmp_path):
    """The same for an object whose last list is cut; without that list the file is refused."""
    data = json.dumps(SAMPLES["tau2"]()).encode()
    report = admit(store, write(tmp_path / "a.json", data[:-200]), "tau2")
    assert (report.imported, len(report.errors)) == (2, 1)
    with pytest.raises(IngestError, match="simulations: expected a list; it is missing"):
        admit(store, write(tmp_path / "b.json", {**SAMPLES["tau2"](), "simulations": 3}), "tau2")


def test_a_cut_line_costs_only_itself(store, tmp_path):
    """JSON lines cut in the last line admit the others."""
    data = "\n".join(json.dumps(r) for r in SAMPLES["agentdojo"]()).encode()
    report = admit(store, write(tmp_path / "a.jsonl", data[:-50]), "agentdojo")
    assert (report.imported, len(report.errors)) == (2, 1)
    assert "a.jsonl: record 2: JSON: malformed at character" in report.errors[0]


@pytest.mark.parametrize("suffix", [".xz", ".gz"])
@pytest.mark.parametrize("damage", [lambda d: d[:-20], lambda d: d[:40] + b"!!!!" + d[44:]])
def test_a_damaged_compressed_file_is_refused_whole(store, tmp_path, suffix, damage):
    """Its checksum was never seen, so nothing of it is believed."""
    path = write(tmp_path / f"a.json{suffix}", SAMPLES["tau-bench"]())
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IngestError, match="the whole file: compression: "):
        admit(store, path, "tau-bench", release="r1")
    assert not store.root.exists()


def test_a_bomb_is_stopped_at_the_bound(tmp_path):
    """A small file that decodes to more than the bound is refused, and not held in memory."""
    for name in ("a.xz", "a.gz", "a.json"):
        path = write(tmp_path / name, b"0" * 5_000_000)
        with pytest.raises(IngestError, match="size: expected at most 1000000 bytes"):
            read_file(path, limit=1_000_000)


def test_an_xz_header_that_asks_for_gigabytes_is_refused(tmp_path):
    """A dictionary beyond the bound is not allocated."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 29}]
    path = tmp_path / "a.xz"
    path.write_bytes(lzma.compress(b"[]", filters=filters))
    with pytest.raises(IngestError, match=r"(?i)compression: .*memory"):
        read_file(path)


def test_several_xz_streams_are_one_file(tmp_path):
    """Concatenated streams, with padding between them, decode to their concatenation."""
    path = tmp_path / "a.xz"
    path.write_bytes(lzma.compress(b"[1,") + b"\0" * 8 + lzma.compress(b"2]"))
    assert read_file(path) == b"[1,2]"


@pytest.mark.parametrize(("really", "asked"), [(a, b) for a in FORMATS for b in FORMATS if a != b])
def test_a_foreign_file_is_named_for_what_it_is(store, tmp_path, really, asked):
    """Another format is refused, and the error says which one it looks like."""
    path = write(tmp_path / "a.json", SAMPLES[really]())
    with pytest.raises(IngestError, match=f"format: expected {asked} .*looks like {really}"):
        admit(store, path, asked, release="r1")
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it is empty"),
        (b"\x89PNG\r\n", "holds no JSON object"),
        (b"[]", "holds no JSON object"),
        (b'{"resourceLogs": []}', "it has the fields resourceLogs"),
        ("[1]".encode("utf-16"), "holds no JSON object"),
    ],
)
def test_a_file_of_nothing_known_says_what_it_holds(store, tmp_path, data, says):
    """Empty, binary and unknown files are refused in one sentence."""
    with pytest.raises(IngestError, match=says):
        admit(store, write(tmp_path / "a.json", data), "tau-bench", release="r1")


def test_what_is_no_file_is_refused(store, tmp_path):
    """A missing path, a folder and a named pipe give an error at once."""
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", ".", "pipe"):
        with pytest.raises(IngestError, match="path: "):
            admit(store, tmp_path / name, "tau-bench", release="r1")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"format": "csv"}, "expected a format, got 'csv'; known: tau-bench"),
        ({"release": None}, "give it a name with --release"),
        ({"release": "a,b"}, "without commas"),
        ({"release": " a"}, "without commas"),
        ({"release": "a\x1b[2J"}, "printable"),
        ({"jobs": 0}, "expected jobs as 1 or more"),
    ],
)
def test_wrong_usage_is_said_before_anything_is_written(store, tmp_path, options, says):
    """Each wrong option gives one sentence, and the store is not even made."""
    path = write(tmp_path / "a.json", SAMPLES["tau-bench"]())
    with pytest.raises(UsageError, match=says):
        ingest(store, path, **{"format": "tau-bench", "release": "r", **options})
    assert not store.root.exists()


def test_errors_hold_no_control_characters(store, tmp_path):
    """Names in a hostile file reach the report as one harmless line."""
    run = changed(tau2_run("1"), "reward_info.reward_breakdown", {"\x1b[2J\n\u202eX": 1.0})
    path = write(tmp_path / "a\x1b[2J.json", tau2_file(tau2_run("0"), run))
    (error,) = admit(store, path, "tau2").errors
    assert error.isprintable()


@pytest.mark.parametrize("capture", ["digests", "off"])
def test_less_capture_keeps_less(store, tmp_path, capture):
    """Without captured content the packs are valid and hold no content."""
    path = write(tmp_path / "a.json", [tau_run(), tau_crash()])
    admit(store, path, "tau-bench", release="r1", redactor=redactor(capture))
    for pack in store.packs():
        pack.verify()
        assert pack.frame("content").height == 0


# -- the small rules -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Error: user not found", "tool_failed"),
        ("ValueError: File with ID '11' not found.", "tool_failed"),
        ("Unknown action fly_to_moon", "tool_unknown"),
        ("ToolNotFoundException: The requested function `a` is not available.", "tool_unknown"),
        ("Empty function name provided. Provide a valid function name.", "tool_unknown"),
        ("Tool 'get_x' not found", "tool_unknown"),
        ("ValidationError: 1 validation error for Input schema", "tool_args_invalid"),
        ("TypeError: send() missing 2 required positional arguments: 'a'", "tool_args_invalid"),
        ("Error: Error executing tool get_x: Expecting ',' delimiter", "tool_args_invalid"),
        ("Error: Error executing tool get_x: 2 validation errors for X", "tool_args_invalid"),
        ("TypeError: slice indices must be integers", "tool_failed"),
        ("the request timed out", "tool_timeout"),
    ],
)
def test_tool_errors_are_classified_by_their_text(text, expected):
    """Each spelling the recordings use has its row of the taxonomy."""
    assert error_class_of(text) == expected
    assert expected in TAXONOMY


@given(st.integers(0, 10**15))
def test_dollars_become_nanodollars_exactly(amount):
    """A price written in whole nano-dollars comes back as that number, whatever floats do."""
    assert nanousd(float(f"{amount // 10**9}.{amount % 10**9:09d}")) == amount


@given(
    st.lists(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=5,
    ),
    st.sampled_from([None, 1]),
)
def test_splitting_loses_nothing(values, indent):
    """Any list Python's json writes, NaN and surrogates included, is cut where it was joined."""
    records = split(json.dumps(values, indent=indent).encode())
    assert records.stopped is None
    assert [json.dumps(json.loads(r)) for r in records.items] == [json.dumps(v) for v in values]


def places(value, path=()):
    """Yield the path of every value inside a JSON value."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, child in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from places(child, (*path, key))


ODD = st.sampled_from(
    [..., None, True, -1, 0, 2**70, 0.5, NAN, -INF, "", "x", "\ud800", "0", [], [[]], {}, {"": 0}]
)


@settings(max_examples=120, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data(), st.sampled_from(sorted(FORMATS)))
def test_no_single_change_of_a_record_breaks_the_others(data, kind):
    """Whatever stands in whatever field: the record is admitted or reported, never more."""
    content = SAMPLES[kind]()
    record = runs_of(content)[1]
    where = data.draw(st.sampled_from(list(places(record))))
    runs_of(content)[1] = changed(record, where, data.draw(ODD))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        try:
            report = admit(store, write(Path(folder) / "a.json", content), kind, release="r1")
        except IngestError:
            # What may have held spans of any trace refuses the file.
            assert kind == "otlp"
            assert not store.root.exists()
            return
        assert report.imported + len(report.errors) == report.runs
        assert kind in SPANS or report.runs == 3
        assert report.imported >= 2
        for pack in store.packs():
            pack.verify()
        assert store.scores(store.packs()).filter(pl.col("primary")).height == (
            0 if kind in SPANS else report.imported
        )


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_change_of_what_records_share_goes_further_than_an_error(data):
    """tau2's info and tasks stand for all runs: a change is admitted, reported, or refused."""
    content = SAMPLES["tau2"]()
    del content["simulations"][1:]
    shared = {k: v for k, v in content.items() if k != "simulations"}
    where = data.draw(st.sampled_from([".".join(map(str, p)) for p in places(shared)]))
    content = changed(content, where, data.draw(ODD))
    with tempfile.TemporaryDirectory() as folder:
        store, path = Store(Path(folder) / "store"), write(Path(folder) / "a.json", content)
        try:
            report = admit(store, path, "tau2")
        except (IngestError, UsageError):
            assert not store.root.exists()
        else:
            assert report.imported + len(report.errors) == 1

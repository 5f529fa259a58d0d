"""No value of a structured class is in any byte that a run leaves; under `off` no content is.

This is the cheap part; `tests/longer/canaries.py` plants each value alone, cuts streams at every
offset and executes the notebooks.
"""

from __future__ import annotations

from tests.privacy import canaries, commands, planting
from tests.privacy.instances import CLASSES
from towerkit.privacy.keys import local_redactor
from towerkit.runtime.tower import Tower


def test_there_are_more_than_thirty_structured_classes():
    """Each row of the detectors is one of them."""
    assert len(CLASSES) >= 30


def test_planted_values_are_in_no_byte(tmp_path, capfd):
    """Each path and class: packs, names of files, columns, OTLP, logs, what the commands say."""
    values = canaries.planted(1)
    exporter, texts = canaries.Exporter(), [text for _, text in values.values()]
    tower = planting.tower_at(tmp_path, otel_exporter=exporter, otel_content=True)
    with canaries.Logged() as logged:
        canaries.plant(tower, canaries.grouped(texts, 24))
    search = canaries.Search((name, value) for name, (value, _) in values.items())
    sinks = canaries.left(tower, exporter, logged)
    out, err = capfd.readouterr()
    sinks |= {"journals": canaries.journals(tower, "\n".join(texts)), "out": out.encode(),
              "err": err.encode(), "filters": canaries.filters(texts)}  # fmt: skip
    assert all(sinks[name] for name in ("OTLP", "columns", "files", "commands", "journals"))
    assert [found for sink, data in sinks.items() for found in search(sink, data)] == []


def test_a_kill_leaves_no_value_either(tmp_path):
    """In the journal, in what is recovered from it, and in what the process had said."""
    values = canaries.planted(2)
    search = canaries.Search((name, value) for name, (value, _) in values.items())
    assert search("killed", canaries.killed(tmp_path, 2, "CARD")) == []


def test_commands_repeat_no_value_that_they_were_given(tmp_path):
    """As an argument, in a file, in a file's name, on standard input: on neither stream."""
    values, store = canaries.planted(4), tmp_path / "store"
    canaries.plant(planting.tower_at(store), ["hello"], ["native"])
    search = canaries.Search((name, value) for name, (value, _) in values.items())
    said = b""
    for name in ("CARD", "EMAIL", "SECRET"):
        said += commands.commands_meet(tmp_path / name, values[name][1], store)
    assert said.count(b"<CARD:log:") > 50
    assert search("commands", said) == []


def test_notebooks_and_pages_repeat_no_value_that_they_were_given(tmp_path):
    """In their parameters, what they print and what they raise, executed or failed."""
    values, store = canaries.planted(5), tmp_path / "store"
    canaries.plant(planting.tower_at(store), ["hello"], ["native"])
    search = canaries.Search((name, value) for name, (value, _) in values.items())
    left = commands.reports_meet(tmp_path / "reports", values["CARD"][1], store)
    assert b"<CARD:log:" in left
    assert search("reports", left) == []


def test_the_search_finds_what_is_there(tmp_path):
    """A redactor that finds nothing leaks every class into files, columns and OTLP."""
    values = canaries.planted(3)
    redactor = local_redactor()
    redactor.text = lambda text, **_: text  # type: ignore[method-assign]
    redactor.json = lambda data, **_: data  # type: ignore[method-assign]
    exporter = canaries.Exporter()
    tower = planting.tower_at(
        tmp_path, redactor=redactor, otel_exporter=exporter, otel_content=True
    )
    redactor.of_run = lambda: redactor  # type: ignore[method-assign]
    tower.redactor = redactor
    planting.native(tower, "\n".join(text for _, text in values.values()), "x")
    search = canaries.Search((name, value) for name, (value, _) in values.items())
    with canaries.Logged() as logged:
        sinks = canaries.left(tower, exporter, logged)
    for sink in ("columns", "OTLP"):
        assert {found.partition(" ")[0] for found in search(sink, sinks[sink])} == set(CLASSES)


def test_secrets_named_to_the_tower_are_found(tmp_path):
    """Whatever shape they have."""
    tower = Tower(store=tmp_path, secrets=["plain words as a secret"])
    with tower.run("x", task="say: plain words as a secret") as run:
        pass
    assert run.pack is not None
    left = canaries.columns(tower.store) + canaries.files(tmp_path)
    assert b"plain words" not in left

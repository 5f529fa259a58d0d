"""A plug-in finds names in a process of its own; late, dead or wrong, the field goes as a whole."""

from __future__ import annotations

import pytest

from towerkit.core.errors import UsageError
from towerkit.privacy.plugin import Worker, finder
from towerkit.privacy.redact import Redactor

HERE = "tests.privacy.fake_plugins"


def redactor(name, **limits):
    return Redactor(b"k" * 32, kid="k1", plugin=Worker(f"{HERE}:{name}", **limits))


def test_what_a_plugin_finds_becomes_a_token_and_the_manifest_names_it():
    """Beside what the detectors find, which the plug-in does not see."""
    known = redactor("Names")
    out = known.text("Ada Lovelace wrote from ada@example.org")
    known.plugin.close()
    assert out.startswith("<PERSON:k1:")
    assert "<EMAIL:k1:" in out
    assert known.describe()["plugin"] == f"{HERE}:Names"
    assert known.dropped == 0


@pytest.mark.parametrize(("name", "limits"), [
    ("Slow", {"timeout_s": 0.2}), ("Crash", {}), ("Nonsense", {}), ("Missing", {}),
])  # fmt: skip
def test_a_plugin_that_fails_costs_the_whole_field_and_is_counted(name, limits):
    """No byte of the field is kept, in text and in JSON."""
    known = redactor(name, **limits)
    out = known.text("Ada Lovelace wrote this")
    known.plugin.close()
    assert out.startswith("<UNREADABLE:k1:")
    assert "Ada" not in out
    assert known.dropped == 1


def test_presidio_and_gliner_are_taken_as_they_are():
    """Each by the method it has."""

    class Result:
        start, end, entity_type = 0, 3, "PERSON"

    class Presidio:
        def analyze(self, *, text, language):
            return [Result()]

    class Gliner:
        def predict_entities(self, text, labels):
            return [{"start": 0, "end": 3, "label": "medical condition"}]

    assert list(finder(Presidio())("Ada")) == [(0, 3, "PERSON")]
    assert list(finder(Gliner())("flu")) == [(0, 3, "MEDICAL_CONDITION")]
    with pytest.raises(UsageError, match="find, analyze or predict_entities"):
        finder(object())


def test_a_plugin_is_named_by_module_and_object():
    """Anything else is refused before a process starts."""
    with pytest.raises(UsageError, match="module:object"):
        Worker("os.system('x')")

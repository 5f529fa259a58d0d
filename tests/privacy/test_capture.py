"""The capture matrix: `digests` keeps no byte of content, `off` neither content nor its digests."""

from __future__ import annotations

import pytest

from tests.privacy import canaries, planting
from towerkit.privacy.keys import local_redactor

WORDS = "Xyzzy living room"  # no detector would find it
OTHERS = "Quuux dining hall"


def left_by(path, root, text, capture):
    """Return the tower after a text went down a path, and every byte that is left, by sink."""
    exporter = canaries.Exporter()
    tower = planting.tower_at(
        root, redactor=local_redactor(capture=capture), otel_exporter=exporter, otel_content=True
    )
    # Names are kept under `digests`, redacted; under `off` one that is no identifier is a token.
    named = text if capture == "off" else "a_name"
    with canaries.Logged() as logged:
        planting.PATHS[path](tower, text, named)
        journal = canaries.journals(tower, text)
        assert tower.flush_otel()
    return tower, {
        "journal": journal, "OTLP": b"\n".join(exporter.data), "log": logged.data(),
        "files": canaries.files(tower.store.root), "columns": canaries.columns(tower.store),
    }  # fmt: skip


@pytest.mark.parametrize("capture", ["digests", "off"])
@pytest.mark.parametrize("path", planting.PATHS)
def test_no_content_byte_is_kept(tmp_path, path, capture):
    """Sync and async, pieces, retries, fallbacks, HTTP, frameworks, spans in and out, ingest."""
    search = canaries.Search([("text", WORDS), ("word", "Xyzzy living"), ("end", "ing room")])
    _, sinks = left_by(path, tmp_path, WORDS, capture)
    assert [found for sink, data in sinks.items() for found in search(sink, data)] == []


def digests(tower):
    """Return every digest of content that the store's packs hold."""
    out = set()
    for pack in tower.store.packs():
        assert pack.frame("content").height == 0
        for table in ("spans", "inputs"):
            frame = pack.frame(table)
            for column in frame.columns:
                if column.endswith("digest"):
                    out |= set(frame[column].drop_nulls().to_list())
    return out


@pytest.mark.parametrize("path", planting.PATHS)
def test_off_keeps_no_digest_of_content(tmp_path, path):
    """Two runs that say something else hold the same digests: none depends on what was said."""
    one, _ = left_by(path, tmp_path / "1", WORDS, "off")
    other, _ = left_by(path, tmp_path / "2", OTHERS, "off")
    assert digests(one) == digests(other)


def test_digests_are_of_content(tmp_path):
    """The test above can fail: under `digests` two texts differ in their digests."""
    one, _ = left_by("native", tmp_path / "1", WORDS, "digests")
    other, _ = left_by("native", tmp_path / "2", OTHERS, "digests")
    assert digests(one) - digests(other)

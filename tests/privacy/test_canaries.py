"""No value of a structured class is in any byte that a run leaves; under `off` no content is."""

from __future__ import annotations

import pytest

from tests.privacy.canaries import bytes_left, leaks, live, tower_at
from towerkit.privacy.keys import local_redactor
from towerkit.runtime.tower import Tower


@pytest.mark.parametrize("seed", [1, 2])
def test_planted_values_are_in_no_byte(tmp_path, seed):
    """Prompts, answers, pieces, tools, exceptions, steps, headers, addresses: 27 classes."""
    assert leaks(seed, tmp_path, capture_tower=tower_at) == []


@pytest.mark.parametrize("capture", ["off", "digests"])
def test_without_capture_no_content_byte_is_stored(tmp_path, capture):
    """A text that no detector would find is nowhere: guard, stream, tool, exception, step, HTTP."""
    import random

    word = "Xyzzylivingroom" if capture == "digests" else "Xyzzy living room"
    tower = tower_at(tmp_path, redactor=local_redactor(capture=capture))
    if capture == "digests":  # names are kept there, redacted: none is planted
        with tower.run("agent", task=word) as run:
            run.model([{"role": "user", "content": word}])
            with pytest.raises(ValueError, match=word):
                run.tool(
                    lambda: (_ for _ in ()).throw(ValueError(word)), idempotent=False, name="t"
                )
            run.finish(word)
    else:
        live(tower, [word], random.Random(1))
    everything = b"\n".join(bytes_left(tower, tmp_path))
    assert b"Xyzzy" not in everything
    assert b"WHl6en" not in everything


def test_secrets_named_to_the_tower_are_found(tmp_path):
    """Whatever shape they have."""
    tower = Tower(store=tmp_path, secrets=["plain words as a secret"])
    with tower.run("x", task="say: plain words as a secret") as run:
        pass
    assert run.pack is not None
    assert b"plain words" not in b"\n".join(bytes_left(tower, tmp_path))

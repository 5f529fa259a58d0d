"""Whatever a manifest says, opening it is a pack or one `PackError`."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from tests.agents import recorded
from towerkit.core.errors import PackError
from towerkit.packs.admissible import reasons
from towerkit.packs.digest import pack_root
from towerkit.packs.reader import open_pack
from towerkit.packs.summary import summarise
from towerkit.packs.writer import manifest_bytes

ODD = (None, True, False, 0, -1, 10**30, -(10**30), 1.5, "", "x" * 1000, "\ud800", [], {}, [[[]]],
       {"a": {"b": [1]}}, "../../x", "\x00")  # fmt: skip


def places(value, above=()):
    """Yield the path of every value in a JSON tree."""
    yield above
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*above, key))


def changed(rng, good):
    """Return a manifest with one to three values gone or replaced, spelt as ours or otherwise."""
    made = json.loads(good)
    everywhere = [p for p in places(made) if p]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        *above, last = rng.choice(everywhere)
        at = made
        for key in above:
            at = at[key] if isinstance(at, dict) and key in at else {}
        if isinstance(at, dict):
            at.pop(last, None)
            if rng.random() < 0.8:
                at[last] = rng.choice(ODD)
    try:
        if rng.random() < 0.5:
            made["root"] = pack_root(made)
        return manifest_bytes(made)
    except Exception:  # what is not even a manifest is spelt by the standard library
        return json.dumps(made, indent=rng.choice((None, 2))).encode()


@pytest.mark.parametrize("block", range(3))
def test_a_manifest_that_says_anything_is_a_pack_or_an_error(tmp_path, block):
    """And what opens can be judged and summed up: nobody reads it unchecked."""
    pack = recorded(tmp_path)
    path = pack.folder / "manifest.json"
    good = path.read_bytes()
    came = Counter()
    for seed in range(block * 400, block * 400 + 400):
        path.write_bytes(changed(random.Random(seed), good))
        try:
            found = open_pack(pack.folder)
            found.verify()
        except PackError:
            came["refused"] += 1
        else:
            reasons(found)
            summarise(found)
            came["opened"] += 1
    assert came["refused"] > 200
    assert came["opened"] > 5

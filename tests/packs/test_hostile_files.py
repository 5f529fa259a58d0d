"""Opening a pack that was made to harm costs little, runs nothing, leads nowhere, and says so."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.packs import hostile_files
from tests.packs.hostile_files import LINKS, MANIFESTS, PARQUET, good_pack, lies, replace
from towerkit.core.errors import PackError
from towerkit.packs.reader import open_pack

SECONDS, MEMORY_MB = 10, 512
# What these say beside the table is not looked at.
HOLD = {"0-good", "elsewhere", "many_values", "pandas"}


def opened(root):
    """Return what another process says of each pack below `root`."""
    good_pack(root / "0-good")
    broken = good_pack(root / "0-broken")
    data = hostile_files.written([hostile_files.content(hostile_files.pa.array([None], "binary"))])
    replace(broken, data, rows=1)
    done = subprocess.run([sys.executable, hostile_files.__file__, root], capture_output=True,
                          text=True, check=False, timeout=200)  # fmt: skip
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (done.returncode, said[-1:], done.stderr[-2000:])
    return {s["case"]: s for s in said}


def assert_harmless(said):
    """Every case: one clear error of ours, within the bounds, without any effect."""
    for name, case in said.items():
        assert case["seconds"] < SECONDS, (name, case)
        assert case["mb"] < MEMORY_MB, (name, case)
        assert case["events"] == [], (name, case)
        if name in HOLD:
            assert case["error"] == "NoneType", (name, case)
            continue
        assert case["error"] == "PackError", (name, case)
        assert 20 < len(case["says"]) < 700, (name, case)
        assert case["says"].isprintable(), (name, case)


def test_parquet_files_that_would_burst_or_lie(tmp_path):
    """Bombs by compression, dictionary, prefix, nulls and footer; schemas deep and wide."""
    for name, make in PARQUET.items():
        folder = good_pack(tmp_path / name)
        replace(folder, make(folder))
    said = opened(tmp_path)
    assert said.keys() == {*PARQUET, "0-good", "0-broken"}
    assert_harmless(said)
    for name in said:
        if name.startswith("bomb") or name in {"one_page", "dictionary", "rows_of_nothing"}:
            assert "refused" in said[name]["says"], said[name]


def test_manifests_that_would_burst_or_lie(tmp_path):
    """Deep, long, huge, sparse, misspelt; and files named outside of the folder."""
    for i, (_, change) in enumerate(MANIFESTS.items()):
        change(good_pack(tmp_path / str(i)))
    said = opened(tmp_path)
    assert len(said) == len(MANIFESTS) + 2
    assert_harmless(said)


def test_links_pipes_and_devices_are_not_opened(tmp_path):
    """None is followed, none is waited for."""
    for i, (_, change) in enumerate(LINKS.items()):
        change(good_pack(tmp_path / "packs" / str(i)))
    said = opened(tmp_path / "packs")
    assert len(said) == len(LINKS) + 2
    assert_harmless(said)


def test_a_footer_that_lies_anywhere_is_a_pack_or_an_error(tmp_path):
    """Each integer of a footer says something else: the values are the sealed ones or refused."""
    folder = good_pack(tmp_path)
    good = open_pack(folder).frame("content")
    path = folder / "content.parquet"
    came = {"opened": 0, "refused": 0}
    for lie, data in lies(path.read_bytes()):
        replace(folder, data)
        try:
            found = open_pack(folder).frame("content")
        except PackError:
            came["refused"] += 1
        else:
            came["opened"] += 1
            assert found.equals(good), lie
    assert came["refused"] > 200
    assert came["opened"] > 30


@pytest.mark.parametrize("event", [("exec", ("x",)), ("socket.connect", ()), ("import", ("x",)),
                                   ("open", ("/etc/passwd", "r", 0)),
                                   ("open", ("manifest.json", "w", 1))])  # fmt: skip
def test_the_hook_sees(event):
    """What the tests above say did not happen would have been seen."""
    assert hostile_files._opened(*event, {"manifest.json"})
    assert hostile_files._opened("open", ("manifest.json", "r", 0), {"manifest.json"}) is None

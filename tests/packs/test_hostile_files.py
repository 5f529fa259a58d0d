"""Opening a pack that was made to harm costs little, runs nothing, leads nowhere, and says so."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY
from tests.packs import hostile_files, thrift
from tests.packs.hostile_files import LINKS, MANIFESTS, PARQUET, good_pack, lies, replace
from towerkit.core.errors import PackError
from towerkit.packs import parquet
from towerkit.packs.reader import open_pack
from towerkit.packs.tables import CONTENT
from towerkit.packs.thrift import read_struct

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
    assert came["refused"] > 150
    assert came["opened"] > 30


def test_a_footer_that_is_recognised_says_what_a_parsed_one_does(tmp_path, monkeypatch):
    """Our own spelling is read by its shape: the same is taken and refused as by parsing it."""

    def verdicts() -> list[bool]:
        out = []
        for _, data in lies((folder / "content.parquet").read_bytes()):
            try:
                parquet.check_bounds(data, CONTENT, where="x")
            except PackError:
                out.append(False)
            else:
                out.append(True)
        return out

    folder = good_pack(tmp_path)
    recognised = verdicts()
    monkeypatch.setattr(parquet, "footer_pattern", lambda _: re.compile(b"(?!)"))
    assert verdicts() == recognised
    assert 30 < sum(recognised) < len(recognised) - 100


@pytest.mark.parametrize("event", [("exec", ("x",)), ("socket.connect", ()), ("import", ("x",)),
                                   ("open", ("/etc/passwd", "r", 0)),
                                   ("open", ("manifest.json", "w", 1))])  # fmt: skip
def test_the_hook_sees(event):
    """What the tests above say did not happen would have been seen."""
    assert hostile_files._opened(*event, {"manifest.json"})
    assert hostile_files._opened("open", ("manifest.json", "r", 0), {"manifest.json"}) is None


@pytest.mark.parametrize(
    ("header", "says"),
    [
        (b"\x15\x02\x05\x02\x04\x00", "a field twice"),  # number 1, again, by its full name
        (b"\x05\x82\x80\x08\x02\x00", "of no number"),  # 65537, which 16 bits take for 1
        (b"\x15" + b"\xff" * 9 + b"\x7f\x00", "too long"),  # over 64 bits
        (b"\x15" + b"\x80" * 12 + b"\x00", "too long"),
        (b"\x1c" * 20 + b"\x00" * 21, "nested too deep"),
        (b"\x19" + b"\x19" * 20 + b"\x00" * 21, "too long"),
        (b"\x19\xfc\xff\xff\xff\x0f", "too long"),  # a list that the bytes cannot hold
        (b"\x18\x7fabc", "ends early"),
        (b"\x17abc", "ends early"),
        (b"\x15", "ends early"),
        (b"", "ends early"),
        (b"\x1d\x00", "unknown type"),
    ],
)
def test_a_header_that_readers_may_take_differently_is_refused(header, says):
    """What is added up here must be what the library will read."""
    with pytest.raises(PackError, match=says):
        read_struct(header, 0, len(header))


def test_a_header_reads_as_it_was_written():
    """The reader and the tests' own agree on the footers of every frozen table."""
    for path in (REPOSITORY / "tests" / "frozen_packs").rglob("*.parquet"):
        data = path.read_bytes()
        size = int.from_bytes(data[-8:-4], "little")
        fields, end = read_struct(data, len(data) - 8 - size, len(data) - 8)
        assert end == len(data) - 8
        theirs = thrift.footer(data)[1]
        assert {n: fields[n] for n, kind, _ in theirs if kind in thrift.INTS} == {
            n: value for n, kind, value in theirs if kind in thrift.INTS
        }
        assert len(fields[4]) == len(thrift.get(theirs, 4)[1])
        assert [c[4] for c in fields[2]] == [thrift.get(c, 4) for c in thrift.get(theirs, 2)[1]]

"""Kills, torn writes and failing I/O at every call: no torn pack, nothing acknowledged lost."""

from __future__ import annotations

import errno
import os
import shutil

import pytest
from checks import ANSWERS, check_failed, check_killed
from rig import KILLED, Rig, build

ERRNOS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EMFILE, errno.EACCES, errno.EDQUOT)
# What a run of the rig's agent does to its store, with some to spare for a second sync of a slow
# disk; beyond the last call nothing fails.
CALLS = 48


@pytest.fixture(scope="module")
def rig(tmp_path_factory):
    """Return a rig for this module; a missing compiler fails in CI."""
    injector = build(tmp_path_factory.mktemp("injector"))
    if injector is None:
        assert not os.environ.get("CI"), "CI needs a C compiler: .ci/run installs it"
        pytest.skip("no C compiler: apt-get install gcc")
    made = Rig(injector)
    yield made
    made.close()


@pytest.fixture
def folder(tmp_path):
    """Return a store's folder, gone afterwards: there are hundreds."""
    yield tmp_path / "store"
    shutil.rmtree(tmp_path, ignore_errors=True)


def test_the_agent_without_a_fault(rig, folder):
    """Ten spans, all in the pack; and the rig sees the calls that are to fail."""
    done = rig.case(folder, "count", 0)
    assert (done["status"], done["answers"]) == (0, ANSWERS)
    assert done["evidence"] == {
        "started": 10, "in_pack": 10, "in_journal": 0, "dropped": 0, "problems": [],
    }  # fmt: skip
    assert CALLS - 10 <= done["seen"] <= CALLS


@pytest.mark.parametrize("mode", ["kill", "torn"])
@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_killed_at_any_call(rig, folder, mode, number):
    """SIGKILL before it, or in the middle of it."""
    done = rig.case(folder, mode, number)
    assert done["status"] in {KILLED, 0}
    check_killed(folder, done)


@pytest.mark.parametrize("how", ["errno", "errno_sticky"])
@pytest.mark.parametrize("number", range(1, CALLS + 1))
def test_any_call_fails(rig, folder, how, number):
    """Each of six errors, once and from then on: the agent gets its answers all the same."""
    for i, error in enumerate(ERRNOS):
        store = folder / str(i)
        check_failed(store, rig.case(store, how, number, error=error))


@pytest.mark.parametrize("number", range(1, CALLS + 1, 3))
def test_a_write_that_takes_half(rig, folder, number):
    """The rest follows: a short write is no error."""
    done = rig.case(folder, "short", number)
    check_failed(folder, done)
    assert done["evidence"]["in_pack"] == 10


def test_the_checks_notice(rig, folder):
    """A journal that has lost its second half has lost what was acknowledged."""
    done = rig.case(folder, "kill", 12)
    assert done["acked"]
    (journal,) = folder.glob("journal/*")
    data = journal.read_bytes()
    journal.write_bytes(data[: len(data) // 2])
    with pytest.raises(AssertionError):
        check_killed(folder, done)

"""A pytest plugin: recorded runs as regression tests, with the fixture `towerkit_replay`.

Rule: nothing is imported before a test asks. A run that is not equal fails with what `towerkit
replay` says of it: the span, both sides, the nearest recorded request.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from towerkit.packs.store import Pack
    from towerkit.replay import ReplayReport


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add where runs are looked for."""
    parser.addini(
        "towerkit_store", "store of the runs that tests replay, beside the configuration file",
        default="",
    )  # fmt: skip


@pytest.fixture
def towerkit_replay(pytestconfig: pytest.Config) -> Callable[..., ReplayReport]:
    """Return `check(run, agent, **options)`: replay a run and fail where it is not equal.

    `run` is a run's id in the store (ini option `towerkit_store`, else the default one), or the
    folder of a pack, also beside the configuration file. `agent` and `options` are those of
    `towerkit.replay.replay`; without an agent it is a scenario's run.
    """

    def check(run: str | Path, agent: Any = None, **options: Any) -> ReplayReport:
        __tracebackhide__ = True
        from towerkit.replay import replay, replay_scenario  # noqa: PLC0415  when a test asks

        pack = _pack(str(run), pytestconfig)
        report = replay_scenario(pack) if agent is None else replay(pack, agent, **options)
        if not report.equal:
            pytest.fail("\n".join(report.lines()), pytrace=False)
        return report

    return check


def _pack(run: str, config: pytest.Config) -> Pack:
    from towerkit.packs.store import Store  # noqa: PLC0415
    from towerkit.runtime.tower import default_store  # noqa: PLC0415

    beside = config.rootpath / run
    named = str(config.getini("towerkit_store"))
    store = Store(config.rootpath / named if named else default_store())
    return store.pack(str(beside) if (beside / "manifest.json").is_file() else run)

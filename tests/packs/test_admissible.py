"""A pack whose tables do not fit each other is no evidence, and lint says why."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tests.agents import recorded
from towerkit.cli import cli
from towerkit.packs.admissible import reasons
from towerkit.packs.reader import open_pack
from towerkit.packs.store import Store
from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.writer import Draft


def test_a_recorded_run_is_evidence(tmp_path):
    """A whole run gives no reason against it, and lint says so."""
    pack = recorded(tmp_path)
    assert reasons(pack) == ()
    done = CliRunner().invoke(cli, ["pack", "lint", "--store", str(tmp_path)])
    assert (done.exit_code, "1 of 1 packs are admissible" in done.output) == (0, True)


@pytest.mark.parametrize(
    ("table", "row", "column", "value"),
    [("costs", 0, "input_tokens", 7), ("spans", 2, "duration_ns", 10**15),
     ("spans", 3, "parent_span_id", "00000000000000aa"),
     ("inputs", 1, "response_digest", "0" * 32)],
)  # fmt: skip
def test_tables_that_disagree_are_no_evidence(tmp_path, table, row, column, value):
    """A pack whose digests hold and whose tables do not fit each other is inadmissible."""
    pack = recorded(tmp_path / "a")
    rows = {n: [list(r[:-1]) for r in pack.frame(n).rows()] for n in PACK_TABLES}
    rows[table][row][PACK_TABLES[table].names.index(column)] = value
    head = {k: v for k, v in pack.manifest.items() if k not in {"format", "tables", "root"}}
    draft = Draft(
        manifest=head, salt_seed=b"s", **{n: [tuple(r) for r in v] for n, v in rows.items()}
    )
    changed = Store(tmp_path / "b").commit(draft, durable=False)
    open_pack(changed.folder).verify()
    assert reasons(changed)
    done = CliRunner().invoke(cli, ["pack", "lint", "--store", str(tmp_path / "b")])
    assert done.exit_code == 1
    assert "inadmissible" in done.output

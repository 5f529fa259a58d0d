"""The checks of a table agree: rows in Python, a frame in Polars, Pandera."""

from __future__ import annotations

import subprocess
import sys

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from towerkit.core.errors import PackError, StoreError
from towerkit.packs.tables import PACK_TABLES, SCORES, Column, Table
from towerkit.packs.validate import (
    FEW_ROWS,
    MUST_HAVE_ROWS,
    check,
    check_with_pandera,
    fast_rule,
    holds,
    polars_schema,
    rows_hold,
)
from towerkit.packs.writer import write_parquet

TABLES = {**PACK_TABLES, "scores": SCORES}
VALID = {
    "run_id": "01900000-0000-7000-8000-000000000001",
    "salt": b"0123456789abcdef",
    "digest": "0" * 32,
}


def valid_value(c: Column) -> st.SearchStrategy:
    """Draw a value that the column's rules take; null too where it may be."""
    if c.pattern is not None:
        length = 16 if "{16}" in c.pattern else 32
        value = st.just(VALID["run_id"] if "-" in c.pattern else "a1" * (length // 2))
    elif c.isin is not None:
        value = st.sampled_from(c.isin)
    else:
        value = {
            "str": st.text(st.characters(exclude_categories=["Cs"]), max_size=4),
            "int": st.integers(0 if c.ge is None else c.ge, c.le or 2**62),
            "float": st.floats(0, 1),
            "bool": st.booleans(),
            "bytes": st.binary(max_size=4),
        }[c.kind]
    return st.none() | value if c.nullable else value


def odd_value(c: Column) -> st.SearchStrategy:
    """Draw a value of the column's type that may break its rules."""
    return (
        st.none()
        | {
            "str": st.sampled_from(
                ["", "A" * 16, "0" * 16 + "\n", "0" * 32 + " ", "chat", "é" * 32]
            ),
            "int": st.sampled_from([-1, 0, 1, 2**63 - 1, -(2**63)]),
            "float": st.sampled_from([float("nan"), float("inf"), -0.0, 1.0]),
            "bool": st.booleans(),
            "bytes": st.just(b""),
        }[c.kind]
    )


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, list[tuple]]:
    """Draw a table and rows of it that are valid, but for at most one odd value."""
    table = TABLES[draw(st.sampled_from(sorted(TABLES)))]
    row = st.tuples(*(valid_value(c) for c in table.columns))
    rows = draw(st.lists(row, max_size=4))
    if rows and draw(st.booleans()):
        at = draw(st.integers(0, len(table.columns) - 1))
        changed = (*rows[-1][:at], draw(odd_value(table.columns[at])), *rows[-1][at + 1 :])
        rows = [*rows[:-1], changed]
    return table, rows


def framed(table: Table, rows: list[tuple]) -> pl.DataFrame:
    """Return rows as the frame that reading them back gives."""
    return pl.DataFrame(rows, schema=polars_schema(table), orient="row", strict=True)


def as_rows(rows: list[tuple], table: Table) -> bool:
    """Ask the check of rows."""
    return rows_hold(rows, list(zip(*rows, strict=True)), table)


def as_frame(rows: list[tuple], table: Table) -> bool:
    """Ask the expression that judges long frames."""
    frame = framed(table, rows)
    return bool(frame.select(fast_rule(table)).item()) if rows else as_rows(rows, table)


def pandera_takes(frame: pl.DataFrame, table: Table) -> bool:
    """Ask Pandera itself."""
    try:
        check_with_pandera(frame, table, where="test")
    except PackError:
        return False
    return True


@given(tables())
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_rows_and_frames_are_judged_alike(drawn):
    """The check at writing and both at reading, of short frames and of long, never disagree."""
    table, rows = drawn
    assert as_rows(rows, table) == as_frame(rows, table) == holds(framed(table, rows), table)


@pytest.mark.parametrize("height", [FEW_ROWS, FEW_ROWS + 1])
def test_a_long_frame_is_judged_like_a_short_one(height):
    """One broken value is found on both sides of where the check changes."""
    good = ("0" * 32, "text/plain", 1, b"x", b"s" * 16)
    frame = framed(TABLES["content"], [good] * height)
    assert holds(frame, TABLES["content"])
    sizes = pl.Series("size", [1] * (height - 1) + [-1])
    assert not holds(frame.with_columns(sizes), TABLES["content"])


@given(tables())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_the_fast_checks_agree_with_pandera(drawn):
    """What the fast checks let pass Pandera lets pass, and the other way round."""
    table, rows = drawn
    assert as_rows(rows, table) == pandera_takes(framed(table, rows), table)


@pytest.mark.parametrize("name", sorted(TABLES))
def test_an_empty_table_holds_only_where_it_may_be_empty(name):
    """No rows is valid for costs and content, and never for evidence that must exist."""
    table = TABLES[name]
    may = name not in MUST_HAVE_ROWS
    assert rows_hold([], [], table) == holds(framed(table, []), table) == may


def _values(rows):
    return rows, list(zip(*rows, strict=True))


NUMBERS = Table(
    name="numbers",
    row="a number",
    columns=(
        Column(name="n", kind="int", doc="", ge=1, le=3),
        Column(name="x", kind="float", doc="", nullable=True, ge=0, le=1),
    ),
)


@pytest.mark.parametrize(
    ("row", "fits"),
    [
        ((1, 0.5), True),
        ((3, None), True),
        ((0, 0.5), False),
        ((4, 0.5), False),
        ((1, -0.1), False),
        ((1, 1.1), False),
        ((None, 0.5), False),
        ((True, 0.5), False),
        ((1, 1), False),
        ((1, "0"), False),
        ((1.0, 0.5), False),
    ],
)
def test_each_rule_of_a_row_can_fail(row, fits):
    """Type, null, lower and upper bound: each alone decides; a bool is no int, 1 is no float."""
    assert rows_hold(*_values([(2, 0.25), row]), NUMBERS) is fits


def test_a_missing_required_field_is_reported(tmp_path):
    """A call without its request digest is refused by name: Pandera's report survives binary."""
    row = PACK_TABLES["spans"].make(
        run_id=VALID["run_id"], span_id="0" * 16, parent_span_id="1" * 16, seq=1, name="chat",
        kind="call", gen_ai_operation_name="chat", start_unix_ns=1, duration_ns=1, status="ok",
        simulated=False, attributes="{}", events="[]",
    )  # fmt: skip
    with pytest.raises(PackError, match="call_requires_parent_span_id_request_digest"):
        write_parquet(
            PACK_TABLES["spans"], [(*row, VALID["salt"])], tmp_path / "a.parquet", durable=False
        )


def test_a_row_that_breaks_a_rule_is_reported_by_pandera(tmp_path):
    """Writing an invalid row raises with column and rule, and leaves no file."""
    row = (*SCORES.make(run_id="nonsense", metric="m"),)
    with pytest.raises(PackError, match="scores breaks"):
        write_parquet(SCORES, [row], tmp_path / "a.parquet", durable=False)
    assert not list(tmp_path.iterdir())


def test_a_number_of_another_python_type_is_refused(tmp_path):
    """1 in a float column would read back as 1.0 and break its digest: refused when written."""
    row = SCORES.make(
        run_id=VALID["run_id"], pack_digest="d", eval_id="e", scenario="s", release="r",
        suite="golden", case_id="c", trial=0, metric="m", value=1, scored=True, primary=True,
        contradicted=False, simulated=False,
    )  # fmt: skip
    with pytest.raises(StoreError, match=r"a float column takes 1\.0, not 1"):
        write_parquet(SCORES, [row], tmp_path / "a.parquet", durable=False)


def test_reading_checks_too():
    """A frame that breaks a rule raises when it is read, with the file's name."""
    with pytest.raises(PackError, match="here: numbers breaks 1 rule"):
        check(framed(NUMBERS, [(9, 0.5)]), NUMBERS, where="here")


def test_writing_imports_no_polars(tmp_path):
    """Sealing a run in an agent's process does not pay for Polars or Pandera."""
    script = """
import sys
from pathlib import Path
from towerkit.packs.tables import CONTENT
from towerkit.packs.writer import write_parquet
row = ("0" * 32, "text/plain", 1, b"x", b"0123456789abcdef")
write_parquet(CONTENT, [row], Path(sys.argv[1]), durable=False)
assert not {"polars", "pandera"} & set(sys.modules), "imported"
"""
    command = [sys.executable, "-c", script, str(tmp_path / "a.parquet")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr

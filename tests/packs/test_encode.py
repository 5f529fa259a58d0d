"""The bytes of packs' files: whatever rows hold, three readers give them back."""

from __future__ import annotations

import io
import re
from unittest import mock

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from towerkit.core.errors import StoreError
from towerkit.packs import encode as encoder
from towerkit.packs import parquet
from towerkit.packs.encode import encode
from towerkit.packs.parquet import decode
from towerkit.packs.tables import CONTENT, PACK_TABLES, SCORES, Column, Table
from towerkit.packs.writer import arrow_schema

KINDS = {
    "str": st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, width=64), "bool": st.booleans(),
    "bytes": st.binary(max_size=40),
}  # fmt: skip
EVERY = Table(
    name="every", row="one of each kind",
    columns=tuple(Column(name=f"c_{k}", kind=k, doc=k, nullable=True) for k in KINDS),
)  # fmt: skip
ROWS = st.lists(st.tuples(*(st.none() | kind for kind in KINDS.values())), max_size=40)


def columns_of(rows, table):
    return list(zip(*rows, strict=True)) if rows else [()] * len(table.columns)


@settings(max_examples=150, deadline=None)
@given(ROWS, st.booleans(), st.sampled_from([1, 7, 1024]))
def test_rows_come_back_from_every_reader(rows, pack, page_rows):
    """Nulls, empty and repeated values, extreme numbers, one page or many, packed or not."""
    before, encoder.PAGE_ROWS = encoder.PAGE_ROWS, page_rows
    try:
        data, _ = encode(EVERY, columns_of(rows, EVERY), pack=pack)
    finally:
        encoder.PAGE_ROWS = before
    assert decode(data, EVERY, where="x").rows() == rows
    read = pq.read_table(pa.BufferReader(data))
    assert [tuple(r.values()) for r in read.to_pylist()] == rows
    assert read.schema.equals(arrow_schema(EVERY))


@given(ROWS.filter(bool), st.booleans())
def test_a_footer_that_was_written_is_recognised(rows, pack):
    """It need not be parsed; and what it says is what parsing it would say."""
    data, _ = encode(EVERY, columns_of(rows, EVERY), pack=pack)
    said = parquet._footer(data, EVERY, "x")
    with mock.patch.object(parquet, "read_struct", side_effect=AssertionError):
        assert parquet._footer(data, EVERY, "x") == said
    with mock.patch.object(parquet, "footer_pattern", return_value=re.compile(b"(?!)")):
        assert parquet._footer(data, EVERY, "x") == said


def test_duckdb_reads_it_too(tmp_path):
    """A page boundary, a column of nulls and one of long texts among the rows."""
    rows = [(f"text {i} " * 20, i, i / 3, i % 2 == 0, None) for i in range(3000)]
    data, becomes = encode(EVERY, columns_of(rows, EVERY))
    (tmp_path / "x.parquet").write_bytes(data)
    assert duckdb.sql(f"SELECT * FROM '{tmp_path}/x.parquet'").fetchall() == rows
    assert len(data) < becomes / 4
    assert pl.read_parquet(io.BytesIO(data)).rows() == rows


@pytest.mark.parametrize("table", [*PACK_TABLES.values(), SCORES], ids=lambda t: t.name)
def test_the_schema_is_the_one_pyarrow_writes(table):
    """A file without rows has it too, no statistics, and no dictionary."""
    data, _ = encode(table, [()] * len(table.columns))
    sink = pa.BufferOutputStream()
    pq.write_table(arrow_schema(table).empty_table(), sink, store_schema=False)
    theirs = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    assert pq.ParquetFile(pa.BufferReader(data)).schema.equals(theirs)
    assert decode(data, table, where="x").height == 0


def test_what_the_format_has_no_bytes_for_is_refused():
    """A lone surrogate is one sentence, not half a file."""
    row = ("0" * 32, "text/plain\ud800", 1, b"x", b"s" * 16)
    with pytest.raises(StoreError, match="content: media_type does not fit"):
        encode(CONTENT, columns_of([row], CONTENT))


def test_footers_repeat_nothing_that_was_said():
    """No statistics in any column, whatever it holds."""
    rows = [("secret word", 1, 1.0, True, b"secret bytes")] * 3
    meta = pq.read_metadata(pa.BufferReader(encode(EVERY, columns_of(rows, EVERY))[0]))
    chunks = [meta.row_group(0).column(i) for i in range(meta.num_columns)]
    assert not any(c.is_stats_set or c.has_dictionary_page for c in chunks)

"""The tables of a lake: those of a pack, and `runs`, whose rows are the manifests.

Rule: a table of a pack keeps its columns, salts included, so that its rows have the digests they
had. `run_id` and `row` are added where they are missing; `date` is the partition and stands in no
file. Files carry no statistics but of `run_id` and `started_unix_ns`: they would repeat prompts.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from towerkit.packs.tables import PACK_TABLES, Column, Table

DATE = "date"
_ROW = Column(name="row", kind="int", doc="the row's number in its pack, from 0: digests need it")


def _c(name: str, kind: Any, doc: str, *, nullable: bool = False) -> Column:
    return Column(name=name, kind=kind, doc=doc, nullable=nullable)


def _places() -> tuple[Column, ...]:
    return tuple(
        _c(f"{name}_{what}", "int", doc.format(name))
        for name in PACK_TABLES
        for what, doc in (("at", "where its rows begin in its batch's file of {}"),
                          ("rows", "how many rows of {} it has"))
    )  # fmt: skip


RUNS = Table(
    name="runs",
    row="a run: its manifest, and where its rows stand",
    columns=(
        _c("run_id", "str", "the run"),
        _c("batch", "str", "the files that hold its rows, named alike in every table"),
        _c("root", "str", "the pack's digest"),
        _c("manifest_sha256", "str", "of the bytes of manifest.json: changes with a redaction"),
        _c("started_unix_ns", "int", "wall time, nanoseconds since 1970"),
        _c("duration_ns", "int", "monotonic nanoseconds"),
        _c("status", "str", "how it ended"),
        _c("error_class", "str", "row of the error taxonomy", nullable=True),
        _c("service", "str", "what ran", nullable=True),
        _c("scenario", "str", "what the agent was asked to do", nullable=True),
        _c("release", "str", "which version of the agent", nullable=True),
        _c("case_id", "str", "the case of an evaluation", nullable=True),
        _c("source_kind", "str", "live, or the format it was ingested from", nullable=True),
        _c("eval_id", "str", "the evaluation it belongs to", nullable=True),
        _c("clock", "str", "system, virtual, recorded or none"),
        _c("simulated", "bool", "true when a simulated model or clock made the run"),
        _c("spans_started", "int", "spans = started, less those dropped"),
        _c("spans_dropped", "int", "counted, not in the pack"),
        _c("signed", "bool", "true when the manifest carries a signature"),
        _c("redacted", "bool", "true when rows were redacted after it was sealed"),
        *_places(),
        _c("manifest", "str", "the manifest, JSON: roots, signature, redactions"),
    ),
)


def _of(table: Table) -> Table:
    known = () if "run_id" in table.names else (_c("run_id", "str", "the run that the row is of"),)
    return Table(name=table.name, row=table.row, columns=(*known, *table.columns, _ROW))


LAKE_TABLES: dict[str, Table] = {**{n: _of(t) for n, t in PACK_TABLES.items()}, "runs": RUNS}

# Columns whose values hardly repeat: a dictionary of them costs time and saves nothing.
_LONG = frozenset({
    "salt", "manifest", "manifest_sha256", "root", "span_id", "parent_span_id", "body", "digest",
    "attributes", "events", "error_message", "request_digest", "response_digest",
})  # fmt: skip


@cache
def arrow_schema(table: Table) -> Any:
    """Return the Arrow schema of the files of a lake's table."""
    import pyarrow as pa  # noqa: PLC0415

    kinds = {
        "str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(),
        "bytes": pa.binary(),
    }  # fmt: skip
    return pa.schema([pa.field(c.name, kinds[c.kind], nullable=c.nullable) for c in table.columns])


@cache
def delta_schema(table: Table) -> Any:
    """Return the Arrow schema of the Delta table: the files' and the partition."""
    import pyarrow as pa  # noqa: PLC0415

    return pa.schema([pa.field(DATE, pa.date32(), nullable=False), *arrow_schema(table)])


def by_dictionary(table: Table) -> list[str]:
    """Return the columns that are written with a dictionary."""
    kinds = {"str", "bytes"}
    return [c.name for c in table.columns if c.kind in kinds and c.name not in _LONG]


def with_statistics(table: Table) -> list[str]:
    """Return the columns whose smallest and largest value stand in the footer."""
    return [n for n in ("run_id", "started_unix_ns", "start_unix_ns") if n in table.names]

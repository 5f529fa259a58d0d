"""Frames to compare: from a file, or from packs with one row a run and one row a tool call.

Rule: what a run did not record is null, never 0. A duration is null when the run had no clock, a
cost when any of its charges is unknown, a score when none was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from towerkit.core.errors import UsageError
from towerkit.packs.store import Pack, Store

_PARQUET_MAGIC = b"PAR1"
_COUNTS = (
    "steps", "model_calls", "tool_calls", "distinct_tools", "attempts", "retries", "fallbacks",
    "errors",
)  # fmt: skip


def load_frame(path: Path | str) -> pl.DataFrame:
    """Return the Parquet or CSV file at `path`; raise `UsageError` naming it when it is not one.

    What a file is, its first bytes say for Parquet, its suffix for CSV.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            parquet = file.read(4) == _PARQUET_MAGIC
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if not parquet and path.suffix.lower() != ".csv":
        raise UsageError(f"expected a Parquet or CSV file, got {path}")
    try:
        frame = (
            pl.read_parquet(path)
            if parquet
            else pl.read_csv(path, try_parse_dates=True, infer_schema_length=None)
        )
    except (pl.exceptions.PolarsError, OSError, UnicodeDecodeError) as error:
        kind = "Parquet" if parquet else "CSV"
        raise UsageError(f"{path} is not a readable {kind} file: {_first_line(error)}") from None
    if frame.height == 0:
        raise UsageError(f"{path} holds no rows: there is nothing to compare")
    return frame


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def run_frame(store: Store, packs: Sequence[Pack]) -> pl.DataFrame:
    """Return one row of features a run, in the order of `packs`.

    What names a run (its id, release, scenario, case) is left out: names differ by construction,
    and a difference of names is no drift. `attempts` are physical tries, `retries` those that
    repeat one on the same model or tool, `fallbacks` the moves to another. `score` is the primary
    score; tokens are those reported.
    """
    spans = store.scan("spans", packs)
    runs = _clocks(packs)
    for part in (
        _run_spans(spans),
        _call_features(spans),
        _try_features(tries(spans)),
        _retries(spans),
        _costs(store.scan("costs", packs)),
        _scores(store.scores(packs)),
    ):
        runs = runs.join(part, on="run_id", how="left", maintain_order="left")
    return runs.with_columns(
        pl.col(_COUNTS).fill_null(0),
        pl.when("has_clock").then("duration_s").alias("duration_s"),
    ).drop("has_clock", "run_id")


def tool_frame(store: Store, packs: Sequence[Pack]) -> pl.DataFrame:
    """Return one row a tool call: `run_id`, `tool`. Compare it with `cluster="run_id"`."""
    calls = store.scan("spans", packs).filter(
        pl.col("kind") == "call", pl.col("gen_ai_operation_name") == "execute_tool"
    )
    return calls.sort("run_id", "seq").select("run_id", tool="gen_ai_tool_name")


def tries(spans: pl.DataFrame) -> pl.DataFrame:
    """Return the physical tries: attempts, and calls that were recorded without any."""
    attempts = spans.filter(pl.col("kind") == "attempt")
    bare = spans.filter(pl.col("kind") == "call").join(
        attempts.select("run_id", span_id="parent_span_id"), on=["run_id", "span_id"], how="anti"
    )
    return pl.concat([attempts, bare]).sort("run_id", "seq")


def _clocks(packs: Sequence[Pack]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "run_id": [p.run_id for p in packs],
            "has_clock": [p.manifest.get("clock") != "none" for p in packs],
        },
        schema={"run_id": pl.String, "has_clock": pl.Boolean},
    )


def _run_spans(spans: pl.DataFrame) -> pl.DataFrame:
    return (
        spans.filter(pl.col("kind") == "run")
        .unique("run_id", keep="first")
        .select("run_id", "status", "error_class", duration_s=pl.col("duration_ns") / 1e9)
    )


def _call_features(spans: pl.DataFrame) -> pl.DataFrame:
    tool = pl.col("gen_ai_tool_name")
    is_call, operation = pl.col("kind") == "call", pl.col("gen_ai_operation_name")
    is_tool = is_call & (operation == "execute_tool")
    return (
        spans.sort("run_id", "seq")
        .group_by("run_id", maintain_order=True)
        .agg(
            steps=(pl.col("kind") == "step").sum().cast(pl.Int64),
            model_calls=(is_call & (operation == "chat")).sum().cast(pl.Int64),
            tool_calls=is_tool.sum().cast(pl.Int64),
            distinct_tools=tool.filter(is_tool).drop_nulls().n_unique().cast(pl.Int64),
            first_tool=tool.filter(is_tool).first(),
            last_tool=tool.filter(is_tool).last(),
        )
    )


def _try_features(physical: pl.DataFrame) -> pl.DataFrame:
    def total(column: str) -> pl.Expr:
        known = pl.col(column).drop_nulls()
        return pl.when(known.len() > 0).then(known.sum())

    return physical.group_by("run_id").agg(
        attempts=pl.len().cast(pl.Int64),
        errors=(pl.col("status") == "error").sum().cast(pl.Int64),
        input_tokens=total("gen_ai_usage_input_tokens"),
        output_tokens=total("gen_ai_usage_output_tokens"),
    )


def _retries(spans: pl.DataFrame) -> pl.DataFrame:
    """Count from the attempts of each call: tiers beyond the first, and tries beyond one a tier."""
    calls = (
        spans.filter(pl.col("kind") == "attempt")
        .group_by("run_id", "parent_span_id")
        .agg(
            tries=pl.len().cast(pl.Int64),
            tiers=pl.col("fallback_tier").fill_null(0).n_unique().cast(pl.Int64),
        )
    )
    return calls.group_by("run_id").agg(
        retries=(pl.col("tries") - pl.col("tiers")).sum(), fallbacks=(pl.col("tiers") - 1).sum()
    )


def _costs(costs: pl.DataFrame) -> pl.DataFrame:
    cost = pl.col("cost_nanousd")
    return (
        costs.filter(pl.col("purpose") == "agent")
        .group_by("run_id")
        .agg(cost_usd=pl.when(cost.null_count() == 0).then(cost.sum() / 1e9))
    )


def _scores(scores: pl.DataFrame) -> pl.DataFrame:
    return (
        scores.filter("primary", "scored")
        .group_by("run_id")
        .agg(score=pl.col("value").sort().mean())
    )

"""The charges of packs in one frame, with what the cost views group by.

Rule: a row a charge, nothing dropped. How an attempt was wasted is read from its span.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from towerkit.core.types import DETAIL
from towerkit.cost.usage import MOST_TOKENS
from towerkit.packs.store import Pack

if TYPE_CHECKING:
    import polars as pl

IDENTITY = ("service", "scenario", "release", "case_id", "tenant")


def charges(packs: Sequence[Pack]) -> pl.DataFrame:
    """Return the charges of `packs`, in their order.

    The columns of the table `costs` without its salt, and: `at_unix_ns` (when the attempt began),
    `day` (its date, UTC), `details` (its further classes of tokens, and searches, as a JSON object,
    null without any), `tool` (the tool within which the call was made, null outside), `waste`
    (`retries`: the attempt failed; `cancelled`; `discarded`: it was answered, and the answer not
    used; null for what was of use), `run_status`, `key` (what the provider's API key is called on
    its invoice, null where nobody said), and the run's `service`, `scenario`, `release`, `case_id`
    and `tenant`. Raises `PackError` when a table was changed.
    """
    import polars as pl  # noqa: PLC0415

    frames = [_of_pack(p) for p in packs]
    every = pl.concat(frames) if frames else _of_no_pack()
    return every.with_columns(day=pl.from_epoch("at_unix_ns", time_unit="ns").dt.date())


def _of_pack(pack: Pack) -> pl.DataFrame:
    import polars as pl  # noqa: PLC0415

    spans = pack.frame("spans")
    costs = pack.frame("costs").drop("salt")
    identity = pack.manifest["identity"]
    attempts = spans.select(
        "span_id", "status", at_unix_ns="start_unix_ns",
        details=pl.when(pl.col("attributes").str.contains(DETAIL, literal=True))
        .then(pl.col("attributes").map_elements(_details, return_dtype=pl.String)),
    )  # fmt: skip
    tools = _tools(spans)
    joined = costs.join(attempts, on="span_id", how="left", maintain_order="left")
    waste = (
        pl.when(pl.col("status").is_in(["cancelled", "aborted"])).then(pl.lit("cancelled"))
        .when(~pl.col("wasted")).then(None)
        .when(pl.col("status") == "error").then(pl.lit("retries"))
        .otherwise(pl.lit("discarded"))
    )  # fmt: skip
    return joined.select(
        *costs.columns,
        # A charge without a span of its own is the run's.
        pl.col("at_unix_ns").fill_null(pack.manifest["started_unix_ns"]),
        "details",
        pl.col("span_id").replace_strict(tools, default=None, return_dtype=pl.String).alias("tool"),
        waste.alias("waste"),
        pl.lit(pack.manifest["status"], pl.String).alias("run_status"),
        pl.col("provider")
        .replace_strict(_texts(identity.get("key_names")), default=None, return_dtype=pl.String)
        .alias("key"),
        *(pl.lit(identity.get(name), pl.String).alias(name) for name in IDENTITY),
    )


def _texts(names: object) -> dict[str, str]:
    """Return what of a mapping is text to text; nothing of anything else."""
    pairs = names.items() if isinstance(names, dict) else ()
    return {k: v for k, v in pairs if isinstance(k, str) and isinstance(v, str)}


def _details(attributes: str) -> str | None:
    """Return the counts among a span's attributes, as JSON."""
    told = msgspec.json.decode(attributes).items()
    counts = {name.removeprefix(DETAIL): n for name, n in told if name.startswith(DETAIL)}
    # Packs come from anybody: what is no count here is none, and takes no price.
    known = {name: n for name, n in counts.items() if type(n) is int and 0 <= n <= MOST_TOKENS}
    return msgspec.json.encode(known, order="sorted").decode() if known else None


def _tools(spans: pl.DataFrame) -> dict[str, str]:
    """Return, of each span that is a tool's or within one, the name of the nearest tool.

    A call is within a tool that is above it in the tree, or, in a run whose calls never half
    overlap, that was going on when it began and had not ended when it ended.
    """
    found: dict[str, str] = {}
    open_: list[tuple[int, str | None]] = []  # of the calls above: when they end, and their tool
    nested = _only_nested(spans)
    columns = ("span_id", "parent_span_id", "kind", "gen_ai_tool_name", "start_unix_ns",
               "duration_ns")  # fmt: skip
    # A parent starts before its children.
    for span, parent, kind, tool, start, lasts in spans.sort("seq").select(columns).iter_rows():
        name = tool or found.get(parent)
        if kind == "call" and nested:
            while open_ and open_[-1][0] <= start:
                open_.pop()
            name = name or next((t for _, t in reversed(open_) if t is not None), None)
            open_.append((start + lasts, name))
        if name is not None:
            found[span] = name
    return found


def _only_nested(spans: pl.DataFrame) -> bool:
    """Say whether of any two calls one is over before the other begins, or is within it."""
    ends: list[int] = []
    calls = spans.filter(kind="call").sort("seq").select("start_unix_ns", "duration_ns")
    for start, lasts in calls.iter_rows():
        while ends and ends[-1] <= start:
            ends.pop()
        if ends and start + lasts > ends[-1]:
            return False
        ends.append(start + lasts)
    return True


def _of_no_pack() -> pl.DataFrame:
    import polars as pl  # noqa: PLC0415

    from towerkit.packs.tables import COSTS  # noqa: PLC0415
    from towerkit.packs.validate import polars_schema  # noqa: PLC0415

    schema = dict(polars_schema(COSTS))
    schema.pop("salt")
    text = dict.fromkeys(("details", "tool", "waste", "run_status", "key", *IDENTITY), pl.String)
    return pl.DataFrame(schema=schema | {"at_unix_ns": pl.Int64} | text)

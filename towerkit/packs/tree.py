"""One run's spans as a tree, in the order in which they started."""

from __future__ import annotations

import msgspec
import polars as pl


class SpanRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the tree. `start_s` counts from the run's first span."""

    depth: int
    seq: int
    span_id: str
    name: str
    kind: str
    status: str
    error_class: str | None
    start_s: float
    duration_s: float
    input_tokens: int | None
    output_tokens: int | None
    attempt: int | None
    fallback_tier: int | None


def span_tree(spans: pl.DataFrame) -> tuple[SpanRow, ...]:
    """Return the spans of one run depth first, children in the order they started.

    A span whose parent is not in the frame stands at the top; so do spans that are their own
    ancestors, because every span is shown once whatever its links say.
    """
    rows = spans.sort("seq").rows(named=True)
    known = {r["span_id"] for r in rows}
    children: dict[str | None, list[dict[str, object]]] = {}
    for r in rows:
        parent = r["parent_span_id"]
        children.setdefault(parent if parent in known else None, []).append(r)
    began = min((r["start_unix_ns"] for r in rows), default=0)
    out: list[SpanRow] = []
    seen: set[object] = set()
    stack = [(0, r) for r in reversed(children.get(None, []))]
    unreached = iter(rows)
    while True:
        while stack:
            depth, r = stack.pop()
            if r["span_id"] not in seen:
                seen.add(r["span_id"])
                out.append(_row(r, depth, began))
                below = children.get(str(r["span_id"]), [])
                stack += [(depth + 1, c) for c in reversed(below)]
        left = next((r for r in unreached if r["span_id"] not in seen), None)
        if left is None:
            return tuple(out)
        stack.append((0, left))


def _row(r: dict[str, object], depth: int, began: int) -> SpanRow:
    fields = {
        "depth": depth,
        "start_s": (r["start_unix_ns"] - began) / 1e9,  # type: ignore[operator]
        "duration_s": r["duration_ns"] / 1e9,  # type: ignore[operator]
        "input_tokens": r["gen_ai_usage_input_tokens"],
        "output_tokens": r["gen_ai_usage_output_tokens"],
        **{
            n: r[n]
            for n in (
                "seq",
                "span_id",
                "name",
                "kind",
                "status",
                "error_class",
                "attempt",
                "fallback_tier",
            )
        },
    }
    return msgspec.convert(fields, SpanRow)

"""Runs and spans where somebody looks at them: in a notebook, or at a prompt.

Rule: what is shown comes from packs and is attacker-controlled: every cell is cleaned and escaped.
Unknown is a dash, never a zero. A list of runs reads manifests only, so a store of thousands opens
at once; rows are verified when a run is opened.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, overload

from towerkit.core.errors import SelectionError
from towerkit.packs.selection import parse_selection
from towerkit.packs.tree import SpanRow, span_tree
from towerkit.privacy.safe_text import safe_text

if TYPE_CHECKING:
    import polars as pl

    from towerkit.packs.reader import Pack

_UNKNOWN = "–"
_SHOWN = 50  # rows in a notebook; `frame` has them all
_BAD = {"ok": "", "completed": ""}  # anything else is marked
_STYLE = (
    "<style>.tk td,.tk th{text-align:left;padding:1px 10px 1px 0;white-space:nowrap;"
    "font-variant-numeric:tabular-nums}.tk .n{text-align:right}.tk caption{text-align:left}"
    ".tk .bad{color:#b3261e}"
    ".tk .bar{display:inline-block;height:.6em;min-width:1px;background:#3b6ea8}"
    ".tk .bad .bar{background:#b3261e}.tk .w{width:200px;padding:0}</style>"
)


class Runs(Sequence["Pack"]):
    """The runs of a store, newest first, as packs.

    Index with a number, a slice, or a run id (its beginning is enough where only one has it).
    """

    def __init__(self, packs: Sequence[Pack]) -> None:
        """Use `Tower.runs` or `Store.runs`."""
        self._packs = sorted(packs, key=lambda p: (p.manifest["started_unix_ns"], p.run_id))[::-1]

    def __len__(self) -> int:
        return len(self._packs)

    def __iter__(self) -> Iterator[Pack]:
        return iter(self._packs)

    @overload
    def __getitem__(self, at: int | str) -> Pack: ...
    @overload
    def __getitem__(self, at: slice) -> Runs: ...
    def __getitem__(self, at: int | str | slice) -> Pack | Runs:
        if isinstance(at, slice):
            return Runs(self._packs[at])
        if isinstance(at, str):
            return self._named(at)
        return self._packs[at]

    def _named(self, run_id: str) -> Pack:
        found = [p for p in self._packs if p.run_id.startswith(run_id)]
        if len(found) != 1:
            raise SelectionError(
                f"expected a run id or the beginning of one, got {safe_text(run_id)!r}, with which "
                f"{len(found) or 'none'} of the {len(self)} runs begin"
            )
        return found[0]

    def where(self, selection: str) -> Runs:
        """Return the runs that match a selection, such as `release=v7,status=failed`."""
        chosen = parse_selection(selection)
        return Runs([p for p in self._packs if chosen.matches(p.manifest)])

    @property
    def frame(self) -> pl.DataFrame:
        """One row a run: what ran, how it ended, seconds, US dollars (null is unknown), spans."""
        import polars as pl  # noqa: PLC0415

        return pl.DataFrame(
            [_run_row(p) for p in self._packs],
            schema={
                "run_id": pl.String, "started": pl.Datetime("us", "UTC"), "scenario": pl.String,
                "release": pl.String, "case_id": pl.String, "status": pl.String,
                "error_class": pl.String, "duration_s": pl.Float64, "cost_usd": pl.Float64,
                "spans": pl.Int64, "simulated": pl.Boolean,
            },
        )  # fmt: skip

    def __repr__(self) -> str:
        lines = [" ".join(_cells(row)) for row in map(_run_row, self._packs[:_SHOWN])]
        return "\n".join([self._said(), *lines])

    def _said(self) -> str:
        more = f", the newest {_SHOWN} are shown" if len(self) > _SHOWN else ""
        return f"{len(self)} runs{more}"

    def _repr_html_(self) -> str:
        heads = "".join(f"<th>{html.escape(h)}</th>" for h in _HEADS)
        rows = []
        for row in map(_run_row, self._packs[:_SHOWN]):
            bad = _BAD.get(row["status"], " class='bad'")
            cells = "".join(f"<td>{html.escape(c)}</td>" for c in _cells(row))
            rows.append(f"<tr{bad}>{cells}</tr>")
        return (
            f"{_STYLE}<table class='tk'><caption>{html.escape(self._said())}</caption>"
            f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        )


_HEADS = (
    "run", "status", "seconds", "cost", "spans", "started (UTC)", "scenario", "release", "case",
)  # fmt: skip


def _run_row(pack: Pack) -> dict[str, Any]:
    m = pack.manifest
    budget, identity = m["budget"] or {}, m["identity"]
    known = budget.get("spent_nanousd") is not None and not budget.get("unknown_charges")
    return {
        "run_id": pack.run_id,
        "started": datetime.fromtimestamp(m["started_unix_ns"] / 1e9, UTC),
        "scenario": identity.get("scenario"),
        "release": identity.get("release"),
        "case_id": identity.get("case_id"),
        "status": m["status"],
        "error_class": m["error_class"],
        "duration_s": None if m["clock"] == "none" else m["duration_ns"] / 1e9,
        "cost_usd": budget["spent_nanousd"] / 1e9 if known else None,
        "spans": m["spans"]["started"],
        "simulated": m["simulated"],
    }


def _cells(row: dict[str, Any]) -> list[str]:
    ended = row["status"] + (f": {row['error_class']}" if row["error_class"] else "")
    seconds, cost = row["duration_s"], row["cost_usd"]
    simulated = " (simulated)" if row["simulated"] else ""
    shown = (
        row["run_id"], ended, None if seconds is None else f"{seconds:.2f}",
        None if cost is None else f"${cost:.4f}{simulated}", row["spans"],
        f"{row['started']:%Y-%m-%d %H:%M:%S}", row["scenario"], row["release"], row["case_id"],
    )  # fmt: skip
    return [_UNKNOWN if c is None else safe_text(c, limit=60) for c in shown]


class Tree(Sequence[SpanRow]):
    """A run's spans, depth first: prints as an indented tree, with bars of time in a notebook."""

    def __init__(self, spans: pl.DataFrame) -> None:
        """Use `Pack.tree` or `Run.tree`."""
        self._rows = span_tree(spans)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> SpanRow: ...
    @overload
    def __getitem__(self, at: slice) -> tuple[SpanRow, ...]: ...
    def __getitem__(self, at: int | slice) -> SpanRow | tuple[SpanRow, ...]:
        return self._rows[at]

    def __repr__(self) -> str:
        return "\n".join(
            f"{'  ' * r.depth}{safe_text(r.name)} {r.duration_s:.3f}s{_mark(r)}" for r in self._rows
        )

    def _repr_html_(self) -> str:
        whole = max((r.start_s + r.duration_s for r in self._rows), default=0.0) or 1.0
        lines = []
        for r in self._rows:
            left, width = 200 * r.start_s / whole, 200 * r.duration_s / whole
            name = html.escape(safe_text(r.name) + _mark(r))
            tokens = "/".join(
                _UNKNOWN if n is None else f"{n:,}" for n in (r.input_tokens, r.output_tokens)
            )
            spends = r.kind == "attempt" and not r.name.startswith("execute_tool")
            bad = _BAD.get(r.status, " class='bad'")
            lines.append(
                f"<tr{bad}><td style='padding-left:{1.2 * r.depth:.1f}em'>{name}</td>"
                f"<td>{r.kind}</td><td class='n'>{r.duration_s:.3f} s</td>"
                f"<td class='n'>{tokens if spends else ''}</td><td class='w'>"
                f"<span class='bar' style='margin-left:{left:.0f}px;width:{width:.0f}px'></span>"
                "</td></tr>"
            )
        heads = "<th>span</th><th>kind</th><th>time</th><th>tokens in/out</th><th></th>"
        return (
            f"{_STYLE}<table class='tk'><thead><tr>{heads}</tr></thead>"
            f"<tbody>{''.join(lines)}</tbody></table>"
        )


def _mark(row: SpanRow) -> str:
    if row.status == "ok":
        return ""
    return f"  {row.status}" + (f": {row.error_class}" if row.error_class else "")

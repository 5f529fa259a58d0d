"""Figures for the notebooks: rows in, SVG with a text alternative out.

Rule: the title says the finding, axes carry their unit, rows are aggregated before they are drawn,
and no meaning stands in colour alone (the palette is Okabe and Ito's, and shapes or labels repeat
it). Names in the rows come from outside: they are cleaned and shortened here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import polars as pl

from towerkit.core.errors import UsageError
from towerkit.privacy.safe_text import clean, safe_text

Rows = Sequence[Mapping[str, Any] | msgspec.Struct]

WIDTH = 560
ROW_HEIGHT = 24
MAX_ROWS = 40
BLUE, ORANGE, VERMILION, GREEN, GREY = "#0072b2", "#e69f00", "#d55e00", "#009e73", "#7f7f7f"
_OUTCOMES = {
    "PASS": (BLUE, "circle"),
    "HOLD": (ORANGE, "diamond"),
    "FAIL": (VERMILION, "square"),
    "NOT MEASURED": (GREY, "cross"),
}


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One drawn figure. Shows itself in a notebook as SVG, and as text to who cannot see it."""

    title: str
    alt: str
    svg: str

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data = {"image/svg+xml": self.svg, "text/plain": self.alt}
        return data, {"image/svg+xml": {"alt": self.alt}}


def suite_scores(rows: Rows) -> Figure:
    """Draw each suite's score with its interval against its threshold.

    Rows: `suite`, `estimate`, `low`, `high`, `n`, and optionally `threshold`; shares of 1.
    """
    shown = _rows(rows, ("suite", "estimate", "low", "high", "n"), ("threshold",), label="suite")
    said = [
        f"{r['suite']} {_share(r['estimate'])} ({_share(r['low'])} to {_share(r['high'])}, "
        f"n = {r['n']}, threshold {_share(r['threshold'])})"
        for r in shown
    ]
    title = ", ".join(f"{r['suite']} {_share(r['estimate'])}" for r in shown)
    layers = _interval_layers(shown, "suite", "score, share of cases", percent=True)
    return _draw(layers, title=title, said=said)


def rule_intervals(rows: Rows) -> Figure:
    """Draw the gate's rules as intervals: what was measured, how surely, and the outcome.

    Rows: `name`, `outcome`, `estimate`, `low`, `high`, and optionally `n`, `threshold` and `unit`.
    Rules of different units stand in panels of their own.
    """
    import altair as alt  # noqa: PLC0415  0.5 s of import: paid by who draws

    shown = _rows(
        rows,
        ("name", "outcome", "estimate", "low", "high"),
        ("n", "threshold", "unit"),
        label="name",
    )
    for row in shown:
        row["unit"] = safe_text(row["unit"] or "share", limit=60)
        row["outcome"] = row["outcome"] if row["outcome"] in _OUTCOMES else "NOT MEASURED"
    panels = [
        _interval_layers([r for r in shown if r["unit"] == unit], "name", unit, outcome=True)
        for unit in dict.fromkeys([r["unit"] for r in shown] or ["share"])
    ]
    counts = {o: sum(r["outcome"] == o for r in shown) for o in _OUTCOMES}
    found = ", ".join(f"{n} {o}" for o, n in counts.items() if n)
    title = f"{found or 'none'} of {len(shown)} rules"
    said = [
        f"{r['name']} {r['outcome']} {_number(r['estimate'])} "
        f"({_number(r['low'])} to {_number(r['high'])})"
        for r in shown
    ]
    return _draw(alt.vconcat(*panels) if len(panels) > 1 else panels[0], title=title, said=said)


def cost_by_model(rows: Rows) -> Figure:
    """Draw the money each model took, the wasted part apart. Rows: `model`, `cost_usd`, `wasted`.

    A row without a known cost is counted in the title, never drawn as 0.
    """
    import altair as alt  # noqa: PLC0415

    kept = _rows(rows, ("model", "cost_usd"), ("wasted",), label="model", limit=None)
    known = [r for r in kept if r["cost_usd"] is not None]
    parts: dict[tuple[str, str], float] = {}
    for r in known:
        key = (r["model"], "wasted" if r["wasted"] else "used")
        parts[key] = parts.get(key, 0.0) + r["cost_usd"]
    bars = [{"model": m, "part": p, "cost_usd": c} for (m, p), c in sorted(parts.items())]
    total = sum(parts.values())
    wasted = sum(c for (_, p), c in parts.items() if p == "wasted")
    title = "no cost is known"
    if known:
        title = f"${total:,.4f} spent, {_share(wasted / total if total else 0.0)} of it wasted"
    if len(known) < len(kept):
        title += f"; {len(kept) - len(known)} charges of unknown price left out"
    chart = (
        alt.Chart(_values(bars))
        .mark_bar()
        .encode(
            x=alt.X("cost_usd:Q", title="cost, US dollars"),
            y=alt.Y("model:N", title=None, sort="-x"),
            color=alt.Color(
                "part:N",
                title=None,
                scale=alt.Scale(domain=["used", "wasted"], range=[BLUE, ORANGE]),
            ),
            order=alt.Order("part:N"),
        )
    )
    said = [f"{b['model']} {b['part']} ${b['cost_usd']:,.4f}" for b in bars]
    return _draw(_sized(chart, len({b["model"] for b in bars})), title=title, said=said)


def errors_by_class(rows: Rows) -> Figure:
    """Draw how often each error class was seen. Rows: `error_class`, `count`."""
    import altair as alt  # noqa: PLC0415

    kept = _rows(rows, ("error_class", "count"), (), label="error_class", limit=None)
    shown = sorted(kept, key=lambda r: (-r["count"], r["error_class"]))[:MAX_ROWS]
    total = sum(r["count"] for r in kept)
    title = f"{total:,} errors, most of them {shown[0]['error_class']}" if shown else "no errors"
    chart = (
        alt.Chart(_values(shown))
        .mark_bar(color=BLUE)
        .encode(
            x=alt.X("count:Q", title="errors, count", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("error_class:N", title=None, sort=[r["error_class"] for r in shown]),
        )
    )
    said = [f"{r['error_class']} {r['count']}" for r in shown]
    return _draw(_sized(chart, len(shown)), title=title, said=said)


def drift_effects(rows: Rows) -> Figure:
    """Draw each column's effects as multiples of their floor.

    Rows as `DriftReport.to_dict()["rows"]`: `column`, `test`, `effect`, `threshold`, `drift`, and
    `p_value`: a row without one is a distance, not a test, and is not drawn.
    """
    import altair as alt  # noqa: PLC0415

    needed = ("column", "test", "effect", "threshold", "drift", "p_value")
    kept = _rows(rows, needed, (), label="column", limit=None)
    tested = [r for r in kept if r["p_value"] is not None and r["effect"] is not None]
    largest: dict[str, float] = {}
    for r in tested:
        r["times"] = r["effect"] / r["threshold"]
        r["state"] = "drift" if r["drift"] else "no drift"
        largest[r["column"]] = max(r["times"], largest.get(r["column"], 0.0))
    top = sorted(largest, key=lambda c: (-largest[c], c))[:MAX_ROWS]
    shown = [r for r in tested if r["column"] in top]
    x = alt.X("times:Q", title="effect, multiples of the test's floor")
    y = alt.Y("column:N", title=None, sort=top)
    states = {"drift": (VERMILION, "diamond"), "no drift": (GREY, "circle")}
    points = alt.Chart(_values(shown)).mark_point(size=60, filled=True, opacity=1)
    chart = alt.layer(_rule_at(1.0), points.encode(x=x, y=y, **_marks("state", states)))
    said = [
        f"{r['column']} {r['test']} {r['times']:.2f} times its floor, {r['state']}"
        for r in sorted(shown, key=lambda r: -r["times"])
    ]
    return _draw(_sized(chart, len(top)), title=_drift_title(kept), said=said)


def _drift_title(rows: list[dict[str, Any]]) -> str:
    columns = len({r["column"] for r in rows})
    drifted = list(dict.fromkeys(r["column"] for r in rows if r["drift"]))
    if not drifted:
        return f"none of {columns} columns drifted"
    named = ", ".join(drifted[:4]) + (" …" if len(drifted) > 4 else "")
    return f"{len(drifted)} of {columns} columns drifted: {named}"


def latency_by_operation(rows: Rows) -> Figure:
    """Draw the median and 95th percentile of each operation. Rows: `operation`, `duration_s`.

    A row without a duration (a run without a clock) is counted, not drawn.
    """
    import altair as alt  # noqa: PLC0415

    kept = _rows(rows, ("operation", "duration_s"), (), label="operation", limit=None)
    shown = _quantiles(kept)
    title = "no durations were recorded"
    if shown:
        slowest = shown[0]
        title = f"slowest: {slowest['operation']}, {slowest['p95']:.2f} s at the 95th percentile"
    long = [
        {"operation": r["operation"], "seconds": r[q], "quantile": name}
        for r in shown
        for q, name in (("p50", "median"), ("p95", "95th percentile"))
    ]
    x = alt.X("seconds:Q", title="duration, seconds")
    y = alt.Y("operation:N", title=None, sort=[r["operation"] for r in shown])
    marks = _marks("quantile", {"median": (BLUE, "circle"), "95th percentile": (ORANGE, "square")})
    bars = alt.Chart(_values(shown)).mark_rule(color=GREY).encode(x="p50:Q", x2="p95:Q", y=y)
    points = alt.Chart(_values(long)).mark_point(size=60, filled=True, opacity=1)
    chart = alt.layer(bars, points.encode(x=x, y=y, **marks))
    said = [
        f"{r['operation']} median {r['p50']:.2f} s, 95th percentile {r['p95']:.2f} s, n = {r['n']}"
        for r in shown
    ]
    unknown = sum(r["duration_s"] is None for r in kept)
    said += [f"{unknown} rows without a duration"] if unknown else []
    return _draw(_sized(chart, len(shown)), title=title, said=said)


def _quantiles(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return median, 95th percentile and count of each operation, slowest first."""
    schema = {"operation": pl.String, "duration_s": pl.Float64}
    known = pl.DataFrame(rows, schema=schema).drop_nulls("duration_s")
    quantile = pl.col("duration_s").quantile
    grouped = known.group_by("operation").agg(
        p50=quantile(0.5, interpolation="linear"),
        p95=quantile(0.95, interpolation="linear"),
        n=pl.len(),
    )
    ordered = grouped.sort(["p95", "operation"], descending=[True, False])
    return ordered.head(MAX_ROWS).rows(named=True)


def policy_front(rows: Rows) -> Figure:
    """Draw what policies cost against the time they take, each as an interval in both.

    Rows: `name`, `front` (no other beats it), `cost_low`, `cost_high` (US dollars), `time_low`,
    `time_high` (seconds), `success_low` and `success_high` (shares of runs). An upper end that is
    not known (None) is drawn to the edge, dashed. A point's label is its number and its success.
    """
    import altair as alt  # noqa: PLC0415

    ends = tuple(f"{axis}_{end}" for axis in ("cost", "time", "success") for end in ("low", "high"))
    shown = _rows(rows, ("name", "front", *ends), (), label="name")
    for axis in ("cost", "time"):
        known = [r[f"{axis}_{e}"] for r in shown for e in ("low", "high")]
        edge = max((v for v in known if v is not None), default=0.0) * 1.05
        for r in shown:
            r[f"{axis}_end"] = edge if r[f"{axis}_high"] is None else r[f"{axis}_high"]
            r[f"{axis}_open"] = "end not known" if r[f"{axis}_high"] is None else "interval"
    for i, r in enumerate(shown):
        r["number"], r["place"] = str(i + 1), "front" if r["front"] else "beaten"
        low, high = _share(r["success_low"]), _share(r["success_high"])
        r["label"] = low if low == high else f"{low}–{high}"
    for r in shown:
        # Points on one another have one label, with the numbers of all.
        here = [o for o in shown if all(o[e] == r[e] for e in ends)]
        numbers = ", ".join(o["number"] for o in here)
        r["said"] = f"{numbers}: {r['label']}" if here[0] is r else ""
    marks = _marks("place", {"front": (BLUE, "circle"), "beaten": (GREY, "cross")})
    x = alt.X("cost_low:Q", title="cost of all runs, US dollars", scale=_scale(shown, "cost"))
    y = alt.Y("time_low:Q", title="time of all runs, seconds", scale=_scale(shown, "time"))
    base = alt.Chart(_values(shown)).encode(x=x, y=y)
    dash = alt.Scale(domain=["interval", "end not known"], range=[[1, 0], [4, 3]])
    lines = [
        base.mark_rule(color=GREY).encode(
            strokeDash=alt.StrokeDash(f"{axis}_open:N", title=None, scale=dash),
            **{end: f"{axis}_end:Q"},
        )
        for axis, end in (("cost", "x2"), ("time", "y2"))
    ]
    points = base.mark_point(size=80, filled=True, opacity=1).encode(**marks)
    names = base.mark_text(align="left", dx=7, dy=-8, fontSize=11).encode(text="said:N")
    front = [r for r in shown if r["front"]]
    title = f"{len(front)} of {len(shown)} policies are beaten by no other"
    said = [
        f"{r['number']} {r['name']} {r['place']}, ${_number(r['cost_low'])} to "
        f"{_number(r['cost_high'])}, {_number(r['time_low'])} to {_number(r['time_high'])} s, "
        f"success {_share(r['success_low'])} to {_share(r['success_high'])}"
        for r in shown
    ]
    return _draw(_sized(alt.layer(*lines, points, names), 12), title=title, said=said)


def _scale(rows: Sequence[Mapping[str, Any]], axis: str) -> Any:
    """Return a scale about the ends of intervals; about a value where all are that one."""
    import altair as alt  # noqa: PLC0415

    values = [r[f"{axis}_{end}"] for r in rows for end in ("low", "end")]
    if not values or max(values) > min(values):
        return alt.Scale(zero=False)
    return alt.Scale(domain=[values[0] * 0.9, values[0] * 1.1 or 1.0], nice=False)


def span_waterfall(rows: Rows) -> Figure:
    """Draw one run's spans over time. Rows as `rca.span_tree` gives them.

    `depth`, `seq` (the span's number, as reports name it), `name`, `status`, `start_s`,
    `duration_s`; the first 40 spans are drawn.
    """
    import altair as alt  # noqa: PLC0415

    needed = ("depth", "seq", "name", "status", "start_s", "duration_s")
    every = _rows(rows, needed, ("error_class",), label="name", limit=None)
    shown = every[:MAX_ROWS]
    for r in shown:
        # Numbered, because names repeat and the axis shows each of its values once.
        mark = "" if r["status"] == "ok" else f" ({r['error_class'] or r['status']})"
        r["line"] = f"{r['seq']}  {'· ' * r['depth']}{r['name']}{mark}"
        start, length = r["start_s"] or 0.0, r["duration_s"] or 0.0
        r["start"], r["end"] = start, start + length
    whole = max((r["end"] for r in shown), default=0.0)
    failed = sum(r["status"] != "ok" for r in every)
    title = f"{len(rows)} spans in {whole:.2f} s, {failed} of them not ok"
    if len(rows) > len(shown):
        title += f"; the first {len(shown)} are drawn"
    chart = (
        alt.Chart(_values(shown))
        .mark_bar(minBandSize=2)
        .encode(
            x=alt.X("start:Q", title="time since the run began, seconds"),
            x2="end:Q",
            y=alt.Y(
                "line:N",
                title=None,
                sort=[r["line"] for r in shown],
                axis=alt.Axis(labelLimit=300, labelAlign="left", labelPadding=305, ticks=False),
            ),
            color=alt.Color(
                "status:N",
                title=None,
                scale=alt.Scale(
                    domain=["ok", "error", "cancelled"], range=[BLUE, VERMILION, ORANGE]
                ),
            ),
        )
    )
    said = [f"{r['line'].strip()} {r['status']} {r['end'] - r['start']:.2f} s" for r in shown]
    return _draw(_sized(chart, len(shown), step=15), title=title, said=said)


def _rows(
    rows: Rows,
    needed: tuple[str, ...],
    optional: tuple[str, ...],
    *,
    label: str,
    limit: int | None = MAX_ROWS,
) -> list[dict[str, Any]]:
    """Return copies of `rows` with the wanted keys, their names cleaned and shortened."""
    kept = []
    for given in rows if limit is None else rows[:limit]:
        row = msgspec.structs.asdict(given) if isinstance(given, msgspec.Struct) else given
        missing = [k for k in needed if k not in row]
        if missing:
            raise UsageError(
                f"expected rows with {', '.join(needed)}, got none of "
                f"{', '.join(missing)} in {sorted(row)}"
            )
        one = {k: row.get(k) for k in (*needed, *optional)}
        kept.append(
            {k: safe_text(v, limit=48) if isinstance(v, str) else v for k, v in one.items()}
            | {label: safe_text("unknown" if one[label] is None else one[label], limit=48)}
        )
    return kept


def _interval_layers(
    rows: list[dict[str, Any]],
    label: str,
    unit: str,
    *,
    percent: bool = False,
    outcome: bool = False,
) -> Any:
    """Return a forest plot: point, interval, and the threshold as a tick."""
    import altair as alt  # noqa: PLC0415

    order = [r[label] for r in rows]
    y = alt.Y(
        f"{label}:N", title=None, sort=order, axis=alt.Axis(labelLimit=260),
        scale=alt.Scale(domain=order),
    )  # fmt: skip
    axis = alt.Axis(format=".0%") if percent else alt.Axis()
    x = alt.X("estimate:Q", title=unit, axis=axis, scale=alt.Scale(zero=False, nice=True))
    base = alt.Chart(_values(rows)).encode(y=y)
    lines = base.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=unit), x2="high:Q")
    points = base.mark_point(size=80, filled=True, opacity=1).encode(x=x)
    ticks = base.mark_tick(color="#000000", thickness=2, size=18)
    ticks = ticks.encode(x=alt.X("threshold:Q", title=unit))
    if outcome:
        marks = _marks("outcome", _OUTCOMES)
        lines, points = lines.encode(color=marks["color"]), points.encode(**marks)
    return _sized(alt.layer(lines, points, ticks), len(rows))


def _marks(field: str, values: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Return colour and shape of a field's values: either alone tells them apart."""
    import altair as alt  # noqa: PLC0415

    names, (colours, shapes) = list(values), zip(*values.values(), strict=True)
    return {
        "color": alt.Color(field, type="nominal", title=None,
                           scale=alt.Scale(domain=names, range=list(colours))),
        "shape": alt.Shape(field, type="nominal", title=None,
                           scale=alt.Scale(domain=names, range=list(shapes))),
    }  # fmt: skip


def _rule_at(x: float) -> Any:
    import altair as alt  # noqa: PLC0415

    rule = alt.Chart(_values([{"floor": x}])).mark_rule(strokeDash=[4, 3], color="#000000")
    return rule.encode(x="floor:Q")


def _values(rows: Iterable[Mapping[str, Any]]) -> Any:
    import altair as alt  # noqa: PLC0415

    return alt.InlineData(values=[dict(r) for r in rows])


def _sized(chart: Any, lines: int, *, step: int = ROW_HEIGHT) -> Any:
    return chart.properties(width=WIDTH, height=max(1, lines) * step)


def _draw(chart: Any, *, title: str, said: Sequence[str]) -> Figure:
    """Render `chart` to SVG with its title, and put what it shows into words."""
    import altair as alt  # noqa: PLC0415
    import vl_convert  # noqa: PLC0415

    title = clean(title)
    named = chart.properties(
        title=alt.TitleParams(title, anchor="start", fontSize=14, limit=WIDTH + 200)
    ).configure(background="white", font="sans-serif", padding=12)
    svg = vl_convert.vegalite_to_svg(named.to_json(), allowed_base_urls=[])
    listed = "; ".join(said[:12]) + (f"; and {len(said) - 12} more" if len(said) > 12 else "")
    return Figure(title=title, alt=clean(f"{title}. {listed}" if listed else title), svg=svg)


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"

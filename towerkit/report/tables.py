"""Small tables for notebooks: formatted here, escaped where they are written.

Rule: a table travels as text cells under its own media type, so that the page can be rebuilt from
them without trusting any HTML a notebook holds. Unknown is a dash, never a zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jinja2
import msgspec

from towerkit.core.errors import UsageError
from towerkit.privacy.safe_text import clean

TABLE_TYPE = "application/vnd.towerkit.table+json"
BANNER_TYPE = "application/vnd.towerkit.banner+json"
UNKNOWN = "–"


def _p_value(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


# How a column's values become text, and to which side they stand.
FORMATS: dict[str, tuple[Callable[[Any], str], Literal["left", "right"]]] = {
    "text": (str, "left"),
    "mark": (lambda v: "yes" if v else "no", "left"),
    "count": (lambda v: f"{v:,.0f}", "right"),
    "number": (lambda v: f"{v:,.3g}" if abs(v) < 1000 else f"{v:,.0f}", "right"),
    "share": (lambda v: f"{v:.1%}", "right"),
    "points": (lambda v: f"{100 * v:+.1f}", "right"),
    "p": (_p_value, "right"),
    "usd": (lambda v: f"${v:,.4f}", "right"),
    "seconds": (lambda v: f"{v:,.2f} s", "right"),
}

_HTML = jinja2.Environment(autoescape=True).from_string(
    "<div class='table'><table>{% if caption %}<caption>{{ caption }}</caption>{% endif %}"
    "<thead><tr>{% for h in headings %}<th scope='col' class='{{ aligns[loop.index0] }}'>{{ h }}"
    "</th>{% endfor %}</tr></thead><tbody>{% for row in rows %}<tr>{% for cell in row %}"
    "<td class='{{ aligns[loop.index0] }}'>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody>"
    "</table></div>"
)


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """A table of text cells. Shows itself in a notebook; `report.html` rebuilds it from JSON."""

    caption: str
    headings: tuple[str, ...]
    aligns: tuple[Literal["left", "right"], ...]
    rows: tuple[tuple[str, ...], ...]

    def html(self) -> str:
        """Return the table as HTML, every cell escaped."""
        return _HTML.render(msgspec.structs.asdict(self))

    def text(self) -> str:
        """Return the table as lines of tab-separated text."""
        lines = [self.headings, *self.rows]
        return "\n".join("\t".join(cell.replace("\t", " ") for cell in line) for line in lines)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {
            TABLE_TYPE: msgspec.to_builtins(self),
            "text/html": self.html(),
            "text/plain": self.text(),
        }


class Banner(msgspec.Struct, frozen=True, kw_only=True):
    """A verdict and the one sentence that goes with it; stands on top of the page."""

    verdict: Literal["PASS", "HOLD", "FAIL", "INFO"]
    sentence: str

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        text = f"{self.verdict}: {clean(self.sentence)}"
        return {BANNER_TYPE: msgspec.to_builtins(self), "text/plain": text}


def table(
    rows: Sequence[Mapping[str, Any]],
    columns: Mapping[str, tuple[str, str]],
    *,
    caption: str = "",
) -> Table:
    """Return a table of `columns`: key in the row → (heading, name of a format).

    A value that is absent or None is shown as a dash.
    """
    unknown = sorted({f for _, f in columns.values()} - set(FORMATS))
    if unknown:
        raise UsageError(f"expected a format of {', '.join(FORMATS)}, got {', '.join(unknown)}")

    def cell(row: Mapping[str, Any], key: str, name: str) -> str:
        value = row.get(key)
        return UNKNOWN if value is None else clean(FORMATS[name][0](value))

    return Table(
        caption=clean(caption),
        headings=tuple(clean(heading) for heading, _ in columns.values()),
        aligns=tuple(FORMATS[name][1] for _, name in columns.values()),
        rows=tuple(tuple(cell(r, k, name) for k, (_, name) in columns.items()) for r in rows),
    )

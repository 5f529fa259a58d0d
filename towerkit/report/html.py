"""An executed notebook as one HTML file that runs nothing and asks nobody for anything.

Rule: no HTML of a notebook is ever passed on. Markdown is rendered with raw HTML, images and links
off (links stay in the authored cells); pictures become `<img>` with a data address, in which an SVG
runs no script; tables are rebuilt from their cells; everything else is escaped text. The page's own
policy forbids scripts and requests, should anything of this fail.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import jinja2
import markdown_it
import msgspec
from markupsafe import Markup

from towerkit import __version__
from towerkit.privacy.safe_text import clean, safe_text
from towerkit.report.parameters import read_notebook, source_of, tags_of
from towerkit.report.runner import write_text
from towerkit.report.tables import BANNER_TYPE, TABLE_TYPE, Banner, Table, table

_PNG = b"\x89PNG\r\n\x1a\n"


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of the page. Only `markup` is written as it is, and only this module makes it."""

    kind: Literal["markup", "image", "code", "notes", "text"]
    markup: str = ""
    text: str = ""
    src: str = ""
    alt: str = ""
    number: int = 0


@cache
def _markdown(*, links: bool) -> markdown_it.MarkdownIt:
    """Return a CommonMark renderer with tables and without raw HTML and images."""
    renderer = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table")
    return renderer.disable(["image", "autolink"] if links else ["image", "autolink", "link"])


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
    )
    return environment.get_template("page.html.j2")


def write_html(
    executed: Path, output: Path, *, title: str | None = None, banner: Banner | None = None
) -> Path:
    """Write the executed notebook `executed` to `output` as one self-contained page.

    The title is the notebook's first heading unless given; the banner the first one a cell shows.
    """
    write_text(output, render(read_notebook(executed), title=title, banner=banner))
    return output


def render(
    document: Mapping[str, Any], *, title: str | None = None, banner: Banner | None = None
) -> str:
    """Return the page of an executed notebook; see `write_html`."""
    source = document["metadata"].get("towerkit", {})
    given = [{"name": k, "value": _shown_value(v)} for k, v in source.get("parameters", {}).items()]
    parameters = table(given, {"name": ("parameter", "text"), "value": ("value", "text")})
    return _template().render(
        title=safe_text(title or _first_heading(document), limit=120),
        banner=_clean_banner(banner or _first_banner(document)),
        blocks=[_marked(b) for b in _blocks(document)],
        source={k: safe_text(source.get(k, ""), limit=80) for k in ("notebook", "sha256")},
        parameters=Markup(parameters.html()) if given else "",  # noqa: S704  escaped by `html`
        version=__version__,
    )


def _shown_value(value: Any) -> str:
    """Return a parameter as text, of a path only its end: pages are passed on, disks are not."""
    text = str(value)
    return safe_text(f"…/{text.rpartition('/')[2]}" if text.startswith("/") else text)


def _marked(block: Block) -> dict[str, Any]:
    fields = msgspec.structs.asdict(block)
    return {**fields, "markup": Markup(block.markup)}  # noqa: S704  made by this module only


def _first_heading(document: Mapping[str, Any]) -> str:
    for cell in document["cells"]:
        for line in source_of(cell).splitlines():
            if cell["cell_type"] == "markdown" and line.startswith("#"):
                return line.lstrip("# ")
    return "towerkit report"


def _first_banner(document: Mapping[str, Any]) -> Banner | None:
    for cell in document["cells"]:
        for output in cell.get("outputs", []):
            if BANNER_TYPE in output.get("data", {}):
                return msgspec.convert(output["data"][BANNER_TYPE], Banner)
    return None


def _clean_banner(banner: Banner | None) -> Banner | None:
    return banner and msgspec.structs.replace(banner, sentence=clean(banner.sentence))


def _blocks(document: Mapping[str, Any]) -> Iterator[Block]:
    for number, cell in enumerate(document["cells"], start=1):
        if cell["cell_type"] == "markdown":
            text = clean(source_of(cell))
            yield Block(kind="markup", markup=_markdown(links=True).render(text))
        elif cell["cell_type"] == "code" and "injected-parameters" not in tags_of(cell):
            source = clean(source_of(cell))
            if source.strip():
                yield Block(kind="code", text=source, number=number)
            for output in cell.get("outputs", []):
                yield from _output(output, number)


def _output(output: Mapping[str, Any], number: int) -> Iterator[Block]:
    kind = output.get("output_type")
    if kind == "stream":
        text = clean(_joined(output.get("text", "")))
        yield Block(
            kind="notes" if output.get("name") == "stderr" else "text", text=text, number=number
        )
    elif kind == "error":
        yield Block(kind="text", text=clean(f"{output.get('ename')}: {output.get('evalue')}"))
    elif BANNER_TYPE not in output.get("data", {}):
        yield from _shown(output.get("data", {}))


def _shown(data: Mapping[str, Any]) -> Iterator[Block]:
    """Return the richest form of a displayed object that can be trusted."""
    plain = clean(_joined(data.get("text/plain", "")))
    if TABLE_TYPE in data:
        made = msgspec.convert(data[TABLE_TYPE], Table)
        yield Block(kind="markup", markup=made.html())
    elif "image/svg+xml" in data:
        svg = _joined(data["image/svg+xml"]).encode("utf-8", "replace")
        yield Block(kind="image", alt=plain, src=_data_address("image/svg+xml", svg))
    elif "image/png" in data and (png := _png(data["image/png"])):
        yield Block(kind="image", alt=plain, src=_data_address("image/png", png))
    elif "text/markdown" in data:
        text = clean(_joined(data["text/markdown"]))
        yield Block(kind="markup", markup=_markdown(links=False).render(text))
    elif plain:
        yield Block(kind="text", text=plain)


def _png(encoded: Any) -> bytes | None:
    try:
        data = base64.b64decode(_joined(encoded))
    except (binascii.Error, ValueError):
        return None
    return data if data.startswith(_PNG) else None


def _data_address(media_type: str, data: bytes) -> str:
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def _joined(text: Any) -> str:
    return text if isinstance(text, str) else "".join(text)

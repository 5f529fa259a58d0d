"""The page: what hostile text, pictures and tables become, and that nothing is asked of anyone."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notebooks import notebook
from towerkit.core.errors import UsageError
from towerkit.privacy.safe_text import clean, safe_text
from towerkit.report import figures
from towerkit.report.html import render, write_html
from towerkit.report.parameters import read_notebook
from towerkit.report.tables import BANNER_TYPE, TABLE_TYPE, Banner, table

PAYLOADS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "[click](javascript:alert(1))",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "![x](https://example.invalid/pixel.png)",
    "<https://example.invalid/>",
    "[phish](https://example.invalid/)",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \u202egnp.exe\u202c \x00\x08",
    "'; alert(1); //",
    "<!-- --><base href='https://example.invalid/'>",
]

ALLOWED_TAGS = {
    "html",
    "head",
    "meta",
    "link",
    "title",
    "style",
    "body",
    "main",
    "footer",
    "p",
    "strong",
    "em",
    "h1",
    "h2",
    "h3",
    "figure",
    "img",
    "details",
    "summary",
    "pre",
    "code",
    "div",
    "table",
    "caption",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "ul",
    "ol",
    "li",
    "br",
    "hr",
    "blockquote",
}
ALLOWED_ATTRIBUTES = {
    "lang",
    "charset",
    "http-equiv",
    "content",
    "name",
    "rel",
    "href",
    "class",
    "scope",
    "role",
    "src",
    "alt",
    "start",
}


class Reader(HTMLParser):
    """Collects every tag, attribute and the text of a page, as a browser would see them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.shown: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs) -> None:
        """Keep a tag with its attributes."""
        """Keep a tag with its attributes."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        """Keep a piece of text."""
        """Keep a piece of text."""
        self.shown.append(data)


def assert_inert(page: str) -> Reader:
    """Fail unless the page holds only known tags, no handler, and no address but data."""
    reader = Reader(page)
    for tag, attributes in reader.tags:
        assert tag in ALLOWED_TAGS, tag
        assert set(attributes) <= ALLOWED_ATTRIBUTES, (tag, attributes)
        for name in ("src", "href"):
            assert attributes.get(name, "data:").startswith("data:"), attributes
    assert not re.search(r"url\(|@import", page)
    return reader


def page_of(tmp_path, *outputs, title="# A question"):
    """Return the page of a notebook whose last cell has `outputs`."""
    path = notebook(tmp_path / "n.ipynb", "show()", outputs=list(outputs), title=title)
    return render(read_notebook(path))


def shown(**data) -> dict:
    """Return a display output of the given media types."""
    names = {
        "svg": "image/svg+xml",
        "html": "text/html",
        "plain": "text/plain",
        "markdown": "text/markdown",
        "png": "image/png",
        "script": "application/javascript",
    }
    return {
        "output_type": "display_data",
        "metadata": {},
        "data": {names.get(k, k): v for k, v in data.items()},
    }


@pytest.mark.parametrize("evil", PAYLOADS)
def test_hostile_text_is_inert_wherever_it_stands(tmp_path, evil) -> None:
    """A payload in a heading, markdown, text, table, banner, alt text, stream or error is text."""
    figure = figures.errors_by_class([{"error_class": evil, "count": 2}])
    made = table([{"x": evil}], {"x": (evil, "text")}, caption=evil)
    outputs = [
        shown(markdown=f"**{evil}**", plain=evil),
        shown(plain=evil),
        shown(html=evil, plain=evil),
        shown(script="alert(1)", plain=evil),
        shown(**made._repr_mimebundle_()),
        shown(**figure._repr_mimebundle_()[0]),
        shown(**Banner(verdict="HOLD", sentence=evil)._repr_mimebundle_()),
        {"output_type": "stream", "name": "stdout", "text": evil},
        {"output_type": "stream", "name": "stderr", "text": [evil, evil]},
        {"output_type": "error", "ename": "E", "evalue": evil, "traceback": [evil]},
    ]
    page = page_of(tmp_path, *outputs, title=f"# {safe_text(evil, limit=200)}")
    authored_links = re.compile(r'<a href="https://example[.]invalid/[^"]*">|</a>')
    reader = assert_inert(authored_links.sub("", page))
    text = "".join(reader.shown)
    assert "alert(1)" in text or "alert" not in evil
    assert "{{ 7 * 7 }}" in text or "7 * 7" not in evil
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]", page)


def test_links_are_text_in_outputs_and_links_in_authored_cells(tmp_path) -> None:
    """What a run said cannot send the reader anywhere; what the author wrote can."""
    link = "[text](https://example.invalid/)"
    page = page_of(tmp_path, shown(markdown=link), title=f"# T\n{link} [x](javascript:alert(1))")
    assert page.count("<a href=") == 1


def test_a_script_in_a_picture_cannot_run(tmp_path) -> None:
    """An SVG with a script is shown as an image from a data address, where scripts do not run."""
    evil = "<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'><script>alert(1)</script>"
    page = page_of(tmp_path, shown(svg=evil, plain='alt "text"'))
    reader = assert_inert(page)
    image = next(a for t, a in reader.tags if t == "img")
    assert image["alt"] == 'alt "text"'
    assert base64.b64decode(image["src"].partition(",")[2]).decode() == evil


def test_a_file_that_only_says_it_is_a_png_is_not_shown(tmp_path) -> None:
    """A picture's bytes must be what its type says."""
    page = page_of(tmp_path, shown(png=base64.b64encode(b"<svg/>").decode(), plain="a plot"))
    assert "<img" not in page
    assert "a plot" in page


def test_the_policy_allows_neither_scripts_nor_requests(tmp_path) -> None:
    """The page forbids by its own policy what it does not contain."""
    page = page_of(tmp_path)
    policy = next(a["content"] for t, a in Reader(page).tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "<script" not in page.lower()


def test_a_banner_stands_on_top_with_its_verdict(tmp_path) -> None:
    """The verdict a cell shows is the first thing on the page, once."""
    banner = Banner(verdict="FAIL", sentence="two rules fail")
    page = page_of(tmp_path, shown(**banner._repr_mimebundle_()))
    body = page.split("<main>")[1]
    assert body.strip().startswith('<p class="banner FAIL"')
    assert body.count("two rules fail") == 1


def test_the_page_names_its_source_and_parameters(tmp_path) -> None:
    """Notebook, digest and escaped parameter values are on the page."""
    path = notebook(tmp_path / "n.ipynb", "1")
    document = read_notebook(path)
    document["metadata"]["towerkit"] = {
        "notebook": "n.ipynb",
        "sha256": "ab" * 32,
        "parameters": {"store": "<b>x</b>", "n": 3},
    }
    page = render(document)
    assert "ab" * 32 in page
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert_inert(page)


def test_of_a_path_only_its_end_is_on_the_page(tmp_path) -> None:
    """A page that is passed on does not tell how the disk of its maker is laid out."""
    document = read_notebook(notebook(tmp_path / "n.ipynb", "1"))
    document["metadata"]["towerkit"] = {"parameters": {"store": "/home/someone/store"}}
    assert "…/store" in render(document)
    assert "someone" not in render(document)


def test_the_page_is_written_whole(tmp_path) -> None:
    """The file holds the complete page and no temporary is left."""
    path = notebook(tmp_path / "n.ipynb", "1")
    written = write_html(path, tmp_path / "out" / "n.html", title="T")
    assert written.read_text().rstrip().endswith("</html>")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["n.html"]


@given(st.text(), st.text())
def test_any_text_is_inert(text, cell) -> None:
    """Whatever text a cell shows, no tag and no attribute beyond the page's own appear."""
    made = table([{"x": cell}], {"x": ("x", "text")})
    document = {
        "metadata": {},
        "cells": [
            {
                "cell_type": "code",
                "source": text,
                "metadata": {},
                "outputs": [
                    shown(markdown=text),
                    shown(plain=text),
                    shown(
                        **{
                            TABLE_TYPE: {
                                "caption": "",
                                "headings": ["x"],
                                "aligns": ["left"],
                                "rows": list(made.rows),
                            }
                        }
                    ),
                ],
            }
        ],
    }
    assert_inert(render(document))


@given(st.text())
def test_cleaning_twice_is_cleaning_once(text) -> None:
    """`clean` leaves nothing that it would remove, and keeps what is plain."""
    assert clean(clean(text)) == clean(text)
    assert clean("Grüße\t→ 你好 👩‍👧\n") == "Grüße\t→ 你好 👩‍👧\n"


def test_a_table_formats_numbers_and_shows_the_unknown_as_a_dash() -> None:
    """Each format gives the text a reader expects; None is a dash and never a zero."""
    row = {"a": 0.12345, "b": 1234567, "c": None, "d": 0.00000001, "e": 1.5, "f": True, "g": -0.05}
    made = table(
        [row],
        {
            "a": ("a", "share"),
            "b": ("b", "count"),
            "c": ("c", "usd"),
            "d": ("d", "p"),
            "e": ("e", "usd"),
            "f": ("f", "mark"),
            "g": ("g", "points"),
            "h": ("h", "number"),
        },
    )
    assert made.rows == (("12.3%", "1,234,567", "–", "< 0.0001", "$1.5000", "yes", "-5.0", "–"),)
    assert made.aligns[0] == "right"
    with pytest.raises(UsageError, match="expected a format of text"):
        table([], {"a": ("a", "money")})


def test_a_table_shows_itself_in_a_notebook() -> None:
    """Jupyter gets escaped HTML, the page gets cells, a terminal gets lines."""
    bundle = table([{"x": "<b>"}], {"x": ("head", "text")})._repr_mimebundle_()
    assert "&lt;b&gt;" in bundle["text/html"]
    assert bundle[TABLE_TYPE]["rows"] == (("<b>",),)
    assert bundle["text/plain"] == "head\n<b>"
    assert BANNER_TYPE not in bundle

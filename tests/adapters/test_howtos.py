"""The how-to pages of the adapters do what they say."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from towerkit.packs.store import Store

ROOT = Path(__file__).resolve().parents[2]

# Page -> what its block prints, as far as it is the same each time.
PRINTS = {
    "decorators": ["It was sent on Monday.", "2 requests"],
    "langgraph": ["order 7 was sent", "['run', 'step', 'call', 'attempt']"],
    "pydantic-ai": ["was sent on Monday", "'chat test'", "'execute_tool look_up'"],
    "mcp": ["order 7 was sent on Monday", "'execute_tool look_up'"],
}


@pytest.mark.parametrize("page", sorted(PRINTS))
def test_the_block_of_a_page_runs_as_it_stands(tmp_path, monkeypatch, page):
    """In an empty folder, from a store of its own, it prints what the page says it prints."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / f"docs/howto/{page}.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {"__name__": "__main__"})
    for said in PRINTS[page]:
        assert said in out.getvalue()
    assert Store(tmp_path / "towerkit-store").packs()

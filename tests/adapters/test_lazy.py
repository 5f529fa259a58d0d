"""An adapter's module is cheap: its framework is imported when it is used."""

from __future__ import annotations

import subprocess
import sys


def test_no_framework_is_imported_before_it_is_used():
    """A fresh interpreter holds the three adapters and none of the three frameworks."""
    code = (
        "import sys\n"
        "import towerkit.adapters.langgraph, towerkit.adapters.mcp, towerkit.adapters.pydantic_ai\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    held = {name.partition(".")[0] for name in done.stdout.split()}
    assert "towerkit" in held
    assert not held & {"langgraph", "langchain_core", "mcp", "pydantic_ai", "pydantic"}

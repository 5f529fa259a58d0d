"""The house holds: one source of time and chance, lazy imports, a documented public API."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import towerkit
from towerkit.packs.tables import PACK_TABLES, SCORES

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "towerkit").rglob("*.py"))
FORBIDDEN = {
    ("time", "time"), ("time", "time_ns"), ("time", "monotonic"), ("time", "perf_counter"),
    ("time", "sleep"), ("uuid", "uuid4"), ("uuid", "uuid1"), ("datetime", "now"),
    ("datetime", "utcnow"), ("datetime", "today"), ("date", "today"), ("os", "urandom"),
}  # fmt: skip
# The environment itself; a key for redaction; what the file system calls old.
MAY = {
    "core/env.py": FORBIDDEN,
    "privacy/keys.py": {("os", "urandom")},
    "packs/writer.py": {("time", "time")},
    "report/runner.py": {("time", "monotonic")},
}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_time_and_chance_come_from_the_environment(path):
    """No module but `core.env` reads a clock, sleeps, or draws a random number or id."""
    allowed = MAY.get(str(path.relative_to(ROOT / "towerkit")), set())
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            assert allowed or not {"random", "secrets", "uuid"} & set(names), path
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in FORBIDDEN - allowed, f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_short_enough_to_hold_one_idea(path):
    """No file over 600 lines, and each begins by saying what it is."""
    text = path.read_text()
    assert text.count("\n") <= 600
    assert text.startswith('"""')


# The doors of text to the outside: what each may call, and nobody else.
DOORS = {
    "cli/base.py": {"echo", "tqdm"},
    "privacy/log.py": {"getLogger"},
    "cli/__init__.py": {"getLogger"},  # says that nobody listens
    "report/runner.py": {"getLogger"},  # papermill's
    "report/tables.py": {"Environment"},
    "report/html.py": {"Environment"},
}
DIRECT = {"print", "pprint", "echo", "secho", "tqdm", "getLogger", "Environment", "write_csv",
          "to_csv", "DictWriter"}  # fmt: skip
READS = {"invoice.py": {"csv"}}  # what comes in as CSV; nothing goes out as it
STREAMS = {"stdout", "stderr", "__stdout__", "__stderr__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_text_goes_out_by_the_doors_only(path):
    """Terminal, log and page have one door each, behind which text is made safe; CSV has none."""
    may = DOORS.get(str(path.relative_to(ROOT / "towerkit")), set())
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = node.func
            name = getattr(called, "id", None) or getattr(called, "attr", None)
            assert name not in DIRECT - may, f"{path}:{node.lineno}: {name}"
            of = getattr(called, "value", None)
            if isinstance(of, ast.Attribute) and of.attr in STREAMS:
                assert called.attr in {"isatty", "fileno", "flush"}, f"{path}:{node.lineno}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {a.name for a in node.names} | {getattr(node, "module", None)}
            assert not ({"csv", "pprint", "rich"} - READS.get(path.name, set())) & modules, path


@pytest.mark.parametrize("name", ["page.html.j2", "tables.py", "html.py"])
def test_pages_escape_what_they_show(name):
    """Templates are rendered with escaping, and none says that something is safe."""
    text = (ROOT / "towerkit/report" / name).read_text()
    assert "|safe" not in text.replace(" ", "")
    assert name == "page.html.j2" or "autoescape=True" in text


def loaded_by(code):
    """Return the names of the modules a fresh interpreter holds after `code`."""
    probe = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("code", ["import towerkit", "import towerkit; towerkit.Tower"])
def test_the_guard_does_not_pay_for_the_notebooks(code):
    """Neither the package nor the guard imports a frame, a plot or a statistics library."""
    heavy = {"polars", "pyarrow", "pandera", "altair", "papermill", "scipy", "numpy", "click",
             "opentelemetry", "genai_prices", "openai", "anthropic", "jinja2", "deltalake",
             "obstore"}  # fmt: skip
    assert not loaded_by(code) & heavy


def test_the_public_api_is_sorted_complete_and_documented():
    """`__all__` is what resolves, each name has a docstring, and an unknown name is an error."""
    assert list(towerkit.__all__) == sorted(towerkit.__all__)
    assert set(towerkit.__all__) == set(towerkit._HOMES)
    for name in towerkit.__all__:
        assert inspect.getdoc(getattr(towerkit, name)), name
    with pytest.raises(AttributeError, match="nope"):
        _ = towerkit.nope
    assert set(towerkit.__all__) <= set(dir(towerkit))


def test_the_locks_pin_with_hashes_and_name_no_host():
    """Every requirement has an exact version and hashes; no address stands in any lock."""
    for lock in (ROOT / "requirements").glob("*.lock"):
        text = lock.read_text()
        assert "://" not in text, lock.name
        starts = [x for x in text.splitlines() if x and not x.startswith((" ", "#"))]
        assert starts
        assert all(re.match(r"[A-Za-z0-9._-]+(\[[\w,-]+\])?==\S+", x) for x in starts), lock.name
        assert text.count("==") <= text.count("--hash=sha256:")


def test_every_column_says_what_it_is():
    """Names are unique, documented, and the salt comes last where there is one."""
    for table in (*PACK_TABLES.values(), SCORES):
        assert len(set(table.names)) == len(table.names)
        assert all(c.doc for c in table.columns)
        assert "salt" not in table.names[:-1]

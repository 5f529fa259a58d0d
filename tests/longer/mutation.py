"""Mutation score of the deciding modules: whether a test notices a changed line.

Run: `python tests/longer/mutation.py [MODULE …]` (about a minute; another module is named like
`cost/budget`). Works on a copy, prints one JSON line, and exits 1 when a mutant survives that is
not in `EQUIVALENT`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MODULES = ("reliability/policy", "reliability/breaker", "reliability/progress")
# Numbers that only have to differ from each other: where they start and how they grow is no matter.
# What is false either way is equivalent too.
EQUIVALENT = {
    'self.shared = ""',
    "self.below = None",
    "self._epoch = 1",
    "self._epoch -= 1",
    "self._epoch += 2",
    "self._numbers = 1",
    "self._numbers -= 1",
    "self._numbers += 2",
}
# Where the tests of a module are, if not in the file of its name.
TESTS = {
    "cost/plan": ("tests/cost/test_plan.py", "tests/cost/test_budget.py"),
    "runtime/budgets": ("tests/runtime/test_budgets.py", "tests/runtime/test_shared_budgets.py"),
}
SETTINGS = """
[tool.mutmut]
paths_to_mutate = {paths}
tests_dir = {tests}
also_copy = ["towerkit", "tests", "data", "notebooks", "pyproject.toml"]
"""


def main(modules: Sequence[str]) -> int:
    """Copy, mutate, test, report."""
    mutmut = Path(sys.executable).with_name("mutmut")
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(scratch) / "copy"
        ignore = shutil.ignore_patterns(".git", ".venv", "towerkit-store", "*_cache", "__pycache__")
        shutil.copytree(ROOT, where, ignore=ignore)
        settings = where / "pyproject.toml"
        text = re.sub(r'addopts = ".*"', 'addopts = "-q -p no:xdist"', settings.read_text())
        paths = [f"towerkit/{m}.py" for m in modules]
        tests = [
            t for m in modules for t in TESTS.get(m, (f"tests/{m.replace('/', '/test_')}.py",))
        ]
        settings.write_text(
            text + SETTINGS.format(paths=json.dumps(paths), tests=json.dumps(tests))
        )

        def run(*args: str) -> str:
            command = [str(mutmut), *args]
            done = subprocess.run(command, cwd=where, capture_output=True, text=True, check=False)
            return done.stdout

        total = int(re.findall(r"(\d+)/\1 ", run("run", "--max-children", "2"))[-1])
        survivors = {}
        for line in run("results").splitlines():
            name = line.strip().partition(":")[0]
            changed = re.findall(r"^\+ +(.*\S)", run("show", name), re.MULTILINE) if name else []
            if changed:
                survivors[name] = changed[0]
    left = {n: c for n, c in survivors.items() if c not in EQUIVALENT}
    equivalent = len(survivors) - len(left)
    line = {"mutation": list(modules), "mutants": total, "killed": total - len(survivors),
            "equivalent": equivalent, "survived": left}  # fmt: skip
    print(json.dumps(line))
    return 1 if left or total == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or MODULES))

"""The strict runner: what it refuses, and that it leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from notebooks import notebook
from towerkit.core.errors import NotebookError, UsageError
from towerkit.report.parameters import from_text, parameters_of
from towerkit.report.runner import execute, kernel_environment


def kernels_of(folder: Path) -> list[int]:
    """Return the processes whose environment or command names `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                seen = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in seen:
                found.append(int(entry.name))
    return found


@pytest.fixture
def work(tmp_path, monkeypatch):
    """Return a folder that every kernel of the test carries in its environment."""
    monkeypatch.setenv("TOWERKIT_TEST_FOLDER", str(tmp_path))
    return tmp_path


def outputs(path: Path) -> str:
    """Return the text all cells of an executed notebook printed."""
    cells = json.loads(path.read_text())["cells"]
    return "".join("".join(o.get("text", "")) for c in cells for o in c.get("outputs", []))


def test_parameters_arrive_with_their_types(work) -> None:
    """Given values replace the defaults, others keep them, and the copy records both."""
    path = notebook(work / "n.ipynb", "print([count, name, share, fast])")
    done = execute(path, {"count": 3, "name": "ü\"'\n"}, output=work / "out" / "n.ipynb")
    assert outputs(done.path).strip() == str([3, "ü\"'\n", 0.5, False])
    assert done.parameters == {"count": 3, "name": "ü\"'\n", "share": 0.5, "fast": False}
    metadata = json.loads(done.path.read_text())["metadata"]
    assert metadata["towerkit"]["parameters"] == done.parameters
    assert kernels_of(work) == []


def test_two_executions_give_the_same_copy(work) -> None:
    """The executed copy carries no time, path or process of the machine."""
    path = notebook(work / "n.ipynb", "print(count)")
    copies = [execute(path, {}, output=work / f"{i}.ipynb").path.read_bytes() for i in range(2)]
    assert copies[0] == copies[1]
    assert str(work).encode() not in copies[0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cuont": 1}, "has no parameter 'cuont'; it has: count, name, share, fast"),
        ({"count": "3"}, "expected parameter count as int, got str"),
        ({"count": True}, "expected parameter count as int, got bool"),
        ({"count": None}, "expected parameter count as int, got NoneType"),
        ({"share": float("nan")}, "expected parameter share as float"),
        ({"count=1;import os;os._exit(3)#": 1}, "expected a Python name as parameter"),
        ({"class": 1}, "expected a Python name as parameter"),
    ],
)
def test_parameters_that_are_not_declared_are_refused(work, given, said) -> None:
    """An unknown name, a wrong type and code in a name never reach a kernel."""
    with pytest.raises(UsageError, match=said):
        execute(notebook(work / "n.ipynb", "1"), given, output=work / "out.ipynb")
    assert not (work / "out.ipynb").exists()


def test_a_value_cannot_become_code(work) -> None:
    """A string full of quotes, escapes and newlines arrives as that string."""
    path = notebook(work / "n.ipynb", "print(ascii(name))")
    evil = "\"\"\"'''\\\n__import__('os')._exit(3) #\u2028{name}%(x)s"
    assert outputs(execute(path, {"name": evil}, output=work / "o.ipynb").path).strip() == ascii(
        evil
    )


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (None, "expected one code cell tagged `parameters`, got 0"),
        ("import os", "got 'import os'"),
        ("x = 1", "got 'x = 1'"),
        ("x: int = open('f')", 'got "x: int = open'),
        ("x: int = 'text'", "got \"x: int = 'text'\""),
        ("x: list = 1", "got 'x: list = 1'"),
        ("x: int =", "no Python"),
    ],
)
def test_a_notebook_must_declare_its_parameters(work, parameters, said) -> None:
    """No tagged cell, statements, missing types and computed defaults are refused."""
    path = notebook(work / "n.ipynb", "1", parameters=parameters)
    with pytest.raises(NotebookError, match=said):
        execute(path, {}, output=work / "out.ipynb")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read notebook"),
        (b"not json", "not JSON"),
        (b"[]", "not a notebook of format"),
    ],
)
def test_a_file_that_is_no_notebook_is_named(work, content, said) -> None:
    """A missing, broken or foreign file is one sentence with its path."""
    path = work / "odd.ipynb"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NotebookError, match=said) as caught:
        execute(path, {}, output=work / "out.ipynb")
    assert "odd.ipynb" in str(caught.value)


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (("import sys; sys.exit(0)", "assert False"), "cell 3 ended the notebook: SystemExit"),
        (("import sys; sys.exit(0); assert False",), "cell 3 ended the notebook: SystemExit"),
        (("1", "import os; os._exit(0)"), "the kernel died before the last cell"),
        (
            ("1", "def f():\n    raise ValueError('one\\ntwo')\nf()"),
            "cell 4 failed: ValueError: two",
        ),
        (
            ("import os; os.close(0)", "import subprocess\nsubprocess.Popen(['sleep', '60'])\n1/0"),
            "cell 4 failed: ZeroDivisionError",
        ),
    ],
)
def test_a_notebook_that_did_not_run_to_its_end_is_an_error(work, cells, said) -> None:
    """An early exit, a dead kernel and a failing cell are named, and leave no process."""
    path = notebook(work / "n.ipynb", *cells)
    with pytest.raises(NotebookError, match=said) as caught:
        execute(path, {}, output=work / "out.ipynb")
    assert str(caught.value).startswith("n.ipynb: ")
    assert not (work / "out.ipynb").exists()
    assert (work / "out.failed.ipynb").exists()
    assert kernels_of(work) == []


def test_a_cell_that_was_skipped_is_an_error(work) -> None:
    """A cell that a tag makes papermill skip is refused though nothing failed."""
    path = notebook(work / "n.ipynb", "1", "assert False")
    document = json.loads(path.read_text())
    document["cells"][3]["metadata"]["tags"] = ["skip-execution"]
    path.write_text(json.dumps(document))
    with pytest.raises(NotebookError, match="cell 4 was not executed"):
        execute(path, {}, output=work / "out.ipynb")


def test_the_time_is_up_for_the_whole_notebook(work) -> None:
    """Cells share one time limit; the kernel and what it started are gone."""
    path = notebook(
        work / "n.ipynb",
        "import time; time.sleep(0.7)",
        "import subprocess; subprocess.run(['sleep', '60'])",
    )
    with pytest.raises(NotebookError, match=r"not finished after 1\.5 s"):
        execute(path, {}, output=work / "out.ipynb", timeout_s=1.5)
    assert kernels_of(work) == []


@pytest.mark.parametrize("wait_for", ["started", "cell"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_runner_leaves_no_kernel(work, number, wait_for) -> None:
    """Neither Ctrl-C nor a kill of the runner leaves a kernel, in start-up or in a cell."""
    mark = work / "mark"
    path = notebook(
        work / "n.ipynb", f"open({str(mark)!r}, 'w').close()", "import time; time.sleep(60)"
    )
    code = (
        "import sys; from pathlib import Path; from towerkit.report.runner import execute; "
        "execute(Path(sys.argv[1]), {}, output=Path(sys.argv[2]))"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", code, path, work / "out.ipynb"], stderr=subprocess.PIPE
    )

    def waiting() -> bool:
        if wait_for == "cell":
            return not mark.exists()
        return len([p for p in kernels_of(work) if p != runner.pid]) < 1

    wait_until(lambda: not waiting(), 30)
    runner.send_signal(number)
    _, said = runner.communicate(timeout=30)
    assert runner.returncode != 0
    if number == signal.SIGINT:
        assert b"KeyboardInterrupt" in said
        assert kernels_of(work) == []
    wait_until(lambda: kernels_of(work) == [], 5)


def wait_until(holds, limit_s: float) -> None:
    """Poll `holds` until it does; fail after about `limit_s` seconds."""
    for _ in range(int(limit_s / 0.02)):
        if holds():
            return
        time.sleep(0.02)
    pytest.fail(f"still not so after {limit_s} s")


def test_the_kernel_sees_an_allow_list_of_the_environment(work, monkeypatch) -> None:
    """Keys, tokens and everything unlisted stay out; the tower's own settings pass."""
    for name in (
        "OPENAI_API_KEY",
        "TOWERKIT_SIGNING_KEY",
        "JUPYTER_TOKEN",
        "AWS_PROFILE",
        "TOWERKIT_DB_PASSWORD",
        "PYTHONSTARTUP",
    ):
        monkeypatch.setenv(name, "canary")
    monkeypatch.setenv("TOWERKIT_STORE", "kept")
    monkeypatch.setenv("HOME", "")
    seen = kernel_environment(work)
    assert "canary" not in seen.values()
    assert (seen["TOWERKIT_STORE"], seen["HOME"]) == ("kept", str(work))


def test_no_home_and_no_kernelspec_are_needed(work) -> None:
    """A process with an empty environment runs a notebook and writes nothing in its HOME."""
    home = work / "home"
    home.mkdir()
    path = notebook(work / "n.ipynb", "print('ran')")
    code = (
        "import sys; from pathlib import Path; from towerkit.report.runner import execute; "
        "execute(Path(sys.argv[1]), {}, output=Path(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, work / "out.ipynb"],
        capture_output=True,
        check=True,
        env={"HOME": str(home), "JUPYTER_PATH": str(work / "none"), "PATH": ""},
    )
    assert (outputs(work / "out.ipynb"), done.stderr) == ("ran\n", b"")
    assert list(home.iterdir()) == []


def test_a_copy_that_cannot_be_written_is_one_sentence(work) -> None:
    """An output folder that is a file is named, with the reason."""
    (work / "file").write_text("")
    path = notebook(work / "n.ipynb", "1")
    with pytest.raises(NotebookError, match="cannot write"):
        execute(path, {}, output=work / "file" / "out.ipynb")


def test_text_is_read_as_the_declared_type(work) -> None:
    """Values from a command line become what the notebook declares, or are refused."""
    path = notebook(
        work / "n.ipynb",
        "1",
        parameters="a: int = 1\nb: bool = True\nc: str = ''\nd: float | None = None\n"
        "e: float = -1.5",
    )
    given = {"a": "7", "b": "false", "c": "x=y", "d": "none", "e": "2"}
    assert from_text(path, given) == {"a": 7, "b": False, "c": "x=y", "d": None, "e": 2.0}
    assert parameters_of(path)["e"].default == -1.5
    for wrong, said in (
        ({"a": "x"}, "as int"),
        ({"z": "1"}, "no parameter"),
        ({"e": "inf"}, "as float"),
        ({"b": "1"}, "as bool"),
    ):
        with pytest.raises(UsageError, match=said):
            from_text(path, wrong)

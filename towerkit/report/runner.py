"""The strict runner: papermill, without what papermill lets pass.

Rule: a notebook that was not run to its end, with exactly the parameters it declares, is an error.
Values travel as JSON in one file; the cell that is injected is constant text, so nothing that is
given can become code. The kernel sees an allow-list of the environment, writes nothing under HOME,
and is gone when `execute` returns, however it returns.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.canonical import sha256_hex
from towerkit.core.env import SystemEnv
from towerkit.core.errors import NotebookError
from towerkit.privacy.safe_text import safe_text
from towerkit.report.parameters import (
    FILE_VARIABLE,
    check_parameters,
    parameters_cell,
    read_notebook,
    source_of,
)

INJECTED = (
    "# Inserted by the runner: the values are in this notebook's metadata.\n"
    "from towerkit.report.parameters import load_parameters\n"
    "\n"
    "globals().update(load_parameters())"
)

_ALLOWED = {"PATH", "HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"}
_ALLOWED_PREFIXES = ("LC_", "PYTHON", "TOWERKIT_", "JUPYTER", "POLARS_")
# Secrets, and start-up code of the user's own shells.
_REFUSED_WORDS = ("KEY", "SECRET", "TOKEN", "PASSW", "CREDENTIAL", "STARTUP")

# Longer paths do not fit into the address of a Unix socket (108 bytes with the suffix).
_SOCKET_PATH_LIMIT = 90


class Executed(msgspec.Struct, frozen=True, kw_only=True):
    """A notebook that ran to its end."""

    notebook: str
    path: Path
    parameters: dict[str, Any]
    cells: int
    duration_s: float


def execute(
    notebook: Path,
    parameters: Mapping[str, Any],
    *,
    output: Path,
    timeout_s: float = 600,
    progress: bool = False,
) -> Executed:
    """Run `notebook` in a kernel of this interpreter and write the executed copy to `output`.

    Raises `UsageError` for parameters the notebook does not declare, `NotebookError` when a cell
    fails, the time is up, or a cell was never run. What ran up to then is kept beside `output` as
    `NAME.failed.ipynb`; `output` itself is written in one step and only on success.
    """
    values = check_parameters(notebook, parameters)
    env = SystemEnv()
    started = env.mono_ns()
    with tempfile.TemporaryDirectory(prefix="towerkit-") as name:
        folder = Path(name)
        prepared, injected_at = _prepare(notebook, values, folder)
        try:
            _run(prepared, folder, timeout_s=timeout_s, progress=progress, env=env)
            document = read_notebook(folder / "executed.ipynb")
            _check_ran(document, notebook.name, injected_at)
        except NotebookError as error:
            failed = _keep_failed(folder / "executed.ipynb", output)
            where = f"; what ran is in {failed}" if failed else ""
            raise NotebookError(f"{notebook.name}: {error}{where}") from error.__cause__
    cells = sum(c["cell_type"] == "code" for c in document["cells"]) - 1
    _write(_without_machine(document), output)
    return Executed(
        notebook=notebook.stem,
        path=output,
        parameters=values,
        cells=cells,
        duration_s=(env.mono_ns() - started) / 1e9,
    )


def _prepare(notebook: Path, values: dict[str, Any], folder: Path) -> tuple[Path, int]:
    """Write the parameters file and the notebook with the injected cell; return path and index."""
    document = read_notebook(notebook)
    at = parameters_cell(document, name=notebook.name) + 1
    injected: dict[str, Any] = {
        "cell_type": "code",
        "execution_count": None,
        "id": "injected-parameters",
        "metadata": {"tags": ["injected-parameters"]},
        "outputs": [],
        "source": INJECTED,
    }
    for cell in document["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
    document["cells"].insert(at, injected)
    document["metadata"]["towerkit"] = {
        "notebook": notebook.name,
        "sha256": sha256_hex(notebook.read_bytes()),
        "parameters": values,
    }
    (folder / "parameters.json").write_text(json.dumps(values), encoding="utf-8")
    path = folder / "prepared.ipynb"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path, at


def _run(prepared: Path, folder: Path, *, timeout_s: float, progress: bool, env: SystemEnv) -> None:
    """Let papermill execute, and turn each way of failing into one sentence."""
    import papermill  # noqa: PLC0415  0.6 s of import: paid by who runs a notebook
    from nbclient.exceptions import CellTimeoutError, DeadKernelError  # noqa: PLC0415

    log = logging.getLogger("papermill")
    if not log.hasHandlers():
        log.addHandler(logging.NullHandler())  # what it warns of is raised here
    managers: list[Any] = []
    deadline = env.mono_ns() + round(timeout_s * 1e9)

    def left(_cell: Any) -> float:
        return max(0.05, (deadline - env.mono_ns()) / 1e9)

    try:
        papermill.execute_notebook(
            prepared,
            folder / "executed.ipynb",
            kernel_name="python3",
            progress_bar=progress,
            kernel_manager_class=_kernel_manager(folder, managers),
            shutdown_kernel="immediate",
            timeout_func=left,
            log_output=False,
        )
    except papermill.PapermillExecutionError as error:
        lines = [line for line in str(error.evalue).splitlines() if line.strip()]
        last = safe_text(lines[-1], limit=300) if lines else ""
        at = _source_index(prepared, error.cell_index)
        raise NotebookError(f"cell {at} failed: {error.ename}: {last}".rstrip(": ")) from error
    except CellTimeoutError as error:
        raise NotebookError(f"not finished after {timeout_s:g} s, stopped") from error
    except DeadKernelError as error:
        raise NotebookError("the kernel died before the last cell") from error
    except RuntimeError as error:
        # nbclient has no class of its own for a kernel that does not start.
        raise NotebookError(f"the kernel did not start: {safe_text(error, limit=300)}") from error
    finally:
        # nbclient cleans up after itself, but not after an interrupt while the kernel starts.
        for manager in managers:
            manager.kill_group()


def _source_index(prepared: Path, index: int) -> int:
    """Return the number, from 1, a cell of the prepared notebook has in its source."""
    cells = read_notebook(prepared)["cells"]
    return sum(c.get("id") != "injected-parameters" for c in cells[: index + 1])


def _kernel_manager(folder: Path, made: list[Any]) -> type:
    """Return a kernel manager class for this interpreter: no installed kernelspec is needed.

    Every manager it makes is added to `made`.
    """
    from jupyter_client.kernelspec import KernelSpec  # noqa: PLC0415
    from jupyter_client.manager import AsyncKernelManager  # noqa: PLC0415

    socket = folder / "kernel.json"

    class Manager(AsyncKernelManager):
        def __init__(self, **options: Any) -> None:
            transport = "ipc" if len(str(socket)) < _SOCKET_PATH_LIMIT else "tcp"
            super().__init__(**options, connection_file=str(socket), transport=transport)
            made.append(self)

        @property
        def kernel_spec(self) -> KernelSpec:
            command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
            return KernelSpec(argv=command, display_name="Python 3", language="python")

        async def _async_pre_start_kernel(self, **options: Any) -> Any:
            options["env"] = kernel_environment(folder)
            return await super()._async_pre_start_kernel(**options)

        pre_start_kernel = _async_pre_start_kernel

        async def _async_shutdown_kernel(self, now: bool = False, restart: bool = False) -> None:  # noqa: FBT001, FBT002  jupyter_client's signature
            self.kill_group()
            await super()._async_shutdown_kernel(now=now, restart=restart)

        shutdown_kernel = _async_shutdown_kernel

        def kill_group(self) -> None:
            """Kill the kernel and what it started: it leads a process group of its own."""
            process = getattr(self.provisioner, "process", None)
            if process is not None and process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    return Manager


def kernel_environment(folder: Path) -> dict[str, str]:
    """Return what a kernel sees of the environment: the allow-list, no secrets, its own folders."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if value
        and (name in _ALLOWED or name.startswith(_ALLOWED_PREFIXES))
        and not any(word in name.upper() for word in _REFUSED_WORDS)
    }
    own = {f"JUPYTER_{kind}_DIR": str(folder / "jupyter") for kind in ("CONFIG", "DATA", "RUNTIME")}
    return {
        "HOME": str(folder),
        **kept,
        **own,
        "IPYTHONDIR": str(folder / "ipython"),  # no start-up files, no history of anyone's
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        FILE_VARIABLE: str(folder / "parameters.json"),
    }


def _check_ran(document: Mapping[str, Any], name: str, injected_at: int) -> None:
    """Raise when a cell that holds code was not run: papermill calls `sys.exit(0)` a success."""
    for i, cell in enumerate(document["cells"]):
        if cell["cell_type"] != "code" or not source_of(cell).strip():
            continue
        number = i + (i < injected_at)
        exits = [o for o in cell["outputs"] if o.get("output_type") == "error"]
        if exits:
            raise NotebookError(f"cell {number} ended the notebook: {exits[0].get('ename')}")
        if cell.get("execution_count") is None:
            raise NotebookError(f"cell {number} was not executed: something ended {name} early")


def _without_machine(document: dict[str, Any]) -> dict[str, Any]:
    """Return the executed notebook without paths and times of the machine that ran it.

    What was asked, printed or raised is redacted: it may repeat an argument, or what a file says.
    """
    clean = copy.deepcopy(document)
    for part in (clean, *clean["cells"]):
        for name in ("papermill", "execution"):
            part["metadata"].pop(name, None)
    clean["metadata"] = _redacted(clean["metadata"])
    for cell in clean["cells"]:
        for i, output in enumerate(cell.get("outputs", ())):
            if output["output_type"] in {"error", "stream"}:
                cell["outputs"][i] = _redacted(output)
    return clean


def _redacted(value: Any) -> Any:
    """Return what JSON says with its strings redacted; names of fields stay."""
    from towerkit.privacy.keys import log_redactor  # noqa: PLC0415  a kernel imports us without it

    if isinstance(value, str):
        return log_redactor().text(value, alone=False)
    if isinstance(value, dict):
        return {key: _redacted(inner) for key, inner in value.items()}
    return [_redacted(inner) for inner in value] if isinstance(value, list) else value


def _keep_failed(executed: Path, output: Path) -> Path | None:
    if not executed.exists():
        return None
    kept = output.with_name(f"{output.stem}.failed.ipynb")
    _write(_without_machine(read_notebook(executed)), kept)
    return kept


def _write(document: Mapping[str, Any], path: Path) -> None:
    write_text(path, json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` in one step: a reader sees the old file or the whole new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise NotebookError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary.exists():
            temporary.unlink()

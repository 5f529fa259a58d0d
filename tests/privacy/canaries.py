"""Unique values of every class, where they must not be afterwards, and in which spellings.

Rule: a value is looked for in every byte that a run, its export or a view of it left: as it is, and
URL-encoded, escaped for JSON and HTML, in base64 at each alignment, hexadecimal, UTF-16, and
without its separators.
"""

from __future__ import annotations

import base64
import html
import json
import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import re2

from tests.privacy.instances import CLASSES
from tests.privacy.planting import HEADER, PATHS
from towerkit.core.errors import NotebookError
from towerkit.packs.store import Store
from towerkit.runtime.tower import Tower

REPOSITORY = Path(__file__).resolve().parents[2]


def planted(seed: int) -> dict[str, tuple[str, str]]:
    """Return a value of each class, and the text that it stands in."""
    r, out = random.Random(seed), {}
    for name, (make, word) in CLASSES.items():
        value = make(r)
        tail = "db.example/x" if name == "URL_PASSWORD" else ""
        out[name] = (value, f"{word}{value}{tail}")
    return out


def prints(value: str) -> set[bytes]:
    """Return what of a value must be in no byte: as it is and as it may be written."""
    line = max(value.strip().split("\n"), key=len)  # of a key in lines, its longest
    data, quoted = line.encode(), quote(line, safe="")
    apart = "".join(c for c in line if c.isalnum())
    texts = {line, quoted, quoted.lower(), quote(line), html.escape(line), json.dumps(line)[1:-1],
             line.lower(), data.hex(), data.hex().upper()}  # fmt: skip
    texts |= {apart} if len(apart) >= 9 and any(c.isdigit() for c in apart) else set()
    forms = {text.encode() for text in texts} | {line.encode("utf-16-le"), line.encode("utf-16-be")}
    for n, first in ((0, 0), (1, 2), (2, 3)):
        blob = base64.b64encode(b"\0" * n + data)[first : (len(data) + n) // 3 * 4]
        forms |= {blob, blob.replace(b"+", b"-").replace(b"/", b"_")}
    return {form for form in forms if len(form) >= 7}


class Search:
    """Looks for all values in all spellings at once."""

    def __init__(self, values: Iterable[tuple[str, str]]) -> None:
        """`values` are names and what must not be found; an opaque header's value is one more."""
        self._of = {
            form: name for name, value in (*values, ("header", HEADER)) for form in prints(value)
        }
        options = re2.Options()
        options.max_mem = 1 << 30
        options.encoding = re2.Options.Encoding.LATIN1
        self._found = re2.compile(
            b"|".join(re2.escape(form) for form in self._of), options=options
        ).finditer

    def __call__(self, sink: str, data: bytes) -> list[str]:
        """Return what was found in a sink, each with what stands around it."""
        return [
            f"{self._of[m.group()]} in {sink}: {data[max(0, m.start() - 60) : m.end() + 20]!r}"
            for m in self._found(data)
        ]


# -- sinks -----------------------------------------------------------------------------------------


def files(root: Path) -> bytes:
    """Return every byte below a folder: what files hold, and what they are called."""
    found = sorted(root.rglob("*"))
    held = [path.read_bytes() for path in found if path.is_file()]
    return b"\n".join([*held, *(str(path.relative_to(root)).encode() for path in found)])


def columns(store: Store) -> bytes:
    """Return what the packs' columns decode to, content too."""
    out = []
    for pack in store.packs():  # waits until every run is sealed
        frames = [pack.frame(t) for t in ("spans", "costs", "inputs", "content")]
        out += [json.dumps(frame.to_dicts(), default=_shown).encode() for frame in frames]
        out += [str(pack.content(digest)).encode() for digest in frames[-1]["digest"]]
    return b"\n".join(out)


def _shown(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class Exporter:
    """Takes spans as a backend would: each export as the bytes of the wire."""

    def __init__(self) -> None:
        """Nothing was exported yet."""
        self.data: list[bytes] = []

    def export(self, spans: Sequence[Any]) -> Any:
        """Keep the bytes, and what they spell."""
        from google.protobuf.json_format import MessageToJson
        from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
        from opentelemetry.sdk.trace.export import SpanExportResult

        made = encode_spans(spans)
        self.data += [made.SerializeToString(), MessageToJson(made, ensure_ascii=False).encode()]
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Nothing is open."""

    def force_flush(self, timeout_millis: int = 0) -> bool:
        """Nothing waits."""
        return True


class Logged(logging.Handler):
    """Every record of the process's own loggers, formatted with its traceback."""

    def __init__(self) -> None:
        """Take everything."""
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what a log file would have."""
        self.lines.append(self.format(record))

    def __enter__(self) -> Self:
        log = logging.getLogger("towerkit")
        log.addHandler(self)
        self._level, _ = log.level, log.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *_: object) -> None:
        log = logging.getLogger("towerkit")
        log.removeHandler(self)
        log.setLevel(self._level)

    def data(self) -> bytes:
        """Return all of it."""
        return "\n".join(self.lines).encode("utf-8", "surrogatepass")


COMMANDS = (
    ("pack", "ls"), ("pack", "ls", "--json"), ("pack", "lint"), ("pack", "lint", "--json"),
    ("pack", "verify"), ("pack", "verify", "--json"), ("pack", "recover", "--json"),
    ("drift", "--baseline", "release=dev", "--live", "release=dev", "--json"),
)  # fmt: skip


def commands(store: Store) -> bytes:
    """Return what the commands say of a store, of each kind of run once."""
    from click.testing import CliRunner

    from towerkit.cli import cli

    run = [store.packs()[0].run_id] if store.packs() else []
    shows = [("pack", "show", r, *j) for r in run for j in ((), ("--json",))]
    replays = [("replay", r, *j) for r in run for j in ((), ("--json",))]
    out = []
    for command in (*COMMANDS, *shows, *replays):
        done = CliRunner().invoke(cli, [*command, "--store", str(store.root)])
        out += [done.output, str(done.exception or "")]
    return "\n".join(out).encode()


def filters(texts: Iterable[str]) -> bytes:
    """Return what the commands answer that read texts on standard input, and how they complain."""
    from click.testing import CliRunner

    from towerkit.cli import cli

    lines = "\n".join(json.dumps({"text": text}) for text in texts)
    wrong = "\n".join(json.dumps({"txt": text, "text": [text]}) for text in texts)
    runner = CliRunner()
    return "\n".join(
        runner.invoke(cli, ["redact"], input=given).output for given in (lines, wrong)
    ).encode()


def notebooks(store: Store, out: Path) -> bytes:
    """Return every byte of the executed notebooks, their pages and their results."""
    from towerkit.report import run_notebook

    of, run = {"store": str(store.root)}, store.packs()[0].run_id
    given = {
        "rca": {**of, "selection": "release=dev"}, "replay": {**of, "run_id": run},
        "drift": {**of, "baseline": "release=dev", "live": "release=dev"},
        "gate": {**of, "candidate": "release=dev", "rules": "release", "run_id": run},
    }  # fmt: skip
    said = []
    for name, parameters in given.items():
        try:
            run_notebook(name, parameters, out_dir=out)
        except NotebookError as error:  # a run that cannot be replayed: its failed copy counts too
            said.append(str(error))
    return "\n".join(said).encode() + files(out)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, os.getcwd())
from tests.privacy import planting
from tests.privacy.canaries import planted
text = planted(int(sys.argv[2]))[sys.argv[3]][1]
tower = planting.tower_at(sys.argv[1])
with tower.run("agent", task=text) as run:
    run.model(planting.asked(text))
    run.tool(lambda note: note, {"note": text}, idempotent=True, name="echo")
    next(run.stream([{"role": "user", "content": f"[4]{text}"}]))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(root: Path, seed: int, name: str) -> bytes:
    """Return the bytes left by a process killed in the middle of a run, and those of its pack."""
    from towerkit.telemetry.recover import recover

    command = [sys.executable, "-c", KILLED, str(root), str(seed), name]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    before = files(root)
    assert b".journal" in before
    assert all(found.pack is not None for found in recover(Store(root), salt_seed=os.urandom(32)))
    return b"\n".join([before, files(root), columns(Store(root)), done.stdout, done.stderr])


def journals(tower: Tower, text: str) -> bytes:
    """Return the journal of a run that is open."""
    from tests.privacy.planting import asked

    tower.store.packs()  # waits: the journals of runs that have ended go meanwhile
    with tower.run("agent", task=text) as run:
        run.model(asked(text))
        list(run.stream(asked(text)))
        held = files(tower.store.root / "journal")
        assert b"towerkit journal" in held
        run.finish(text)
    return held


# -- all of it -------------------------------------------------------------------------------------


def plant(tower: Tower, texts: Sequence[str], paths: Iterable[str] = PATHS) -> None:
    """Put each text on each path."""
    for path in paths:
        for text in texts:
            PATHS[path](tower, text, text)


def grouped(texts: Sequence[str], size: int) -> list[str]:
    """Return the texts, several in one."""
    return ["\n".join(texts[i : i + size]) for i in range(0, len(texts), size)]


def left(tower: Tower, exporter: Exporter, logged: Logged) -> dict[str, bytes]:
    """Return what all is left of the runs of a tower, by sink."""
    assert tower.flush_otel()
    return {
        "OTLP": b"\n".join(exporter.data), "columns": columns(tower.store),
        "files": files(tower.store.root), "commands": commands(tower.store), "log": logged.data(),
    }  # fmt: skip

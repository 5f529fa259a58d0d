"""An optional finder of what has no shape: names, addresses, organisations.

Rule: it runs in a process of its own with a time limit, and fails closed: when it is late, dies or
answers nonsense, the whole field is dropped and counted. What it finds is measured, never promised.

A plug-in is named `module:object`. The object is, or returns when called without arguments, what
has one of

- `find(text)` → spans `(start, end, class)`,
- `analyze(text=…, language="en")` → results with `start`, `end`, `entity_type` (Presidio),
- `predict_entities(text, labels)` → dicts with `start`, `end`, `label` (GLiNER).
"""

from __future__ import annotations

import importlib
import json
import os
import re
import selectors
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from towerkit.core.errors import TowerError, UsageError
from towerkit.privacy.secrets import secrets_of

Spans = list[tuple[int, int, str]]
LABELS = ("person", "address", "organization", "location", "medical condition")
_CLASS = re.compile(r"[A-Z][A-Z0-9_]{1,30}")
_CHUNK = 1 << 16
_METHODS = ("find", "analyze", "predict_entities")


class PlugInFailed(TowerError):
    """The plug-in was late, died, or answered what is no list of spans."""


class Worker:
    """A plug-in in a process of its own. Threads take turns; a process that fails is replaced."""

    def __init__(self, name: str, *, timeout_s: float = 5.0, start_s: float = 60.0) -> None:
        """`name` is `module:object`; `timeout_s` limits one text, `start_s` loading the model."""
        if not re.fullmatch(r"[\w.]+:[\w.]+", name):
            raise UsageError(f"expected a plug-in as module:object, got {name!r}")
        if not timeout_s > 0:
            raise UsageError(f"expected timeout_s as a positive number of seconds, got {timeout_s}")
        self._name, self._timeout_s, self._start_s = name, timeout_s, start_s
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the process behind: another process starts its own."""
        return {"name": self._name, "timeout_s": self._timeout_s, "start_s": self._start_s}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Begin without a process."""
        self._name, self._timeout_s = state["name"], state["timeout_s"]
        self._start_s, self._lock, self._process = state["start_s"], threading.Lock(), None

    def describe(self) -> str:
        """Return what a manifest says of it."""
        return self._name

    def find(self, text: str) -> Spans:
        """Return the spans found in `text`; raise `PlugInFailed`."""
        with self._lock:
            try:
                process = self._process or self._started()
                assert process.stdin is not None  # noqa: S101  it was opened as a pipe
                process.stdin.write(json.dumps(text).encode() + b"\n")
                process.stdin.flush()
                return _checked(self._line(process, self._timeout_s), len(text))
            except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
                self.close()
                raise PlugInFailed(f"{self._name}: {type(error).__name__}") from error

    def _started(self) -> subprocess.Popen[bytes]:
        hidden = set(secrets_of(os.environ))
        self._process = process = subprocess.Popen(  # noqa: S603  the name was checked
            [sys.executable, "-m", "towerkit.privacy.plugin", self._name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={k: v for k, v in os.environ.items() if v not in hidden},
        )  # fmt: skip
        if json.loads(self._line(process, self._start_s)) != "ready":
            raise ValueError("the plug-in did not start")
        return process

    def _line(self, process: subprocess.Popen[bytes], timeout_s: float) -> bytes:
        """Return the next line of the process; raise `TimeoutError` when none comes in time."""
        assert process.stdout is not None  # noqa: S101  it was opened as a pipe
        descriptor, out = process.stdout.fileno(), b""
        with selectors.DefaultSelector() as ready:
            ready.register(descriptor, selectors.EVENT_READ)
            while not out.endswith(b"\n"):
                if not ready.select(timeout_s):
                    raise TimeoutError(f"no answer in {timeout_s} s")
                data = os.read(descriptor, _CHUNK)
                if not data:
                    raise EOFError("the process ended")
                out += data
        return out

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    _close(pipe)


def _close(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:  # what was not written yet cannot be: nobody reads it
        return


def _checked(line: bytes, length: int) -> Spans:
    out: Spans = []
    for start, end, name in json.loads(line):
        if not (0 <= start < end <= length and _CLASS.fullmatch(name)):
            raise ValueError("a span outside the text, or a class that is none")
        out.append((start, end, name))
    return out


def finder(made: Any) -> Callable[[str], Iterator[tuple[int, int, str]]]:
    """Return what finds spans, for any of the three shapes of plug-in."""
    if hasattr(made, "find"):
        return lambda text: ((int(s), int(e), _class(c)) for s, e, c in made.find(text))
    if hasattr(made, "analyze"):
        return lambda text: (
            (r.start, r.end, _class(r.entity_type)) for r in made.analyze(text=text, language="en")
        )
    if hasattr(made, "predict_entities"):
        return lambda text: (
            (r["start"], r["end"], _class(r["label"]))
            for r in made.predict_entities(text, list(LABELS))
        )
    raise UsageError("expected a plug-in with find, analyze or predict_entities")


def _class(name: str) -> str:
    return re.sub(r"[^A-Z0-9]+", "_", str(name).upper()).strip("_")


def _serve(name: str) -> None:
    """Answer lines on standard input until it ends. Prints of the plug-in go nowhere."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    module, _, path = name.partition(":")
    made: Any = importlib.import_module(module)
    for part in path.split("."):
        made = getattr(made, part)
    if isinstance(made, type) or not any(map(made.__class__.__dict__.__contains__, _METHODS)):
        made = made()  # a class or a factory
    find = finder(made)
    answers.write(b'"ready"\n')
    for line in sys.stdin.buffer:
        answers.write(json.dumps(list(find(json.loads(line)))).encode() + b"\n")


if __name__ == "__main__":
    _serve(sys.argv[1])

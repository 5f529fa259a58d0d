"""Every command given a value wherever a user or a file can put one; and all that it says.

Rule: what is looked at is what the process writes: standard output and error through the real
`main`, and the files that it leaves. A command may fail; it may not repeat what it was given.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch


class _Output(io.TextIOWrapper):
    """A stream in memory that stays readable."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)

    def data(self) -> bytes:
        """Return what was written."""
        return self.buffer.getvalue()  # type: ignore[attr-defined]


def said_by(argv: list[str], given: str = "") -> tuple[int, bytes]:
    """Return the exit code of a command, and all it wrote on both streams."""
    from towerkit.cli import main

    out = _Output()
    stdin = io.TextIOWrapper(io.BytesIO(given.encode("utf-8", "surrogatepass")), encoding="utf-8")
    code: Any = 0
    with (
        patch.object(sys, "argv", ["towerkit", *argv]), patch.object(sys, "stdin", stdin),
        redirect_stdout(out), redirect_stderr(out),
    ):  # fmt: skip
        try:
            main()
        except SystemExit as left:
            code = left.code
    return int(code or 0), out.data()


def file_name(text: str) -> str:
    """Return a text as a file can be called."""
    return text.replace("/", "_").replace("\n", " ").encode()[:200].decode("utf-8", "ignore")


def wrong_files(root: Path, text: str) -> dict[str, Path]:
    """Write files that say a text where something else is expected, one a kind that commands read."""
    quoted, line = json.dumps(text), io.StringIO()
    csv.writer(line).writerow(["2026-01-01", text, text, "1"])
    contents = {
        "toml": f"[[rule]]\nname = {quoted}\nmetric = {quoted}\n", "broken.toml": f"{text} = = {text}\n",
        "policy.toml": f"{quoted} = {quoted}\nmax_attempts = {quoted}\n", "json": json.dumps({text: text, "traj": text}),
        "broken.json": f'{{"a": {text}', "jsonl": f"{quoted}\n{{{text}\n", "csv": f"date,model,cost,key\n{line.getvalue()}",
        "faults.toml": f"[[fault]]\ntarget = {quoted}\nat = [1]\nkind = {quoted}\n", "parquet": text,
        "prices.toml": f"[[price]]\nprovider = {quoted}\nmodel = {quoted}\ninput = {quoted}\n",
    }  # fmt: skip
    out = {}
    for kind, content in contents.items():
        path = root / f"{file_name(text)}.{kind}"
        path.write_text(content)
        out[kind] = path
    return out


def planned(root: Path, text: str, store: Path) -> Iterator[tuple[list[str], str]]:
    """Yield commands that meet a text, as arguments and standard input."""
    files, scenario = wrong_files(root, text), ["--scenario", "billing_dispute_resolution"]
    word = text.replace(",", " ")
    for form in ("tau-bench", "tau2", "agentdojo", "openinference", "otlp", word):
        for kind in ("json", "broken.json", "jsonl"):
            yield ["ingest", form, str(files[kind]), "--release", word], ""
    yield ["ingest", "otlp", str(root / f"{file_name(text)}.none")], ""
    yield ["run", "--scenario", text], ""
    for option, value in (
        ("--model", text), ("--faults", str(files["faults.toml"])), ("--ticket", str(files["json"])),
        ("--ticket", str(files["broken.json"])), ("--rules", str(files["toml"])), ("--rules", text),
        ("--faults", text), ("--faults", str(files["broken.toml"])), (f"--{text}", "1"),
    ):  # fmt: skip
        yield ["run", *scenario, option, value, "--trials", "1"], ""
    yield ["chaos", "--scenario", text], ""
    yield ["chaos", *scenario, "--seed", f"{text} x"], ""
    yield ["gate", "--candidate", f"release={word}", "--rules", str(files["toml"])], ""
    yield ["gate", "--candidate", text, "--rules", text], ""
    yield (
        [
            "gate",
            "--candidate",
            "release=dev",
            "--baseline",
            f"release={word}",
            "--rules",
            str(files["broken.toml"]),
        ],
        "",
    )
    yield ["report", text], ""
    for given in (text, f"{text}={text}"):
        yield ["report", "rca", "-p", given], ""
    for given in (text, str(files["parquet"])):
        yield ["drift", "--baseline", given, "--live", "release=dev"], ""
    yield ["drift", "--baseline", "release=dev", "--live", "release=dev", "--columns", text], ""
    for more in (
        [],
        ["--agent", f"{word}:f"],
        ["--inject", f"{text}@1"],
        ["--prompt", str(files["json"])],
    ):
        yield ["replay", text, *more], ""
    yield ["replay", "--all", text], ""
    for kind in ("toml", "policy.toml", "broken.toml"):
        yield ["whatif", "release=dev", "--policy", str(files[kind])], ""
        yield ["whatif", "release=dev", "--search", str(files[kind])], ""
    yield ["whatif", text, "--model", text, "--price-as-of", text], ""
    lines = f"{json.dumps({'provider': text, 'model': text, 'body': {'usage': text}, 'at': text})}\n{text}\n"
    yield ["cost", "price"], lines
    yield ["cost", "price", "--prices", str(files["prices.toml"])], lines
    yield ["cost", "reprice", "--as-of", text], ""
    yield (
        ["cost", "reconcile", str(files["csv"]), "--provider", text, "--columns", f"model={word}"],
        "",
    )
    yield ["cost", "reconcile", str(files["csv"])], ""
    yield ["cost", "show", text], ""
    yield (
        ["errors", "explain"],
        f"{json.dumps({'error': text, 'text': text, 'message': text})}\n{text}\n",
    )
    yield ["errors", "show", text], ""
    for more in ([text], ["--to", str(root / file_name(text))], [f"release={word}"]):
        yield ["pack", "compact", *more], ""
    for command in ("show", "verify", "lint", "ls", "publish"):
        yield ["pack", command, text], ""
    yield ["pack", "verify", "--key", str(files["json"])], ""
    yield ["pack", "redact", "--value", text], ""
    yield ["pack", "redact", "--value", "-", "--class", text], text
    yield ["pack", "keygen", str(files["json"])], ""
    yield [text], ""
    yield ["pack", "ls", "--store", str(root / file_name(text))], ""


def reports_meet(root: Path, text: str, store: Path) -> bytes:
    """Return what the commands write that execute a notebook, given a text: pages and notebooks too."""
    word = text.replace(",", " ")
    asked = (
        ["report", "rca", "-p", f"selection=release={word}"], ["gate", "--candidate", f"release={word}"],
    )  # fmt: skip
    out = [said_by([*argv, "--out", str(root), "--store", str(store)])[1] for argv in asked]
    return b"\n".join([*out, *(path.read_bytes() for path in root.rglob("*") if path.is_file())])


def commands_meet(root: Path, text: str, store: Path) -> bytes:
    """Return all that the commands wrote on both streams after they met a text."""
    root.mkdir(parents=True, exist_ok=True)
    out = []
    for argv, given in planned(root, text, store):
        # A file's or folder's name is the user's own: what is looked at is what is said of it.
        options = [] if "--store" in argv or argv[0] not in _STORED else ["--store", str(store)]
        for form in ([], ["--json"]):
            code, said = said_by([*argv, *options, *form], given)
            if b"internal error" in said:
                raise AssertionError(f"{argv[:2]}: {said[-400:]!r}")
            out.append(b"%s %d\n%s" % (" ".join(argv[:2]).split(text)[0].encode(), code, said))
    return b"\n".join(out)


_STORED = {"run", "gate", "report", "ingest", "replay", "whatif", "pack", "drift"}

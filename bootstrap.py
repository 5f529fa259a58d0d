"""Set towerkit up in `.venv` and run it: the README's two commands.

    python3 bootstrap.py run --scenario billing_dispute_resolution   # any towerkit command
    python3 bootstrap.py test                                        # all checks, as CI runs them

Needs Python 3.11 or newer and nothing else. What is installed is pinned with hashes in
`requirements/`. The environment is made once and again when a lock changes.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
CHECKS = (
    ("ruff", "check", "."),
    ("ruff", "format", "--check", "."),
    ("mypy",),
    ("lint-imports",),
    ("pytest",),
)


def call(*command: str | Path) -> None:
    """Run a command in the repository; stop with its exit code when it fails."""
    done = subprocess.run([str(c) for c in command], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def set_up(lock: str) -> None:
    """Make `.venv` hold exactly what `requirements/<lock>.lock` pins, and this checkout."""
    files = [ROOT / "requirements" / f"{name}.lock" for name in ("installer", lock)]
    wanted = hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()
    stamp = VENV / f"towerkit-{lock}.stamp"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"towerkit: setting up {VENV.name} from requirements/{lock}.lock …", file=sys.stderr)
    call(sys.executable, "-m", "venv", VENV)
    quiet = ("--quiet", "--disable-pip-version-check")
    call(BIN / "python", "-m", "pip", "install", *quiet, "--require-hashes", "-r", files[0])
    install("--require-hashes", "-r", files[1])
    install("--no-deps", "--no-build-isolation", "-e", ROOT)
    stamp.write_text(wanted)


def install(*what: str | Path) -> None:
    """Install with uv; behind a proxy with a certificate of its own, with the system's trust."""
    uv = [str(BIN / "uv"), "pip", "install", "--quiet", "--python", str(BIN / "python")]
    command = [*uv, *map(str, what)]
    first = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if first.returncode:
        second = subprocess.run([*command, "--system-certs"], cwd=ROOT, check=False)
        if second.returncode:
            sys.exit(f"towerkit: the installation failed, at first with:\n{first.stderr}")


def main(arguments: list[str]) -> None:
    """Run the checks for `test`, any other word is towerkit's."""
    if sys.version_info < (3, 11):
        sys.exit(f"towerkit needs Python 3.11 or newer, this is {sys.version.split()[0]}")
    if arguments[:1] == ["test"]:
        set_up("dev")
        os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        for check in CHECKS:
            print(f"towerkit: {' '.join(check)}", file=sys.stderr, flush=True)
            extra = arguments[1:] if check == ("pytest",) else []
            call(BIN / check[0], *check[1:], *extra)
        return
    set_up("run" if not (VENV / "towerkit-dev.stamp").exists() else "dev")
    os.execv(BIN / "towerkit", ["towerkit", *arguments])  # noqa: S606  the process becomes towerkit


if __name__ == "__main__":
    main(sys.argv[1:])

"""Where the redaction key comes from.

Rule: the key lives outside the store; a pack carries its id, never the key. Packs redacted under
one key stay joinable; another key starts a new pseudonym space.
"""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

from towerkit.core.errors import UsageError
from towerkit.privacy.redact import Capture, Redactor
from towerkit.privacy.secrets import secrets_of

# Simulated runs hold invented data only: a public key makes them equal on every machine.
_SIMULATED_KEY = hashlib.sha256(b"towerkit simulated data").digest()


@cache
def _simulated() -> Redactor:
    return Redactor(_SIMULATED_KEY, kid="sim")


def simulated_redactor() -> Redactor:
    """Return the redactor of simulated runs, its key id is `sim`; what they found is shared."""
    return _simulated().of_run()


@cache
def log_redactor() -> Redactor:
    """Return the redactor of what is logged: a key of this process, so nothing joins on a log."""
    return Redactor(os.urandom(32), kid="log", secrets=secrets_of(os.environ))


def local_redactor(*, capture: Capture = "redacted") -> Redactor:
    """Return the redactor of this user: `TOWERKIT_KEY` (64 hexadecimal digits) or a key file.

    It finds the values of this process's environment whose names say that they are secret.
    The file is `~/.config/towerkit/key`, made at first use, readable by its owner only. Where none
    can be kept (no home, a full disk) the key lives as long as the process and its id says so.
    """
    text = os.environ.get("TOWERKIT_KEY")
    if text is not None:
        try:
            key = bytes.fromhex(text)
        except ValueError:
            key = b""
        if len(key) != 32:
            raise UsageError("expected TOWERKIT_KEY as 64 hexadecimal digits: see docs/security.md")
        return _known(key, _kid(key), capture)
    key, kept = _from_file(Path(os.environ.get("HOME") or "/nonexistent") / ".config/towerkit/key")
    return _known(key, _kid(key) if kept else "ephemeral", capture)


def _known(key: bytes, kid: str, capture: Capture) -> Redactor:
    return Redactor(key, kid=kid, capture=capture, secrets=secrets_of(os.environ))


def _kid(key: bytes) -> str:
    return "k" + hashlib.sha256(b"towerkit key id" + key).hexdigest()[:7]


def _from_file(path: Path) -> tuple[bytes, bool]:
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = path.with_name(f"key.{os.getpid()}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(os.urandom(32).hex().encode())
            try:
                os.link(temporary, path)  # two first users at once: one key wins
            except FileExistsError:
                pass
            finally:
                temporary.unlink()
        return bytes.fromhex(path.read_text()), True
    except (OSError, ValueError):
        return os.urandom(32), False

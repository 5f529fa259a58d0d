"""Ed25519 signatures over a pack's root: who sealed it, which no digest says.

Rule: what is signed names what it is for (a domain), so that a signature of something else is never
one of a pack. The private key lives outside the store. `cryptography` is imported where a key is
used and nowhere else; it is the extra `sign`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from towerkit.core.errors import PackError, UsageError

KEY_VARIABLE = "TOWERKIT_SIGNING_KEY"
PACK_DOMAIN = b"towerkit pack root v1\x00"
REDACTION_DOMAIN = b"towerkit pack redactions v1\x00"
FIELDS = frozenset({"algorithm", "key_id", "public_key", "value"})
_HEX64 = re.compile(r"[0-9a-f]{64}")


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ImportError:
        raise UsageError(
            "signatures need the library cryptography: install towerkit[sign]"
        ) from None
    return ed25519


def key_id(public_key: bytes) -> str:
    """Return the short name of a public key: 16 hexadecimal characters of its SHA-256."""
    return hashlib.sha256(b"towerkit signing key" + public_key).hexdigest()[:16]


class Signer:
    """A private key that signs roots; safe to share between threads."""

    def __init__(self, private_key: Any) -> None:
        """Use `private_key`, an Ed25519 key of the library; see `load_signer`."""
        self._private_key = private_key
        self.public_key: bytes = private_key.public_key().public_bytes_raw()

    def sign(self, digest: str, *, domain: bytes = PACK_DOMAIN) -> dict[str, str]:
        """Return the signature of a digest (hexadecimal), as manifests carry it."""
        return {
            "algorithm": "ed25519",
            "key_id": key_id(self.public_key),
            "public_key": self.public_key.hex(),
            "value": self._private_key.sign(domain + bytes.fromhex(digest)).hex(),
        }


def load_signer(path: Path | str, *, store: Path) -> Signer:
    """Return the signer of a private key file (PEM); it must be its owner's and not in `store`."""
    path = Path(path)
    if path.resolve().is_relative_to(store.resolve()):
        raise UsageError(f"expected the signing key outside the store, got {path}: move it")
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(10_000)
    except OSError as error:
        raise UsageError(f"cannot read the signing key {path}: {error.strerror}") from None
    if mode & 0o077:
        raise UsageError(f"the signing key {path} can be read by others: chmod 600 it")
    return _parsed(text, str(path))


def environment_signer(store: Path) -> Signer | None:
    """Return the signer `TOWERKIT_SIGNING_KEY` names (a file, or the PEM itself), or None."""
    text = os.environ.get(KEY_VARIABLE)
    return _from_variable(text, store) if text else None


@lru_cache(maxsize=4)
def _from_variable(text: str, store: Path) -> Signer:
    if text.lstrip().startswith("-----BEGIN"):
        return _parsed(text.encode(), KEY_VARIABLE)
    return load_signer(text, store=store)


def _parsed(text: bytes, where: str) -> Signer:
    kind = _ed25519().Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_pem_private_key,
    )

    key = None
    with contextlib.suppress(ValueError, TypeError):
        key = load_pem_private_key(text, password=None)
    if not isinstance(key, kind):
        raise UsageError(
            f"{where}: expected an Ed25519 private key as PEM: make one with towerkit pack keygen"
        )
    return Signer(key)


def make_key(path: Path) -> str:
    """Write a new private key to `path`, readable by its owner; return the public one, hex."""
    private = _ed25519().Ed25519PrivateKey.generate()
    from cryptography.hazmat.primitives import serialization as s  # noqa: PLC0415

    pem = private.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write a key to {path}: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    return str(private.public_key().public_bytes_raw().hex())


def public_key_of(text: str) -> bytes:
    """Return the public key of a `--key`: 64 hexadecimal digits, or a file that holds them."""
    given = text.strip()
    if not _HEX64.fullmatch(given):
        try:
            with Path(text).open(encoding="ascii") as file:
                given = file.read(200).strip()
        except (OSError, ValueError):
            given = ""
    if not _HEX64.fullmatch(given):
        raise UsageError(
            f"expected a public key as 64 hexadecimal digits or a file of them, got {text[:80]!r}"
        )
    return bytes.fromhex(given)


def check(
    signature: Mapping[str, Any] | None, digest: str, keys: Iterable[bytes], *,
    domain: bytes = PACK_DOMAIN, what: str = "the pack",
) -> bool:  # fmt: skip
    """Raise `PackError` unless `signature` holds for `digest` under one of `keys`.

    Without keys it must hold under the key it names itself, which says nothing of whose that is;
    then return False, and False too where cryptography is missing. Return True when a key of
    `keys` signed.
    """
    trusted = list(keys)
    if signature is None:
        if trusted:
            raise PackError(f"{what} is not signed, and a key was given to check it with")
        return False
    public = _public_key(signature, what)
    if trusted and public not in trusted:
        raise PackError(f"{what} is signed by another key: {key_id(public)}")
    try:
        kind = _ed25519().Ed25519PublicKey
    except UsageError:
        if trusted:
            raise
        return False
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415

    try:
        key = kind.from_public_bytes(public)
        key.verify(bytes.fromhex(signature["value"]), domain + bytes.fromhex(digest))
    except (InvalidSignature, ValueError):
        raise PackError(f"the signature of {what} does not hold: it was changed") from None
    return bool(trusted)


def _public_key(signature: Mapping[str, Any], what: str) -> bytes:
    values = {k: v if type(v) is str else "" for k, v in signature.items()}
    sound = (
        set(values) == FIELDS
        and values["algorithm"] == "ed25519"
        and _HEX64.fullmatch(values["public_key"])
        and re.fullmatch(r"[0-9a-f]{128}", values["value"])
    )
    public = bytes.fromhex(values["public_key"]) if sound else b""
    if not sound or values["key_id"] != key_id(public):
        raise PackError(f"the signature of {what} is none: it was changed")
    return public

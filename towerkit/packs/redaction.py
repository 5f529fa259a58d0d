"""Removing a value from a sealed pack: the rest still verifies, and what was removed is said.

Rule: a changed row keeps the Merkle leaf it was sealed with, beside the leaf it has now; so table
roots, the pack's root and its signature stay. The row's old salt goes with the value, so that the
leaf it left cannot be used to test guesses. A new folder is written, checked, and exchanged for the
old one, which is then deleted; at every instant there is one whole pack.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from towerkit.core.errors import PackError, StoreError, UsageError
from towerkit.packs.digest import leaf
from towerkit.packs.files import MAX_MANIFEST_BYTES, exchange, read_member, shown
from towerkit.packs.parquet import decode
from towerkit.packs.reader import Pack, open_pack, redactions_digest, rows_of
from towerkit.packs.signing import REDACTION_DOMAIN, Signer
from towerkit.packs.spellings import Spellings
from towerkit.packs.tables import PACK_TABLES, Table
from towerkit.packs.writer import manifest_bytes, sync_folder, write_bytes, write_parquet

SHORTEST, LONGEST = 4, 10_000  # characters; what is shorter stands in too much that is not it
_NAME = re.compile(r"[A-Z][A-Z_]{1,23}")
_NEW, _OLD = "redact.tmp", "redact.old"

Row = tuple[Any, ...]


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """A value to remove, the class it is replaced by, and when; `salts` gives random bytes."""

    value: str
    name: str = "REDACTED"
    at_unix_ns: int
    salts: Callable[[int], bytes]

    @property
    def token(self) -> bytes:
        """What stands in its place: no pseudonym, which a guess could be tested with."""
        return f"<{self.name}:removed>".encode()


def check_removal(removal: Removal) -> None:
    """Raise `UsageError` for what cannot be removed, or not be told from what replaces it."""
    if not _NAME.fullmatch(removal.name):
        raise UsageError(
            f"expected a class such as EMAIL, in capitals, got {shown(removal.name)!r}"
        )
    if not SHORTEST <= len(removal.value) <= LONGEST:
        raise UsageError(
            f"expected a value of {SHORTEST} to {LONGEST} characters, got {len(removal.value)}: "
            "a shorter one stands in too much that is not it"
        )
    if Spellings(removal.value).found(removal.token):
        raise UsageError(
            f"the value stands in what would replace it, {removal.token.decode()}: give another "
            "--class"
        )


def redact(folder: Path, removal: Removal, *, signer: Signer | None = None) -> dict[str, int]:
    """Remove a value from the pack in `folder`; return how many rows of each table changed.

    None means that it does not stand there, and changes nothing. Raises `PackError` when the pack
    does not verify, or when the value stands where a pack cannot do without (its manifest says what
    ran under the root). With a `signer` the redaction is signed too.
    """
    check_removal(removal)
    folder = folder.absolute()
    with locked(folder.parent):
        finish(folder)
        pack = open_pack(folder)
        pack.verify()
        changes = {n: _changed(pack, t, removal) for n, t in PACK_TABLES.items()}
        counts = {n: len(c) for n, c in changes.items() if c}
        where = _remains(pack, removal)
        if where is not None:
            raise PackError(
                f"{shown(folder)}: the value stands in {where}, which the root covers as it is: "
                "remove the whole pack"
            )
        if counts:
            _replace(pack, changes, removal, signer)
        return counts


def _changed(pack: Pack, table: Table, removal: Removal) -> dict[int, Row]:
    """Return the rows that hold the value, by number, without it and with a new salt."""
    forms = Spellings(removal.value)
    free = [
        i
        for i, c in enumerate(table.columns)
        if c.kind in {"str", "bytes"} and not c.isin and not c.pattern and c.name != "salt"
    ]
    changed = {}
    for number, row in enumerate(rows_of(pack.frame(table.name))):
        new = list(row)
        for i in free:
            if row[i] is not None:
                new[i] = _without(row[i], forms, removal.token)
        if new != list(row):
            if table.name == "content":
                new[table.names.index("size")] = len(new[table.names.index("body")])
            changed[number] = (*new[:-1], removal.salts(16))
    return changed


def _without(cell: str | bytes, forms: Spellings, token: bytes) -> str | bytes:
    if isinstance(cell, bytes):
        return forms.replace_json(cell, token)
    # What UTF-8 cannot carry is not in a file either: every cell encodes.
    return forms.replace_json(cell.encode(), token).decode("utf-8", "replace")


def _remains(pack: Pack, removal: Removal) -> str | None:
    """Say where the value stands that no row's redaction takes away."""
    forms = Spellings(removal.value)
    for key, value in pack.manifest.items():
        if forms.found(msgspec.json.encode({key: value})):
            return f"manifest.json, field {key}"
    for name, table in PACK_TABLES.items():
        fixed = [c.name for c in table.columns if c.isin or c.pattern]
        if forms.found(" ".join(table.names).encode()):
            return f"the names of columns of {name}"
        for column in fixed:
            cells = {c for c in pack.frame(name)[column].to_list() if c is not None}
            if any(forms.found(str(c).encode()) for c in cells):
                return f"column {column} of {name}"
    return None


# -- the new folder --------------------------------------------------------------------------------


def _replace(
    pack: Pack, changes: dict[str, dict[int, Row]], removal: Removal, signer: Signer | None
) -> None:
    folder = pack.folder
    temporary = _beside(folder, _NEW)
    try:
        temporary.mkdir(mode=0o700)
        for name, table in PACK_TABLES.items():
            if changes[name]:
                _write_table(pack, table, changes[name], temporary)
            else:
                member = f"{name}.parquet"
                write_bytes(temporary / member, read_member(folder, member), durable=True)
        manifest = _manifest(pack, changes, temporary, removal, signer)
        write_bytes(temporary / "manifest.json", manifest, durable=True)
        sync_folder(temporary)
        _check_gone(temporary, removal)
        _swap(temporary, folder)
    except OSError as error:
        raise StoreError(f"cannot redact {shown(folder)}: {error.strerror}") from error
    finally:
        # The new folder where something went wrong, the old one where nothing did.
        shutil.rmtree(temporary, ignore_errors=True)
    sync_folder(folder.parent)


def _write_table(pack: Pack, table: Table, changed: dict[int, Row], folder: Path) -> None:
    rows = [changed.get(i, row) for i, row in enumerate(rows_of(pack.frame(table.name)))]
    write_parquet(table, rows, folder / f"{table.name}.parquet", durable=True)


def _manifest(
    pack: Pack, changes: dict[str, dict[int, Row]], folder: Path, removal: Removal,
    signer: Signer | None,
) -> bytes:  # fmt: skip
    """Return the manifest as before, but for the files that changed and what it says of that."""
    manifest = {k: v for k, v in pack.manifest.items() if k != "redactions_signature"}
    manifest["tables"] = {n: dict(t) for n, t in manifest["tables"].items()}
    for name, changed in changes.items():
        if changed:
            entry, data = manifest["tables"][name], (folder / f"{name}.parquet").read_bytes()
            entry["sha256"], entry["bytes"] = hashlib.sha256(data).hexdigest(), len(data)
            entry["redacted"] = _leaves(pack, name, changed)
    rows = {n: len(c) for n, c in changes.items() if c}
    said = {"at_unix_ns": removal.at_unix_ns, "name": removal.name, "rows": rows}
    manifest["redactions"] = [*manifest.get("redactions", []), said]
    manifest["redactions_digest"] = redactions_digest(manifest)
    if signer is not None:
        manifest["redactions_signature"] = signer.sign(
            manifest["redactions_digest"], domain=REDACTION_DOMAIN
        )
    data = manifest_bytes(manifest)
    if len(data) > MAX_MANIFEST_BYTES:
        raise PackError(
            f"{shown(pack.folder)}: {sum(rows.values())} rows are more than a manifest can list: "
            "remove the whole pack"
        )
    return data


def _leaves(pack: Pack, name: str, changed: dict[int, Row]) -> dict[str, dict[str, str]]:
    known = dict(pack.manifest["tables"][name].get("redacted", {}))
    for number, old in enumerate(rows_of(pack.frame(name))):
        if number in changed:
            new, text = changed[number], str(number)
            sealed = known[text]["leaf"] if text in known else leaf(old[-1], old[:-1]).hex()
            known[text] = {"leaf": sealed, "now": leaf(new[-1], new[:-1]).hex()}
    return known


def _check_gone(folder: Path, removal: Removal) -> None:
    """Raise unless the folder is a pack and no byte of it, packed or not, holds the value."""
    forms = Spellings(removal.value)
    new = open_pack(folder)
    for name, table in PACK_TABLES.items():
        data = read_member(folder, f"{name}.parquet")
        frame = decode(data, table, where=name)
        new.frame(name)
        cells = (c for row in rows_of(frame) for c in row if isinstance(c, str | bytes))
        held = any(forms.found(c if isinstance(c, bytes) else c.encode()) for c in cells)
        if held or forms.found(data):
            raise PackError(f"the value still stands in {name}.parquet: nothing was changed")
    if forms.found((folder / "manifest.json").read_bytes()):
        raise PackError("the value still stands in manifest.json: nothing was changed")


# -- exchanging folders ----------------------------------------------------------------------------


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _swap(new: Path, folder: Path) -> None:
    """Put `new` in the place of `folder`; afterwards `new` is what was there."""
    if exchange(new, folder):
        return
    # Where the file system cannot exchange, two renames: `finish` undoes the first alone.
    old = _beside(folder, _OLD)
    folder.rename(old)
    new.rename(folder)
    old.rename(new)


def finish(folder: Path) -> None:
    """Finish or undo what a redaction that was killed left beside `folder`."""
    new, old = _beside(folder, _NEW), _beside(folder, _OLD)
    if old.exists() and not folder.exists():
        old.rename(folder)
    for left in (new, old):
        if left.exists():
            shutil.rmtree(left)


def finish_all(store: Path) -> list[str]:
    """Finish or undo every redaction of a store that was killed; return their runs."""
    found = set()
    for left in [*store.glob(f"packs/*/.*.{_NEW}"), *store.glob(f"packs/*/.*.{_OLD}")]:
        folder = left.with_name(left.name[1:].rsplit(".", 2)[0])
        with locked(left.parent):
            finish(folder)
        found.add(folder.name)
    return sorted(found)


@contextlib.contextmanager
def locked(day: Path) -> Iterator[None]:
    """Hold the lock of a day: one redaction of its packs at a time, and no file left of it."""
    try:
        descriptor = os.open(day, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"cannot redact in {shown(day)}: {error.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)

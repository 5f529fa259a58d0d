"""A pack, read back: what is used was verified before.

Rule: the manifest's spelling and root are checked when the pack is opened; a table's bytes, size,
shape, rules, rows and root when it is first asked for. `Pack.verify` does all of it at once, and
the folder and the signature too. Whatever the files hold, the only error is `PackError`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from towerkit.core.canonical import canonical_json
from towerkit.core.errors import PackError
from towerkit.packs import signing
from towerkit.packs.blocks import Blocks
from towerkit.packs.digest import GrowingRoot, leaf, merkle_root, pack_root
from towerkit.packs.files import MAX_FILE_BYTES, MAX_MANIFEST_BYTES, members, read_member, shown
from towerkit.packs.parquet import decode
from towerkit.packs.tables import FORMAT_VERSION, PACK_TABLES, Table
from towerkit.packs.writer import day_of, manifest_bytes

if TYPE_CHECKING:
    import polars as pl

    from towerkit.packs.browse import Tree
    from towerkit.packs.rows import Rows

RUN_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ROWS_AT_ONCE = 1024  # as Python objects, which take several times what the frame does
_LATEST_NS = 253_402_300_799 * 10**9  # the end of the year 9999: the last day a folder can name

SignatureState = Literal["none", "not checked", "checked"]


class _Redacted(msgspec.Struct, frozen=True):
    leaf: str
    now: str


class _Entry(msgspec.Struct, frozen=True):
    file: str
    sha256: str
    bytes: int
    rows: int
    root: str
    redacted: dict[str, _Redacted] = {}


class _Counts(msgspec.Struct, frozen=True):
    started: int
    ended: int
    dropped: int
    aborted: int = 0


class _Redaction(msgspec.Struct, frozen=True):
    at_unix_ns: int
    name: str
    rows: dict[str, int]


class _Manifest(msgspec.Struct, frozen=True):
    """What every manifest of format 1 has. Fields beyond it are kept: a later minor adds some."""

    run_id: str
    status: str
    error_class: str | None
    started_unix_ns: int
    duration_ns: int
    source: dict[str, Any]
    identity: dict[str, Any]
    clock: str
    simulated: bool
    spans: _Counts
    redactor: dict[str, Any]
    budget: dict[str, Any] | None
    tables: dict[str, _Entry]
    root: str
    signature: dict[str, str] | None = None
    redactions: list[_Redaction] = []
    redactions_digest: str | None = None
    redactions_signature: dict[str, str] | None = None


class Redacted(msgspec.Struct, frozen=True, order=True):
    """A row that was redacted after its pack was sealed."""

    table: str
    row: int


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a verification found. Redacted rows are not evidence of what they said before.

    `redaction` says whether the redactions themselves were signed, and checked.
    """

    signature: SignatureState
    redacted: tuple[Redacted, ...]
    redaction: SignatureState


class Pack:
    """One run's evidence, read back. Frames are verified and validated when first asked for."""

    in_files = True  # a lake's run is rows of larger tables

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Use `Store.pack` or `open_pack`; they check the manifest."""
        self.folder, self.manifest = folder, manifest
        self._frames: dict[str, pl.DataFrame] = {}

    @property
    def run_id(self) -> str:
        """The run's UUIDv7."""
        return str(self.manifest["run_id"])

    @property
    def digest(self) -> str:
        """Root digest of the pack."""
        return str(self.manifest["root"])

    @property
    def redacted(self) -> tuple[Redacted, ...]:
        """The rows that were redacted after the pack was sealed."""
        tables = self.manifest["tables"].items()
        return tuple(sorted(Redacted(n, int(r)) for n, t in tables for r in t.get("redacted", ())))

    def frame(self, name: str) -> pl.DataFrame:
        """Return the table `name` (spans, costs, inputs or content), with all its columns.

        Raises `PackError` when the file's digest, schema, rows or root do not hold.
        """
        if name not in self._frames:
            self._frames[name] = self._decoded(PACK_TABLES[name], self.file_bytes(name))
        return self._frames[name]

    def rows(self, name: str) -> Rows:
        """Return the rows of table `name`; of a large one few are in memory at once.

        Raises `PackError` as `frame` does, of a large table when it is gone through.
        """
        from towerkit.packs.rows import rows_of  # noqa: PLC0415  only a replay reads so

        return rows_of(self, name)

    def held_rows(self, name: str) -> list[tuple[Any, ...]]:
        """Return the rows of table `name`, verified, all of them."""
        if name in self._frames:
            return self._frames[name].rows()
        return self._checked(PACK_TABLES[name], self.file_bytes(name))

    def file_bytes(self, name: str) -> bytes:
        """Return the bytes of a table's file, which are those the manifest names."""
        entry, member = self.manifest["tables"][name], f"{name}.parquet"
        data = read_member(self.folder, member, most=MAX_FILE_BYTES, size=entry["bytes"])
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            path = shown(self.folder / member)
            raise PackError(f"{path}: its SHA-256 is not the manifest's: the file was changed")
        return data

    def file_blocks(self, name: str) -> Blocks:
        """Return a table's file, verified, without its bytes."""
        entry = self.manifest["tables"][name]
        return Blocks(self.folder, f"{name}.parquet", size=entry["bytes"], sha256=entry["sha256"])

    def _decoded(self, table: Table, data: bytes) -> pl.DataFrame:
        from towerkit.packs.validate import check  # noqa: PLC0415

        path = self.folder / f"{table.name}.parquet"
        frame = check(decode(data, table, where=str(path)), table, where=shown(path))
        self.check_leaves(table.name, merkle_leaves(frame))
        return frame

    def _checked(self, table: Table, data: bytes) -> list[tuple[Any, ...]]:
        """Do the same for who wants the rows as Python objects: they are made once."""
        from towerkit.packs.validate import check  # noqa: PLC0415

        path = self.folder / f"{table.name}.parquet"
        frame = decode(data, table, where=str(path))
        rows = frame.rows()
        check(frame, table, where=shown(path), rows=rows)
        self.check_leaves(table.name, [leaf(row[-1], row[:-1]) for row in rows])
        return rows

    def check_leaves(self, name: str, leaves: list[bytes]) -> None:
        """Raise `PackError` unless `leaves` are those of the rows of table `name`, in their order.

        Where rows were redacted, their recorded leaves are put in the place of those given.
        """
        entry, path = self.manifest["tables"][name], self.folder / f"{name}.parquet"
        count, root = len(leaves), merkle_root(self.restored(name, leaves, 0)).hex()
        _check_root(count, root, entry, path, name)

    def check_grown(self, name: str, grown: GrowingRoot) -> None:
        """Do the same where leaves came one after the other, redacted rows' as recorded."""
        entry, path = self.manifest["tables"][name], self.folder / f"{name}.parquet"
        _check_root(grown.leaves, grown.root().hex(), entry, path, name)

    def restored(self, name: str, leaves: list[bytes], first: int) -> list[bytes]:
        """Return leaves, of rows from `first` on, with those that redacted rows had before."""
        entry, path = self.manifest["tables"][name], self.folder / f"{name}.parquet"
        for text, known in entry.get("redacted", {}).items():
            row = int(text) - first
            if not 0 <= row < len(leaves):
                continue
            if leaves[row].hex() != known["now"]:
                raise PackError(f"{path}: row {text} is not as its redaction left it")
            leaves[row] = bytes.fromhex(known["leaf"])
        return leaves

    @property
    def spans(self) -> pl.DataFrame:
        """The run's spans, in the order they started, without salts."""
        return self.frame("spans").drop("salt").sort("seq")

    @property
    def tree(self) -> Tree:
        """The run's spans as a tree."""
        from towerkit.packs.browse import Tree  # noqa: PLC0415  who reads packs in bulk draws none

        return Tree(self.frame("spans"))

    @cached_property
    def bodies(self) -> dict[str, bytes]:
        """Content by digest: the redacted bytes."""
        frame = self.frame("content")
        return dict(zip(frame["digest"], frame["body"], strict=True))

    def content(self, digest: str) -> Any:
        """Return one piece of content: parsed JSON, or text."""
        frame = self.frame("content").row(by_predicate=_is(digest), named=True)
        body: bytes = frame["body"]
        return (
            msgspec.json.decode(body)
            if frame["media_type"] == "application/json"
            else body.decode()
        )

    def verify(
        self, keys: Iterable[bytes] = (), *, allow_unsigned_redactions: bool = False
    ) -> Verified:
        """Check every file, every row, the root and, with public `keys`, who signed it.

        Raises `PackError` at what does not hold. Without a key a signature only has to hold under
        the key it names itself. With one, rows that were redacted must be signed too: whoever can
        write to a store could have put anything there, and called it a redaction.
        """
        trusted = tuple(keys)
        # Again, from the disk: whoever asks wants to know what is there now.
        now = open_pack(self.folder)
        if manifest_bytes(now.manifest) != manifest_bytes(self.manifest):
            raise PackError(f"{self.folder}: the manifest was changed since it was read")
        now._check_folder()  # noqa: SLF001  one class
        verified = now.attested(trusted, allow_unsigned=allow_unsigned_redactions)
        # First all bytes, then what they mean.
        files = {name: now.file_bytes(name) for name in PACK_TABLES}
        for name, table in PACK_TABLES.items():
            now._decoded(table, files[name])  # noqa: SLF001
        return verified

    def attested(self, trusted: tuple[bytes, ...], *, allow_unsigned: bool) -> Verified:
        """Return what the signatures say of root and redactions; the rows are for the caller."""
        signed = signing.check(self.manifest.get("signature"), self.digest, trusted)
        redaction = self._check_redactions(trusted)
        if trusted and self.redacted and redaction == "none" and not allow_unsigned:
            raise PackError(
                f"{shown(self.folder)}: {len(self.redacted)} rows were redacted, and by whom is "
                "not signed: anybody may have changed them"
            )
        return Verified(
            signature=_state(self.manifest.get("signature"), checked=signed),
            redacted=self.redacted,
            redaction=redaction,
        )

    def _check_folder(self) -> None:
        expected = {"manifest.json", *(f"{n}.parquet" for n in PACK_TABLES)}
        odd = sorted(members(self.folder) ^ expected)
        if odd:
            listed = shown(", ".join(odd[:8]))
            raise PackError(f"{shown(self.folder)}: files missing or foreign: {listed}")
        # Of a folder that is named like a run, the name is part of what was sealed.
        name = self.folder.absolute().name
        if RUN_ID.fullmatch(name) and name != self.run_id:
            raise PackError(f"{self.folder}: holds run {self.run_id}: it was renamed or exchanged")

    def _check_redactions(self, trusted: tuple[bytes, ...]) -> SignatureState:
        signature = self.manifest.get("redactions_signature")
        digest = self.manifest.get("redactions_digest")
        if digest is None or signature is None:
            return "none"
        done = signing.check(
            signature, digest, trusted, domain=signing.REDACTION_DOMAIN, what="the redaction"
        )
        return _state(signature, checked=done)


def _check_root(count: int, root: str, entry: Mapping[str, Any], path: Path, name: str) -> None:
    if count != entry["rows"]:
        raise PackError(f"{path}: {count} rows, and the manifest says {entry['rows']}")
    if root != entry["root"]:
        raise PackError(f"{path}: the rows of {name} are not those of the manifest")


def _state(signature: object, *, checked: bool) -> SignatureState:
    if signature is None:
        return "none"
    return "checked" if checked else "not checked"


def _is(digest: str) -> pl.Expr:
    import polars as pl  # noqa: PLC0415

    return pl.col("digest") == digest


def rows_of(frame: pl.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a frame, a bounded number of them as Python objects at once."""
    for part in frame.iter_slices(_ROWS_AT_ONCE):
        yield from part.rows()


def merkle_leaves(frame: pl.DataFrame) -> list[bytes]:
    """Return the leaf of every row of a frame that ends with its salts."""
    return [leaf(row[-1], row[:-1]) for row in rows_of(frame)]


def redactions_digest(manifest: Mapping[str, Any]) -> str:
    """Return the digest over what was redacted later, when, and which rows: bound to the root."""
    rows = {n: t["redacted"] for n, t in manifest["tables"].items() if t.get("redacted")}
    said = {"root": manifest["root"], "redactions": manifest["redactions"], "rows": rows}
    return hashlib.sha256(canonical_json(said)).hexdigest()


def open_pack(folder: Path) -> Pack:
    """Open the pack in `folder`; raise `PackError` when it is not one this version can read."""
    data = read_member(folder, "manifest.json", most=MAX_MANIFEST_BYTES)
    return Pack(folder, parse_manifest(data, where=shown(folder)))


def parse_manifest(data: bytes, *, where: str) -> dict[str, Any]:
    """Return the manifest in `data`, its fields and its root checked, or raise `PackError`."""
    try:
        manifest: dict[str, Any] = msgspec.json.decode(data)
        version = manifest["format"] if isinstance(manifest, dict) else None
    except (msgspec.MsgspecError, KeyError, RecursionError, UnicodeError):
        version = None
    if type(version) is not int:
        raise PackError(f"{where}: its manifest.json is not a pack manifest")
    if version != FORMAT_VERSION:
        raise PackError(
            f"{where}: pack format {str(version)[:20]}, this towerkit reads {FORMAT_VERSION}: "
            "update it"
        )
    try:
        _check_fields(msgspec.convert(manifest, _Manifest), manifest)
        spelled = manifest_bytes(manifest)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise PackError(
            f"{where}: its manifest.json lacks fields of format {FORMAT_VERSION}: "
            f"{shown(str(error))}"
        ) from None
    if data != spelled:
        raise PackError(f"{where}: manifest.json is not spelled as it was written")
    if pack_root(manifest) != manifest["root"]:
        raise PackError(f"{where}: the manifest was changed: its root does not hold")
    return manifest


def _check_fields(typed: _Manifest, manifest: dict[str, Any]) -> None:
    """Raise `ValidationError` for what types do not say."""
    if not RUN_ID.fullmatch(typed.run_id):
        raise msgspec.ValidationError("`run_id` is no UUID")
    if not 0 <= typed.started_unix_ns <= _LATEST_NS or typed.duration_ns < 0:
        raise msgspec.ValidationError("`started_unix_ns` or `duration_ns` is no time")
    if set(typed.tables) != set(PACK_TABLES):
        raise msgspec.ValidationError("`tables` are not those of the format")
    for name, entry in typed.tables.items():
        if entry.file != f"{name}.parquet" or min(entry.bytes, entry.rows) < 0:
            raise msgspec.ValidationError(f"`tables.{name}` does not name its file")
        _check_redacted(entry, manifest["tables"][name])
    touched = any(entry.redacted for entry in typed.tables.values())
    if touched or typed.redactions or typed.redactions_digest or typed.redactions_signature:
        if not (touched and typed.redactions):
            raise msgspec.ValidationError("`redactions` and the redacted rows disagree")
        if typed.redactions_digest != redactions_digest(manifest):
            raise msgspec.ValidationError("`redactions_digest` does not hold")


def _check_redacted(entry: _Entry, raw: Mapping[str, Any]) -> None:
    for text, row in entry.redacted.items():
        number = text.isascii() and text.isdigit() and str(int(text[:18])) == text
        digests = all(re.fullmatch(r"[0-9a-f]{64}", d) for d in (row.leaf, row.now))
        if not number or int(text) >= entry.rows or not digests or row.leaf == row.now:
            raise msgspec.ValidationError("`redacted` names no row, or changes nothing")
    known = {"file", "sha256", "bytes", "rows", "root", "redacted"}
    # Unlike the fields above it, a table's entry is outside the root: nothing may hide in it.
    if set(raw) - known or ("redacted" in raw and not raw["redacted"]):
        raise msgspec.ValidationError("a table's entry has a field that no root covers")


def folder_of(manifest: Mapping[str, Any]) -> tuple[str, str]:
    """Return day and run id: where in a store a pack belongs."""
    return day_of(manifest["started_unix_ns"]), str(manifest["run_id"])

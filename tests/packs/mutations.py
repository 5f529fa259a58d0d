"""Changes that somebody could make to a pack: each must be found.

One mutation is drawn from a seed: bits flipped, bytes cut, added or exchanged anywhere; members
removed, added, renamed, linked or taken from another pack; rows reordered, dropped, doubled or
edited with the files' digests brought up to date; manifests edited or spelt otherwise; and the
re-hash attack, in which all that an attacker can compute is computed anew and only the key is
missing.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from pathlib import Path

import msgspec
import polars as pl

from tests.agents import recorded
from towerkit.core.errors import PackError
from towerkit.packs.digest import pack_root, table_root
from towerkit.packs.reader import open_pack
from towerkit.packs.signing import make_key, public_key_of
from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.writer import manifest_bytes

FILES = ("manifest.json", *(f"{n}.parquet" for n in PACK_TABLES))
FAULT = {"seam": "model", "call": 1, "attempts": 1, "error": "connect_failed"}


def signed_packs(root: Path, count: int) -> tuple[list[Path], bytes]:
    """Return the folders of `count` signed packs of different runs, and the public key."""
    public = public_key_of(make_key(root / "key"))
    folders = []
    for seed in range(count):
        order = 13 if seed % 3 == 1 else 7
        pack = recorded(root / "store", seed=seed, order=order, signing_key=root / "key")
        folders.append(pack.folder)
    return folders, public


class World:
    """Packs, and copies of them to change."""

    def __init__(self, folders: list[Path], public: bytes, scratch: Path) -> None:
        self.folders, self.public = folders, public
        self.sealed = [{f: (p / f).read_bytes() for f in FILES} for p in folders]
        # Named like the run: the name of a folder is checked too.
        self.copies = [scratch / p.name for p in folders]
        for folder in self.copies:
            folder.mkdir(parents=True)
        self.dirty = set(range(len(folders)))

    def copy(self, i: int) -> Path:
        """Return a copy of pack `i` as it was sealed."""
        if i in self.dirty:
            shutil.rmtree(self.copies[i])
            self.copies[i].mkdir()
            for name, data in self.sealed[i].items():
                (self.copies[i] / name).write_bytes(data)
            self.dirty.discard(i)
        return self.copies[i]

    def found(self, seed: int) -> tuple[str, bool | None]:
        """Make one mutation; return its kind, and whether verification raised `PackError`.

        None where the draw changed nothing.
        """
        rng = random.Random(seed)
        i = rng.randrange(len(self.folders))
        kind = rng.choices(list(KINDS), weights=[w for _, w in KINDS.values()])[0]
        folder = self.copy(i)
        self.dirty.add(i)
        if not KINDS[kind][0](rng, folder, self, i):
            return kind, None
        try:
            open_pack(folder).verify([self.public])
        except PackError:
            return kind, True
        return kind, False


def _member(rng) -> str:
    return rng.choice(FILES)


def flip(rng, folder, world, i):
    """One to three bits, anywhere."""
    path = folder / _member(rng)
    data = bytearray(path.read_bytes())
    for at in rng.sample(range(len(data)), rng.choice((1, 1, 1, 2, 3))):
        data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return True


def overwrite(rng, folder, world, i):
    """Make a stretch of bytes zeros, ones, noise, or what stands elsewhere."""
    path = folder / _member(rng)
    data = bytearray(path.read_bytes())
    at, n = rng.randrange(len(data)), rng.randint(1, 64)
    other = rng.randrange(len(data))
    new = rng.choice((b"\0" * n, b"\xff" * n, rng.randbytes(n), bytes(data[other : other + n])))
    data[at : at + len(new)] = new
    changed = bytes(data) != path.read_bytes()
    path.write_bytes(data)
    return changed


def truncate(rng, folder, world, i):
    path = folder / _member(rng)
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data))])
    return True


def append(rng, folder, world, i):
    with (folder / _member(rng)).open("ab") as file:
        file.write(rng.choice((b"\0", b"\n", b" ", rng.randbytes(rng.randint(1, 99)))))
    return True


def insert(rng, folder, world, i):
    path = folder / _member(rng)
    data = path.read_bytes()
    at = rng.randrange(len(data))
    path.write_bytes(data[:at] + rng.randbytes(rng.randint(1, 9)) + data[at:])
    return True


def remove(rng, folder, world, i):
    (folder / _member(rng)).unlink()
    return True


def add(rng, folder, world, i):
    """Add a foreign file, folder, link or pipe."""
    path = folder / rng.choice(
        ("x", ".hidden", "spans.parquet.bak", "SPANS.parquet", "events.parquet")
    )
    rng.choice((path.touch, path.mkdir, lambda: path.symlink_to("spans.parquet")))()
    return True


def rename(rng, folder, world, i):
    path = folder / _member(rng)
    path.rename(folder / rng.choice((path.name.upper(), path.name + "~", "x", "Spans.parquet")))
    return True


def exchange_members(rng, folder, world, i):
    one, other = rng.sample(FILES, 2)
    a, b = (folder / one).read_bytes(), (folder / other).read_bytes()
    (folder / one).write_bytes(b)
    (folder / other).write_bytes(a)
    return True


def from_another(rng, folder, world, i):
    """Take a member, or all of them, of another pack."""
    other = rng.randrange(len(world.folders))
    names = rng.choice((list(FILES), [_member(rng)]))
    changed = any(world.sealed[other][n] != world.sealed[i][n] for n in names)
    for name in names:
        (folder / name).write_bytes(world.sealed[other][name])
    return changed


def link(rng, folder, world, i):
    """Make a member a link to the very same bytes elsewhere."""
    path = folder / _member(rng)
    path.unlink()
    path.symlink_to(world.folders[i] / path.name)
    return True


def _edited(rng, frame: pl.DataFrame) -> pl.DataFrame | None:
    """Return a frame with rows reordered, dropped, doubled, or a value changed."""
    n = frame.height
    how = rng.choice(("swap", "drop", "double", "value"))
    if n == 0:
        return None
    if how == "drop":
        return frame.with_row_index().filter(pl.col("index") != rng.randrange(n)).drop("index")
    if how == "double":
        return pl.concat([frame, frame.slice(rng.randrange(n), 1)])
    if how == "swap":
        order = list(range(n))
        rng.shuffle(order)
        return frame[order] if order != list(range(n)) else None
    column = rng.choice(
        [c for c in frame.columns if frame[c].dtype in {pl.Int64, pl.String, pl.Boolean}]
    )
    at, values = rng.randrange(n), frame[column].to_list()
    old = values[at]
    values[at] = {pl.Int64: lambda: (old or 0) ^ 1, pl.Boolean: lambda: not old}.get(
        frame[column].dtype, lambda: f"{old}x"
    )()
    return frame.with_columns(pl.Series(column, values, dtype=frame[column].dtype))


def rows(rng, folder, world, i, *, roots=False):
    """Rows changed, and the file's digest in the manifest with them."""
    name = rng.choice(list(PACK_TABLES))
    path = folder / f"{name}.parquet"
    frame = _edited(rng, pl.read_parquet(path))
    if frame is None:
        return False
    frame.write_parquet(path)
    manifest = msgspec.json.decode((folder / "manifest.json").read_bytes())
    entry, data = manifest["tables"][name], path.read_bytes()
    entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    if roots or rng.random() < 0.5:
        entry |= {"rows": frame.height}
    if roots:
        entry |= {"root": table_root(frame.rows())}
        manifest["root"] = pack_root(manifest)
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
    return True


def rehash(rng, folder, world, i):
    """Rows changed and all digests computed anew: only the signature can tell."""
    return rows(rng, folder, world, i, roots=True)


def _edit(rng, value):
    """Change one thing somewhere in a manifest."""
    if isinstance(value, dict) and value:
        key = rng.choice(sorted(value))
        how = rng.random()
        if how < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if how < 0.2:
            return value | {"added": rng.choice((None, 1, "x", {}))}
        return value | {key: _edit(rng, value[key])}
    if isinstance(value, list) and value:
        return rng.choice((value[1:], [*value, value[0]], [_edit(rng, value[0]), *value[1:]]))
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value + 1, -value - 1, str(value), float(value) + 0.5))
    if isinstance(value, str):
        return rng.choice((value + "x", value[1:] or "x", None, value.swapcase() + "y"))
    return rng.choice((1, "x", True, ["x"]))


def manifest_edit(rng, folder, world, i):
    path = folder / "manifest.json"
    old = msgspec.json.decode(path.read_bytes())
    new = _edit(rng, old)
    path.write_bytes(manifest_bytes(new))
    return new != old


def manifest_rehash(rng, folder, world, i):
    """Edit a manifest and give it the root it now has."""
    path = folder / "manifest.json"
    old = msgspec.json.decode(path.read_bytes())
    new = _edit(rng, old)
    try:
        new["root"] = pack_root(new)
    except (KeyError, AttributeError, TypeError):
        return False
    path.write_bytes(manifest_bytes(new))
    return new != old


def respell(rng, folder, world, i):
    """Spell the same JSON otherwise."""
    path = folder / "manifest.json"
    data = path.read_bytes()
    plain = msgspec.json.decode(data)
    spelt = rng.choice((
        msgspec.json.encode(plain),
        msgspec.json.format(data, indent=4),
        data.rstrip(b"\n"),
        data.replace(b'": ', b'":', 1),
        data.replace(b'"format": 1', b'"format": 1.0'),
        data.replace(b'"run_id"', b'"\\u0072un_id"'),
        data.replace(b'"clock"', b'"clock": "system",\n  "clock"', 1),
        b"\xef\xbb\xbf" + data,
        data.replace(b"\n", b"\r\n"),
        msgspec.json.encode(dict(reversed(plain.items()))),
    ))  # fmt: skip
    path.write_bytes(spelt)
    return spelt != data


def fake_redaction(rng, folder, world, i):
    """Declare a change as a redaction, without the leaf it would need."""
    path = folder / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    name = rng.choice(list(PACK_TABLES))
    leaf = {"leaf": rng.randbytes(32).hex(), "now": rng.randbytes(32).hex()}
    manifest["tables"][name]["redacted"] = {"0": leaf}
    manifest["redactions"] = [{"at_unix_ns": 1, "name": "X", "rows": {name: 1}}]
    path.write_bytes(manifest_bytes(manifest))
    return True


# Each with how often it is drawn: half of all are changes of bytes.
KINDS = {
    "flip": (flip, 40), "overwrite": (overwrite, 8), "truncate": (truncate, 6),
    "append": (append, 4), "insert": (insert, 4), "remove": (remove, 2), "add": (add, 3),
    "rename": (rename, 3), "exchange": (exchange_members, 2), "other": (from_another, 4),
    "link": (link, 2), "rows": (rows, 3), "rehash": (rehash, 3), "manifest": (manifest_edit, 8),
    "manifest_rehash": (manifest_rehash, 4), "respell": (respell, 2),
    "fake_redaction": (fake_redaction, 2),
}  # fmt: skip

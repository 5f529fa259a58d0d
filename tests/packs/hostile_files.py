"""Packs made to harm who opens them, and a process that opens them and says what it cost.

Rule: whoever made the pack could compute every digest, so only what the reader refuses protects.
`python tests/packs/hostile_files.py FOLDER` opens every pack in FOLDER under an audit hook and
prints one JSON line each: the error, the seconds, the peak of resident memory, and any event that
reading a file has no business with.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import pyarrow as pa
import pyarrow.parquet as pq

from tests.packs import thrift
from towerkit.packs.digest import pack_root
from towerkit.packs.tables import PACK_TABLES
from towerkit.packs.writer import manifest_bytes

MB = 1024 * 1024
BODY = 3  # the column of content that holds the bytes


def good_pack(folder: Path) -> Path:
    """Return a copy of a frozen pack."""
    store = Path(__file__).resolve().parent.parent / "frozen_packs" / "v1"
    run = json.loads((store / "expected.json").read_text())["packs"]["retried"]["run_id"]
    (source,) = store.glob(f"packs/*/{run}")
    shutil.copytree(source, folder / run)
    return folder / run


def replace(folder: Path, data: bytes, *, table: str = "content", rows: int | None = None) -> None:
    """Put `data` in the place of a table, with every digest that can be computed."""
    (folder / f"{table}.parquet").write_bytes(data)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    entry = manifest["tables"][table]
    entry |= {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    if rows is not None:
        entry["rows"] = rows
    manifest["root"] = pack_root(manifest)
    path.write_bytes(manifest_bytes(manifest))


def content(bodies: pa.Array) -> pa.Table:
    """Return a table of content with these bodies."""
    n = len(bodies)
    return pa.table({
        "digest": pa.array(["0" * 32] * n), "media_type": pa.array(["text/plain"] * n),
        "size": pa.array([1] * n, pa.int64()), "body": bodies,
        "salt": pa.array([b"s" * 16] * n, pa.binary()),
    })  # fmt: skip


def written(tables: Iterator[pa.Table] | list[pa.Table], **options: Any) -> bytes:
    """Return the Parquet file of row groups."""
    tables = list(tables)
    options = {"use_dictionary": False, "write_statistics": False, "store_schema": False} | options
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, tables[0].schema, **options) as writer:
        for table in tables:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


# -- Parquet files ---------------------------------------------------------------------------------


def again(data: bytes, times: int) -> bytes:
    """Return the file with a footer that names each row group `times` times."""
    body, fields = thrift.footer(data)
    _groups(times)(fields)
    return thrift.joined(body, fields)


def compressed_bomb(codec: str) -> bytes:
    """800 MB of zeros in a small file."""
    zeros = content(pa.array([b"\0" * (20 * MB)], pa.binary()))
    return again(written([zeros], compression=codec), 40)


def one_page_bomb() -> bytes:
    """One page of 64 MB, in a file of some KB."""
    return written([content(pa.array([b"\0" * (64 * MB)], pa.binary()))], compression="zstd")


def dictionary_bomb() -> bytes:
    """One value of 1 MB, named by each of 100,000 rows: 100 GB."""
    bodies = pa.DictionaryArray.from_arrays(
        pa.array([0] * 100_000, pa.int32()), pa.array([os.urandom(MB)], pa.binary())
    )
    names = ["body", "digest"]
    return written([content(bodies)], use_dictionary=names, dictionary_pagesize_limit=64 * MB)


def repeated_prefix() -> bytes:
    """Values that each repeat the one before but for a byte (DELTA_BYTE_ARRAY): 1 GB."""
    long = os.urandom(MB)
    bodies = pa.array([long + bytes([i]) for i in range(16)], pa.binary())
    data = written([content(bodies)], column_encoding={"body": "DELTA_BYTE_ARRAY"})
    return again(data, 64)


def rows_of_nothing() -> bytes:
    """Fifty million rows of nulls, which take some bytes in the file."""
    kinds = {"str": pa.string(), "int": pa.int64(), "bytes": pa.binary()}
    columns = {c.name: pa.nulls(10**6, kinds[c.kind]) for c in PACK_TABLES["content"].columns}
    return again(written([pa.table(columns)], compression="zstd"), 50)


def footer_of(change: Callable[[list], None]) -> Callable[[Path], bytes]:
    """Return a maker of the good table with a changed footer."""

    def make(folder: Path) -> bytes:
        body, fields = thrift.footer((folder / "content.parquet").read_bytes())
        change(fields)
        return thrift.joined(body, fields)

    return make


def _schema(elements: Callable[[], list], children: int = 1) -> Callable[[list], None]:
    root = [[4, 8, b"schema"], [5, 5, children]]
    return lambda fields: thrift.put(fields, 2, 9, [12, [root, *elements()]])


def _leaf(name: bytes) -> list:
    return [[1, 5, 6], [3, 5, 1], [4, 8, name]]


def _groups(times: int) -> Callable[[list], None]:
    """Name the same pages again and again."""

    def change(fields: list) -> None:
        groups = thrift.get(fields, 4)
        groups[1] = groups[1] * times
        thrift.put(fields, 3, 6, thrift.get(fields, 3) * times)

    return change


def _elsewhere(path: bytes) -> Callable[[list], None]:
    """Say that the columns are in another file."""

    def change(fields: list) -> None:
        for group in thrift.get(fields, 4)[1]:
            for chunk in thrift.get(group, 1)[1]:
                thrift.put(chunk, 1, 8, path)

    return change


def _meta(key: bytes, value: bytes, times: int = 1) -> Callable[[list], None]:
    return lambda fields: thrift.put(fields, 5, 9, [12, [[[1, 8, key], [2, 8, value]]] * times])


def _nested(depth: int) -> Callable[[], list]:
    above = [[3, 5, 1], [4, 8, b"a"], [5, 5, 1]]
    return lambda: [above] * depth + [_leaf(b"digest")]


def _wide(columns: int) -> Callable[[list], None]:
    return _schema(lambda: [_leaf(b"c")] * columns, columns)


PARQUET: dict[str, Callable[[Path], bytes]] = {
    **{f"bomb_{codec}": lambda _, c=codec: compressed_bomb(c)
       for codec in ("zstd", "gzip", "brotli", "snappy", "lz4")},
    "one_page": lambda _: one_page_bomb(),
    "dictionary": lambda _: dictionary_bomb(),
    "repeated_prefix": lambda _: repeated_prefix(),
    "rows_of_nothing": lambda _: rows_of_nothing(),
    "same_pages": footer_of(_groups(2000)),
    "same_pages_more": footer_of(_groups(20_000)),
    "deep_schema": footer_of(_schema(_nested(1000))),
    "deeper_schema": footer_of(_schema(_nested(90_000))),
    "wide_schema": footer_of(_wide(90_000)),
    "million_columns": footer_of(_wide(10**6)),
    "children_that_are_not": footer_of(_schema(_nested(0), 2**31 - 1)),
    "elsewhere": footer_of(_elsewhere(b"/dev/zero")),
    "huge_name": footer_of(_schema(lambda: [_leaf(b"x" * (3 * MB))])),
    "huge_value": footer_of(_meta(b"k", b"x" * (3 * MB))),
    "many_values": footer_of(_meta(b"k", b"v", 90_000)),
    "arrow_schema": footer_of(_meta(b"ARROW:schema", b"/////0gA" * 1000)),
    "pandas": footer_of(_meta(b"pandas", b"[" * 500_000)),
    "nothing": lambda _: b"PAR1" + b"\0" * 4 + b"PAR1",
    "no_footer": lambda _: b"PAR1" + b"\xff" * 1000 + b"\xff\xff\xff\x7f" + b"PAR1",
    "encrypted": lambda f: (f / "content.parquet").read_bytes()[:-4] + b"PARE",
    "zeros": lambda _: b"\0" * (16 * MB),
}  # fmt: skip

LIES = (0, 1, -1, 2**31 - 1, 2**63 - 1)


def lies(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the file with each integer of its footer replaced by each of some others."""
    body, fields = thrift.footer(data)
    count = len(list(thrift.integers(fields)))
    for i in range(count):
        for lie in LIES:
            changed = copy.deepcopy(fields)
            path, holder, at = list(thrift.integers(changed))[i]
            holder[at] = lie
            yield f"{'.'.join(map(str, path))}={lie}", thrift.joined(body, changed)


# -- manifests -------------------------------------------------------------------------------------


def _in_manifest(text: bytes) -> Callable[[Path], None]:
    """Return a change that puts raw JSON into a manifest's free part."""

    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        data = path.read_bytes()
        path.write_bytes(data.replace(b'"source": {', b'"source": {"x": ' + text + b",", 1))

    return change


def _as_manifest(data: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / "manifest.json").write_bytes(data)

    return change


def _file_entry(name: str) -> Callable[[Path], None]:
    """Return a change that lets a table's entry name another file, under a root that fits."""

    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        manifest = json.loads(path.read_bytes())
        manifest["tables"]["content"]["file"] = name
        manifest["root"] = pack_root(manifest)
        path.write_bytes(manifest_bytes(manifest))

    return change


def _sparse(name: str, size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate(size)

    return change


MANIFESTS: dict[str, Callable[[Path], None]] = {
    "deep": _in_manifest(b"[" * 10_000 + b"]" * 10_000),
    "deep_whole": _as_manifest(b"[" * (4 * MB - 1)),
    "deep_objects": _as_manifest(b'{"format":' * 300_000),
    "long_number": _in_manifest(b"9" * (3 * MB)),
    "long_fraction": _in_manifest(b"0." + b"9" * (3 * MB)),
    "exponent": _in_manifest(b"1e999999999"),
    "negative_exponent": _in_manifest(b"1e-999999999"),
    "many_keys": _in_manifest(b"{" + b",".join(b'"%d":0' % i for i in range(300_000)) + b"}"),
    "doubled_keys": _in_manifest(b"{" + b",".join([b'"a":0'] * 400_000) + b"}"),
    "many_items": _in_manifest(b"[" + b"{}," * 1_000_000 + b"{}]"),
    "nan": _in_manifest(b"NaN"),
    "surrogate": _in_manifest(b'"\\ud800"'),
    "no_utf8": _in_manifest(b'"\xff\xfe"'),
    "utf16": _as_manifest('{"format": 1}'.encode("utf-16")),
    "nul": _as_manifest(b"\0" * MB),
    "too_large": _sparse("manifest.json", 5 * MB),
    "sparse": _sparse("manifest.json", 64 * 1024 * MB),
    "sparse_table": _sparse("content.parquet", 64 * 1024 * MB),
    "format": _as_manifest(b'{"format": 1' + b"0" * 3000 + b"}"),
    **{f"file {name!r}": _file_entry(name) for name in (
        "../content.parquet", "/etc/passwd", "/dev/zero", "x/../content.parquet", ".", "..", "",
        "content.parquet/", "./content.parquet", "content.parquet\0", "CONTENT.parquet", "~",
        "file:///etc/passwd", "\\\\host\\share")},
}  # fmt: skip


# -- links and what is no file ---------------------------------------------------------------------


def _instead(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return change


def _linked_folder(folder: Path) -> None:
    away = folder.parent.parent.parent / f"away-{folder.parent.name}"
    folder.rename(away)
    folder.symlink_to(away)


def _socket(path: Path) -> None:
    here = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{here}/{path.name}")
    os.close(here)


def _device(path: Path) -> None:
    """Make a second /dev/zero; where the system does not let us, a link to it."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
    except PermissionError:
        path.symlink_to("/dev/zero")


NO_FILES: dict[str, Callable[[Path], object]] = {
    "link": lambda p: p.symlink_to("/etc/passwd"),
    "link_to_zero": lambda p: p.symlink_to("/dev/zero"),
    "link_to_itself": lambda p: p.symlink_to(p.name),
    "link_beside": lambda p: p.symlink_to("spans.parquet"),
    "pipe": os.mkfifo,
    "device": _device,
    "folder": Path.mkdir,
    "socket": _socket,
}
LINKS: dict[str, Callable[[Path], None]] = {
    **{f"{kind} as {name}": _instead(name, make)
       for kind, make in NO_FILES.items() for name in ("manifest.json", "content.parquet")},
    "linked_folder": _linked_folder,
}  # fmt: skip


# -- the process that opens ------------------------------------------------------------------------

FORBIDDEN = ("compile", "exec", "import", "socket.", "subprocess.", "os.exec", "os.system",
             "os.posix_spawn", "os.fork", "ctypes.", "pickle.", "os.remove", "os.rename",
             "os.mkdir", "os.symlink", "os.link", "os.truncate", "urllib.", "shutil.")  # fmt: skip


def _opened(event: str, args: tuple[Any, ...], allowed: set[str]) -> str | None:
    """Return what a process that reads a pack has no business with."""
    if event.startswith(FORBIDDEN):
        return f"{event} {args[:1]!r}"[:200]
    if event == "open":
        name, mode = str(args[0]), args[2] if isinstance(args[2], int) else 0
        writes = mode & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        # A descriptor that is open already is no name.
        if writes or not (name in allowed or isinstance(args[0], int)):
            return f"open {name}"[:200]
    return None


def open_all(root: Path) -> int:
    """Open every pack below `root` and print what each cost."""
    from towerkit.core.errors import PackError
    from towerkit.packs.reader import open_pack

    events: list[str] = []
    allowed = {"manifest.json", *(f"{n}.parquet" for n in PACK_TABLES)}
    armed = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if armed and not events[20:]:
            found = _opened(event, args, allowed)
            if found:
                events.append(found)

    folders = [folder for case in sorted(root.iterdir()) for folder in case.iterdir()]
    for warm in folders:  # a good pack, and one that Pandera judges, import what reading needs
        if warm.parent.name.startswith("0-"):
            with_error = None
            try:
                open_pack(warm).verify()
            except PackError as error:
                with_error = error
            assert (with_error is None) == (warm.parent.name == "0-good"), with_error
    sys.addaudithook(hook)
    for folder in folders:
        events.clear()
        allowed.add(str(folder))
        Path("/proc/self/clear_refs").write_text("5")  # the peak of memory begins anew
        error, start, armed = None, time.monotonic(), True
        try:
            open_pack(folder).verify()
        except BaseException as caught:
            error = caught
        finally:
            armed = False
        seconds = time.monotonic() - start
        peak = next(s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s)
        said = {"case": folder.parent.name, "error": type(error).__name__, "says": str(error),
                "seconds": round(seconds, 3), "mb": int(peak.split()[1]) // 1024,
                "events": events}  # fmt: skip
        print(json.dumps(said), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(open_all(Path(sys.argv[1])))

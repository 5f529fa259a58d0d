"""From a file to the bytes of its records, without trusting either.

Rule: bytes are decoded up to a bound and never beyond; a compressed file that ends early is refused
whole, because its checksum was never seen; a record is cut out by its own bytes, so one that does
not parse costs nothing but itself.
"""

from __future__ import annotations

import gzip
import json
import lzma
import re
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TypeVar

import msgspec

from towerkit.core.errors import IngestError
from towerkit.privacy.safe_text import safe_text

T = TypeVar("T")

MAX_DECODED_BYTES = 2 * 1024**3
MAX_DICTIONARY_BYTES = 256 * 1024**2  # xz -9 needs 64 MiB; a header may ask for 4 GiB
_CHUNK = 1 << 20
_WHOLE = "the whole file"
_SPACE = re.compile(r"[ \t\r\n]*")


class BadRecord(Exception):
    """One record does not hold: which field, and why. `index` where it is not the caller's own."""

    def __init__(self, field: str, problem: str, *, index: int | None = None) -> None:
        """Keep the parts; `safe_text` because both may repeat the file's own text."""
        super().__init__(field, problem)
        self.field, self.problem, self.index = safe_text(field), safe_text(problem), index


def whole_file(path: Path, field: str, problem: str) -> IngestError:
    """Return the error of a file that cannot be admitted at all."""
    return IngestError(
        file=safe_text(path.name), record=_WHOLE, field=field, problem=safe_text(problem, limit=400)
    )


def read_file(path: Path, *, limit: int = MAX_DECODED_BYTES) -> bytes:
    """Return the decoded bytes of a plain, .xz or .gz file, told apart by their first bytes.

    Raises `IngestError` when it cannot be read, ends early, or decodes to more than `limit` bytes.
    """
    try:
        # A named pipe would block for ever, and a device never end.
        if not stat.S_ISREG(path.stat().st_mode):
            raise whole_file(path, "path", "expected a file, got a folder or a device")
        with path.open("rb") as file:
            data = b"".join(_decoded(file, limit))
    except (EOFError, lzma.LZMAError, zlib.error, gzip.BadGzipFile) as error:
        raise whole_file(
            path, "compression", f"the compressed data is damaged or cut off: {error}"
        ) from None
    except OSError as error:
        raise whole_file(path, "path", f"cannot be read: {error.strerror}") from None
    if len(data) > limit:
        raise whole_file(path, "size", f"expected at most {limit} bytes when decoded, got more")
    return data.removeprefix(b"\xef\xbb\xbf")


def _decoded(file: IO[bytes], limit: int) -> Iterator[bytes]:
    magic = file.read(6)
    file.seek(0)
    if magic == b"\xfd7zXZ\x00":
        chunks = _xz(file)
    elif magic[:2] == b"\x1f\x8b":
        # The caller's file stays the caller's to close.
        unzipped = gzip.GzipFile(fileobj=file)
        chunks = iter(lambda: unzipped.read(_CHUNK), b"")
    else:
        chunks = iter(lambda: file.read(_CHUNK), b"")
    size = 0
    for chunk in chunks:
        yield chunk
        size += len(chunk)
        if size > limit:
            return


def _xz(file: IO[bytes]) -> Iterator[bytes]:
    """Yield decoded chunks of one or more xz streams; raise `EOFError` when the last is cut off."""
    data, decoder = b"", None
    while True:
        if not data and (decoder is None or decoder.needs_input):
            data = file.read(_CHUNK)
            if not data:
                break
        if decoder is None:
            data = data.lstrip(b"\0")  # stream padding
            if not data:
                continue
            decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DICTIONARY_BYTES)
        yield decoder.decompress(data, _CHUNK)
        data = b""
        if decoder.eof:
            data, decoder = decoder.unused_data, None
    if decoder is not None:
        raise EOFError("it ends before its last block")


class Records(msgspec.Struct, kw_only=True):
    """The records of a file as bytes, and what stopped the reading before the end, if anything."""

    items: list[bytes]
    stopped: BadRecord | None = None


def split(data: bytes) -> Records:
    """Cut a JSON array, a single JSON object or JSON lines into records."""
    head = data.lstrip(b" \t\r\n")[:1]
    if head == b"[":
        return split_array(data)
    lines = [line for line in data.split(b"\n") if line.strip(b" \t\r")]
    if head == b"{" and len(lines) > 1 and not _parses(lines[0]) and _parses(data):
        return Records(items=[data])
    return Records(items=lines)


def _parses(data: bytes) -> bool:
    try:
        msgspec.json.decode(data, type=msgspec.Raw)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


def split_array(data: bytes) -> Records:
    """Cut a JSON array into its elements; a broken one does not cost the others."""
    try:
        return Records(
            items=[bytes(raw) for raw in msgspec.json.decode(data, type=list[msgspec.Raw])]
        )
    except (msgspec.MsgspecError, RecursionError):
        # Not strict JSON (NaN, a lone surrogate, a cut): read element by element.
        text = data.decode("utf-8", "surrogateescape")
        return _elements(text, _skip(text, 0))


def _elements(text: str, at: int) -> Records:
    """Cut the array that starts at `at` element by element with the lenient parser."""
    scan, items = json.JSONDecoder().raw_decode, []
    at = _skip(text, at + 1)
    try:
        while text[at : at + 1] != "]":
            _, end = scan(text, at)
            items.append(text[at:end].encode("utf-8", "surrogateescape"))
            at = _skip(text, end)
            if text[at : at + 1] == ",":
                at = _skip(text, at + 1)
            elif text[at : at + 1] != "]":
                raise json.JSONDecodeError("expected , or ]", text, at)  # noqa: TRY301
    except json.JSONDecodeError as error:
        problem = f"malformed JSON at character {error.pos}: {error.msg}; nothing after it was read"
        return Records(items=items, stopped=BadRecord("JSON", problem, index=len(items)))
    except RecursionError:
        problem = "nested too deeply to be read; nothing after it was read"
        return Records(items=items, stopped=BadRecord("JSON", problem, index=len(items)))
    return Records(items=items)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def split_object(data: bytes) -> dict[str, bytes | Records]:
    """Cut a JSON object leniently into the bytes of its values; an array is cut further.

    The last value is cut short where the text is: what came before it is there.
    """
    text = data.decode("utf-8", "surrogateescape")
    scan = json.JSONDecoder().raw_decode
    fields: dict[str, bytes | Records] = {}
    at = _skip(text, _skip(text, 0) + 1)
    try:
        while text[at : at + 1] == '"':
            key, end = scan(text, at)
            at = _skip(text, _skip(text, end) + 1)
            if text[at : at + 1] == "[":
                found = _elements(text, at)
                fields[key] = found
                if found.stopped is not None:
                    return fields
            _, end = scan(text, at)
            if text[at : at + 1] != "[":
                fields[key] = text[at:end].encode("utf-8", "surrogateescape")
            at = _skip(text, end)
            at = _skip(text, at + 1) if text[at : at + 1] == "," else at
    except (json.JSONDecodeError, RecursionError):
        return fields
    return fields


def decode(raw: bytes, kind: type[T]) -> T:
    """Decode one record as `kind`; raise `BadRecord` naming the field that does not fit.

    What strict JSON forbids and Python's `json` writes (NaN, lone surrogates) is read too: whether
    it may stand where it stands is for the field's own rule.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise _misfit(error) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return _lenient(raw, kind)


def _lenient(raw: bytes, kind: type[T]) -> T:
    try:
        return msgspec.convert(json.loads(raw.decode()), kind)
    except msgspec.ValidationError as error:
        raise _misfit(error) from None
    except json.JSONDecodeError as error:
        raise BadRecord("JSON", f"malformed at character {error.pos}: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise BadRecord("JSON", f"not UTF-8 at byte {error.start}") from None
    except UnicodeEncodeError:
        raise BadRecord("JSON", "a lone surrogate stands where no free text may") from None
    except RecursionError:
        raise BadRecord("JSON", "nested too deeply to be read") from None


def _misfit(error: msgspec.ValidationError) -> BadRecord:
    """Turn msgspec's "Expected `float`, got `str` - at `$.reward`" into field and problem."""
    text, _, path = str(error).partition(" - at `")
    path = path.rstrip("`").removeprefix("$").removeprefix(".")
    missing = re.search(r"missing required field `([^`]*)`", text)
    if missing:
        return BadRecord(f"{path}.{missing[1]}".lstrip("."), "missing")
    return BadRecord(path or "the record", text.replace("`", ""))


def fields_of(raw: bytes) -> list[str]:
    """Return the names of an object's top-level fields; none when it is not an object."""
    try:
        return list(msgspec.json.decode(raw, type=dict[str, msgspec.Raw]))
    except (msgspec.MsgspecError, RecursionError):
        return list(split_object(raw)) if raw.lstrip()[:1] == b"{" else []

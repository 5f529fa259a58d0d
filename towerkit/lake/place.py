"""Where a lake or published packs lie: a folder, or a prefix of a bucket that speaks S3.

Rule: a key is made of names of ours (tables, days, run ids, digests), never of one from outside; an
object is put only where there is none, so who comes second knows it. Credentials and endpoint are
those of the environment (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …) and are never repeated.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from towerkit.core.errors import StoreError, UsageError
from towerkit.packs.files import shown
from towerkit.packs.writer import sync_folder

_BUCKET = re.compile(r"s3a?://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w!.*'() -]+)*/?")


def library(name: str) -> Any:
    """Return the library `name` of the extra; raise `UsageError` where it is not installed."""
    import importlib  # noqa: PLC0415

    try:
        return importlib.import_module(name)
    except ImportError:
        raise UsageError(
            f"the lake needs the library {name.partition('.')[0]}: install towerkit[lake]"
        ) from None


class Place:
    """A folder or an S3 prefix, by its path or URL. Nothing is created before the first write."""

    def __init__(self, url: Path | str) -> None:
        """Raise `UsageError` for a URL that is neither."""
        text = str(url)
        self.folder: Path | None = None
        if _BUCKET.fullmatch(text):
            self.url = "s3://" + text.partition("://")[2].rstrip("/")
        elif "://" in text or not text:
            raise UsageError(
                f"expected a folder or a URL such as s3://bucket/prefix, got {shown(text)!r}"
            )
        else:
            self.folder = Path(url).absolute()
            self.url = str(self.folder)

    def at(self, key: str) -> str:
        """Return the path or URL of a key."""
        return f"{self.url}/{key}"

    def make(self) -> None:
        """Make the folder, its owner's alone; a bucket must be there."""
        if self.folder is not None:
            try:
                self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"cannot write to {self.url}: {error.strerror}") from None

    @cached_property
    def _store(self) -> Any:
        library("obstore")
        stores = library("obstore.store")
        if self.folder is not None:
            self.make()
            return stores.LocalStore(self.folder)
        # No client options: they would replace those of the environment.
        return stores.from_url(self.url, retry_config={"max_retries": 4})

    @contextlib.contextmanager
    def said(self, what: str) -> Iterator[None]:
        """Turn what the libraries raise into one sentence."""
        known = (
            library("obstore.exceptions").BaseError,
            library("deltalake.exceptions").DeltaError,
        )
        try:
            yield
        except (*known, OSError) as error:
            raise StoreError(f"cannot {what} {shown(self.url)}: {_reason(error)}") from None

    def put(self, key: str, data: bytes) -> bool:
        """Put a new object; return False, and change nothing, where there is one."""
        obstore, exists = library("obstore"), library("obstore.exceptions").AlreadyExistsError
        with self.said("write to"):
            try:
                obstore.put(self._store, key, data, mode="create")
            except exists:
                return False
        return True

    def replace(self, key: str, data: bytes) -> None:
        """Put an object in the place of the one there is."""
        with self.said("write to"):
            library("obstore").put(self._store, key, data)

    def get(self, key: str) -> bytes | None:
        """Return an object's bytes, or None where there is none."""
        obstore, absent = library("obstore"), _absent()
        with self.said("read"):
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except absent:
                return None

    def size(self, key: str) -> int:
        """Return the size of an object, which must be there."""
        with self.said("read"):
            return int(library("obstore").head(self._store, key)["size"])

    def keys(self, prefix: str) -> list[str]:
        """Return the keys under a prefix, in order."""
        with self.said("list"):
            stream = library("obstore").list(self._store, prefix)
            return sorted(entry["path"] for chunk in stream for entry in chunk)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; those that are gone already are no error."""
        obstore, absent = library("obstore"), _absent()
        with self.said("delete from"):
            for key in keys:
                with contextlib.suppress(*absent):
                    obstore.delete(self._store, key)

    def sync(self, keys: Iterable[str]) -> None:
        """Have what was put under `keys` on the disk; an object store has it already."""
        if self.folder is None:
            return
        folders = set()
        with self.said("write to"):
            for key in keys:
                path = self.folder / key
                with path.open("rb") as file:
                    os.fsync(file.fileno())
                folders.add(path.parent)
            for folder in folders:
                sync_folder(folder)


def _absent() -> tuple[type[Exception], ...]:
    return library("obstore.exceptions").NotFoundError, FileNotFoundError


def _reason(error: BaseException) -> str:
    """Return the first line of what a library says, without what it tried to reach."""
    text = str(error).strip().splitlines() or [type(error).__name__]
    return shown(getattr(error, "strerror", None) or text[0])

"""Exact values: secrets that are known, and ids or terms that the user lists.

Rule: a known value is found in whatever form it travels: as it is, URL-encoded, escaped in JSON or
HTML, and in base64 at each of the three alignments. One automaton finds all of them in one pass.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

from towerkit.core.errors import UsageError
from towerkit.privacy.detectors import Detector
from towerkit.privacy.find import Found

if TYPE_CHECKING:
    from towerkit.privacy.redact import Redactor

# Names of variables, headers, query parameters and settings whose value is a secret.
SECRET_NAME = re.compile(
    r"auth|key|token|secret|password|passwd|cookie|credential|session|signature|^sig$",
    re.IGNORECASE,
)
NOT_SECRET = frozenset({"anthropic-dangerous-direct-browser-access", "idempotency-key"})
_ENVIRONMENT = re.compile(r"key|token|secret|passw|authorization|cookie|credential", re.IGNORECASE)
_SHORTEST, _SHORTEST_NAMED, _SHORTEST_ENCODED = 8, 4, 8
_MOST_TERMS = 100_000

KNOWN = Detector(name="SECRET", entity="KNOWN_SECRET", tier="A exact", pattern="")


def secrets_of(named: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values whose names say that they are secret; short ones and paths are none."""
    return tuple(
        value
        for name, value in sorted(named.items())
        if _ENVIRONMENT.search(name)
        and len(value) >= _SHORTEST
        and not value.startswith(("/", "./", "~"))
    )


def spellings(secret: str) -> Iterator[str]:
    """Yield the forms in which a secret may stand in a text."""
    once = json.dumps(secret)[1:-1]
    quoted = (quote(secret, safe=""), quote(secret), quote_plus(secret))
    yield from (secret, once, json.dumps(once)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
    yield from (html.escape(secret), *quoted)
    yield from (re.sub(r"%[0-9A-F]{2}", lambda m: m.group().lower(), form) for form in quoted)
    data = secret.encode("utf-8", "surrogatepass")
    for skipped, first in ((0, 0), (1, 2), (2, 3)):  # characters that depend on what goes before
        blob = base64.b64encode(b"\0" * skipped + data)
        whole = (len(data) + skipped) // 3 * 4  # what goes after decides the rest
        core = blob[first:whole].decode()
        if len(core) >= _SHORTEST_ENCODED:
            yield from (core, core.replace("+", "-").replace("/", "_"))


class Exact:
    """What is looked for as it stands. `secrets` in all their forms, `terms` as they are."""

    def __init__(
        self, secrets: Iterable[str] = (), terms: Mapping[str, Iterable[str]] | None = None
    ) -> None:
        """`terms` maps a class name, as CUSTOMER_ID, to the values of that class."""
        self._forms: dict[str, tuple[Detector, str]] = {}
        for name, values in (terms or {}).items():
            self._add_terms(name, values)
        for secret in secrets:
            for form in spellings(secret):
                self._forms.setdefault(form, (KNOWN, secret))
        if len(self._forms) > _MOST_TERMS:
            raise UsageError(
                f"expected at most {_MOST_TERMS} secrets and terms in all their forms, got "
                f"{len(self._forms)}: list those that must not be kept"
            )

    def _add_terms(self, name: str, values: Iterable[str]) -> None:
        if not re.fullmatch(r"[A-Z][A-Z0-9_]{1,30}", name):
            raise UsageError(f"expected a class name as CUSTOMER_ID, got {name!r}")
        row = Detector(name=name, tier="C lookup", pattern="")
        for value in values:
            if len(value) < 3:
                raise UsageError(f"expected terms of 3 characters or more, got {value!r}")
            self._forms[value] = (row, value)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the automaton behind."""
        return {"_forms": self._forms}

    def __bool__(self) -> bool:
        return bool(self._forms)

    @cached_property
    def _automaton(self) -> Any:
        import re2  # noqa: PLC0415  an agent's process pays when it first redacts

        options = re2.Options()
        options.log_errors = False
        options.longest_match = True
        options.max_mem = 1 << 30  # an upper bound: the automaton grows with what it reads
        patterns = (
            rf"\b{re2.escape(f)}\b" if row is not KNOWN and f[0].isalnum() and f[-1].isalnum()
            else re2.escape(f)
            for f, (row, _) in self._forms.items()
        )  # fmt: skip
        return re2.compile("|".join(patterns), options=options)

    def inside(self, data: bytes) -> bool:
        """Return whether any of them is in `data`."""
        return bool(self._forms) and self._automaton.search(data) is not None

    def find(self, text: str) -> list[Found]:
        """Return where they are in `text`."""
        if not self._forms:
            return []
        data = text.encode("utf-8", "surrogatepass")
        out, at, place = [], 0, 0
        for match in self._automaton.finditer(data):
            start, end = match.span()
            form = match.group().decode("utf-8", "surrogatepass")
            place += len(data[at:start].decode("utf-8", "surrogatepass"))
            row, value = self._forms[form]
            out.append(Found(place, place + len(form), row, value))
            at, place = end, place + len(form)
        return out


@lru_cache(maxsize=256)
def exact(secrets: tuple[str, ...]) -> Exact:
    """Return what finds these secrets; requests carry the same ones again and again."""
    return Exact(secrets)


def named(secrets: Iterable[str]) -> tuple[str, ...]:
    """Return secrets that a user names, or raise `UsageError` for one too short to look for."""
    out = tuple(secrets)
    for secret in out:
        if not isinstance(secret, str) or len(secret) < _SHORTEST_NAMED:
            raise UsageError(
                f"expected secrets of {_SHORTEST_NAMED} characters or more, got one of "
                f"{len(secret) if isinstance(secret, str) else type(secret).__name__}"
            )
    return out


def without(text: str, secrets: tuple[str, ...], redactor: Redactor) -> str:
    """Return `text` without these secrets in any form: what one request proves itself with."""
    out, at = [], 0
    for one in exact(secrets).find(text):
        out += [text[at : one.start], redactor.token("SECRET", one.value)]
        at = one.end
    return "".join([*out, text[at:]])

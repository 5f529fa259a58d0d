"""Replacing what is found by keyed tokens, before anything is kept.

Rule: the same value, key and class always give the same token, so joins, drift and replay keep
working on redacted evidence; redacting twice changes nothing; a text that cannot be searched to
the end is replaced as a whole and counted.

A token is `<CLASS:kid:T>` with T the first 16 characters of base32(HMAC-SHA-256(key, CLASS ‖ 0 ‖
normalised value)): 80 bits. It is a pseudonym, not anonymity.

Order: fields by their name (`fields`), known secrets and listed terms (`secrets`), detectors
(`find`), then the plug-in, if there is one.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, Literal, Protocol, Self

import msgspec

from towerkit.core.canonical import canonical_text, key_text, read_json
from towerkit.privacy.detectors import DETECTORS, Detector
from towerkit.privacy.fields import FREE, PATTERN, hint_of, kind_of, marked_in, plain_key
from towerkit.privacy.find import TOKEN, Found, Unreadable, find, tripwire
from towerkit.privacy.gate import TRIGGERS, pattern_set
from towerkit.privacy.log import log
from towerkit.privacy.secrets import Exact, named
from towerkit.privacy.views import GAP, fold

# What is found, or how it is spelt, changed when this changes: replay keys depend on it.
REDACTOR_VERSION = "4"
_Key = str | bytes | tuple[object, ...]
Capture = Literal["redacted", "digests", "off"]

LONGEST = 2_000_000  # characters of one field
_MEMO_ITEMS, _MEMO_BYTES, _MEMO_PLAIN = 8192, 4_000_000, 128
_MEMO_FIELDS, _MEMO_SEEN = 1024, 32
_MEMO_SHAPES, _LARGEST_SHAPE = 256, 64
_PLAIN = frozenset({bool, float, type(None)})
_SHORT, _SHORT_NAMED = 10**11, 10**5
_NEW = object()  # stands for what is not remembered
_SPELT_OUT = r"\\u[0-9A-Fa-f]{4}"
_TOKEN = re.compile(TOKEN)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.:/@+-]{0,95}( [A-Za-z0-9_.:/@+-]{1,95})?")
_APART = 4 * GAP  # what parts the digits of a number is shorter, and has no gap in it
_LABEL = re.compile(r"[A-Za-z0-9_.:/@+~-]{1,128}")
_NUMBERED = re.compile(r"[0-9]{5}")
# What of a span's attributes is no content; numbers are none either.
_METADATA = frozenset({
    "http.request.method", "server.address", "gen_ai.agent.name", "mcp.method.name", "mcp.server",
    "timing", "name", "reason",
})  # fmt: skip
_SERVER = "server.address"
_NORMALS: dict[str, Callable[[str], str]] = {
    row.name: row.normal for row in DETECTORS if row.normal is not None
}


class PlugIn(Protocol):
    """What finds names and the like: see `privacy.plugin`. Raises when it cannot answer."""

    def find(self, text: str) -> list[tuple[int, int, str]]:
        """Return spans and class names."""

    def describe(self) -> str:
        """Return what a manifest says of it."""


@cache
def _gate() -> Callable[[bytes], list[int] | None]:
    """Return the triggers of `find`, and the names of fields; numbers as those of `find`."""
    return pattern_set((*TRIGGERS.values(), PATTERN))


_NAMED_FIELD = len(TRIGGERS)


class _Field(msgspec.Struct):
    """A field by its name: the name as it may be kept, and how its value is looked at."""

    shown: str
    kind: str | None  # the class of a field whose value goes whole
    hint: str
    free: bool  # whether it may hold nothing but a number that a check digit proves
    seen: dict[str, str] = {}  # short values of late, and what came of them


def _nameless() -> _Field:
    return _Field(shown="", kind=None, hint="", free=True)


class _Memo(dict[_Key, Any]):
    """What was searched and what came of it, None for unchanged; `size` is of the results, bytes.

    The redactors of a tower's runs share one, and its bounds.
    """

    size = 0


class Redactor:
    """Replaces what is found. One per key; safe to share between threads.

    `capture="digests"` keeps only digests of content, `"off"` keeps nothing. `dropped` counts the
    fields that were replaced as a whole because they could not be searched.
    """

    def __init__(
        self, key: bytes, *, kid: str, capture: Capture = "redacted", secrets: Iterable[str] = (),
        terms: Mapping[str, Iterable[str]] | None = None, plugin: PlugIn | None = None,
    ) -> None:  # fmt: skip
        """Use `key` (32 bytes) for tokens and content digests; `kid` names it in packs.

        `secrets` are values to find in any form. `terms` maps a class, as CUSTOMER_ID, to values
        to find as they stand. `plugin` finds what has no shape, as names.
        """
        self.key, self.kid, self.capture, self.plugin = key, kid, capture, plugin
        self.found = self.dropped = 0
        self._secrets, self._terms = named(secrets), terms
        self._exact = Exact(self._secrets, terms)
        self._marked: frozenset[str] = frozenset()
        self._memo, self._fields = _Memo(), dict[str, _Field]()
        self._shapes: dict[tuple[str, ...], int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what was remembered: it is work of this process."""
        return {**self.__dict__, "_memo": _Memo(), "_fields": {}, "_shapes": {}}

    # -- variants ----------------------------------------------------------------------------------

    def of_run(self) -> Self:
        """Return the same redactor with counts of its own; what it remembers is shared."""
        return self._with(
            found=0, dropped=0, _memo=self._memo, _fields=self._fields, _shapes=self._shapes
        )

    def knowing(self, secrets: Iterable[str]) -> Self:
        """Return a redactor that finds these values too."""
        more = tuple(dict.fromkeys((*self._secrets, *named(secrets))))
        if more == self._secrets:
            return self
        return self._with(_secrets=more, _exact=Exact(more, self._terms))

    def marking(self, tools: Any) -> Self:
        """Return a redactor that takes fields out whole which tool schemas mark `x-pii: true`."""
        more = self._marked | marked_in(tools)
        if more == self._marked:
            return self
        return self._with(_marked=more)

    def _with(self, **changes: Any) -> Self:
        # Not copy.copy: that asks `__getstate__`, which leaves behind what is remembered.
        made = object.__new__(type(self))
        made.__dict__.update({**self.__getstate__(), **changes})
        return made

    def describe(self) -> dict[str, str]:
        """Return what a manifest says of the redactor."""
        said = {"version": REDACTOR_VERSION, "key_id": self.kid, "capture": self.capture}
        return said if self.plugin is None else {**said, "plugin": self.plugin.describe()}

    # -- tokens ------------------------------------------------------------------------------------

    def token(self, name: str, value: str) -> str:
        """Return the token of a value of class `name`."""
        inner, outer = (pad.copy() for pad in _pads(self.key))
        inner.update(f"{name}\0{value}".encode("utf-8", "surrogatepass"))
        outer.update(inner.digest())
        return f"<{name}:{self.kid}:{base64.b32encode(outer.digest()[:10]).decode()}>"

    def _token_of(self, row: Detector | None, name: str, value: str) -> str:
        self.found += 1
        normal = _NORMALS.get(name) if row is None else row.normal
        try:
            return self.token(name, normal(value) if normal else value)
        except ValueError:  # a field called `ip` may hold anything
            return self.token(name, value)

    def _drop(self, text: str, why: object) -> str:
        """Return what stands for a field that could not be searched."""
        self.dropped += 1
        level = logging.WARNING if self.dropped == 1 else logging.DEBUG  # once is enough
        log.log(level, "a field was dropped as it could not be redacted: %s", why)
        return self.token("UNREADABLE", text)

    # -- text --------------------------------------------------------------------------------------

    def text(self, text: str, *, hint: str = "", alone: bool = True) -> str:
        """Return `text` with every finding replaced.

        `hint` is words that count as standing near; `alone` whether a text that is nothing but a
        number is judged by its check digit.
        """
        if len(text) <= _MEMO_PLAIN:
            key: _Key = text if alone and not hint else (text, hint, alone)
            known = self._memo.get(key, _NEW)
            if known is not _NEW:
                return text if known is None else known
            fired = self._fired(text, hint)
        else:
            # The gate costs as much as a digest: what it lets pass needs no memory.
            fired = self._fired(text, hint)
            if fired is None:
                return text
            shape = f"{hint}\0{alone:d}{text}".encode("utf-8", "surrogatepass")
            key = hashlib.sha256(shape).digest()
            known = self._memo.get(key, _NEW)
            if known is not _NEW:
                return text if known is None else known
        before = self.dropped
        result = text if fired is None else self._scan(text, hint, fired, alone=alone)
        if self.dropped == before:
            self._remember(key, None if result is text else result)
        return result

    def _remember(self, key: _Key, result: str | bytes | None) -> None:
        memo, size = self._memo, 0 if result is None else len(result)
        if len(memo) >= _MEMO_ITEMS or memo.size + size > _MEMO_BYTES:
            memo.clear()
            memo.size = 0
        memo.size += size
        memo[key] = result

    def _fired(self, text: str, hint: str) -> Sequence[int] | None:
        """Return what the gate says of `text`: None lets it pass as it is."""
        plain = text.isascii()
        try:
            if plain and not hint and self.plugin is None:
                data = text.encode()
                fired = _gate()(data)
                return () if fired is None and self._exact.inside(data) else fired
            shown = text if plain else fold(_kept(text)).text
            return _gate()(f"{hint} {shown}".encode("ascii", "replace")) or ()
        except Exception as error:  # noqa: BLE001  fail closed: what was not asked may have fired
            log.debug("the gate was not asked: %s", type(error).__name__)
            return range(_NAMED_FIELD + 1)

    def _scan(self, text: str, hint: str, fired: Sequence[int], *, alone: bool) -> str:
        text = _kept(text)
        try:
            if _NAMED_FIELD in fired and text[:1] in "{[" and text[-1:] in "}]":
                return self._embedded_json(text, 0)
            return self._replaced(text, self._spans(text, hint, fired, alone=alone))
        except Exception as error:  # noqa: BLE001  fail closed, whatever a detector met
            return self._drop(text, type(error).__name__)

    def spans(self, text: str, *, hint: str = "", alone: bool = True) -> list[Found]:
        """Return the findings in `text`, by place; tokens are among them, with no row."""
        return self._spans(text, hint, None, alone=alone)

    def shown(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        """Return `text` redacted, and what was found: start, end and published class.

        A text that cannot be searched is one finding from its start to its end.
        """
        try:
            found = self.spans(text)
        except Exception as error:  # noqa: BLE001  fail closed, as `text` does
            whole = {"start": 0, "end": len(text), "class": "UNREADABLE"}
            return self._drop(text, type(error).__name__), [whole]
        spans = [
            {"start": one.start, "end": one.end, "class": one.row.published}
            for one in found
            if one.row is not None
        ]
        return self._replaced(text, found), spans

    def _spans(
        self, text: str, hint: str, fired: Sequence[int] | None, *, alone: bool
    ) -> list[Found]:
        if len(text) > LONGEST:
            raise Unreadable(f"{len(text)} characters, more than {LONGEST}")
        known = self._exact.find(text)
        found = find(text, hint=hint, alone=alone, known=known, fired=fired)
        if self.plugin is not None:
            found = sorted([*found, *self._plugged(text, found)])
        return found

    def _plugged(self, text: str, found: list[Found]) -> list[Found]:
        assert self.plugin is not None  # noqa: S101  the caller asked
        shown = list(text)
        for one in found:
            shown[one.start : one.end] = " " * (one.end - one.start)
        out, last = [], -1
        for start, end, name in sorted(self.plugin.find("".join(shown))):
            value = text[start:end]
            free = not any(one.start < end and start < one.end for one in found)
            if start >= max(last, 0) and end > start and free and value.strip():
                out.append(
                    Found(start, end, Detector(name=name, tier="D model", pattern=""), value)
                )
                last = end
        return out

    def _replaced(self, text: str, found: list[Found]) -> str:
        out, at = [], 0
        for one in found:
            if one.row is not None:
                out += [text[at : one.start], self._token_of(one.row, one.row.name, one.value)]
                at = one.end
        return "".join([*out, text[at:]]) if out else text

    # -- names and metadata ------------------------------------------------------------------------

    def name(self, name: str) -> str:
        """Return the name of a step, tool or run as it may be kept.

        Where content is not captured, a name that is no plain identifier becomes a token.
        """
        if self.capture == "off" and (not _NAME.fullmatch(name) or _NUMBERED.search(name)):
            return name if _TOKEN.fullmatch(name) else self.token("NAME", name)
        return self.text(name)

    def label(self, text: str) -> str:
        """Return what names software (a service, a release, a model, a file) as it may be kept.

        Where content is not captured, anything but one word becomes a token.
        """
        if self.capture != "redacted" and not _LABEL.fullmatch(text):
            return text if _TOKEN.fullmatch(text) else self.token("NAME", text)
        return self.text(text, alone=False)

    def labels(self, value: Any) -> Any:
        """Return a JSON-able `value` of labels, with keys and leaves as they may be kept."""
        kept = self.value(value)
        return kept if self.capture == "redacted" else self._labelled(kept)

    def _labelled(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.label(value)
        if isinstance(value, dict):
            return {self.label(key): self._labelled(inner) for key, inner in value.items()}
        return [self._labelled(v) for v in value] if isinstance(value, list) else value

    def message(self, text: str) -> str | None:
        """Return an error's text as it may be kept: none of it where content is not captured."""
        return self.text(text) if self.capture == "redacted" else None

    def metadata(self, value: Mapping[str, Any]) -> dict[str, Any]:
        """Return attributes of a span or event as they may be kept."""
        if self.capture == "redacted":
            kept = self._mapping(value, 0)
            # Where a server listens is whose it is, not who somebody is.
            if _SERVER in value:
                kept[_SERVER] = value[_SERVER]
            return kept
        return {
            k: self.name(v) if isinstance(v, str) and k != "reason" else v
            for k, v in value.items()
            if isinstance(v, bool | int | float) or v is None or k in _METADATA
        }

    def metadata_text(self, value: dict[str, Any]) -> str:
        """Return canonical JSON of `metadata(value)`."""
        return canonical_text(value if self._passes(value) else self.metadata(value))

    def _passes(self, value: dict[str, Any]) -> bool:
        """Return whether `metadata` would change nothing, where one look tells: most often.

        All texts are shown to the gate at once, so far apart that what stands in two meets nothing.
        """
        if self.capture != "redacted" or self.plugin is not None:
            return False
        try:
            most = self._shapes.get(tuple(value))
            if most is None:
                most = self._shape(tuple(value))
            texts = []
            for inner in value.values():
                kind = type(inner)
                if kind is str:
                    texts.append(inner)
                elif kind is int:
                    if not -most < inner < most:
                        return False
                elif kind not in _PLAIN:
                    return False
            text = _APART.join(texts)
            if not most or not text.isascii():
                return False
            data = text.encode()
            return _gate()(data) is None and not self._exact.inside(data)
        except Exception as error:  # noqa: BLE001  fail closed: what was not asked is looked at
            log.debug("the gate was not asked: %s", type(error).__name__)
            return False

    def _shape(self, keys: tuple[str, ...]) -> int:
        """Return below what a number under any of `keys` stands; 0 where a name changes something.

        A name changes something where it is redacted, where it says that its value goes whole, and
        where its words meet a trigger.
        """
        if len(keys) > _LARGEST_SHAPE or any(type(k) is not str for k in keys):
            return 0
        most = _SHORT
        for key in keys:
            field = self._fields.get(key) or self._field(key)
            if field.kind is not None or field.shown != key or not _harmless(field.hint):
                most = 0
            elif field.hint:
                most = min(most, _SHORT_NAMED)
        if sum(map(len, keys)) <= _LARGEST_SHAPE * _MEMO_PLAIN:
            if len(self._shapes) >= _MEMO_SHAPES:
                self._shapes.clear()
            self._shapes[keys] = most
        return most

    # -- JSON --------------------------------------------------------------------------------------

    def json(self, data: bytes, *, encode: Callable[[Any], bytes]) -> bytes:
        """Return JSON `data` with keys and leaves redacted; `encode` spells what was changed.

        What the gate lets pass is not even read. What was changed is searched once more, as it is
        spelt: a hit there is a defect, and the whole is dropped.
        """
        before = self.dropped
        try:
            if self.plugin is None and not self._may_hold(data):
                return data
            key: _Key = (encode, hashlib.sha256(data).digest())
            if key in self._memo:
                return self._memo[key] or data
            redacted = encode(self.value(read_json(data)))
            same = redacted == data
            if not same and tripwire(redacted.decode("utf-8", "replace")):
                return encode(
                    self._drop(data.decode("utf-8", "replace"), "found in redacted bytes")
                )
        except Exception as error:  # noqa: BLE001  fail closed
            return encode(self._drop(data.decode("utf-8", "replace"), type(error).__name__))
        if self.dropped == before:
            self._remember(key, None if same else redacted)
        return data if same else redacted

    def _may_hold(self, data: bytes) -> bool:
        shown = data
        if not data.isascii():
            shown = fold(data.decode("utf-8", "replace")).text.encode("ascii", "replace")
        if _gate()(shown) or self._exact.inside(data):
            return True
        return bool(self._marked) and bool(self._marks()(shown))

    def _marks(self) -> Callable[[bytes], list[int] | None]:
        return _marks_set(tuple(sorted(self._marked)))

    def value(self, value: Any, *, depth: int = 0) -> Any:
        """Return a JSON-able `value` with keys and leaves redacted; the original is untouched."""
        return self._value(value, _nameless(), depth)

    def _value(self, value: Any, field: _Field, depth: int) -> Any:
        if isinstance(value, str):
            return self._leaf(value, field, depth)
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return self._number(value, field.hint)
        if depth > 50:
            return "<REDACTED:too deep>"
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        if isinstance(value, list | tuple):
            return [self._value(v, field, depth + 1) for v in value]
        if isinstance(value, msgspec.Struct):
            return self._value(msgspec.to_builtins(value), field, depth + 1)
        return f"<{type(value).__qualname__}>"

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        out, fields = {}, self._fields
        for name, inner in value.items():
            key = name if type(name) is str else key_text(name)
            field = fields.get(key) or self._field(key)
            kind = type(inner)
            if field.kind is not None:
                out[field.shown] = self._whole(field.kind, inner, depth)
            elif kind is str:
                out[field.shown] = field.seen.get(inner) or self._leaf(inner, field, depth + 1)
            elif kind is int:
                out[field.shown] = self._number(inner, field.hint)
            elif kind in _PLAIN:
                out[field.shown] = inner
            else:
                out[field.shown] = self._value(inner, field, depth + 1)
        return out

    def _field(self, key: str) -> _Field:
        """Return what is known of a field by its name; remembered, as names come again."""
        kind = kind_of(key)
        if kind is None and self._marked and plain_key(key) in self._marked:
            kind = "MARKED"
        field = _Field(self.text(key), kind, hint_of(key), key.lower() in FREE)
        if len(key) <= _MEMO_PLAIN:
            if len(self._fields) >= _MEMO_FIELDS:
                self._fields.clear()
            self._fields[key] = field
        return field

    def _whole(self, kind: str, value: Any, depth: int) -> Any:
        """Return what stands for the value of a field whose name says what it holds."""
        if value is None or isinstance(value, bool) or value == "" or depth > 50:
            return value if depth <= 50 else "<REDACTED:too deep>"
        if isinstance(value, str):
            return value if _TOKEN.fullmatch(value) else self._token_of(None, kind, value)
        if isinstance(value, int | float):
            return self._token_of(None, kind, str(value))
        if isinstance(value, msgspec.Struct):
            value = msgspec.to_builtins(value)
        if isinstance(value, Mapping):
            return {
                self.text(key_text(k)): self._whole(kind, v, depth + 1) for k, v in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._whole(kind, v, depth + 1) for v in value]
        return f"<{type(value).__qualname__}>"

    def _leaf(self, text: str, field: _Field, depth: int) -> str:
        before = self.dropped
        if text[:1] in "{[" and text[-1:] in "}]" and len(text) > 1:
            shown = self._embedded_json(text, depth)
        else:
            shown = self.text(text, hint=field.hint, alone=field.free)
        if len(text) <= _MEMO_PLAIN and self.dropped == before:
            if len(field.seen) >= _MEMO_SEEN:
                field.seen.clear()
            field.seen[text] = shown
        return shown

    def _number(self, value: int, hint: str) -> Any:
        if -_SHORT < value < _SHORT and (not hint or -_SHORT_NAMED < value < _SHORT_NAMED):
            return value  # no number that short is anything without a word
        spelt = str(value)
        shown = self.text(spelt, hint=hint, alone=False)
        return value if shown == spelt else shown

    def _embedded_json(self, text: str, depth: int) -> str:
        """Redact JSON inside a string (tool arguments travel so) by its keys too."""
        try:
            parsed = msgspec.json.decode(text)
        except (msgspec.MsgspecError, UnicodeEncodeError):
            parsed = None
        redacted = self.value(parsed, depth=depth + 1)
        if redacted != parsed:
            text = msgspec.json.encode(redacted).decode()
        return self._replaced(text, self.spans(text, alone=False))


@lru_cache(maxsize=64)
def _pads(key: bytes) -> tuple[Any, Any]:
    """Return SHA-256 over the two pads of HMAC (RFC 2104): most of what a token costs."""
    block = (key if len(key) <= 64 else hashlib.sha256(key).digest()).ljust(64, b"\0")
    return tuple(hashlib.sha256(bytes(b ^ pad for b in block)) for pad in (0x36, 0x5C))  # type: ignore[return-value]


def _kept(text: str) -> str:
    """Return `text` with what UTF-8 cannot carry spelt out: nothing that is kept can hold it."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


@lru_cache(maxsize=4096)
def _harmless(hint: str) -> bool:
    """Return whether a hint lets no row run: each reads the value alone, so that must."""
    return not hint or _gate()(f"{hint} ".encode()) is None


@cache
def _marks_set(names: tuple[str, ...]) -> Callable[[bytes], list[int] | None]:
    return pattern_set(
        [r"(?i)" + "[^0-9A-Za-z]?".join(map(re.escape, n)) + r"\\*\"" for n in names]
    )

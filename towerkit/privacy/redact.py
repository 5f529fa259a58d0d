"""Finding personal data and secrets in text, and replacing them by keyed tokens.

Rule: the same value, key and class always give the same token, so joins, drift and replay keep
working on redacted evidence; redacting twice changes nothing; a text that cannot be read is
replaced as a whole.

A token is `<CLASS:kid:T>` with T the first 16 characters of base32(HMAC-SHA-256(key, CLASS ‖ 0 ‖
normalised value)): 80 bits. It is a pseudonym, not anonymity.
"""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import msgspec

REDACTOR_VERSION = "1"
Capture = Literal["redacted", "digests", "off"]


class Detector(msgspec.Struct, frozen=True):
    """One class of sensitive text: an RE2 pattern, a check on the match, a normal form."""

    name: str
    pattern: str
    valid: Callable[[str], bool] | None = None
    normal: Callable[[str], str] | None = None


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())


def _alnum(text: str) -> str:
    return "".join(c for c in text if c.isalnum()).upper()


def luhn(text: str) -> bool:
    """Return whether the digits of `text` make a card number: 13 to 19, Luhn (ISO/IEC 7812)."""
    digits = [int(d) for d in _digits(text)]
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [d if i % 2 == 0 else sum(divmod(2 * d, 10)) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def iban(text: str) -> bool:
    """Return whether `text` is an IBAN: check digits modulo 97 (ISO 13616)."""
    plain = _alnum(text)
    if not 15 <= len(plain) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def ssn(text: str) -> bool:
    """Return whether `text` can be a US social security number (area and group rules)."""
    area, group, serial = text[:3], text[4:6], text[7:]
    return area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"


def _phone(text: str) -> bool:
    return 10 <= len(_digits(text)) <= 15


# Order matters where two could match at one place: the earlier wins.
DETECTORS: tuple[Detector, ...] = (
    Detector("PRIVATE_KEY", r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[A-Za-z0-9+/=\s]*"),
    Detector("JWT", r"\beyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"),
    Detector(
        "SECRET",
        r"\b(?:sk-(?:ant-|proj-)?[A-Za-z0-9_-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}"
        r"|gh[pousr]_[A-Za-z0-9]{30,}|github_pat_[A-Za-z0-9_]{30,}"
        r"|xox[abposr]-[A-Za-z0-9-]{10,}|AIza[A-Za-z0-9_-]{35}|hf_[A-Za-z0-9]{30,})",
    ),
    Detector("BEARER", r"(?i:\bbearer )[A-Za-z0-9._~+/=-]{16,}"),
    Detector("URL_PASSWORD", r"[a-z][a-z0-9+.-]{1,20}://[^\s/:@]{1,64}:[^\s/@]{1,64}@"),
    Detector(
        "EMAIL",
        r"[A-Za-z0-9][A-Za-z0-9._%+'-]{0,63}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,6}",
        None,
        str.casefold,
    ),
    Detector("IBAN", r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,30}\b", iban, _alnum),
    Detector(
        "CARD",
        r"\b(?:[0-9]{13,19}|[0-9]{4}(?:[ -][0-9]{4}){2,3}(?:[ -][0-9]{1,4})?"
        r"|[0-9]{4}[ -][0-9]{6}[ -][0-9]{4,5})\b",
        luhn,
        _digits,
    ),
    Detector("SSN", r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b", ssn),
    Detector(
        "PHONE",
        r"(?:\+[0-9]{1,3}[ .-]?)?\(?[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}\b"
        r"|\+[0-9](?:[ .-]?[0-9]){8,14}\b",
        _phone,
        _digits,
    ),
)

# Fields whose whole value goes, whatever it looks like.
SECRET_KEYS = {
    "password": "SECRET", "passwd": "SECRET", "secret": "SECRET", "api_key": "SECRET",
    "apikey": "SECRET", "authorization": "SECRET", "cookie": "SECRET", "access_token": "SECRET",
    "ssn": "SSN", "dob": "DOB", "date_of_birth": "DOB", "card_number": "CARD",
}  # fmt: skip

_TOKEN = r"<[A-Z_]{2,16}:[a-z0-9]{1,16}:[A-Z2-7]{16}>"  # noqa: S105  a pattern, not a password
_MEMO_LIMIT = 4096


# Detectors without a check match as they stand; the others are short numbers that look alike.
_PLAIN = tuple(d for d in DETECTORS if d.valid is None)
_CHECKED = tuple(d for d in DETECTORS if d.valid is not None)
_WINDOW, _LONGEST = 4096, 64  # bytes: a window of checked search, the longest checked match


@cache
def _compiled(*patterns: str) -> Any:
    import re2  # noqa: PLC0415  an agent's process pays when it first redacts

    options = re2.Options()
    options.log_errors = False
    return re2.compile("|".join(patterns), options=options)


# What the gate looks for: every detector in a looser form, so that it finds at least as much, in
# raw text as in JSON (where an escape may stand before a match, and is longer than what it spells);
# and the names of secret fields, in JSON within JSON too.
_LOOSE_URL = r"://[^\s/:@]{1,400}:[^\s/@]{1,400}@"
# ASCII spelt out in JSON within JSON may spell anything; with a lone surrogate, all is spelt out.
_ESCAPED = r"\\\\u00[2-7]|\\u[dD][89a-fA-F]"
_NAMED_FIELD = r"(?i)(?:{names})\\*\""


@cache
def _gate() -> Any:
    import re2  # noqa: PLC0415  an agent's process pays when it first redacts

    options = re2.Options()
    options.log_errors = False
    gate = re2.Set.SearchSet(options)
    for detector in DETECTORS:
        loose = _LOOSE_URL if detector.name == "URL_PASSWORD" else detector.pattern
        gate.Add(loose.replace(r"\b", ""))
    gate.Add(_NAMED_FIELD.format(names="|".join(SECRET_KEYS)))
    gate.Add(_ESCAPED)
    gate.Compile()
    return gate.Match


def _group(detector: Detector) -> str:
    return f"(?P<{detector.name}>{detector.pattern})"


@cache
def _plain_scanner() -> Any:
    return _compiled(f"(?P<TOKEN>{_TOKEN})", *map(_group, _PLAIN))


@cache
def _checked_scanner() -> Any:
    return _compiled(*map(_group, _CHECKED))


class Redactor:
    """Replaces what the detectors find. One per key; safe to share between threads.

    `capture="digests"` keeps only digests of content, `"off"` keeps nothing.
    """

    def __init__(self, key: bytes, *, kid: str, capture: Capture = "redacted") -> None:
        """Use `key` (32 bytes) for tokens and content digests; `kid` names it in packs."""
        self.key, self.kid, self.capture = key, kid, capture
        self.found = 0
        self._memo: dict[str, str] = {}
        self._by_name = {d.name: d for d in DETECTORS}

    def describe(self) -> dict[str, str]:
        """Return what a manifest says of the redactor."""
        return {"version": REDACTOR_VERSION, "key_id": self.kid, "capture": self.capture}

    def token(self, name: str, value: str) -> str:
        """Return the token of a value of class `name`."""
        mac = hmac.digest(self.key, f"{name}\0{value}".encode("utf-8", "surrogatepass"), "sha256")
        return f"<{name}:{self.kid}:{base64.b32encode(mac)[:16].decode()}>"

    def text(self, text: str) -> str:
        """Return `text` with every finding replaced."""
        known = self._memo.get(text)
        if known is not None:
            return known
        result = self._scan(text)
        if len(self._memo) >= _MEMO_LIMIT:
            self._memo.clear()
        self._memo[text] = result
        return result

    def json(self, data: bytes, *, encode: Callable[[Any], bytes]) -> bytes:
        """Return JSON `data` with keys and leaves redacted; `encode` spells what was changed.

        What the gate lets pass is not even read.
        """
        if not _gate()(data):
            return data
        try:
            value = msgspec.json.decode(data)
        except msgspec.DecodeError:
            value = json.loads(data)  # lone surrogates, which msgspec does not read
        return encode(self.value(value))

    def _scan(self, text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:
            # RE2 reads UTF-8; spell lone surrogates out rather than skip the text.
            text = text.encode("utf-8", "backslashreplace").decode()
        data, out, at = text.encode(), [], 0
        if not _gate()(data):
            return text
        for match in _plain_scanner().finditer(data):
            found = match.group().decode()
            detector = self._by_name.get(match.lastgroup)
            replacement = found if detector is None else self._replace(detector, found)
            out += [self._scan_checked(data[at : match.start()]), replacement.encode()]
            at = match.end()
        return b"".join([*out, self._scan_checked(data[at:])]).decode()

    def _replace(self, detector: Detector, value: str) -> str:
        self.found += 1
        return self.token(detector.name, detector.normal(value) if detector.normal else value)

    def _scan_checked(self, data: bytes) -> bytes:
        """Replace numbers whose check holds.

        Matches are short, so the search goes through small windows: a false start costs a step of
        one separator, not a scan of the rest.
        """
        out: list[bytes] = []
        kept = at = 0
        while at < len(data):
            base = max(0, at - 1)  # one byte of context, so that a word boundary is a true one
            window = data[base : base + _WINDOW]
            match = _checked_scanner().search(window, at - base)
            if match is None:
                if base + _WINDOW >= len(data):
                    break
                at = base + _WINDOW - _LONGEST
                continue
            start = base + match.start()
            detector, value = _best(window, match.start())
            if detector is None:
                at = start + _step(match.group())
                continue
            out += [data[kept:start], self._replace(detector, value).encode()]
            kept = at = start + len(value)
        return b"".join([*out, data[kept:]])

    def value(self, value: Any, *, depth: int = 0) -> Any:
        """Return a JSON-able `value` with keys and leaves redacted; the original is untouched."""
        if isinstance(value, str):
            return self.text(value)
        if value is None or isinstance(value, bool | int | float):
            return value
        if depth > 50:
            return "<REDACTED:too deep>"
        if isinstance(value, dict):
            return {self.text(str(k)): self._field(str(k), v, depth) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(v, depth=depth + 1) for v in value]
        if isinstance(value, msgspec.Struct):
            return self.value(msgspec.to_builtins(value), depth=depth + 1)
        return f"<{type(value).__qualname__}>"

    def _field(self, key: str, value: Any, depth: int) -> Any:
        name = SECRET_KEYS.get(key.lower())
        if name is not None and isinstance(value, str) and value and not _is_token(value):
            self.found += 1
            return self.token(name, value)
        if isinstance(value, str) and value[:1] in "{[" and value[-1:] in "}]":
            return self._embedded_json(value, depth)
        return self.value(value, depth=depth + 1)

    def _embedded_json(self, text: str, depth: int) -> str:
        """Redact JSON inside a string (tool arguments travel so) by its keys too."""
        try:
            parsed = msgspec.json.decode(text)
        except (msgspec.MsgspecError, UnicodeEncodeError):
            return self.text(text)
        redacted = self.value(parsed, depth=depth + 1)
        if redacted == parsed:
            return self.text(text)
        return self.text(msgspec.json.encode(redacted).decode())


def _best(window: bytes, at: int) -> tuple[Detector | None, str]:
    """Return the first checked detector that accepts what stands at `at`, and the accepted text."""
    for detector in _CHECKED:
        match = _compiled(detector.pattern).match(window, at)
        value = _longest_valid(detector, match.group().decode()) if match else ""
        if value:
            return detector, value
    return None, ""


def _step(found: bytes) -> int:
    """Return how far to go on after a false start: past its first separator."""
    cuts = [i for i in (found.find(b" "), found.find(b"-")) if i >= 0]
    return min(cuts) + 1 if cuts else max(1, len(found))


def _longest_valid(detector: Detector, found: str) -> str:
    """Return the longest prefix of a match, cut at separators, that the detector's check takes.

    Patterns are greedy: a card number followed by another number is one match.
    """
    while found:
        if detector.valid is None or detector.valid(found):
            return found
        found = found[: max(found.rfind(" "), found.rfind("-"), 0)]
    return ""


def _is_token(text: str) -> bool:
    return text.startswith("<") and text.endswith(">") and text.count(":") == 2

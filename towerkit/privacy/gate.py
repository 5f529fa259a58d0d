"""The gate: one pass of one small automaton that lets most texts go untouched.

Rule: a row of `detectors` runs only where one of its triggers is met, and every text that a row
could match meets one. Triggers are short, so that their automaton stays small whatever it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from towerkit.privacy.detectors import Detector
from towerkit.privacy.views import ESCAPE, WRAP

# 24 characters of a key, an address of a chain or base64; a digest or a UUID is none of them.
_RUN = "[A-Za-z0-9+/_.-]"
_LONG = "|".join(f"{_RUN}{{{i}}}[A-Zg-z+/_]{_RUN}{{{23 - i}}}" for i in range(24))

TRIGGERS: dict[str, str] = {
    "at": r"[^\s@]@[A-Za-z0-9\[]",
    "number": r"[0-9](?:[^0-9A-Za-z\n]{0,3}[0-9]){6}|[0-9]{2}[ .-][0-9]{2}[ .-][0-9]{2}"
    r"|[0-9]{2,3}[ -][0-9]{3,4}",
    "dots": r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]",
    "colon": r"[0-9A-Fa-f]:[0-9A-Fa-f]{0,4}:|::[0-9A-Fa-f/]"
    r"|[0-9A-Fa-f]{2}-[0-9A-Fa-f]{2}-[0-9A-Fa-f]{2}-|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.",
    "mixed": r"[A-Za-z]{2}[ -]?[0-9]{2}[ -]?[0-9]{2}[ -]?[0-9]{2}[ -]?[A-Da-d]|[A-Za-z]{5}[0-9]{4}"
    r"|[A-Za-z][0-9]{2}[A-Za-z][0-9]{2}|[A-Za-z]{6}[0-9][0-9LMNPQRSTUVlmnpqrstuv][A-Za-z]"
    r"|[0-9][A-Za-z][A-Za-z0-9][0-9][ -]?[A-Za-z][A-Za-z0-9][0-9]"
    r"|[0-9]{4}[A-Za-z][0-9]{3}|[A-Za-z0-9]{13}[0-9]{4}|[A-Za-z][0-9]{2}[A-Za-z]{2}[0-9]{4}"
    r"|(?i:\b[CFGHJ-NPRTV-Z][0-9CFGHJ-NPRTV-Z]{7,8}[0-9]\b)",
    "iban": r"[A-Za-z]{2}[0-9]{2}[ .-]?[A-Za-z0-9]{4}",
    "long": _LONG,
    "prefix": r"sk-[A-Za-z0-9_-]{16}|A[A-Z]{2}A[A-Z0-9]{16}|xox[a-z]|xapp-|[a-z]{2}_[A-Za-z]{4}_"
    r"|key-[0-9a-f]",
    "pem": r"PRIVATE KEY",
    "bearer": r"(?i:bearer |basic |token )",
    "assign": r"(?i:pass|pwd|secret|token|key|auth|sig|credential)[A-Za-z_ \"'-]{0,24}[:=]"
    r"|(?i:pass|pwd|secret|token|key|credential)[A-Za-z_ \"'-]{0,12} is ",
    "birth": r"(?i:born|birth|dob|bday|gebor|geburt|naiss|nacim|nasc)",
    "papers": r"(?i:passp|pasap|passap|reisep|paspo|passnu|ausweis|licen|driv|fuhrer|patente)",
    "escape": ESCAPE,
    # A digit beside what parts two lines or columns: see `views.joined`. One digit is a list's.
    "parted": rf"[0-9][A-Za-z]{{0,3}}(?:{WRAP}| {{2,3}})[0-9A-Za-z]"
    rf"|[0-9A-Za-z](?:{WRAP}| {{2,3}})[A-Za-z]{{0,3}}[0-9][0-9A-Za-z]",
}
_LETTERED = {"IT_FISCAL_CODE", "UK_DRIVING_LICENCE", "US_MBI", "UK_NINO", "VIN", "IN_GSTIN",
             "IN_PAN", "SG_UEN", "FI_PERSONAL_IDENTITY_CODE", "DE_SOCIAL_SECURITY",
             "FR_NIR"}  # fmt: skip
_BY_NAME = {
    "PRIVATE_KEY": ("pem",), "JWT": ("long",), "BEARER": ("bearer",), "URL_PASSWORD": ("at",),
    "URL_SECRET": ("assign",), "IBAN": ("iban",), "CRYPTO": ("long",), "EMAIL": ("at",),
    "MAC": ("colon",), "IP": ("colon", "dots"), "DOB": ("birth",),
    "MX_CURP": ("iban",), "DE_PASSPORT": ("mixed", "number", "papers"),
    "DE_ID_CARD": ("mixed", "number", "papers"),
    "PASSPORT": ("papers",), "DRIVER_LICENSE": ("papers",), "SECRET": ("prefix", "long", "assign"),
}  # fmt: skip


def triggers_of(row: Detector) -> tuple[str, ...]:
    """Return which triggers let a row run."""
    if row.name in _LETTERED:
        return ("mixed", "number")
    return _BY_NAME.get(row.name, ("number",))


@cache
def _options() -> Any:
    import re2  # noqa: PLC0415  an agent's process pays when it first redacts

    options = re2.Options()
    options.log_errors = False
    options.max_mem = 16 << 20
    return options


def pattern_set(patterns: Sequence[str]) -> Callable[[bytes], list[int] | None]:
    """Return a function from bytes to the numbers of the patterns they meet, in one pass.

    It returns None where they meet none.
    """
    import re2  # noqa: PLC0415  as above

    made = re2.Set.SearchSet(_options())
    for pattern in patterns:
        made.Add(pattern)
    made.Compile()
    return made.Match  # type: ignore[no-any-return]


@cache
def gate() -> Callable[[bytes], list[int] | None]:
    """Return the triggers' set: from bytes to the numbers of the triggers they meet."""
    return pattern_set(tuple(TRIGGERS.values()))


@cache
def compiled(pattern: str) -> Any:
    """Return a pattern ready to search bytes."""
    import re2  # noqa: PLC0415  as above

    return re2.compile(pattern, options=_options())

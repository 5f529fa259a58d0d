"""Fields whose name says what they hold: the whole value goes, whatever it looks like.

Rule: a name is compared without case, separators and accents. Fields of free text are the only
ones whose value may be nothing but a number and still be judged by its check digit alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from towerkit.privacy.detectors import WEAK
from towerkit.privacy.find import near_words
from towerkit.privacy.views import fold

_NAMES = {
    "SECRET": (
        "password passwd passphrase pwd secret api_key x_api_key x_goog_api_key authorization "
        "proxy_authorization cookie set_cookie access_token refresh_token auth_token bearer_token "
        "session_token security_token id_token client_secret private_key secret_key access_key "
        "secret_access_key signing_key credentials connection_string cvv cvc cvv2"
    ),
    "EMAIL": "email email_address e_mail e_mail_address",
    "PHONE": (
        "phone phone_number mobile mobile_number mobile_phone cell_phone telephone "
        "telephone_number fax fax_number cell cell_number contact_number work_phone home_phone "
        "office_phone phone_no"
    ),
    "ADDRESS": (
        "address street street_address address1 address2 address_line_1 address_line_2 "
        "home_address billing_address shipping_address mailing_address postal_address zip_code "
        "postal_code postcode"
    ),
    "DOB": "dob date_of_birth birth_date birthday",
    "SSN": "ssn social_security social_security_number",
    "CARD": "card_number credit_card credit_card_number cc_number",
    "IBAN": "iban",
    "BANK_ACCOUNT": "bank_account bank_account_number account_number",
    "ABA_ROUTING_NUMBER": "routing_number",
    "PASSPORT": "passport passport_number passport_no",
    "DRIVER_LICENSE": (
        "drivers_license driver_license drivers_license_number driver_license_number "
        "driving_licence driving_licence_number license_number"
    ),
    "NATIONAL_ID": "national_id national_id_number tax_id tax_id_number",
    "NAME": "first_name last_name full_name surname given_name family_name middle_name maiden_name",
    "GEO": "latitude longitude",
    "MEDICAL_RECORD": "mrn medical_record_number",
}
KEYS: dict[str, str] = {
    name.replace("_", ""): kind for kind, names in _NAMES.items() for name in names.split()
}
# The gate's form of the names: any separators, and a quote behind them.
PATTERN = (
    r"(?i)(?:"
    + "|".join(
        name.replace("_", "[^0-9A-Za-z]?") for names in _NAMES.values() for name in names.split()
    )
    + r")\\*\""
)
FREE = frozenset({
    "content", "text", "message", "messages", "input", "output", "body", "query", "question",
    "answer", "prompt", "result", "results", "arguments", "description", "note", "notes", "comment",
    "thinking", "reasoning", "summary", "title", "",
})  # fmt: skip
_WORDS = frozenset().union(*(near_words(row) for row in WEAK))


def plain_key(key: str) -> str:
    """Return a field's name as names are compared."""
    return "".join(c for c in fold(key).text.lower() if c.isalnum())


@lru_cache(maxsize=4096)
def kind_of(key: str) -> str | None:
    """Return the class of a field whose name says that all of it goes."""
    return KEYS.get(plain_key(key))


@lru_cache(maxsize=4096)
def hint_of(key: str) -> str:
    """Return the words of a field's name, where a detector looks for one of them."""
    words = "".join(c if c.isalpha() else " " for c in _split_case(fold(key).text)).lower().split()
    return " ".join(words) if _WORDS & set(words) else ""


def _split_case(key: str) -> str:
    return "".join(
        f" {c}" if c.isupper() and key[i - 1 : i].islower() else c for i, c in enumerate(key)
    )


def marked_in(tools: Any) -> frozenset[str]:
    """Return the names of the properties that tool schemas mark with `"x-pii": true`."""
    found: set[str] = set()
    _collect(tools, "", found, depth=0)
    return frozenset(found)


def _collect(value: Any, name: str, found: set[str], *, depth: int) -> None:
    if depth > 20:
        return
    if isinstance(value, Mapping):
        if value.get("x-pii") is True and name:
            found.add(plain_key(name))
        for key, inner in value.items():
            _collect(inner, str(key), found, depth=depth + 1)
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for inner in value:
            _collect(inner, name, found, depth=depth + 1)

"""What tells a real number from one that only looks like it: check digits, lengths, ranges.

Rule: a check is a plain function of the matched text to True or False, in time linear in the text.
National numbers are python-stdnum's business; it is imported when one is first met.
"""

from __future__ import annotations

import hashlib
import importlib
import ipaddress
import re
from collections.abc import Callable
from functools import cache
from typing import Any

_NOT_DIGITS = re.compile(r"[^0-9]+")


def digits(text: str) -> str:
    """Return the digits of `text`."""
    return text if text.isdigit() else _NOT_DIGITS.sub("", text)


def alnum(text: str) -> str:
    """Return the letters and digits of `text`, in capitals."""
    return "".join(c for c in text if c.isalnum()).upper()


_DOUBLED = bytes.maketrans(b"0123456789", b"0246813579")


def luhn_sum(number: str) -> int:
    """Return the Luhn sum of a string of digits; a good number's ends in 0 (ISO/IEC 7812)."""
    data = number.encode()[::-1]
    return sum(data[::2]) + sum(data[1::2].translate(_DOUBLED)) - 48 * len(data)


# First digits → lengths of a card number (ISO/IEC 7812 ranges as the schemes publish them).
_CARD_RANGES: tuple[tuple[int, int, frozenset[int]], ...] = tuple(
    (int(low.ljust(6, "0")), int(high.ljust(6, "9")), frozenset(lengths))
    for low, high, lengths in (
        ("4", "4", (13, 16, 19)),  # Visa
        ("51", "55", (16,)), ("2221", "2720", (16,)),  # Mastercard
        ("34", "34", (15,)), ("37", "37", (15,)),  # American Express
        ("6011", "6011", (16, 17, 18, 19)), ("644", "65", (16, 17, 18, 19)),  # Discover
        ("300", "305", (14, 16, 17, 18, 19)), ("3095", "3095", (14, 16, 17, 18, 19)),  # Diners
        ("36", "36", (14, 16, 17, 18, 19)), ("38", "39", (14, 16, 17, 18, 19)),
        ("3528", "3589", (16, 17, 18, 19)),  # JCB
        ("62", "62", (16, 17, 18, 19)), ("81", "81", (16, 17, 18, 19)),  # UnionPay, RuPay
        ("1800", "1800", (15,)), ("2131", "2131", (15,)),  # old JCB
        ("2200", "2204", (16, 17, 18, 19)),  # Mir
        ("50", "50", (16, 17, 18, 19)), ("56", "58", (16, 17, 18, 19)), ("60", "60", (16,)),
        ("63", "643", (16, 17, 18, 19)), ("66", "69", (16, 17, 18, 19)),  # Maestro and local ones
        ("5018", "5018", (12, 13, 14, 15)), ("5020", "5020", (12, 13, 14, 15)),
        ("5038", "5038", (12, 13, 14, 15)), ("5893", "5893", (12, 13, 14, 15)),
        ("6304", "6304", (12, 13, 14, 15)), ("6759", "6759", (12, 13, 14, 15)),
        ("6761", "6763", (12, 13, 14, 15)),
        ("9792", "9792", (16,)),  # Troy
    )
)  # fmt: skip


def luhn(text: str) -> bool:
    """Return whether the digits of `text` have the length and check digit of a card number."""
    number = digits(text)
    return 12 <= len(number) <= 19 and len(set(number)) > 1 and luhn_sum(number) % 10 == 0


def card(text: str) -> bool:
    """Return whether `text` is a card number: Luhn, and a length its first digits allow."""
    number = digits(text)
    if not 12 <= len(number) <= 19 or not luhn(number):
        return False
    head, size = int(number[:6]), len(number)
    return any(low <= head <= high and size in sizes for low, high, sizes in _CARD_RANGES)


_IBAN_SIZES = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22,
    "BI": 27, "BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27,
    "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27,
    "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HN": 28, "HR": 21, "HU": 28,
    "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28,
    "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22,
    "MK": 19, "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23,
    "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24,
    "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "SO": 23, "ST": 25, "SV": 28,
    "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20, "YE": 30,
}  # fmt: skip


def iban(text: str) -> bool:
    """Return whether `text` is an IBAN: its country's length, check digits mod 97 (ISO 13616)."""
    plain = alnum(text)
    if len(plain) != _IBAN_SIZES.get(plain[:2]):
        return False
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def iban_cut(found: str) -> str:
    """Return the part of a greedy match that its country's length takes."""
    size = _IBAN_SIZES.get(found[:2].upper())
    if size is None:
        return ""
    seen = 0
    for i, c in enumerate(found):
        seen += c.isalnum()
        if seen == size:
            ends = i + 1 == len(found) or not found[i + 1].isalnum()
            return found[: i + 1] if ends else ""
    return ""


def ssn(text: str) -> bool:
    """Return whether `text` can be a US social security number (area, group and serial rules)."""
    number = digits(text)
    area, group, serial = number[:3], number[3:5], number[5:]
    good = area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"
    return good and number != "078051120"  # printed on sample cards: nobody's


def itin(text: str) -> bool:
    """Return whether `text` can be a US individual taxpayer number."""
    group = int(digits(text)[3:5])
    return 50 <= group <= 65 or 70 <= group <= 88 or 90 <= group <= 92 or 94 <= group <= 99


def aba(text: str) -> bool:
    """Return whether `text` is an ABA routing number: 3-7-1 weights."""
    number = digits(text)
    total = sum(int(c) * w for c, w in zip(number, (3, 7, 1) * 3, strict=True))
    return total % 10 == 0 and len(set(number)) > 1


def npi(text: str) -> bool:
    """Return whether `text` is a US provider number: Luhn with the prefix 80840."""
    number = digits(text)
    return len(set(number[1:-1])) > 1 and luhn_sum("80840" + number) % 10 == 0


def dea(text: str) -> bool:
    """Return whether `text` is a DEA registration: the digits' own check."""
    d = [int(c) for c in text[-7:]]
    return (d[0] + d[2] + d[4] + 2 * (d[1] + d[3] + d[5])) % 10 == d[6] and len(set(d)) > 1


_VIN_VALUES = dict(zip("ABCDEFGHJKLMNPRSTUVWXYZ", "12345678123457923456789", strict=True))
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)


def vin(text: str) -> bool:
    """Return whether `text` is a vehicle identification number with its check digit (ISO 3779)."""
    plain = text.upper()
    if plain.isdigit() or plain.isalpha() or not plain[-4:].isdigit():
        return False
    values = (int(_VIN_VALUES.get(c, c)) for c in plain)
    rest = sum(v * w for v, w in zip(values, _VIN_WEIGHTS, strict=True)) % 11
    return plain[8] == ("X" if rest == 10 else str(rest))


_BASE58 = {c: i for i, c in enumerate("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz")}
_RIPPLE = {c: i for i, c in enumerate("rpshnaf39wBUDNEGHJKLM4PQRST7VWXYZ2bcdeCg65jkm8oFqi1tuvAxyz")}


def _base58check(text: str, alphabet: dict[str, int], zero: str) -> bool:
    number = 0
    for c in text:
        number = number * 58 + alphabet[c]
    zeros = len(text) - len(text.lstrip(zero))
    data = b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
    body, check = data[:-4], data[-4:]
    return hashlib.sha256(hashlib.sha256(body).digest()).digest()[:4] == check


def _bech32(text: str) -> bool:
    low = text.lower()
    if text not in {low, text.upper()}:
        return False
    prefix, _, data = low.rpartition("1")
    chars = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    values = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    values += [chars.index(c) for c in data]
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, g in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= g if top >> i & 1 else 0
    return check in {1, 0x2BC830A3}


def crypto(text: str) -> bool:
    """Return whether `text` is an address of a chain: base58check, bech32, or 0x and 40 digits."""
    if text[:2] in {"0x", "0X"}:
        return len(set(text[2:].lower())) > 4
    if text[:3].lower() in {"bc1", "tb1", "ltc"}:
        return _bech32(text)
    if text[0] == "r":
        return all(c in _RIPPLE for c in text) and _base58check(text, _RIPPLE, "r")
    return _base58check(text, _BASE58, "1")


def wif(text: str) -> bool:
    """Return whether `text` is a private key in wallet import format, or an extended one."""
    return _base58check(text, _BASE58, "1")


def ip(text: str) -> bool:
    """Return whether `text` is an IP address that names one machine or net, with its prefix."""
    address, slash, prefix = text.partition("/")
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if slash and int(prefix) > found.max_prefixlen:
        return False
    if found.version == 4:
        return True
    # `a::b` is a name in more programs than it is an address.
    return any(c.isdigit() for c in address) or address.count(":") >= 4 or text == "::"


def mac(text: str) -> bool:
    """Return whether `text` is the address of one interface, not of none or all, nor two dates."""
    plain = alnum(text)
    dates = "-" in text and plain.isdigit() and all(int(part) <= 31 for part in text.split("-"))
    return len(set(plain)) > 1 and not dates


def geo(text: str) -> bool:
    """Return whether `text` is a latitude and a longitude."""
    numbers = text.replace(";", " ").replace(",", " ").split()
    return len(numbers) == 2 and abs(float(numbers[0])) <= 90 and abs(float(numbers[1])) <= 180


def nino(text: str) -> bool:
    """Return whether `text` can be a UK national insurance number: prefixes that are given out."""
    return alnum(text)[:2] not in {"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"}


def medicare_au(text: str) -> bool:
    """Return whether `text` is an Australian Medicare number: weights 1, 3, 7, 9."""
    number = digits(text)
    weights = (1, 3, 7, 9, 1, 3, 7, 9)
    return sum(int(c) * w for c, w in zip(number[:8], weights, strict=True)) % 10 == int(number[8])


def tfn_au(text: str) -> bool:
    """Return whether `text` is an Australian tax file number of nine digits."""
    weights = (1, 4, 3, 7, 5, 8, 6, 9, 10)
    return sum(int(c) * w for c, w in zip(digits(text), weights, strict=True)) % 11 == 0


def rvnr_de(text: str) -> bool:
    """Return whether `text` is a German pension insurance number."""
    plain = alnum(text)
    day, month = int(plain[2:4]), int(plain[4:6])
    if not (1 <= day <= 31 or 51 <= day <= 81) or not 1 <= month <= 12:
        return False
    line = plain[:8] + f"{ord(plain[8]) - 64:02d}" + plain[9:11]
    weights = (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1)
    total = sum(sum(divmod(int(c) * w, 10)) for c, w in zip(line, weights, strict=True))
    return total % 10 == int(plain[11])


def kvnr_de(text: str) -> bool:
    """Return whether `text` is a German health insurance number."""
    plain = alnum(text)
    line = f"{ord(plain[0]) - 64:02d}" + plain[1:9]
    total = sum(sum(divmod(int(c) * (1 + i % 2), 10)) for i, c in enumerate(line))
    return total % 10 == int(plain[9])


def icao_de(text: str) -> bool:
    """Return whether `text` is the number of a German passport or identity card (weights 7 3 1)."""
    plain = alnum(text)
    total = sum(int(c, 36) * (7, 3, 1)[i % 3] for i, c in enumerate(plain[:-1]))
    return plain[-1].isdigit() and total % 10 == int(plain[-1])


def lanr_de(text: str) -> bool:
    """Return whether `text` is a German physician's number."""
    total = sum(int(c) * (4, 9)[i % 2] for i, c in enumerate(text[:6]))
    return (10 - total % 10) % 10 == int(text[6])


def nric_sg(text: str) -> bool:
    """Return whether `text` is a Singapore identity number with its check letter."""
    plain = text.upper()
    total = sum(int(c) * w for c, w in zip(plain[1:8], (2, 7, 6, 5, 4, 3, 2), strict=True))
    total += {"T": 4, "G": 4, "M": 3}.get(plain[0], 0)
    letters = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "M": "XWUTRQPNJLK"}
    table = letters.get(plain[0], "XWUTRQPNMLK")
    index = total % 11
    return plain[8] == (table[10 - index] if plain[0] == "M" else table[index])


def brn_kr(text: str) -> bool:
    """Return whether `text` is a Korean business number."""
    d = [int(c) for c in digits(text)]
    total = (
        sum(a * b for a, b in zip(d, (1, 3, 7, 1, 3, 7, 1, 3, 5), strict=False)) + d[8] * 5 // 10
    )
    return (10 - total % 10) % 10 == d[9]


def rrn_kr(text: str) -> bool:
    """Return whether `text` can be a Korean resident or foreigner number: a date and a century.

    Since 2020 there is no check digit.
    """
    number = digits(text)
    return _month_day(number[2:6]) and number[6] in "12345678"


def personnummer_se(text: str) -> bool:
    """Return whether `text` is a Swedish personal number: a date, and Luhn over ten digits."""
    number = digits(text)[-10:]
    day = int(number[4:6])
    date = number[2:4] + f"{day - 60 if day > 60 else day:02d}"
    return _month_day(date) and luhn_sum(number) % 10 == 0


def pesel_pl(text: str) -> bool:
    """Return whether `text` is a Polish PESEL."""
    number = digits(text)
    weights = (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)
    dated = _month_day(f"{int(number[2:4]) % 20:02d}" + number[4:6])
    return dated and sum(int(c) * w for c, w in zip(number, weights, strict=True)) % 10 == 0


def hetu_fi(text: str) -> bool:
    """Return whether `text` is a Finnish identity code: a date, and the remainder of 31."""
    number = int(text[:6] + text[7:10])
    return _month_day(text[2:4] + text[:2]) and text[10].upper() == _HETU[number % 31]


_HETU = "0123456789ABCDEFHJKLMNPRSTUVWXY"


def idnr_de(text: str) -> bool:
    """Return whether `text` is a German tax number for life (ISO 7064, mod 11, 10)."""
    number, rest = digits(text), 10
    for c in number[:-1]:
        rest = (rest + int(c)) % 10 or 10
        rest = rest * 2 % 11
    return len(set(number)) > 2 and (11 - rest) % 10 == int(number[-1])


def dni_es(text: str) -> bool:
    """Return whether `text` is a Spanish identity number: the letter for the rest of 23."""
    plain = alnum(text)
    return plain[-1] == "TRWAGMYFPDXBNJZSQVHLCKE"[int(plain[:-1]) % 23]


def id_za(text: str) -> bool:
    """Return whether `text` is a South African identity number: a date, and Luhn."""
    return _month_day(text[2:6]) and luhn_sum(text) % 10 == 0


# The second and third digit of a Thai number: the provinces.
_THAI = frozenset((*range(10, 28), *range(30, 59), *range(60, 68), *range(70, 78), *range(80, 87),
                   *range(90, 97)))  # fmt: skip


def pin_th(text: str) -> bool:
    """Return whether `text` is a Thai identity number: a province, and weights 13 to 2."""
    number = digits(text)
    total = sum(int(c) * (13 - i) for i, c in enumerate(number[:12]))
    return int(number[1:3]) in _THAI and (11 - total % 11) % 10 == int(number[12])


def _month_day(text: str) -> bool:
    month, day = int(text[:2]), int(text[2:])
    lengths = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    return 1 <= month <= 12 and 1 <= day <= lengths[month - 1]


@cache
def _module(name: str) -> Any:
    return importlib.import_module(f"stdnum.{name}")


def stdnum(name: str) -> Callable[[str], bool]:
    """Return python-stdnum's check of a kind of number, as `us.rtn`."""

    def valid(text: str) -> bool:
        plain = alnum(text)
        return len(set(plain)) > 1 and bool(_module(name).is_valid(plain))

    return valid


def international(found: str) -> str:
    """Return the part of a greedy match that is a phone number with its calling code.

    The longest part that its plan has given out, else the longest with a length its plan allows.
    """
    if dated_or_amount(found):
        return ""
    phones = importlib.import_module("phonenumbers")
    cuts = [len(found), *(i for i in range(len(found) - 1, 7, -1) if found[i] in " -./(,")]
    possible = ""
    for cut in cuts:
        part = found[:cut].rstrip(" -./(,)")
        number = digits(part.lower().partition("x")[0].partition("ext")[0])
        try:
            parsed = phones.parse("+" + number.removeprefix("00"), None)
        except phones.NumberParseException:
            continue
        if phones.is_valid_number(parsed):
            return part
        if not possible and phones.is_possible_number(parsed):
            possible = part
    return possible


# Where a number that stands alone is looked up; the regions of most numbers.
_REGIONS = (
    "US", "GB", "DE", "FR", "ES", "IT", "NL", "SE", "PL", "TR", "IN", "PH", "CN", "JP", "KR", "BR",
    "MX", "AU", "IL", "ZA", "RU", "ID", "NG", "CH", "AT", "BE", "DK", "NO", "FI", "PT", "GR", "CZ",
    "IE", "SG", "NZ", "AR", "CO", "TH", "VN", "MY",
)  # fmt: skip


def national_phone(text: str) -> bool:
    """Return whether `text`, written with a trunk 0 or separators, is a number of some region."""
    number = digits(text)
    groups = [len(group) for group in _NOT_DIGITS.split(text) if group]
    if not 7 <= len(number) <= 12 or groups == [3, 2, 4] or (number == text and number[0] != "0"):
        return False
    if dated_or_amount(text):
        return False
    phones = importlib.import_module("phonenumbers")
    for region in _REGIONS:
        try:
            if phones.is_valid_number(phones.parse(number, region)):
                return True
        except phones.NumberParseException:
            continue
    return False


def phone(text: str) -> bool:
    """Return whether `text` has as many digits as a phone number; a date or an amount is none."""
    return 6 <= len(digits(text.partition("x")[0])) <= 15 and not dated_or_amount(text)


# A date as programs and people write it; an amount with its cents, alone or in a calculation.
_DATED = re.compile(
    r"(?<!\d)(?:(?:19|20)\d\d([-/. ])(?:0?[1-9]|1[0-2])\1(?:0?[1-9]|[12]\d|3[01])"
    r"|(?:0?[1-9]|[12]\d|3[01])([-/. ])(?:0?[1-9]|[12]\d|3[01])\2(?:19|20)\d\d)(?!\d)"
)
_AMOUNT = re.compile(r"(?<![\d.])(?:\d+\.\d{1,2}|0\.\d+)(?![\d.])|\d\)? +[-+*/] +\(?\d+\.")


def dated_or_amount(text: str) -> bool:
    """Return whether digits with separators say a date or an amount."""
    return _DATED.search(text) is not None or _AMOUNT.search(text) is not None


def birthday(text: str) -> bool:
    """Return whether a date can be one of birth: it has no time of day."""
    clock = text.partition(":")
    return not clock[1] or clock[0][-2:] + clock[2] == "0000"


def phone_norm(text: str) -> str:
    """Return an international number's digits with `+`; a national number's digits alone."""
    number = digits(text.lower().partition("x")[0])
    if text.lstrip("( ").startswith("+"):
        return "+" + number
    if number.startswith("00"):
        return "+" + number[2:]
    return "+1" + number if len(number) == 10 and number[0] > "1" else number


def ip_norm(text: str) -> str:
    """Return the one spelling of an address."""
    address, slash, prefix = text.partition("/")
    return str(ipaddress.ip_address(address)) + slash + prefix


def varied(text: str) -> bool:
    """Return whether `text` is random enough for a key: a digit or mixed case, many characters."""
    if len(text) < 12:
        return False
    mixed = any(c.isdigit() for c in text) or (text.lower() != text and text.upper() != text)
    return mixed and len(set(text)) >= 8


def behind_underscore(found: str) -> str:
    """Return a match without the underscore that it begins behind."""
    return found.removeprefix("_")


_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")


def ip_cut(found: str) -> str:
    """Return the part of a run of digits, letters, colons and dots that is an IPv6 address."""
    if "_" in found:
        # `id_2001:db8::1:2_x`; a name of a program, as `a_b::c1`, has no three colons.
        found = max(found.split("_"), key=lambda part: part.count(":"))
        if found.count(":") < 3:
            return ""
    address, slash, prefix = found.partition("/")
    word, _, rest = address.partition(":")
    if word.isalpha() and not _HEXADECIMAL.issuperset(word) and rest[:1] != ":":
        address = rest  # as in `from:2001:db8::1`
    plain = address.rstrip(".")
    if plain.endswith(":") and not plain.endswith("::"):
        plain = plain[:-1]
    if plain.count(":") < 2 or not ip(plain):
        return ""
    whole = f"{plain}/{prefix}"
    return whole if slash and plain == address and ip(whole) else plain

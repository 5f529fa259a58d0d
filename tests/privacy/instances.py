"""Valid values of each class in the ways people write them, drawn from a seed; and near misses.

Made without the detectors' own checks: check digits are found by trying, with a second
implementation where there is one (python-stdnum), so a wrong check shows.
"""

from __future__ import annotations

import base64
import hashlib
import random
import string

from stdnum import iban as stdnum_iban
from stdnum import luhn as stdnum_luhn
from stdnum.us import rtn

D, U, L = string.digits, string.ascii_uppercase, string.ascii_lowercase
ALNUM = string.ascii_letters + D


def pick(r: random.Random, alphabet: str, n: int) -> str:
    """Return `n` random characters."""
    return "".join(r.choice(alphabet) for _ in range(n))


def mixed(r: random.Random, alphabet: str, n: int) -> str:
    """Return `n` random characters of a key: at least one digit among many different ones."""
    while True:
        out = pick(r, alphabet, n)
        if any(c in D for c in out) and len(set(out)) >= 8:
            return out


def card(r):
    """A card number of a big scheme, plain or in its usual groups."""
    head, size = r.choice([("4", 16), ("51", 16), ("55", 16), ("2221", 16), ("37", 15), ("34", 15),
                           ("6011", 16), ("65", 16), ("36", 14), ("3528", 16), ("62", 16)])  # fmt: skip
    body = head + pick(r, D, size - len(head) - 1)
    number = body + stdnum_luhn.calc_check_digit(body)
    sizes = {16: (4, 4, 4, 4), 15: (4, 6, 5), 14: (4, 6, 4)}[size]
    sep = r.choice(["", "", " ", "-"])
    groups, at = [], 0
    for n in sizes:
        groups.append(number[at : at + n])
        at += n
    return sep.join(groups)


def iban(r):
    """An IBAN of one of many countries, plain, in fours, or in small letters."""
    shape = r.choice(["DE:18n", "GB:4a14n", "FR:10n11c2n", "NL:4a10n", "ES:20n", "CH:5n12c",
                      "AT:16n", "BE:12n", "PL:24n", "NO:11n", "SE:20n", "IE:4a14n"])  # fmt: skip
    country, _, rest = shape.partition(":")
    body, count = "", ""
    for c in rest:
        if c.isdigit():
            count += c
        else:
            body += pick(r, {"n": D, "a": U, "c": U + D}[c], int(count))
            count = ""
    check = stdnum_iban.calc_check_digits(f"{country}00{body}")
    plain = country + check + body
    spaced = " ".join(plain[i : i + 4] for i in range(0, len(plain), 4))
    return r.choice([plain, spaced, plain.lower()])


def vin(r):
    """A VIN with its check digit, by the published table."""
    letters = "ABCDEFGHJKLMNPRSTUVWXYZ"
    values = dict(zip(letters, (1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 7, 9, 2, 3, 4, 5, 6, 7, 8, 9),
                      strict=True)) | {d: int(d) for d in D}  # fmt: skip
    weights = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
    chars = list(
        pick(r, letters, 3) + pick(r, letters + D, 8) + pick(r, letters, 1) + pick(r, D, 5)
    )
    rest = sum(values[c] * w for c, w in zip(chars, weights, strict=True)) % 11
    chars[8] = "X" if rest == 10 else str(rest)
    return "".join(chars)


def npi(r):
    """An NPI."""
    body = r.choice("12") + pick(r, D, 8)
    return body + stdnum_luhn.calc_check_digit("80840" + body)


def aba(r):
    """A routing number of a Federal Reserve district."""
    body = r.choice(["01", "02", "05", "07", "11", "12", "21", "26", "32"]) + pick(r, D, 6)
    return body + rtn.calc_check_digit(body)


B58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def bitcoin(r):
    """A base58check address."""
    data = bytes([r.choice([0, 5])]) + r.randbytes(20)
    data += hashlib.sha256(hashlib.sha256(data).digest()).digest()[:4]
    number, out = int.from_bytes(data, "big"), ""
    while number:
        number, rest = divmod(number, 58)
        out = B58[rest] + out
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + out


def of(module, shape):
    """Return a maker of numbers that a module of python-stdnum takes: by trying."""
    import importlib

    valid = importlib.import_module(f"stdnum.{module}").is_valid

    def make(r):
        while True:
            text = "".join(pick(r, {"9": D, "A": U}[c], 1) if c in "9A" else c for c in shape)
            if valid(text) and len(set(text)) > 3:
                return text

    return make


def nhs(r):
    """An NHS number in its three groups."""
    plain = of("gb.nhs", "9999999999")(r)
    return r.choice([plain, f"{plain[:3]} {plain[3:6]} {plain[6:]}"])


def jwt(r):
    """A JSON web token."""
    parts = [base64.urlsafe_b64encode(x).rstrip(b"=").decode() for x in (
        b'{"alg":"HS256","typ":"JWT"}', b'{"sub":"%d"}' % r.randrange(10**9), r.randbytes(32))]  # fmt: skip
    return ".".join(parts)


def key(r):
    """A key with a known prefix."""
    return r.choice([
        lambda: "sk-" + mixed(r, ALNUM, 48), lambda: "sk-proj-" + mixed(r, ALNUM + "_-", 60),
        lambda: "sk-ant-api03-" + mixed(r, ALNUM + "_-", 90), lambda: "AKIA" + mixed(r, U + D, 16),
        lambda: "ghp_" + mixed(r, ALNUM, 36), lambda: "github_pat_" + mixed(r, ALNUM + "_", 82),
        lambda: "xoxb-" + mixed(r, D, 12) + "-" + mixed(r, ALNUM, 24),
        lambda: "AIza" + mixed(r, ALNUM + "_-", 35), lambda: "hf_" + mixed(r, ALNUM, 34),
        lambda: "glpat-" + mixed(r, ALNUM, 20), lambda: "sk_live_" + mixed(r, ALNUM, 24),
        lambda: "npm_" + mixed(r, ALNUM, 36),
        lambda: "SG." + mixed(r, ALNUM, 22) + "." + mixed(r, ALNUM, 43),
    ])()  # fmt: skip


def pem(r):
    """A private key."""
    kind = r.choice(["", "RSA ", "EC ", "OPENSSH "])
    body = base64.encodebytes(r.randbytes(120)).decode()
    return f"-----BEGIN {kind}PRIVATE KEY-----\n{body}-----END {kind}PRIVATE KEY-----"


def dsn(r):
    """An address with a password in it: the part that is taken out."""
    scheme = r.choice(["postgres", "https", "redis", "mongodb+srv", "amqp"])
    return f"{scheme}://{pick(r, L, 6)}:{mixed(r, ALNUM, 14)}@"


def email(r):
    """An address."""
    name = r.choice(
        [pick(r, L, 7), f"{pick(r, L, 4)}.{pick(r, L, 6)}", f"{pick(r, L, 3)}+{pick(r, D, 2)}"]
    )
    return f"{name}@{pick(r, L, 6)}.{r.choice(['com', 'org', 'co.uk', 'de', 'museum'])}"


def phone(r):
    """A number with its calling code, or in the North American way."""
    return r.choice([
        lambda: f"+1 {r.randint(201, 989)}-{r.randint(200, 999)}-{pick(r, D, 4)}",
        lambda: f"({r.randint(201, 989)}) {r.randint(200, 999)}-{pick(r, D, 4)}",
        lambda: f"{r.randint(201, 989)}-{r.randint(200, 999)}-{pick(r, D, 4)}",
        lambda: f"+44 20 {r.choice('78')}{pick(r, D, 3)} {pick(r, D, 4)}",
        lambda: f"+49 30 {r.randint(10**6, 10**7 - 1)}", lambda: f"+33 6 {pick(r, D, 2)} {pick(r, D, 2)} {pick(r, D, 2)} {pick(r, D, 2)}",
        lambda: f"+91 98{pick(r, D, 8)}", lambda: f"+55 11 9{pick(r, D, 4)} {pick(r, D, 4)}",
    ])()  # fmt: skip


def ipv4(r):
    """An address."""
    return ".".join(str(r.randint(1, 254)) for _ in range(4))


def ipv6(r):
    """An address, whole or shortened."""
    groups = [f"{r.randrange(1, 65536):x}" for _ in range(8)]
    return r.choice(
        [":".join(groups), f"2001:db8::{groups[0]}:{groups[1]}", f"fe80::{':'.join(groups[:4])}"]
    )


def mac(r):
    """An interface's address."""
    pairs = [pick(r, "0123456789ABCDEF", 2) for _ in range(6)]
    return r.choice([":".join(pairs), "-".join(pairs), ":".join(pairs).lower()])


def ssn(r):
    """A number that could be given out."""
    area = r.choice([x for x in range(1, 900) if x != 666])
    return f"{area:03d}-{r.randint(1, 99):02d}-{r.randint(1, 9999):04d}"


# Token class → maker, and the words it stands with where it needs them.
CHECKED = {
    "CARD": (card, ""), "IBAN": (iban, ""), "VIN": (vin, ""), "CRYPTO": (bitcoin, ""),
    "US_NPI": (npi, "NPI "), "ABA_ROUTING_NUMBER": (aba, "routing number "),
    "UK_NHS": (nhs, "NHS number "), "CA_SIN": (of("ca.sin", "999999999"), "SIN "),
    "ES_NIE": (of("es.nie", "X9999999A"), ""), "ES_NIF": (of("es.dni", "99999999A"), ""),
    "PL_PESEL": (of("pl.pesel", "8905119999" + "9"), "PESEL "),
    "IN_AADHAAR": (of("in_.aadhaar", "999999999999"), "Aadhaar "),
    "TR_NATIONAL_ID": (of("tr.tckimlik", "99999999999"), "TCKN "),
    "AU_ABN": (of("au.abn", "99999999999"), "ABN "),
    "BR_CPF": (of("br.cpf", "999.999.999-99"), ""),
    "CH_AHV": (of("ch.ssn", "756.9999.9999.99"), ""),
    "FI_PERSONAL_IDENTITY_CODE": (of("fi.hetu", "131052-399A"), ""),
    "DE_TAX_ID": (of("de.idnr", "99999999999"), "Steuer IdNr "),
}  # fmt: skip
PREFIXED = {
    "SECRET": (key, ""),
    "JWT": (jwt, ""),
    "PRIVATE_KEY": (pem, ""),
    "URL_PASSWORD": (dsn, ""),
}
SHAPED = {
    "EMAIL": (email, ""), "PHONE": (phone, ""), "IP": (lambda r: r.choice([ipv4, ipv6])(r), ""),
    "MAC": (mac, ""), "SSN": (ssn, ""),
}  # fmt: skip
CLASSES = {**CHECKED, **PREFIXED, **SHAPED}
AROUND = (
    "{}",
    "see {} please",
    "({}),",
    "value={}",
    '"{}"',
    "it is {}.",
    "[{}]\nnext line",
    "é {} é",
    "番号{}です",
)


def text_with(name: str, r: random.Random) -> tuple[str, int, int]:
    """Return a text that holds a value of a class, and where."""
    make, word = CLASSES[name]
    value = make(r)
    around = r.choice(AROUND)
    before, after = around.split("{}")
    if name == "URL_PASSWORD":
        after = "db.example/x " + after
    head = before + word
    return head + value + after, len(head), len(head) + len(value)


def near_miss(name: str, r: random.Random) -> str:
    """Return a value of a class with one digit changed: its check no longer holds."""
    make, word = CHECKED[name]
    value = make(r)
    digits = [i for i, c in enumerate(value) if c.isdigit()][2:]
    at = r.choice(digits or [i for i, c in enumerate(value) if c.isalpha()][2:])
    other = r.choice([d for d in (D[1:] if digits else "abcdefgh") if d != value[at]])
    return word + value[:at] + other + value[at + 1 :]

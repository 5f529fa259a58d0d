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


# Prefix of a published key format → alphabet and length of what follows.
KEYS = {
    "sk-": (ALNUM, 48), "sk-proj-": (ALNUM + "_-", 60), "sk-ant-api03-": (ALNUM + "_-", 90),
    "AKIA": (U + D, 16), "ASIA": (U + D, 16), "ABSK": (ALNUM, 100), "ghp_": (ALNUM, 36), "gho_": (ALNUM, 36),
    "github_pat_": (ALNUM + "_", 82), "glpat-": (ALNUM, 20), "gldt-": (ALNUM + "_-", 20), "xapp-1-": (ALNUM, 40),
    "AIza": (ALNUM + "_-", 35), "ya29.": (ALNUM + "_-", 60), "hf_": (ALNUM, 34), "gsk_": (ALNUM, 52),
    "xai-": (ALNUM, 80), "r8_": (ALNUM, 37), "csk-": (L + D, 48), "fw_": (ALNUM, 24), "sk_live_": (ALNUM, 24),
    "rk_test_": (ALNUM, 24), "whsec_": (ALNUM, 32), "npm_": (ALNUM, 36), "pypi-AgEI": (ALNUM + "_-", 100),
    "dop_v1_": ("0123456789abcdef", 64), "shpat_": ("0123456789abcdef", 32), "hvs.": (ALNUM, 90),
    "tvly-": (ALNUM, 32), "nvapi-": (ALNUM + "_-", 64), "pplx-": (ALNUM, 48), "ATATT3": (ALNUM + "_-", 180),
    "lin_api_": (ALNUM, 40), "dckr_pat_": (ALNUM + "_-", 27), "sbp_": ("0123456789abcdef", 40), "figd_": (ALNUM, 40),
    "phx_": (ALNUM, 43), "NRAK-": (U + D, 27), "CFPAT-": (ALNUM, 43), "glc_": (ALNUM, 120), "re_123456Ab_": (ALNUM, 24),
}  # fmt: skip


def key(r):
    """A key with a known prefix, or of a known shape."""
    if r.random() < 0.1:
        return r.choice([
            "xoxb-" + mixed(r, D, 12) + "-" + mixed(r, ALNUM, 24),
            "SG." + mixed(r, ALNUM, 22) + "." + mixed(r, ALNUM, 43),
            mixed(r, D, 9) + ":AA" + mixed(r, ALNUM, 33),
            mixed(r, ALNUM, 14) + ".atlasv1." + mixed(r, ALNUM, 66),
        ])  # fmt: skip
    prefix = r.choice(list(KEYS))
    return prefix + mixed(r, *KEYS[prefix])


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


def any_of(*makers):
    """Return a maker that is one of several, drawn anew each time."""
    return lambda r: r.choice(makers)(r)


def day(r):
    """A day as two digits of the year, of the month, of the day."""
    return f"{r.randint(0, 99):02d}", f"{r.randint(1, 12):02d}", f"{r.randint(1, 28):02d}"


def bearer(r):
    """An opaque token as the header carries it."""
    return f"Bearer {mixed(r, ALNUM + '-_', 40)}"


def codice(r):
    """An Italian fiscal code, its last letter found by trying."""
    consonants = "BCDFGLMNPRSTVZ"
    year, _, of_month = day(r)
    return of("it.codicefiscale", pick(r, consonants, 6) + year + r.choice("ABCDEHLMPRST") + of_month
              + "H501A")(r)  # fmt: skip


def uk_licence(r):
    """A British driving licence number of a surname of five letters or fewer."""
    name = pick(r, U, r.randint(3, 5)).ljust(5, "9")
    _, month, of_month = day(r)
    return f"{name}{pick(r, D, 1)}{month}{of_month}{pick(r, D, 1)}{r.choice(U)}9{pick(r, U, 2)}5"[
        :16
    ]


def german_pension(r):
    """A pension insurance number: area, birthday, initial, serial, check digit (2 1 2 5 7 1 …)."""
    year, month, of_month = day(r)
    initial, serial = r.choice(U), pick(r, D, 2)
    line = f"{r.randint(10, 89)}{of_month}{month}{year}{ord(initial) - 64:02d}{serial}"
    weighed = [int(c) * w for c, w in zip(line, (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1), strict=True)]
    return f"{line[:8]}{initial}{serial}{sum(n // 10 + n % 10 for n in weighed) % 10}"


def german_health(r):
    """A health insurance number: a letter, eight digits, Luhn with weights 1 and 2."""
    letter, number = r.choice(U), pick(r, D, 8)
    line = f"{ord(letter) - 64:02d}{number}"
    weighed = [int(c) * (1, 2)[i % 2] for i, c in enumerate(line)]
    return f"{letter}{number}{sum(n // 10 + n % 10 for n in weighed) % 10}"


def machine_readable(size):
    """Return a maker of German document numbers: weights 7 3 1 over digits and letters."""

    def make(r):
        body = r.choice("CFGHJK") + pick(r, "CFGHJKLMNPRTVWXYZ" + D, size - 3) + pick(r, D, 1)
        return body + str(sum(int(c, 36) * (7, 3, 1)[i % 3] for i, c in enumerate(body)) % 10)

    return make


def lanr(r):
    """A German physician's number: weights 4 and 9, then two digits of the trade."""
    number = pick(r, D, 6)
    check = -sum(int(c) * (4, 9)[i % 2] for i, c in enumerate(number)) % 10
    return f"{number}{check}{pick(r, D, 2)}"


def nric(r):
    """A Singapore identity number of either century."""
    century, number = r.choice("ST"), pick(r, D, 7)
    total = sum(int(c) * w for c, w in zip(number, (2, 7, 6, 5, 4, 3, 2), strict=True))
    return century + number + "JZIHGFEDCBA"[(total + 4 * (century == "T")) % 11]


def mbi(r):
    """A US Medicare number by its table of positions."""
    letters = "ACDEFGHJKMNPQRTUVWXY"
    both = letters + D
    shape = (D[1:], letters, both, D, letters, both, D, letters, letters, D, D)
    plain = "".join(r.choice(chars) for chars in shape)
    return r.choice([plain, f"{plain[:4]}-{plain[4:7]}-{plain[7:]}"])


def nino(r):
    """A UK national insurance number."""
    plain = f"{r.choice('ABCEHJ')}{r.choice('ABCEHJ')}{pick(r, D, 6)}{r.choice('ABCD')}"
    return r.choice([plain, f"{plain[:2]} {plain[2:4]} {plain[4:6]} {plain[6:8]} {plain[8]}"])


def gstin(r):
    """An Indian tax number of a company: a state, a PAN, an entity, Z, a check character."""
    from stdnum import luhn as checks

    body = f"{r.randint(1, 29):02d}{pan(r)}1Z"
    return body + checks.calc_check_digit(body, D + U)


def pan(r):
    """An Indian tax number of a person."""
    return f"{pick(r, U, 3)}P{pick(r, U, 1)}{pick(r, D, 4)}{pick(r, U, 1)}"


def curp(r):
    """A Mexican number for a person, its last digits found by trying."""
    year, month, of_month = day(r)
    return of("mx.curp", f"{r.choice('BCDFG')}A{pick(r, 'BCDFG', 2)}{year}{month}{of_month}"
              f"{r.choice('HM')}DF{pick(r, 'BCDFGLMN', 3)}99")(r)  # fmt: skip


def korean(centuries):
    """Return a maker of Korean numbers: a birthday, a century, six digits."""
    return lambda r: f"{''.join(day(r))}-{r.choice(centuries)}{pick(r, D, 6)}"


def swedish(r):
    """A Swedish personal number, ten or twelve digits."""
    year, month, of_month = day(r)
    body = f"{year}{month}{of_month}{pick(r, D, 3)}"
    plain = body + stdnum_luhn.calc_check_digit(body)
    return r.choice([f"{plain[:6]}-{plain[6:]}", f"19{plain[:6]}-{plain[6:]}", f"20{plain}"])


def south_african(r):
    """A South African identity number."""
    body = "".join(day(r)) + f"{pick(r, D, 4)}08"
    return body + stdnum_luhn.calc_check_digit(body)


def dea(r):
    """A registration with the DEA: two letters, seven digits."""
    d = pick(r, D, 6)
    odd, even = (sum(map(int, d[i::2])) for i in (0, 1))
    return f"{r.choice('ABFM')}{r.choice(U)}{d}{(odd + 2 * even) % 10}"


def medicare(r):
    """An Australian Medicare number: weights 1 3 7 9, then the number of the card."""
    body = r.choice("23456") + pick(r, D, 7)
    check = sum(int(c) * (1, 3, 7, 9)[i % 4] for i, c in enumerate(body)) % 10
    plain = f"{body}{check}{r.randint(1, 9)}"
    return r.choice([plain, f"{plain[:4]} {plain[4:9]} {plain[9:]}"])


def dated(module, shape):
    """Return a maker of numbers that begin with a birthday; `shape` has ymd where it stands."""

    def make(r):
        year, month, of_month = day(r)
        return of(module, shape.replace("y", year).replace("m", month).replace("d", of_month))(r)

    return make


def nir(r):
    """A French number: sex, year, month, place, order, two check digits."""
    body = (
        f"{r.choice('12')}{pick(r, D, 2)}{r.randint(1, 12):02d}{r.randint(1, 95):02d}{r.randint(1, 899):03d}"
        f"{r.randint(1, 998):03d}"
    )
    plain = f"{body}{97 - int(body) % 97:02d}"
    return r.choice([plain, " ".join((plain[0], plain[1:3], plain[3:5], plain[5:7], plain[7:10],
                                      plain[10:13], plain[13:]))])  # fmt: skip


def belgian(r):
    """A Belgian number, plain or with its dots."""
    body = "".join(day(r)) + f"{r.randint(1, 997):03d}"
    plain = f"{body}{97 - int(body) % 97:02d}"
    dotted = f"{plain[:2]}.{plain[2:4]}.{plain[4:6]}-{plain[6:9]}.{plain[9:]}"
    return r.choice([plain, dotted])


def brn(r):
    """A Korean business number: weights 1 3 7 1 3 7 1 3 5, tens of the last product too."""
    d = pick(r, D[1:], 9)
    total = sum(int(c) * int(w) for c, w in zip(d, "137137135", strict=True)) + int(d[8]) * 5 // 10
    return f"{d[:3]}-{d[3:5]}-{d[5:]}{-total % 10}"


def geo(r):
    """A place, by its latitude and longitude."""
    return f"{r.uniform(-89, 89):.5f}, {r.uniform(-179, 179):.5f}"


def birthday(r):
    """A date in one of the usual ways."""
    y, m, d = r.randint(1930, 2015), r.randint(1, 12), r.randint(1, 28)
    return r.choice([f"{y}-{m:02d}-{d:02d}", f"{m}/{d}/{y}", f"{d:02d}.{m:02d}.{y}",
                     f"{d} March {y}", f"July {d}, {y}"])  # fmt: skip


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
    "IT_FISCAL_CODE": (codice, ""), "DE_SOCIAL_SECURITY": (german_pension, ""),
    "SG_NRIC_FIN": (nric, ""), "IN_GSTIN": (gstin, ""), "MX_CURP": (curp, ""),
    "DE_VAT_ID": (of("de.vat", "DE999999999"), ""),
    "BR_CNPJ": (of("br.cnpj", "99.999.999/9999-99"), ""), "FR_NIR": (nir, ""),
    "SE_PERSONNUMMER": (swedish, ""), "ZA_ID_NUMBER": (south_african, ""),
    "SE_ORGANISATIONSNUMMER": (of("se.orgnr", "556999-9999"), ""),
    "TH_TNIN": (of("th.pin", "1-1017-99999-99-9"), ""), "MEDICAL_LICENSE": (dea, "DEA "),
    "AU_ACN": (of("au.acn", "999 999 999"), "ACN "), "AU_TFN": (of("au.tfn", "999999999"), "TFN "),
    "AU_MEDICARE": (medicare, "Medicare "), "IT_VAT_CODE": (of("it.iva", "09999991009"), "partita IVA "),
    "KR_BRN": (brn, "business registration "),
    "DE_LANR": (lanr, "LANR "), "DE_PASSPORT": (machine_readable(9), "Reisepass "),
    "DE_ID_CARD": (machine_readable(10), "Personalausweis "),
    "NL_BSN": (of("nl.bsn", "999999999"), "BSN "), "BE_NN": (belgian, "NISS "),
    "NO_FODSELSNUMMER": (dated("no.fodselsnummer", "dm8539999"), "fodselsnummer "),
    "PT_NIF": (of("pt.nif", "299999999"), "NIF "), "IL_ID": (of("il.idnr", "999999999"), "teudat zehut "),
    "NG_NIN": (of("verhoeff", "99999999999"), "NIN "), "SG_UEN": (of("sg.uen", "201999999A"), "UEN "),
    "DE_HEALTH_INSURANCE": (german_health, "KVNR "),
}  # fmt: skip
PREFIXED = {
    "SECRET": (key, ""),
    "JWT": (jwt, ""),
    "PRIVATE_KEY": (pem, ""),
    "URL_PASSWORD": (dsn, ""),
    "BEARER": (bearer, "Authorization: "),
    "URL_SECRET": (lambda r: mixed(r, ALNUM, 24), "https://a.example/x?access_token="),
}
SHAPED = {
    "EMAIL": (email, ""), "PHONE": (phone, ""), "IP": (lambda r: r.choice([ipv4, ipv6])(r), ""),
    "MAC": (mac, ""), "SSN": (ssn, ""),
    "DK_CPR": (dated("dk.cpr", "dm85-4999"), "CPR "),
    "UK_DRIVING_LICENCE": (uk_licence, ""), "US_MBI": (mbi, ""), "UK_NINO": (nino, ""),
    "IN_PAN": (pan, ""), "KR_RRN": (korean("1234"), ""), "KR_FRN": (korean("5678"), ""),
    "US_ITIN": (lambda r: f"9{pick(r, D, 2)}-{r.randint(70, 88)}-{pick(r, D, 4)}", ""),
    "GEO": (geo, "GPS position "), "DOB": (birthday, "born on "),
    "DE_FUEHRERSCHEIN": (lambda r: f"B{pick(r, U, 1)}{pick(r, D, 8)}{pick(r, D + U, 1)}", "Fuhrerschein "),
    "PASSPORT": (lambda r: f"{pick(r, U, 1)}{pick(r, D, 8)}", "passport "),
    "DRIVER_LICENSE": (lambda r: f"{pick(r, U, 1)}{pick(r, D, 7)}", "driver license "),
    "BANK_ACCOUNT": (lambda r: pick(r, D[1:], 10), "bank account "),
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


# Weights that share a factor with the modulus, or a remainder that is cut: one change in ten passes.
COARSE = {"AU_ACN", "DE_LANR", "MEDICAL_LICENSE", "MX_CURP", "PT_NIF", "TH_TNIN"}
# Shapes that nothing else has: found with a character mistyped too.
BY_SHAPE = {"IT_FISCAL_CODE", "IN_GSTIN"}
# Digits at the end that the check does not cover: the trade of a physician, the number of a card.
UNCHECKED = {"DE_LANR": 2, "AU_MEDICARE": 1}


def near_miss(name: str, r: random.Random) -> str:
    """Return a value of a class with one digit changed: its check no longer holds."""
    make, word = CHECKED[name]
    value = make(r)
    digits = [i for i, c in enumerate(value) if c.isdigit()][2:]
    digits = digits[: len(digits) - UNCHECKED.get(name, 0)]
    at = r.choice(digits or [i for i, c in enumerate(value) if c.isalpha()][2:])
    other = r.choice([d for d in (D[1:] if digits else "abcdefgh") if d != value[at]])
    return word + value[:at] + other + value[at + 1 :]

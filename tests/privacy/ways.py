"""How people and programs write values and what they put them into; and texts that hold none.

Rule: what is written in another way is the same value to who reads it.
"""

from __future__ import annotations

import base64
import html
import json
import re
from urllib.parse import quote

from tests.privacy.instances import ALNUM, D, pick


def again(separator: str):
    """Return what writes a value with another separator between its groups."""

    def write(value):
        return re.sub(r"(?<=[A-Za-z0-9])[ -](?=[A-Za-z0-9])", separator, value)

    return write


def wrapped(end: str, at: str = " "):
    """Return what writes a value over two lines, parted in its middle; `end` is between them."""

    def write(value):
        gaps = list(re.finditer(rf"(?<=[A-Za-z0-9])[{at}](?=[A-Za-z0-9])", value))
        if not gaps:
            return value
        gap = gaps[len(gaps) // 2]
        return value[: gap.start()] + end + value[gap.end() :]

    return write


def in_digits(zero: str):
    """Return what writes a value in the digits of another script."""
    return lambda value: re.sub("[0-9]", lambda m: chr(ord(zero) + int(m.group())), value)


# How else people and programs write a value that is the same to them: separators and digits.
WRITTEN = {
    "en dash": again("\u2013"), "minus": again("\u2212"), "non-breaking": again("\u2011"),
    "no-break space": again("\xa0"), "thin space": again("\u2009"), "full width": in_digits("\uff10"),
    "arabic": in_digits("\u0660"), "devanagari": in_digits("\u0966"), "small letters": str.lower,
    "wide spaces": again("  "), "line after space": wrapped("\n"), "CRLF after space": wrapped("\r\n    "),
    "quoted after space": wrapped("\n> "), "soft line after space": wrapped("\xa0=\r\n"),
    "line after dash": wrapped("-\n", "-"), "comment after dash": wrapped("-\n  # ", "-"),
    "dots": lambda value: again(".")(value) if value.replace(" ", "").replace("-", "").isdigit() else value,
}  # fmt: skip
# Classes whose groups may be written with any of dash and space.
ANY_SEPARATOR = {
    "CARD", "IBAN", "UK_NHS", "CA_SIN", "AU_ABN", "AU_ACN", "AU_TFN", "AU_MEDICARE", "IN_AADHAAR",
    "KR_BRN", "TH_TNIN", "FR_NIR", "US_MBI", "UK_NINO", "SSN", "US_ITIN", "DK_CPR", "BE_NN",
}  # fmt: skip
# What texts are put into: JSON, twice; an address; Markdown; tables; markup; lines; words.
PLACED = {
    "JSON": lambda t: json.dumps({"note": t}), "JSON in JSON": lambda t: json.dumps({"a": json.dumps({"b": t})}),
    "address": lambda t: f"https://a.example/c?q={quote(t, safe='')}&x=1", "bold": lambda t: f"**{t}**",
    "code": lambda t: f"`{t}`", "table": lambda t: f"|{t}|b|", "CSV": lambda t: f'a,"{t}",b',
    "XML": lambda t: f"<v>{html.escape(t)}</v>", "CRLF": lambda t: f"x\r\n{t}\r\ny", "tab": lambda t: f"x\t{t}\ty",
    "colon": lambda t: f"value:{t};", "Chinese": lambda t: f"号码{t}です", "hash": lambda t: f"#{t}",
    "base64": lambda t: base64.b64encode(f"hello {t} bye".encode()).decode(), "quotes": lambda t: f"\u2018{t}\u2019",
    "underscores": lambda t: f"id_{t}_x", "emphasis": lambda t: f"_{t}_", "repr": lambda t: repr(f"a\n{t}\nb"),
    "repr of JSON": lambda t: repr(json.dumps({"a": f"x\n{t}\ty"})), "shell": lambda t: f"export ID='{t}'\nrun",
    "YAML": lambda t: f"id: {t}\nname: x", "flag": lambda t: f"run --id={t} -v", "path": lambda t: f"a/{t}/b",
    "HTML cell": lambda t: f"<td>{t}</td>", "log": lambda t: f"2026-05-01T10:00:00Z INFO id={t} status=200",
}  # fmt: skip


def table(r):
    """Lines of numbers in columns, as a program prints them."""
    gap, width = r.choice(["  ", "   ", " ", "\t", ","]), r.choice([3, 4, 5, 8, 9])
    rows = [gap.join(pick(r, D[1:], width) for _ in range(r.randint(3, 8))) for _ in range(6)]
    return "\n".join(rows)


def arithmetic(r):
    """A calculation with amounts."""
    return " + ".join(f"{r.uniform(1, 3000):.2f} - {r.uniform(1, 3000):.2f}" for _ in range(4))


def hexadecimal(n):
    """Return a maker of `n` hexadecimal digits."""
    return lambda r: pick(r, "0123456789abcdef", n)


def uuid(r):
    """A UUID of version 4."""
    x = hexadecimal(32)(r)
    return f"{x[:8]}-{x[8:12]}-4{x[13:16]}-a{x[17:20]}-{x[20:]}"


def moment(r):
    """A moment as programs write it."""
    day = f"20{r.randint(10, 29)}-{r.randint(1, 12):02d}-{r.randint(1, 28):02d}"
    clock = f"{r.randint(0, 23):02d}:{r.randint(0, 59):02d}:{r.randint(0, 59):02d}"
    return r.choice([f"{day}T{clock}Z", f"{day} {clock}.{pick(r, D, 6)}", f"{day}T{clock}+02:00",
                     f"1{pick(r, D, 9)}", f"1{pick(r, D, 12)}", f"1{pick(r, D, 9)}.{pick(r, D, 6)}"])  # fmt: skip


# What is none: kinds of numbers and names that texts of agents are full of.
HARD = {
    "order numbers": lambda r: r.choice([f"order #W{pick(r, D, 7)} was sent", f"order {pick(r, D, 8)} is late",
                                         f"item {pick(r, D, 10)} in stock", f"ticket INC{pick(r, D, 7)} closed",
                                         f"invoice 2026-{pick(r, D, 6)}"]),
    "digests": lambda r: f"sha256:{hexadecimal(64)(r)} and md5 {hexadecimal(32)(r)}",
    "commits": lambda r: f"commit {hexadecimal(40)(r)}\nfixed in {hexadecimal(7)(r)}",
    "UUIDs": lambda r: f"run {uuid(r)} and {uuid(r).upper()}",
    "moments": lambda r: f"from {moment(r)} to {moment(r)}",
    "floats": lambda r: str([r.gauss(0, 1) * 10 ** r.randint(-3, 6) for _ in range(8)]),
    "versions": lambda r: f"pkg=={r.randint(0, 30)}.{r.randint(0, 99)}.{r.randint(0, 999)}, v{r.randint(0, 9)}.{r.randint(0, 9)}rc1",
    "tables": table, "arithmetic": arithmetic,
    "amounts": lambda r: f"total {r.randint(1, 999)},{pick(r, D, 3)},{pick(r, D, 3)}.00 of ${pick(r, D[1:], 6)}",
    "code": lambda r: f"std::vector<int> a{r.randint(1, 99)}; ns::f{r.randint(1, 9)}(0x{hexadecimal(8)(r)}); // L{pick(r, D, 4)}",
    "JSON": lambda r: json.dumps({"id": r.randrange(10**8), "n": [r.randrange(10**6) for _ in range(6)], "p": r.random()}),
    "log": lambda r: f"{moment(r)} INFO [worker-{r.randint(1, 9)}] took {r.randint(1, 9999)}ms bytes={r.randrange(10**9)} pid={r.randrange(10**5)}",
    "list": lambda r: "\n".join(f"{i}. step {r.randint(1, 400)} of\n   {r.randint(10, 9999)}" for i in range(1, 9)),
    "ids": lambda r: f"call_{pick(r, ALNUM, 24)} resp_{hexadecimal(48)(r)} msg_01{pick(r, ALNUM, 22)}",
    "numbers": lambda r: " ".join(pick(r, D, r.randint(1, 9)) for _ in range(20)),
}  # fmt: skip

"""What the detectors find, class by class, with 95 % Wilson intervals.

Three sources: values this repository generates (tests/privacy/py), and, where they are
(TOWERKIT_REAL_DATA or ../shared/data), the labelled sentences of presidio-research and the cases of
Presidio's recognisers. Generated values: taken out whole by any finding, and by one of their own
class (two classes can look alike); near misses (one digit changed) are findings that should not be.
Labels: one counts when a finding of its class overlaps it, a finding when a label of its class
does; a case that expects nothing counts as wrong where its class is found. Prints the tables as
Markdown; `--write` puts them into docs/privacy.md.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.privacy.instances import BY_SHAPE, CHECKED, CLASSES, near_miss, text_with  # noqa: E402
from tests.privacy.ways import ANY_SEPARATOR, HARD, PLACED, WRITTEN  # noqa: E402
from towerkit.gate.intervals import wilson  # noqa: E402
from towerkit.privacy.detectors import DETECTORS  # noqa: E402
from towerkit.privacy.find import Found, find  # noqa: E402

PAGE = ROOT / "docs" / "privacy.md"
BEGIN, END = "<!-- recall: begin -->", "<!-- recall: end -->"
# Labels of the data that name a class of ours otherwise.
SAME = {"DATE_OF_BIRTH": "DATE_TIME"}
# Presidio's classes of one country that are ours of any.
KIND = {
    "PH_MOBILE_NUMBER": "PHONE_NUMBER", "TR_PHONE_NUMBER": "PHONE_NUMBER",
    "US_PASSPORT": "PASSPORT",
    "UK_PASSPORT": "PASSPORT", "IN_PASSPORT": "PASSPORT", "KR_PASSPORT": "PASSPORT",
    "ES_PASSPORT": "PASSPORT", "IT_PASSPORT": "PASSPORT",
}  # fmt: skip
NOT_OURS = {"PERSON", "ADDRESS", "LOCATION", "ORGANIZATION", "TITLE", "PREFIX", "DOMAIN_NAME"}


def share(good: int, total: int) -> str:
    """Return a share with its interval."""
    if not total:
        return "–"
    found = wilson(good / total, total, confidence=0.95)
    low, high = found.low, found.high
    return f"{good / total:.4f} ({low:.4f}–{high:.4f})"


def generated(count: int) -> list[str]:
    """Return the rows of the generated values."""
    rows = [
        "| class | values | taken out | as this class | found where one digit was changed |",
        "|---|---|---|---|---|",
    ]
    for name in CLASSES:
        r = random.Random(f"{name} 1")
        out = own = 0
        for _ in range(count):
            text, start, end = text_with(name, r)
            over = [f for f in find(text) if f.row and f.start <= start and f.end >= end]
            out += bool(over)
            own += any(f.row is not None and f.row.name == name for f in over)
        false = "–"
        if name in CHECKED and name not in BY_SHAPE:
            wrong = sum(
                any(f.row is not None and f.row.name == name for f in find(near_miss(name, r)))
                for _ in range(count)
            )
            false = share(wrong, count)
        rows.append(f"| `{name}` | {count} | {share(out, count)} | {share(own, count)} | {false} |")
    return rows


def places(count: int) -> list[str]:
    """Return the rows of what values stand in: every class in each."""
    rows = ["| put into | values | taken out |", "|---|---|---|"]
    for place, put in PLACED.items():
        out = total = 0
        for name in CLASSES:
            make, word = CLASSES[name]
            r = random.Random(f"{name} {place} 1")
            for _ in range(count):
                text = put(word + make(r) + ("db.example/x" if name == "URL_PASSWORD" else ""))
                out += any(f.row for f in find(text))
                total += 1
        rows.append(f"| {place} | {total} | {share(out, total)} |")
    return rows


def written(count: int) -> list[str]:
    """Return the rows of the ways of writing a number of groups: classes that have groups."""
    rows = ["| written with | values | taken out |", "|---|---|---|"]
    for way, write in WRITTEN.items():
        out = total = 0
        for name in sorted(ANY_SEPARATOR if way != "dots" else {"CARD", "SSN"}):
            make, word = CLASSES[name]
            r = random.Random(f"{name} {way} 1")
            for _ in range(count):
                value = write(make(r))
                found = find(f"{word}{value} ok")
                end = len(word) + len(value)
                out += any(f.row and f.start <= len(word) and f.end >= end for f in found)
                total += 1
        rows.append(f"| {way} | {total} | {share(out, total)} |")
    return rows


def hard(count: int) -> list[str]:
    """Return the rows of texts that hold nothing: in how many what is found."""
    rows = ["| texts | number | with a finding | classes |", "|---|---|---|---|"]
    for kind, make in HARD.items():
        r, wrong, classes = random.Random(f"{kind} 1"), 0, Counter[str]()
        for _ in range(count):
            names = {f.row.name for f in find(make(r), alone=True) if f.row}
            wrong += bool(names)
            classes.update(names)
        said = ", ".join(f"`{name}` {n}" for name, n in classes.most_common(3)) or "–"
        rows.append(f"| {kind} | {count} | {share(wrong, count)} | {said} |")
    return rows


def cases(folder: Path) -> list[str]:
    """Return the rows of the recognisers' cases, for classes that are looked for."""
    path = folder / "pii" / "presidio_recognizer_cases.jsonl.xz"
    with lzma.open(path) as file:
        made = [json.loads(line) for line in file]
    ours = {row.published for row in DETECTORS}
    own, out, wanted, wrong, none = (Counter() for _ in range(5))
    left_out = 0
    for case in made:
        kind = KIND.get(*case["entities"] * 2) if len(case["entities"]) == 1 else ""
        if kind not in ours:
            left_out += 1
            continue
        found = [f for f in find(case["text"], alone=True) if f.row]
        same = [f for f in found if f.row.published == kind]
        count = case.get("expected_len")
        places = [] if count == 0 else expected(case)
        none[kind] += count == 0
        wrong[kind] += count == 0 and bool(same)
        wanted[kind] += len(places) or count or 0
        own[kind] += overlapped(same, places) if places else min(len(same), count or 0)
        out[kind] += overlapped(found, places) if places else min(len(found), count or 0)
    rows = [
        "| class | expected | taken out | as this class | nothing expected | found there |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| `{kind}` | {wanted[kind]} | {share(out[kind], wanted[kind])} "
        f"| {share(own[kind], wanted[kind])} | {none[kind]} | {wrong[kind]} |"
        for kind in sorted(set(wanted) | set(none))
    ]
    checked = {row.published for row in DETECTORS if row.tier in {"A prefix", "B checksum"}}
    all_out, all_own, total = (sum(c[k] for k in checked) for c in (out, own, wanted))
    rows.append(
        f"\nClasses with a check digit or a prefix together: taken out {share(all_out, total)}, as "
        f"their class {share(all_own, total)}."
    )
    rows.append(f"Cases of classes that are not looked for, or of several: {left_out}.")
    return rows


def overlapped(found: list[Found], places: list[tuple[int, int]]) -> int:
    """Return how many places a finding overlaps."""
    return sum(any(f.start < end and start < f.end for f in found) for start, end in places)


def expected(case: dict[str, Any]) -> list[tuple[int, int]]:
    """Return the places that a case expects, where it says them."""
    one = case.get("expected_position")
    found = case.get("expected_positions") or case.get("expected_res") or ([one] if one else [])
    return [(int(place[0]), int(place[1])) for place in found if isinstance(place, list)]


def labelled(folder: Path) -> list[str]:
    """Return the rows of the labelled sentences."""
    path = folder / "pii" / "presidio_research_generated_large.json.xz"
    with lzma.open(path) as file:
        sentences = json.load(file)
    labels, hits, findings, right = Counter(), Counter(), Counter(), Counter()
    for sentence in sentences:
        found = [f for f in find(sentence["full_text"], alone=True) if f.row is not None]
        kinds = [SAME.get(f.row.published, f.row.published) for f in found]
        spans = [
            (s["entity_type"], s["start_position"], s["end_position"]) for s in sentence["spans"]
        ]
        for kind, start, end in spans:
            labels[kind] += 1
            hits[kind] += any(
                k == kind and f.start < end and start < f.end
                for k, f in zip(kinds, found, strict=True)
            )
        for kind, one in zip(kinds, found, strict=True):
            findings[kind] += 1
            right[kind] += any(kind == k and one.start < e and s < one.end for k, s, e in spans)
    rows = ["| class | labels | recall | findings | precision |", "|---|---|---|---|---|"]
    rows += [
        f"| `{kind}` | {labels[kind]} | {share(hits[kind], labels[kind])} | {findings[kind]} "
        f"| {share(right[kind], findings[kind])} |"
        for kind in sorted((set(labels) | set(findings)) - NOT_OURS - {"DATE_TIME"})
    ]
    missed = sum(labels[kind] for kind in NOT_OURS)
    rows.append(f"\nLabels of classes that are not looked for (names, addresses, …): {missed}.")
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--write", action="store_true", help="Put the tables into docs/privacy.md.")
    options = parser.parse_args()
    data = Path(os.environ.get("TOWERKIT_REAL_DATA") or ROOT.parent / "shared" / "data")
    out = [f"Generated values, {options.count} a class:\n", *generated(options.count)]
    size = max(1, options.count // 50)
    out += ["\nEvery class, put where texts are put:\n", *places(size)]
    out += ["\nNumbers of groups in other ways of writing:\n", *written(size * 5)]
    out += ["\nTexts that hold none of it, each judged as a whole message:\n", *hard(options.count)]
    if (data / "pii").is_dir():
        out += ["\nLabelled sentences of presidio-research (Faker-made):\n", *labelled(data)]
        out += ["\nCases of Presidio's recognisers, most of them one number alone:\n", *cases(data)]
    else:
        out += ["\nThe labelled sentences are not here."]
    table = "\n".join(out)
    print(table)
    if options.write:
        page = PAGE.read_text()
        head, rest = page.split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()

"""What the detectors find, class by class, with 95 % Wilson intervals.

Two sources: values this repository generates (tests/privacy/instances.py), and the labelled
sentences of presidio-research where they are (TOWERKIT_REAL_DATA or ../shared/data). Recall: a
labelled span counts when a finding of its class overlaps it. Precision: a finding counts when a
label of its class overlaps it; for generated values, near misses (one digit changed) are the
findings that should not be. Prints the tables as Markdown; `--write` puts them into
docs/privacy.md.
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

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.privacy.instances import CHECKED, CLASSES, near_miss, text_with  # noqa: E402
from towerkit.gate.intervals import wilson  # noqa: E402
from towerkit.privacy.find import find  # noqa: E402

PAGE = ROOT / "docs" / "privacy.md"
BEGIN, END = "<!-- recall: begin -->", "<!-- recall: end -->"
# Labels of the data that name a class of ours otherwise.
SAME = {"DATE_OF_BIRTH": "DATE_TIME"}
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
    rows = ["| class | values | recall | found where one digit was changed |", "|---|---|---|---|"]
    for name in CLASSES:
        r = random.Random(f"{name} 1")
        hit = 0
        for _ in range(count):
            text, start, end = text_with(name, r)
            hit += any(
                f.row is not None and f.row.name == name and f.start <= start and f.end >= end
                for f in find(text)
            )
        false = "–"
        if name in CHECKED:
            wrong = sum(
                any(f.row is not None and f.row.name == name for f in find(near_miss(name, r)))
                for _ in range(count)
            )
            false = share(wrong, count)
        rows.append(f"| `{name}` | {count} | {share(hit, count)} | {false} |")
    return rows


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
    if (data / "pii").is_dir():
        out += ["\nLabelled sentences of presidio-research (Faker-made):\n", *labelled(data)]
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

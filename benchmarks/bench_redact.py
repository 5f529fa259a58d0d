"""What redaction costs, beside the same patterns by `re.sub`, one after another, with equal output.

The stream is of 2 KB prompts as an agent sends them: a conversation sends its earlier messages
again with every call, 20 times over its life; one message in 25 holds something to find. `peer`
runs each row's pattern with Python's `re` over each prompt, with the same checks and tokens. Rounds
are interleaved; one JSON line with medians. `distinct_ratio` is without any repetition.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from towerkit.privacy.detectors import DETECTORS, STRONG, Detector
from towerkit.privacy.find import _part, stands
from towerkit.privacy.redact import Redactor

WORDS = [
    "the", "order", "was", "sent", "to", "a", "shop", "and", "came", "back", "after", "days",
    "because", "nobody", "asked", "why", "it", "had", "been", "billed", "twice", "we", "look",
]  # fmt: skip
FINDINGS = ("ann.lee@example.org", "4242 4242 4242 4242", "GB33BUKB20201555555555", "219-09-9999")
KEY = b"k" * 32


def messages(count: int, seed: int) -> list[str]:
    """Return prompts of about 2 KB; one in 25 holds a finding."""
    r = random.Random(seed)
    out = []
    for i in range(count):
        words = [r.choice(WORDS) for _ in range(420)]
        words[7] = f"case{i}"
        if i % 25 == 0:
            words[200] = r.choice(FINDINGS)
        out.append(" ".join(words))
    return out


def _put(row: Detector, redactor: Redactor) -> Callable[[re.Match[str]], str]:
    """Return what puts the token of a row in the place of a match whose check holds."""

    def put(match: re.Match[str]) -> str:
        group = match.re.groups and 1
        part, start = _part(row, match.group(group)), match.start(group)
        if not part or not stands(row, match.string, start, start + len(part)):
            return match.group()
        value = row.normal(part) if row.normal else part
        return match.group().replace(part, redactor.token(row.name, value), 1)

    return put


def one_after_another(redactor: Redactor) -> Callable[[str], str]:
    """Return the function that runs each row by `re.sub`."""
    rows = [(re.compile(row.pattern), _put(row, redactor)) for row in STRONG]

    def redact(text: str) -> str:
        for pattern, put in rows:
            text = pattern.sub(put, text)
        return text

    return redact


def timed(redact: Callable[[str], str], stream: list[str]) -> tuple[float, list[str]]:
    """Return microseconds a prompt, and what came out."""
    start = time.perf_counter_ns()
    out = [redact(text) for text in stream]
    return (time.perf_counter_ns() - start) / len(stream) / 1e3, out


# What a text made to take time repeats; before it, every word that a row looks for, or nothing.
HOSTILE = (
    "4111 1111 1111 1112 ", "ab:cd:ef:", "a.b@c-d.", "a@b.org ", "phone 12345678 ", "%41%42",
    "12\\n", "a1\nb2", "149999705 ", "+1 2 3 4 5 6 7 ", "1.2.3.4 ", "9 ",
    "QUJDREVGR0hJSktMTU5PUFFSU1RVVldY ", "1HGCM82633A004352 ", "call me at 5 ",
    "\uff14\uff11\uff11\uff11 ", "0x" + "ab12" * 10 + " ",
)  # fmt: skip


def one_mb() -> dict[str, object]:
    """Return the worst seconds of processor time that 1 MB takes, and of which text; goal 1 s."""
    words = " ".join(sorted(set("|".join(row.near for row in DETECTORS if row.near).split("|"))))
    took = {}
    for unit in HOSTILE:
        for head in ("", words + "\n"):
            text = head + unit * (1_000_000 // len(unit))
            start = time.process_time_ns()
            Redactor(KEY, kid="k1").text(text)
            took[("words, " if head else "") + unit.strip()] = time.process_time_ns() - start
    worst = sorted(took, key=took.__getitem__)[-5:]
    plain = time.process_time_ns()
    Redactor(KEY, kid="k1").text("\n".join(messages(400, 1)))
    return {
        "one_mb_s": {unit: round(took[unit] / 1e9, 2) for unit in reversed(worst)},
        "one_mb_goal_s": 1.0,
        "one_mb_of_plain_text_s": round((time.process_time_ns() - plain) / 1e9, 3),
    }


def main() -> None:
    """Run the rounds and print the line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=50)
    options = parser.parse_args()
    figures: dict[str, list[float]] = {k: [] for k in ("ours", "peer", "distinct")}
    peer = one_after_another(Redactor(KEY, kid="k1"))
    Redactor(KEY, kid="k1").text(" ".join(FINDINGS))  # builds the automata
    for n in range(options.rounds):
        distinct = messages(options.messages, n)
        # A copy of each text: what comes again over the wire is another object.
        stream = [(" " + text)[1:] for text in distinct for _ in range(20)]
        ours, out = timed(Redactor(KEY, kid="k1").text, stream)
        once, shown = timed(Redactor(KEY, kid="k1").text, distinct)
        theirs, expected = timed(peer, distinct)
        if shown != expected or out[::20] != expected:
            sys.exit("the outputs differ")
        for name, value in (("ours", ours), ("peer", theirs), ("distinct", once)):
            figures[name].append(value)
    line = {f"{k}_us": round(statistics.median(v), 2) for k, v in figures.items()}
    line |= {
        "ratio": round(line["peer_us"] / line["ours_us"]), "goal": 60,
        "distinct_ratio": round(line["peer_us"] / line["distinct_us"]),
    }  # fmt: skip
    line |= one_mb()
    print(json.dumps({"benchmark": "redact", "rounds": options.rounds, **line}))


if __name__ == "__main__":
    main()

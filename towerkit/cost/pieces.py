"""How many tokens a text has for a model whose tokenizer is not here.

Rule: a guess, never a bound. A text is measured in the tokens of a vocabulary that is here, or in
pieces that come near to them; what a model makes of a measure is learnt from what its provider has
counted: apart for English, for other prose, for code and data, and for the letters of Chinese,
Japanese and Korean.
Until something is learnt the figures of `PRIORS` hold.
"""

from __future__ import annotations

import re
import threading
from typing import Literal

Kind = Literal["plain", "prose", "marks", "wide"]

# Tokens of a model beside those of o200k_base, by a part of its name; the first that fits. Measured
# on recorded answers of 40 tokens and more (`tests/longer/usage.py`).
PRIORS = (
    ("claude", 1.16), ("gemini", 1.07), ("mistral", 1.2), ("mixtral", 1.2), ("ministral", 1.2),
    ("codestral", 1.2), ("gpt-", 1.0), ("llama", 1.05),
)  # fmt: skip
PRIOR = 1.08  # of a model that is not named there
WEIGHT = 10  # measures, some words, that weigh as much as what was assumed
SAMPLE = 400  # letters that tell the kind of a text
FIRST, EVERY = 64, 64  # answers of a model that are all looked at, and then every so many

_PIECES = re.compile(r"[^\W\d_]+|\d+|[^\w\s]+|_+|\s+")
_WIDE = "\u2e80"  # from here on a letter is a word, or half of one


def rough(text: str) -> float:
    """Return about how many tokens a vocabulary of 200,000 makes of `text`.

    A word of up to eight letters is one, three digits are, and so are up to three signs in a row.
    """
    total = 0.0
    for piece in _PIECES.findall(text):
        first, size = piece[0], len(piece)
        if first.isspace():
            total += size > 1 or first == "\n"
        elif first.isdigit():
            total += -(-size // 3)
        elif first.isalpha():
            total += _word(piece, size)
        else:
            total += -(-size // 3) if piece.isascii() else 0.9 * size
    return total


def _word(piece: str, size: int) -> float:
    if piece.isascii():
        return 1 + max(0, size - 8) / 7
    wide = sum(letter >= _WIDE for letter in piece)
    left = size - wide
    return 0.75 * wide + (1 + max(0, left - 3) / 4.5 if left else 0)


def kind_of(text: str) -> Kind:
    """Return whether a text is of plain letters, of others, of many signs, or of wide letters."""
    start = text[:SAMPLE]
    if sum(letter >= _WIDE for letter in start) > len(start) // 4:
        return "wide"
    shown = [letter.isalpha() for letter in start if not letter.isspace()]
    if sum(shown) < 0.85 * len(shown):
        return "marks"
    return "plain" if start.isascii() else "prose"


class Ratios:
    """What models make of a measure. Runs of one tower share it; threads may learn at once."""

    def __init__(self) -> None:
        """Start with what was assumed."""
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, Kind], tuple[float, int]] = {}
        self._asked: dict[str, int] = {}

    def wants(self, model: str) -> bool:
        """Say whether another answer of `model` is looked at: all of the first, then some."""
        n = self._asked[model] = self._asked.get(model, 0) + 1
        return n <= FIRST or n % EVERY == 0

    def of(self, model: str, kind: Kind) -> float:
        """Return how many tokens `model` makes of one measure of such a text."""
        lowered = model.lower()
        assumed = next((ratio for part, ratio in PRIORS if part in lowered), PRIOR)
        seen, tokens = self._seen.get((model, kind), (0.0, 0))
        return (assumed * WEIGHT + tokens) / (WEIGHT + seen)

    def learn(self, model: str, kind: Kind, measure: float, tokens: int) -> None:
        """Take in what a provider has counted of a text."""
        with self._lock:
            seen, known = self._seen.get((model, kind), (0.0, 0))
            self._seen[model, kind] = (seen + measure, known + tokens)

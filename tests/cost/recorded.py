"""Usage that others recorded, beside what towerkit reads of it and what it costs.

Two sources: usage bodies with the price that genai-prices' own suite expects at the commit they are
from, and recorded HTTP answers.
"""

from __future__ import annotations

import json
import lzma
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

from towerkit.core.types import Usage
from towerkit.cost.answers import read_answer
from towerkit.cost.line import price_answer
from towerkit.cost.prices import PriceBook
from towerkit.cost.tokens import Asked, TokenBook

# A day on which the prices of that commit held.
AT = 1_784_548_800 * 10**9  # 2026-07-20T12:00Z

# What is expected there and is not what this book says, with the reason. Provider, model, API.
EXPLAINED = {
    ("mistral", "ministral-8b-latest"): "expects 1 USD a million out; Mistral's price was 0.1",
    ("mistral", "mistral-small-latest"): "expects the price before the alias moved on 2026-03-16",
    ("azure", "gpt-5.6-sol"): "expects cache writes unread; later releases read and price them",
    ("cerebras", "qwen-3-coder-480b"): "expects 0 for a model that is listed without a price",
}


def price_misses(folder: Path, book: PriceBook) -> tuple[int, Counter[tuple[str, str]]]:
    """Return how many priced expectations there are, and those that are not met by whom."""
    bodies = json.loads(
        lzma.decompress((folder / "prices/genai_prices_usages.json.xz").read_bytes())
    )
    asked, missed = 0, Counter()
    for row in bodies:
        for one in row["extracted"]:
            for by in one["extractors"]:
                if "input_price" not in by:
                    continue
                asked += 1
                dollars = by.get("total_price") or Decimal(by["input_price"]) + Decimal(
                    by["output_price"]
                )
                priced = price_answer(
                    row["body"], provider=by["provider_id"], model=row.get("model"), book=book,
                    now_unix_ns=AT, at_unix_ns=AT, api=by["api_flavor"],
                ).quote.price  # fmt: skip
                nano = Decimal(dollars) * 10**9
                if priced is None or abs(priced.nanousd - nano) > Decimal("0.5"):
                    missed[by["provider_id"], str(row.get("model"))] += 1
    return asked, missed


def exchanges(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the recorded HTTP exchanges."""
    for path in sorted((folder / "cassettes").glob("*.jsonl.xz")):
        for line in lzma.decompress(path.read_bytes()).splitlines():
            yield json.loads(line)


def counts_tokens(response: Any) -> bool:
    """Say whether a block named for usage with a count of tokens is anywhere, read by itself."""
    if isinstance(response, str):
        values = []
        for line in [response, *response.splitlines()]:
            try:
                values.append(json.loads(line.removeprefix("data:").strip()))
            except ValueError:
                continue
        return any(map(counts_tokens, values))
    if isinstance(response, list):
        return any(map(counts_tokens, response))
    if not isinstance(response, dict):
        return False
    return any(
        (key.lower() in {"usage", "usagemetadata", "billed_units"} and _has_tokens(value))
        or counts_tokens(value)
        for key, value in response.items()
    )


def _has_tokens(block: Any) -> bool:
    return isinstance(block, dict) and any(
        ("token" in k.lower() and isinstance(v, int)) or _has_tokens(v) for k, v in block.items()
    )


def account(folder: Path) -> Counter[tuple[str, str]]:
    """Return how the recorded answers were read: (whole, half or none) of those with a block.

    Answers without a block are `read` where the counts stand elsewhere, else `without`.
    """
    found: Counter[tuple[str, str]] = Counter()
    for exchange in exchanges(folder):
        reading = read_answer(exchange["response"])
        usage = reading.usage
        whole = usage is not None and None not in {usage.input_tokens, usage.output_tokens}
        how = "whole" if whole else "half" if usage is not None else "none"
        assert whole or reading.why, exchange["id"]
        blocks = "block" if counts_tokens(exchange["response"]) else "no block"
        found[blocks, how] += 1
    return found


class Estimates(NamedTuple):
    """How far estimates of one provider's answers are off, as parts of the truth.

    `fresh` knows nothing of the model; `learnt` has seen the other answers, not the one.
    """

    answers: int
    fresh: float
    learnt: float
    within_5_percent: float


def estimates(folder: Path, *, least: int = 40) -> dict[str, Estimates]:
    """Return it for each provider with answers that are nothing but text, of `least` tokens."""
    said: dict[str, list[tuple[str, str, int]]] = {}
    for exchange in exchanges(folder):
        text, reading = _only_text(exchange["response"]), read_answer(exchange["response"])
        usage = reading.usage
        if text and usage is not None and usage.output_tokens is not None:
            tokens = usage.output_tokens - (usage.reasoning_tokens or 0)
            if tokens >= least:
                said.setdefault(exchange["provider"], []).append(
                    (reading.model or exchange["provider"], text, tokens)
                )
    return {provider: _off(rows) for provider, rows in sorted(said.items())}


def _off(rows: list[tuple[str, str, int]]) -> Estimates:
    fresh, learnt = [], []
    for i, (model, text, tokens) in enumerate(rows):
        fresh.append(abs(TokenBook().text(model, text) - tokens) / tokens)
        book = TokenBook()
        for _, other, its in rows[:i] + rows[i + 1 :]:
            book.observed(model, Asked(), Usage(output_tokens=its), other)
        learnt.append(abs(book.text(model, text) - tokens) / tokens)
    n = len(rows)
    near = sum(off <= 0.05 for off in learnt) / n
    return Estimates(n, round(sum(fresh) / n, 3), round(sum(learnt) / n, 3), round(near, 2))


def _only_text(answer: Any) -> str | None:
    """Return the text of an answer in OpenAI's, Anthropic's or Gemini's form; None for another."""
    match answer:
        case {"choices": [{"message": {"content": str(text), **rest}}]} if not rest.get(
            "tool_calls"
        ):
            return text
        case {"content": [{"type": "text", "text": str(text)}]}:
            return text
        case {"candidates": [{"content": {"parts": [{"text": str(text)}]}}]}:
            return text
    return None

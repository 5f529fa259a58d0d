"""How many tokens a request has before it is sent, and an answer that was cut.

Rule: offline. A bound is never too low: a tokenizer of bytes makes at most one token a byte, and
what a provider has counted of the same conversation is exact. An estimate is the best guess, learnt
from what providers have counted (`pieces.py`), and how far guesses were off is reported.

    known                                     bound                        estimate
    nothing                                   a token a byte               by pieces of the text
    a tokenizer (extra `tokens`)              its count, and the frame     its count
    another's tokenizer                       a token a byte               its count, by a ratio
    the provider's count of a beginning       that, and the rest's bound   that, and the rest's

Pictures are bounded by the rules that providers document (`pictures.py`). Not in the bound: what a
provider adds of its own beyond `FRAME` and `TOOLS_FRAME`, and pictures without a rule, files and
sound, which count as `ATTACHED` each: their tokens are not those of their bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import msgspec

from towerkit.core.canonical import canonical_json
from towerkit.core.types import Usage
from towerkit.cost.pictures import picture_bound, size_of
from towerkit.cost.pieces import Ratios, kind_of, rough

FRAME = 16  # what surrounds a conversation
TOOLS_FRAME = 700  # the prompt some providers add when there are tools: 264 to 675 tokens
MESSAGE = 8  # what surrounds a message, where its text is counted without its JSON
AROUND = 4  # the same, most likely
ATTACHED = 6_000
INLINED_FROM = 6_000  # characters: shorter ones count as text
BYTES_A_TOKEN = 3.6  # schemas of tools, in JSON
_PICTURES = frozenset({"image_url", "input_image", "image"})
_ATTACHMENTS = _PICTURES | {"file", "input_file", "document", "input_audio"}

# The encodings of models by the start of their names; the first that fits. From OpenAI's own table.
ENCODINGS = (
    ("gpt-oss", "o200k_harmony"), ("gpt-4o", "o200k_base"), ("gpt-4.1", "o200k_base"),
    ("gpt-5", "o200k_base"), ("o1", "o200k_base"), ("o3", "o200k_base"), ("o4", "o200k_base"),
    ("gpt-4", "cl100k_base"), ("gpt-3.5", "cl100k_base"), ("text-embedding-3", "cl100k_base"),
)  # fmt: skip

_DATA = frozenset({"data", "file_data"})

Counter = Callable[[str], int]


@cache
def counter(model: str) -> Counter | None:
    """Return what counts the tokens of a text for `model`, exactly; None where nothing does."""
    encoding = next((e for start, e in ENCODINGS if model.startswith(start)), None)
    return None if encoding is None else _counter(encoding)


def measure(text: str) -> float:
    """Return the size of a text for models without a tokenizer here: by another's, or roughly."""
    count = _counter("o200k_base")
    return rough(text) if count is None else count(text)


@cache
def _counter(encoding: str) -> Counter | None:
    try:
        import toktok  # noqa: PLC0415  an extra
    except ImportError:
        return None

    def count(text: str) -> int:
        found: int = toktok.batch_count([text], encoding, threads=1)[0]
        return found

    return count


class Asked(msgspec.Struct, frozen=True):
    """A request as its tokens are counted: its messages, their digests, and the JSON of the rest.

    Without digests no two requests are known to begin alike. `tools` says whether it has any.
    """

    messages: Sequence[Any] = ()
    shown: tuple[str, ...] = ()
    rest: bytes = b""
    tools: bool = False


class _Seen(msgspec.Struct, frozen=True):
    shown: tuple[str, ...]
    rest: bytes
    tokens: int


class TokenBook:
    """What a run has learnt of its models' tokens, and how far its estimates were off."""

    def __init__(self, ratios: Ratios | None = None) -> None:
        """Start with nothing known of conversations; `ratios` is what other runs have learnt."""
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._ratios = Ratios() if ratios is None else ratios
        self._errors = {"input": [0.0, 0], "output": [0.0, 0]}

    def bound(self, model: str, asked: Asked) -> int:
        """Return a number of input tokens that `model` will not pass."""
        known, start = self._known(model, asked)
        count = counter(model)
        total = known + sum(_most(m, count, model) for m in asked.messages[start:])
        if start:
            return total
        return total + FRAME + len(asked.rest) + (TOOLS_FRAME if asked.tools else 0)

    def estimate(self, model: str, asked: Asked) -> int:
        """Return the most likely number of input tokens."""
        known, start = self._known(model, asked)
        rest = sum(self._likely(model, message) for message in asked.messages[start:])
        return known + rest + (0 if start else round(len(asked.rest) / BYTES_A_TOKEN))

    def text(self, model: str, text: str) -> int:
        """Return the most likely number of tokens of an answer's text."""
        count = counter(model)
        if count is not None:
            return count(text)
        return round(measure(text) * self._ratios.of(model, kind_of(text)))

    def observed(self, model: str, asked: Asked, usage: Usage, answer: str) -> None:
        """Learn from a whole answer: what the provider counted."""
        looked = self._ratios.wants(model)
        if usage.input_tokens is not None and asked.shown:
            if looked:
                self._off("input", self.estimate(model, asked), usage.input_tokens)
                self._learn_input(model, asked, usage.input_tokens)
            with self._lock:
                self._seen[model] = _Seen(asked.shown, asked.rest, usage.input_tokens)
        said = (usage.output_tokens or 0) - (usage.reasoning_tokens or 0)
        if looked and said > 0 and answer:
            self._off("output", self.text(model, answer), said)
            self._learn(model, answer, said)

    def _learn_input(self, model: str, asked: Asked, tokens: int) -> None:
        """Learn from a request that is nothing but texts of a conversation not seen before."""
        texts = [_text_of(message) for message in asked.messages]
        if None not in texts and not asked.rest and model not in self._seen:
            self._learn(model, "\n".join(map(str, texts)), tokens - AROUND * len(texts))

    def _learn(self, model: str, text: str, tokens: int) -> None:
        if tokens > 0 and counter(model) is None:
            self._ratios.learn(model, kind_of(text), measure(text), tokens)

    def errors(self) -> dict[str, Any]:
        """Return how far estimates were off, as the manifest keeps it."""
        with self._lock:
            return {
                f"{side}_error": round(total / n, 4) if n else None
                for side, (total, n) in self._errors.items()
            }

    def _known(self, model: str, asked: Asked) -> tuple[int, int]:
        """Return the tokens of the longest beginning that was counted, and its messages."""
        seen = self._seen.get(model)
        if seen is None or seen.rest != asked.rest:
            return 0, 0
        n = len(seen.shown)
        return (seen.tokens, n) if n and asked.shown[:n] == seen.shown else (0, 0)

    def _likely(self, model: str, message: Any) -> int:
        text = _text_of(message)
        if text is None:
            return round(_text_bytes(message) / BYTES_A_TOKEN) + _attached(message, model) // 4
        return self.text(model, text) + AROUND

    def _off(self, side: str, guess: int, truth: int) -> None:
        with self._lock:
            total, n = self._errors[side]
            self._errors[side] = [total + abs(guess - truth) / max(1, truth), n + 1]


def _text_of(message: Any) -> str | None:
    """Return the text of a message that is nothing but a text."""
    if type(message) is not dict or not message.keys() <= {"role", "content"}:
        return None
    content = message.get("content")
    return content if type(content) is str else None


def _most(message: Any, count: Counter | None, model: str) -> int:
    text = None if count is None else _text_of(message)
    if text is not None and count is not None:
        return count(text) + MESSAGE
    return _text_bytes(message) + MESSAGE + _attached(message, model)


def _text_bytes(message: Any) -> int:
    """Return the bytes of a message's JSON without the files that are inlined in it."""
    return len(canonical_json(message)) - sum(_inlined(message))


def _attached(message: Any, model: str) -> int:
    """Return the most tokens of the pictures and files of a message, inlined or at an address."""
    parts = message.get("content") if type(message) is dict else None
    named = [
        part for part in (parts if type(parts) is list else ())
        if type(part) is dict and type(part.get("type")) is str and part["type"] in _ATTACHMENTS
    ]  # fmt: skip
    others = max(0, len(list(_inlined(message))) - len(named))
    return ATTACHED * others + sum(_most_of(part, model) for part in named)


def _most_of(part: dict[str, Any], model: str) -> int:
    if part["type"] not in _PICTURES:
        return ATTACHED
    given = part.get("image_url", part.get("source"))
    said = given if type(given) is dict else {}
    data = said.get("url", said.get("data")) if said else given
    size = size_of(data) if type(data) is str else None
    bound = picture_bound(model, size, said.get("detail", part.get("detail")))
    return ATTACHED if bound is None else bound


def _inlined(value: Any, key: str = "", depth: int = 0) -> Iterator[int]:
    """Yield the length of each file that is inlined in JSON-able data."""
    if type(value) is str:
        if len(value) > INLINED_FROM and (key in _DATA or value.startswith("data:")):
            yield len(value)
    elif type(value) is dict and depth < 8:
        for name, part in value.items():
            yield from _inlined(part, name, depth + 1)
    elif type(value) is list and depth < 8:
        for part in value:
            yield from _inlined(part, key, depth + 1)

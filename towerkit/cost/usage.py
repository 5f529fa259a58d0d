"""Usage: the counts of a provider's answer as normalised token classes.

Rule: one table says how each dialect counts, and nothing else in towerkit knows it. A count that
cannot be true (negative, no whole number, beyond `MOST_TOKENS`, a part above its whole) makes the
whole of them untrue: there is no usage then, and a sentence says why. Unknown is None, never 0.

    dialect      who speaks it                                   cached input is
    chat         OpenAI, Azure, Mistral, Groq, OpenRouter, …     in the input
    responses    OpenAI's responses, images, audio; LangChain    in the input
    embeddings   whoever makes vectors in OpenAI's format        -
    anthropic    Anthropic, there and on Bedrock and Vertex      beside it
    gemini       generateContent; interactions are its sibling   in the input
    converse     Bedrock's converse; invocation is its header    beside it
    cohere       billed units; cohere_tokens: what was read      in the input
    ollama, titan, llama, watsonx, generation                    -

An answer's body and a stream of events are `cost/answers.py`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from towerkit.core.types import Usage

# No call reads or writes as much; beyond it a charge would not fit its column either.
MOST_TOKENS = 10**9

Get = Callable[[Any, str], Any]


class TokenUsage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Token classes of one answer. Unknown is None and is left out when this is written as JSON.

    `input_tokens` and `output_tokens` are sums; the other tokens are parts of them. What was
    written to a cache is split by how long it is kept where the provider says so. Searches are
    billed by the request.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    cache_write_5m_tokens: int | None = None
    cache_write_1h_tokens: int | None = None
    cache_audio_read_tokens: int | None = None
    cache_image_read_tokens: int | None = None
    reasoning_tokens: int | None = None
    input_audio_tokens: int | None = None
    output_audio_tokens: int | None = None
    input_image_tokens: int | None = None
    output_image_tokens: int | None = None
    web_searches: int | None = None
    rerank_searches: int | None = None

    @property
    def plain(self) -> Usage | None:
        """The five classes that runs record, the others as details; None when no sum is known."""
        if self.input_tokens is None and self.output_tokens is None:
            return None
        details = {n: v for n in _DETAILS if (v := getattr(self, n))}
        return Usage(
            details=details or msgspec.UNSET,
            input_tokens=self.input_tokens, output_tokens=self.output_tokens,
            cache_read_tokens=self.cache_read_tokens, cache_write_tokens=self.cache_write_tokens,
            reasoning_tokens=self.reasoning_tokens,
        )  # fmt: skip


_DETAILS = tuple(n for n in TokenUsage.__struct_fields__ if n not in Usage.__struct_fields__)


def whole_usage(usage: Usage | TokenUsage) -> TokenUsage:
    """Return usage with every class in its field."""
    if isinstance(usage, TokenUsage):
        return usage
    counts = msgspec.structs.asdict(usage)
    details = counts.pop("details")
    known = {} if details is msgspec.UNSET else {n: v for n, v in details.items() if n in _DETAILS}
    return TokenUsage(**counts, **known)


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What a block of counts says. `usage` None, or a sum that is unknown, comes with `why`."""

    usage: TokenUsage | None = None
    why: str | None = None
    dialect: str | None = None


def count(value: Any) -> int | None:
    """Return a count of tokens; None for what is no whole number or cannot be true."""
    kind = type(value)  # not `isinstance`: a stranger's object answers that itself
    if issubclass(kind, float) and float.is_integer(value):  # Cohere's counts are written as 12.0
        number = int(float.__float__(value))
    elif issubclass(kind, int) and kind is not bool:
        number = int.__int__(value)
    else:
        return None
    return number if 0 <= number <= MOST_TOKENS else None


def field(of: Any, names: str) -> Any:
    """Return the first of the fields `a|b` that is there; of a list, what stands at a number."""
    for name in names.split("|"):
        if isinstance(of, Mapping):
            found = of.get(name)
        elif isinstance(of, list):
            found = of[int(name)] if name.isdigit() and int(name) < len(of) else None
        else:
            found = getattr(of, name, None)
        if found is not None:
            return found
    return None


class _Block:
    """A block of counts while it is read: what it said that cannot be true is noted."""

    def __init__(self, of: Any, get: Get) -> None:
        self.of, self.get = of, get
        self.wrong: str | None = None

    def raw(self, path: str) -> Any:
        """Return what is at a dotted path."""
        value = self.of
        for step in path.split("."):
            if value is None:
                return None
            value = self.get(value, step)
        return value

    def one(self, *paths: str) -> int | None:
        """Return the first count there is; a value that is no count is noted."""
        for path in paths:
            value = self.raw(path)
            if value is None:
                continue
            found = count(value)
            if found is None:
                self.wrong = self.wrong or _untrue(path, value)
            return found
        return None

    def total(self, *paths: str) -> int | None:
        """Return the sum of the counts there are; None when there is none."""
        known = [n for n in map(self.one, paths) if n is not None]
        return sum(known) if known else None

    def rows(self, path: str) -> list[Any]:
        """Return the list at a path, else an empty one."""
        value = self.raw(path)
        return list(value) if type(value) in {list, tuple} else []


def _untrue(path: str, value: Any) -> str:
    name = path.rpartition(".")[2].partition("|")[0]
    shown = repr(value) if type(value) in {int, float, bool} else type(value).__name__
    return f"{name} is {shown[:24]}, which is no count of tokens"


Counts = dict[str, int | None]


def _chat(b: _Block) -> Counts:
    prompt, said = b.one("prompt_tokens"), b.one("completion_tokens")
    # Beside the answer, not in it: xAI's native counts and Perplexity's research.
    thought = b.one("reasoning_tokens")
    apart = [thought, b.one("citation_tokens")]
    whole = b.one("total_tokens")
    inside = b.one("completion_tokens_details.reasoning_tokens")
    output = None if said is None else said + sum(n or 0 for n in apart)
    if output is not None and inside and thought is None and prompt is not None:
        # Whether reasoning is in the answer or beside it, the total tells: xAI has it beside.
        output += inside if whole == prompt + output + inside else 0
    if said is None and whole is not None and b.raw("completion_tokens") is None:
        # Vectors and ranks: no answer is counted, and some name the total only.
        prompt = whole if prompt is None else prompt
        output = whole - prompt if whole >= prompt else None
    return {
        "input_tokens": prompt, "output_tokens": output,
        "cache_read_tokens": b.one(
            "prompt_tokens_details.cached_tokens", "prompt_token_details.cached_tokens",
            "prompt_cache_hit_tokens", "cached_prompt_text_tokens", "cached_tokens",
        ),
        "cache_write_tokens": b.one("prompt_tokens_details.cache_write_tokens"),
        "reasoning_tokens": inside if thought is None else thought,
        "input_audio_tokens": b.one("prompt_tokens_details.audio_tokens"),
        "output_audio_tokens": b.one("completion_tokens_details.audio_tokens"),
        "input_image_tokens": b.one("prompt_tokens_details.image_tokens"),
        "output_image_tokens": b.one("completion_tokens_details.image_tokens"),
        "web_searches": b.one("num_search_queries", "server_tool_use.web_search_requests",
                              "server_tool_use_details.web_search_requests"),
    }  # fmt: skip


def _embeddings(b: _Block) -> Counts:
    return {"input_tokens": b.one("prompt_tokens", "input_tokens", "total_tokens"),
            "output_tokens": 0}  # fmt: skip


_IN, _OUT = "input_tokens_details|input_token_details", "output_tokens_details|output_token_details"


def _responses(b: _Block) -> Counts:
    return {
        "input_tokens": b.one("input_tokens"),
        "output_tokens": b.one("output_tokens"),
        "cache_read_tokens": b.one(
            f"{_IN}.cached_tokens|cache_read|cache_read_input_tokens", "cache_read_tokens"
        ),
        "cache_write_tokens": b.one(
            f"{_IN}.cache_write_tokens|cache_creation", "cache_write_tokens"
        ),
        "reasoning_tokens": b.one(f"{_OUT}.reasoning_tokens|reasoning"),
        "input_audio_tokens": b.one(f"{_IN}.audio_tokens"),
        "output_audio_tokens": b.one(f"{_OUT}.audio_tokens"),
        "cache_audio_read_tokens": b.one(f"{_IN}.cached_tokens_details.audio_tokens"),
        "cache_image_read_tokens": b.one(f"{_IN}.cached_tokens_details.image_tokens"),
        "input_image_tokens": b.one(f"{_IN}.image_tokens"),
        "output_image_tokens": b.one(f"{_OUT}.image_tokens"),
        "web_searches": b.one("tool_calls_details.search_web.invocation"),
    }


def _anthropic(b: _Block) -> Counts:
    read, written = b.one("cache_read_input_tokens"), b.one("cache_creation_input_tokens")
    short = b.one("cache_creation.ephemeral_5m_input_tokens")
    long = b.one("cache_creation.ephemeral_1h_input_tokens")
    if written is None:
        written = b.total("cache_creation.ephemeral_5m_input_tokens",
                          "cache_creation.ephemeral_1h_input_tokens")  # fmt: skip
    return {
        "input_tokens": _plus(b.one("input_tokens"), read, written),
        "output_tokens": b.one("output_tokens"),
        "cache_read_tokens": read, "cache_write_tokens": written,
        "cache_write_5m_tokens": short, "cache_write_1h_tokens": long,
        "reasoning_tokens": b.one("output_tokens_details.thinking_tokens"),
        "web_searches": b.one("server_tool_use.web_search_requests"),
    }  # fmt: skip


def _plus(total: int | None, *parts: int | None) -> int | None:
    return None if total is None else total + sum(part or 0 for part in parts)


def _gemini(b: _Block) -> Counts:
    used = "toolUsePromptTokenCount|tool_use_prompt_token_count"
    given = _plus(b.one("promptTokenCount|prompt_token_count"), b.one(used))
    answer = b.one("candidatesTokenCount|candidates_token_count")
    thoughts = b.one("thoughtsTokenCount|thoughts_token_count")
    whole = b.one("totalTokenCount|total_token_count")
    made = _plus(answer, thoughts)
    if answer is None and whole is not None:
        # A count that is zero is left out. What the answer took is then in the total.
        given = whole if given is None else given
        made = whole - given if whole >= given else None
    return {
        "input_tokens": given,
        "output_tokens": made,
        "reasoning_tokens": thoughts,
        "cache_read_tokens": b.one("cachedContentTokenCount|cached_content_token_count"),
        "input_audio_tokens": _modality(b, _GIVEN, {"AUDIO"}),
        "output_audio_tokens": _modality(b, _MADE, {"AUDIO"}),
        "input_image_tokens": _modality(b, _GIVEN, {"IMAGE", "DOCUMENT"}),
        "output_image_tokens": _modality(b, _MADE, {"IMAGE", "DOCUMENT"}),
        "cache_audio_read_tokens": _modality(b, _CACHED, {"AUDIO"}),
        "cache_image_read_tokens": _modality(b, _CACHED, {"IMAGE", "DOCUMENT"}),
    }


_GIVEN = ("promptTokensDetails|prompt_tokens_details",
          "toolUsePromptTokensDetails|tool_use_prompt_tokens_details")  # fmt: skip
_MADE = ("candidatesTokensDetails|candidates_tokens_details",)
_CACHED = ("cacheTokensDetails|cache_tokens_details",)


def _modality(b: _Block, lists: tuple[str, ...], kinds: set[str]) -> int | None:
    """Return what lists of {modality, count} say of some modalities; None without a list."""
    rows = [row for path in lists for row in b.rows(path)]
    if not rows:
        return None
    total = 0
    for row in rows:
        named = b.get(row, "modality")
        if str(getattr(named, "value", named)).upper() in kinds:
            total += _Block(row, b.get).one("tokenCount|token_count|tokens") or 0
    return total


def _interactions(b: _Block) -> Counts:
    thoughts = b.one("total_thought_tokens")
    by = "input_tokens_by_modality", "output_tokens_by_modality", "cached_tokens_by_modality"
    return {
        "input_tokens": _plus(b.one("total_input_tokens"), b.one("total_tool_use_tokens")),
        "output_tokens": _plus(b.one("total_output_tokens"), thoughts),
        "cache_read_tokens": b.one("total_cached_tokens"), "reasoning_tokens": thoughts,
        "input_audio_tokens": _modality(b, by[:1], {"AUDIO"}),
        "output_audio_tokens": _modality(b, by[1:2], {"AUDIO"}),
        "input_image_tokens": _modality(b, by[:1], {"IMAGE", "DOCUMENT"}),
        "output_image_tokens": _modality(b, by[1:2], {"IMAGE", "DOCUMENT"}),
        "cache_audio_read_tokens": _modality(b, by[2:], {"AUDIO"}),
        "cache_image_read_tokens": _modality(b, by[2:], {"IMAGE", "DOCUMENT"}),
    }  # fmt: skip


def _converse(b: _Block) -> Counts:
    read = b.one("cacheReadInputTokens|cacheReadInputTokenCount")
    written = b.one("cacheWriteInputTokens|cacheWriteInputTokenCount")
    kept: dict[str, int] = {}
    for row in b.rows("cacheDetails"):
        lifetime = str(b.get(row, "ttl"))
        kept[lifetime] = kept.get(lifetime, 0) + (_Block(row, b.get).one("inputTokens") or 0)
    return {
        "input_tokens": _plus(b.one("inputTokens|inputTokenCount"), read, written),
        "output_tokens": b.one("outputTokens|outputTokenCount"),
        "cache_read_tokens": read, "cache_write_tokens": written,
        "cache_write_5m_tokens": kept.get("5m"), "cache_write_1h_tokens": kept.get("1h"),
    }  # fmt: skip


def _cohere(b: _Block) -> Counts:
    units = "billed_units"
    images = b.one(f"{units}.image_tokens")
    text = b.one(f"{units}.input_tokens")
    ranked = b.one(f"{units}.search_units", f"{units}.classifications")
    nothing = 0 if b.raw(units) is not None else None  # what is not billed is not named
    return {
        "input_tokens": nothing if text is None and images is None else (text or 0) + (images or 0),
        "output_tokens": b.one(f"{units}.output_tokens") or nothing,
        "input_image_tokens": images,
        "rerank_searches": ranked,
    }


def _cohere_tokens(b: _Block) -> Counts:
    return {
        "input_tokens": b.one("tokens.input_tokens"),
        "output_tokens": b.one("tokens.output_tokens"),
        "cache_read_tokens": b.one("cached_tokens"),
    }


def _ollama(b: _Block) -> Counts:
    return {"input_tokens": b.one("prompt_eval_count"), "output_tokens": b.one("eval_count")}


def _llama(b: _Block) -> Counts:
    return {"input_tokens": b.one("prompt_token_count"),
            "output_tokens": b.one("generation_token_count")}  # fmt: skip


def _titan(b: _Block) -> Counts:
    made = [_Block(row, b.get).one("tokenCount") for row in b.rows("results")]
    one = b.one("totalOutputTextTokenCount", "outputTextTokenCount")
    return {
        "input_tokens": b.one("inputTextTokenCount"),
        "output_tokens": sum(n or 0 for n in made) if one is None else one,
    }


def _watsonx(b: _Block) -> Counts:
    return {"input_tokens": b.one("input_token_count"),
            "output_tokens": b.one("generated_token_count|output_token_count")}  # fmt: skip


def _generation(b: _Block) -> Counts:
    prefill = b.rows("prefill")
    return {"input_tokens": len(prefill) or None, "output_tokens": b.one("generated_tokens")}


# Name, the fields that only this dialect has (any of them), and its reader. The first that fits.
DIALECTS: tuple[tuple[str, tuple[str, ...], Callable[[_Block], Counts]], ...] = (
    ("llama", ("generation_token_count",), _llama),
    ("titan", ("inputTextTokenCount", "totalOutputTextTokenCount"), _titan),
    ("gemini", ("promptTokenCount|prompt_token_count", "totalTokenCount|total_token_count",
                "candidatesTokenCount|candidates_token_count"), _gemini),
    ("interactions", ("total_input_tokens", "total_output_tokens"), _interactions),
    ("converse", ("inputTokens|inputTokenCount", "outputTokens|outputTokenCount"), _converse),
    ("cohere", ("billed_units",), _cohere),
    ("cohere_tokens", ("tokens.input_tokens", "tokens.output_tokens"), _cohere_tokens),
    ("anthropic", ("cache_read_input_tokens", "cache_creation_input_tokens", "cache_creation"),
     _anthropic),
    ("responses", ("input_tokens", "output_tokens"), _responses),
    ("chat", ("prompt_tokens", "completion_tokens", "total_tokens"), _chat),
    ("embeddings", (), _embeddings),
    ("ollama", ("eval_count", "prompt_eval_count"), _ollama),
    ("watsonx", ("generated_token_count", "input_token_count"), _watsonx),
    ("generation", ("generated_tokens",), _generation),
)  # fmt: skip

_READERS = {name: reader for name, _, reader in DIALECTS}

# Names of an API that say which dialect its counts are in; any other name leaves it to their shape.
APIS: dict[str, str] = {
    "chat": "chat", "openai_chat": "chat", "chat.completions": "chat", "chat_completions": "chat",
    "completions": "chat", "responses": "responses", "openai_responses": "responses",
    "embeddings": "embeddings", "anthropic": "anthropic", "messages": "anthropic",
    "gemini": "gemini", "generate_content": "gemini", "generatecontent": "gemini",
    "interactions": "interactions", "converse": "converse", "tokens": "cohere_tokens",
    "ollama": "ollama",
}  # fmt: skip


def dialect_of(counts: Any, *, get: Get = field) -> str | None:
    """Return the name of the dialect that a block of counts is in, by its fields."""
    block = _Block(counts, get)
    for name, marks, _ in DIALECTS:
        if any(block.raw(mark) is not None for mark in marks):
            return name
    return None


def read_counts(counts: Any, *, dialect: str | None = None, get: Get = field) -> Counted:
    """Return what a block of counts (JSON or an SDK's object) says, in one shape for all dialects.

    `dialect` is tried first; where it does not find both sums, the fields decide. `get(value,
    "a|b")` is how to reach the first of some fields.
    """
    named = Counted() if dialect is None else _read(dialect, counts, get)
    if dialect is not None and named.why is None:
        return named
    fitting = dialect_of(counts, get=get)
    found = None if fitting in {None, dialect} else _read(str(fitting), counts, get)
    if found is None or (found.why is not None and named.usage is not None):
        nobody = Counted(why="no dialect known here counts tokens with these fields")
        return nobody if dialect is None else named
    return found


def _read(dialect: str, counts: Any, get: Get) -> Counted:
    block = _Block(counts, get)
    found = _READERS[dialect](block)
    why = block.wrong or _contradiction(found)
    if why is not None:
        return Counted(why=why, dialect=dialect)
    usage = TokenUsage(**found)
    missing = [n for n in ("input", "output") if getattr(usage, f"{n}_tokens") is None]
    if len(missing) == 2:
        return Counted(why="it counts neither input nor output tokens", dialect=dialect)
    said = f"it does not count {missing[0]} tokens" if missing else None
    return Counted(usage=usage, why=said, dialect=dialect)


_PARTS = (
    ("input_tokens", ("cache_read_tokens", "cache_write_tokens")),
    ("input_tokens", ("input_audio_tokens", "input_image_tokens")),
    ("output_tokens", ("reasoning_tokens",)),
    ("output_tokens", ("output_audio_tokens", "output_image_tokens")),
    ("cache_write_tokens", ("cache_write_5m_tokens", "cache_write_1h_tokens")),
    ("cache_read_tokens", ("cache_audio_read_tokens", "cache_image_read_tokens")),
)


def _contradiction(found: Counts) -> str | None:
    for whole, parts in _PARTS:
        total, known = found.get(whole), [p for p in parts if found.get(p)]
        if total is not None and sum(found[p] or 0 for p in known) > total:
            return f"{' and '.join(known)} are above {whole}: a part is larger than its whole"
    return None


def merged(blocks: Iterable[tuple[Any, str]]) -> Any:
    """Return the counts of a stream: its blocks, each with its dialect, in one.

    Anthropic says input and output in different events, so later fields go over earlier ones.
    Watsonx counts up the output and says the input once. Everyone else repeats the sum so far: the
    last block holds.
    """
    state: Any = None
    for block, dialect in blocks:
        if not isinstance(state, Mapping) or not isinstance(block, Mapping):
            state = block
        elif dialect in {"anthropic", "responses"}:
            state = {**state, **{k: v for k, v in block.items() if v is not None}}
        elif dialect == "watsonx":
            state = {k: _larger(state.get(k), v) for k, v in block.items()}
        else:
            state = block
    return state


def _larger(one: Any, other: Any) -> Any:
    a, b = count(one), count(other)
    return other if a is None or (b is not None and b > a) else one

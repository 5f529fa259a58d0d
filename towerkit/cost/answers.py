"""What a provider's answer says of its usage: a body, a part of one, or the text of a stream.

Rule: nothing here does I/O or raises for what a provider sends. Where the counts stand in a body is
a table; how they count is `cost/usage.py`'s.

A text is JSON, JSON lines, server-sent events, or AWS's binary event stream written as base64 or
hexadecimal digits.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from towerkit.core.sse import Lines
from towerkit.cost.usage import (
    APIS,
    Counted,
    TokenUsage,
    dialect_of,
    field,
    merged,
    read_counts,
)

# Where a body has its block of counts, the first that holds one. "" is the body itself: a usage
# part given alone, or a format that counts at the top.
PLACES: tuple[str, ...] = (
    "usage", "usageMetadata|usage_metadata", "response.usage", "response.usageMetadata",
    "message.usage", "x_groq.usage", "metadata.usage", "interaction.usage", "delta.usage",
    "amazon-bedrock-invocationMetrics", "meta", "response.meta", "metrics", "details", "",
    "results.0",
)  # fmt: skip
_MODELS = (
    "model", "modelVersion|model_version", "message.model", "response.model", "interaction.model",
    "model_id", "response.modelVersion",
)  # fmt: skip
_TIERS = (
    "usage.service_tier", "service_tier", "response.service_tier", "message.usage.service_tier",
    "usageMetadata.serviceTier", "interaction.service_tier",
)  # fmt: skip
_SPEEDS = ("usage.speed", "message.usage.speed")
_BILLED = ("usage.cost.total_cost", "usage.cost")
_MADE = ("created|created_at", "response.created_at", "interaction.created")
_EARLIEST, _LATEST = 1_420_070_400, 4_102_444_800  # 2015 and 2100: anything else is no time
_WRAPPED = ("data", "runs", "steps")  # lists of answers


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer says. `usage` None, or a sum in it that is unknown, comes with `why`.

    `model` is whom the answer names; `context` what else decides a price, such as the service tier;
    `billed_usd` what the provider says it charged; `made_unix_s` when it says it made the answer.
    """

    usage: TokenUsage | None = None
    why: str | None = None
    dialect: str | None = None
    model: str | None = None
    context: dict[str, str] = {}
    billed_usd: Decimal | None = None
    made_unix_s: int | None = None


def read_answer(body: Any, *, api: str | None = None) -> Reading:
    """Return what an answer says of its usage.

    `body` is parsed JSON (an answer, its usage part, or a list of chunks) or the text of an answer
    or a stream. `api` names the API, such as chat, responses or messages; unknown names are ignored
    and the fields decide.
    """
    events = _events(body) if isinstance(body, str) else [body]
    if not events:
        return Reading(why="expected JSON or the text of a stream, got a text that is neither")
    flat = [e for event in events for e in (event if isinstance(event, list) else [event])]
    said = [e for e in flat if isinstance(e, Mapping)]
    if not said:
        return Reading(why=f"expected a JSON object, got {type(body).__name__}")
    wanted = APIS.get((api or "").lower().replace(" ", "_"))
    blocks = [found for event in said if (found := _block(event)) is not None]
    context = {k: w for k, paths in (("service_tier", _TIERS), ("speed", _SPEEDS))
               if (w := _last(said, paths))}  # fmt: skip
    model = _last(said, _MODELS)
    if not blocks:
        return Reading(why=_no_usage(said), model=model, context=context)
    counted = _counted(blocks, wanted, vectors=any(map(_makes_vectors, said)))
    searches = _searches(said)
    usage = counted.usage
    if usage is not None and searches and usage.web_searches is None:
        usage = msgspec.structs.replace(usage, web_searches=searches)
    return Reading(
        usage=usage, why=counted.why, dialect=counted.dialect, model=model,
        context={k: v.lower() for k, v in context.items()}, billed_usd=_billed(said),
        made_unix_s=_made(said),
    )  # fmt: skip


def _counted(blocks: list[tuple[Any, str]], wanted: str | None, *, vectors: bool) -> Counted:
    counts = merged(blocks)
    counted = read_counts(counts, dialect=wanted)
    usage = counted.usage
    if vectors and usage is not None and usage.output_tokens is None:
        whole = msgspec.structs.replace(usage, output_tokens=0)
        return Counted(usage=whole, dialect=counted.dialect)
    return counted


def _at(of: Any, path: str) -> Any:
    for step in path.split(".") if path else ():
        if of is None:
            return None
        of = field(of, step)
    return of


def _block(event: Mapping[str, Any]) -> tuple[Any, str] | None:
    """Return the block of counts of one body or event, with its dialect."""
    for place in PLACES:
        block = _at(event, place)
        if isinstance(block, Mapping):
            dialect = dialect_of(block)
            if dialect is not None:
                return _whole(event, block, dialect), dialect
    for name in _WRAPPED:
        rows = event.get(name)
        if isinstance(rows, list) and len(rows) == 1 and isinstance(rows[0], Mapping):
            return _block(rows[0])
    return None


def _whole(event: Mapping[str, Any], block: Mapping[str, Any], dialect: str) -> Mapping[str, Any]:
    if dialect == "titan":  # it counts its output beside each result
        return event
    if event.get("type") == "message_start":  # its output is only begun: the end of it counts
        return {k: v for k, v in block.items() if k != "output_tokens"}
    return block


def _last(said: list[Mapping[str, Any]], paths: tuple[str, ...]) -> str | None:
    """Return the last word that stands at one of the paths."""
    for event in reversed(said):
        for path in paths:
            word = _at(event, path)
            if isinstance(word, str) and word:
                return word
    return None


def _billed(said: list[Mapping[str, Any]]) -> Decimal | None:
    for event in reversed(said):
        if _at(event, "usage.is_byok") is True:  # the rest was billed to a key of the caller's
            return None
        for path in _BILLED:
            amount = _at(event, path)
            if isinstance(amount, int | float) and not isinstance(amount, bool):
                try:
                    dollars = Decimal(str(amount))
                except InvalidOperation:  # never: a number's own text is one
                    continue
                if dollars.is_finite() and 0 <= dollars < 10**6:
                    return dollars
    return None


def _made(said: list[Mapping[str, Any]]) -> int | None:
    """Return when an answer says it was made, in seconds since 1970."""
    for event in said:
        moment = next((m for path in _MADE if (m := _at(event, path)) is not None), None)
        if isinstance(moment, str):
            try:
                parsed = datetime.fromisoformat(moment)
            except ValueError:
                continue
            moment = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
        if isinstance(moment, int | float) and _EARLIEST <= moment <= _LATEST:
            return int(moment)
    return None


def _makes_vectors(event: Mapping[str, Any]) -> bool:
    """Say whether an answer holds vectors or ranks, of which no output is counted."""
    rows = event.get("data")
    first = rows[0] if isinstance(rows, list) and rows else {}
    inside = isinstance(first, Mapping) and ("embedding" in first or "relevance_score" in first)
    return inside or any(name in event for name in ("embedding", "embeddings"))


def _searches(said: list[Mapping[str, Any]]) -> int | None:
    """Count the web searches an answer of the responses API lists: each is billed."""
    for event in reversed(said):
        output = _at(event, "response.output") or event.get("output")
        if isinstance(output, list):
            made = [o for o in output
                    if isinstance(o, Mapping) and o.get("type") == "web_search_call"
                    and _at(o, "action.type") in {None, "search"}]  # fmt: skip
            return len(made) or None
    return None


def _no_usage(said: list[Mapping[str, Any]]) -> str:
    last = said[-1]
    if any("error" in event and event["error"] for event in said) or last.get("type") == "error":
        return "the answer is an error and has no usage"
    if any(isinstance(event.get("usage"), Mapping) for event in said):
        return "its usage block counts no tokens"
    if len(said) > 1:
        return "the stream has no event with usage: it was cut, or usage was not asked for"
    return "the answer has no usage block"


# -- texts -----------------------------------------------------------------------------------------


def _events(text: str) -> list[Any]:
    """Return the JSON values of a text, in their order."""
    whole = text.strip()
    parsed = _parsed(whole)
    if parsed is not None:
        return [parsed]
    binary = _binary(whole)
    if binary is not None:
        return list(aws_events(binary))
    if whole.startswith("{"):
        return [v for line in whole.splitlines() if (v := _parsed(line)) is not None]
    lines = Lines()
    data = [*lines.feed(text.encode("utf-8", "replace")), *lines.end()]
    return [v for _, said in data if (v := _parsed(said)) is not None]


def parsed(text: str | bytes) -> Any:
    """Return a JSON value; raise `ValueError`. NaN and Infinity are read: a count of them is none.

    Those two are no JSON, but Python's encoder writes them, and then so do proxies.
    """
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        pass
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _parsed(text: str | bytes) -> Any:
    """Return a JSON value; None for what is none."""
    try:
        return parsed(text)
    except ValueError:
        return None


def _binary(text: str) -> bytes | None:
    """Return the bytes of an event stream that is written in hexadecimal digits or base64."""
    head = text[:32]
    for decode in (bytes.fromhex, _base64):
        try:
            if _prelude(decode(head)) is not None:
                return decode("".join(text.split()))
        except (ValueError, binascii.Error):
            continue
    return None


def _base64(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _prelude(data: bytes) -> tuple[int, int] | None:
    """Return the lengths a message begins with, or None: the checksum after them must hold."""
    if len(data) < 12:
        return None
    total, headers, checksum = struct.unpack(">III", data[:12])
    return (total, headers) if zlib.crc32(data[:8]) == checksum else None


def aws_events(data: bytes) -> Iterator[Any]:
    """Yield the payloads of `application/vnd.amazon.eventstream`, those inside `bytes` unpacked.

    Stops where a message is torn: what came before it holds.
    """
    at = 0
    while True:
        lengths = _prelude(data[at : at + 12])
        if lengths is None or at + lengths[0] > len(data):
            return
        total, headers = lengths
        payload = _parsed(data[at + 12 + headers : at + total - 4])
        if isinstance(payload, Mapping) and isinstance(payload.get("bytes"), str):
            try:
                payload = _parsed(_base64(payload["bytes"]))
            except (ValueError, binascii.Error):
                payload = None
        if payload is not None:
            yield payload
        at += total

"""What goes over HTTP to a model and back: which endpoint, which model, what the answer says.

Rule: this reads copies and never changes a byte of what is sent or handed on. Nothing here does
I/O or raises for what a provider sends: what cannot be read is reported as unread.

    path ends in                          body has             format
    /chat/completions, /completions       model                openai_chat
    /responses                            model or prompt      openai_responses
    /messages                             model + messages     anthropic
    /embeddings                           model + input        openai_chat
    :generateContent, :streamGenerate…    contents             gemini
    /audio/…, /images/…, /rerank …        model                none: usage is not read

A `POST …/messages` of a mail service has no `model`: path and body decide together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from towerkit.core.types import Response, ToolCall, Usage
from towerkit.cost.usage import merged, read_counts
from towerkit.reliability.classify import Failure, classify_response
from towerkit.runtime.tool_calls import parse_tool_call

Json = dict[str, Any]

PROVIDERS: tuple[tuple[str, str], ...] = (
    ("api.openai.com", "openai"), ("openai.azure.com", "azure"),
    ("services.ai.azure.com", "azure"), ("cognitiveservices.azure.com", "azure"),
    ("api.anthropic.com", "anthropic"), ("googleapis.com", "google"), ("amazonaws.com", "aws"),
    ("api.groq.com", "groq"), ("openrouter.ai", "openrouter"), ("api.mistral.ai", "mistral"),
    ("api.deepseek.com", "deepseek"), ("api.x.ai", "x-ai"), ("api.together.xyz", "together"),
    ("api.fireworks.ai", "fireworks"), ("api.cerebras.ai", "cerebras"),
    ("api.perplexity.ai", "perplexity"), ("api.cohere.com", "cohere"), ("api.cohere.ai", "cohere"),
)  # fmt: skip
"""Hosts, or the domains above them, and what the price book calls their owners."""


class _Known(msgspec.Struct, frozen=True):
    """One kind of endpoint: the end of its path, what its body must have, how it is read."""

    path: re.Pattern[str]
    needs: tuple[tuple[str, ...], ...]  # each entry: one of these
    format: str | None
    verb: str = "chat"


def _known(path: str, needs: str, format_: str | None, verb: str = "chat") -> _Known:
    wanted = tuple(tuple(part.split("|")) for part in needs.split())
    return _Known(re.compile(path), wanted, format_, verb)


_ENDPOINTS = (
    _known(r"/chat/completions$", "model messages", "openai_chat"),
    _known(r"/deployments/[^/]+/chat/completions$", "messages", "openai_chat"),
    _known(r"(?<!/chat)/completions$", "model prompt", "openai_chat"),
    _known(r"/responses$", "model|prompt", "openai_responses"),
    _known(r"/messages$", "model messages", "anthropic"),
    _known(r"/messages/count_tokens$", "model messages", None, "count"),
    _known(r":(rawPredict|streamRawPredict)$", "anthropic_version messages", "anthropic"),
    _known(r"/model/[^/]+/invoke$", "anthropic_version messages", "anthropic"),
    _known(r"/model/[^/]+/(invoke(-with-response-stream)?|converse(-stream)?)$", "", None),
    _known(r"/models/[^/]+:(generateContent|streamGenerateContent)$", "contents", "gemini"),
    _known(r"/models/[^/]+:countTokens$", "", None, "count"),
    _known(r"/models/[^/]+:(embedContent|batchEmbedContents)$", "", None, "embeddings"),
    _known(r"/embeddings$", "model input", "openai_chat", "embeddings"),
    _known(r"/(rerank|moderations)$", "model|input", None, "rank"),
    _known(r"/(audio/[a-z]+|images/[a-z]+)$", "model", None, "generate"),
)  # fmt: skip

_IN_PATH = re.compile(r"/(?:models|model|deployments)/([^/:]+)")
_FORM_MODEL = re.compile(rb'name="model"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,200})\r\n')
_MAX_TOKENS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "maxOutputTokens")
UNLIMITED_TOKENS = 4096
"""Output tokens that are reserved for a request that names no limit."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What a request asks for: a model call, or anything else (`kind` "tool", `name` the host)."""

    kind: Literal["model", "tool"]
    name: str
    provider: str
    format: str | None = None
    verb: str = "execute_tool"
    stream: bool = False
    body: Any = None
    max_tokens: int = UNLIMITED_TOKENS
    answers: int = 1


def asked(
    *, method: str, host: str, path: str, body: bytes | None, provider: str | None = None
) -> Asked:
    """Return what a request asks for; `body` None is one that was not read. `host` has the port."""
    parsed = _parsed(body) if body is not None else None
    tool = Asked(kind="tool", name=host, provider=provider or _owner(host), body=parsed)
    found = next((k for k in _ENDPOINTS if k.path.search(path)), None)
    if method != "POST" or body is None or found is None or "/threads/" in path:
        return tool
    form = _FORM_MODEL.search(body) if parsed is None else None
    fields: Json = parsed if isinstance(parsed, dict) else {}
    if form is not None:
        fields = {"model": form[1].decode("utf-8", "replace")}
    fitting = (
        k for k in _ENDPOINTS
        if k.path.search(path) and all(any(n in fields for n in one) for one in k.needs)
    )  # fmt: skip
    known = next(fitting, None)
    if known is None:
        return tool
    in_path = _IN_PATH.search(path)
    model = fields.get("model") or (in_path[1] if in_path else None)
    return Asked(
        kind="model", name=str(model or "unnamed")[:200], provider=tool.provider,
        format=known.format, verb=known.verb, body=parsed,
        stream=fields.get("stream") is True or "stream" in path.rpartition("/")[2].lower(),
        max_tokens=0 if known.verb == "embeddings" else _limit(fields),
        answers=_count(fields.get("n")) or _count(_config(fields).get("candidateCount")) or 1,
    )  # fmt: skip


def _owner(host: str) -> str:
    name = host.partition(":")[0]
    return next((o for h, o in PROVIDERS if name == h or name.endswith("." + h)), host)


def _config(fields: Json) -> Json:
    return _d(fields.get("generationConfig"))


def _limit(fields: Json) -> int:
    places = (fields, _config(fields), _d(fields.get("inferenceConfig")))
    given = (_count(place.get(name)) for place in places for name in _MAX_TOKENS)
    return next((n for n in given if n is not None), UNLIMITED_TOKENS)


def _parsed(body: bytes) -> Any:
    """Return a JSON body, or None."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


# -- answers ---------------------------------------------------------------------------------------


def _d(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[Json]:
    return [v for v in value if isinstance(v, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _count(value: Any) -> int | None:
    """Return a token count that can be one; providers send text, negatives and nonsense too."""
    sane = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 53
    return value if sane else None


class Said:
    """What an answer says so far. Fed with the events of a stream, or with the whole of a body."""

    def __init__(self, format_: str | None, *, answers: int = 1) -> None:
        """Start empty; `answers` is how many choices were asked for."""
        self.parts: list[str] = []
        self.calls: dict[Any, list[str]] = {}
        self.arguments: dict[Any, list[str]] = {}
        self.finish: str | None = None
        self.model: str | None = None
        self.id: str | None = None
        self._counts: list[tuple[Json, str]] = []
        self.done = False
        self._finished: set[Any] = set()
        self._answers = answers
        self._read: Callable[[Said, Json], None] | None = _READERS.get(format_ or "")

    @property
    def usage(self) -> Usage | None:
        """The token counts that were reported; None where one of them cannot be true."""
        if not self._counts:
            return None
        found = read_counts(merged(self._counts), dialect=self._counts[-1][1]).usage
        return None if found is None else found.plain

    def counted(self, block: Any, dialect: str) -> None:
        """Note a block of token counts."""
        if isinstance(block, dict) and block:
            self._counts.append((block, dialect))

    def feed(self, event: Any) -> None:
        """Take an event or a body; what has another shape than expected says nothing."""
        if self._read is not None:
            for one in event if isinstance(event, list) else [event]:
                self._read(self, _d(one))

    def ended(self, index: Any, reason: str | None) -> None:
        """Note that choice `index` ended."""
        if reason is not None:
            self.finish = reason
            self._finished.add(index)
            self.done = self.done or len(self._finished) >= self._answers

    def call(self, index: Any, call_id: Any, name: Any, arguments: Any) -> None:
        """Note a part of a tool call."""
        known = self.calls.setdefault(index, ["", ""])
        known[0], known[1] = _text(call_id) or known[0], _text(name) or known[1]
        if isinstance(arguments, str):
            self.arguments.setdefault(index, []).append(arguments)
        elif isinstance(arguments, dict) and arguments:
            self.arguments[index] = [msgspec.json.encode(arguments).decode()]

    def response(self) -> Response:
        """Return the answer in the one shape of all providers."""
        calls: tuple[ToolCall, ...] = tuple(
            parse_tool_call(call[0], call[1], "".join(self.arguments.get(index, ())))
            for index, call in self.calls.items()
        )
        return Response(
            content="".join(self.parts), tool_calls=calls, finish_reason=self.finish or "stop",
            usage=self.usage, model=self.model, response_id=self.id,
        )  # fmt: skip


def _chat(said: Said, event: Json) -> None:
    said.model, said.id = _text(event.get("model")) or said.model, _text(event.get("id")) or said.id
    vectors = event.get("object") == "list"
    said.counted(event.get("usage"), "embeddings" if vectors else "chat")
    for choice in _dicts(event.get("choices")):
        index, part = choice.get("index"), _d(choice.get("delta")) or _d(choice.get("message"))
        said.parts.append(_text(part.get("content")) or _text(choice.get("text")) or "")
        for at, call in enumerate(_dicts(part.get("tool_calls"))):
            fn = _d(call.get("function"))
            where = (index, call.get("index", at))
            said.call(str(where), call.get("id"), fn.get("name"), fn.get("arguments"))
        said.ended(str(index), _text(choice.get("finish_reason")))


def _responses(said: Said, event: Json) -> None:
    kind = _text(event.get("type"))
    if kind in {"response.output_text.delta", "response.refusal.delta"}:
        said.parts.append(_text(event.get("delta")) or "")
        return
    whole = _d(event.get("response")) or (event if event.get("object") == "response" else {})
    said.model, said.id = _text(whole.get("model")) or said.model, _text(whole.get("id")) or said.id
    if kind not in {None, "response.completed", "response.incomplete", "response.failed"}:
        return
    said.counted(whole.get("usage"), "responses")
    texts: list[str] = []
    for item in _dicts(whole.get("output")):
        texts += [_text(p.get("text")) or "" for p in _dicts(item.get("content"))]
        if item.get("type") == "function_call":
            said.call(str(item.get("id")), item.get("call_id"), item.get("name"),
                      item.get("arguments"))  # fmt: skip
    said.parts = said.parts or texts
    why = _text(_d(whole.get("incomplete_details")).get("reason"))
    said.ended(0, why or _text(whole.get("status")))
    said.done = said.done or bool(whole)


def _anthropic(said: Said, event: Json) -> None:
    kind, delta = _text(event.get("type")), _d(event.get("delta"))
    message = event if kind == "message" else _d(event.get("message"))
    block = _d(event.get("content_block"))
    if message:
        said.model, said.id = _text(message.get("model")), _text(message.get("id"))
    for at, one in enumerate([block] if block else _dicts(message.get("content"))):
        said.parts.append(_text(one.get("text")) or "")
        if one.get("type") == "tool_use":
            index = str(event.get("index", at))
            said.call(index, one.get("id"), one.get("name"), one.get("input"))
    if kind == "content_block_delta":
        said.parts.append(_text(delta.get("text")) or "")
        if "partial_json" in delta:
            said.call(str(event.get("index")), None, None, delta["partial_json"])
    begun = _d(message.get("usage")) if kind == "message_start" else None
    if begun:  # what it says of the output is only begun
        begun = {k: v for k, v in begun.items() if k != "output_tokens"}
    said.counted(begun or event.get("usage") or message.get("usage"), "anthropic")
    said.finish = (
        _text(message.get("stop_reason")) or _text(delta.get("stop_reason")) or said.finish
    )
    said.done = said.done or kind in {"message", "message_stop"}


def _gemini(said: Said, event: Json) -> None:
    said.model = _text(event.get("modelVersion")) or said.model
    said.id = _text(event.get("responseId")) or said.id
    said.counted(event.get("usageMetadata"), "gemini")
    for candidate in _dicts(event.get("candidates")):
        for part in _dicts(_d(candidate.get("content")).get("parts")):
            said.parts.append(_text(part.get("text")) or "")
            call = _d(part.get("functionCall"))
            if call:
                index = str(len(said.calls))
                said.call(index, call.get("id"), call.get("name"), call.get("args"))
        said.ended(str(candidate.get("index")), _text(candidate.get("finishReason")))
    blocked = _text(_d(event.get("promptFeedback")).get("blockReason"))
    if blocked is not None:
        said.finish, said.done = blocked, True


_READERS: Mapping[str, Callable[[Said, Json], None]] = {
    "openai_chat": _chat,
    "openai_responses": _responses,
    "anthropic": _anthropic,
    "gemini": _gemini,
}


def failure_inside(event: Any) -> Failure | None:
    """Return the failure an event or a body tells of, though its status was no error."""
    for one in event if isinstance(event, list) else [event]:
        plain = _d(one)
        told = plain.get("error") or _d(plain.get("response")).get("error")
        if told or _text(plain.get("type")) in {"error", "exception"}:
            return classify_response(status=200, body=plain)
    return None

"""From an exception, a response, a stream's end or an error text to one row of the taxonomy.

Rule: by duck typing, no SDK is imported, and nothing an object does when it is looked at gets out
of here. What decides, in order: the tower's own verdict, a decisive class name, provider codes and
HTTP status, class names that name an event on the wire, the words, class names of a family. The
error itself is asked before what caused it. A log's text has no classes: the names it begins with
stand for them, and its words are looked at without these names. What fits nothing is `unknown`:
visible, counted, never retried after a side effect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from towerkit.core.errors import ControlError
from towerkit.reliability.bodies import (
    CODES,
    CUT_BY,
    Evidence,
    grpc_code,
    judge_answer,
    judge_facts,
    judge_mcp,
    judge_named,
    judge_tool,
    judge_words,
    plain_code,
    read_body,
    read_text,
)
from towerkit.reliability.exceptions import (
    CODE_ERRORS,
    DECISIVE,
    EVENTS,
    GENERAL,
    PRECISE,
    STATUS_NAMES,
    family,
    heads,
    named,
    of_the_code,
)
from towerkit.reliability.probe import (
    LIMIT,
    body_of,
    chain,
    fields,
    get,
    headers_of,
    is_a,
    items,
    kind_of,
    mro_names,
    plain_headers,
    text_of,
    whole,
)
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.reliability.texts import match_text
from towerkit.reliability.waits import asked_wait


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong in one attempt: its row, the exception's type, the wait asked for.

    `veto` is a provider's (or a bad certificate's) word that the same request must not be sent
    again. `sent` says whether the request reached the other side; None when nobody knows.
    """

    error_class: str
    error_type: str
    retry_after_s: float | None = None
    veto: bool = False
    sent: bool | None = None


_NOT_SENT = frozenset({"connect_failed", "timeout_connect", "throttled_locally", "circuit_open"})
_THROTTLES = frozenset({"rate_limited", "ramp_too_fast", "overloaded"})
_FULL_DISK = frozenset({28, 30, 122})  # ENOSPC, EROFS, EDQUOT
_BAD_CERTIFICATE = frozenset({
    "SSLCertVerificationError", "CertificateError", "ClientConnectorCertificateError",
})  # fmt: skip
_TRANSPORT = frozenset({"APIConnectionError", "APITimeoutError", "BadHttpMessage"})
_GOOGLE = re.compile(r"gemini|google|vertex|palm", re.IGNORECASE)
_STATUS_NAMES = (
    "status_code", "http_status", "status", "code", "http_status_code", "statusCode",
)  # fmt: skip


def classify(
    error: BaseException, *, operation: str = "model", now_unix_s: float | None = None
) -> Failure:
    """Classify an exception of a model call; of a tool call when `operation` is "tool".

    `operation` "agent" is the agent's own code: there, what nothing else explains is its bug. A
    wait until a moment in time needs `now_unix_s`; without it such a wait is None.
    """
    kind = kind_of(error)
    if is_a(error, ControlError):
        return _own(error, kind, operation)
    if _cancelled(error):
        return Failure(error_class="cancelled", error_type=kind)
    if operation == "tool":
        return _tool(error, kind)
    links = list(chain(error))
    name = _judge(links)
    if operation == "agent" and name == "unknown":
        name = "agent_bug"
    return _with_wait(name, kind, links, now_unix_s)


def classify_text(text: str) -> str:
    """Classify an error text as a log has it; `unknown` when nothing fits."""
    return classify_log(text).error_class


def classify_log(
    raw: Any, *, http_status: int | None = None, provider: str | None = None,
    now_unix_s: float | None = None,
) -> Failure:  # fmt: skip
    """Classify what a log kept of a failure: a body or the text of an exception, and its status.

    `provider` (or a model's name) tells Google's limits from OpenAI's, which share their words.
    """
    seen = read_body(raw)
    if provider is not None and _GOOGLE.search(provider[:200]) and "quota" in seen.text:
        seen = msgspec.structs.replace(seen, codes=seen.codes | {"resource_exhausted"})
    status = whole(http_status)
    if status is not None and status >= 400 and seen.status is None:
        seen = msgspec.structs.replace(seen, status=status)
    name = _judge_text(seen)
    if seen.status is None:
        name = judge_answer(raw, name)
    wait = asked_wait({}, seen.text, now_unix_s=now_unix_s, throttled=name in _THROTTLES)
    return Failure(error_class=name, error_type="", retry_after_s=wait, sent=_sent(name))


def classify_response(
    *, status: int, headers: Any = None, body: Any = None, now_unix_s: float | None = None
) -> Failure | None:
    """Classify a raw HTTP response (body as bytes, text or parsed); None when it is no failure."""
    plain = plain_headers(headers)
    seen = read_body(body)
    aws = plain.get("x-amzn-errortype") or plain.get("x-ms-error-code")
    if aws is not None:
        seen = msgspec.structs.replace(seen, codes=seen.codes | {plain_code(aws)})
    if status >= 400:
        name = judge_facts(msgspec.structs.replace(seen, status=status, rpc=None)) or "unknown"
    elif (found := _unreadable(plain, body) or _error_inside(body)) is not None:
        name = found
    else:
        return None
    return Failure(
        error_class=name, error_type=str(status), veto=plain.get("x-should-retry") == "false",
        retry_after_s=asked_wait(
            plain, seen.text, now_unix_s=now_unix_s, throttled=name in _THROTTLES
        ),
        sent=_sent(name),
    )  # fmt: skip


def _own(error: BaseException, kind: str, operation: str) -> Failure:
    name = text_of(get(error, "error_class"))
    if name == "tool_timeout" and operation == "model":
        name = "timeout_read"
    wait = get(error, "retry_after_s")
    return Failure(
        error_class=name if name in TAXONOMY else "unknown", error_type=kind, sent=_sent(name),
        retry_after_s=asked_wait({"retry-after": text_of(wait)}) if wait is not None else None,
    )  # fmt: skip


def _cancelled(error: BaseException) -> bool:
    """Say whether the error itself is a cancellation, or a group of nothing else.

    A cancellation that only caused the error does not count: `asyncio.timeout` raises its
    TimeoutError from one.
    """
    if is_a(error, BaseExceptionGroup):
        inner = get(error, "exceptions")
        return bool(inner) and all(_cancelled(e) for e in inner[:64])
    return named(mro_names(error), DECISIVE) == "cancelled"


def _tool(error: BaseException, kind: str) -> Failure:
    own = get(error, "error_class")  # a tool may say what its error is
    if is_a(own, str) and text_of(own) in TAXONOMY:
        return Failure(error_class=text_of(own), error_type=kind)
    links = list(chain(error))
    for link in links:
        rpc = _rpc(link)
        if rpc is not None:
            name = judge_mcp(rpc, text_of(get(link, "message") or link))
            return Failure(error_class=name, error_type=kind, sent=_sent(name))
    names = mro_names(error)
    name = named(names, DECISIVE) or named(names, PRECISE) or named(names, GENERAL) or ""
    for link in links[1:]:  # a task group wraps what its tasks raised
        inner = named(mro_names(link), PRECISE)
        name = inner if inner == "mcp_transport" else name
    if is_a(error, TimeoutError) or name in {"timeout_read", "timeout_connect"}:
        name = "tool_timeout"
    elif name not in _TOOL_ROWS:
        name = "tool_failed"
    return Failure(error_class=name, error_type=kind)


_TOOL_ROWS = frozenset({
    "tool_args_invalid", "tool_unknown", "tool_timeout", "mcp_transport", "mcp_protocol",
    "permission_needed", "budget_exceeded", "guardrail_blocked",
})  # fmt: skip


def _rpc(link: BaseException) -> int | None:
    """Return the JSON-RPC code an MCP error carries, in itself or in its `error`."""
    for place in (get(link, "error"), link):
        code = whole(get(place, "code"))
        if code is not None and -32900 < code <= -32000:
            return code
    return None


def _judge(links: list[BaseException]) -> str:
    for link in links:
        name = _decisive(link) or _facts(link)
        if name is not None:
            return name
    for link in links:
        name = named(mro_names(link), PRECISE)
        if name is not None:
            return name
    if named(mro_names(links[0]), CODE_ERRORS) is not None:
        return "agent_bug"
    for link in links:
        text = text_of(link)
        name = _judge_text(read_text(text)) if text else "unknown"
        # Words that look like a bug are no proof of one below the outermost error.
        if name not in {"unknown", "agent_bug"}:
            return name
    general = (named(mro_names(link), GENERAL) for link in links)
    found = next((name for name in general if name is not None), None)
    return found or "unknown"


def _decisive(link: BaseException) -> str | None:
    names = mro_names(link)
    if "GuardrailRaisedException" in names:
        blocked = get(link, "blocked_content")
        return "guardrail_unavailable" if blocked is False else "guardrail_blocked"
    category = get(link, "category")
    if is_a(category, str) and text_of(category) == "litellm_rate_limit":
        return "budget_exceeded"
    if is_a(link, OSError) and whole(get(link, "errno")) in _FULL_DISK:
        return "storage_failed"
    name = named(names, DECISIVE)
    return None if name == "cancelled" else name


def _facts(link: BaseException) -> str | None:
    """Judge a link by its body, its status, its headers and its RPC code."""
    rpc = _rpc(link)
    if rpc is not None:
        return judge_mcp(rpc, text_of(get(link, "message") or link))
    seen = read_body(body_of(link))
    codes = set(seen.codes)
    for name in ("code", "type", "status", "reason", "error_code"):
        value = get(link, name)
        said = text_of(value) if is_a(value, str) else ""
        if 0 < len(said) <= 120:
            codes.add(plain_code(said))
    names = mro_names(link)
    if "RpcError" in names or "GoogleAPICallError" in names:
        codes.add(grpc_code(link) or "")
    aws = plain_code(headers_of(link).get("x-amzn-errortype", ""))
    text = seen.text or text_of(get(link, "message") or link)
    status = _status(link) or seen.status
    # litellm gives its connection errors a status nobody sent, aiohttp a broken payload.
    if _TRANSPORT & set(names) and "APIStatusError" not in names:
        status, seen, codes = None, Evidence(), set()
    return judge_facts(
        Evidence(codes=frozenset(codes | {aws}), status=status, rpc=seen.rpc, text=text)
    )


def _status(link: BaseException) -> int | None:
    for place in (link, get(link, "response")):
        for name in _STATUS_NAMES:
            status = whole(get(place, name))
            if status is not None and 400 <= status < 600:
                return status
    return None


def _judge_text(seen: Evidence) -> str:
    """Judge the text of a log.

    Decisive names, names of the wire it begins with, facts, an SDK's name of a status, words, names
    anywhere, and last what a part of a name says.
    """
    words = [w.rsplit(".", 1)[-1] for w in seen.text[:LIMIT].replace(":", " ").split()[:400]]
    decisive = named(words, DECISIVE)
    names, rest = heads(seen.text)
    if decisive == "output_invalid":  # to some libraries, also a call of a tool there is not
        return match_text(rest, allowed={"tool_unknown"}) or decisive
    if decisive is not None and decisive != "cancelled":
        return decisive
    inner = names[::-1]  # the innermost is the closest to what happened
    event = named(inner, EVENTS)
    if event is not None and judge_facts(msgspec.structs.replace(seen, status=None)) is None:
        return match_text(rest, allowed=CUT_BY.get(event, ())) or event
    found = (
        judge_facts(seen)
        or judge_tool(seen.text, rest)
        or judge_named(named(inner, STATUS_NAMES), seen.text, rest)
    )
    if found is not None:
        return found
    code = of_the_code(names)
    found = judge_words(seen.text, rest)
    if found == "invalid_request" and code:
        return "agent_bug"  # "not supported" is what a ValueError says too
    return (
        found
        or named(words, PRECISE)
        or named(words, GENERAL)
        or family(inner)
        or decisive
        or ("agent_bug" if code else "unknown")
    )


def _with_wait(
    name: str, kind: str, links: list[BaseException], now_unix_s: float | None
) -> Failure:
    headers = next((found for link in links if (found := headers_of(link))), {})
    given = next((g for link in links if (g := _given(link)) is not None), None)
    text = "\n".join(read_body(body_of(link)).text or text_of(link) for link in links[:3])
    wait = asked_wait(headers, text[:LIMIT], now_unix_s=now_unix_s, throttled=name in _THROTTLES)
    bad = any(_BAD_CERTIFICATE & set(mro_names(link)) for link in links) or (
        name == "connect_failed" and "certificate verify failed" in text.lower()
    )
    return Failure(
        error_class=name, error_type=kind, retry_after_s=given if given is not None else wait,
        veto=bad or headers.get("x-should-retry", "").strip().lower() == "false",
        sent=_sent(name),
    )  # fmt: skip


def _given(link: BaseException) -> float | None:
    """Return a wait the exception itself carries as a number."""
    for name in ("retry_after_s", "retry_after", "cooldown_time"):
        value = get(link, name)
        if is_a(value, int | float) and not is_a(value, bool):
            return asked_wait({"retry-after": text_of(value)})
    return None


def _sent(name: str) -> bool | None:
    return False if name in _NOT_SENT else None if name in {"unknown", "mcp_transport"} else True


# -- what a finished answer says -------------------------------------------------------------------

FINISHES = {
    "length": "output_truncated", "max_tokens": "output_truncated",
    "max_output_tokens": "output_truncated", "error_limit": "output_truncated",
    "model_context_window_exceeded": "context_too_long", "content_filter": "content_filtered",
    "content_filtered": "content_filtered", "safety": "content_filtered",
    "recitation": "content_filtered", "blocklist": "content_filtered",
    "prohibited_content": "content_filtered", "spii": "content_filtered",
    "image_safety": "content_filtered", "refusal": "content_filtered",
    "jailbreak": "content_filtered", "model_armor": "content_filtered",
    "image_prohibited_content": "content_filtered", "image_recitation": "content_filtered",
    "guardrail_intervened": "content_filtered", "error_toxic": "content_filtered",
    "malformed_function_call": "tool_args_invalid", "unexpected_tool_call": "tool_unknown",
    "error": "upstream_5xx", "network_error": "upstream_5xx", "cancelled": "cancelled",
    "insufficient_system_resource": "overloaded",
}  # fmt: skip
"""Why an answer ended, where that is a failure. A plain end (`stop`, `tool_calls`) is not in it."""


def classify_finish(reason: str | None) -> Failure | None:
    """Classify the finish reason of an answer; None for a plain end."""
    name = FINISHES.get(text_of(reason).strip().lower()) if reason is not None else None
    return None if name is None else Failure(error_class=name, error_type=str(reason), sent=True)


def is_terminal(event: Any) -> bool:
    """Say whether a stream's event (parsed, or the text after `data:`) ends the answer."""
    if not is_a(event, Mapping):
        return text_of(event).strip() == "[DONE]"
    plain = fields(event)
    if text_of(plain.get("type")) in {
        "message_stop", "message-end", "response.completed", "response.incomplete",
        "response.failed", "error",
    }:  # fmt: skip
        return True
    if plain.get("done") is True or plain.get("is_finished") is True or "error" in plain:
        return True
    return _finish_of(event) is not None


def classify_event(event: Any) -> Failure | None:
    """Classify a stream's event that carries a failure, an SSE error after a 200 among them."""
    if not is_a(event, Mapping):
        return None
    name = _error_inside(event)
    if name is not None:
        wait = asked_wait({}, read_body(event).text, throttled=name in _THROTTLES)
        return Failure(error_class=name, error_type="stream", retry_after_s=wait, sent=True)
    return classify_finish(_finish_of(event))


def classify_stream_end(*, terminal: bool, finish_reason: str | None = None) -> Failure | None:
    """Classify a stream that ended without an exception; None only when it ended as it should."""
    if not terminal:
        return Failure(error_class="stream_truncated", error_type="stream", sent=True)
    return classify_finish(finish_reason)


def classify_tool_result(result: Any) -> Failure | None:
    """Classify what an MCP tool answered (an object or a mapping); None when it is no error."""
    names = ("isError", "is_error", "content")
    plain = fields(result) or {name: get(result, name) for name in names}
    if plain.get("isError") is not True and plain.get("is_error") is not True:
        return None
    content = plain.get("content")
    parts = [p for _, p in items(content)] if is_a(content, list | tuple) else [content]
    said = [fields(p).get("text") or get(p, "text") or p for p in parts[:20]]
    text = "\n".join(text_of(s) for s in said if s is not None)[:LIMIT]
    name = match_text(text, allowed={"tool_unknown", "tool_args_invalid", "permission_needed"})
    if name is None and "alidation error" in text:
        name = "tool_args_invalid"
    return Failure(error_class=name or "tool_failed", error_type="isError", sent=True)


def _finish_of(event: Any) -> str | None:
    """Return why the answer ended, from an event or a whole answer of any known format."""
    plain = fields(event)
    inner = fields(plain.get("response")) or plain
    places = [inner.get("incomplete_details"), inner.get("promptFeedback"), plain.get("delta")]
    for name in ("choices", "candidates"):
        many = inner.get(name)
        places += [item for _, item in items(many)[:8]] if is_a(many, list | tuple) else []
    for place in (*map(fields, places), {k: v for k, v in inner.items() if k != "reason"}):
        for field in ("reason", "blockReason", "finish_reason", "finishReason", "stop_reason",
                      "stopReason"):  # fmt: skip
            reason = place.get(field)
            if is_a(reason, str):
                return text_of(reason)
    return None


def _error_inside(body: Any) -> str | None:
    """Return the row of an error object inside an answer that has no error status."""
    if not is_a(body, Mapping):
        return None
    plain = fields(body)
    error = (fields(plain.get("response")) or plain).get("error")
    if error is None and text_of(plain.get("type")) in {"error", "exception"}:
        error = body
    if not is_a(error, Mapping | str | list) or (is_a(error, str) and not text_of(error)):
        return None
    seen = read_body(error)
    return judge_facts(seen) or judge_words(seen.text) or "upstream_5xx"


def _unreadable(headers: dict[str, str], body: Any) -> str | None:
    """Return the row of an answer that should be JSON and is not; None when it is readable."""
    if not is_a(body, str | bytes | bytearray):
        return None
    start = text_of(body)[:200].lstrip().lower()
    if start.startswith(("<!doctype", "<html", "<?xml")):
        return "malformed_response"
    if "json" in headers.get("content-type", ""):
        try:
            msgspec.json.decode(body if is_a(body, str) else bytes(body))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return "malformed_response"
    return None


__all__ = [
    "CODES", "DECISIVE", "FINISHES", "Failure", "classify", "classify_event", "classify_finish",
    "classify_log", "classify_response", "classify_stream_end", "classify_text",
    "classify_tool_result", "is_terminal",
]  # fmt: skip

"""Which script makes a provider produce which class of the taxonomy, on each wire format.

Rule: one table. A class that no provider can produce stands in `NOT_OVER_HTTP` with its reason, so
that every row of the taxonomy is in exactly one of the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from towerkit.core.errors import UsageError
from towerkit.core.types import ToolCall
from towerkit.faults.steps import (
    CleanEnd,
    Cut,
    Delay,
    HtmlPage,
    MalformedJson,
    Refuse,
    Reply,
    Script,
    SseError,
    Stall,
    Status,
    Step,
    step_of,
)
from towerkit.faults.wire import WIRES, Format
from towerkit.reliability.taxonomy import error_class as taxonomy_row

Variants = dict[Format, tuple[Script, ...]]

FORMATS: tuple[Format, ...] = tuple(WIRES)
_OPENAI: tuple[Format, ...] = ("openai_chat", "openai_responses")
_LONG = Reply(text="This answer is long enough to be cut in the middle of a sentence.")
NO_SUCH_TOOL = "simulated_tool_that_does_not_exist"

NOT_OVER_HTTP: Mapping[str, str] = {
    "guardrail_blocked": "the verdict of a guardrail beside the provider",
    "guardrail_unavailable": "a guardrail beside the provider that cannot judge",
    "tool_failed": "tools run with the agent: a fault plan (`tool:NAME`) does it",
    "tool_timeout": "tools run with the agent: a fault plan (`tool:NAME`) does it",
    "mcp_transport": "the connection to a tool server, not to a provider",
    "mcp_protocol": "the protocol of a tool server, not of a provider",
    "permission_needed": "asked by the agent or a tool, answered by a human",
    "budget_exceeded": "our own ledger refuses before a request is made",
    "circuit_open": "our own breaker; enough of its failures (see overloaded) open it",
    "throttled_locally": "our own limit; no request is made",
    "replay_miss": "a replay has no provider",
    "replay_diverged": "a replay has no provider",
    "storage_failed": "the disk, not the provider",
    "redaction_failed": "a detector, not the provider",
    "agent_bug": "the agent's own code raises",
}


class _Given(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller of `scripts` chose."""

    tool: str
    retry_after_s: float
    drip_s: float


def _always(name: str, what: object, *, stream: bool | None = None) -> Script:
    return Script(name=name, default=step_of(what), stream=stream)


def _status(
    code: int, word: str | None = None, *, headers: Mapping[str, str] | None = None
) -> Script:
    return _always(
        f"{code} {word or ''}".strip(), Status(code=code, error=word, headers=headers or {})
    )


def _sse(word: str, body: object = None) -> Script:
    end = SseError(at_chunk=2, error=word if body is None else None, body=body)
    return _always(f"200, then {word} in the stream", _LONG.with_(end), stream=True)


def _everywhere(*scripts: Script) -> Variants:
    return dict.fromkeys(FORMATS, scripts)


def _openai(*scripts: Script) -> Variants:
    return dict.fromkeys(_OPENAI, scripts)


def _rate_limited(given: _Given) -> Variants:
    headers = {"retry-after": f"{given.retry_after_s:g}"}
    info = {
        "@type": "type.googleapis.com/google.rpc.RetryInfo",
        "retryDelay": f"{given.retry_after_s:g}s",
    }
    body = {"error": {
        "code": 429, "message": "Resource has been exhausted (e.g. check quota).",
        "status": "RESOURCE_EXHAUSTED", "details": [info],
    }}  # fmt: skip
    return {
        **_openai(_status(429, "rate_limit_exceeded", headers=headers)),
        "anthropic": (_status(429, "rate_limit_error", headers=headers),),
        "gemini": (_always("429 RESOURCE_EXHAUSTED", Status(code=429, body=body)),),
    }


def _quota_exhausted(_: _Given) -> Variants:
    return {
        **_openai(_status(429, "insufficient_quota")),
        "anthropic": (
            _status(429, "rate_limit_error:spend"), _status(402, "billing_error"),
            _status(400, "invalid_request_error:credit"),
        ),
        "gemini": (_status(429, "RESOURCE_EXHAUSTED:PerDay"), _status(402)),
    }  # fmt: skip


def _ramp_too_fast(_: _Given) -> Variants:
    return {
        **_openai(_status(429, "slow_down"), _status(503, "slow_down:503")),
        "anthropic": (_status(429, "rate_limit_error:acceleration"),),
    }


def _overloaded(_: _Given) -> Variants:
    return {
        **_openai(_status(503, "server_is_overloaded"), _sse("server_is_overloaded")),
        "anthropic": (_status(529, "overloaded_error"), _sse("overloaded_error")),
        "gemini": (_status(503, "UNAVAILABLE"), _sse("UNAVAILABLE")),
    }


def _upstream_5xx(_: _Given) -> Variants:
    edge = _always("502 web page of the edge", HtmlPage(code=502))
    failed = _always("200, then response.failed", Reply(finish="failed"))
    return {
        "openai_chat": (_status(500, "server_error"), edge, _sse("server_error")),
        "openai_responses": (_status(500, "server_error"), edge, _sse("server_error"), failed),
        "anthropic": (_status(500, "api_error"), edge, _sse("api_error")),
        "gemini": (_status(500, "INTERNAL"), edge, _status(504, "DEADLINE_EXCEEDED")),
    }


def _simple(openai: Script, anthropic: Script, gemini: Script) -> Callable[[_Given], Variants]:
    return lambda _: {**_openai(openai), "anthropic": (anthropic,), "gemini": (gemini,)}


def _timeout_read(_: _Given) -> Variants:
    silent = _always("no headers", _LONG.with_(Stall()))
    told = {"anthropic": "timeout_error"}
    return {f: (silent, _status(408, told.get(f))) for f in FORMATS}


def _stream_interrupted(_: _Given) -> Variants:
    return _everywhere(
        _always("closed inside a chunk", _LONG.with_(Cut(at_chunk=2, inside=True)), stream=True),
        _always("reset", _LONG.with_(Cut(at_chunk=2, reset=True)), stream=True),
        _always("no byte of an answer", Refuse()),
    )


def _stream_truncated(_: _Given) -> Variants:
    return _everywhere(
        _always("a proper end too early", _LONG.with_(CleanEnd(at_chunk=3)), stream=True)
    )


def _malformed_response(_: _Given) -> Variants:
    return _everywhere(
        _always("JSON that is none", MalformedJson()), _always("200 web page", HtmlPage())
    )


def _finish(neutral: str) -> Callable[[_Given], Variants]:
    return lambda _: _everywhere(
        _always(f"finish: {neutral}", Reply(finish=neutral))  # type: ignore[arg-type]
    )


def _tool_args_invalid(given: _Given) -> Variants:
    broken = Reply(text="", tool_calls=(ToolCall("call_1", given.tool, {}, raw='{"simulated": '),))
    unknown = ToolCall("call_1", given.tool, {"simulated_argument_nobody_takes": True})
    wrong = _always("an argument nobody takes", Reply(text="", tool_calls=(unknown,)))
    said = _always("MALFORMED_FUNCTION_CALL", Reply(text="", finish="malformed_tool_call"))
    return {
        **_openai(_always("arguments that are not JSON", broken), wrong),
        "anthropic": (wrong, _always("arguments that are not JSON", broken, stream=True)),
        "gemini": (said, wrong),
    }


def _tool_unknown(_: _Given) -> Variants:
    return _everywhere(
        _always(
            "a tool nobody has", Reply(text="", tool_calls=(ToolCall("call_1", NO_SUCH_TOOL, {}),))
        )
    )


def _no_progress(given: _Given) -> Variants:
    same = Reply(text="", tool_calls=(ToolCall("call_1", given.tool, {}),))
    return _everywhere(_always("the same tool call for ever", same))


def _unknown(_: _Given) -> Variants:
    word, message = "simulated_error_of_tomorrow", "Simulated: an error that no table holds."
    openai = {"message": message, "type": word, "param": None, "code": None}
    anthropic = {"type": word, "message": message}
    return {**_openai(_sse(word, openai)), "anthropic": (_sse(word, anthropic),)}


def _timeout_total(given: _Given) -> Variants:
    drip = Step(answer=_LONG, delay=Delay(between_chunks_s=given.drip_s))
    return _everywhere(_always("drips for longer than the deadline", drip))


def _port(name: str, port: str) -> Callable[[_Given], Variants]:
    return lambda _: _everywhere(Script(name=name, port=port))  # type: ignore[arg-type]


_TABLE: Mapping[str, Callable[[_Given], Variants]] = {
    "rate_limited": _rate_limited,
    "ramp_too_fast": _ramp_too_fast,
    "quota_exhausted": _quota_exhausted,
    "overloaded": _overloaded,
    "upstream_5xx": _upstream_5xx,
    "not_implemented": _simple(
        _status(501, "not_implemented"), _status(501), _status(501, "UNIMPLEMENTED")
    ),
    # A gateway's answer: Bedrock's 424, told on through an OpenAI-compatible endpoint.
    "model_error": lambda _: _openai(_status(424, "model_error")),
    "connect_failed": _port("connection refused", "refused"),
    "timeout_connect": _port("connection never accepted", "silent"),
    "timeout_read": _timeout_read,
    "timeout_total": _timeout_total,
    "stream_interrupted": _stream_interrupted,
    "stream_truncated": _stream_truncated,
    "malformed_response": _malformed_response,
    "auth_failed": lambda _: {
        **_openai(_status(401, "invalid_api_key")),
        "anthropic": (_status(401, "authentication_error"),),
        "gemini": (_status(401, "UNAUTHENTICATED"), _status(400, "INVALID_ARGUMENT:key")),
    },
    "permission_denied": lambda _: {
        **_openai(_status(403, "unsupported_country_region_territory")),
        "anthropic": (_status(403, "permission_error"),),
        "gemini": (_status(403, "PERMISSION_DENIED"), _status(400, "FAILED_PRECONDITION")),
    },
    "model_not_found": lambda _: {
        "openai_chat": (_status(404, "model_not_found"),),
        "openai_responses": (_status(400, "model_not_found"),),  # as recorded
        "anthropic": (_status(404, "not_found_error"),),
        "gemini": (_status(404, "NOT_FOUND"),),
    },
    "invalid_request": _simple(
        _status(400, "invalid_value"),
        _status(400, "invalid_request_error"),
        _status(400, "INVALID_ARGUMENT"),
    ),
    "context_too_long": _simple(
        _status(400, "context_length_exceeded"),
        _status(400, "invalid_request_error:prompt"),
        _status(400, "INVALID_ARGUMENT:tokens"),
    ),
    "request_too_large": _simple(
        _always("413 web page of the edge", HtmlPage(code=413)),
        _status(413, "request_too_large"),
        _status(400, "INVALID_ARGUMENT:size"),
    ),
    "conflict": _simple(
        _status(409, "conflict"), _status(409, "conflict_error"), _status(409, "ABORTED")
    ),
    "cancelled": lambda _: {"gemini": (_status(499, "CANCELLED"),)},
    "output_truncated": _finish("length"),
    "content_filtered": lambda _: {
        **_finish("content_filter")(_),
        "openai_chat": (
            _always("finish: content_filter", Reply(finish="content_filter")),
            _status(400, "content_filter"),
        ),
    },
    "output_invalid": lambda _: _everywhere(
        _always("prose where a schema was asked for", Reply(text="Sure! Here is the JSON: {"))
    ),
    "tool_args_invalid": _tool_args_invalid,
    "tool_unknown": _tool_unknown,
    "no_progress": _no_progress,
    "unknown": _unknown,
}


def scripts(
    error_class: str, *, tool: str = "look_up", retry_after_s: float = 1.0, drip_s: float = 0.2
) -> Variants:
    """Return, for each format in which `error_class` can occur, its scripts, the usual one first.

    Each script answers every request alike: `once` puts good answers around the fault. `tool` is a
    tool the agent has, `retry_after_s` the wait a throttling provider asks for, `drip_s` the pause
    between the chunks of an answer that outlasts a deadline. A class that no provider can produce
    raises `UsageError` with the reason.
    """
    taxonomy_row(error_class)
    if error_class in NOT_OVER_HTTP:
        raise UsageError(
            f"expected an error class that a provider produces, got {error_class!r}: "
            f"{NOT_OVER_HTTP[error_class]}"
        )
    return _TABLE[error_class](_Given(tool=tool, retry_after_s=retry_after_s, drip_s=drip_s))


def once(script: Script, *, after: int = 0, times: int = 1) -> Script:
    """Return `script` with its fault on `times` requests after `after` good ones, then good."""
    if script.port != "open":
        raise UsageError(f"expected a script of an open port, got one that is {script.port}")
    steps = (*(Step(),) * after, *(script.default,) * times)
    return msgspec.structs.replace(script, steps=steps, default=Step())

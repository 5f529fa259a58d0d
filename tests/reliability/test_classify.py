"""Errors of any origin get one row of the taxonomy."""

from __future__ import annotations

import asyncio
import json
import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reliability.provider_errors import BODIES, TEXTS
from towerkit.core.errors import AttemptTimeout, BudgetExceeded, FaultInjected, UsageError
from towerkit.reliability import bodies, exceptions, texts
from towerkit.reliability.classify import (
    FINISHES,
    classify,
    classify_event,
    classify_log,
    classify_response,
    classify_stream_end,
    classify_text,
    classify_tool_result,
    is_terminal,
)
from towerkit.reliability.taxonomy import TAXONOMY, error_class


class StatusError(Exception):
    """What SDKs raise, reduced to what is looked at."""

    def __init__(self, status, body=None, headers=None):
        """Carry a status code, a parsed body and response headers."""
        super().__init__(f"Error code: {status}")
        self.status_code, self.body = status, body
        self.response = type("R", (), {"headers": headers or {}})()


def made(name, *, base=Exception, cause=None, **attributes):
    """Make an exception of a class of that name, as a library would raise it."""
    error = type(name, (base,), {})(attributes.pop("text", ""))
    error.__cause__ = cause
    for key, value in attributes.items():
        setattr(error, key, value)
    return error


@pytest.mark.parametrize(("status", "body", "expected"), BODIES, ids=range(len(BODIES)))
def test_provider_bodies(status, body, expected):
    """A body gets one row: as a response, in an SDK's exception, as JSON or as a repr in a log."""
    said = body if isinstance(body, bytes | str) else json.dumps(body)
    rows = {
        "response": classify_response(status=status, body=body).error_class,
        "exception": classify(StatusError(status, body)).error_class,
        "json": classify_log(said, http_status=status).error_class,
        "repr": classify_text(f"Error code: {status} - {body!r}"),
    }
    assert rows == dict.fromkeys(rows, expected)


@pytest.mark.parametrize(("text", "expected"), TEXTS, ids=range(len(TEXTS)))
def test_texts_of_logs(text, expected):
    """The text of an exception, as a log or a recorded run has it, gets its row."""
    assert classify_text(text) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StatusError(429), "rate_limited"),
        (StatusError(200, {"error": {"type": "overloaded_error"}}), "overloaded"),
        (StatusError(529), "overloaded"),
        (BudgetExceeded("no"), "budget_exceeded"),
        (FaultInjected("x", error_class="overloaded"), "overloaded"),
        (AttemptTimeout("x"), "timeout_read"),
        (asyncio.CancelledError(), "cancelled"),
        (KeyboardInterrupt(), "cancelled"),
        (BaseExceptionGroup("g", [asyncio.CancelledError()]), "cancelled"),
        (ConnectionRefusedError(), "connect_failed"),
        (ConnectionResetError(), "stream_interrupted"),
        (TimeoutError(), "timeout_read"),
        (OSError(28, "No space left on device"), "storage_failed"),
        (AttributeError("x"), "agent_bug"),
        (RuntimeError("something else"), "unknown"),
        (made("ConnectTimeout", cause=TimeoutError()), "timeout_connect"),
        (made("APITimeoutError", cause=made("ReadTimeout", cause=TimeoutError())), "timeout_read"),
        (made("APITimeoutError", cause=made("PoolTimeout")), "throttled_locally"),
        (made("APIConnectionError", cause=made("ConnectError")), "connect_failed"),
        (made("APIConnectionError", status_code=500), "connect_failed"),
        (made("ContextWindowExceededError", status_code=400), "context_too_long"),
        (made("MidStreamFallbackError", status_code=503), "stream_interrupted"),
        (made("JSONSchemaValidationError"), "output_invalid"),
        (made("GuardrailRaisedException", blocked_content=True), "guardrail_blocked"),
        (made("GuardrailRaisedException", blocked_content=False), "guardrail_unavailable"),
        (made("RateLimitError", code=429, category="litellm_rate_limit"), "budget_exceeded"),
        (made("ClientResponseError", status=503), "overloaded"),
        (made("HTTPError", code=429), "rate_limited"),
        (made("ClientError", text="An error occurred", response={
            "Error": {"Code": "ThrottlingException", "Message": "Rate exceeded"},
            "ResponseMetadata": {"HTTPStatusCode": 400},
        }), "rate_limited"),
        (made("MaxRetryError", reason=made("NewConnectionError")), "connect_failed"),
        (made("ConnectionError", args=("Connection aborted.", ConnectionResetError())),
         "stream_interrupted"),
        (made("AgentError", cause=StatusError(429)), "rate_limited"),
        (ExceptionGroup("g", [StatusError(503)]), "overloaded"),
    ],
)  # fmt: skip
def test_model_errors(error, expected):
    """A status, a body's code, a class name or a text decides, in that order of closeness."""
    assert classify(error).error_class == expected


def test_a_timeout_raised_from_a_cancellation_is_a_timeout():
    """`asyncio.timeout` raises its TimeoutError from a CancelledError; nobody cancelled."""
    error = TimeoutError()
    error.__cause__ = asyncio.CancelledError()
    assert classify(error).error_class == "timeout_read"


def test_what_from_none_hides_is_not_looked_at():
    """The context of an error counts, unless it was raised `from None`."""
    seen, hidden = RuntimeError("x"), RuntimeError("x")
    seen.__context__ = hidden.__context__ = StatusError(429)
    hidden.__suppress_context__ = True
    assert classify(seen).error_class == "rate_limited"
    assert classify(hidden).error_class == "unknown"


def test_a_grpc_status_names_its_row():
    """A gRPC error answers with a code object; its name decides."""
    code = type("StatusCode", (), {"name": "UNAVAILABLE"})()
    error = type("RpcError", (Exception,), {"code": lambda _: code})()
    assert classify(error).error_class == "overloaded"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no such invoice"), "tool_failed"),
        (TimeoutError(), "tool_timeout"),
        (AttemptTimeout("x"), "tool_timeout"),
        (KeyboardInterrupt(), "cancelled"),
        (StatusError(500), "tool_failed"),
        (made("ReadTimeout"), "tool_timeout"),
        (made("ClosedResourceError"), "mcp_transport"),
        (ExceptionGroup("g", [made("BrokenResourceError")]), "mcp_transport"),
        (made("Own", error_class="permission_needed"), "permission_needed"),
        (made("Own", error_class="no such row"), "tool_failed"),
    ],
)
def test_tool_errors(error, expected):
    """What a tool raises is a tool's failure, whatever it looks like."""
    assert classify(error, operation="tool").error_class == expected


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (-32602, "Unknown tool: get_wether", "tool_unknown"),
        (-32602, "Invalid params: city is required", "tool_args_invalid"),
        (-32601, "Method not found", "tool_unknown"),
        (-32001, "Timed out while waiting for response", "tool_timeout"),
        (-32001, "Session not found", "mcp_transport"),
        (-32000, "Connection closed", "mcp_transport"),
        (-32603, "Internal error", "mcp_protocol"),
        (-32700, "Parse error", "mcp_protocol"),
        (-32020, "x", "mcp_protocol"),
        (-32042, "URL elicitation required", "permission_needed"),
        (-32099, "x", "mcp_protocol"),
    ],
)
def test_mcp_codes(code, text, expected):
    """The JSON-RPC code decides, with the words where one code stands for two things."""
    data = type("ErrorData", (), {"code": code, "message": text})()
    error = made("McpError", text=text, error=data)
    assert classify(error, operation="tool").error_class == expected
    assert classify(error).error_class == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Unknown tool: get_wether", "tool_unknown"),
        ("1 validation error for call[f]", "tool_args_invalid"),
        ("Error executing tool f: disk on fire", "tool_failed"),
    ],
)
def test_tool_results_that_say_they_are_errors(text, expected):
    """An MCP result with isError is a failure; one without is none."""
    content = [{"type": "text", "text": text}]
    failure = classify_tool_result({"isError": True, "content": content})
    assert failure.error_class == expected
    assert classify_tool_result({"isError": False, "content": content}) is None


def test_the_agents_own_error_is_its_bug():
    """In the agent's code, what nothing explains is a bug; what something explains is not."""
    assert classify(RuntimeError("x"), operation="agent").error_class == "agent_bug"
    assert classify(StatusError(429), operation="agent").error_class == "rate_limited"


def test_a_veto_is_passed_on():
    """`x-should-retry: false` and a bad certificate forbid a retry; `true` grants nothing."""
    assert classify(StatusError(500, headers={"x-should-retry": "false"})).veto
    assert not classify(StatusError(500, headers={"X-Should-Retry": "true"})).veto
    bad = made("ConnectError", cause=ssl.SSLCertVerificationError("certificate verify failed"))
    assert (classify(bad).error_class, classify(bad).veto) == ("connect_failed", True)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"retry-after": "3"}, 3.0),
        ({"Retry-After": "3"}, 3.0),
        ({"retry-after": "-5"}, None),
        ({"x-ratelimit-reset-requests": "1s"}, 1.0),
        ({}, None),
    ],
)
def test_the_wait_asked_for(headers, expected):
    """Headers are read whatever their case; only a finite, non-negative wait is believed."""
    assert classify(StatusError(429, headers=headers)).retry_after_s == expected


def test_whether_the_request_was_sent():
    """A refused connection sent nothing; a time-out while reading may have."""
    assert classify(ConnectionRefusedError()).sent is False
    assert classify(made("ReadTimeout")).sent is True
    assert classify(RuntimeError("x")).sent is None


def test_an_answer_that_is_a_page():
    """A 200 with HTML, or JSON that is none, is malformed; a good answer is no failure."""
    html = classify_response(status=200, body=b"<!DOCTYPE html><html>")
    cut = classify_response(
        status=200, headers={"Content-Type": "application/json"}, body='{"choices": ['
    )
    assert (html.error_class, cut.error_class) == ("malformed_response",) * 2
    assert classify_response(status=200, body={"choices": []}) is None
    error = classify_response(status=200, body={"error": {"code": 429, "message": "slow"}})
    assert error.error_class == "rate_limited"


@pytest.mark.parametrize(
    ("event", "terminal", "expected"),
    [
        ("[DONE]", True, None),
        ({"choices": [{"delta": {"content": "a"}, "finish_reason": None}]}, False, None),
        ({"choices": [{"delta": {}, "finish_reason": "stop"}]}, True, None),
        ({"choices": [{"delta": {}, "finish_reason": "length"}]}, True, "output_truncated"),
        ({"choices": [{"finish_reason": "content_filter"}]}, True, "content_filtered"),
        ({"type": "message_stop"}, True, None),
        ({"type": "content_block_delta", "delta": {"type": "text_delta"}}, False, None),
        ({"type": "message_delta", "delta": {"stop_reason": "refusal"}}, True, "content_filtered"),
        ({"type": "error", "error": {"type": "overloaded_error"}}, True, "overloaded"),
        ({"type": "response.completed", "response": {"status": "completed", "error": None}},
         True, None),
        ({"type": "response.failed", "response": {"error": {"code": "server_error"}}}, True,
         "upstream_5xx"),
        ({"type": "response.incomplete",
          "response": {"incomplete_details": {"reason": "max_output_tokens"}}}, True,
         "output_truncated"),
        ({"candidates": [{"finishReason": "SAFETY"}]}, True, "content_filtered"),
        ({"candidates": [{"finishReason": "MALFORMED_FUNCTION_CALL"}]}, True, "tool_args_invalid"),
        ({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}, True, "content_filtered"),
        ({"error": {"code": 502, "message": "Provider disconnected"}}, True, "upstream_5xx"),
        ({"done": True, "done_reason": "stop"}, True, None),
    ],
)  # fmt: skip
def test_events_of_streams(event, terminal, expected):
    """An event ends the answer or does not, and carries a failure or none."""
    failure = classify_event(event)
    assert is_terminal(event) is terminal
    assert (failure and failure.error_class) == expected


def test_a_stream_that_just_ends_was_truncated():
    """A clean end without the terminal event is never a success."""
    assert classify_stream_end(terminal=False).error_class == "stream_truncated"
    assert classify_stream_end(terminal=True, finish_reason="stop") is None
    assert classify_stream_end(terminal=True, finish_reason="length").error_class == (
        "output_truncated"
    )


@given(st.text(max_size=300))
def test_any_text_has_a_row(text):
    """Classification is total: every text ends in a row of the table."""
    assert classify_text(text) in TAXONOMY


def test_every_mapping_leads_to_a_row():
    """No code, status, name, text or finish reason maps to a class that does not exist."""
    tables = (
        bodies.CODES, bodies.WEAK_CODES, bodies.STATUSES, bodies.MCP_CODES, exceptions.DECISIVE,
        exceptions.PRECISE, exceptions.GENERAL, exceptions.CODE_ERRORS, FINISHES,
    )  # fmt: skip
    targets = {name for table in tables for name in table.values()}
    targets |= {name for _, name in texts.TEXTS}
    refined = {name for names in bodies.REFINED.values() for name in names}
    assert targets | refined | bodies.REFINED.keys() <= set(TAXONOMY)


def test_no_name_says_two_things():
    """A class name stands in one table, a code in one table."""
    tables = [exceptions.DECISIVE, exceptions.PRECISE, exceptions.GENERAL, exceptions.CODE_ERRORS]
    names = [name for table in tables for name in table]
    assert len(names) == len(set(names))
    assert not bodies.CODES.keys() & bodies.WEAK_CODES.keys()


def test_the_rows_agree_with_themselves():
    """What is tried once waits for nothing; what is not sent costs nothing and harms no key."""
    for row in TAXONOMY.values():
        assert (row.wait == "none") == (row.attempts == 1), row.name
        assert row.fallback == (row.scope != "none"), row.name
        assert not (row.idempotent_only and row.retryable), row.name
        assert row.summary, row.name
        assert row.action.endswith("."), row.name
    for name in ("budget_exceeded", "circuit_open", "throttled_locally", "replay_miss"):
        assert (TAXONOMY[name].charge, TAXONOMY[name].breaker) == ("none", "uncounted")


def test_an_unknown_class_lists_the_known():
    """The error names what there is."""
    with pytest.raises(UsageError, match="rate_limited"):
        error_class("nope")

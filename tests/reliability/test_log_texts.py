"""Texts that no table was written for get their row by their shape: names, wraps, words."""

# ruff: noqa: E501  one case a line

from __future__ import annotations

import json

import pytest

from towerkit.reliability.classify import classify_log, classify_text
from towerkit.reliability.exceptions import family, heads, of_the_code

# (text, class): what decides stands in the group's comment.
CASES = [
    # a class of the wire the text begins with, whatever numbers and words follow
    ("httpx.PoolTimeout", "throttled_locally"),
    ("httpcore.ReadError", "stream_interrupted"),
    ("a.b.ClientPayloadError: not done: <TransferEncodingError: 400, message='short'>", "stream_interrupted"),
    ("requests.exceptions.SSLError: Max retries exceeded (Caused by SSLEOFError(8, 'EOF occurred in violation'))", "connect_failed"),
    ("ConnectionClosedError: received 1011 (internal error) You exceeded your current quota", "quota_exhausted"),
    # an SDK's name of a status, made more particular by the words, the innermost name first
    ("x.RateLimitError: That model is currently overloaded with other requests", "overloaded"),
    ("x.RateLimitError: y", "rate_limited"),
    ("litellm.InternalServerError: InternalServerError: OpenAIException - Connection error.", "connect_failed"),
    ("litellm.InternalServerError: SomeException - Missing credentials", "auth_failed"),
    ("litellm.ServiceUnavailableError: BedrockException - Cannot connect to host h:443", "connect_failed"),
    ("litellm.BadRequestError: 'NoneType' object has no attribute 'get'", "agent_bug"),
    ("litellm.APIConnectionError: SomeException - create() got an unexpected keyword argument 'k'", "agent_bug"),
    ("Error in generating model output:\nlitellm.RateLimitError: RateLimitError: OpenAIException - y", "rate_limited"),
    ("litellm.types.router.RouterRateLimitError: No deployments available for selected model", "throttled_locally"),
    # what a part of an unknown name says
    ("lib.LLMRateLimitError: y", "rate_limited"),
    ("lib.LLMContextWindowExceedError: y", "context_too_long"),
    ("FunctionCallNotExistsError: y", "tool_unknown"),
    ("AgentStuckInLoopError: y", "no_progress"),
    ("SearchTimeout: y", "timeout_read"),
    # a class of the code around the call, and a class that may come from the other side
    ("ValueError: y", "agent_bug"),
    ("UnsupportedFormatException: The formats ['.x'] are not supported.", "agent_bug"),
    ("FooAPIError: y", "unknown"),
    ("ProviderException: y", "unknown"),
    ("RuntimeError: LLM call failed: HTTP 502 Bad Gateway", "upstream_5xx"),
    # tools that answer in text
    ("Error: user not found", "tool_failed"),
    ("Error: non-pending order cannot be cancelled", "tool_failed"),
    ("Error: Error executing tool f: disk on fire", "tool_failed"),
    ("Error executing tool f: 2 validation errors for fArguments", "tool_args_invalid"),
    ("ToolCallException: Error during tool call for Search: Connection error.", "tool_failed"),
    ("AgentExecutionError: Error when executing tool f: TypeError: y", "agent_bug"),
    ("Error: connect ECONNREFUSED 127.0.0.1:1", "connect_failed"),
    # gRPC says UNAVAILABLE of a provider and of a network
    ('status = StatusCode.UNAVAILABLE\n\tdetails = "failed to connect to all addresses"', "connect_failed"),
    ('status = StatusCode.UNAVAILABLE\n\tdetails = "Connection reset by peer"', "stream_interrupted"),
    ('status = StatusCode.UNAVAILABLE\n\tdetails = "y"', "overloaded"),
    ("504 Deadline Exceeded", "timeout_read"),
    ("HTTP 504 Gateway Time-out", "upstream_5xx"),
    # money, whatever the code calls it
    ("Error code: 402 - {'error': 'no', 'reason': 'model_access_denied'}", "quota_exhausted"),
    ("Error code: 429 - {'message': 'Monthly token limit exceeded'}", "quota_exhausted"),
    ("429 RESOURCE_EXHAUSTED. {'message': 'exceeded its monthly spending cap'}", "quota_exhausted"),
    # what a name was not found, and who may not see it
    ("Error code: 404 - {'message': 'The model x does not exist or you do not have access to it'}", "model_not_found"),
    ("Error code: 403 - {'message': 'Project p does not have access to model x'}", "permission_denied"),
    ("Error code: 404 - Access denied. This Model is marked by provider as Legacy", "model_not_found"),
    ("Error code: 400 - {'code': 'string_above_max_length', 'message': \"Invalid 'messages[2].tool_calls[0].id': string too long.\"}", "invalid_request"),
    ("Error code: 400 - {'code': 'string_above_max_length', 'message': \"Invalid 'messages[0].content': string too long.\"}", "context_too_long"),
    # no failure at all: numbers that look like a status, words that only mention one
    ("the list has 429 items and 503 entries", "unknown"),
    ("The answer was: set the timeout parameter to 30", "unknown"),
    ("the job did not time out and was not timed out", "unknown"),
    ("Your order was cancelled yesterday.", "unknown"),
    ("The blue one is currently unavailable.", "unknown"),
    ("I do not have access to your orders.", "unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), CASES, ids=range(len(CASES)))
def test_a_text_gets_its_row_by_its_shape(text, expected):
    """No text here stands in a table of its own."""
    assert classify_text(text) == expected


SAID = "rate limit, 401 unauthorized, maximum context length, content policy violation"


@pytest.mark.parametrize("field", ["failed_generation", "input", "prompt", "arguments"])
def test_what_was_said_is_no_evidence(field):
    """What the model or the caller said is quoted in an error; it is not what went wrong."""
    body = {"error": {"message": "y", "type": "invalid_request_error", field: SAID}}
    rows = {
        classify_log(json.dumps(body), http_status=400).error_class,
        classify_log(json.dumps(body)).error_class,
        classify_text(f"Error code: 400 - {body!r}"),
        classify_text(f"Error code: 400 - {json.dumps(body)}"),
    }
    assert rows == {"invalid_request"}


def test_an_answer_inside_an_answer_is_read():
    """A proxy keeps the provider's answer as text; its code counts, at any depth."""
    inner = json.dumps({"error": {"code": "context_length_exceeded", "message": "y"}})
    body = {"error": {"message": "y", "code": 400, "metadata": {"raw": json.dumps({"d": inner})}}}
    assert classify_log(json.dumps(body), http_status=400).error_class == "context_too_long"


@pytest.mark.parametrize("provider", [None, "gpt-4o-2024-05-13", "a model of my own", "x" * 10_000])
def test_a_strange_provider_changes_nothing(provider):
    """AgentDojo puts a model's name where the provider belongs."""
    raw = "Error code: 500 - {'message': 'internal server error'}"
    assert classify_log(raw, provider=provider).error_class == "upstream_5xx"


def test_heads():
    """Names are taken from where a line begins, outermost first; the rest keeps the words."""
    names, rest = heads("a.b.FooError: BarException - FooError is what\nBazTimeout: it says")
    assert names == ["FooError", "BarException", "BazTimeout"]
    assert rest == "FooError is what\nit says"
    assert heads("nothing of the kind: x") == ([], "nothing of the kind: x")


def test_families():
    """A part of a name says its row; a class of the code alone says only that."""
    assert family(["Foo", "HubTooManyRequestsError"]) == "rate_limited"
    assert family(["Foo"]) is None
    assert (of_the_code(["ParseProblem"]), of_the_code(["FooClientError"]), of_the_code([])) == (
        True, False, False,
    )  # fmt: skip

"""What providers say when they refuse: the error bodies of each API, by the provider's own word.

Rule: the wording is the provider's, because classifiers read it. An error's own word is its `code`
or `type` (OpenAI), its `type` (Anthropic) or its `status` (Gemini), with a suffix after ":" where
one word stands for several troubles. The first entry of a status is that status's usual one.
"""
# ruff: noqa: E501  one row a line, as in the taxonomy

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

from towerkit.core.errors import UsageError


class ProviderError(msgspec.Struct, frozen=True):
    """One row: the provider's word, the status it comes with, and what fills the error object."""

    word: str
    status: int
    message: str
    type: str = ""
    param: str | None = None
    details: tuple[dict[str, Any], ...] = ()


_E = ProviderError
_INVALID = "invalid_request_error"
_GATEWAY = "The server had an error while processing your request. Sorry about that!"

# fmt: off
OPENAI = (
    _E("invalid_value", 400, "Invalid value: 'owner'. Supported values are: 'system', 'assistant', 'user', and 'tool'.", _INVALID, "messages[0].role"),
    _E("context_length_exceeded", 400, "This model's maximum context length is 16385 tokens. However, your messages resulted in 18258 tokens. Please reduce the length of the messages.", _INVALID, "messages"),
    _E("content_filter", 400, "The response was filtered due to the prompt triggering the content management policy. Please modify your prompt and retry.", "", "prompt"),
    _E("invalid_api_key", 401, "Incorrect API key provided. You can find your API key at https://platform.openai.com/account/api-keys.", _INVALID),
    _E("unsupported_country_region_territory", 403, "Country, region, or territory not supported", "request_forbidden"),
    _E("model_not_found", 404, "The model `simulated-model` does not exist or you do not have access to it.", _INVALID),
    _E("conflict", 409, "Another process is currently operating on this resource, please try again.", _INVALID),
    _E("rate_limit_exceeded", 429, "Rate limit reached for simulated-model in organization org-simulated on tokens per min (TPM): Limit 30000, Used 29500, Requested 1200. Please try again in 1.4s.", "tokens"),
    _E("insufficient_quota", 429, "You exceeded your current quota, please check your plan and billing details.", "insufficient_quota"),
    _E("slow_down", 429, "You are increasing your rate of requests too quickly. Please slow down.", "slow_down"),
    _E("model_error", 424, "The model returned an error while it processed the request.", "model_error"),
    _E("server_error", 500, _GATEWAY, "server_error"),
    _E("not_implemented", 501, "This operation is not implemented.", "server_error"),
    _E("server_is_overloaded", 503, "The server is currently overloaded with other requests. Sorry about that! You can retry your request.", "service_unavailable_error"),
    _E("slow_down:503", 503, "Slow Down", "server_error"),
)
ANTHROPIC = (
    _E("invalid_request_error", 400, "messages.0: Input does not match the expected shape."),
    _E("invalid_request_error:prompt", 400, "prompt is too long: 208310 tokens > 200000 maximum"),
    _E("invalid_request_error:credit", 400, "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade or purchase credits."),
    _E("authentication_error", 401, "invalid x-api-key"),
    _E("billing_error", 402, "There is an issue with your billing or payment information."),
    _E("permission_error", 403, "Your API key does not have permission to use the specified resource."),
    _E("not_found_error", 404, "model: simulated-model"),
    _E("timeout_error", 408, "Request timed out."),
    _E("conflict_error", 409, "Another request holds this resource."),
    _E("request_too_large", 413, "Request exceeds the maximum size"),
    _E("rate_limit_error", 429, "This request would exceed your account's rate limit. Please try again later."),
    _E("rate_limit_error:acceleration", 429, "This request would exceed your organization's acceleration limit. Please increase your usage gradually."),
    _E("rate_limit_error:spend", 429, "You have reached your specified API usage limits.", details=({"error_code": "enforced_spend_limit_reached"},)),
    _E("api_error", 500, "Internal server error"),
    _E("overloaded_error", 529, "Overloaded"),
)
_RPC = "type.googleapis.com/google.rpc."


def _quota(period: str) -> dict[str, Any]:
    return {"@type": f"{_RPC}QuotaFailure", "violations": [{
        "quotaMetric": "generativelanguage.googleapis.com/generate_content_free_tier_requests",
        "quotaId": f"GenerateRequestsPer{period}PerProjectPerModel-FreeTier", "quotaValue": "10",
    }]}


_EXCEEDED = "You exceeded your current quota, please check your plan and billing details."
GEMINI = (
    _E("INVALID_ARGUMENT", 400, "Please use a valid role: user, model."),
    _E("INVALID_ARGUMENT:tokens", 400, "The input token count (1203467) exceeds the maximum number of tokens allowed (1048576)."),
    _E("INVALID_ARGUMENT:key", 400, "API key not valid. Please pass a valid API key.", details=(
        {"@type": f"{_RPC}ErrorInfo", "reason": "API_KEY_INVALID", "domain": "googleapis.com"},)),
    _E("INVALID_ARGUMENT:size", 400, "Request payload size exceeds the limit: 20971520 bytes."),
    _E("FAILED_PRECONDITION", 400, "User location is not supported for the API use."),
    _E("UNAUTHENTICATED", 401, "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid authentication credential."),
    _E("PERMISSION_DENIED", 403, "Permission denied: the caller does not have permission."),
    _E("NOT_FOUND", 404, "models/simulated-model is not found for API version v1beta, or is not supported for generateContent."),
    _E("ABORTED", 409, "The operation was aborted, typically due to a concurrency issue."),
    _E("RESOURCE_EXHAUSTED", 429, _EXCEEDED, details=(
        _quota("Minute"), {"@type": f"{_RPC}RetryInfo", "retryDelay": "1s"})),
    _E("RESOURCE_EXHAUSTED:PerDay", 429, _EXCEEDED, details=(
        _quota("Day"), {"@type": f"{_RPC}RetryInfo", "retryDelay": "22s"})),
    _E("CANCELLED", 499, "The operation was cancelled."),
    _E("INTERNAL", 500, "An internal error has occurred. Please retry or report in https://developers.generativeai.google/guide/troubleshooting"),
    _E("UNIMPLEMENTED", 501, "Operation is not implemented, or supported, or enabled."),
    _E("UNAVAILABLE", 503, "The model is overloaded. Please try again later."),
    _E("DEADLINE_EXCEEDED", 504, "The request timed out. Please try again."),
)
# fmt: on


def find(rows: tuple[ProviderError, ...], *, word: str | None, status: int | None) -> ProviderError:
    """Return the row of `word`, or the usual one of `status`, or a plain one for that status.

    A given `status` wins over the row's. An unknown word raises `UsageError` listing the known.
    """
    if word is not None:
        row = next((r for r in rows if r.word == word), None)
        if row is None:
            known = ", ".join(r.word for r in rows)
            raise UsageError(f"fault script: expected an error of this API, got {word!r}; {known}")
        return row if status is None else msgspec.structs.replace(row, status=status)
    status = status or 500
    phrases = {int(s): s.phrase for s in HTTPStatus}
    phrase = phrases.get(status, f"Status {status}")
    usual = next((r for r in rows if r.status == status), None)
    return usual or ProviderError("", status, phrase, _plain(status, "server_error"))


def _plain(status: int, server: str) -> str:
    return server if status >= 500 else _INVALID


def openai_error(row: ProviderError) -> dict[str, Any]:
    """Return the error object of both OpenAI APIs."""
    word = row.word.partition(":")[0]
    code = None if word in {"", "server_error"} else word  # its server errors carry a type only
    return {"message": row.message, "type": row.type or None, "param": row.param, "code": code}


def anthropic_error(row: ProviderError) -> dict[str, Any]:
    """Return the error object of the messages API."""
    word = row.word.partition(":")[0] or _plain(row.status, "api_error")
    error: dict[str, Any] = {"type": word, "message": row.message}
    if row.details:
        error["details"] = dict(row.details[0])
    return error


def gemini_error(row: ProviderError) -> dict[str, Any]:
    """Return the error object of Google APIs (google.rpc.Status)."""
    word = row.word.partition(":")[0] or "UNKNOWN"
    error: dict[str, Any] = {"code": row.status, "message": row.message, "status": word}
    if row.details:
        error["details"] = [dict(d) for d in row.details]
    return error

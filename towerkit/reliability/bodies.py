"""What a provider's answer says about a failure: codes, status and words.

Rule: facts first, words last. A code that names one failure decides; then the HTTP status, made
more particular by the words where providers put several failures under one status; then a code that
only names a kind; then the words alone. Field names are looked for at any depth, in JSON, in the
text Python prints for a dictionary, and in texts that are cut off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from towerkit.reliability.probe import LIMIT, get, is_a, items, text_of, whole
from towerkit.reliability.texts import code_error, code_words, last_error, match_text

# Codes as they stand in `code`, `type`, `status`, `reason`, `error_code`, `__type` and the like,
# lowered. Each names one failure; where several are given, the one that stands higher decides.
CODES: dict[str, str] = {
    **dict.fromkeys((
        "insufficient_quota", "credit_balance_exhausted", "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded", "organization_usage_limit_exceeded", "billing_error",
        "enforced_spend_limit_reached", "contract_spend_limit_reached", "billing_not_active",
        "linked_organization_spend_limit_reached", "linked_organization_billing_unavailable",
        "billing_hard_limit_reached", "insufficient_balance", "insufficient_credits",
        "insufficient_user_quota", "payment_required", "dailylimitexceeded", "quota_exceeded",
        "access_terminated_error", "exceeded_current_quota_error", "token_quota_reached",
        "arrearage", "storage_quota_exceeded", "credit_limit", "out_of_credits",
        "spend_limit_exceeded", "usage_limit_reached",
    ), "quota_exhausted"),
    **dict.fromkeys(("slow_down", "ramp_limit_exceeded"), "ramp_too_fast"),
    **dict.fromkeys((
        "context_length_exceeded", "tokens_limit_reached", "exceed_context_size_error",
        "context_window_exceeded", "model_context_window_exceeded", "max_tokens_exceeded",
        "content_length_exceeded", "contextwindowexceedederror",
    ), "context_too_long"),
    **dict.fromkeys((
        "content_filter", "content_policy_violation", "responsibleaipolicyviolation",
        "content_filtered", "moderation_blocked", "safety", "prohibited_content", "recitation",
        "data_inspection_failed", "datainspectionfailed", "invalid_prompt", "blocklist", "spii",
        "image_safety", "guardrail_intervened", "refusal", "cyber_policy_violation", "risk_content",
        "contentpolicyviolationerror",
    ), "content_filtered"),
    **dict.fromkeys(("tool_use_failed", "malformed_function_call", "unexpected_tool_call"),
                    "tool_args_invalid"),
    **dict.fromkeys(("json_validate_failed", "json_validation_failed"), "output_invalid"),
    **dict.fromkeys((
        "overloaded_error", "server_is_overloaded", "engine_overloaded_error", "overloaded",
        "engineoverloaded", "service_tier_capacity_exceeded", "modelnotreadyexception",
        "serviceunavailableexception", "serviceunavailable", "service_unavailable",
        "service_unavailable_error", "unavailable", "compaction_unavailable", "model_overloaded",
        "nocapacity", "insufficientcapacity", "capacity_exceeded", "provider_overloaded",
    ), "overloaded"),
    **dict.fromkeys((
        "model_not_found", "deploymentnotfound", "model_decommissioned", "model_not_available",
        "model_deprecated", "model_not_supported", "unknown_model", "invalid_model",
        "not_found_error", "modelnotfound",
    ), "model_not_found"),
    **dict.fromkeys((
        "invalid_api_key", "authentication_error", "api_key_invalid", "api_key_expired",
        "unrecognizedclientexception", "expiredtokenexception", "expiredtoken", "invalid_token",
        "invalidsignatureexception", "incompletesignature", "missingauthenticationtokenexception",
        "unauthenticated", "unauthorized", "unauthorizedexception", "expired_api_key",
        "invalid_authentication", "invalid_authentication_error", "token_expired", "no_api_key",
        "invalid_api_token", "authentication_token_expired", "invalid_iam_token", "notauthorized",
        "account_deactivated", "access_token_type_unsupported", "credentials_missing",
        "invalidclienttokenid", "signaturedoesnotmatch", "invalid_grant", "authentication_failed",
        "invalid_access_token", "auth_error", "invalid_issuer", "ip_not_authorized_token",
        "invalidapikey", "invalid_key", "authentication_token_not_valid", "expired_token",
        "invalidauthenticationtoken", "missing_api_key", "no_auth",
    ), "auth_failed"),
    **dict.fromkeys((
        "permission_error", "permission_denied", "accessdeniedexception", "accessdenied",
        "unsupported_country_region_territory", "ip_not_authorized", "model_access_denied",
        "insufficient_permissions", "service_disabled", "consumer_invalid", "forbidden",
        "permissiondenied", "permission_denied_error", "access_denied", "organization_restricted",
        "authorizationerror", "api_key_service_blocked", "user_not_authorized", "no_access",
        "token_not_allowed", "model_terms_required", "model_permission_blocked_org",
        "model_permission_blocked_project", "missing_scope", "permissions_error",
        "permission-error", "organization_disabled", "unauthorizedoperation",
    ), "permission_denied"),
    **dict.fromkeys((
        "rate_limit_exceeded", "rate_limit_error", "throttlingexception", "throttling_error",
        "resource_exhausted", "toomanyrequestsexception", "toomanyrequests", "throttling",
        "servicequotaexceededexception", "rate_limit_reached_error", "ratelimitreached",
        "ratelimitexceeded", "userratelimitexceeded", "rate_limited", "rate_limit", "ratelimit",
        "too_many_requests", "request_limit_exceeded", "requestlimitexceeded", "rate_limit_reached",
        "throttledexception", "requestthrottledexception", "provisionedthroughputexceededexception",
        "slowdown", "limitexceededexception", "tokens_per_minute_exceeded", "rate_exceeded",
        "concurrency_limit_exceeded", "tokens", "requests",
    ), "rate_limited"),
    **dict.fromkeys(("modelerrorexception", "modelstreamerrorexception"), "model_error"),
    **dict.fromkeys((
        "timeout_error", "modeltimeoutexception", "requesttimeout", "requesttimeoutexception",
        "request_timeout", "deadline_exceeded", "operationtimeout", "gateway_timeout", "timeout",
        "request_body_timeout", "inference_timeout",
    ), "timeout_read"),
    **dict.fromkeys(("request_too_large", "payload_too_large", "request_entity_too_large",
                     "requestentitytoolarge", "request_body_too_large_after_decoding",
                     "requesttoolarge"), "request_too_large"),
    **dict.fromkeys(("conflict_error", "conflictexception", "resourceinuseexception", "conflict",
                     "concurrentmodificationexception", "aborted", "thread_continue_in_flight"),
                    "conflict"),
    **dict.fromkeys(("unimplemented", "not_implemented", "notimplementedexception"),
                    "not_implemented"),
    **dict.fromkeys(("guardrail_violation", "guardrails_violation", "guardrail_blocked"),
                    "guardrail_blocked"),
    **dict.fromkeys(("budget_exceeded", "litellm_rate_limit", "budget_limit_exceeded"),
                    "budget_exceeded"),
    **dict.fromkeys(("max_output_tokens",), "output_truncated"),
}  # fmt: skip

# Codes that name only a kind: the status and the words are more particular.
WEAK_CODES: dict[str, str] = {
    **dict.fromkeys((
        "invalid_request_error", "invalid_request", "invalid_argument", "validationexception",
        "validation_error", "badrequest", "bad_request", "bad_request_error", "invalid_value",
        "unsupported_value", "unknown_parameter", "unsupported_parameter", "failed_precondition",
        "out_of_range", "invalid_type", "missing_required_parameter", "bad_request_body",
        "invalidparameter", "unprocessable_entity", "operationnotsupported", "invalidrequest",
        "unsupported_file", "invalid_image_url", "invalid_image_format", "invalid_image",
        "unsupported_image", "invalid_input_error", "invalid_request_body", "already_exists",
        "invalid_function_parameters", "invalid_json_schema", "invalid_base64", "invalid_url",
        "image_parse_error", "image_content_policy", "invalid_parameter_error", "empty_array",
        "string_above_max_length", "invalid_request_prompt", "invalid_request_message_order",
        "invalid_request_file", "invalid_input_argument", "invalid_request_entity",
    ), "invalid_request"),
    **dict.fromkeys((
        "api_error", "server_error", "internal_error", "internal_server_error", "internal",
        "internalserverexception", "internalfailure", "internalservererror", "unknown", "data_loss",
        "internalerror", "service_error", "upstream_error", "bad_gateway", "server_shutting_down",
        "vector_store_timeout", "backend_error", "backenderror", "internalservererrorexception",
    ), "upstream_5xx"),
    **dict.fromkeys(("not_found", "notfound", "notfoundexception", "resourcenotfoundexception"),
                    "model_not_found"),
    **dict.fromkeys(("cancelled", "canceled"), "cancelled"),
    **dict.fromkeys(("tool_call_error", "tool_error"), "tool_failed"),
}  # fmt: skip

STATUSES = {
    400: "invalid_request", 401: "auth_failed", 402: "quota_exhausted", 403: "permission_denied",
    404: "model_not_found", 407: "connect_failed", 408: "timeout_read", 409: "conflict",
    410: "model_not_found", 412: "conflict", 413: "request_too_large", 421: "connect_failed",
    422: "invalid_request", 423: "conflict", 424: "model_error", 425: "conflict",
    429: "rate_limited", 431: "request_too_large", 451: "permission_denied", 498: "rate_limited",
    499: "cancelled", 501: "not_implemented", 503: "overloaded", 505: "not_implemented",
    511: "auth_failed", 529: "overloaded",
}  # fmt: skip

# What the words may make of a status: providers put all of these under it.
REFINED: dict[str, frozenset[str]] = {
    "invalid_request": frozenset({
        "context_too_long", "content_filtered", "guardrail_blocked", "quota_exhausted",
        "model_not_found", "tool_args_invalid", "auth_failed", "permission_denied",
        "request_too_large", "budget_exceeded",
    }),
    "permission_denied": frozenset({"auth_failed", "content_filtered", "quota_exhausted"}),
    "model_not_found": frozenset({"mcp_transport", "permission_denied", "model_not_found"}),
    "rate_limited": frozenset({"quota_exhausted", "ramp_too_fast", "budget_exceeded"}),
    "overloaded": frozenset({"ramp_too_fast", "context_too_long"}),
    "upstream_5xx": frozenset({"overloaded", "ramp_too_fast", "context_too_long",
                               "content_filtered", "quota_exhausted"}),
    "request_too_large": frozenset({"context_too_long"}),
}  # fmt: skip

# What more the words may make of an SDK's name: a proxy gives its own trouble a provider's name.
_NAMED: dict[str, set[str]] = {
    "upstream_5xx": {"connect_failed", "timeout_connect", "timeout_read", "stream_interrupted",
                     "auth_failed"},
    "overloaded": {"connect_failed", "timeout_connect", "timeout_read", "stream_interrupted"},
    "rate_limited": {"overloaded"},
}  # fmt: skip

# Why a server closed a connection, where it says so.
CUT_BY: dict[str, frozenset[str]] = {
    "stream_interrupted": frozenset({"quota_exhausted", "auth_failed", "model_not_found",
                                     "context_too_long", "content_filtered"}),
}  # fmt: skip

# JSON-RPC codes of MCP.
MCP_CODES = {
    -32700: "mcp_protocol", -32600: "mcp_protocol", -32601: "tool_unknown",
    -32602: "tool_args_invalid", -32603: "mcp_protocol", -32000: "mcp_transport",
    -32001: "tool_timeout", -32002: "tool_failed", -32020: "mcp_protocol", -32021: "mcp_protocol",
    -32022: "mcp_protocol", -32042: "permission_needed", -32800: "cancelled",
}  # fmt: skip

_CODE_FIELDS = frozenset({
    "code", "type", "status", "reason", "error_code", "__type", "error", "errortype", "error_type",
    "errorcode", "err_code", "finish_reason", "finishreason", "stop_reason", "stopreason",
    "blockreason", "block_reason", "name", "category", "errorname",
})  # fmt: skip
_STATUS_FIELDS = frozenset({
    "code", "status", "status_code", "statuscode", "http_status", "httpstatuscode", "errorcode",
    "error_code",
})  # fmt: skip
# What the model or the caller said, not what the provider says about it.
_QUOTED = frozenset({"failed_generation", "input", "param", "messages", "prompt", "content",
                     "arguments", "raw_request"})  # fmt: skip

_WAIT_FIELDS = frozenset({"retrydelay", "retry_delay", "estimated_time"})

_FIELD = re.compile(
    r"""(?:["'\\]|\b)(code|type|status|reason|error_?code|__type|error_?type|error|status_?code"""
    r"""|http_?status(?:code)?|finish_?reason|block_?reason|category)\\?["']?\s{0,4}[:=]\s{0,4}"""
    r"""\\?["']?([A-Za-z_#.\-]{2,80}|-?\d{3,6})\b""",
    re.IGNORECASE,
)
_STATUS = re.compile(
    r"(?:error code|status[ _]?code|http(?:/[\d.]{1,3})?(?: error| status)?|status|"
    r"(?:client|server) error|error)[\s:='(\"]{1,4}([45]\d\d)\b"
    r"|(?:^|[\s:(\[])([45]\d\d)[:,)]? (?-i:Too Many|Bad|Internal|Service|Gateway|Not |Unauth|Forbid"
    r"|Payment|Request|An internal|Resource|Error|Client|Server|Deadline|Quota|Conflict|API key"
    r"|The (?:model|service|server|operation|request)|[A-Z]{4,20}(?:_[A-Z]{1,20}){0,4}\b)",
    re.IGNORECASE,
)
# The same fields in a text; what follows them is dropped before codes and words are looked for.
_SAID = re.compile(
    r"""(["'](?:failed_generation|input|prompt|arguments|raw_request)["']|\binput_value)\s?[:=]\s?"""
    r"""(?:"(?:[^"\\]|\\.){0,4000}"|'(?:[^'\\]|\\.){0,4000}')"""
)
_PAREN = re.compile(r"\(([A-Za-z][A-Za-z_]{3,60})\)")
_WORD = re.compile(r"\b[A-Za-z][A-Za-z_]{4,63}\b")
_RPC = re.compile(r"(?<![\w-])-32[0-8]\d\d\b")


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What was found: codes (lowered), an HTTP status, an MCP code, the words."""

    codes: frozenset[str] = frozenset()
    status: int | None = None
    rpc: int | None = None
    text: str = ""


def read_body(body: Any) -> Evidence:
    """Collect evidence from a parsed body, or from the text or bytes of one."""
    if is_a(body, Mapping | list | tuple):
        return _walk(body)
    if is_a(body, str | bytes | bytearray | memoryview):
        return read_text(text_of(body))
    return Evidence()


def _walk(body: Any) -> Evidence:
    codes: set[str] = set()
    texts: list[str] = []
    status: int | None = None
    rpc: int | None = None
    queue: list[tuple[Any, int]] = [(body, 0)]
    for value, depth in queue:  # grows while it is read, up to a bound
        for key, found in items(value):
            name = text_of(key).lower() if key is not None else ""
            if name in _QUOTED and not is_a(found, Mapping):
                continue
            # A proxy keeps the provider's answer as text.
            item = (_parsed(text_of(found)) or found) if is_a(found, str) else found
            number = whole(item) if name in _STATUS_FIELDS else None
            if number is not None and 400 <= number < 600:
                status = status or number
            elif number is not None and -32900 < number < -32000 + 1:
                rpc = rpc or number
            elif is_a(item, str):
                said = text_of(item)
                if name in _CODE_FIELDS and len(said) <= 120:
                    codes.add(plain_code(said))
                # A wait keeps its name in the text, where it is read later.
                texts.append(f"{name}: {said}" if name in _WAIT_FIELDS else said)
            elif name in _WAIT_FIELDS and is_a(item, int | float):
                texts.append(f"{name}: {text_of(item)}")
            elif is_a(item, Mapping | list | tuple) and depth < 8 and len(queue) < 300:
                queue.append((item, depth + 1))
    return Evidence(codes=frozenset(codes), status=status, rpc=rpc, text="\n".join(texts)[:LIMIT])


def _parsed(text: str) -> Any:
    """Return the object or list a text is, None when it is not JSON from end to end."""
    if text.lstrip()[:1] not in {"{", "["}:
        return None
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    return found if isinstance(found, dict | list) else None


def plain_code(code: str) -> str:
    """Return a code lowered, without a namespace before `#` or an address after `:`."""
    return code.split(":", maxsplit=1)[0].rsplit("#", 1)[-1].rsplit(".", 1)[-1].strip().lower()


def read_text(text: str) -> Evidence:
    """Collect evidence from a text as a log has it."""
    text = text[:LIMIT]
    parsed = _parsed(text)
    if parsed is not None:
        return _walk(parsed)
    text = _SAID.sub(r"\1: ", last_error(text))
    codes: set[str] = set()
    status: int | None = None
    for match in _FIELD.finditer(text):
        number = whole(match[2])
        if number is None:
            codes.add(plain_code(match[2]))
        elif 400 <= number < 600 and match[1].lower() in _STATUS_FIELDS:
            status = status or number
    codes |= {plain_code(m) for m in _PAREN.findall(text)}
    if not codes & (CODES.keys() | WEAK_CODES.keys()):
        words = _WORD.findall(text)
        # An ordinary word is not a code: those are joined by `_`, in capitals, or end as AWS's do.
        codes |= {w.lower() for w in words if "_" in w or w.isupper() or w.endswith("Exception")}
    found = _STATUS.search(text)
    if status is None and found is not None:
        status = int(found[1] or found[2])
    rpc = _RPC.search(text)
    return Evidence(
        codes=frozenset(codes), status=status, rpc=None if rpc is None else int(rpc[0]), text=text
    )


def judge_facts(seen: Evidence) -> str | None:
    """Return the row that codes and status name, or None when there is neither."""
    if seen.rpc is not None:
        return judge_mcp(seen.rpc, seen.text)
    strong = next((CODES[c] for c in _CODE_ORDER if c in seen.codes), None)
    if seen.status == 402 and strong != "budget_exceeded":
        return judge_status(402, seen.text)  # whatever the code calls it, it is about money
    if strong == "rate_limited" and seen.status == 413:
        return "request_too_large"  # one request above the limit: no wait makes it fit
    if strong in {"rate_limited", "quota_exhausted"}:
        return _limit(strong, seen)
    if strong is not None and not (strong == "auth_failed" and seen.status == 403):
        return _coded(strong, seen)
    if seen.status is not None and seen.status >= 400:
        return judge_status(seen.status, seen.text)
    weak = next((WEAK_CODES[c] for c in _WEAK_ORDER if c in seen.codes), None)
    if weak is None:
        return strong
    return match_text(seen.text, allowed=REFINED.get(weak, ())) or weak


def _coded(name: str, seen: Evidence) -> str:
    """Return the row of a code, made more particular where one code stands for two rows."""
    if name == "model_not_found" and seen.status == 403:
        return "permission_denied"
    if name == "tool_args_invalid":
        return match_text(seen.text, allowed={"tool_unknown"}) or name
    if "unavailable" in seen.codes and seen.status is None:  # gRPC's word for "no connection" too
        return match_text(seen.text, allowed=_NO_CONNECTION) or name
    return name


_CODE_ORDER = tuple(CODES)
_WEAK_ORDER = tuple(WEAK_CODES)
_DAILY = re.compile(r"per[ _-]?day|daily", re.IGNORECASE)
_BRIEF = re.compile(r"per[ _-]?minute|per[ _-]?second|retry_?delay|please retry in", re.IGNORECASE)


def _limit(name: str, seen: Evidence) -> str:
    """Tell a limit that passes from a quota that is spent, where one code stands for both.

    Google's RESOURCE_EXHAUSTED says "exceeded your current quota" for a minute's limit too.
    """
    if "resource_exhausted" in seen.codes or "quota_exceeded" in seen.codes:
        if _DAILY.search(seen.text) or _SPENT_GOOGLE.search(seen.text):
            return "quota_exhausted"
        return "rate_limited" if _BRIEF.search(seen.text) or name == "rate_limited" else name
    if name == "rate_limited":
        refined = match_text(seen.text, allowed=REFINED["rate_limited"] - {"quota_exhausted"})
        return refined or ("quota_exhausted" if _SPENT.search(seen.text) else name)
    return name


_SPENT = re.compile(
    r"credit balance|spend(?:ing)? (?:limit|cap)|monthly [^.]{0,20}(?:cap|limit|quota)|/ month"
    r"|per month|insufficient (?:quota|credits?|balance|funds)|billing (?:hard )?limit"
    r"|check your plan and billing",
    re.IGNORECASE,
)
# Google says "check your plan and billing" of every limit; only these words mean money.
_SPENT_GOOGLE = re.compile(r"spend(?:ing)? cap|monthly|prepay", re.IGNORECASE)
_NO_CONNECTION = frozenset({"connect_failed", "stream_interrupted"})
_DEADLINE = re.compile(r"deadline[_ ]?(?:exceeded|expired)", re.IGNORECASE)
_IN_FLIGHT = re.compile(r"in[- ]flight|concurren|pending requests", re.IGNORECASE)


def judge_status(status: int, text: str) -> str:
    """Return the row of an HTTP status of 400 or more, made more particular by the words."""
    name = STATUSES.get(status) or ("upstream_5xx" if status >= 500 else "invalid_request")
    if status == 402 and _IN_FLIGHT.search(text):
        return "rate_limited"  # the balance is reserved by requests that still run
    if name == "rate_limited" and "quota" in text and _BRIEF.search(text):
        return "quota_exhausted" if _DAILY.search(text) else name
    if status == 504 and _DEADLINE.search(text):
        return "timeout_read"
    allowed = REFINED.get(name, frozenset())
    # A 429 may also say that the model has no room for anybody.
    return match_text(text, allowed=allowed | {"overloaded"} if status == 429 else allowed) or name


def judge_mcp(code: int, text: str = "") -> str:
    """Return the row of a JSON-RPC error of an MCP server."""
    name = MCP_CODES.get(code, "mcp_protocol")
    if code == -32602 and match_text(text, allowed={"tool_unknown"}):
        return "tool_unknown"
    if code in {-32000, -32001} and "session" in text.lower():
        return "mcp_transport"
    if code == -32000 and match_text(text, allowed={"timeout_read"}):
        return "tool_timeout"
    return name


_TOOL_HEAD = re.compile(
    r"(?:error: )?error (?:when |while |during |in )?(?:(?:executing|calling|running|invoking) )?"
    r"(?:the )?(?:tool|function)\b(?! call (?:validation|argument))",
    re.IGNORECASE,
)
_TOOL_SIDE = frozenset({"tool_args_invalid", "tool_unknown", "tool_timeout"})
_VALIDATION = re.compile(r"\d validation errors? for")
_NOT_VALID = re.compile(r"error: \d+ validation errors? for", re.IGNORECASE)
# How tools answer in text what went wrong: one line or a field of its own, no class name, no code.
_TOOL_SAYS = re.compile(r"error: (?:the )?[\w'\"][^\n]{2,300}\Z", re.IGNORECASE)
_TOOL_FIELDS = frozenset({"error", "success", "ok", "isError", "is_error"})
_OF_A_MODEL = re.compile(r"\b(?:models?|tokens?|messages?|prompts?|parameters?|api|requests?)\b", re.IGNORECASE)  # fmt: skip  # noqa: E501


def judge_tool(text: str, rest: str) -> str | None:
    """Return the row of a text that begins as the error of a tool."""
    if _TOOL_HEAD.match(rest) is None or code_error(text):
        return None
    return match_text(rest, allowed=_TOOL_SIDE) or (
        "tool_args_invalid" if _VALIDATION.search(rest) is not None else "tool_failed"
    )


def judge_named(name: str | None, text: str, rest: str) -> str | None:
    """Return the row that an SDK's name of a status gives, made more particular by the words."""
    if name is None or code_error(text):
        return None
    return match_text(rest, allowed=REFINED.get(name, frozenset()) | _NAMED.get(name, set())) or (
        "agent_bug" if code_words(rest) else name
    )


def judge_words(text: str, rest: str | None = None) -> str | None:
    """Return the row that the words alone name, or None; `rest` is the text without its names."""
    if code_error(text):
        return "agent_bug"
    rest = text if rest is None else rest
    name = match_text(rest)
    # "… must be …" is what providers and Python both say.
    return "agent_bug" if name in {None, "invalid_request"} and code_words(rest) else name


def judge_answer(raw: Any, name: str) -> str:
    """Return the row of what may be a tool's answer, `name` being that of its words alone.

    Words that providers are known for keep their row; what could be anything is the tool's.
    """
    parsed = _parsed(raw) if isinstance(raw, str) else raw
    if isinstance(parsed, dict):
        said = parsed.get("error")
        vague = {"unknown", "agent_bug", "malformed_response", "invalid_request"}
        if not isinstance(said, str) or parsed.keys() - _TOOL_FIELDS or name not in vague:
            return name
    else:
        said = raw.strip() if isinstance(raw, str) else ""
        if name not in {"unknown", "invalid_request"}:
            return name
        if _NOT_VALID.match(said) is not None:
            return "tool_args_invalid"
        if _TOOL_SAYS.match(said) is None:
            return name
    if name == "invalid_request" and _OF_A_MODEL.search(said) is not None:
        return name
    return "tool_args_invalid" if _VALIDATION.search(said) is not None else "tool_failed"


def grpc_code(error: Any) -> str | None:
    """Return the gRPC status name an `RpcError` answers with, without importing grpc."""
    code = get(error, "code")
    try:
        found = code() if callable(code) else get(error, "grpc_status_code")
    except Exception:  # noqa: BLE001  a call that never ran has no status yet
        return None
    name = get(found, "name")
    return text_of(name).lower() if is_a(name, str) else None

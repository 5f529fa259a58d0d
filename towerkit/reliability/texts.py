"""Error texts as logs and providers have them, to rows of the taxonomy.

Rule: the first pattern that matches decides, so what is more particular stands higher. Patterns are
matched against the lowered text and have no unbounded repeat inside a repeat: their time is linear.
"""

# ruff: noqa: E501  one list of alternatives a line

from __future__ import annotations

import re
from collections.abc import Collection

_TABLE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("replay_diverged", (r"replay diverged",)),
    ("budget_exceeded", (r"budget has been exceeded", r"exceededbudget", r"over budget", r"max_budget\b")),
    ("context_too_long", (
        r"context[_ ]length[_ ]exceeded", r"context[ _]window[ _]exceeded", r"contextwindowexceeded",
        r"maximum (?:context|prompt|sequence) (?:length|window|size)", r"max(?:imum)? context",
        r"(?:prompt|input|request|conversation|messages?) (?:is|are|was) too long",
        r"input (?:is )?too long", r"too many (?:input |prompt |total )?tokens(?! ?(?:per|, please wait))",
        r"(?:exceeds?|exceeded|over|beyond|larger than|longer than|greater than|above) (?:the |this |your )?(?:model'?s? )?(?:max(?:imum)? |available |allowed |total )?(?:context|input token|sequence length|number of tokens|token limit|prompt length)",
        r"context (?:length|window|size)[^.]{0,60}(?:exceed|too (?:long|small|large))",
        r"exceeds? the (?:available )?context (?:size|window)", r"tokens_limit_reached", r"invalid '(?:messages|input)[^']{0,60}(?:content|text|output|input)[^']{0,12}': string too long",
        r"too many tokens[^.]{0,40}(?:context|window)", r"exceed_context_size", r"\d context tokens|\bn_ctx\b",
        r"input token count[^.]{0,60}exceeds", r"`inputs` (?:tokens|must have)", r"content_length_exceeded",
        r"reduce (?:the length of|your prompt|the number of tokens)", r"model_context_window_exceeded",
        r"token (?:count|limit)[^.]{0,40}exceed[^.]{0,60}(?:context|model|input)",
        r"too large for model with \d+ maximum context",
    )),
    ("model_not_found", (r"(?:been|was|is) (?:deprecated and )?(?:retired|decommissioned|sunset)\b", r"marked by provider as legacy", r"end of (?:its )?life")),
    ("guardrail_blocked", (r"guardrail[^.]{0,60}(?:blocked|raised an exception|violat|reject)", r"blocked (?:by|due to)[^.]{0,30}guardrail", r"blocked entity detected")),
    ("content_filtered", (
        r"content[_ ]?filter", r"content[_ ]?(?:management )?policy", r"safety system", r"responsibleaipolicy",
        r"content_?policy_?violation", r"violat\w+ (?:of )?(?:our|the|openai's|google's)? ?(?:usage|content|safety|use) polic",
        r"(?:flagged|blocked|rejected)[^.]{0,60}(?:moderation|usage polic|safety|violat|policy|prohibited)",
        r"input was flagged", r"requires moderation", r"prohibited_content", r"finish_?reason[^.]{0,20}(?:safety|recitation)",
        r"block_?reason", r"blocked (?:by|due to|because of)[^.]{0,30}(?:safety|recitation|copyright)", r"safety (?:settings|filter|reasons)",
        r"datainspectionfailed|data_inspection_failed", r"inappropriate content|content exists risk|nsfw|sexually explicit", r"cyber_policy_violation",
    )),
    ("quota_exhausted", (
        r"insufficient[_ ](?:quota|balance|credits?|funds|user quota)", r"credit[_ ]balance", r"out of credits?",
        r"exceeded your current quota",
        r"exceeded (?:your|its) (?:monthly|daily|current|included|usage)[^.]{0,40}(?:quota|credits|limit|spend|cap)", r"spend(?:ing)? cap\b", r"(?:/|per) ?month\b|monthly (?:\w{1,20} ){0,2}(?:quota|limit|cap|usage)", r"extra usage, not your plan",
        r"(?:billing|spend(?:ing)?|usage|credit|organization|workspace)[_ ](?:hard[_ ])?limit(?:s)?[_ ](?:has |have )?(?:been )?(?:reached|exceeded)",
        r"reached your (?:[\w-]{1,20} ){0,3}(?:usage|spend\w*|credit|monthly|weekly|billing|plan) (?:limit|cap|quota)",
        r"requires more credits|add more credits|not enough credits|more credits are required", r"payment[_ ]required",
        r"billing[_ ](?:error|not[_ ]active|hard)", r"account is not active, please check your billing", r"purchase (?:more )?credits",
        r"perday|per_day|daily (?:quota|limit|request limit)[^.]{0,30}(?:reached|exceeded|exhausted)", r"quota (?:has been )?(?:exhausted|depleted|used up)",
        r"key limit exceeded|credit limit exceeded", r"arrearage|overdue[-_ ]payment", r"trial (?:has )?(?:expired|ended)",
    )),
    ("tool_args_invalid", (
        r"tool_use_failed", r"malformed_function_call", r"tool call validation failed",
        r"validation errors? for (?:input schema|call\[|arguments)", r"invalid arguments for tool",
        r"invalid (?:tool|function)[ _](?:call )?(?:arguments|parameters|input)", r"failed to (?:parse|call)[^.]{0,20} (?:tool|function)(?: call)? arguments",
        r"input validation error: '[^']{1,80}' is a required property", r"(?:tool|function) (?:call )?arguments? (?:is|are|was|were) (?:not valid|invalid)",
        r"(?:did|does) not match (?:the )?(?:tool|input) schema",
    )),
    ("tool_unknown", (
        r"unknown (?:tool|function)\b", r"(?:tool|function) ['\"`]?[\w.\-]{1,80}['\"`]? (?:is )?(?:not found|does not exist|is not (?:registered|available|a valid tool|defined)|unknown)",
        r"no (?:such )?tool (?:named|called|with name)", r"no such tool", r"attempted to call tool '[^']{1,80}' which was not",
    )),
    ("ramp_too_fast", (r"slow_down", r"slow down", r"acceleration limit", r"usage increase rate", r"ramp[_ ]limit", r"increas\w+ (?:your )?(?:traffic|usage|requests?) (?:more )?(?:gradually|too (?:fast|quickly))")),
    ("overloaded", (
        r"overloaded", r"(?:experiencing|under) (?:very )?(?:high|heavy) (?:load|demand|traffic)", r"high demand", r"heavy load",
        r"at (?:full )?capacity", r"(?:insufficient|no available|not enough|exceeded|lacks) (?:compute |gpu |server |model |service tier )?capacity", r"capacity (?:constraints|exceeded|limit)",
        r"no healthy upstream", r"model [^.]{0,80}(?:is )?currently loading", r"model is not ready", r"server(?: is|'s)? (?:too )?busy", r"serverbusy|system is busy",
        r"no instances? available", r"temporarily overloaded", r"engine is currently", r"over capacity|too busy",
    )),
    ("rate_limited", (
        r"rate[-_ ]?limit", r"ratelimit", r"too[ _-]?many[ _-]?requests", r"too many (?:tokens|concurrent)", r"throttl", r"request rate", r"requests? per (?:minute|second|day|hour)",
        r"tokens per (?:minute|day|hour)", r"(?:concurrency|request|call) (?:limit|quota) (?:reached|exceeded)", r"limit of concurrent", r"resource (?:has been |is )?exhausted", r"resource_exhausted|resourceexhausted",
        r"quota exceeded|exceeded (?:the )?quota", r"retry your request after", r"exceeded your current quota",
    )),
    ("permission_needed", (r"url_?elicitation_?required", r"elicitation", r"(?:human|user|manual) approval (?:is )?(?:needed|required)", r"requires? (?:human|user) (?:approval|confirmation|consent)", r"needs your approval")),
    ("auth_failed", (
        r"(?:invalid|incorrect|wrong|bad|missing|expired|revoked|malformed)[ -_]{1,2}(?:x-)?(?:api|subscription|auth\w*|access|bearer|secret)?[ -_]?(?:api )?(?:key|token|credentials?)\b(?! in prompt| type| count|s? (?:sequence|limit))",
        r"(?:api|subscription|access) ?key[^.]{0,40}(?:not valid|invalid|expired|missing|not (?:be found|found|provided|set)|incorrect|revoked|disabled|required)",
        r"(?:api_key|api key|auth_token)[^.]{0,60}must be set", r"(?:security )?token[^.]{0,40}(?:is|has|was)(?: been)? (?:expired|invalid|revoked)", r"unauthori[sz]ed(?!operation)", r"unauthenticated",
        r"authentication (?:fails|failed|error|required|credentials)", r"missing (?:credentials|authentication|authorization)|(?:signature|token|credentials?) (?:has |have )?expired|invalid username or password|failed to authenticate", r"could not (?:resolve authentication|validate credentials)", r"unable to locate credentials|no credentials|credentials (?:were )?not found|default credentials",
        r"didn't provide an api key|provide a valid (?:api )?key|no api ?key|no auth credentials|no cookie auth", r"not authenticated|login required|invalid_grant|token expired|invalid authentication|(?:signature|token) (?:does not match|verification failed)", r"user not found\b.{0,20}401",
    )),
    ("permission_denied", (
        r"permission[_ -]?denied", r"permissions? (?:error|to access)", r"access (?:is )?denied", r"accessdenied", r"forbidden\b(?<!_forbidden)", r"access to [^.\n]{1,80} (?:is )?not allowed|use case details|(?:operation|action) (?:is )?not allowed", r"organization verification|restricted and you are not", r"not (?:authorized|authorised|allowed|permitted) to",
        r"(?:don't|do not|doesn't|does not) have (?:access to(?<!\bi don't have access to)(?<!\bi do not have access to)(?<!currently do not have access to)|permission|(?:the )?(?:required|necessary) permission)(?! or)(?! the model, or)", r"insufficient (?:permissions?|privileges|scopes?)", r"unsupported_country|country, region,? or territory|(?:user )?location is not supported|region[^.]{0,20}not supported",
        r"must be verified", r"ip[^.]{0,20}not (?:allowed|whitelisted|in the)", r"api has not been (?:used|enabled)|service_disabled|consumer[^.]{0,40}suspended|(?:account|organization|project|user|workspace) (?:has been |is |was )?(?:suspended|deactivated|disabled|banned|terminated)",
    )),
    ("model_not_found", (
        r"model[_ ]not[_ ]found", r"(?:model|deployment|engine|endpoint)s?\b[^.{}]{0,160}(?:does not exist|doesn't exist|not exist\b|not found|not recogni[sz]ed|was removed|has been (?:deprecated|retired|removed|decommissioned|shut down|sunset)|is (?:deprecated|retired|decommissioned|no longer (?:available|supported)))",
        r"model (?:id|identifier|name|version|slug)\b[^.\n]{0,60} (?:is|was) (?:invalid|not valid|unknown|incorrect|unrecognized)", r"deploymentnotfound", r"no (?:such )?(?:model|endpoints?|deployment)s? (?:found|named|available|called)", r"(?:unknown|invalid|unrecognized|no such) model\b(?! (?:input|output|parameter|response))",
        r"model_decommissioned", r"is not a valid model id",
    )),
    ("request_too_large", (r"request[_ ](?:entity |body |payload )?(?:is )?too[_ ]large", r"payload (?:is )?too large", r"payload size exceeds", r"content too large", r"entity too large", r"request_too_large", r"header fields too large", r"maximum (?:allowed )?(?:request|payload|body) size")),
    ("timeout_connect", (r"connect(?:ion)? ?time(?:d )?-?out(?! after [\d.]{1,9} seconds)", r"connecttimeout", r"connection to [^ ]{1,200} timed out", r"timed? ?out (?:while )?(?:connecting|establishing)", r"winerror 10060|errno 110\b|etimedout|econnaborted")),
    ("stream_interrupted", (
        r"connection (?:was |has been |is )?(?:aborted|reset|broken|lost|terminated|closed (?:by|before|unexpectedly|prematurely|without|while))", r"reset by peer", r"forcibly closed", r"broken pipe", r"econnreset|epipe|winerror 1005[34]|errno 104\b|errno 32\b",
        r"incomplete (?:chunked )?read", r"incompleteread", r"server disconnected", r"remotedisconnected|remote end closed|remoteprotocolerror", r"(?:peer|server|remote host|upstream) (?:has )?(?:unexpectedly )?(?:closed|dropped|reset|terminated) (?:the )?connection",
        r"response (?:ended|payload is not completed)|(?:clientpayload|chunkedencoding)error", r"stream (?:was |has been )?(?:interrupted|aborted|reset|cut|disconnected|closed before)", r"unexpected (?:eof|end of stream)|upstream connect error", r"midstreamfallback", r"readerror\b", r"socket hang up|http2? ?stream[^.]{0,40}(?:reset|error)|goaway|connectionreseterror|connectionterminated",
    )),
    ("connect_failed", (
        r"connection (?:refused|error|failed|attempt failed|could not be (?:made|established))", r"name or service not known", r"getaddrinfo|gaierror", r"temporary failure in name resolution|name resolution|nodename nor servname|no address associated",
        r"failed to (?:establish|connect|resolve)", r"cannot connect|could not connect|can't connect|unable to connect|couldn't connect|all connection attempts failed", r"econnrefused|enotfound|eai_again|ehostunreach|enetunreach", r"no route to host|network is unreachable|host is (?:down|unreachable)", r"proxyerror|proxy error|cannot connect to proxy",
        r"certificate[_ ]verify[_ ]failed|sslerror|ssleoferror|eof occurred in violation|ssl: |tls (?:handshake|alert)|self[- ]signed certificate", r"max retries exceeded with url", r"connectionerror\b|connecterror\b|fetch failed|dns (?:lookup|resolution)|network (?:error|connection)",
    )),
    ("tool_timeout", (r"(?:tool|function)\b[^.]{0,60}\btim(?:ed|e) ?out",)),
    ("timeout_read", (r"timed[ _-]?out\b(?<!not timed out)(?<!n't timed out)(?<!never timed out)|time-out\b", r"deadline[_ ]?exceeded", r"timeout(?:error|exception)\b", r"(?:request|read|response|gateway|operation|connection|server|api|upstream|idle|inference|model|step|client)[ _]timeout\b(?! (?:parameter|argument|setting|value|option|must))", r"timeout (?:exceeded|expired|reached|waiting|while|after|of \d|on )", r"^\W{0,4}timeout\W{0,4}$|exceeded (?:the )?(?:time ?out|time limit)", r"read ?timeout|readtimeout|apitimeout", r"took too long", r"did not (?:respond|complete) (?:with)?in")),
    ("model_error", (r"modelerrorexception|modelstreamerror", r"model (?:encountered an|failed with an|returned an) error")),
    ("upstream_5xx", (
        r"internal[_ ]?(?:server)?[_ ]?error", r"bad gateway", r"gateway time-?out", r"(?:error code|status(?:[_ ]code)?|http(?:/[\d.]{1,3})?)\W{1,3}5\d\d\b", r"server (?:had an )?error (?:while|occurred|processing)?", r"server_error|api_error",
        r"an? (?:unexpected |unknown |internal )*error (?:has )?occurred (?:on|in|while|during) (?:the |our )?(?:server|side|end|process\w*|stream\w*|generat\w*)", r"unexpected error[^.]{0,60}(?:try again|contact)", r"the server encountered|something went wrong on our|origin (?:is unreachable|dns error)|web server (?:is down|returned an unknown)",
    )),
    ("overloaded", (r"service_?unavailable|(?:service|model|server|endpoint|api|provider|resource|upstream|engine|region)\b[^.\n]{0,40}\bunavailable|unavailable\b(?<=\d unavailable)|^unavailable\b",)),
    ("storage_failed", (r"no space left on device|enospc|disk quota exceeded|read-only file system",)),
    ("no_progress", (r"max(?:imum)?[_ ](?:number of )?(?:agent )?(?:steps|iterations|turns|actions|errors)", r"too many (?:errors|steps|turns)", r"recursion limit of \d+ reached|graph_recursion_limit|graphrecursionerror", r"maxturnsexceeded|stopped due to (?:iteration|max)", r"agent (?:is )?stuck|same (?:tool call|action) repeated|repeated the same")),
    ("output_truncated", (r"finish_?reason\W{1,4}(?:length|max_tokens)", r"length limit was reached|lengthfinishreason", r"max_output_tokens (?:was |has been )?reached|(?:output|response|completion) (?:was |is )?truncated")),
    ("output_invalid", (r"outputparser|could not parse (?:llm|model|the) output|failed to parse (?:llm |model |the )?(?:output|response|completion) ", r"agentparsingerror|error in code parsing|exceeded maximum retries[^.]{0,30}(?:result|output) validation|unexpectedmodelbehavior", r"(?:output|response|answer) (?:does|did) not (?:match|fit|conform)[^.]{0,30}schema|jsonschemavalidation")),
    ("malformed_response", (r"jsondecodeerror|expecting (?:value|property name|',' delimiter|':' delimiter)[^\n]{0,40}line \d+ column|unterminated string starting at|extra data: line \d+|invalid (?:control character|\\\\?escape)[^\n]{0,10}: line|invalid json|not valid json|unexpected token .{1,12} in json", r"<!doctype html|<html", r"responsevalidationerror|invalid for expected schema|(?:empty|no|malformed|unexpected|unparsable) (?:response|completion|choices)(?: (?:from|returned|received|body))?", r"unknown (?:api )?response")),
    ("mcp_transport", (r"closedresourceerror|brokenresourceerror|mcp (?:server|session)[^.]{0,60}(?:closed|exited|terminated|disconnected|not found)|session (?:not found|terminated|expired)|^connection closed$",)),
    ("cancelled", (r"cancell?ederror|keyboardinterrupt|(?:request|operation|task|run|call|stream|job|execution|generation|future) (?:was |has been |is |got )?(?:cancell?ed|aborted)|cancell?ed by|client (?:closed|disconnected)|^\W{0,3}cancell?ed\W{0,3}$",)),
    ("invalid_request", (
        r"invalid[_ ]?(?:request|argument|parameter|value|input|schema|prompt|type|image|file|content)(?!ed)", r"invalidrequest|validationexception|bad ?request", r"(?:unsupported|unknown|unrecognized|unexpected|extra)[_ ](?:parameter|value|argument|field|request argument|param|inputs)",
        r"(?:is|are) not (?:supported|permitted)|does not support|doesn't support|unsupportedparams", r"(?:missing|requires?) (?:a )?required (?:parameter|field|property|argument)", r"input should be|string should (?:have|match)|does not match any of the expected|does not match the expected", r"field required|extraneous key|extra inputs are not permitted|unprocessable entity|malformed input request|must (?:be|contain|have|alternate|start|end|match|not)\b",
    )),
)  # fmt: skip

# Believed when neither a code, a status nor another pattern says anything.
_VAGUE_TABLE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("overloaded", (r"(?:try|retry)(?: your request)? again later",)),
)


def _compiled(
    table: tuple[tuple[str, tuple[str, ...]], ...],
) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple(
        (re.compile("|".join(f"(?:{p})" for p in patterns), re.DOTALL), name)
        for name, patterns in table
    )


TEXTS = _compiled(_TABLE)
VAGUE = _compiled(_VAGUE_TABLE)

# What Python itself says when code is wrong, as the first words of a text.
_CODE_NAMES = (
    "TypeError|AttributeError|NameError|UnboundLocalError|IndexError|KeyError|ZeroDivisionError"
    "|SyntaxError|IndentationError|ImportError|ModuleNotFoundError|RecursionError|AssertionError"
    "|NotImplementedError|UnicodeDecodeError|UnicodeEncodeError|OverflowError|StopIteration"
    "|AgentExecutionError|InterpreterError|AgentToolExecutionError|AgentToolCallError"
    "|FileNotFoundError|EOFError|LookupError|ArithmeticError"
)
_CODE_HEAD = re.compile(rf"\s*(?:[A-Za-z_]\w{{0,40}}\.){{0,6}}(?:{_CODE_NAMES})\b")
_CODE_WORDS = re.compile(
    r"object has no attribute|has no attribute '|got an unexpected keyword argument"
    r"|missing \d+ required (?:positional|keyword)|takes (?:from )?\d+ (?:to \d+ )?positional argument"
    r"|takes no arguments|got multiple values for|(?:list|tuple|string|pop|range object|assignment) "
    r"?(?:assignment )?(?:index|from empty) ?(?:out of range|list)?|index out of range"
    r"|object is not (?:subscriptable|iterable|callable|a mapping)|object does not support item"
    r"|indices must be|name '\w{1,80}' is not defined|local variable '|cannot access (?:free|local)"
    r"|unsupported operand type|not supported between instances|division by zero|(?:integer )?modulo by zero"
    r"|(?:not enough|too many) values to unpack|cannot unpack non|invalid literal for int"
    r"|could not convert string to|must be str, not|can only (?:concatenate|join)|unhashable type"
    r"|is not json serializable|no module named|cannot import name|maximum recursion depth"
    r"|dictionary changed size|generator didn't|unterminated string literal|unexpected indent"
    r"|expected an indented block|invalid syntax|was never awaited|no such file or directory"
    r"|argument must be|expected str, bytes|must be real number|not in list|list\.remove\(x\)"
    r"|expected string or bytes|event loop|not a valid python|cannot be interpreted as an integer"
    r"|codec can't (?:decode|encode)|code execution failed|code parsing failed"
)
_KEY_ERROR = re.compile(
    r"\s*(?:'[^'\n]{1,120}'|\"[^\"\n]{1,120}\"|-?\d{1,9}|\([^()\n]{1,120}\))\s*"
)


# "The model does not exist or you do not have access to it" is what all say of a wrong name.
_OTHERWISE = re.compile(
    r"\bor (?:perhaps |maybe |that )?(?:you|your \w{1,20}) (?:don't|do not|doesn't|does not|may not)"
    r" have (?:access|permission)[^.\n]{0,30}"
)


def match_text(text: str, *, allowed: Collection[str] | None = None) -> str | None:
    """Return the row of the first pattern that matches, among `allowed` where given."""
    lowered = _OTHERWISE.sub("", text.lower().replace("\u2019", "'"))
    for pattern, name in TEXTS if allowed is not None else (*TEXTS, *VAGUE):
        if (allowed is None or name in allowed) and pattern.search(lowered):
            return name
    return None


def code_error(text: str) -> bool:
    """Say whether a text begins as Python's own errors begin, or is a bare missing key."""
    # A KeyError prints as the quoted key and nothing else.
    return _CODE_HEAD.match(text) is not None or _KEY_ERROR.fullmatch(text[:200]) is not None


def code_words(text: str) -> bool:
    """Say whether a text holds the words of Python's own errors."""
    return _CODE_WORDS.search(text.lower()) is not None


def last_error(text: str) -> str:
    """Return what follows the last frame of a traceback; the whole text without one."""
    start = text.rfind('\n  File "')
    if start < 0 or "Traceback" not in text:
        return text
    lines = text[start + 1 :].split("\n")
    said = next((i for i, line in enumerate(lines) if line[:1] not in {" ", ""}), None)
    return text if said is None else "\n".join(lines[said:])

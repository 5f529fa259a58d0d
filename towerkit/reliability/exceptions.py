"""Exception class names, by how much they say.

Rule: a name is data, never an import. A *decisive* name says all by itself, whatever status or body
comes with it; a *precise* one names what happened on the wire; a *general* one is a family that
several failures share, and is believed only when nothing else is known. Names are looked up along
the MRO, most derived first.
"""

# ruff: noqa: E501  names run on

from __future__ import annotations

import re
from collections.abc import Iterable

_DECISIVE = {
    "cancelled": "CancelledError GeneratorExit KeyboardInterrupt Cancelled ToolRunnerCancelledError "
    "DecisionsToolRunnerCancelledError BrowserCancelledError ClientClosedRequestError "
    "ClientDisconnect",
    "context_too_long": "ContextWindowExceededError ContextLengthExceeded ContextOverflowError",
    "content_filtered": "ContentPolicyViolationError ContentFilterFinishReasonError "
    "ContentFilterError ContentFilteredError BlockedPromptException StopCandidateException "
    "ResponseBlockedError RefusalError ModelRefusalError",
    "guardrail_blocked": "BlockedPiiEntityError GuardrailInterventionNormalStringError "
    "InputGuardrailTripwireTriggered OutputGuardrailTripwireTriggered RejectedRequestError "
    "ModifyResponseException GuardrailTripwireTriggered",
    "output_truncated": "LengthFinishReasonError IncompleteOutputException MaxTokensReached",
    "output_invalid": "JSONSchemaValidationError OutputParserException UnexpectedModelBehavior "
    "AgentParsingError AgentOutputParseError ModelRetry ModelBehaviorError InstructorRetryException "
    "AdapterParseError LLMMalformedActionError",
    "malformed_response": "APIResponseValidationError ResponseValidationError DecodingError "
    "UnknownApiResponseError ContentDecodingError InvalidChunkLength ContentTypeError SSEError "
    "UnexpectedClaimedResult NoResponseError ResponseParserError InvalidResponseError",
    "budget_exceeded": "BudgetExceededError BudgetExceeded UsageLimitExceeded TokenBudgetExceeded "
    "CostLimitExceeded",
    "stream_interrupted": "MidStreamFallbackError ContinuationInterruptedError",
    "quota_exhausted": "EnforcedSpendLimitReachedError ContractSpendLimitReachedError "
    "LinkedOrganizationSpendLimitReachedError LinkedOrganizationBillingUnavailableError "
    "PaymentRequiredError InsufficientQuotaError StorageQuotaExceededError",
    "ramp_too_fast": "RampLimitExceededError",
    "auth_failed": "CredentialsError IdentityTokenFileError WorkloadIdentityError OAuthError "
    "SubjectTokenProviderError OAuthTokenError AwsAuthError GigaChatAuthError NoCredentialsError "
    "PartialCredentialsError TokenRetrievalError RefreshError DefaultCredentialsError "
    "ClientAuthenticationError CredentialRetrievalError CredentialUnavailableError "
    "EphemeralTokenAPIKeyError UnauthorizedSSOTokenError OAuthFlowError OAuthRegistrationError "
    "SSOTokenLoadError InvalidWebhookSignatureError APIWebhookValidationError",
    "permission_needed": "UrlElicitationRequiredError InputRequiredRoundsExceededError "
    "GraphInterrupt NodeInterrupt ApprovalRequired CallDeferred ConfirmDeclinedError",
    "no_progress": "GraphRecursionError MaxTurnsExceeded AgentMaxStepsError MaxStepsReached",
    "replay_miss": "CannotOverwriteExistingRequestException",
}

_PRECISE = {
    "timeout_connect": "ConnectTimeout ConnectTimeoutError ConnectionTimeoutError "
    "ServerTimeoutConnect ConnectionTimeout",
    "throttled_locally": "PoolTimeout WebSocketQueueFullError RouterRateLimitError FullPoolError "
    "RouterRateLimitErrorBasic EmptyPoolError BulkheadFull LocalRateLimitExceeded",
    "timeout_read": "ReadTimeout ReadTimeoutError WriteTimeout SocketTimeoutError "
    "ServerTimeoutError ContinuationTimeoutError RequestTimeoutError ExternalKeyValidationTimedOutError "
    "DeadlineExceeded GatewayTimeoutError BetaRequestBodyTimeoutError ServiceRequestTimeoutError "
    "ServiceResponseTimeoutError WriteTimeoutError",
    "connect_failed": "ConnectError ConnectionRefusedError gaierror SSLError SSLCertVerificationError "
    "CertificateError ProxyError NewConnectionError NameResolutionError ClientConnectorError "
    "ClientConnectorDNSError ClientConnectorSSLError ClientProxyConnectionError "
    "ClientConnectorCertificateError EndpointConnectionError ProxyConnectionError ServerNotFoundError "
    "HostUnreachable herror A2AConnectionError A2ALocalhostURLError ServiceRequestError "
    "ClientHttpProxyError ProxySchemeUnknown WebSocketUpgradeError",
    "stream_interrupted": "RemoteProtocolError ReadError WriteError CloseError ConnectionResetError "
    "ConnectionAbortedError BrokenPipeError IncompleteRead RemoteDisconnected ProtocolError "
    "ServerDisconnectedError ClientPayloadError ChunkedEncodingError ConnectionClosedError "
    "ConnectionClosed ConnectionClosedOK ResponseStreamingError WebSocketConnectionClosedError "
    "ResponsesWebSocketError TransferEncodingError ClientOSError BadStatusLine ConnectionTerminated ShouldClose WebSocketNetworkError WebSocketDisconnect "
    "StreamResetError ServiceResponseError WebSocketException IncompleteReadError EventStreamError",
    "mcp_transport": "ClosedResourceError BrokenResourceError EndOfStream StreamableHTTPError "
    "ResumptionError SubscriptionLost NoBackChannelError ProcessLookupError",
    "mcp_protocol": "ListenNotSupportedError InvalidSignature UnsupportedMCPValueError InvalidRequestState",
    "malformed_response": "JSONDecodeError DecodeError",
    "tool_unknown": "UnknownMemberError UnsupportedFunctionError UnavailableMemberError "
    "ToolNotFoundError UnknownToolError DisabledMemberError",
    "tool_args_invalid": "UnknownFunctionCallArgumentError InvalidMemberInputError ToolInputError "
    "InvalidToolArguments ToolArgumentError",
    "tool_failed": "ToolError FunctionInvocationError UnexpectedToolError ToolRunnerError "
    "ComputerUseError BrowserError FileStoreError SessionMemoryError DecisionsToolRunnerError ToolException "
    "ResourceError UnexpectedResourceError ResourceNotFoundError MCPServerError BrowserStateError",
    "overloaded": "OverloadedError ServiceUnavailableError ServiceUnavailable ModelOverloadedError "
    "CMEKContextUnavailableError CompactionUnavailableError",
    "upstream_5xx": "InternalServerError BadGatewayError BadGateway CreateInteractionServerError "
    "CancelInteractionByIDServerError DeleteInteractionServerError GetInteractionByIDServerError "
    "GatewayTimeout",
    "not_implemented": "HTTPNotImplementedError UnsupportedProtocolVersion MethodNotImplemented",
    "rate_limited": "RateLimitError ThrottlingException ResourceExhausted TooManyRequests RateLimitExceeded "
    "ThrottledException TooManyRequestsError RateLimited RateLimitException",
    "permission_denied": "PermissionDeniedError PermissionDenied Forbidden AccessDeniedException "
    "ForbiddenError AuthorizeError",
    "auth_failed": "AuthenticationError Unauthenticated Unauthorized UnauthorizedError TokenError "
    "InvalidScopeError RegistrationError",
    "model_not_found": "NotFoundError NotFound ResourceNotFoundException LiteLLMUnknownProvider "
    "DeploymentNotFound A2AAgentCardError",
    "conflict": "ConflictError PreconditionFailedError Conflict Aborted AlreadyExists",
    "request_too_large": "ContentTooLargeError RequestTooLargeError RequestHeaderFieldsTooLargeError "
    "LineTooLong ResponsesWebSocketBufferError ImageDimensionsTooLargeError",
    "invalid_request": "BadRequestError UnprocessableEntityError UnsupportedParamsError InvalidRequestError "
    "InvalidURL UnsupportedProtocol LocalProtocolError MissingSchema InvalidSchema InvalidHeader "
    "ParamValidationError InvalidArgument FailedPrecondition ImageFetchError LocationParseError TooManyRedirects "
    "CreateInteractionClientError CancelInteractionByIDClientError DeleteInteractionClientError "
    "GetInteractionByIDClientError AgentFilePreparationError AgentFileStagingError InvalidUriTemplate "
    "ProtocolErrorLocal ValidationException UserError",
    "model_error": "ModelErrorException ModelStreamErrorException ModelError",
    "agent_bug": "AgentExecutionError InterpreterError StreamAlreadyConsumed MissingStreamClassError "
    "MissingDependencyError MutuallyExclusiveAuthError APIRemovedInV1 ToolsetUsageError "
    "_AmbiguousModuleClientUsageError StreamConsumed StreamClosed ResponseNotRead RequestNotRead "
    "StreamError CookieConflict UserWarning DeprecationWarning Warning PathEscapeError "
    "ResourceSecurityError _NonObjectPayloadError InvalidRedirectUriError",
    "storage_failed": "StorageFullError DiskFullError",
}

_GENERAL = {
    "connect_failed": "APIConnectionError ConnectionError ClientConnectionError HTTPClientError "
    "NetworkError",
    "timeout_read": "APITimeoutError TimeoutError Timeout TimeoutException",
    "upstream_5xx": "TemporaryError ServerError RetryableError _TransientTokenExchangeError",
    "invalid_request": "PermanentError ClientError",
    "stream_interrupted": "TransportError EOFError HTTPXWSException",
    "stream_truncated": "AgentTurnResultError",
    "mcp_protocol": "MCPError McpError",
    "guardrail_unavailable": "GuardrailRaisedException",
}

# Errors of the code around the call; only the outermost says anything, a cause may be handled.
_CODE = {
    "agent_bug": "TypeError AttributeError NameError IndexError KeyError ZeroDivisionError "
    "AssertionError NotImplementedError ImportError SyntaxError RecursionError UnicodeError",
}


def _table(rows: dict[str, str]) -> dict[str, str]:
    return {name: row for row, names in rows.items() for name in names.split()}


DECISIVE = _table(_DECISIVE)
PRECISE = _table(_PRECISE)
GENERAL = _table(_GENERAL)
CODE_ERRORS = _table(_CODE)


def named(names: Iterable[str], table: dict[str, str]) -> str | None:
    """Return the row of the first of `names` that `table` knows."""
    return next((table[n] for n in names if n in table), None)


_EVENTS = {
    "timeout_connect", "throttled_locally", "timeout_read", "connect_failed", "stream_interrupted",
    "mcp_transport",
}  # fmt: skip
_STATUSES = {
    "rate_limited", "permission_denied", "auth_failed", "model_not_found", "conflict",
    "request_too_large", "invalid_request", "overloaded", "upstream_5xx", "not_implemented",
}  # fmt: skip
EVENTS = {name: row for name, row in PRECISE.items() if row in _EVENTS}
STATUS_NAMES = {name: row for name, row in PRECISE.items() if row in _STATUSES}
"""Names that stand for what happened on the wire, and names that SDKs give an HTTP status."""

# What libraries call their own classes, by the part that says it; only for the texts of logs, where
# nothing is tried again because of it.
_STEMS = (
    ("context_too_long", "ContextLength|ContextWindow|ContextOverflow"),
    ("content_filtered", "ContentFilter|ContentPolicy|Moderation|SafetyError"),
    ("quota_exhausted", "Quota(?:Exceeded|Exhausted)|Insufficient(?:Quota|Credit|Balance|Funds)|Billing|PaymentRequired|SpendLimit|UsageLimit"),
    ("tool_unknown", "(?:NoSuch|Unknown)(?:Tool|Function)|(?:Tool|Function(?:Call)?)Not(?:Found|Exist)"),
    ("tool_args_invalid", "Invalid(?:Tool|Function)|Tool(?:Argument|Input|Params)|FunctionCallValidation"),
    ("no_progress", "Max(?:Steps|Turns|Iterations)|RecursionLimit|StuckInLoop"),
    ("output_invalid", "OutputPars|StructuredOutput|OutputValidation"),
    ("output_truncated", "MaxTokensReached|OutputTruncated"),
    ("rate_limited", "RateLimit|RateExceeded|TooManyRequest|Throttl"),
    ("overloaded", "Overload|ServiceUnavailable"),
    ("model_not_found", "(?:Model|Deployment|Repository|Endpoint)NotFound|UnknownModel"),
    ("auth_failed", "Authenticat|Unauthori[sz]ed|InvalidA[Pp][Ii]Key|Credential"),
    ("permission_denied", "PermissionDenied|AccessDenied|Forbidden|GatedRepo"),
    ("timeout_connect", "Connect(?:ion)?Time(?:d)?[Oo]ut"),
    ("timeout_read", "Time(?:d)?[Oo]ut|DeadlineExceeded"),
    ("stream_interrupted", "Connection(?:Reset|Aborted|Lost|Closed)|Disconnect|BrokenPipe|IncompleteRead"),
    ("connect_failed", "Connect(?:ion)?(?:Refused|Error|Failed|Failure)|NameResolution"),
    ("invalid_request", "BadRequest|InvalidRequest|UnprocessableEntity|UnsupportedParam"),
    ("upstream_5xx", "InternalServer|BadGateway|UpstreamError"),
)  # fmt: skip
STEMS = tuple((re.compile(pattern), row) for row, pattern in _STEMS)

_HEAD = re.compile(
    r"(?:[A-Za-z_]\w{0,60}\.){0,8}([A-Z_]\w{2,80})(?=\s?[:(]|\s-\s|\s{0,4}$)", re.MULTILINE
)
_SEPARATOR = re.compile(r"\s{0,4}[:(-]?\s{0,4}")
_HEAD_END = ("Error", "Exception", "Timeout", "Failure", "Interrupt")


def heads(text: str) -> tuple[list[str], str]:
    """Return the class names that a text or one of its first lines begins with, and the rest.

    The names are the outermost first: `litellm.RateLimitError: AnthropicException - {…}`.
    """
    names: list[str] = []
    rest: list[str] = []
    lines = text.split("\n", 12)
    for line in lines:
        at = 0
        while len(names) < 24 and (found := _HEAD.match(line, at)) is not None:
            name = found[1]
            if not (name.endswith(_HEAD_END) or name in PRECISE or name in GENERAL):
                break
            names.append(name)
            separator = _SEPARATOR.match(line, found.end())
            at = separator.end() if separator is not None else found.end()
        rest.append(line[at:])
    return names, "\n".join(rest)


def family(names: Iterable[str]) -> str | None:
    """Return the row that a part of one of `names` says, first name first; None without one."""
    return next((row for n in names for stem, row in STEMS if stem.search(n)), None)


# A class of this kind may come from the other side; of any other, only the code around is known.
_OTHER_SIDE = re.compile(
    r"API|Api|SDK|Sdk|HTTP|Http|Service|Client|Server|Response|Status|Request|LLM|Llm|Model"
    r"|Provider|Generation|Rpc|Call|^Error$"
)


def of_the_code(names: list[str]) -> bool:
    """Say whether a text's names are all of classes that code around a call raises."""
    return bool(names) and not any(_OTHER_SIDE.search(name) for name in names)

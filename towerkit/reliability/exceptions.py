"""Exception class names, by how much they say.

Rule: a name is data, never an import. A *decisive* name says all by itself, whatever status or body
comes with it; a *precise* one names what happened on the wire; a *general* one is a family that
several failures share, and is believed only when nothing else is known. Names are looked up along
the MRO, most derived first.
"""

# ruff: noqa: E501  names run on

from __future__ import annotations

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
    "AgentParsingError AgentOutputParseError ModelRetry ModelBehaviorError",
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
    "model_error": "ModelErrorException ModelStreamErrorException",
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

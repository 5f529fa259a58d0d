"""Names of span attributes: the ones we write, and the ones other emitters write for the same fact.

Rule: this is the one place that spells an attribute's name. Written is the current GenAI convention
only (`SCHEMA_URL`); read is every spelling seen in the wild, the current one first, because
the first that is there wins. A convention that moves on is a change of these tables and of
`CONVENTIONS`.

Conventions: github.com/open-telemetry/semantic-conventions-genai (all of it Development). Others:
OpenInference, OpenLLMetry (traceloop), the Vercel AI SDK, pydantic-ai, Google's ADK, any-agent.
"""

from __future__ import annotations

import re

DEEPEST = 50  # levels of structure in one attribute
CONVENTIONS = "gen-ai-dev/1.42.0-dev"
SCHEMA_URL = f"https://opentelemetry.io/schemas/{CONVENTIONS}"

OPERATION = "gen_ai.operation.name"
AGENT_NAME = "gen_ai.agent.name"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_MESSAGES = "gen_ai.input.messages"
OUTPUT_MESSAGES = "gen_ai.output.messages"
SYSTEM_INSTRUCTIONS = "gen_ai.system_instructions"
TOOL_ARGUMENTS = "gen_ai.tool.call.arguments"
TOOL_RESULT = "gen_ai.tool.call.result"
EXCEPTION = "exception"
EXCEPTION_TYPE = "exception.type"
EXCEPTION_MESSAGE = "exception.message"

# What no convention has a word for. `KIND` marks a span as one of ours.
KIND = "towerkit.kind"
STATUS = "towerkit.status"
COST = "towerkit.cost.nanousd"
ESTIMATED = "towerkit.cost.estimated"
WASTED = "towerkit.cost.wasted"
FOREIGN = "otel.emitter"
"""On a span of another library's: which one it was, by its instrumentation scope."""
SAME_AS = "towerkit.same_as"
"""On a span that tells of a call another span has: that span's id; its tokens are counted there."""
CONTENT_DROPPED = "towerkit.content_dropped"
PARENT_MISSING = "towerkit.parent_missing"
LINK = "towerkit.parent"
"""On a run: trace id, span id and flags of the caller's `traceparent`."""

# Column of the spans table -> attribute we write.
WRITTEN = {
    "gen_ai_operation_name": OPERATION,
    "gen_ai_provider_name": "gen_ai.provider.name",
    "gen_ai_request_model": "gen_ai.request.model",
    "gen_ai_response_model": "gen_ai.response.model",
    "gen_ai_response_id": "gen_ai.response.id",
    "gen_ai_usage_input_tokens": "gen_ai.usage.input_tokens",
    "gen_ai_usage_output_tokens": "gen_ai.usage.output_tokens",
    "gen_ai_usage_cache_read_tokens": "gen_ai.usage.cache_read.input_tokens",
    # Only this spelling: backends that add up every `gen_ai.usage.*` would count the older
    # `cache_creation` beside it twice.
    "gen_ai_usage_cache_write_tokens": "gen_ai.usage.cache_write.input_tokens",
    "gen_ai_usage_reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
    "gen_ai_tool_name": "gen_ai.tool.name",
    "gen_ai_tool_call_id": "gen_ai.tool.call.id",
    "error_type": "error.type",
    "error_class": "towerkit.error.class",
    "attempt": "towerkit.attempt",
    "fallback_tier": "towerkit.fallback.tier",
    "fallback_reason": "towerkit.fallback.reason",
    "idempotent": "towerkit.idempotent",
    "simulated": "towerkit.simulated",
}

# Column -> spellings read, beside the one written. Counts first, because they are added up.
COUNTS = {
    "gen_ai_usage_input_tokens": (
        "gen_ai.usage.prompt_tokens", "llm.token_count.prompt", "llm.usage.prompt_tokens",
        "ai.usage.inputTokens", "ai.usage.promptTokens",
    ),
    "gen_ai_usage_output_tokens": (
        "gen_ai.usage.completion_tokens", "llm.token_count.completion",
        "llm.usage.completion_tokens", "ai.usage.outputTokens", "ai.usage.completionTokens",
    ),
    "gen_ai_usage_cache_read_tokens": (
        "gen_ai.usage.cache_read_input_tokens", "gen_ai.usage.cache_read_tokens",
        "gen_ai.usage.details.cache_read_tokens", "gen_ai.usage.details.cache_read_input_tokens",
        "llm.token_count.prompt_details.cache_read", "ai.usage.cachedInputTokens",
    ),
    "gen_ai_usage_cache_write_tokens": (
        "gen_ai.usage.cache_creation.input_tokens", "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.cache_write_tokens", "gen_ai.usage.details.cache_write_tokens",
        "gen_ai.usage.details.cache_creation_input_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    "gen_ai_usage_reasoning_tokens": (
        "gen_ai.usage.reasoning_tokens", "gen_ai.usage.details.reasoning_tokens",
        "llm.token_count.completion_details.reasoning", "ai.usage.reasoningTokens",
    ),
}  # fmt: skip
TEXTS = {
    "gen_ai_provider_name": (
        "gen_ai.system", "llm.provider", "llm.system", "ai.model.provider",
    ),
    "gen_ai_request_model": (
        "llm.request.model", "llm.model_name", "embedding.model_name", "ai.model.id",
    ),
    "gen_ai_response_model": ("llm.response.model", "ai.response.model"),
    "gen_ai_response_id": ("llm.response.id", "ai.response.id"),
    "gen_ai_tool_name": ("tool.name", "ai.toolCall.name", "mcp.tool.name"),
    "gen_ai_tool_call_id": ("tool_call.id", "ai.toolCall.id"),
}  # fmt: skip
FINISH = (
    FINISH_REASONS, "gen_ai.response.finish_reason", "gen_ai.completion.0.finish_reason",
    "llm.finish_reason", "ai.response.finishReason", "gen_ai.finishReason",
    "llm.output_messages.0.message.finish_reason",
)  # fmt: skip
ERROR_TYPES = ("error.type", EXCEPTION_TYPE)
HTTP_STATUS = ("http.response.status_code", "http.status_code")

# Dollars an emitter worked out, whole or in parts that are added up.
COST_USD = ("gen_ai.usage.cost", "operation.cost", "llm.cost.total", "gen_ai.usage.total_cost")
COST_PARTS_USD = (
    ("gen_ai.usage.input_cost", "gen_ai.usage.output_cost"),
    ("llm.cost.prompt", "llm.cost.completion"),
    ("cost_prompt", "cost_completion"),
)

# What a span is, by the word its emitter has for it: model, tool, agent or step.
KINDS = {
    "openinference.span.kind": {
        "llm": "model", "embedding": "model", "tool": "tool", "agent": "agent", "chain": "step",
        "retriever": "step", "reranker": "step", "guardrail": "step", "evaluator": "step",
        "prompt": "step",
    },
    OPERATION: {
        "chat": "model", "text_completion": "model", "generate_content": "model",
        "embeddings": "model", "call_llm": "model", "execute_tool": "tool",
        "invoke_agent": "agent", "create_agent": "agent", "invoke_workflow": "step",
        "plan": "step", "retrieval": "step", "step": "step",
    },
    "llm.request.type": {
        "chat": "model", "completion": "model", "embedding": "model", "rerank": "step",
    },
    "traceloop.span.kind": {
        "tool": "tool", "agent": "agent", "workflow": "step", "task": "step",
    },
    "ai.operationId": {
        "ai.generateText.doGenerate": "model", "ai.streamText.doStream": "model",
        "ai.generateObject.doGenerate": "model", "ai.streamObject.doStream": "model",
        "ai.embed.doEmbed": "model", "ai.embedMany.doEmbed": "model", "ai.toolCall": "tool",
        "ai.generateText": "step", "ai.streamText": "step", "ai.generateObject": "step",
        "ai.streamObject": "step", "ai.embed": "step", "ai.embedMany": "step",
    },
}  # fmt: skip

# What went in and came out, by what the span is. A trailing dot is a family of numbered names.
ASKED = {
    "model": (
        INPUT_MESSAGES, "llm.input_messages.", "gen_ai.prompt.", "ai.prompt.messages",
        "gcp.vertex.agent.llm_request", "gen_ai.prompt", "ai.prompt", "all_messages_events",
        "events", "traceloop.entity.input", "input.value",
    ),
    "tool": (
        TOOL_ARGUMENTS, "gen_ai.tool.args", "tool_arguments", "gcp.vertex.agent.tool_call_args",
        "ai.toolCall.args", "traceloop.entity.input", "input.value",
    ),
    "agent": (
        INPUT_MESSAGES, "ai.prompt", "traceloop.entity.input", "input.value",
    ),
}  # fmt: skip
ANSWERED = {
    "model": (
        OUTPUT_MESSAGES, "llm.output_messages.", "gen_ai.completion.", "ai.response.text",
        "ai.response.toolCalls", "ai.response.object", "gcp.vertex.agent.llm_response",
        "gen_ai.completion", "gen_ai.output", "genai.output", "traceloop.entity.output",
        "output.value",
    ),
    "tool": (
        TOOL_RESULT, "tool_response", "gcp.vertex.agent.tool_response", "ai.toolCall.result",
        "gen_ai.output", "genai.output", "traceloop.entity.output", "output.value",
    ),
    "agent": (
        OUTPUT_MESSAGES, "final_result", "ai.response.text", "traceloop.entity.output",
        "output.value",
    ),
}  # fmt: skip

# Attributes that hold no content: what may be kept where content may not, and exported by default.
# An unknown name is taken for content.
_PLAIN = re.compile(
    r"gen_ai\.(operation\.name|system|provider\.name|request\..*|response\..*|usage\..*"
    r"|aggregated_usage\..*|agent\.(id|name|version|call\.id)|conversation\.id|output\.type"
    r"|token\.type|tool\.(name|type|call\.id)|workflow\.name|data_source\.id|prompt\.name"
    r"|evaluation\.(name|score\..*))"
    r"|(server|mcp|jsonrpc|rpc|network|service|telemetry|otel|towerkit)\..*|error\.type"
    r"|exception\.(type|escaped)|http\.(request\.method|response\.status_code|status_code)|url\.path"
    r"|openinference\.span\.kind|traceloop\.(span\.kind|workflow\.name|entity\.name)|operation\.cost"
    r"|llm\.(model_name|system|provider|token_count\..*|usage\..*|cost\..*|request\.(type|model)"
    r"|response\.(id|model)|finish_reason)|tool\.name|ai\.(operationId|model\.(id|provider)"
    r"|usage\..*|response\.(id|model|finishReason)|toolCall\.(id|name))|retry_after_s|timing|role"
)


def is_plain(name: str) -> bool:
    """Return whether an attribute of this name holds no content."""
    return _PLAIN.fullmatch(name) is not None


def spellings(column: str) -> tuple[str, ...]:
    """Return the names under which a column is read, the convention's own first."""
    return (WRITTEN[column], *COUNTS.get(column, ()), *TEXTS.get(column, ()))

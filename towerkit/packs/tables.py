"""The tables of a pack, each column with its type, unit and rule.

Rule: this file is the one definition. The Arrow schema that is written, the Pandera model that
judges and the Polars expression that checks on the hot path are all derived from it.

`GenAI` columns are the OpenTelemetry GenAI attributes with dots turned into underscores.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import msgspec

FORMAT_VERSION = 1

Kind = Literal["str", "int", "float", "bool", "bytes"]


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column: its type, whether null means "unknown or does not apply", and its rule."""

    name: str
    kind: Kind
    doc: str
    nullable: bool = False
    ge: int | None = None
    le: int | None = None
    isin: tuple[str, ...] | None = None
    pattern: str | None = None


class Table(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """One table: its name, columns in canonical order, and what one row is.

    `required` pairs a value of the column `by` with the columns that must not be null in such rows.
    """

    name: str
    row: str
    columns: tuple[Column, ...]
    by: str = ""
    required: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Return the column names in canonical order."""
        return tuple(c.name for c in self.columns)

    def make(self, **values: Any) -> tuple[Any, ...]:
        """Return one row in canonical order, without salt; a column not given is null."""
        if not self._columns.issuperset(values):
            unknown = sorted(values.keys() - self._columns)
            raise TypeError(f"table {self.name} has no column {', '.join(unknown)}")
        return tuple(map(values.get, self._unsalted))

    @cached_property
    def _unsalted(self) -> tuple[str, ...]:
        return tuple(n for n in self.names if n != "salt")

    @cached_property
    def _columns(self) -> frozenset[str]:
        return frozenset(self._unsalted)


def _c(name: str, kind: Kind, doc: str, **rule: Any) -> Column:
    return Column(name=name, kind=kind, doc=doc, **rule)


def _opt(name: str, kind: Kind, doc: str, **rule: Any) -> Column:
    return Column(name=name, kind=kind, doc=doc, nullable=True, **rule)


_RUN_ID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"
_HEX16 = r"^[0-9a-f]{16}$"
_HEX32 = r"^[0-9a-f]{32}$"

SPAN_KINDS = ("run", "step", "call", "attempt")
OPERATIONS = ("invoke_agent", "chat", "execute_tool", "step")
STATUSES = ("ok", "error", "cancelled", "aborted")
SALT = _c(
    "salt", "bytes", "16 random bytes: the row's Merkle leaf stays verifiable after redaction"
)

SPANS = Table(
    name="spans",
    row="a span: the run, a step of the agent, one logical call, or one physical attempt",
    columns=(
        _c("run_id", "str", "UUIDv7; without dashes it is the W3C trace id", pattern=_RUN_ID),
        _c("span_id", "str", "16 hexadecimal characters, unique in the run", pattern=_HEX16),
        _opt("parent_span_id", "str", "null for the run span", pattern=_HEX16),
        _c("seq", "int", "order in which spans started, from 0", ge=0),
        _c("name", "str", "`{operation} {model or tool}`, or the step's own name"),
        _c("kind", "str", "run > step > call > attempt", isin=SPAN_KINDS),
        _c("gen_ai_operation_name", "str", "what was done", isin=OPERATIONS),
        _c("start_unix_ns", "int", "wall time, nanoseconds since 1970", ge=0),
        _c("duration_ns", "int", "monotonic nanoseconds", ge=0),
        _c("status", "str", "how it ended; aborted: its process was gone first", isin=STATUSES),
        _opt("error_class", "str", "row of the error taxonomy; null when ok"),
        _opt("error_type", "str", "exception type or provider code (`error.type`)"),
        _opt("error_message", "str", "redacted text of the error"),
        _opt("attempt", "int", "1 for the first try of a call", ge=1),
        _opt("fallback_tier", "int", "0 is the model asked for first", ge=0),
        _opt("fallback_reason", "str", "error class that moved the call to this tier"),
        _opt("gen_ai_provider_name", "str", "who answered, or was asked"),
        _opt("gen_ai_request_model", "str", "model asked for"),
        _opt("gen_ai_response_model", "str", "model that answered"),
        _opt("gen_ai_response_id", "str", "the provider's id of the answer"),
        _opt("gen_ai_response_finish_reason", "str", "why generation stopped"),
        _opt("gen_ai_usage_input_tokens", "int", "includes cached", ge=0),
        _opt("gen_ai_usage_output_tokens", "int", "includes reasoning", ge=0),
        _opt("gen_ai_usage_cache_read_tokens", "int", "of the input", ge=0),
        _opt("gen_ai_usage_cache_write_tokens", "int", "of the input", ge=0),
        _opt("gen_ai_usage_reasoning_tokens", "int", "of the output", ge=0),
        _opt("gen_ai_tool_name", "str", "tool of an execute_tool span"),
        _opt("gen_ai_tool_call_id", "str", "id the model gave the call"),
        _opt("idempotent", "bool", "whether running the tool twice is harmless"),
        _opt("request_digest", "str", "keyed digest of the request's content", pattern=_HEX32),
        _opt("response_digest", "str", "keyed digest of the answer's content", pattern=_HEX32),
        _c("simulated", "bool", "true when a simulated model, fault or clock made this span"),
        _c("attributes", "str", "remaining attributes, canonical JSON object"),
        _c("events", "str", "retry decisions, fault injections: canonical JSON array"),
        SALT,
    ),
    by="kind",
    required=(
        ("step", ("parent_span_id",)),
        ("call", ("parent_span_id", "request_digest")),
        ("attempt", ("parent_span_id", "attempt", "request_digest")),
    ),
)

COSTS = Table(
    name="costs",
    row="one charge of one attempt",
    columns=(
        _c("run_id", "str", "the run charged", pattern=_RUN_ID),
        _c("span_id", "str", "the attempt's span", pattern=_HEX16),
        _c("seq", "int", "order of charges, from 0", ge=0),
        _c(
            "purpose",
            "str",
            "the agent's own, or the evaluation around it (user simulator, judge)",
            isin=("agent", "evaluation"),
        ),
        _opt("provider", "str", "who charges"),
        _opt("model", "str", "what was charged for"),
        _opt("input_tokens", "int", "includes cached; null is unknown", ge=0),
        _opt("output_tokens", "int", "includes reasoning; null is unknown", ge=0),
        _opt("cache_read_tokens", "int", "of the input", ge=0),
        _opt("cache_write_tokens", "int", "of the input", ge=0),
        _opt("reasoning_tokens", "int", "of the output", ge=0),
        _opt("cost_nanousd", "int", "integer nano-US-dollars; null is unknown, never 0", ge=0),
        _opt("price_ref", "str", "where the price comes from"),
        _opt("price_date", "str", "date of the price book, ISO"),
        _c("estimated", "bool", "true when usage was estimated, not reported"),
        _c("wasted", "bool", "true when the attempt failed or its answer was discarded"),
        _c("simulated", "bool", "true when no money was spent: a simulated model's price"),
        SALT,
    ),
)

INPUT_KINDS = ("task", "model", "tool", "clock", "random", "id")

INPUTS = Table(
    name="inputs",
    row="one nondeterministic input: the replay tape",
    columns=(
        _c("run_id", "str", "the run", pattern=_RUN_ID),
        _c("seq", "int", "order of the tape, from 0", ge=0),
        _c("kind", "str", "what kind of input", isin=INPUT_KINDS),
        _c("name", "str", "model, tool, or the reading's name"),
        _opt("span_id", "str", "the attempt that took it", pattern=_HEX16),
        _c("parent_path", "str", "names of the open steps, joined by /"),
        _c("occurrence", "int", "count of this (kind, name, parent_path, request), from 0", ge=0),
        _opt("request_digest", "str", "what was asked", pattern=_HEX32),
        _opt("response_digest", "str", "what came", pattern=_HEX32),
        _c("outcome", "str", "ok, or the error class"),
        _c("start_offset_ns", "int", "monotonic nanoseconds since the run began", ge=0),
        _c("latency_ns", "int", "how long it took", ge=0),
        _opt("chunks", "str", "stream chunk boundaries, JSON array; null when not streamed"),
        SALT,
    ),
    by="kind",
    required=(
        ("model", ("span_id", "request_digest")),
        ("tool", ("span_id", "request_digest")),
    ),
)

CONTENT = Table(
    name="content",
    row="one distinct piece of redacted content, stored once however often it is sent",
    columns=(
        _c("digest", "str", "keyed digest of the bytes", pattern=_HEX32),
        _c("media_type", "str", "how to read it", isin=("application/json", "text/plain")),
        _c("size", "int", "bytes", ge=0),
        _c("body", "bytes", "the redacted bytes"),
        SALT,
    ),
)

PACK_TABLES: dict[str, Table] = {t.name: t for t in (SPANS, COSTS, INPUTS, CONTENT)}

SUITES = ("golden", "adversarial", "control")

SCORES = Table(
    name="scores",
    row="one score of one run, learnt after the pack was sealed",
    columns=(
        _c("run_id", "str", "the run scored", pattern=_RUN_ID),
        _c("pack_digest", "str", "root digest of the pack that was scored"),
        _c("eval_id", "str", "the evaluation or import this score belongs to"),
        _c("scenario", "str", "what the agent was asked to do"),
        _c("release", "str", "which version of the agent"),
        _c(
            "suite",
            "str",
            "golden, adversarial, or control (neither: shown, never gated)",
            isin=SUITES,
        ),
        _c("case_id", "str", "the case; paired with the same case of another release"),
        _c("trial", "int", "repeat of the case, from 0", ge=0),
        _opt("task_digest", "str", "SHA-256 of the task's definition; null is unknown"),
        _c("metric", "str", "the score's own name, such as reward or utility"),
        _opt("value", "float", "higher is better; null when not scored"),
        _c("scored", "bool", "false: no value could be produced, see note"),
        _c("primary", "bool", "true for the one score a gate counts for the run"),
        _opt("error_class", "str", "why the run itself failed, row of the taxonomy"),
        _c("contradicted", "bool", "true when the score disagrees with what the run did"),
        _opt("note", "str", "one sentence"),
        _c("simulated", "bool", "true when a simulated model was scored"),
    ),
)

"""From the spans of a trace to a pack's draft.

Rule: ids, parents, times and errors are the file's. Spans that towerkit itself exported come back
as the rows they were made from; those of others are read by `telemetry.foreign`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from towerkit.core.env import derive_seed
from towerkit.core.types import Usage
from towerkit.ingest.build import Origin, manifest_of, salts_of
from towerkit.ingest.spans import sole_root
from towerkit.ingest.trace import Trace
from towerkit.packs.tables import OPERATIONS, STATUSES
from towerkit.packs.writer import Draft
from towerkit.privacy.redact import Redactor
from towerkit.telemetry import names
from towerkit.telemetry.counting import settle
from towerkit.telemetry.foreign import (
    Emitted,
    Failed,
    columns_of,
    cost_of,
    ending,
    fill,
    kept_attributes,
    usage_of,
    what_is,
)
from towerkit.telemetry.recorder import Charge, OpenSpan, Recorder

_OURS = ("call", "attempt", "step")
# Columns our export has a name of its own for, with the type they must come back as.
_FACTS: dict[str, type] = {
    "attempt": int, "fallback_tier": int, "fallback_reason": str, "idempotent": bool,
}  # fmt: skip


def build_spans(trace: Trace, origin: Origin, run_id: str, redactor: Redactor) -> Draft:
    """Return the draft of the pack of a trace that came as spans."""
    builder = _Builder(trace, run_id, redactor)
    for span in trace.spans:
        builder.add(span)
    builder.close()
    manifest = manifest_of(trace, origin, redactor)
    manifest["simulated"] = builder.simulated
    service = trace.spans[0].resource.get("service.name")
    manifest["identity"]["service"] = redactor.label(str(service or origin.format))
    return builder.recorder.draft(manifest, salt_seed=salts_of(run_id, redactor))


class _Builder:
    """The spans of one run, parents first."""

    def __init__(self, trace: Trace, run_id: str, redactor: Redactor) -> None:
        ids = derive_seed("span ids", run_id)
        self.recorder = Recorder(run_id, redactor, start_mono_ns=0, ids=ids)
        self.recorder.settle = self._settle
        self.simulated = False
        self._trace, self._zero = trace, trace.started_unix_ns
        self._known: dict[str, OpenSpan] = {}
        self._own_charges: list[Charge] = []
        self._root = sole_root(trace.spans)
        self._made: OpenSpan | None = None
        if self._root is None:
            self._made = self._start_root(f"invoke_agent {trace.scenario}", self._zero, None)
            self._made.attributes["towerkit.synthetic"] = True
            self._dress(self._made)

    def _start_root(self, name: str, start_unix_ns: int, span_id: str | None) -> OpenSpan:
        span = self.recorder.start(
            name, kind="run", operation="invoke_agent", parent=None, wall_ns=start_unix_ns,
            mono_ns=start_unix_ns - self._zero, span_id=span_id,
        )  # fmt: skip
        task = self._trace.task
        digest = None if task is None else self.recorder.content(task)
        self.recorder.tape(
            "task", "task", path="", request_digest=None, response_digest=digest,
            outcome="ok" if digest else "unknown", start_mono_ns=0, end_mono_ns=0,
        )  # fmt: skip
        return span

    def _dress(self, root: OpenSpan) -> None:
        """Say on the run's span what holds for all of them."""
        resource = {f"resource.{k}": v for k, v in self._trace.spans[0].resource.items()}
        around = {"timing": self._trace.timing, **self._trace.attributes, **resource}
        root.attributes |= kept_attributes(self.recorder, around)

    def add(self, emitted: Emitted) -> None:
        """Record one span."""
        if emitted is self._root:
            span = self._start_root(emitted.name, emitted.start_unix_ns, emitted.span_id)
        else:
            parent = self._known.get(emitted.parent_span_id or "") or self._made
            span = self.recorder.start(
                emitted.name, kind="step", operation="step", parent=parent,
                wall_ns=emitted.start_unix_ns, mono_ns=emitted.start_unix_ns - self._zero,
                span_id=emitted.span_id,
            )  # fmt: skip
        self._known[emitted.span_id] = span
        failed = self._fill(span, emitted)
        if emitted is self._root:
            span.kind, span.operation = "run", "invoke_agent"
            self._dress(span)
        elif emitted.resource != self._trace.spans[0].resource:
            own = {f"resource.{k}": v for k, v in emitted.resource.items()}
            span.attributes |= kept_attributes(self.recorder, own)
        if emitted.parent_span_id and emitted.parent_span_id not in self._known:
            span.attributes[names.PARENT_MISSING] = emitted.parent_span_id
        if emitted.end_unix_ns is None:
            span.attributes["otel.end_missing"] = True
        elif emitted.end_unix_ns < emitted.start_unix_ns:
            span.attributes["otel.end_before_start"] = True
        self._end(span, emitted, failed)

    def _fill(self, span: OpenSpan, emitted: Emitted) -> Failed | None:
        failed = fill(self.recorder, span, emitted)
        kind = emitted.attributes.get(names.KIND)
        if kind == "run":
            del span.attributes[names.FOREIGN]
        elif kind in _OURS and (kind != "attempt" or self._is_attempt(emitted)):
            self._fill_own(span, emitted, str(kind))
        else:  # what calls itself ours and is not is anybody's
            span.attributes.pop(names.KIND, None)
        return failed

    def _is_attempt(self, emitted: Emitted) -> bool:
        tries = emitted.attributes.get(names.WRITTEN["attempt"])
        return type(tries) is int and tries >= 1 and emitted.parent_span_id in self._known

    def _fill_own(self, span: OpenSpan, emitted: Emitted, kind: str) -> None:
        """Bring back a row of ours; what has a column is no attribute beside it."""
        given = emitted.attributes
        span.kind = kind
        operation = str(given.get(names.OPERATION))
        if operation in OPERATIONS:
            span.operation = operation
        for column, wanted in _FACTS.items():
            value = given.get(names.WRITTEN[column])
            if type(value) is wanted:
                span.fields[column] = value
        if kind != "step":
            span.fields["request_digest"] = span.fields.get("request_digest") or "0" * 32
        if names.FOREIGN not in given:
            del span.attributes[names.FOREIGN]
        for name in (*names.WRITTEN.values(), names.FINISH_REASONS):
            if name != names.OPERATION:
                span.attributes.pop(name, None)
        usage = usage_of(given)
        if kind == "attempt" and what_is(given) == "model" and (usage or names.COST in given):
            self._own_charges.append(_charge(span, emitted))

    def _end(self, span: OpenSpan, emitted: Emitted, failed: Failed | None) -> None:
        simulated = emitted.attributes.get(names.WRITTEN["simulated"]) is True
        self.simulated = self.simulated or simulated
        how = ending(failed, self.recorder.redactor)
        status = emitted.attributes.get(names.STATUS)
        if names.KIND in emitted.attributes and status in STATUSES:
            how["status"] = status
        elif failed is None and emitted.end_unix_ns is None and not emitted.good:
            how["status"] = "aborted"
        self.recorder.end(
            span, mono_ns=emitted.last_unix_ns - self._zero, simulated=simulated, **how
        )

    def close(self) -> None:
        """End a run that had no span of its own."""
        if self._made is not None:
            failed = self._trace.error_class
            self.recorder.end(
                self._made, mono_ns=self._trace.duration_ns, status="error" if failed else "ok",
                error_class=failed, error_message=self._trace.error_message,
            )  # fmt: skip

    def _settle(
        self, spans: Sequence[OpenSpan], charges: Sequence[Charge]
    ) -> tuple[list[OpenSpan], list[Charge]]:
        return settle(spans, [*charges, *self._own_charges], priced=False)


def _charge(span: OpenSpan, emitted: Emitted) -> Charge:
    given: dict[str, Any] = emitted.attributes
    columns = columns_of(given)
    return Charge(
        span.span_id, usage_of(given) or Usage(), cost_of(given),
        columns.get("gen_ai_provider_name"),
        columns.get("gen_ai_response_model") or columns.get("gen_ai_request_model"), "agent",
        estimated=given.get(names.ESTIMATED) is True, wasted=given.get(names.WASTED) is True,
        simulated=given.get(names.WRITTEN["simulated"]) is True,
    )  # fmt: skip

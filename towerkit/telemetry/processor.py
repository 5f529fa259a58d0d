"""Spans of instrumented libraries, into the run that is open: one pack, one tree, one vocabulary.

Rule: every span that starts inside an open run is in its pack, redacted, under its own span id, and
ended once: one that is open when the run ends is `aborted`. A span outside any run is counted and
not kept, because nobody knows when its trace is over. Nothing here raises into the agent.

    counts       what became of spans
    taken        in a pack
    outside      no run was open; the first that is a model or tool call is said in the log
    late         ended after its run was sealed, where it stands as aborted
    failed       could not be read: kept without attributes, and said in the log
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import StatusCode

from towerkit.privacy.log import log
from towerkit.telemetry import names
from towerkit.telemetry.counting import settle
from towerkit.telemetry.foreign import Emitted, Happened, Place, ending, fill, what_is
from towerkit.telemetry.recorder import OpenSpan, Recorder

Key = tuple[int, int]
_REMEMBERED = 10_000  # open spans of sealed runs, to tell late ones from those outside


class _Taking:
    """One run that takes spans in: its place, the ids it has, and the spans that are open."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.ids: set[str] = set()
        self.open: dict[Key, OpenSpan] = {}


class TowerSpanProcessor(SpanProcessor):
    """Takes spans into the open run. Made by `Tower.span_processor`; `counts` says what became."""

    def __init__(self, where: Callable[[], Place | None]) -> None:
        """`where` says which run is open in this thread or task, and at which span."""
        self._where = where
        self._lock = threading.Lock()
        self._runs: dict[Recorder, _Taking] = {}
        self._open: dict[Key, _Taking] = {}
        self._sealed: OrderedDict[Key, bool] = OrderedDict()  # open when their run ended
        self._warned = False
        self.counts = {"taken": 0, "outside": 0, "late": 0, "failed": 0}

    # -- OpenTelemetry's interface -----------------------------------------------------------------

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002
        """Open a span of the run that is open, if one is."""
        try:
            self._started(span)
        except Exception as error:  # noqa: BLE001  the agent's call is not ours to fail
            self._failed("started", error)

    def on_end(self, span: ReadableSpan) -> None:
        """End the span with what its emitter says of it."""
        try:
            self._ended(span)
        except Exception as error:  # noqa: BLE001  likewise
            self._failed("ended", error)

    def shutdown(self) -> None:
        """Say what was not kept."""
        lost = {k: n for k, n in self.counts.items() if k != "taken" and n}
        if lost:
            log.warning(
                "spans of instrumented libraries that are in no pack as they were: %s", lost
            )

    def force_flush(self, timeout_millis: int = 30_000) -> bool:  # noqa: ARG002  nothing waits here
        """Return at once: spans are recorded as they end."""
        return True

    # -- for the run -------------------------------------------------------------------------------

    def current(self, recorder: Recorder) -> OpenSpan | None:
        """Return the instrumented span that is current, if it is one of this run's."""
        context = trace.get_current_span().get_span_context()
        taking = self._open.get((context.trace_id, context.span_id))
        if taking is None or taking.place.recorder is not recorder:
            return None
        return taking.open.get((context.trace_id, context.span_id))

    # -- the work ----------------------------------------------------------------------------------

    def _started(self, span: Span) -> None:
        own, above = span.get_span_context(), span.parent
        outer = None if above is None else self._open.get((above.trace_id, above.span_id))
        place = self._where()
        if place is None and outer is not None:
            place = outer.place  # a thread that does not know the run, and knows the span above
        if own is None or place is None:
            return
        key = (own.trace_id, own.span_id)
        with self._lock:
            taking = self._runs.get(place.recorder)
            if taking is None:
                taking = self._runs[place.recorder] = _Taking(place)
                place.recorder.before_seal.append(lambda: self._seal(place.recorder))
                place.recorder.settle = _settle
            span_id: str | None = f"{own.span_id:016x}"
            span_id = None if span_id in taking.ids else span_id
            taking.ids.add(f"{own.span_id:016x}")
        mono = place.mono_ns(span.start_time)
        parent = place.parent
        if outer is taking and above is not None:
            # Of two open spans around this one, the one that started later is the inner one.
            inner = taking.open.get((above.trace_id, above.span_id))
            parent = inner if inner is not None and inner.seq > parent.seq else parent
        made = place.recorder.start(
            span.name, kind="step", operation="step", parent=parent, wall_ns=place.wall_ns(mono),
            mono_ns=mono, span_id=span_id,
        )  # fmt: skip
        with self._lock:
            taking.open[key] = made
            self._open[key] = taking

    def _ended(self, span: ReadableSpan) -> None:
        context = span.get_span_context()
        key = (context.trace_id, context.span_id) if context is not None else (0, 0)
        with self._lock:
            late = self._sealed.pop(key, False)
            taking = self._open.pop(key, None)
            made = None if taking is None else taking.open.pop(key, None)
        if taking is None or made is None:
            self._left_out(span, late=late)
            return
        place = taking.place
        try:
            emitted = _emitted(span)
            made.attributes["otel.trace_id"] = emitted.trace_id
            failed = fill(place.recorder, made, emitted)
            place.recorder.end(
                made, mono_ns=place.mono_ns(span.end_time), simulated=place.simulated,
                **ending(failed, place.recorder.redactor),
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001  likewise
            # Whatever was read so far may not be redacted: none of it is kept.
            made.attributes, made.events, made.fields, made.kind = {}, (), {}, "step"
            made.ended = False
            place.recorder.end(
                made, mono_ns=place.mono_ns(span.end_time), simulated=place.simulated
            )
            self._failed("read", error)
        else:
            self.counts["taken"] += 1
        place.recorder.flush()

    def _left_out(self, span: ReadableSpan, *, late: bool) -> None:
        """Count a span that is in no open run."""
        if late:
            self.counts["late"] += 1
            return
        self.counts["outside"] += 1
        if not self._warned and what_is(span.attributes or {}) in {"model", "tool"}:
            self._warned = True
            log.warning(
                "a span of %s was outside of any run and is in no pack: open one with tower.run(…) "
                "around it; spans like it are counted, and not said again",
                span.instrumentation_scope.name if span.instrumentation_scope else "a library",
            )

    def _seal(self, recorder: Recorder) -> None:
        """End what is still open when its run ends."""
        with self._lock:
            taking = self._runs.pop(recorder)
            left = list(taking.open.items())
            taking.open.clear()
        for key, span in left:
            self._open.pop(key, None)
            self._sealed[key] = True
            while len(self._sealed) > _REMEMBERED:
                self._sealed.popitem(last=False)
            recorder.end(
                span, mono_ns=taking.place.mono_ns(None), status="aborted",
                simulated=taking.place.simulated,
            )  # fmt: skip

    def _failed(self, did: str, error: Exception) -> None:
        self.counts["failed"] += 1
        if self.counts["failed"] == 1:
            log.error("an instrumented span could not be %s", did, exc_info=error)


def _settle(spans: Any, charges: Any) -> Any:
    return settle(spans, charges, priced=True)


def _emitted(span: ReadableSpan) -> Emitted:
    context, scope = span.get_span_context(), span.instrumentation_scope
    assert context is not None  # noqa: S101  its key was found
    attributes = _plain(span.attributes or {})
    if span.dropped_attributes:
        attributes["otel.dropped_attributes"] = span.dropped_attributes
    if scope is not None and scope.version:
        attributes["otel.scope.version"] = scope.version
    start = span.start_time or 0
    return Emitted(
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_span_id=None if span.parent is None else f"{span.parent.span_id:016x}",
        name=span.name,
        start_unix_ns=start,
        end_unix_ns=span.end_time,
        attributes=attributes | {"otel.kind": span.kind.name},
        events=tuple(
            Happened(e.name, e.timestamp, _plain(e.attributes or {})) for e in span.events
        ),
        failed=span.status.status_code is StatusCode.ERROR,
        good=span.status.status_code is StatusCode.OK,
        message=span.status.description,
        scope="" if scope is None else scope.name,
    )


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return attributes as JSON can carry them."""
    return {str(k): _value(v, 0) for k, v in value.items()}


def _value(value: Any, depth: int) -> Any:
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if depth > names.DEEPEST:
        return "<too deep>"
    if isinstance(value, Mapping):
        return {str(k): _value(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_value(v, depth + 1) for v in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return f"<{type(value).__qualname__}>"

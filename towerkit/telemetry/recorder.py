"""The recorder: spans, charges, tape and content of one run, redacted as they come in.

Rule: content is redacted before it is kept, stored once by its digest, and referred to by digest
everywhere else. Rows are in the canonical order of `packs.tables`.
"""

from __future__ import annotations

import threading
from typing import Any

import msgspec

from towerkit.core.canonical import canonical_json, canonical_text, fingerprint, ordered_json
from towerkit.core.types import Usage
from towerkit.cost.prices import Price
from towerkit.packs.tables import CONTENT, COSTS, INPUTS, SPANS
from towerkit.packs.writer import Draft, Row
from towerkit.privacy.redact import Redactor


class OpenSpan(msgspec.Struct, kw_only=True):
    """A span that has started. `fields` collects columns until it ends."""

    span_id: str
    parent_span_id: str | None
    seq: int
    name: str
    kind: str
    operation: str
    start_unix_ns: int
    start_mono_ns: int
    fields: dict[str, Any] = {}
    attributes: dict[str, Any] = {}
    events: list[dict[str, Any]] = []
    ended: bool = False


class Recorder:
    """Collects the rows of one run. Threads may record at once."""

    def __init__(self, run_id: str, redactor: Redactor, *, start_mono_ns: int) -> None:
        """Start an empty record of `run_id`."""
        self.run_id, self.redactor = run_id, redactor
        self._start_mono_ns = start_mono_ns
        self._lock = threading.RLock()
        self._spans: list[tuple[int, Row]] = []
        self._costs: list[Row] = []
        self._inputs: list[Row] = []
        self._content: dict[str, Row] = {}
        self._occurrences: dict[tuple[str, str, str, str | None], int] = {}
        self._started = 0

    @property
    def next_seq(self) -> int:
        """The number the next span will get."""
        return self._started

    def start(
        self,
        name: str,
        *,
        kind: str,
        operation: str,
        parent: OpenSpan | None,
        wall_ns: int,
        mono_ns: int,
        span_id: str,
    ) -> OpenSpan:
        """Open a span."""
        with self._lock:
            seq = self._started
            self._started += 1
        return OpenSpan(
            span_id=span_id,
            parent_span_id=parent.span_id if parent else None,
            seq=seq,
            name=self.redactor.text(name),
            kind=kind,
            operation=operation,
            start_unix_ns=wall_ns,
            start_mono_ns=mono_ns,
        )

    def end(
        self,
        span: OpenSpan,
        *,
        mono_ns: int,
        status: str = "ok",
        error_class: str | None = None,
        error_type: str | None = None,
        error_message: str | None = None,
        simulated: bool = False,
    ) -> None:
        """End a span; ending it again does nothing."""
        if error_message is not None:
            error_message = self.redactor.text(error_message[:4000])
        with self._lock:
            if span.ended:
                return
            span.ended = True
            row = SPANS.make(
                run_id=self.run_id,
                span_id=span.span_id,
                parent_span_id=span.parent_span_id,
                seq=span.seq,
                name=span.name,
                kind=span.kind,
                gen_ai_operation_name=span.operation,
                start_unix_ns=span.start_unix_ns,
                duration_ns=max(0, mono_ns - span.start_mono_ns),
                status=status,
                error_class=error_class,
                error_type=error_type,
                error_message=error_message,
                simulated=simulated,
                attributes=canonical_text(self.redactor.value(span.attributes)),
                events=canonical_text(self.redactor.value(span.events)),
                **span.fields,
            )
            self._spans.append((span.seq, row))

    def content(self, value: Any, *, redacted: bool = False, ordered: bool = False) -> str | None:
        """Keep `value` (text or JSON-able), redacted, and return its digest.

        `ordered` keeps the order of keys: what an agent gets back must print the same in a replay.

        With `capture="off"` nothing is kept and there is no digest; with `"digests"` only that.
        """
        if self.redactor.capture == "off":
            return None
        clean = value if redacted else self.redactor.value(value)
        if isinstance(clean, str):
            media, body = "text/plain", clean.encode("utf-8", "backslashreplace")
        else:
            encode = ordered_json if ordered else canonical_json
            media, body = "application/json", encode(clean)
        digest = fingerprint(self.redactor.key, body)
        if self.redactor.capture == "redacted" and digest not in self._content:
            row = CONTENT.make(digest=digest, media_type=media, size=len(body), body=body)
            with self._lock:
                self._content.setdefault(digest, row)
        return digest

    def request(self, messages: Any, rest: Any) -> str:
        """Keep a model request, each message once however often it is sent; return its digest.

        The stored form is `{"messages": [digest, …], …rest}`.
        """
        parts = [self.content(m) for m in messages]
        digest = self.content({"messages": parts, **self.redactor.value(rest)}, redacted=True)
        return digest or fingerprint(self.redactor.key, b"capture is off")

    def charge(
        self,
        span: OpenSpan,
        usage: Usage | None,
        cost: Price | None,
        *,
        provider: str | None,
        model: str | None,
        purpose: str = "agent",
        estimated: bool = False,
        wasted: bool = False,
        simulated: bool = False,
    ) -> None:
        """Record one charge of one attempt."""
        u = usage or Usage()
        with self._lock:
            self._costs.append(
                COSTS.make(
                    run_id=self.run_id,
                    span_id=span.span_id,
                    seq=len(self._costs),
                    purpose=purpose,
                    provider=provider,
                    model=model,
                    input_tokens=u.input_tokens,
                    output_tokens=u.output_tokens,
                    cache_read_tokens=u.cache_read_tokens,
                    cache_write_tokens=u.cache_write_tokens,
                    reasoning_tokens=u.reasoning_tokens,
                    cost_nanousd=cost.nanousd if cost else None,
                    price_ref=cost.ref if cost else None,
                    price_date=cost.date if cost else None,
                    estimated=estimated,
                    wasted=wasted,
                    simulated=simulated,
                )
            )

    def tape(
        self,
        kind: str,
        name: str,
        *,
        path: str,
        request_digest: str | None,
        response_digest: str | None,
        outcome: str,
        start_mono_ns: int,
        end_mono_ns: int,
        span: OpenSpan | None = None,
        chunks: str | None = None,
    ) -> None:
        """Record one nondeterministic input."""
        key = (kind, name, path, request_digest)
        with self._lock:
            occurrence = self._occurrences.get(key, 0)
            self._occurrences[key] = occurrence + 1
            self._inputs.append(
                INPUTS.make(
                    run_id=self.run_id,
                    seq=len(self._inputs),
                    kind=kind,
                    name=name,
                    span_id=span.span_id if span else None,
                    parent_path=path,
                    occurrence=occurrence,
                    request_digest=request_digest,
                    response_digest=response_digest,
                    outcome=outcome,
                    start_offset_ns=max(0, start_mono_ns - self._start_mono_ns),
                    latency_ns=max(0, end_mono_ns - start_mono_ns),
                    chunks=chunks,
                )
            )

    def bodies(self) -> dict[str, bytes]:
        """Return what content is kept so far, by digest."""
        return {digest: row[3] for digest, row in self._content.items()}

    def draft(self, manifest: dict[str, Any], *, salt_seed: bytes) -> Draft:
        """Return the pack's draft; `manifest` gains the run id, the redactor and the span count."""
        with self._lock:
            ended = len(self._spans)
            counts = {"started": self._started, "ended": ended, "dropped": self._started - ended}
            return Draft(
                manifest={
                    "run_id": self.run_id,
                    "redactor": self.redactor.describe(),
                    "spans": counts,
                    **manifest,
                },
                spans=[row for _, row in sorted(self._spans)],
                costs=list(self._costs),
                inputs=list(self._inputs),
                content=[self._content[d] for d in sorted(self._content)],
                salt_seed=salt_seed,
            )

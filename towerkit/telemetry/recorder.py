"""The recorder: spans, charges, tape and content of one run, redacted as they come in.

Rule: content is redacted before it is kept, stored once by its digest, and referred to by digest
everywhere else. On the agent's thread a record is one small object and one atomic append. What a
span was told is redacted when it is written: by who flushes with `journal="sync"`, by the writer
with `"grouped"`, else when the run is sealed. Rows in the canonical order of `packs.tables` are
made then.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from towerkit.core.canonical import (
    canonical_json,
    canonical_text,
    fingerprint,
    ordered_json,
    read_json,
)
from towerkit.core.types import DETAIL, Usage
from towerkit.cost.prices import Price
from towerkit.packs.tables import CONTENT, COSTS, INPUTS, SPANS
from towerkit.packs.writer import Draft, Row
from towerkit.privacy.log import log
from towerkit.privacy.redact import Redactor
from towerkit.telemetry import names
from towerkit.telemetry.journal import Journal

# Columns of a span that hold names which others have chosen.
_NAMES = frozenset({
    *names.TEXTS, "gen_ai_response_finish_reason", "error_type", "fallback_reason",
})  # fmt: skip
# Contents seen before, by their unredacted bytes: a conversation is sent again with every call.
_MEMO_BYTES, _MEMO_ITEM, _MEMO_LABELS = 8_000_000, 200_000, 1024


# What nobody can change once it is there.
_FLAT = frozenset({str, int, float, bool, type(None)})

# An odd stride visits every 64-bit number once, so the ids of a run never collide. W3C forbids
# zero: all ones stand for it, which this stride reaches 10¹⁸ spans away.
_STRIDE, _MASK = 0x9E3779B97F4A7C15, (1 << 64) - 1
_BACK = pow(_STRIDE, -1, 1 << 64)


def span_id_of(seq: int, first: int) -> str:
    """Return the id of the span with number `seq` where number 0 has the id `first`."""
    return f"{(first + seq * _STRIDE) & _MASK or _MASK:016x}"


def span_number(span_id: str, first: int) -> int:
    """Return the number a span has if its id is a recorder's, whose number 0 has the id `first`.

    Of an id from elsewhere it is a number, too, and mostly one that no run gets to.
    """
    return (int(span_id, 16) - first) * _BACK & _MASK


class OpenSpan(msgspec.Struct, array_like=True, gc=False):
    """A span that has started. `fields` collects columns until it ends.

    `attributes` and `events` are what it was told, until it is written: then `kept` is canonical
    JSON of both, as they may be kept. Those of another library's span stay, redacted: they are read
    once more when the run is sealed. Runs keep many, none in a cycle: the garbage collector need
    not look at them.
    """

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
    events: tuple[dict[str, Any], ...] = ()
    ended: bool = False
    duration_ns: int = 0
    status: str = "ok"
    kept: tuple[str, str] | None = None


class Begun(msgspec.Struct, gc=False):
    """Stands in the journal's queue for the beginning of a span, a span itself for its end."""

    span: OpenSpan


class Charge(msgspec.Struct, array_like=True, gc=False):
    """One charge of one attempt, as it is recorded."""

    span_id: str
    usage: Usage
    cost: Price | None
    provider: str | None
    model: str | None
    purpose: str
    estimated: bool
    wasted: bool
    simulated: bool


Settle = Callable[[Sequence[OpenSpan], Sequence[Charge]], tuple[list[OpenSpan], list[Charge]]]


class Recorder:
    """Collects the rows of one run. Threads may record at once."""

    def __init__(
        self, run_id: str, redactor: Redactor, *, start_mono_ns: int, ids: int,
        journal: Journal | None = None,
    ) -> None:  # fmt: skip
        """Start an empty record of `run_id`; span ids follow from `ids`, 64 random bits."""
        self.run_id, self._ids = run_id, ids
        self.redactor = redactor.of_run()  # counts what this run dropped
        self._tools: Any = ()
        self._start_mono_ns = start_mono_ns
        self._sequence = itertools.count().__next__
        self.next_seq = 0  # the number the next span will get
        self._spans: list[OpenSpan] = []
        self._costs: list[Charge] = []
        # Where spans and charges are put: a replay lets go of what its pack has.
        self._keep_span: Callable[[OpenSpan], None] = self._spans.append
        self._keep_charge: Callable[[Charge], None] = self._costs.append
        self._inputs: list[tuple[Any, ...]] = []
        self._content: dict[str, tuple[str, bytes]] = {}
        self._known: dict[tuple[bool, bytes | str], str] = {}
        self._known_bytes = 0
        self._labels: dict[str, str] = {}  # names of models, providers, tools: few, again and again
        self._occurrences: dict[tuple[str, str, str, str | None], itertools.count[int]] = {}
        self.journal = journal
        self._add = _nowhere if journal is None else journal.add
        if journal is not None:
            journal.prepare = self._written
        self.late = 0  # records that came when the run had ended
        # Brings what was recorded so far to safety; called before the agent goes on.
        self.flush: Callable[[], None] = _nothing if journal is None else journal.flush
        # The same for what may wait for the next flush, or 50 ms: that a step has begun.
        self.soon: Callable[[], None] = _nothing if journal is None else journal.soon
        # Set by who records spans of other libraries: ends those that are open, and counts once.
        self.before_seal: list[Callable[[], None]] = []
        self.settle: Settle | None = None

    def start(
        self,
        name: str,
        *,
        kind: str,
        operation: str,
        parent: OpenSpan | None,
        wall_ns: int,
        mono_ns: int,
        fields: dict[str, Any] | None = None,
        span_id: str | None = None,
    ) -> OpenSpan:
        """Open a span; `fields` are its columns so far.

        `span_id` is for a span that has one already; the caller sees to it that it is the only one.
        """
        seq = self._sequence()
        self.next_seq = seq + 1
        if span_id is None:
            span_id = span_id_of(seq, self._ids)
        above = parent.span_id if parent else None
        clean = self.redactor.name(name)
        fields = {} if fields is None else self._labelled(fields)
        span = OpenSpan(span_id, above, seq, clean, kind, operation, wall_ns, mono_ns, fields)
        self._keep_span(span)
        self._add(Begun(span))
        return span

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
        if span.ended:
            return
        span.ended = True
        span.status = status
        span.duration_ns = max(0, mono_ns - span.start_mono_ns)
        fields = span.fields
        fields["simulated"] = simulated
        if error_class is not None:
            fields["error_class"], fields["error_type"] = error_class, error_type
            if error_message is not None:
                fields["error_message"] = self.redactor.message(error_message[:4000])
        told = span.attributes
        if told and not _FLAT.issuperset(map(type, told.values())):
            # The agent may change it before it is written, and no method of it is asked then.
            span.attributes = read_json(canonical_json(told))
        self._add(span)

    def hand_over(self, ended: OpenSpan, parent_id: str | None, *, mark: str) -> None:
        """Give what is still open in a span that has ended to another one, and mark it so.

        A child does not outlive its parent, and what a timed-out tool goes on with may.
        """
        for span in self._spans[ended.seq + 1 :]:
            if span.parent_span_id == ended.span_id and not span.ended:
                span.parent_span_id = parent_id
                span.attributes[mark] = ended.span_id

    def _written(self, queued: Begun | OpenSpan) -> tuple[Any, ...] | None:
        """Return what the journal writes of a span; None for a beginning whose end follows."""
        if isinstance(queued, OpenSpan):
            self._clean(queued)
            return ("close", queued)
        span = queued.span
        if span.ended:
            return None
        # Attributes and events are not redacted yet: they stay out.
        return (
            "open", span.span_id, span.parent_span_id, span.seq, span.name, span.kind,
            span.operation, span.start_unix_ns, span.start_mono_ns, span.fields,
        )  # fmt: skip

    def _labelled(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Redact the names among a span's columns, in place: others have chosen them."""
        labels = self._labels
        for column in _NAMES.intersection(fields):
            name = fields[column]
            if name is not None:
                name = str(name)
                known = labels.get(name)
                if known is None:
                    known = self.redactor.label(name)
                    if len(labels) >= _MEMO_LABELS:
                        labels.clear()
                    labels[name] = labels[known] = known
                fields[column] = known
        return fields

    def _clean(self, span: OpenSpan) -> None:
        """Redact what a span was told. Doing it again changes nothing."""
        if span.kept is not None:
            return
        self._labelled(span.fields)
        told, events = dict(span.attributes), span.events  # an agent may go on to change it
        if names.FOREIGN in told:
            # What content a span of another library may bring, `foreign` has decided by its names.
            span.attributes = self.redactor.labels(told)
            span.events = tuple(self.redactor.labels(event) for event in events)
        else:
            redactor = self.redactor
            span.kept = (
                redactor.metadata_text(told) if told else "{}",
                canonical_text([redactor.metadata(e) for e in events]) if events else "[]",
            )
            span.attributes, span.events = {}, ()

    def learn(self, tools: Any) -> None:
        """Take what tool schemas mark `x-pii: true` out of everything that is kept from now on."""
        if tools and tools is not self._tools:
            self._tools, known = tools, self.redactor
            self.redactor = known.marking(tools)
            if self.redactor is not known:
                self._known, self._known_bytes = {}, 0

    def content(self, value: Any, *, ordered: bool = False) -> str | None:
        """Keep `value` (text or JSON-able), redacted, and return its digest.

        `ordered` keeps the order of keys: what an agent gets back must print the same in a replay.

        With `capture="off"` nothing is kept and there is no digest; with `"digests"` only that.
        """
        redactor = self.redactor
        if redactor.capture == "off":
            return None
        if issubclass(type(value), str):
            raw: bytes | str = value if type(value) is str else str.__str__(value)
        else:
            raw = (ordered_json if ordered else canonical_json)(value)
        known = self._known.get((ordered, raw))
        if known is not None:
            return known
        if isinstance(raw, str):
            media, body = "text/plain", redactor.text(raw).encode("utf-8", "backslashreplace")
        else:
            media = "application/json"
            body = redactor.json(raw, encode=ordered_json if ordered else canonical_json)
        digest = fingerprint(redactor.key, body)
        if redactor.capture == "redacted" and digest not in self._content:
            self._content[digest] = (media, body)
            self._add(("content", digest, media, body))
        self._remember((ordered, raw), digest)
        return digest

    def _remember(self, key: tuple[bool, bytes | str], digest: str) -> None:
        size = len(key[1])
        if size > _MEMO_ITEM:
            return
        self._known_bytes += size
        if self._known_bytes > _MEMO_BYTES:
            self._known, self._known_bytes = {}, size
        self._known[key] = digest

    def request(self, messages: Any, rest: Any) -> str:
        """Keep a model request, each message once however often it is sent; return its digest.

        The stored form is `{"messages": [digest, …], …rest}`.
        """
        if isinstance(rest, Mapping):
            self.learn(rest.get("tools"))
        return self.request_of([self.content(m) for m in messages], rest)

    def request_of(self, shown: Sequence[str | None], rest: Any) -> str:
        """Keep a model request whose messages are kept already; `shown` are their digests."""
        digest = self.content({"messages": shown, **rest})
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
        label = self.redactor.label
        provider, model = provider and label(provider), model and label(model)
        charge = Charge(
            span.span_id, usage or Usage(), cost, provider, model, purpose, estimated, wasted,
            simulated,
        )  # fmt: skip
        if usage is not None and usage.details is not msgspec.UNSET:
            span.attributes.update((DETAIL + n, count) for n, count in usage.details.items())
        self._keep_charge(charge)
        self._add(("charge", charge))

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
        name = self.redactor.name(name)
        key = (kind, name, path, request_digest)
        counter = self._occurrences.get(key)
        if counter is None:
            counter = self._occurrences.setdefault(key, itertools.count())
        row = (
            kind, name, span.span_id if span else None, path, next(counter), request_digest,
            response_digest, outcome, max(0, start_mono_ns - self._start_mono_ns),
            max(0, end_mono_ns - start_mono_ns), chunks,
        )  # fmt: skip
        self._inputs.append(row)
        self._add(("tape", row))

    # -- sealing ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Take nothing more: what a thread or a task that outlives the run says is counted."""
        self._add = self._too_late

    def disown(self) -> None:
        """Leave the record to the process we were forked from: it ends what is open in it."""
        for span in self._spans:
            span.ended = True
        self._spans, self._sequence, self.next_seq = [], itertools.count().__next__, 0
        self._keep_span = self._spans.append
        self.journal, self._add = None, self._too_late
        self.flush = self.soon = _nothing

    def _too_late(self, record: Begun | OpenSpan | tuple[Any, ...]) -> None:
        self.late += 1
        if self.late == 1:
            log.warning(
                "run %s has ended, or is another process's: a %s is not recorded; open a run here",
                self.run_id, record[0] if isinstance(record, tuple) else "span",
            )  # fmt: skip

    def bodies(self) -> dict[str, bytes]:
        """Return what content is kept so far, by digest."""
        return {digest: body for digest, (_, body) in self._content.items()}

    def _said(self) -> dict[str, Any]:
        dropped = self.redactor.dropped
        return self.redactor.describe() | ({"fields_dropped": dropped} if dropped else {})

    def draft(self, manifest: dict[str, Any], *, salt_seed: bytes) -> Draft:
        """Return the pack's draft; `manifest` gains the run id, the redactor and the span count.

        What is still open, in a thread or a task that outlives the run, ends here as aborted.
        """
        spans, charges, lost = list(self._spans), list(self._costs), self.next_seq
        lost -= len(spans)
        still_open = [span for span in spans if not span.ended]
        for span in spans:
            self._clean(span)
        end_as_aborted(still_open, spans, simulated=manifest.get("simulated", False))
        if self.settle is not None:
            spans, charges = self.settle(spans, charges)
        aborted = sum(span.status == "aborted" for span in spans)
        counts = {
            "started": len(spans) + lost, "ended": len(spans) - aborted, "aborted": aborted,
            "dropped": lost,
        }  # fmt: skip
        return draft_of(
            {"run_id": self.run_id, "redactor": self._said(), "spans": counts}
            | manifest,
            spans=spans, charges=charges, tape=list(self._inputs),
            content=dict(self._content), salt_seed=salt_seed,
        )  # fmt: skip


def end_as_aborted(
    still_open: Sequence[OpenSpan], spans: Iterable[OpenSpan], *, simulated: bool
) -> int:
    """End what nobody will end as aborted, at the last thing known of its run; return that time.

    `spans` are all of the run.
    """
    last = max((span.start_mono_ns + span.duration_ns for span in spans), default=0)
    for span in still_open:
        span.ended, span.status = True, "aborted"
        span.duration_ns = max(0, last - span.start_mono_ns)
        span.fields["simulated"] = simulated
    return last


def draft_of(
    manifest: dict[str, Any], *, spans: Sequence[OpenSpan], charges: Sequence[Charge],
    tape: Sequence[tuple[Any, ...]], content: Mapping[str, tuple[str, bytes]], salt_seed: bytes,
) -> Draft:  # fmt: skip
    """Return the draft of a pack: what was recorded, as rows of the tables."""
    run_id = manifest["run_id"]
    return Draft(
        manifest=manifest,
        spans=[_span_row(run_id, span) for span in sorted(spans, key=lambda span: span.seq)],
        costs=[_cost_row(run_id, i, charge) for i, charge in enumerate(charges)],
        inputs=[(run_id, i, *row) for i, row in enumerate(tape)],
        content=[
            CONTENT.make(digest=digest, media_type=media, size=len(body), body=body)
            for digest, (media, body) in sorted(content.items())
        ],
        salt_seed=salt_seed,
    )


def _nowhere(record: Begun | OpenSpan | tuple[Any, ...]) -> None:
    """Take a record where there is no journal."""


def _nothing() -> None:
    """Flush where there is no journal."""


def _span_row(run_id: str, span: OpenSpan) -> Row:
    attributes, events = span.kept or (
        canonical_text(span.attributes), canonical_text(span.events),
    )  # fmt: skip
    return SPANS.make(
        run_id=run_id,
        span_id=span.span_id,
        parent_span_id=span.parent_span_id,
        seq=span.seq,
        name=span.name,
        kind=span.kind,
        gen_ai_operation_name=span.operation,
        start_unix_ns=span.start_unix_ns,
        duration_ns=span.duration_ns,
        status=span.status,
        attributes=attributes,
        events=events,
        **span.fields,
    )


def _cost_row(run_id: str, seq: int, charge: Charge) -> Row:
    usage, cost = charge.usage, charge.cost
    return COSTS.make(
        run_id=run_id,
        span_id=charge.span_id,
        seq=seq,
        purpose=charge.purpose,
        provider=charge.provider,
        model=charge.model,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_nanousd=cost.nanousd if cost else None,
        price_ref=cost.ref if cost else None,
        price_date=cost.date if cost else None,
        estimated=charge.estimated,
        wasted=charge.wasted,
        simulated=charge.simulated,
    )


# `tape` writes rows in the table's own order, after the run and the sequence number.
assert INPUTS.names == (  # noqa: S101  read once, when the module is loaded
    "run_id", "seq", "kind", "name", "span_id", "parent_path", "occurrence", "request_digest",
    "response_digest", "outcome", "start_offset_ns", "latency_ns", "chunks", "salt",
)  # fmt: skip

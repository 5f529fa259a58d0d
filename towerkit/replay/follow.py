"""The record of a replayed run: compared with the recording as it grows, and let go where equal.

Rule: a span whose number, parent, request, outcome, answer and charges are those of the recorded
span with its number is not kept: the pack has it. So an equal run takes no memory for its spans,
and what is kept is what differs. Of agents with several threads or tasks the numbers may differ:
their spans are kept, what was let go comes back out of the pack, and trees are compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from towerkit.core.canonical import canonical_json, fingerprint, ordered_json
from towerkit.packs.tables import COSTS, SPANS
from towerkit.privacy.redact import Redactor
from towerkit.replay.compare import (
    ASKED,
    BECAME,
    Span,
    charged,
)
from towerkit.replay.recording import Recording, of_columns
from towerkit.replay.tape import Tape
from towerkit.telemetry.recorder import Charge, OpenSpan, Recorder, span_id_of, span_number

_OWN = ("name", "kind", "gen_ai_operation_name", "status")
_FIELDS = tuple(c for c in (*ASKED, *BECAME) if c not in _OWN)
_COMPARED = of_columns(SPANS, (*_OWN, *_FIELDS))
_WHERE = of_columns(SPANS, ("parent_span_id", "duration_ns"))


class FollowingRecorder(Recorder):
    """A recorder that keeps of a replayed run what the recording has not got.

    `timed` says whether times are compared, now.
    """

    def __init__(
        self, run_id: str, redactor: Redactor, tape: Tape, *, timed: Callable[[], bool],
        lets_go: bool = True,
    ) -> None:  # fmt: skip
        """Start an empty record; with `lets_go` false every span is kept."""
        # With the ids of the recorded spans: most are then compared as they are.
        super().__init__(run_id, redactor, start_mono_ns=0, ids=tape.recording.first_id)
        self._tape, self._timed = tape, timed
        self._recording: Recording = tape.recording
        # Numbers are compared, so a recording that has lost spans is of no use here.
        self._lets_go = lets_go and self._recording.numbered
        self._redacted = self.redactor
        self._kept: dict[int, OpenSpan] = {}
        self._charged: dict[str, list[Charge]] = {}
        self._keep_span, self._keep_charge = self._take_span, self._take_charge
        self._taped = itertools.count()

    def _take_span(self, span: OpenSpan) -> None:
        self._kept[span.seq] = span

    def _take_charge(self, charge: Charge) -> None:
        self._charged.setdefault(charge.span_id, []).append(charge)

    def tape(self, *_: Any, **__: Any) -> None:
        """Count a row: the tape it would be on is there already."""
        next(self._taped)

    @property
    def inputs(self) -> int:
        """How many rows the replayed tape would have. Asked once, when the run is over."""
        return next(self._taped)

    def content(self, value: Any, *, ordered: bool = False) -> str | None:
        """Return the digest of content; what the recording has was redacted before it was kept."""
        redactor = self.redactor
        if redactor is self._redacted and redactor.capture == "redacted":
            text = issubclass(type(value), str)
            if text:
                body = str.__str__(value).encode("utf-8", "backslashreplace")
            else:
                body = (ordered_json if ordered else canonical_json)(value)
            digest = fingerprint(redactor.key, body)
            if self._recording.bodies.is_json(digest) is (not text):
                return digest
        kept = super().content(value, ordered=ordered)
        if kept is not None and kept in self._recording.bodies:
            self._content.pop(kept, None)
        return kept

    def end(self, span: OpenSpan, **how: Any) -> None:
        """End a span, and let it go where the recording has it."""
        super().end(span, **how)
        if self._lets_go and span.seq in self._kept and self._recorded(span):
            if span.kind == "call":
                self._tape.let_go(span.seq)
            self._charged.pop(span.span_id, None)
            del self._kept[span.seq]

    def _recorded(self, span: OpenSpan) -> bool:
        """Return whether the recorded span of this number is the same."""
        recording, fields = self._recording, span.fields
        if span.seq >= recording.count:
            return False
        place = recording.place(span.seq)
        row = recording.spans[place]
        mine = (span.name, span.kind, span.operation, span.status, *map(fields.get, _FIELDS))
        if mine != _COMPARED(row):
            return False
        parent, duration = _WHERE(row)
        above = span.parent_span_id
        if not (parent == above and recording.whole) and not self._same_place(parent, above):
            return False
        if duration != span.duration_ns and self._timed():
            return False
        if span.kind == "call":
            call = self._tape.claimed.get(span.seq)
            if call is None or recording.place_of_call(call) != place:
                return False
        charges = [_said(charge) for charge in self._charged.get(span.span_id, ())]
        return charges == recording.charges(place)

    def _same_place(self, recorded: str | None, replayed: str | None) -> bool:
        """Return whether a recorded span and a replayed one have one number."""
        if recorded is None or replayed is None:
            return recorded is replayed
        place, number = self._recording.place_of(recorded), span_number(replayed, self._ids)
        return number < self._recording.count and self._recording.place(number) == place

    # -- when the run is over --------------------------------------------------------------------

    @property
    def equal(self) -> bool:
        """Whether every span is the recorded one, and none is missing."""
        return not self._kept and self.next_seq == self._recording.count

    def sides(self) -> tuple[list[Span], list[Span]]:
        """Return all spans and charges, those that were let go out of the recording."""
        self._spans = list(self._kept.values())
        self._costs = [charge for charges in self._charged.values() for charge in charges]
        draft = self.draft({}, salt_seed=b"")
        spans = [dict(zip(SPANS.names, row, strict=False)) for row in draft.spans]
        costs = [dict(zip(COSTS.names, row, strict=False)) for row in draft.costs]
        for number, place in self.let_go().items():
            own = {"span_id": span_id_of(number, self._ids)}
            spans.append(self._again(place) | own | {"seq": number})
            costs += [row | own for row in self._recording.cost_rows(place)]
        return spans, costs

    def let_go(self) -> dict[int, int]:
        """Return the numbers of the spans that were let go, with the recorded ones."""
        gone = (n for n in range(self.next_seq) if n not in self._kept)
        return {number: self._recording.place(number) for number in gone}

    def _again(self, place: int) -> Span:
        """Return a recorded span below the replayed one that is its parent."""
        span = self._recording.compared(place)
        if span["parent_span_id"] is not None:
            above = self._recording.place_of(span["parent_span_id"])
            assert above is not None  # noqa: S101  it was compared
            span["parent_span_id"] = span_id_of(self._recording.number(above), self._ids)
        return span


def _said(charge: Charge) -> tuple[Any, ...]:
    """Return what is compared of a charge, in the order of `CHARGED`."""
    usage, cost = charge.usage, charge.cost
    row = (
        charge.provider, charge.model, usage.input_tokens, usage.output_tokens,
        None if cost is None else cost.nanousd, charge.estimated, charge.wasted,
    )  # fmt: skip
    return charged(row, estimated=charge.estimated)

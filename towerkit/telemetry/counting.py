"""Foreign spans beside our own: each model call counted once, and given its attempt.

Rule: tokens count where they were spent. Of two spans that tell of one model call the innermost has
them, and the guard's own record comes before both. The same spans come to the same rows, whether a
run was sealed or its journal recovered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from towerkit.core.env import derive_seed
from towerkit.cost.prices import price
from towerkit.telemetry import names
from towerkit.telemetry.foreign import COUNT_COLUMNS, cost_of, usage_in
from towerkit.telemetry.recorder import Charge, OpenSpan


def settle(
    spans: Sequence[OpenSpan], charges: Sequence[Charge], *, priced: bool
) -> tuple[list[OpenSpan], list[Charge]]:
    """Return spans and charges with each foreign model call counted once, and attempts made.

    `priced` looks costs up where the emitter did not say them. What is given stays as it is.
    """
    spans = [_own_copy(s) if is_foreign(s) else s for s in spans]
    foreign = [s for s in spans if is_foreign(s)]
    if not foreign:
        return list(spans), list(charges)
    inside = _with_usage_inside(spans)
    own = [s for s in spans if s.kind == "attempt" and s.operation == "chat"]
    counted: dict[str, OpenSpan] = {}
    out, paid, seq = list(spans), list(charges), max(s.seq for s in spans)
    # The latest to start first: of two spans that tell of one call the inner one is met first.
    for span in sorted(foreign, key=lambda s: (s.start_mono_ns, s.seq), reverse=True):
        model = span.kind == "call" and span.operation == "chat"
        if model:
            twin = _twin(span, own, counted)
            if twin is not None or (span.span_id in inside and _reports(span)):
                span.kind = "step"
                span.attributes |= {} if twin is None else {names.SAME_AS: twin.span_id}
                continue
        if span.kind == "call":
            seq += 1
            made = _attempt(span, seq)
            out.append(made)
            if model:
                counted.setdefault(str(span.fields.get("gen_ai_response_id")), span)
                paid.append(_charge(made, span, priced=priced))
        elif _reports(span) and span.span_id not in inside:
            paid.append(_charge(span, span, priced=priced))
    return out, paid


def is_foreign(span: OpenSpan) -> bool:
    """Return whether another library's span stands behind this one."""
    return names.FOREIGN in span.attributes and names.KIND not in span.attributes


def _own_copy(span: OpenSpan) -> OpenSpan:
    return msgspec.structs.replace(span, fields=dict(span.fields), attributes=dict(span.attributes))


def _reports(span: OpenSpan) -> bool:
    return any(span.fields.get(c) is not None for c in COUNT_COLUMNS[:2])


def _with_usage_inside(spans: Sequence[OpenSpan]) -> set[str]:
    """Return the ids of spans that have a model call with tokens below them."""
    parents = {s.span_id: s.parent_span_id for s in spans}
    found: set[str] = set()
    for span in spans:
        if not _reports(span) or span.operation != "chat":
            continue
        above = parents.get(span.span_id)
        while above is not None and above not in found:
            found.add(above)
            above = parents.get(above)
    return found


def _twin(
    span: OpenSpan, own: Sequence[OpenSpan], counted: Mapping[str, OpenSpan]
) -> OpenSpan | None:
    """Return the span that has the same model call: by the answer's id, else by time and tokens.

    Without an id, one that lies within the other in time and ended alike, to the token, is it.
    """
    answer = span.fields.get("gen_ai_response_id")
    if answer is not None and answer in counted:
        return counted[answer]
    for other in own:
        theirs = other.fields.get("gen_ai_response_id")
        if answer is not None and theirs is not None:
            if answer == theirs:
                return other
        elif _within(span, other) and _alike(span, other):
            return other
    return None


def _within(a: OpenSpan, b: OpenSpan) -> bool:
    inner, outer = sorted((a, b), key=lambda s: s.duration_ns)
    return (
        outer.start_mono_ns <= inner.start_mono_ns
        and inner.start_mono_ns + inner.duration_ns <= outer.start_mono_ns + outer.duration_ns
    )


def _alike(a: OpenSpan, b: OpenSpan) -> bool:
    if a.status != b.status:
        return False
    counts = [[s.fields.get(c) for c in COUNT_COLUMNS[:2]] for s in (a, b)]
    return counts[0] == counts[1] or counts[0] == [None, None]


def _attempt(call: OpenSpan, seq: int) -> OpenSpan:
    """Return the one attempt of a foreign call; the numbers move to where they were spent."""
    fields = {**call.fields, "attempt": 1}
    for column in ("response_digest", *COUNT_COLUMNS):
        call.fields.pop(column, None)
    return OpenSpan(
        f"{derive_seed('attempt', call.span_id) or 1:016x}", call.span_id, seq, call.name,
        "attempt", call.operation, call.start_unix_ns, call.start_mono_ns, fields,
        {names.FOREIGN: call.attributes[names.FOREIGN]}, (), ended=True,
        duration_ns=call.duration_ns, status=call.status,
    )  # fmt: skip


def _charge(charged: OpenSpan, span: OpenSpan, *, priced: bool) -> Charge:
    usage = usage_in(charged.fields)
    model = charged.fields.get("gen_ai_response_model") or charged.fields.get(
        "gen_ai_request_model"
    )
    provider = charged.fields.get("gen_ai_provider_name")
    cost = cost_of(span.attributes)
    if cost is None and priced and model is not None:
        cost = price(usage, model=model, provider=provider, at_unix_ns=span.start_unix_ns)
    if cost is not None and usage.input_tokens is None and usage.output_tokens is None:
        cost = None if cost.nanousd == 0 else cost
    return Charge(
        charged.span_id, usage, cost, provider, model, "agent", estimated=False,
        wasted=span.status != "ok", simulated=False,
    )  # fmt: skip

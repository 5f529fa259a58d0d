"""Comparing a replayed run with its recording, as trees.

Rule: equal means the same spans under the same parents with the same outcomes, requests, answers
and charges. Siblings are in the same order where they followed each other, and in any where the
agent has several threads or tasks. Times are compared only where the recorded clock was virtual and
there was one: a real clock is not the agent's doing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import SequenceMatcher
from operator import itemgetter
from typing import Any

import msgspec

# What a span asks, known when it starts, and what became of it, known when it ends.
ASKED = (
    "name", "kind", "gen_ai_operation_name", "attempt", "gen_ai_request_model",
    "gen_ai_tool_name", "idempotent", "request_digest",
)  # fmt: skip
BECAME = (
    "status", "error_class", "error_type", "fallback_tier", "fallback_reason",
    "gen_ai_provider_name", "gen_ai_response_model", "gen_ai_response_finish_reason",
    "gen_ai_usage_input_tokens", "gen_ai_usage_output_tokens", "response_digest",
)  # fmt: skip
CHARGED = (
    "provider", "model", "input_tokens", "output_tokens", "cost_nanousd", "estimated", "wasted",
)  # fmt: skip
WHERE = ("span_id", "parent_span_id", "seq", "duration_ns")
SPAN_COLUMNS = (*WHERE, *ASKED, *BECAME)
COST_COLUMNS = ("span_id", "seq", *CHARGED)
_ESTIMATES = {"input_tokens", "output_tokens", "cost_nanousd"}


def charged(row: tuple[Any, ...], *, estimated: bool) -> tuple[Any, ...]:
    """Return what is compared of a charge: an estimate is made of the text before redaction."""
    if not estimated:
        return row
    return tuple(None if c in _ESTIMATES else v for c, v in zip(CHARGED, row, strict=True))


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """Where a replayed run first left its recording. A side is redacted text, or None.

    `nearest` says which recorded request is most like the one that was made.
    """

    seq: int
    span: str
    field: str
    recorded: str | None
    replayed: str | None
    reason: str
    nearest: str | None = None


Span = dict[str, Any]
Bodies = Mapping[str, bytes]
_AROUND = 40  # characters of context before the first that differs
_LIKE = 2_000  # characters of a request that are compared to find the nearest


class Side:
    """One of two runs: its spans as a tree, its charges, its content.

    `place` says where a call stands among its siblings. Where calls ran side by side that is where
    their recorded twins stand, on both sides; else it is the order in which spans began.
    """

    def __init__(
        self, spans: Sequence[Span], costs: Sequence[Span], bodies: Bodies, *,
        place: Callable[[Span], int | None] | None = None,
    ) -> None:  # fmt: skip
        """Take rows with `SPAN_COLUMNS` and `COST_COLUMNS`."""
        self.spans = sorted(spans, key=itemgetter("seq"))
        self.bodies = bodies
        self.children: dict[str | None, list[Span]] = {}
        self.charges: dict[str, list[tuple[Any, ...]]] = {}
        for cost in sorted(costs, key=itemgetter("seq")):
            row = charged(tuple(cost[c] for c in CHARGED), estimated=cost["estimated"])
            self.charges.setdefault(cost["span_id"], []).append(row)
        for span in self.spans:
            self.children.setdefault(span["parent_span_id"], []).append(span)
        self._prints: dict[str, int] = {}
        if place is not None:
            self._place(place)

    def _place(self, place: Callable[[Span], int | None]) -> None:
        """Order siblings by the first call in each; those without any come last, by their names."""
        first: dict[str | None, tuple[int, str, int]] = {}
        for span in reversed(self.spans):  # what is inside comes later than what it is inside of
            call = span["kind"] == "call"
            own = place(span) if call else None
            rank = 2 if call else 1  # a call that has no twin is one too many: last of all
            unplaced = first.get(span["span_id"], (rank, span["name"], span["seq"]))
            key = (0, "", own) if own is not None else unplaced
            first[span["span_id"]] = key
            above = span["parent_span_id"]
            first[above] = min(first.get(above, key), key)
        for siblings in self.children.values():
            if siblings[0]["kind"] != "attempt":
                siblings.sort(key=lambda s: first[s["span_id"]])

    def print_of(self, span: Span) -> int:
        """Return a hash over all that is compared of a span and of what it contains."""
        known = self._prints.get(span["span_id"])
        if known is None:
            own = tuple(span[f] for f in (*ASKED, *BECAME))
            inner = tuple(self.print_of(c) for c in self.children.get(span["span_id"], ()))
            known = hash((own, tuple(self.charges.get(span["span_id"], ())), inner))
            self._prints[span["span_id"]] = known
        return known


def first_difference(recorded: Side, replayed: Side, *, timed: bool) -> Divergence | None:
    """Return the first difference in the order of the recorded run; None where the runs are equal.

    `timed`: the clock was virtual and nothing ran side by side, so times are compared too.
    """
    if not timed and _same(recorded, replayed):
        return None
    became = (*BECAME, "duration_ns") if timed else BECAME
    return _Walk(recorded, replayed, became).below(None, None, None)


def _same(old: Side, new: Side) -> bool:
    """Return whether trees are equal: most are, and it is quick."""
    roots = [[side.print_of(s) for s in side.children.get(None, ())] for side in (old, new)]
    return roots[0] == roots[1]


class _Walk:
    """One comparison."""

    def __init__(self, old: Side, new: Side, became: tuple[str, ...]) -> None:
        self._old, self._new, self._became = old, new, became

    def below(
        self, old_id: str | None, new_id: str | None, inside: Span | None
    ) -> Divergence | None:
        """Compare what two spans contain."""
        mine = self._old.children.get(old_id, [])
        theirs = self._new.children.get(new_id, [])
        for old, new in zip(mine, theirs, strict=False):
            found = self._pair(old, new)
            if found is not None:
                return found
        ends = "nothing" if inside is None else f"{inside['name']} ends"
        if len(mine) > len(theirs):
            missing = mine[len(theirs)]
            return plain("what happens", missing, f"{missing['name']} starts", ends)
        if len(theirs) > len(mine):
            more = theirs[len(mine)]
            return plain("what happens", inside or more, ends, f"{more['name']} starts")
        return None

    def _pair(self, old: Span, new: Span) -> Divergence | None:
        for field in ASKED:
            if old[field] != new[field]:
                return self._difference(field, old, new)
        inner = self.below(old["span_id"], new["span_id"], old)
        if inner is not None:
            return inner
        for field in self._became:
            if old[field] != new[field] and not self._same_text(field, old, new):
                return self._difference(field, old, new)
        charges = [side.charges.get(span["span_id"], []) for side, span in
                   ((self._old, old), (self._new, new))]  # fmt: skip
        if charges[0] != charges[1]:
            return plain("charges", old, charges[0], charges[1])
        return None

    def _same_text(self, field: str, old: Span, new: Span) -> bool:
        """Return whether two streams said the same in other pieces: redaction joins pieces."""
        if field != "response_digest" or None in {old[field], new[field]}:
            return False
        sides = [_json(self._old.bodies.get(old[field])), _json(self._new.bodies.get(new[field]))]
        for side in sides:
            if not isinstance(side, dict) or not isinstance(side.get("pieces"), list):
                return False
            side["pieces"] = "".join(side["pieces"])
        return bool(sides[0] == sides[1])

    def _difference(self, field: str, old: Span, new: Span) -> Divergence:
        if not field.endswith("_digest") or old[field] is None or new[field] is None:
            return plain(field, old, old[field], new[field])
        where, left, right = first_text_difference(
            expanded(self._old.bodies, old[field]), expanded(self._new.bodies, new[field])
        )
        what = field.removesuffix("_digest")
        near = None
        if what == "request":
            near = nearest(self._old, old, expanded(self._new.bodies, new[field]), new[field])
        return Divergence(
            seq=old["seq"], span=old["name"], field=what, recorded=left, replayed=right,
            reason=f"the {what} differs in {where}", nearest=near,
        )  # fmt: skip


def plain(field: str, span: Mapping[str, Any], recorded: Any, replayed: Any) -> Divergence:
    """Return a divergence in a field whose values are short."""
    sides = [None if side is None else str(side) for side in (recorded, replayed)]
    return Divergence(
        seq=span["seq"], span=span["name"], field=field, recorded=sides[0], replayed=sides[1],
        reason=f"the first difference is {field}",
    )  # fmt: skip


def twins(
    recorded: Sequence[Span], old: Bodies, replayed: Sequence[Span], new: Bodies
) -> dict[int, int]:
    """Return which recorded call each replayed one that found no answer was, by their numbers.

    Of one kind and in steps of one name (`inside`), the most alike: first in what was said last,
    then in everything before it.
    """
    left = [(span, expanded(old, str(span["request_digest"]))) for span in recorded]
    found: dict[int, int] = {}
    for span in replayed:
        parts = expanded(new, str(span["request_digest"]))

        def alike(one: tuple[Span, Parts], span: Span = span, parts: Parts = parts) -> float:
            other = one[0]
            tool = other["gen_ai_tool_name"] is None, span["gen_ai_tool_name"] is None
            if tool[0] != tool[1] or other["inside"] != span["inside"]:
                return -1.0
            named = 0.5 if other["name"] == span["name"] else 0.0
            return (
                named
                + 2 * _ratio(_said(one[1]), _said(parts))
                + _ratio(_whole(one[1]), _whole(parts))
            )

        best = max(left, key=alike, default=None)
        if best is not None and alike(best) >= 0:
            left = [one for one in left if one is not best]
            found[span["seq"]] = best[0]["seq"]
    return found


def _said(parts: Parts) -> str:
    messages = [text for where, text in parts if where.startswith("message")]
    return (messages or [_whole(parts)])[-1][-_LIKE:]


def _whole(parts: Parts) -> str:
    return "".join(text for _, text in parts)[-_LIKE:]


def _ratio(one: str, other: str) -> float:
    return 1.0 if one == other else float(SequenceMatcher(a=one, b=other, autojunk=False).ratio())


# -- texts -----------------------------------------------------------------------------------------

Parts = list[tuple[str, str]]


def nearest(recorded: Side, here: Span, asked: Parts, digest: str) -> str | None:
    """Say which recorded request of the same kind is most like one that was made."""
    calls = [
        s for s in recorded.spans
        if s["kind"] == "call" and s["request_digest"] is not None
        and (s["gen_ai_tool_name"] is None) == (here["gen_ai_tool_name"] is None)
    ]  # fmt: skip
    same = next((s for s in calls if s["request_digest"] == digest), None)
    if same is not None:
        return f"the same request is recorded at span {same['seq']} ({same['name']})"
    text = "".join(part for _, part in asked)[-_LIKE:]
    matcher = SequenceMatcher(a="", b=text, autojunk=False)
    best: tuple[float, Span, Parts] | None = None
    for span in calls[:200]:
        parts = expanded(recorded.bodies, span["request_digest"])
        matcher.set_seq1("".join(part for _, part in parts)[-_LIKE:])
        score = matcher.quick_ratio() + (0.001 if span is here else 0.0)
        if best is None or score > best[0]:
            best = (score, span, parts)
    if best is None:
        return None
    _, span, parts = best
    where, _, _ = first_text_difference(parts, asked)
    return (
        f"the nearest recorded request is at span {span['seq']} ({span['name']}): {where} differs"
    )


def _json(body: bytes | None) -> Any:
    try:
        return None if body is None else msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def expanded(bodies: Bodies, digest: str) -> Parts:
    """Return content as (part, text): a request by message, a tool's by argument, else whole."""
    body = bodies.get(digest, b"")
    value = _json(body)
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        messages = value.pop("messages")
        parts = [
            (f"message {i}", bodies.get(str(m), b"").decode("utf-8", "replace"))
            for i, m in enumerate(messages)
        ]
        return [*parts, ("its options", msgspec.json.encode(value).decode())]
    if isinstance(value, dict) and isinstance(value.get("arguments"), dict) and "tool" in value:
        arguments = value["arguments"].items()
        named = [(f"argument {k!r}", f'{{"{k}":{_text(v)}}}') for k, v in arguments]
        return [("the tool's name", str(value["tool"])), *named]
    return [("its text" if value is None else "its content", body.decode("utf-8", "replace"))]


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def first_text_difference(old: Parts, new: Parts) -> tuple[str, str, str]:
    """Return where two contents first differ, and both sides around it."""
    for (where, left), (other, right) in zip(old, new, strict=False):
        if where != other:
            return f"{where}, which is {other} now", left[:100], right[:100]
        if left != right:
            pairs = enumerate(zip(left, right, strict=False))
            at = next((i for i, (a, b) in pairs if a != b), min(len(left), len(right)))
            start = max(0, at - _AROUND)
            return f"{where}, character {at}", left[start : at + 60], right[start : at + 60]
    longer = (old if len(old) > len(new) else new)[min(len(old), len(new)) :]
    said = longer[0][0] if longer else "nothing"
    return f"the number of parts ({said})", str(len(old)), str(len(new))

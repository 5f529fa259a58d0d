"""What attempts of a record cost, at the prices of their own day or of another.

Rule: an attempt that is in the record costs what its usage costs. One that is not is bounded by
what the guard would have reserved for it, which is a function of the request; where redaction took
something out of the request, its size is an interval.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from towerkit.core.canonical import canonical_json
from towerkit.core.types import Usage
from towerkit.cost.prices import price
from towerkit.cost.tokens import BYTES_A_TOKEN, FRAME, MESSAGE, TOOLS_FRAME
from towerkit.whatif.bounds import ZERO, Bounds
from towerkit.whatif.record import Call, Charge, Record, Try

# What redaction leaves in the place of a value, and the most bytes it can have stood for: an
# address of 320 is the longest of the personal classes, a key or a token may be much longer.
_TOKEN = re.compile(rb"<([A-Z][A-Z0-9_ ]*):[^<>]{1,80}>")
_LONG = re.compile(rb"KEY|TOKEN|SECRET|JWT|PASSWORD|CREDENTIAL|REDACTED")
_MOST, _MOST_SECRET = 320, 8192


class Size(msgspec.Struct, frozen=True):
    """A request's input tokens: what the guard's bound lies between, and the likely number.

    `max_tokens` are the output tokens it allows.
    """

    low: int
    high: int
    likely: int
    max_tokens: int


class Money:
    """Prices the attempts of one record. `at_unix_ns` None is the day on which they were made."""

    def __init__(self, record: Record, at_unix_ns: int | None) -> None:
        """Price nothing yet."""
        self._record, self._at = record, at_unix_ns
        self._sizes: dict[str, Size | None] = {}

    def of_try(self, tried: Try) -> Bounds:
        """Return what a recorded attempt is charged; without an upper end where that is unknown."""
        return self._of(tried.charges, self._record.started_ns + tried.start_ns)

    def _of(self, charges: tuple[Charge, ...], made_ns: int) -> Bounds:
        low, known = 0, True
        for charge in charges:
            cost = charge.nanousd if self._at is None else self._again(charge, made_ns, self._at)
            low, known = low + (cost or 0), known and cost is not None
        return Bounds(low, low if known else None)

    @staticmethod
    def _again(charge: Charge, made_ns: int, at_ns: int) -> int | None:
        """Return a charge at another day's prices; None where its own day's are not what it cost.

        Then it was priced by something that a pack does not keep, and that has no price here.
        """
        if charge.model is None:
            return None
        then, now = (
            price(charge.usage, model=charge.model, provider=charge.provider, at_unix_ns=at)
            for at in (made_ns, at_ns)
        )
        if charge.nanousd is not None and (then is None or then.nanousd != charge.nanousd):
            return None
        return None if now is None else now.nanousd

    def size(self, call: Call) -> Size | None:
        """Return how large a model call's request is; None where the pack does not keep it."""
        if call.request is None:
            return None
        if call.request not in self._sizes:
            self._sizes[call.request] = self._measure(call.request)
        return self._sizes[call.request]

    def _measure(self, digest: str) -> Size | None:
        body = self._body(digest)
        if not isinstance(body, dict) or not isinstance(body.get("messages"), list):
            return None
        bodies = [self._record.bodies.get(d) for d in body["messages"]]
        if None in bodies or body.get("max_tokens") is None:
            return None
        parts = [b for b in bodies if b is not None]
        tools = canonical_json(body.get("tools") or [])
        # [[message,message],tools]: two pairs of brackets, and the commas between.
        length = sum(map(len, parts)) + max(0, len(parts) - 1) + 2 + len(tools) + 3
        # The guard's bound depends on what it had learnt of the model's tokens by then: at most a
        # token a byte and what frames it, at least nothing.
        most = length + _taken_out([*parts, tools]) + FRAME + TOOLS_FRAME + MESSAGE * len(parts)
        return Size(0, most, round(length / BYTES_A_TOKEN), int(body["max_tokens"]))

    def _body(self, digest: str) -> Any:
        raw = self._record.bodies.get(digest)
        return None if raw is None else msgspec.json.decode(raw)

    def worst(self, call: Call, key: str) -> Bounds | None:
        """Return what the guard reserves for an attempt on `key`; None where that is unknown.

        A model without a known price reserves nothing.
        """
        if call.operation == "tool":
            return ZERO
        size = self.size(call)
        if size is None:
            return None
        low = self._priced(call, key, size.low, size.max_tokens)
        high = self._priced(call, key, size.high, size.max_tokens)
        return ZERO if low is None or high is None else Bounds(low, high)

    def reserved(self, call: Call) -> bool:
        """Return whether no recorded attempt of a call was charged more than is reserved for it."""
        for tried in call.tries:
            worst, cost = self.worst(call, tried.key), self.of_try(tried)
            if cost.high is None or worst is None or worst.high is None or cost.low > worst.high:
                return False
        return True

    def of_cut(self, call: Call, key: str) -> Bounds:
        """Return what an attempt is charged that is cut before it answers: its estimated input."""
        if call.operation == "tool":
            return ZERO
        size = self.size(call)
        ends = (None, None) if size is None else (
            self._priced(call, key, size.low, 0), self._priced(call, key, size.high, 0),
        )  # fmt: skip
        return Bounds(ends[0] or 0, ends[1])

    def likely(self, call: Call, key: str) -> int | None:
        """Return what a live attempt would likely cost: this call's usage at the price of `key`."""
        if call.operation == "tool":
            return 0
        usage = next(
            (c.usage for t in reversed(call.tries) for c in t.charges
             if c.usage.output_tokens), None,
        )  # fmt: skip
        size = self.size(call)
        if usage is None and size is None:
            return None
        tokens_in = usage.input_tokens if usage is not None else None
        tokens_out = usage.output_tokens if usage is not None else None
        if size is not None:
            tokens_in = size.likely if tokens_in is None else tokens_in
            tokens_out = size.max_tokens if tokens_out is None else tokens_out
        return self._priced(call, key, tokens_in, tokens_out)

    def _priced(
        self, call: Call, key: str, tokens_in: int | None, tokens_out: int | None
    ) -> int | None:
        provider, _, model = key.partition("/")
        at = self._record.started_ns + call.start_ns if self._at is None else self._at
        usage = Usage(input_tokens=tokens_in, output_tokens=tokens_out)
        found = price(usage, model=model, provider=provider, at_unix_ns=at)
        return None if found is None else found.nanousd

    def loose(self) -> Bounds:
        """Return what the run was charged outside of guarded calls."""
        return self._of(self._record.loose, self._record.started_ns)


def _taken_out(parts: list[bytes]) -> int:
    """Return by how many bytes a request may have been longer than what is kept of it."""
    most = 0
    for part in parts:
        for token in _TOKEN.finditer(part):
            most += _MOST_SECRET if _LONG.search(token[1]) else _MOST
    return most

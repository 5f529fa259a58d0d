"""The tape as a provider: every attempt of the replayed run is answered from the recording.

Rule: an attempt is answered by the recorded one with the same kind, name, path, request digest and
occurrence, and by nothing else. Errors come back as the type they were, with the text they had.
"""

from __future__ import annotations

import builtins
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import msgspec

from towerkit.core import errors
from towerkit.core.env import VirtualEnv
from towerkit.core.errors import ControlError, ReplayDiverged
from towerkit.core.types import Response
from towerkit.cost.budget import Shortage
from towerkit.packs.store import Pack
from towerkit.reliability.breaker import Breaker, Refusal, RetryBudget
from towerkit.runtime.executor import Attempt


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """Where a replayed run first left its recording. A side is redacted text, or None."""

    seq: int
    span: str
    field: str
    recorded: str | None
    replayed: str | None
    reason: str


class Tape:
    """An `Executor` over a pack. `divergence` is the first request the tape could not answer."""

    enforces = False

    def __init__(
        self, pack: Pack, env: VirtualEnv, *, exceptions: Mapping[str, type[BaseException]]
    ) -> None:
        """Read the pack's tape; `exceptions` are the agent's own types, by name."""
        self._pack, self._env = pack, env
        self._types = {**_library_exceptions(), **exceptions}
        spans = pack.frame("spans")
        self._spans = {row["span_id"]: row for row in spans.iter_rows(named=True)}
        self._rows: dict[tuple[str, str, str, str | None], list[dict[str, Any]]] = {}
        for row in pack.frame("inputs").sort("seq").iter_rows(named=True):
            key = (row["kind"], row["name"], row["parent_path"], row["request_digest"])
            self._rows.setdefault(key, []).append(row)
        self.divergence: Divergence | None = None

    def task(self) -> Any:
        """Return the recorded task, redacted."""
        row = self._rows[("task", "task", "", None)].pop(0)
        return (
            None if row["response_digest"] is None else self._pack.content(row["response_digest"])
        )

    def left_over(self) -> int:
        """Return how many recorded inputs the replayed run did not ask for."""
        return sum(len(rows) for rows in self._rows.values())

    def attempt(self, what: Attempt, call: Callable[[], Any]) -> Any:  # noqa: ARG002  never called
        """Return or raise what the recorded attempt did."""
        row = self._next(what.kind, what.name, what.path, what.request_digest, what.span_seq)
        self._env.advance_to(row["start_offset_ns"] + row["latency_ns"])
        failed = row["outcome"] != "ok"
        if what.stream:
            return self._stream(row)
        if failed:
            raise self._error(self._spans[row["span_id"]])
        value = self._pack.content(row["response_digest"])
        return msgspec.convert(value, Response) if what.kind == "model" else value["result"]

    async def aattempt(self, what: Attempt, call: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ARG002
        """Return or raise what the recorded attempt did."""
        return self.attempt(what, lambda: None)

    def admit(self, what: Attempt, breaker: Breaker, now_ns: int) -> Refusal | Shortage | None:  # noqa: ARG002  never asked
        """Return the recorded refusal, if the recorded call was refused here."""
        rows = self._rows.get((what.kind, what.name, what.path, what.request_digest))
        if not rows or rows[0]["outcome"] not in {"circuit_open", "throttled_locally"}:
            return self.short(what)
        row = rows.pop(0)
        wait = self._pack.content(row["response_digest"])["wait_s"]
        return Refusal(error_class=row["outcome"], wait_s=wait)

    def short(self, what: Attempt) -> Shortage | None:
        """Return the recorded refusal of the budget, if one was here: a row of a call's span."""
        rows = self._rows.get((what.kind, what.name, what.path, what.request_digest))
        if not rows or rows[0]["outcome"] != "budget_exceeded":
            return None
        if self._spans[rows[0]["span_id"]]["kind"] != "call":
            return None  # what an attempt ended with
        said = self._pack.content(rows.pop(0)["response_digest"])
        return msgspec.convert(said, Shortage)

    def granted(self, what: Attempt, budget: RetryBudget, cost: int) -> int:  # noqa: ARG002  never asked
        """Return 0 where the retry budget refused the recorded run, else 1."""
        return 0 if self._noted("retry_budget", what) else 1

    def renewed(self, what: Attempt, renew: Callable[[], object]) -> bool:  # noqa: ARG002  never called
        """Return what came of it in the recorded run."""
        row = self._noted("renew", what)
        return row is not None and bool(self._pack.content(row["response_digest"]))

    def _noted(self, name: str, what: Attempt) -> dict[str, Any] | None:
        """Return the row of something that happened to the recorded run at this attempt."""
        rows = self._rows.get(("random", f"{name} {what.span_seq}", what.path, None))
        return rows.pop(0) if rows else None

    def reading(self, kind: str, name: str, path: str, read: Callable[[], Any]) -> Any:  # noqa: ARG002
        """Return the recorded reading."""
        row = self._next(kind, name, path, None, -1)
        self._env.advance_to(row["start_offset_ns"])
        return self._pack.content(row["response_digest"])

    def _stream(self, row: dict[str, Any]) -> Iterator[str | Response]:
        value = self._pack.content(row["response_digest"])
        if row["outcome"] != "ok" and not value["pieces"]:
            raise self._error(self._spans[row["span_id"]])
        return self._pieces(row, value)

    def _pieces(self, row: dict[str, Any], value: dict[str, Any]) -> Iterator[str | Response]:
        yield from value["pieces"]
        if row["outcome"] != "ok":
            raise self._error(self._spans[row["span_id"]])
        yield msgspec.convert(value["response"], Response)

    def _next(
        self, kind: str, name: str, path: str, digest: str | None, seq: int
    ) -> dict[str, Any]:
        rows = self._rows.get((kind, name, path, digest))
        if self.divergence is None and rows:
            return rows.pop(0)
        if self.divergence is None:
            self.divergence = Divergence(
                seq=seq,
                span=f"{kind} {name}",
                field="request_digest",
                recorded=None,
                replayed=digest,
                reason=f"the tape holds no {kind} call {name!r} with this request here",
            )
        raise ReplayDiverged(self.divergence.reason)

    def _error(self, span: dict[str, Any]) -> BaseException:
        """Rebuild an exception: the type by name, the text as recorded, no constructor run."""
        name, text = str(span["error_type"]), span["error_message"] or ""
        base = self._types.get(name.rpartition(".")[2], ControlError)
        # `__qualname__` decides how the error is classified again; `__str__` what the agent reads.
        recorded: Any = type(name, (base,), {"__str__": lambda _: text, "__qualname__": name})
        error: BaseException = recorded.__new__(recorded)
        if isinstance(error, ControlError):
            error.error_class = span["error_class"]
            wait = msgspec.json.decode(span["attributes"]).get("retry_after_s")
            error.retry_after_s = wait
        return error


def _library_exceptions() -> dict[str, type[BaseException]]:
    return {
        name: value
        for module in (builtins, errors)
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }

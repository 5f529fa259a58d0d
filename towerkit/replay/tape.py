"""The tape as a provider: every attempt of the replayed run is answered from the recording.

Rule: an attempt is answered by the recorded one of the same call and by nothing else. Errors come
back as the type they were, with the text they had; budgets and deadlines refuse what they refused,
because a replay's requests are redacted and their estimates with them.
"""

from __future__ import annotations

import asyncio
import threading
from asyncio import CancelledError
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import msgspec

from towerkit.core.env import VirtualEnv
from towerkit.core.errors import ReplayDiverged
from towerkit.core.types import Response
from towerkit.cost.budget import Shortage
from towerkit.packs.store import Pack
from towerkit.reliability.breaker import Breaker, Permit, Refusal, RetryBudget
from towerkit.reliability.taxonomy import TAXONOMY
from towerkit.replay.compare import Divergence
from towerkit.replay.recording import RecordedCall, Recording, Row
from towerkit.replay.turns import Turns
from towerkit.runtime.calls import cut
from towerkit.runtime.executor import Attempt


class Tape:
    """An `Executor` over a pack. `divergence` is the first request the tape could not answer."""

    enforces = False

    def __init__(
        self, pack: Pack, env: VirtualEnv, *, exceptions: Mapping[str, type[BaseException]]
    ) -> None:
        """Read the pack's tape; `exceptions` are the agent's own types, by name."""
        self.recording = Recording(pack, exceptions=exceptions)
        self.turns = Turns(env, self.recording.ends)
        for seq in self.recording.inner:
            self.turns.done(seq)  # nobody asks for it, so nobody waits for it
        root = self.recording.root
        self.turns.cancelled_run = root is not None and root["status"] == "cancelled"
        self._env = env
        self.claimed: dict[int, RecordedCall] = {}
        # Which threads and tasks asked for anything, and how far the calls of each had come.
        self.lanes: set[object] = set()
        self._reached: dict[object, tuple[int, RecordedCall]] = {}
        self.disorder: Divergence | None = None
        self.divergence: Divergence | None = None

    def task(self) -> Any:
        """Return the recorded task, redacted."""
        row = self.recording.reading("task", "task", "")
        if row is None:
            return None
        self.turns.done(row["seq"])
        return self.recording.content(row["response_digest"])

    def claimed_as(self, number: int) -> int | None:
        """Return the span number of the replayed call that a recorded call answers, if one is."""
        return next((seq for seq, c in self.claimed.items() if c.number == number), None)

    def let_go(self, seq: int) -> None:
        """Forget a replayed call that is over, and equal to the recorded one."""
        if not self.claimed[seq].left:
            del self.claimed[seq]

    def left_over(self) -> int:
        """Return how many recorded calls and readings the replayed run did not ask for."""
        return self.recording.unasked(self.claimed.values())

    # -- the executor ------------------------------------------------------------------------------

    def attempt(self, what: Attempt, call: Callable[[], Any]) -> Any:
        """Return or raise what the recorded attempt did."""
        row = self._row(what)
        self.turns.wait(row["seq"])
        return self._came(what, row, call)

    async def aattempt(self, what: Attempt, call: Callable[[], Awaitable[Any]]) -> Any:
        """Return or raise what the recorded attempt did, in its turn."""
        row = self._row(what)
        if row["outcome"] == "cancelled" and not self._pieces(what, row):
            await self.turns.never(row["seq"], row["start_offset_ns"] + row["latency_ns"])
        await self.turns.await_turn(row["seq"], row["start_offset_ns"] + row["latency_ns"])
        if what.on_the_wire:
            self._came(what, row, lambda: None)
            return await call()
        came = self._came(what, row, lambda: None)
        return self._apieces(came, row) if what.stream and row["outcome"] == "cancelled" else came

    def admit(
        self, what: Attempt, breaker: Breaker, now_ns: int  # noqa: ARG002  never asked
    ) -> Permit | Refusal | Shortage | None:  # fmt: skip
        """Return the recorded refusal, or raise it, where the recorded call was refused here."""
        call = self.claimed.get(what.span_seq)
        if call is None:
            call = self._claim(what)
        row = call.peek()
        if row is None:
            raise self._no_more(call, what)
        if row["span_id"] != call.span_id:
            return None
        if row["outcome"] == "budget_exceeded":
            return self._shortage(call)
        call.take()
        self.turns.done(row["seq"])
        wait = self.recording.content(row["response_digest"])["wait_s"]
        return Refusal(error_class=row["outcome"], wait_s=wait)

    def short(self, what: Attempt) -> Shortage | None:
        """Return the recorded refusal of the budget, if one follows: a row of a call's span."""
        call = self.claimed[what.span_seq]
        row = call.peek()
        if row is None or row["outcome"] != "budget_exceeded":
            return None
        return self._shortage(call) if row["span_id"] == call.span_id else None

    def _shortage(self, call: RecordedCall) -> Shortage:
        row = call.take()
        self.turns.done(row["seq"])
        return msgspec.convert(self.recording.content(row["response_digest"]), Shortage)

    def granted(self, what: Attempt, budget: RetryBudget, cost: int) -> int:  # noqa: ARG002  never asked
        """Return 0 where the retry budget refused the recorded run, else 1."""
        call = self.claimed[what.span_seq]
        task = _lane()
        if isinstance(task, asyncio.Task):
            # Cancelled while it waited: whoever did that does it again.
            self.turns.doomed.pop(task, None)
            if call.peek() is None and call.span["status"] == "cancelled":
                ended = self.recording.began(call) + call.span["duration_ns"]
                self.turns.doomed[task] = ended
        return 0 if self._noted("retry_budget", what, 0) else 1

    def renewed(self, what: Attempt, renew: Callable[[], object]) -> bool:  # noqa: ARG002  never called
        """Return what came of it in the recorded run."""
        # Packs of towerkit 0.1 that are older count one further here.
        row = self._noted("renew", what, 0) or self._noted("renew", what, 1)
        return row is not None and bool(self.recording.content(row["response_digest"]))

    def reading(self, kind: str, name: str, path: str, read: Callable[[], Any]) -> Any:  # noqa: ARG002
        """Return the recorded reading."""
        self.lanes.add(_lane())
        row = self.recording.reading(kind, name, path)
        if row is None:
            raise self.diverged(-1, kind, name, None)
        self.turns.wait(row["seq"])
        self._env.advance_to(row["start_offset_ns"])
        self.turns.done(row["seq"])
        return self.recording.content(row["response_digest"])

    # -- what it is made of ------------------------------------------------------------------------

    def _claim(self, what: Attempt) -> RecordedCall:
        self.lanes.add(_lane())
        found = self.recording.claim(what.kind, what.name, what.path, what.request_digest)
        if found is None:
            raise self.diverged(what.span_seq, what.kind, what.name, what.request_digest)
        self.claimed[what.span_seq] = found
        self._in_order(found)
        return found

    def _in_order(self, call: RecordedCall) -> None:
        """Wait until what came before the call has come; note a call that comes too early.

        Tasks do not wait here. Of one task, calls that followed each other follow each other.
        """
        began = self.recording.began(call)
        lane = _lane()
        first = call
        if isinstance(lane, int):
            row = call.peek()
            if row is not None and self.turns.due(row["seq"]):
                return
            late = not self.turns.begin(began, None if row is None else row["seq"])
            if late:
                first = self.recording.call_of(self.turns.next_due) or call
        else:
            latest, first = self._reached.get(lane, (0, call))
            ended = max((r["start_offset_ns"] + r["latency_ns"] for r in call.rows), default=began)
            late = ended <= latest and first is not call
            if began >= latest:
                self._reached[lane] = began, call
        if late and self.disorder is None and self.divergence is None:
            at = call.span
            self.disorder = Divergence(
                seq=min(at["seq"], first.span["seq"]), span=at["name"], field="order",
                recorded="one after the other", replayed="the other way round",
                reason=f"the order of calls differs at {at['name']}",
            )  # fmt: skip

    def _row(self, what: Attempt) -> Row:
        call = self.claimed[what.span_seq]
        row = call.peek()
        if row is None or not self.answers(row, what):
            raise self.diverged(what.span_seq, what.kind, what.name, what.request_digest)
        self._env.advance_to(row["start_offset_ns"])
        return call.take()

    def answers(self, row: Row, what: Attempt) -> bool:
        """Return whether a recorded attempt answers one that is made now."""
        return (row["kind"], row["name"]) == (what.kind, what.name)

    def _no_more(self, call: RecordedCall, what: Attempt) -> BaseException:
        """Return what ended the recorded call before another attempt, as this one is about to."""
        name = call.span["error_class"]
        if name is not None and (TAXONOMY[name].family == "budget" or name == "timeout_total"):
            return self.recording.error(call.span)
        return self.diverged(
            what.span_seq, what.kind, what.name, what.request_digest,
            reason=f"the recorded call made {len(call.rows)} attempts, the replayed one goes on",
        )  # fmt: skip

    def _noted(self, name: str, what: Attempt, more: int) -> Row | None:
        """Return the row of something that happened to the recorded run at this attempt."""
        call = self.claimed[what.span_seq]
        last = call.rows[call.next - 1]
        seq = self.recording.span(last["span_id"])["seq"] + more
        row = self.recording.reading("random", f"{name} {seq}", what.path)
        if row is not None:
            self.turns.done(row["seq"])
        return row

    def _came(self, what: Attempt, row: Row, call: Callable[[], Any]) -> Any:
        self._env.advance_to(row["start_offset_ns"] + row["latency_ns"])
        self.turns.done(row["seq"])
        failed = row["outcome"] != "ok"
        error = self.recording.error(self.recording.span(row["span_id"])) if failed else None
        value = self.answer_of(row)
        if what.served is not None and (value is not None or what.on_the_wire):
            if error is not None and not what.stream:
                raise error
            served = what.served(value, _sizes(row), error)
            return call() if what.on_the_wire else served
        if what.stream:
            if error is not None and not (value or {}).get("pieces"):
                raise error
            return self._stream(value, _sizes(row), error)
        if error is not None:
            raise error
        return msgspec.convert(value, Response) if what.kind == "model" else value["result"]

    def answer_of(self, row: Row) -> Any:
        """Return the recorded answer of an attempt, as the tape has it."""
        return self.recording.content(row["response_digest"])

    def _pieces(self, what: Attempt, row: Row) -> bool:
        """Return whether something came of a recorded stream before it was left."""
        value = self.recording.content(row["response_digest"]) if what.stream else None
        if value is None:
            return False
        return bool(value.get("pieces") or (value.get("http") or {}).get("status"))

    def _stream(
        self, value: dict[str, Any], sizes: list[int], error: BaseException | None
    ) -> Iterator[str | Response]:
        yield from cut(value["pieces"], sizes)
        if error is not None:
            raise self._left(error)
        yield msgspec.convert(value["response"], Response)

    async def _apieces(self, pieces: Any, row: Row) -> AsyncIterator[Any]:
        """Yield the pieces of a stream that was cancelled, then wait for that."""
        if hasattr(pieces, "__anext__"):
            async for piece in pieces:
                yield piece
        else:
            value = self.recording.content(row["response_digest"])
            for _ in cut(value["pieces"], _sizes(row)):
                yield next(pieces)
        await self.turns.never(None, row["start_offset_ns"] + row["latency_ns"])

    def _left(self, error: BaseException) -> BaseException:
        """Return what a stream raises; one that the agent has left is left by it again."""
        if isinstance(error, GeneratorExit | CancelledError):
            return ReplayDiverged("the recorded agent stopped reading here, this one reads on")
        return error

    def diverged(
        self, seq: int, kind: str, name: str, digest: str | None, *, reason: str | None = None
    ) -> ReplayDiverged:
        """Note the first divergence, and return what to raise for this one."""
        self.turns.diverged = True
        if self.divergence is None:
            said = f"the tape holds no {kind} call {name!r} with this request here"
            self.divergence = Divergence(
                seq=seq, span=f"{kind} {name}", field="request_digest", recorded=None,
                replayed=digest, reason=reason or said,
            )  # fmt: skip
        return ReplayDiverged(self.divergence.reason)


def _lane() -> object:
    """Return the task that is running, or the number of the thread where none is."""
    loop = asyncio._get_running_loop()  # noqa: SLF001  None instead of an exception
    task = None if loop is None else asyncio.current_task(loop)
    return threading.get_ident() if task is None else task


def _sizes(row: Row) -> list[int]:
    return [] if row["chunks"] is None else msgspec.json.decode(row["chunks"], type=list[int])

"""What towerkit itself raises.

Rule: an error says what was expected, what came and what to do, in one sentence. The guard never
replaces an agent's exception by one of these unless the original would be lost.

    TowerError
    ├── UsageError            the caller asked for something that cannot be (exit code 2)
    │   └── SelectionError    a SELECTION that is malformed or matches nothing
    ├── StoreError            a store or pack that cannot be read or written (exit code 1)
    │   └── PackError         a pack whose bytes, digests or schema do not hold
    ├── IngestError           a foreign file: names file, record and field (exit code 1)
    ├── AnswerFailed          a provider's error that the SDK hands on as data; carries its body
    ├── NotebookError         the strict runner refused or a cell failed (exit code 1)
    └── ControlError          a production control stopped the run
        ├── BudgetExceeded    a budget refused a reservation, or cut a stream
        ├── DeadlineExceeded  the run's time is up
        ├── CallRefused       a breaker, a throttle or a limit of ours: nothing was sent
        ├── NoProgress        the agent goes round in circles
        ├── MalformedResponse a provider's answer that is none
        ├── StreamTruncated   a stream ended without its terminal event
        ├── AttemptTimeout    one attempt took longer than its time-out
        ├── FaultInjected     a fault plan raised it: simulated, and says so
        └── ReplayDiverged    a replayed run asked for what the tape does not hold
"""

from __future__ import annotations


class TowerError(Exception):
    """Base of everything towerkit raises. `exit_code` is what the command line answers with."""

    exit_code = 1


class UsageError(TowerError):
    """The caller asked for something that cannot be."""

    exit_code = 2


class SelectionError(UsageError):
    """A SELECTION is malformed, or nothing in the store matches it."""


class StoreError(TowerError):
    """A store cannot be read or written."""


class PackError(StoreError):
    """A pack's bytes, digests or schema do not hold."""


class IngestError(TowerError):
    """A foreign file cannot be admitted. Always names file, record and field."""

    def __init__(self, *, file: str, record: str, field: str, problem: str) -> None:
        """Keep the parts for callers that list several; the message is one sentence."""
        super().__init__(f"{file}: {record}: {field}: {problem}")
        self.file, self.record, self.field, self.problem = file, record, field, problem


class AnswerFailed(TowerError):
    """A provider's error inside an answer with status 200, which the SDK hands on as data.

    `body` is the provider's error object: the error is classified by it, like an SDK's own.
    """

    def __init__(self, message: str, *, body: dict[str, str]) -> None:
        """Keep the error object beside the sentence."""
        super().__init__(message)
        self.body = body


class NotebookError(TowerError):
    """The strict runner refused a notebook or its parameters, or a cell failed."""


class ControlError(TowerError):
    """A production control stopped the call. `error_class` is its row of the taxonomy."""

    error_class = "unknown"

    def __init__(
        self, message: str, *, error_class: str | None = None, retry_after_s: float | None = None
    ) -> None:
        """Let a subclass that covers several rows say which one this is, and what wait it asks."""
        super().__init__(message)
        if error_class is not None:
            self.error_class = error_class
        self.retry_after_s = retry_after_s


class BudgetExceeded(ControlError):
    """A budget refused a reservation, so the call was never made, or cut a stream that passed it.

    `account` and `limit` say which (`"the run"`, `"cost_usd"`), `cap` how high it is, `left` and
    `wanted` what there was and what the call might have used: nano-US-dollars, tokens, seconds.
    """

    error_class = "budget_exceeded"
    account, limit = "the run", "cost_usd"
    cap: float | None = None
    left: float | None = None
    wanted: float | None = None

    def __init__(
        self, message: str, *, account: str = "the run", limit: str = "cost_usd",
        cap: float | None = None, left: float | None = None, wanted: float | None = None,
    ) -> None:  # fmt: skip
        """Keep the parts beside the sentence."""
        super().__init__(message)
        self.account, self.limit, self.cap = account, limit, cap
        self.left, self.wanted = left, wanted


class DeadlineExceeded(ControlError):
    """The run's deadline passed, or a wait would pass it."""

    error_class = "timeout_total"


class CallRefused(ControlError):
    """Nothing was sent: the breaker is open, or the provider asked to wait longer than is left."""

    error_class = "circuit_open"


class NoAnswer(ControlError):
    """A stand-in for a model has no answer to this request: the next tier is tried."""

    error_class = "not_implemented"


class OutputInvalid(ControlError):
    """An answer does not pass its check, after two corrections. `answer` is the last one."""

    error_class = "output_invalid"

    def __init__(self, message: str, *, answer: object) -> None:
        """Keep the answer: the agent may do with it what it likes."""
        super().__init__(message)
        self.answer = answer


class MalformedResponse(ControlError):
    """A provider's answer that is not one: SDKs hand an HTML page on as if all were well."""

    error_class = "malformed_response"


class StreamTruncated(ControlError):
    """A stream ended cleanly before its terminal event: SDKs end the loop as if all were well."""

    error_class = "stream_truncated"


class NoProgress(ControlError):
    """The agent repeats itself without a new answer, or passed its limit of calls."""

    error_class = "no_progress"


class AttemptTimeout(ControlError):
    """One attempt took longer than its time-out. A tool's outcome is then unknown."""

    error_class = "tool_timeout"


class FaultInjected(ControlError):
    """A fault plan raised this on purpose. Simulated."""


class ReplayDiverged(ControlError):
    """A replayed run asked for something the tape does not hold. Never a live call."""

    error_class = "replay_diverged"

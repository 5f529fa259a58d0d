"""Noticing that an agent goes round in circles.

Rule: pure. A run makes no progress when a tool call has given the same answer `max_repeats` times,
in a row or between others (so an agent that swings between two calls is noticed too), when a
conversation has grown `max_stale` times in a row and the model only said what it had said before,
or when it passes `max_steps` calls. A call whose answer changes is polling, not a loop; a new tool
answer, or another conversation, is progress.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence


class Progress:
    """Counts the calls of one run, by the digests of requests and answers."""

    def __init__(self, *, max_repeats: int, max_steps: int, max_stale: int) -> None:
        """Start with nothing seen."""
        self._max_repeats, self._max_steps, self._max_stale = max_repeats, max_steps, max_stale
        self._steps = self._stale = 0
        self._answers: dict[str, str | None] = {}
        self._repeats: Counter[str] = Counter()
        self._shown: Sequence[str | None] = ()
        self._said: set[Hashable] = set()

    def before(self, request: str, *, tool: bool) -> str | None:
        """Return why a call should not be made any more, or None; counts the call."""
        self._steps += 1
        if self._steps > self._max_steps:
            return f"more than {self._max_steps} calls in one run"
        if tool and self._repeats[request] >= self._max_repeats:
            return f"one tool call gave the same answer {self._repeats[request]} times"
        if not tool and self._stale >= self._max_stale:
            return f"the conversation grew {self._stale} times and the model said nothing new"
        return None

    def after(self, request: str, answer: str | None) -> None:
        """Report what a tool call answered; None is an error, or an answer that was not kept."""
        same = request in self._answers and self._answers[request] == answer
        self._repeats[request] = self._repeats[request] + 1 if same else 1
        self._answers[request] = answer
        if not same:
            self._stale = 0

    def said(self, shown: Sequence[str | None], answer: Hashable) -> None:
        """Report what a model answered, and the digests of the messages it was shown."""
        before, self._shown = self._shown, shown
        grew = len(shown) > len(before) > 0 and shown[: len(before)] == before
        self._stale = self._stale + 1 if grew and answer in self._said else 0
        self._said.add(answer)

"""Noticing that an agent goes round in circles.

Rule: pure. A run makes no progress when a tool call has given the same answer `max_repeats` times,
in a row or between others (so an agent that swings between two calls is noticed too), or when it
passes `max_steps` calls. A call whose answer changes is polling, not a loop.
"""

from __future__ import annotations

from collections import Counter


class Progress:
    """Counts the calls of one run, by the digests of request and answer."""

    def __init__(self, *, max_repeats: int, max_steps: int) -> None:
        """Start with nothing seen."""
        self._max_repeats, self._max_steps = max_repeats, max_steps
        self._steps = 0
        self._answers: dict[str, str | None] = {}
        self._repeats: Counter[str] = Counter()

    def before(self, request: str, *, tool: bool) -> str | None:
        """Return why a call should not be made any more, or None; counts the call.

        Only tool calls can repeat themselves: a model is asked again with a longer conversation.
        """
        self._steps += 1
        if self._steps > self._max_steps:
            return f"more than {self._max_steps} calls in one run"
        if tool and self._repeats[request] >= self._max_repeats:
            return f"one tool call gave the same answer {self._repeats[request]} times"
        return None

    def after(self, request: str, answer: str | None) -> None:
        """Report what a tool call answered; None is an error, or an answer that was not kept."""
        same = request in self._answers and self._answers[request] == answer
        self._repeats[request] = self._repeats[request] + 1 if same else 1
        self._answers[request] = answer

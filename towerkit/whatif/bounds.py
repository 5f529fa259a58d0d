"""Intervals of whole numbers: what is asked lies between `low` and `high`, both included."""

from __future__ import annotations

import msgspec


class Bounds(msgspec.Struct, frozen=True):
    """An interval; `high` None has no upper end."""

    low: int
    high: int | None

    def __add__(self, other: Bounds) -> Bounds:
        """Return the interval of sums."""
        high = None if self.high is None or other.high is None else self.high + other.high
        return Bounds(self.low + other.low, high)

    def around_zero(self) -> Bounds:
        """Return the smallest interval that holds this one and zero."""
        return Bounds(min(0, self.low), None if self.high is None else max(0, self.high))

    def within(self, value: int) -> bool:
        """Return whether `value` lies in it."""
        return self.low <= value and (self.high is None or value <= self.high)


def just(value: int) -> Bounds:
    """Return the interval of one number."""
    return Bounds(value, value)


ZERO = just(0)


def total(parts: list[Bounds]) -> Bounds:
    """Return the interval of the sum."""
    return sum(parts, ZERO)

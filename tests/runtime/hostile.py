"""Objects that hurt whoever looks at them, as arguments, results and exceptions of a guarded call.

`compare` makes one call bare and guarded and says whether anything differs for the agent.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random

SURROGATE = "\ud800 lone \udfff"


def _raise(*_args, **_kwargs):
    raise RuntimeError("do not look at me")


class Sulking:
    """Raises whatever is done with it."""

    __class__ = property(_raise)
    __eq__ = __bool__ = __len__ = __iter__ = __str__ = __repr__ = __getattr__ = _raise
    __hash__ = object.__hash__


class SulkingDict(dict):
    """A dictionary whose methods raise."""

    items = keys = get = __iter__ = __len__ = __getitem__ = __eq__ = __str__ = _raise
    __hash__ = None


class SulkingStr(str):
    """A text whose methods raise."""

    __slots__ = ()
    encode = lower = __len__ = __eq__ = __getitem__ = __str__ = __repr__ = __format__ = _raise
    __hash__ = str.__hash__


class SulkingInt(int):
    """A number whose methods raise."""

    __eq__ = __lt__ = __add__ = __str__ = __repr__ = __index__ = __int__ = __bool__ = _raise
    __hash__ = int.__hash__


class SulkingFloat(float):
    """A number that is not equal to anything, loudly."""

    __eq__ = __ne__ = __float__ = __repr__ = _raise
    __hash__ = float.__hash__


class SulkingList(list):
    """A list whose methods raise."""

    __iter__ = __len__ = __getitem__ = __eq__ = __repr__ = _raise
    __hash__ = None


class Gigabyte:
    """Says a gigabyte when asked what it is. Nobody may ask."""

    asked = 0

    def __repr__(self):
        """Count, and build it."""
        type(self).asked += 1
        return "x" * 1_000_000_000

    __str__ = __repr__


@dataclasses.dataclass
class Holder:
    """A dataclass that holds anything."""

    held: object

    @property
    def other(self):
        """Raise."""
        raise RuntimeError("not asked for")


class Loud(Exception):
    """Raises when printed."""

    __str__ = __repr__ = _raise


class Shut(Exception):
    """Takes no attribute, and raises about it."""

    __setattr__ = __getattr__ = _raise


class Masked(Exception):
    """Does not say what it is."""

    __class__ = property(_raise)


class Slotted(BaseException):
    """Is no Exception."""

    __slots__ = ()


class Leaving(Exception):
    """Leaves through another door when printed."""

    def __str__(self):
        """Raise what ends generators."""
        raise GeneratorExit


def _cycle():
    ring: list = []
    ring += [ring, ring, {"me": ring}]
    return ring


def _deep():
    value: object = 1
    for _ in range(5_000):
        value = [value]
    return value


LEAVES = (
    Sulking, Gigabyte, _cycle, _deep, lambda: SulkingDict(a=1), lambda: SulkingStr("text"),
    lambda: SulkingInt(7), lambda: SulkingFloat("nan"), lambda: SulkingList([1]),
    lambda: SURROGATE, lambda: 10**400, lambda: 10**5000,
    lambda: {10**5000: 1}, lambda: float("nan"), lambda: b"\xff\x00", lambda: None,
    lambda: {Sulking(): 1}, lambda: {1: {None: []}}, lambda: {SURROGATE: SURROGATE}, object,
    lambda: iter([1]), lambda: (x for x in "ab"), lambda: {1, "a", (2,)}, lambda: "plain", dict,
    lambda: Holder(Sulking()), lambda: type("T", (), {}), lambda: _raise, lambda: NotImplemented,
)  # fmt: skip
ERRORS = (
    Loud, Shut, Masked, Slotted, Leaving, lambda: ValueError(Sulking()),
    lambda: ValueError(SURROGATE), lambda: ValueError(SulkingStr("x")), StopIteration,
    lambda: StopIteration(Gigabyte()), StopAsyncIteration, GeneratorExit, asyncio.CancelledError,
    SystemExit, KeyboardInterrupt, lambda: KeyError(Gigabyte()), RecursionError, MemoryError,
    lambda: ExceptionGroup("g", [Loud(), Shut()]), lambda: OSError(28, "full"), TimeoutError,
    lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), lambda: BaseExceptionGroup(
        "g", [KeyboardInterrupt()]
    ),
)  # fmt: skip


def thing(rng, depth=0):
    """Return something that may hurt."""
    kind = rng.randrange(6) if depth < 3 else 5
    if kind == 0:
        return [thing(rng, depth + 1) for _ in range(rng.randrange(3))]
    if kind == 1:
        return {f"k{i}": thing(rng, depth + 1) for i in range(rng.randrange(3))}
    if kind == 2:
        return Holder(thing(rng, depth + 1))
    return rng.choice(LEAVES)()


def outcome(call):
    """Return what a call came to: the very object it returned, or the very exception it raised."""
    try:
        return "returned", call()
    except BaseException as error:
        return "raised", error


def compare(seed, run):
    """Make one call bare and guarded; raise `AssertionError` where the agent could tell.

    On the real clock nothing is awaited: some of these objects stop a bare event loop for good.
    """
    rng = random.Random(seed)
    argument, fails = thing(rng), rng.random() < 0.5
    result = rng.choice(ERRORS)() if fails else thing(rng)
    seen = []

    def tool(argument):
        seen.append(argument)
        if fails:
            raise result
        return result

    way = rng.randrange(3 if run.env.kind == "virtual" else 2)
    if way == 0:
        guarded = outcome(lambda: run.tool(tool, {"argument": argument}, idempotent=False))
    elif way == 1:
        guarded = outcome(
            lambda: run.tool(tool, {"argument": argument}, idempotent=False, timeout_s=60.0)
        )
    else:

        async def awaited(argument):
            return tool(argument)

        bare = outcome(lambda: _step(awaited(argument)))
        seen.clear()
        guarded = outcome(
            lambda: _step(run.atool(awaited, {"argument": argument}, idempotent=False))
        )
    if way != 2:
        bare = outcome(lambda: tool(argument))
        seen.pop()
    assert len(seen) == 1, f"seed {seed}: called {len(seen)} times"
    assert seen[0] is argument, f"seed {seed}: another argument"
    assert guarded[0] == bare[0], f"seed {seed}: {guarded[0]}"
    # A coroutine makes a RuntimeError of a StopIteration, bare as guarded.
    alike = type(guarded[1]) is type(bare[1]) is RuntimeError
    assert guarded[1] is bare[1] or alike, f"seed {seed}: {type(guarded[1])}, {type(bare[1])}"


def _step(coroutine):
    """Run a coroutine that waits for nothing."""
    try:
        while True:
            coroutine.send(None)
    except StopIteration as done:
        return done.value

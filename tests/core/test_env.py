"""Time, randomness and ids come from one object, and a virtual one is repeatable."""

from __future__ import annotations

import contextvars
import threading
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from towerkit.core.env import VIRTUAL_EPOCH_NS, SystemEnv, VirtualEnv, derive_seed, uuid7
from towerkit.core.errors import AttemptTimeout


@given(st.integers(0, 2**47 * 10**6), st.integers(0, 2**74 - 1))
def test_uuid7_is_a_uuid_of_version_7_that_carries_its_time(unix_ns, bits):
    """Every id parses as RFC 9562 version 7 and gives its millisecond back."""
    value = uuid.UUID(uuid7(unix_ns, bits))
    assert value.version == 7
    assert value.variant == uuid.RFC_4122
    assert value.int >> 80 == (unix_ns // 1_000_000) & ((1 << 48) - 1)


def test_virtual_sleep_moves_the_clock_and_takes_no_time():
    """A virtual hour is one call."""
    env = VirtualEnv(1)
    env.sleep(3600)
    assert env.mono_ns() == 3600 * 10**9
    assert env.wall_ns() == VIRTUAL_EPOCH_NS + 3600 * 10**9


def test_virtual_sleep_stops_at_the_time_out():
    """A wait that crosses a time-out raises when the time-out is reached, not after it."""
    env = VirtualEnv(1)
    with pytest.raises(AttemptTimeout):
        env.bounded(lambda: env.sleep(30), 12)
    assert env.mono_ns() == 12 * 10**9
    env.sleep(1)
    assert env.mono_ns() == 13 * 10**9


def test_the_inner_of_two_time_outs_wins():
    """Nested limits: the one that is reached first raises."""
    env = VirtualEnv(1)
    with pytest.raises(AttemptTimeout):
        env.bounded(lambda: env.bounded(lambda: env.sleep(9), 20), 5)
    assert env.mono_ns() == 5 * 10**9


@given(st.lists(st.floats(-5, 5), max_size=20))
def test_no_clock_steps_back(waits):
    """Negative waits and old tape positions never move a virtual clock backwards."""
    env, seen = VirtualEnv(1), [0]
    for wait in waits:
        env.sleep(wait)
        env.advance_to(3)
        seen.append(env.mono_ns())
    assert seen == sorted(seen)


def test_equal_seeds_give_equal_streams():
    """Two environments of one seed agree on every number; another seed does not."""
    a, b, c = VirtualEnv(5), VirtualEnv(5), VirtualEnv(6)
    first = [a.bits(64) for _ in range(5)]
    assert first == [b.bits(64) for _ in range(5)]
    assert first != [c.bits(64) for _ in range(5)]
    assert a.secret_bytes(8, purpose="x") == b.secret_bytes(8, purpose="x")
    assert a.secret_bytes(8, purpose="x") != a.secret_bytes(8, purpose="y")


def test_derive_seed_depends_on_every_part():
    """Parts are separated: ("ab", "c") is not ("a", "bc")."""
    assert derive_seed("ab", "c") != derive_seed("a", "bc")


def test_system_bounded_gives_up_on_time_and_carries_errors_and_context():
    """A real time-out raises, an error passes through, a context variable is seen inside."""
    env, release = SystemEnv(), threading.Event()
    with pytest.raises(AttemptTimeout, match="outcome is unknown"):
        env.bounded(lambda: release.wait(30), 0.02)
    release.set()
    with pytest.raises(KeyError):
        env.bounded(lambda: {}["missing"], 5)
    variable = contextvars.ContextVar("v", default=0)
    variable.set(7)
    assert env.bounded(variable.get, 5) == 7


def test_system_secrets_are_not_the_seeded_stream():
    """Salts must not follow from the seed that the tape records."""
    a, b = SystemEnv(1), SystemEnv(1)
    assert a.bits(64) == b.bits(64)
    assert a.secret_bytes(16, purpose="x") != b.secret_bytes(16, purpose="x")


def test_the_shortest_wait_moves_the_simulated_clock():
    """Rounded down, a call throttled for half a nanosecond more would ask for ever."""
    env = VirtualEnv(1)
    env.sleep(1e-10)
    assert env.mono_ns() == 1
    env.sleep(0.0)
    env.sleep(-5.0)
    assert env.mono_ns() == 1

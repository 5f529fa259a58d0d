"""Breakers shared through a real Redis: the contract of one process, held by several."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import time

import msgspec
import pytest

import tests.reliability.test_breaker as contract
from tests.agents import make_tower
from towerkit.core.errors import UsageError
from towerkit.reliability.breaker import Limits, Permit, Refusal
from towerkit.runtime.shared_breakers import RedisBreakers

redis = pytest.importorskip("redis") if not os.environ.get("CI") else __import__("redis")

LIMITS = Limits(window=10, min_calls=4, open_s=0.4, probes=3, lease_s=0.8)
# What of the contract does not look inside.
CONTRACT = [
    name for name in vars(contract)
    if name.startswith("test_") and name not in {
        "test_while_all_is_well_no_lock_is_taken", "test_a_full_bucket_takes_no_lock",
        "test_the_share_of_calls_is_counted_exactly", "test_for_ever_is_thirty_years",
        "test_until_when_it_is_throttled_can_be_read",
    } and not hasattr(getattr(contract, name), "hypothesis")
    and getattr(contract, name).__code__.co_argcount == 0
    and "RetryBudget" not in getattr(contract, name).__code__.co_names
]  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Return the URL of a Redis of our own."""
    binary = shutil.which("redis-server")
    if binary is None:
        if os.environ.get("CI"):
            pytest.fail("CI needs redis-server: .ci/run installs it")
        pytest.skip("needs Debian's redis-server")
    socket = tmp_path_factory.mktemp("redis") / "s"
    process = subprocess.Popen(
        [binary, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir",
         str(socket.parent)], stdout=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"unix://{socket}"
    client = redis.Redis.from_url(url)
    for _ in range(200):
        try:
            client.ping()
            break
        except redis.ConnectionError:
            time.sleep(0.05)
    yield url
    client.close()
    process.terminate()
    process.wait()


@pytest.mark.parametrize("name", CONTRACT)
def test_the_contract_of_one_process_holds(server, monkeypatch, name):
    """Each test of the breaker, with a shared one in its place."""
    house = RedisBreakers(server, prefix=f"contract-{name}", clock="caller")
    made = []

    def breaker(limits=None):
        made.append(limits)
        return house.breaker(f"b{len(made)}", limits or Limits())

    monkeypatch.setattr(contract, "Breaker", breaker)
    getattr(contract, name)()
    assert house.unanswered == 0
    if "RetryBudget" not in name:
        assert made


def knock(url, prefix, lease_s, n, results):
    """Ask `n` times for a permit, report how many came, and hold them for good."""
    limits = msgspec.structs.replace(LIMITS, lease_s=lease_s)
    breaker = RedisBreakers(url, prefix=prefix).breaker("b", limits)
    got = [p for _ in range(n) if isinstance(p := breaker.acquire(time.monotonic_ns()), Permit)]
    results.put(len(got))
    time.sleep(60)


def knocking(server, prefix, *, lease_s, processes, n):
    """Open a breaker, let it become half open, and return how many permits processes got of it.

    The processes are killed while they hold them.
    """
    limits = msgspec.structs.replace(LIMITS, lease_s=lease_s)
    breaker = RedisBreakers(server, prefix=prefix).breaker("b", limits)
    for _ in range(4):
        breaker.settle(breaker.acquire(0), "failure", 0, 0)
    assert isinstance(breaker.acquire(0), Refusal)
    time.sleep(0.45)
    start = multiprocessing.get_context("spawn")
    results = start.Queue()
    crowd = [start.Process(target=knock, args=(server, prefix, lease_s, n, results))
             for _ in range(processes)]  # fmt: skip
    for process in crowd:
        process.start()
    permits = sum(results.get(timeout=60) for _ in crowd)
    for process in crowd:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return breaker, permits


def test_eight_processes_get_three_probes(server):
    """2,200 questions of a half-open breaker: three permits in all, whoever asks."""
    _, permits = knocking(server, "probes", lease_s=300.0, processes=8, n=275)
    assert permits == 3


def test_the_probes_of_killed_processes_come_back(server):
    """Their leases end, which counts as failed; then others find out that all is well."""
    breaker, permits = knocking(server, "killed", lease_s=0.8, processes=1, n=5)
    assert permits == 3
    deadline = time.monotonic() + 10
    got = []
    while len(got) < 3 and time.monotonic() < deadline:
        got += [p for p in [breaker.acquire(time.monotonic_ns())] if isinstance(p, Permit)]
        time.sleep(0.02)
    assert [p.probe for p in got] == [True] * 3
    for permit in got:
        breaker.settle(permit, "success", time.monotonic_ns(), 0)
    assert breaker.state(time.monotonic_ns()) == "closed"


def test_one_process_opens_it_for_another(server):
    """A failure is told at once; what the other believed ends within a tenth of a second."""
    mine, theirs = (RedisBreakers(server, prefix="two").breaker("b", LIMITS) for _ in range(2))
    assert isinstance(theirs.acquire(time.monotonic_ns()), Permit)
    for _ in range(4):
        mine.settle(mine.acquire(time.monotonic_ns()), "failure", time.monotonic_ns(), 0)
    time.sleep(0.11)
    assert isinstance(theirs.acquire(time.monotonic_ns()), Refusal)


def test_good_answers_are_reported_in_batches(server):
    """Twenty calls, one question and one report; the window has them all."""
    house = RedisBreakers(server, prefix="batch", clock="caller")
    breaker = house.breaker("b", Limits(window=50))
    asked = []
    real = house.ask
    house.ask = lambda *args: asked.append(args[3]) or real(*args)
    for _ in range(20):
        breaker.settle(breaker.acquire(1_000_000_000), "success", 1_000_000_000, 0)
    assert asked == ["acquire", "settle"]
    assert breaker.counted() == (20, 0)


def test_without_redis_each_process_goes_on_alone(tmp_path, caplog):
    """Nothing is raised, it is said once, and a breaker of its own opens and closes."""
    house = RedisBreakers(f"unix://{tmp_path}/nobody")
    tower = make_tower(tmp_path / "store", breakers=house, breaker=LIMITS)
    breaker = tower.breaker("tool:t")
    for _ in range(4):
        breaker.settle(breaker.acquire(1_000_000_000), "failure", 1_000_000_000, 0)
    assert isinstance(breaker.acquire(1_000_000_000), Refusal)
    assert breaker.state(1_500_000_000) == "half_open"
    assert house.unanswered == 1
    assert caplog.text.count("Redis does not answer") == 1
    assert breaker.counted() == (0, 0)
    breaker.throttle(7_000_000_000, 5.0)
    assert house.unanswered == 2  # asked again after a pause
    assert breaker.acquire(7_500_000_000).error_class == "throttled_locally"


def test_a_tower_shares_its_breakers(server, tmp_path):
    """Two towers, one breaker: what one's tool does the other knows."""

    def broken(number):
        raise ConnectionRefusedError("down")

    def a_tower(name):
        breakers = RedisBreakers(server, prefix="tower")
        # Open for longer than the slowest machine takes to look.
        limits = msgspec.structs.replace(LIMITS, open_s=60.0)
        return make_tower(tmp_path / name, breaker=limits, breakers=breakers)

    towers = a_tower("a"), a_tower("b")
    with towers[0].run("x") as run:
        for i in range(4):
            with pytest.raises(ConnectionRefusedError):
                run.tool(broken, {"number": i}, name="t", idempotent=False)
    assert isinstance(towers[1].breaker("tool:t").acquire(0), Refusal)


def test_what_is_no_url_is_a_usage_error():
    """One sentence with the form."""
    with pytest.raises(UsageError, match="redis://HOST"):
        RedisBreakers("nonsense")

"""Circuit breakers that processes share, through Redis.

Rule: what `reliability.breaker` says of one process holds for all of them; each question is one
atomic script on the server, by the server's clock. While a breaker is closed a process believes it
for `TRUST_S` and reports good answers in batches, so calls hardly ever wait for the network;
failures and probes are always told at once. Redis away means a breaker of this process's own: it
must not stop the agent.
"""

from __future__ import annotations

import threading
from typing import Any, Literal

import msgspec

from towerkit.core.errors import UsageError
from towerkit.privacy.log import log
from towerkit.reliability.breaker import Breaker, Limits, Outcome, Permit, Refusal, State, in_ns

TRUST_S = 0.1  # how long "closed" is believed without asking
BATCH = 20  # good answers reported at once, at the latest
AWAY_S = 5.0  # how long Redis is left alone once it did not answer
TIMEOUT_S = 0.05  # the longest a call waits for Redis: the event loop may be waiting with it

# One breaker is one hash, one list (the window, newest first) and one sorted set (leases by their
# end). Times are milliseconds of the server's clock, or of the caller's where a test gives one.
SCRIPT = """
local h, w, l = KEYS[1], KEYS[2], KEYS[3]
local op, now = ARGV[1], tonumber(ARGV[2])
local lim = cjson.decode(ARGV[3])
if now < 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000 + t[2] / 1000
end
local function get(name) return tonumber(redis.call('HGET', h, name) or '0') end
local state = redis.call('HGET', h, 'state') or 'closed'
local epoch = get('epoch')
local function enter(to)
  state, epoch = to, epoch + 1
  redis.call('HSET', h, 'state', to, 'epoch', epoch, 'succeeded', 0)
  redis.call('DEL', w, l)
end
local function open()
  redis.call('HSET', h, 'opened', now)
  enter('open')
end
if state == 'open' and now >= get('opened') + lim.open then enter('half_open') end
if state == 'half_open' and redis.call('ZCOUNT', l, '-inf', now) > 0 then open() end
local function too_bad()
  local seen = redis.call('LRANGE', w, 0, -1)
  local failed, slow = 0, 0
  for _, x in ipairs(seen) do
    if x == 'f' or x == 'fs' then failed = failed + 1 end
    if x == 's' or x == 'fs' then slow = slow + 1 end
  end
  if #seen < lim.min_calls then return false end
  return failed >= lim.failure_rate * #seen or slow >= lim.slow_rate * #seen
end
local function count(what, n)
  for _ = 1, math.min(n, lim.window) do redis.call('LPUSH', w, what) end
  redis.call('LTRIM', w, 0, lim.window - 1)
end
local answer = {'ok'}
if op == 'acquire' then
  local throttled = get('throttled')
  if throttled - now > 0.001 then
    answer = {'throttled_locally', tostring(throttled - now)}
  elseif state == 'open' then
    answer = {'circuit_open', tostring(get('opened') + lim.open - now)}
  elseif state == 'closed' then
    answer = {'closed', epoch}
  elseif redis.call('ZCARD', l) + get('succeeded') >= lim.probes then
    local first = redis.call('ZRANGE', l, 0, 0, 'WITHSCORES')
    answer = {'circuit_open', tostring((tonumber(first[2]) or now) - now)}
  else
    local number = redis.call('HINCRBY', h, 'numbers', 1)
    redis.call('ZADD', l, now + lim.lease, number)
    answer = {'probe', epoch, number}
  end
elseif op == 'settle' then
  local number, outcome, slow = tonumber(ARGV[5]), ARGV[6], ARGV[7] == '1'
  if tonumber(ARGV[4]) == epoch then
    if number > 0 then
      if redis.call('ZREM', l, number) == 1 then
        if outcome == 'failure' then open()
        elseif outcome == 'success' then
          if redis.call('HINCRBY', h, 'succeeded', 1) == lim.probes then enter('closed') end
        end
      end
    elseif outcome ~= 'uncounted' then
      local what = (outcome == 'failure' and 'f' or '') .. (slow and 's' or '')
      count(what == '' and 'g' or what, tonumber(ARGV[8]))
      if too_bad() then open() end
    end
  end
elseif op == 'throttle' then
  redis.call('HSET', h, 'throttled', math.max(get('throttled'), now + tonumber(ARGV[4])))
else
  local seen, failed = redis.call('LRANGE', w, 0, -1), 0
  for _, x in ipairs(seen) do
    if x == 'f' or x == 'fs' then failed = failed + 1 end
  end
  answer = {state, #seen, failed}
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, lim.keep) end
return answer
"""


class RedisBreakers:
    """Makes breakers that every process with the same `url` and `prefix` shares.

    Give it to `Tower(breakers=…)`. `clock="caller"` goes by the times
    that come with each question, for tests: those of two processes have nothing in common.
    Raises `UsageError` where the redis package is missing or `url` is none.
    """

    def __init__(
        self, url: str, *, prefix: str = "towerkit", clock: Literal["server", "caller"] = "server"
    ) -> None:
        """Connect when first asked; what is at `url` need not be there yet."""
        try:
            import redis  # noqa: PLC0415  an extra
        except ImportError:
            raise UsageError(
                "shared breakers need the redis package: pip install 'towerkit[redis]'"
            ) from None
        try:
            self._redis = redis.Redis.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
            )
        except ValueError as error:
            raise UsageError(f"expected a URL such as redis://HOST:6379/0: {error}") from None
        self._failed: type[Exception] = redis.RedisError
        self._script = self._redis.register_script(SCRIPT)
        self._prefix, self._clock = prefix, clock
        self._away_until_ns = 0
        self._lock = threading.Lock()
        self.unanswered = 0

    def breaker(self, key: str, limits: Limits) -> SharedBreaker:
        """Return the breaker of `key`."""
        return SharedBreaker(self, f"{self._prefix}:breaker:{{{key}}}", limits)

    def ask(self, key: str, limits: str, now_ns: int, op: str, *args: Any) -> list[Any] | None:
        """Return the script's answer; None while Redis is away. `now_ns` is the caller's clock."""
        if now_ns < self._away_until_ns:
            return None
        at = now_ns / 1e6 if self._clock == "caller" else -1.0
        keys = [key, f"{key}:window", f"{key}:leases"]
        try:
            found = self._script(keys=keys, args=[op, repr(at), limits, *args])
        except (self._failed, OSError) as error:
            with self._lock:
                self.unanswered += 1
                self._away_until_ns = now_ns + in_ns(AWAY_S)
            log.warning("shared breakers: Redis does not answer, going on alone: %s", error)
            return None
        return [v.decode() if isinstance(v, bytes) else v for v in found]


class Alone(Permit, frozen=True, kw_only=True):
    """A permit of this process's own breaker, while Redis was away."""

    inner: Permit


class SharedBreaker(Breaker):
    """One breaker whose state is in Redis. The contract is `Breaker`'s."""

    def __init__(self, house: RedisBreakers, key: str, limits: Limits) -> None:
        """Use `RedisBreakers.breaker`."""
        super().__init__(limits)
        self.shared = None  # what was true a moment ago is for `acquire` to say
        self._alone = Breaker(limits)
        self._house, self._key = house, key
        in_ms = {name: 1000.0 * getattr(limits, f"{name}_s") for name in ("open", "lease")}
        rest = {
            name: getattr(limits, name)
            for name in ("window", "min_calls", "failure_rate", "slow_rate", "probes")
        }
        # What nobody asks about for a day is forgotten.
        self._told = msgspec.json.encode({**in_ms, **rest, "keep": 86_400_000}).decode()
        self._trusted: tuple[int, Permit] | None = None
        self._good = self._good_epoch = 0
        self._now_ns = 0  # of the last question
        self._counting = threading.Lock()

    def _ask(self, now_ns: int, op: str, *args: Any) -> list[Any] | None:
        self._now_ns = now_ns
        return self._house.ask(self._key, self._told, now_ns, op, *args)

    def state(self, now_ns: int) -> State:
        """Return the state, as all processes see it."""
        self._report(now_ns)
        found = self._ask(now_ns, "look")
        return self._alone.state(now_ns) if found is None else found[0]

    def counted(self) -> tuple[int, int]:
        """Return how many calls of all processes are in the window, and how many failed."""
        self._report(self._now_ns)
        found = self._ask(self._now_ns, "look")
        return self._alone.counted() if found is None else (found[1], found[2])

    def acquire(self, now_ns: int) -> Permit | Refusal:
        """Return a permit, or the refusal; asks Redis unless it said "closed" a moment ago."""
        trusted = self._trusted
        if trusted is not None and now_ns < trusted[0]:
            return trusted[1]
        found = self._ask(now_ns, "acquire")
        self._trusted = None
        if found is None:
            inner = self._alone.acquire(now_ns)
            return inner if isinstance(inner, Refusal) else Alone(epoch=-1, inner=inner)
        if found[0] == "closed":
            permit = Permit(epoch=found[1])
            self._trusted = (now_ns + in_ns(TRUST_S), permit)
            return permit
        if found[0] == "probe":
            return Permit(epoch=found[1], number=found[2])
        return Refusal(error_class=found[0], wait_s=float(found[1]) / 1000.0)

    def settle(self, permit: Permit, outcome: Outcome, now_ns: int, took_ns: int) -> None:
        """Report a permitted call: a failure or a probe at once, good answers in batches."""
        if isinstance(permit, Alone):
            self._alone.settle(permit.inner, outcome, now_ns, took_ns)
            return
        slow = took_ns > self._slow_ns
        if outcome == "success" and not permit.probe and not slow:
            with self._counting:
                self._good, self._good_epoch = self._good + 1, permit.epoch
                full = self._good >= BATCH
            if full:
                self._report(now_ns)
            return
        self._report(now_ns)
        self._trusted = None
        self._ask(now_ns, "settle", permit.epoch, permit.number, outcome, int(slow), 1)

    def throttle(self, now_ns: int, wait_s: float) -> None:
        """Refuse calls of every process for `wait_s`."""
        self._trusted = None
        if self._ask(now_ns, "throttle", wait_s * 1000.0) is None:
            self._alone.throttle(now_ns, wait_s)

    def _report(self, now_ns: int) -> None:
        """Tell Redis of the good answers since the last time, before what came after them."""
        with self._counting:
            good, self._good = self._good, 0
        if good:
            self._ask(now_ns, "settle", self._good_epoch, 0, "success", 0, good)

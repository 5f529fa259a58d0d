"""Limits above the run, shared by machines through Redis.

Rule: what `shared_budgets` says of a store holds; each question is one atomic script, by the
server's clock. A script that was sent twice is counted once, and a reservation whose answer was
lost is given back with the next question. Give all keys one server: they carry one hash tag.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from towerkit.core.errors import StoreError, UsageError
from towerkit.cost.budget import COUNTED, NOTHING, Amount, Shortage
from towerkit.cost.plan import PERIOD_NS
from towerkit.runtime.shared_budgets import (
    Ask,
    Dead,
    Owed,
    Standing,
    new_lease,
    unreachable,
)

TIMEOUT_S = 0.25  # the longest a call waits for Redis: the event loop may be waiting with it

# A window is one hash: s0…s4 spent, r0…r4 reserved, in the order of an amount. A lease is one hash:
# a0…a4, its windows, whether its call was begun, and once it has ended by itself whether it was
# charged or returned. Leases that are open
# are in one sorted set by their end. Times are microseconds. Whole numbers travel as text, because
# Lua writes large ones as 1e+15.
SCRIPT = """
local base, op, now, dead = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
local KEEP = 3 * 86400000
if now < 0 then
  local t = redis.call('TIME')
  now = t[1] * 1000000 + t[2]
end
local ends = base .. ':ends'
local function lease_key(id) return base .. ':lease:' .. id end
local function window_key(key, period)
  return base .. ':window:' .. key .. ':' .. string.format('%.0f', math.floor(now / period))
end
local function minus(text)
  if text == '0' then return '0' end
  if string.sub(text, 1, 1) == '-' then return string.sub(text, 2) end
  return '-' .. text
end
local function move(window, kind, amount, back)
  for i = 0, 4 do
    local by = amount[i + 1]
    if back then by = minus(by) end
    if by ~= '0' then redis.call('HINCRBY', window, kind .. i, by) end
  end
  redis.call('PEXPIRE', window, KEEP)
end
local function held(id)
  local found = redis.call(
    'HMGET', lease_key(id), 'a0', 'a1', 'a2', 'a3', 'a4', 'windows', 'charged')
  if not found[1] then return nil end
  local windows = {}
  for one in string.gmatch(found[6], '[^\\n]+') do table.insert(windows, one) end
  return {found[1], found[2], found[3], found[4], found[5]}, windows, found[7]
end
local function bury()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', ends, '-inf', now)) do
    local amount, windows = held(id)
    if amount then
      local how = dead
      if redis.call('HGET', lease_key(id), 'begun') == '0' then how = 'return' end
      for _, window in ipairs(windows) do
        move(window, 'r', amount, true)
        if how == 'charge' then move(window, 's', amount, false) end
      end
      redis.call('HSET', lease_key(id), 'charged', how)
    end
    redis.call('ZREM', ends, id)
  end
end
local function number(window, kind, i)
  return tonumber(redis.call('HGET', window, kind .. i) or '0')
end

if op == 'reserve' then
  bury()
  local id, lasts, begun, wanted, windows = ARGV[4], tonumber(ARGV[5]), ARGV[6], {}, {}
  if redis.call('EXISTS', lease_key(id)) == 1 then return {'ok'} end
  for i = 1, 5 do wanted[i] = ARGV[6 + i] end
  local at = 12
  while ARGV[at] do
    local key, window = ARGV[at], window_key(ARGV[at], tonumber(ARGV[at + 1]))
    for i = 0, 4 do
      local cap = ARGV[at + 2 + i]
      if cap ~= '' then
        local left = tonumber(cap) - number(window, 's', i) - number(window, 'r', i)
        if tonumber(wanted[i + 1]) > left or left < 0 or (i == 0 and left == 0) then
          return {'short', key, i, cap, string.format('%.0f', math.max(0, left))}
        end
      end
    end
    table.insert(windows, window)
    at = at + 7
  end
  for _, window in ipairs(windows) do move(window, 'r', wanted, false) end
  redis.call('HSET', lease_key(id), 'a0', wanted[1], 'a1', wanted[2], 'a2', wanted[3],
    'a3', wanted[4], 'a4', wanted[5], 'windows', table.concat(windows, '\\n'), 'begun', begun)
  redis.call('PEXPIRE', lease_key(id), KEEP)
  redis.call('ZADD', ends, now + lasts, id)
  redis.call('PEXPIRE', ends, KEEP)
  return {'ok'}
end
if op == 'begin' then
  bury()
  local amount, _, charged = held(ARGV[4])
  if not amount or charged then return {'gone'} end
  redis.call('HSET', lease_key(ARGV[4]), 'begun', '1')
  return {'ok'}
end
if op == 'settle' then
  local id, used = ARGV[4], {}
  for i = 1, 5 do used[i] = ARGV[4 + i] end
  local amount, windows, charged = held(id)
  if amount then
    for _, window in ipairs(windows) do
      if not charged then move(window, 'r', amount, true) end
      if charged == 'charge' then move(window, 's', amount, true) end
      move(window, 's', used, false)
    end
    redis.call('DEL', lease_key(id))
    redis.call('ZREM', ends, id)
  end
  return {'ok'}
end
bury()
local window, out = window_key(ARGV[4], tonumber(ARGV[5])), {}
for _, kind in ipairs({'s', 'r'}) do
  for i = 0, 4 do table.insert(out, redis.call('HGET', window, kind .. i) or '0') end
end
return out
"""


class RedisBudgets:
    """Limits shared by every process with the same `url` and `prefix`.

    Give it to `Tower(budgets=…)`. `clock` gives microseconds in place of the server's, for tests.
    Raises `UsageError` where the redis package is missing or `url` is none.
    """

    def __init__(
        self, url: str, *, prefix: str = "towerkit", dead: Dead = "charge",
        clock: Callable[[], int] | None = None,
    ) -> None:  # fmt: skip
        """Connect when first asked; what is at `url` need not be there yet."""
        try:
            import redis  # noqa: PLC0415  an extra
        except ImportError:
            raise UsageError(
                "shared budgets need the redis package: pip install 'towerkit[redis]'"
            ) from None
        try:
            self._redis = redis.Redis.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S
            )
        except ValueError as error:
            raise UsageError(f"expected a URL such as redis://HOST:6379/0: {error}") from None
        self._failed = (redis.RedisError, OSError)
        self._script = self._redis.register_script(SCRIPT)
        self._base, self._dead, self._clock = f"{{{prefix}}}:budget", dead, clock
        self._owed = Owed()

    def reserve(
        self, asks: Sequence[Ask], wanted: Amount, lease_s: float, *, whose: str = "",
        begun: bool = True,
    ) -> str | Shortage:  # fmt: skip
        """Set `wanted` aside in every window or in none."""
        lease = new_lease(whose)
        args: list[Any] = [lease, round(min(lease_s, 1e9) * 1e6), int(begun), *wanted]
        for key, per, caps in asks:
            args += [key, PERIOD_NS[per] // 1000, *("" if cap is None else cap for cap in caps)]
        try:
            self._pay()
            found = self._ask("reserve", *args)
        except self._failed as error:
            self._owed.add(lease, NOTHING, error)  # it may have been set aside all the same
            return unreachable(error)
        if found[0] == "ok":
            return lease
        _, key, i, cap, left = found
        return Shortage(str(key), COUNTED[int(i)], int(cap), int(left), wanted[int(i)])

    def begin(self, lease: str) -> bool:
        """Note that the call of a lease is made now; False where it has ended, or nobody answers.

        Then its holder gives the lease back and asks for another.
        """
        try:
            self._pay()
            return bool(self._ask("begin", lease)[0] == "ok")
        except self._failed as error:
            unreachable(error)
            return False

    def settle(self, lease: str, used: Amount) -> None:
        """Replace a lease by what was used."""
        try:
            self._pay()
            self._ask("settle", lease, *used)
        except self._failed as error:
            self._owed.add(lease, used, error)

    def standing(self, key: str, per: str) -> Standing:
        """Return what the open window has spent and reserved."""
        self._pay()
        found = [int(one) for one in self._ask("standing", key, PERIOD_NS[per] // 1000)]
        return Standing(Amount(*found[:5]), Amount(*found[5:]))

    def unsettled(self, whose: str) -> list[str]:
        """Return the leases of `whose` that nobody has settled. Looks through all keys: be rare."""
        start = f"{self._base}:lease:"
        match = re.sub(r"[][*?^\\]", lambda found: f"\\{found[0]}", f"{start}{whose}") + "*"
        try:
            found = list(self._redis.scan_iter(match=match, count=1000))
        except self._failed as error:
            raise StoreError(f"the budgets in Redis cannot be read: {error}") from error
        return sorted(key.decode().removeprefix(start) for key in found)

    def _ask(self, op: str, *args: Any) -> list[Any]:
        now = -1 if self._clock is None else self._clock()
        found = self._script(keys=[self._base], args=[op, now, self._dead, *args])
        return [one.decode() if isinstance(one, bytes) else one for one in found]

    def _pay(self) -> None:
        """Report what could not be reported before; what fails again is owed again."""
        owed = self._owed.taken()
        for i, (lease, used) in enumerate(owed):
            try:
                self._ask("settle", lease, *used)
            except self._failed:
                self._owed.back(owed[i:])
                raise

"""Redis or Valkey as the place where limits are counted: one script, and so one round trip, admits a request.

The counts are the sliding windows of `limits`, by that library's own scripts. Streams at once are leases in a sorted
set: what a killed process held expires.
"""

import asyncio
import functools
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from bridge_adapter.server.store_connection import Script, StoreConnection, StoreUnavailable
from bridge_adapter.server.store_url import store_url
from bridge_adapter.settings import Store

MINUTE = 60
LEASE = 10.0
"""Seconds after which the streams of a process that died are free again. A lease is renewed three times as often."""
_PREFIX = "bridge-adapter"
_NOW = "local t = redis.call('TIME'); local now = t[1] + t[2] / 1e6; "
# KEYS: two of the requests' window, two of the tokens', the set of the streams. ARGV: most requests, most tokens, the
# request's tokens, most streams, seconds of a lease, its member; -1 for a limit that is not there.
# Answers a line of integers: each window's grant and four counts, then the grant of the stream.
_ADMIT = """
local function acquire(KEYS, ARGV)
%(acquire)s
end
local function counts(KEYS, ARGV)
%(counts)s
end
local function lease(key, most, seconds, member)
  %(now)s
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  if redis.call('ZCARD', key) >= most then return false end
  redis.call('ZADD', key, now + seconds, member)
  redis.call('PEXPIRE', key, math.ceil(seconds * 1000))
  return true
end
local answer = {}
local function tell(granted)
  answer[#answer + 1] = granted and 1 or 0
  return granted
end
local function take(keys, most, amount)
  local granted = tell(acquire(keys, {most, %(span)d, amount}))
  local found = counts(keys, {%(span)d})
  for i = 1, 4 do answer[#answer + 1] = tonumber(found[i]) or 0 end
  return granted
end
local requests, tokens, streams = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[4])
local open = true
if requests >= 0 then open = take({KEYS[1], KEYS[2]}, requests, 1) end
local leased = open and streams >= 0 and lease(KEYS[5], streams, tonumber(ARGV[5]), ARGV[6])
open = open and (leased or streams < 0)
if open and tokens >= 0 then open = take({KEYS[3], KEYS[4]}, tokens, tonumber(ARGV[3])) end
if leased and not open then redis.call('ZREM', KEYS[5], ARGV[6]) end
if streams >= 0 then tell(leased) end
return table.concat(answer, ' ')
"""
# KEYS: the tokens' window of now, the set of the streams. ARGV: seconds, tokens to add, a lease's member or nothing.
_END = """
local function increase(KEYS, ARGV)
%(increase)s
end
if tonumber(ARGV[2]) ~= 0 then increase({KEYS[1]}, {ARGV[1], ARGV[2]}) end
if ARGV[3] ~= '' then redis.call('ZREM', KEYS[2], ARGV[3]) end
"""
_RENEW = (
    _NOW
    + """
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], now + ARGV[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[1] * 1000))
"""
)


@dataclass(frozen=True, slots=True)
class Window:
    """One count after it was asked. wait: seconds until the amount fits; reset: until all of the limit does."""

    granted: bool
    remaining: int
    wait: float
    reset: float


@dataclass(frozen=True, slots=True)
class Lease:
    """One stream's place: a member of a sorted set."""

    key: str
    member: str


@dataclass(frozen=True, slots=True)
class Admission:
    """What was asked for and looked at, in this order: requests, stream, tokens. A refusal ends it and takes nothing
    of the other two, but the request has been counted. full: no place was left among the streams."""

    requests: Window | None = None
    tokens: Window | None = None
    lease: Lease | None = None
    full: bool = False


class LimitStore:
    """One process's. Nothing waits longer than `timeout` seconds: see StoreConnection."""

    def __init__(self, store: Store, *, lease: float = LEASE) -> None:
        """Imports the client but opens no connection. Raises SettingsError."""
        url = store_url(store)
        from limits import RateLimitItemPerMinute
        from limits.aio.storage.redis.bridge import RedisBridge

        texts = {
            "acquire": RedisBridge.SCRIPT_ACQUIRE_SLIDING_WINDOW.decode(),
            "counts": RedisBridge.SCRIPT_SLIDING_WINDOW.decode(),
            "increase": RedisBridge.SCRIPT_INCR_EXPIRE.decode(),
        }
        self.fail = store.fail
        self._lease_seconds = lease
        self._per_minute = RateLimitItemPerMinute
        self._admit = Script(_ADMIT % {**texts, "now": _NOW, "span": MINUTE})
        self._end, self._renew = Script(_END % texts), Script(_RENEW)
        self._connection = StoreConnection(
            url, (self._admit, self._end, self._renew), timeout=store.timeout, without=f"fail {store.fail}"
        )
        self._keys = functools.lru_cache(maxsize=4096)(self._make_keys)
        self._held: set[Lease] = set()
        self._renewing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Connect, so that the first request need not. A store that is away is logged."""
        await self._connection.start()

    async def close(self) -> None:
        if self._renewing is not None:
            self._renewing.cancel()
        await self._connection.close()

    @property
    def available(self) -> bool:
        """False while it is known to be away."""
        return self._connection.available

    async def admit(
        self, name: str, requests: int | None, tokens: tuple[int, int] | None, streams: int | None
    ) -> Admission:
        """Take one of `requests` a minute, tokens (limit, amount) and a place among `streams`; None: not limited."""
        limit, amount = tokens if tokens is not None else (-1, 0)
        keys = self._keys(name, requests, limit)
        member = uuid.uuid4().hex if streams is not None else ""
        asked = [-1 if requests is None else requests, limit, amount, -1 if streams is None else streams]
        answer = await self._connection.run(self._admit, keys, [*asked, self._lease_seconds, member])
        told = [int(word) for word in answer.split()]
        leased = bool(told.pop()) if streams is not None else False
        window = None
        if requests is not None:
            window = _window(told[:5], requests, 1)
            if not window.granted:
                return Admission(window)
            told = told[5:]
        if streams is not None and not leased:
            return Admission(window, full=True)
        counted = _window(told, limit, amount) if tokens is not None else None
        if not leased or (counted is not None and not counted.granted):
            return Admission(window, counted)
        lease = Lease(keys[4], member)
        self._held.add(lease)
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.create_task(self._keep_leases())
        return Admission(window, counted, lease)

    def end(self, name: str, tokens: tuple[int, int] | None, lease: Lease | None) -> None:
        """Add an amount of tokens (limit, amount), which may be negative, and give the place back. Waits for nothing:
        where the store is away the lease expires, and the minute ends."""
        if lease is not None:
            self._held.discard(lease)
        limit, amount = tokens if tokens is not None else (-1, 0)
        if not amount and lease is None:
            return
        keys = self._keys(name, None, limit)
        try:
            self._connection.run(self._end, keys[3:], [2 * MINUTE, amount, lease.member if lease is not None else ""])
        except StoreUnavailable:
            pass

    async def _keep_leases(self) -> None:
        while self._held:
            await asyncio.sleep(self._lease_seconds / 3)
            members: dict[str, list[str]] = {}
            for lease in self._held:
                members.setdefault(lease.key, []).append(lease.member)
            try:
                # All are sent now, on one connection: what ends from now on is released after it was renewed.
                renewals = [
                    self._connection.run(self._renew, [key], [self._lease_seconds, *names])
                    for key, names in members.items()
                ]
                await asyncio.gather(*renewals)
            except StoreUnavailable:
                continue  # the next renewal brings back what has expired

    def _make_keys(self, name: str, requests: int | None, tokens: int) -> tuple[str, str, str, str, str]:
        """As `limits` names them: the window before and the one of now of requests and of tokens; then the streams."""
        windows = []
        for unit, limit in (("requests", requests or 0), ("tokens", tokens)):
            key = f"{_PREFIX}:{{{self._per_minute(limit).key_for(name, unit)}}}"
            windows += [f"{key}/-1", key]
        first, second, third, fourth = windows
        return first, second, third, fourth, f"{_PREFIX}:STREAMS/{name}"


def _window(told: Sequence[int], limit: int, amount: int) -> Window:
    """told: whether it was granted; count and time to live, in ms, of the window before and of this one, which lives
    two minutes."""
    granted, *counts = told
    earlier, earlier_left, count, left = (max(0, value) for value in counts)
    span = MINUTE * 1000
    remaining = max(0, limit - count - earlier * earlier_left // span)
    wait = 0
    if not granted:
        # What is over counts by the share of the minute that it has left: wait until that has fallen enough.
        free = limit - amount - count
        fading, lasting = (earlier, earlier_left) if free >= 0 else (count, left)
        wait = max(0, lasting - (max(free, 0) if free >= 0 else limit - amount) * span // max(1, fading))
    return Window(bool(granted), remaining, wait / 1000, (left if count else earlier_left) / 1000)

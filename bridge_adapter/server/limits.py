"""How much a key may use: requests and tokens a minute, streams at once, counted in this process. No I/O."""

import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from bridge_adapter.errors import APIError, RateLimited
from bridge_adapter.settings import ClientKey

Unit = Literal["requests", "tokens"]

_CHARACTERS_PER_TOKEN = 4  # of English; what the answer's usage says replaces the estimate
_PROMPT_FIELDS = ("messages", "prompt", "input", "instructions", "tools")


@dataclass(slots=True)
class Work:
    """A request that was admitted. `used`: its tokens as far as they are known, which replace the estimate."""

    estimate: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    used: int = 0

    def excess(self, error: BaseException | None) -> int:
        """Tokens used above the estimate. A request that failed without a usage cost nothing; one whose client left,
        the estimate."""
        if not self.used and not isinstance(error, APIError):
            return 0
        return self.used - self.estimate


class KeyLimits(Protocol):
    """One key's. All methods raise RateLimited, the latter two Unavailable where nobody can tell."""

    def check(self) -> None:
        """Refuse now what is known to be refused, before the body is read. Counts nothing."""

    async def admit(self) -> dict[str, str]:
        """Take one request from the minute's, without work; returns the rate headers."""

    def work(self, body: Mapping[str, Any], stream: bool) -> AbstractAsyncContextManager[Work]:
        """The place of a request: one of the minute's, with its prompt's tokens and, if it is a stream, among those."""


class Bucket:
    """A token bucket: holds one minute's amount and fills evenly. It may be overdrawn by what was not foreseen."""

    def __init__(self, unit: Unit, limit: int, clock: Callable[[], float]) -> None:
        self._unit: Unit = unit
        self._limit = limit
        self._clock = clock
        self._left = float(limit)
        self._refilled = clock()

    def take(self, amount: int, headers: Mapping[str, str] | None = None) -> dict[str, str]:
        """Returns the rate headers, beside those given, or raises RateLimited."""
        self.check(amount, headers)
        self._left -= amount
        return {**(headers or {}), **self._headers()}

    def check(self, amount: int, headers: Mapping[str, str] | None = None) -> None:
        """Raise RateLimited if the amount does not fit, with these headers beside its own."""
        self.charge(0)
        if self._left < amount:
            wait = (amount - self._left) / (self._limit / 60)
            raise rate_limited(self._unit, self._limit, wait, {**(headers or {}), **self._headers()})

    def charge(self, amount: int) -> None:
        """Take without asking; a negative amount gives back."""
        now = self._clock()
        refill = (now - self._refilled) * self._limit / 60
        self._left = min(float(self._limit), self._left + refill - amount)
        self._refilled = now

    def _headers(self) -> dict[str, str]:
        reset = (self._limit - self._left) / (self._limit / 60)
        return rate_headers(self._unit, self._limit, int(self._left), reset)


_NOT_COUNTED = nullcontext(Work())  # shared, for nobody reads what is noted of it


class LocalLimits:
    """The limits of one key, of which each process grants the whole amount."""

    def __init__(self, client: ClientKey | None, clock: Callable[[], float]) -> None:
        requests = client.requests_per_minute if client else None
        tokens = client.tokens_per_minute if client else None
        self._requests = Bucket("requests", requests, clock) if requests is not None else None
        self._tokens = Bucket("tokens", tokens, clock) if tokens is not None else None
        self._most_tokens = tokens
        self._most_streams = client.concurrent_streams if client else None
        self._streams = 0

    def check(self) -> None:
        if self._requests is not None:
            self._requests.check(1)

    async def admit(self) -> dict[str, str]:
        return self._requests.take(1) if self._requests is not None else {}

    def work(self, body: Mapping[str, Any], stream: bool) -> AbstractAsyncContextManager[Work]:
        if self._requests is None and self._tokens is None and self._most_streams is None:
            return _NOT_COUNTED
        headers = self._requests.take(1) if self._requests is not None else {}
        return self._counted(body, stream, headers)

    @asynccontextmanager
    async def _counted(self, body: Mapping[str, Any], stream: bool, headers: dict[str, str]) -> AsyncIterator[Work]:
        if stream and self._most_streams is not None and self._streams >= self._most_streams:
            raise too_many_streams(self._most_streams, headers)
        work = Work(headers=headers)
        if self._tokens is not None:
            work.estimate = prompt_estimate(body, self._most_tokens)
            work.headers = self._tokens.take(work.estimate, headers)
        error: BaseException | None = None
        self._streams += stream
        try:
            yield work
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._streams -= stream
            self.charge(tokens=work.excess(error))

    def charge(self, *, requests: int = 0, tokens: int = 0, streams: int = 0) -> None:
        """Count what another counter has granted."""
        if self._requests is not None and requests:
            self._requests.charge(requests)
        if self._tokens is not None and tokens:
            self._tokens.charge(tokens)
        self._streams += streams


def prompt_estimate(body: Mapping[str, Any], most: int | None = None) -> int:
    """About how many tokens the prompt of a chat, completions or responses body has; at most `most`, at least 1.

    A fourth of its characters, and one each for a prompt of token ids. The limit itself as `most` keeps an estimate
    that is too high from refusing a request for ever.
    """
    characters, ids = 0, 0
    waiting = [body[name] for name in _PROMPT_FIELDS if name in body]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            characters += len(value)
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
        elif type(value) is int:
            ids += 1
    estimate = max(1, math.ceil(characters / _CHARACTERS_PER_TOKEN) + ids)
    return estimate if most is None else min(estimate, most)


RATE_HEADERS = tuple(
    f"x-ratelimit-{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in get_args(Unit)
)


def rate_headers(unit: Unit, limit: int, remaining: int, reset: float) -> dict[str, str]:
    """OpenAI's. reset: seconds until all of the limit is there again."""
    return {
        f"x-ratelimit-limit-{unit}": str(limit),
        f"x-ratelimit-remaining-{unit}": str(max(0, remaining)),
        f"x-ratelimit-reset-{unit}": f"{reset:.1f}s",
    }


def rate_limited(unit: Unit, limit: int, wait: float, headers: Mapping[str, str]) -> RateLimited:
    return RateLimited(
        f"Rate limit reached for {unit} per minute: the limit is {limit}. Please try again in {wait:.1f}s.",
        retry_after=wait,
        headers=headers,
    )


def too_many_streams(limit: int, headers: Mapping[str, str]) -> RateLimited:
    message = f"Rate limit reached for concurrent streams: the limit is {limit}."
    return RateLimited(message, retry_after=1.0, headers=headers)

"""Who calls, and how much they may: keys compared in constant time, requests a minute, streams at once. No I/O."""

import hashlib
import hmac
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from bridge_adapter.errors import Forbidden, RateLimited, Unauthenticated
from bridge_adapter.settings import ClientKey, Keys


class Caller:
    """One key's limits and what is used of them, in this process."""

    def __init__(self, client: ClientKey | None, clock: Callable[[], float]) -> None:
        self.name = client.name if client else ""
        self.models = frozenset(client.models) if client and client.models is not None else None
        self._per_minute = client.requests_per_minute if client else None
        self._streams = client.concurrent_streams if client else None
        self._clock = clock
        self._left = float(self._per_minute or 0)
        self._refilled = clock()
        self._open_streams = 0

    def admit(self) -> dict[str, str]:
        """Take one request from the minute's; returns the rate headers or raises RateLimited."""
        if self._per_minute is None:
            return {}
        now = self._clock()
        per_second = self._per_minute / 60
        self._left = min(float(self._per_minute), self._left + (now - self._refilled) * per_second)
        self._refilled = now
        if self._left < 1:
            wait = (1 - self._left) / per_second
            raise RateLimited(
                f"Rate limit reached for requests per minute: the limit is {self._per_minute}. "
                f"Please try again in {wait:.1f}s.",
                retry_after=wait,
                headers=self._headers(),
            )
        self._left -= 1
        return self._headers()

    @contextmanager
    def stream(self) -> Iterator[None]:
        """One stream's place among those that the key may have at once."""
        if self._streams is not None and self._open_streams >= self._streams:
            raise RateLimited(
                f"Rate limit reached for concurrent streams: the limit is {self._streams}.", retry_after=1.0
            )
        self._open_streams += 1
        try:
            yield
        finally:
            self._open_streams -= 1

    def check_model(self, *names: str) -> None:
        """`names`: what the table calls the model, and what the request does."""
        if self.models is not None and self.models.isdisjoint(names):
            raise Forbidden(
                f"This API key does not have access to model `{names[-1][:200]}`.",
                param="model",
                code="model_not_allowed",
            )

    def same_limits(self, other: "Caller") -> bool:
        return (self.name, self.models, self._per_minute, self._streams) == (
            other.name,
            other.models,
            other._per_minute,
            other._streams,
        )

    def _headers(self) -> dict[str, str]:
        limit = self._per_minute or 0
        reset = (limit - self._left) / (limit / 60)
        return {
            "x-ratelimit-limit-requests": str(limit),
            "x-ratelimit-remaining-requests": str(int(self._left)),
            "x-ratelimit-reset-requests": f"{reset:.1f}s",
        }


class Keyring:
    """All keys that open this service."""

    def __init__(self, keys: Keys, clock: Callable[[], float] = time.monotonic) -> None:
        self._mode = keys.mode
        self._anybody = Caller(None, clock)
        self._callers = [(bytes.fromhex(client.sha256), Caller(client, clock)) for client in keys.clients]

    def identify(self, key: str | None) -> Caller:
        if self._mode == "open":
            return self._anybody
        if not key:
            raise Unauthenticated(
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
                code="invalid_api_key",
            )
        if self._mode == "pass_through":
            return self._anybody
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found: Caller | None = None
        for known, caller in self._callers:  # all of them, so that time tells nothing
            if hmac.compare_digest(known, digest):
                found = caller
        if found is None:
            raise Unauthenticated("Incorrect API key provided.", code="invalid_api_key")
        return found

    def keep_counts_of(self, older: "Keyring") -> None:
        """After a reload: a caller whose entry did not change goes on with what it has used."""
        known = {digest: caller for digest, caller in older._callers}
        self._callers = [
            (digest, held if (held := known.get(digest)) is not None and held.same_limits(caller) else caller)
            for digest, caller in self._callers
        ]


def key_of(authorization: str | None) -> str | None:
    """The key in `Bearer KEY` or `Api-Key KEY`."""
    if authorization is None:
        return None
    scheme, _, key = authorization.partition(" ")
    key = key.strip()
    return key if scheme.lower() in ("bearer", "api-key") and key and key.isascii() and key.isprintable() else None

"""Limits of a key that hold over all workers and pods that ask one store; what happens while it is away."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from bridge_adapter.errors import Unavailable
from bridge_adapter.server.limit_store import MINUTE, Admission, LimitStore, Window
from bridge_adapter.server.limits import (
    LocalLimits,
    Unit,
    Work,
    prompt_estimate,
    rate_headers,
    rate_limited,
    too_many_streams,
)
from bridge_adapter.server.store_connection import StoreUnavailable
from bridge_adapter.settings import ClientKey

_REFUSED_SECONDS = 1.0  # for which a key that is over its requests is refused without a question


class SharedLimits:
    """One key's. `local` counts along, so that it can go on where the store ends."""

    def __init__(self, client: ClientKey, store: LimitStore, local: LocalLimits, clock: Callable[[], float]) -> None:
        self._name = client.name
        self._requests = client.requests_per_minute
        self._tokens = client.tokens_per_minute
        self._streams = client.concurrent_streams
        self._store = store
        self._local = local
        self._clock = clock
        self._refused: tuple[float, Window] | None = None  # when, and what the store said

    def check(self) -> None:
        if not self._store.available:
            if self._store.fail == "open":
                self._local.check()
            return
        if self._refused is None or self._requests is None:
            return
        since, window = self._refused
        passed = self._clock() - since
        if passed >= min(window.wait, _REFUSED_SECONDS):
            self._refused = None
            return
        headers = rate_headers("requests", self._requests, window.remaining, max(0.0, window.reset - passed))
        raise rate_limited("requests", self._requests, window.wait - passed, headers)

    async def admit(self) -> dict[str, str]:
        if self._requests is None:
            return {}
        try:
            admission = await self._store.admit(self._name, self._requests, None, None)
        except StoreUnavailable as error:
            self._check_open(error)
            return await self._local.admit()
        headers = self._granted(admission)
        self._local.charge(requests=1)
        return headers

    @asynccontextmanager
    async def work(self, body: Mapping[str, Any], stream: bool) -> AsyncIterator[Work]:
        streams = self._streams if stream else None
        amount = prompt_estimate(body, self._tokens) if self._tokens is not None else 0
        asked = (self._tokens, amount) if self._tokens is not None else None
        admission = None
        if (self._requests, asked, streams) != (None, None, None):
            try:
                admission = await self._store.admit(self._name, self._requests, asked, streams)
            except StoreUnavailable as unavailable:
                self._check_open(unavailable)
        if admission is None:
            async with self._local.work(body, stream) as work:
                yield work
            return
        work = Work(amount, self._granted(admission))
        held = int(admission.lease is not None)
        self._local.charge(requests=1, tokens=amount, streams=held)
        began = self._clock()
        error: BaseException | None = None
        try:
            yield work
        except BaseException as raised:
            error = raised
            raise
        finally:
            excess = work.excess(error)
            self._local.charge(tokens=excess, streams=-held)
            if excess < 0 and self._clock() - began > MINUTE:
                excess = 0  # the minute of the estimate is over
            self._store.end(self._name, (self._tokens, excess) if self._tokens is not None else None, admission.lease)

    def _granted(self, admission: Admission) -> dict[str, str]:
        """The rate headers. Raises RateLimited, with those of all that was looked at."""
        headers: dict[str, str] = {}
        if admission.requests is not None and self._requests is not None:
            if not admission.requests.granted:
                self._refused = self._clock(), admission.requests
            headers = _headers("requests", self._requests, admission.requests, headers)
        if admission.full and self._streams is not None:
            raise too_many_streams(self._streams, headers)
        if admission.tokens is not None and self._tokens is not None:
            headers = _headers("tokens", self._tokens, admission.tokens, headers)
        return headers

    def _check_open(self, error: StoreUnavailable) -> None:
        if self._store.fail == "closed":
            raise Unavailable(
                "The limits of this API key cannot be checked at the moment. Please try again.",
                retry_after=max(1.0, error.retry_after),
                should_retry=True,
            ) from None


def _headers(unit: Unit, limit: int, window: Window, headers: Mapping[str, str]) -> dict[str, str]:
    """Those given and this window's. Raises RateLimited if the amount was not granted."""
    found = {**headers, **rate_headers(unit, limit, window.remaining, window.reset)}
    if not window.granted:
        raise rate_limited(unit, limit, window.wait, found)
    return found

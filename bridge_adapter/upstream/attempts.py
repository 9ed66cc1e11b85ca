"""The servers that one request tries, one after another, until one of them has begun to answer. Knows no HTTP."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from bridge_adapter.errors import RateLimited, UpstreamError
from bridge_adapter.settings import Retries
from bridge_adapter.telemetry.exchange import Exchange
from bridge_adapter.upstream.errors import is_fault, is_unavailable
from bridge_adapter.upstream.pool import Upstream
from bridge_adapter.upstream.routing import Destination, Route

_NO_RETRIES = Retries(attempts=0)


class Attempts:
    """`with` around one request: it holds a place at the server that is being asked, and tells its health the outcome.

    Entering raises RateLimited when every server of the model is full.
    """

    __slots__ = ("_answered", "_destination", "_exchange", "_key", "_note", "_pool", "_route", "_tried")
    _route: Route

    def __init__(
        self,
        destination: Destination,
        key: bytes | None,
        exchange: Exchange,
        note: Callable[[Sequence[tuple[str, str, int, bool]]], None],
    ) -> None:
        """key: of the conversation, see `affinity.conversation_key`; note: told `UpstreamPool.states` at a change."""
        self._destination = destination
        self._pool = destination.pool
        self._key = key
        self._exchange = exchange
        self._note = note
        self._tried: list[Upstream] = []
        self._answered = False

    def __enter__(self) -> Self:
        self._pool.budget.request()
        upstream = self._pool.choose(self._key)
        if upstream is None:
            limit = sum(upstream.concurrency or 0 for upstream in self._pool.upstreams)
            raise RateLimited(
                f"The model is at its limit of {limit} concurrent requests. Please try again.", retry_after=1.0
            )
        self._ask(upstream)
        return self

    @property
    def route(self) -> Route:
        return self._route

    @property
    def retries(self) -> Retries:
        """How often to ask this same server again: not while there is another one."""
        another = self._pool.several and self._pool.left(self._tried)
        return _NO_RETRIES if another else self._route.upstream.retries

    def may_retry(self) -> bool:
        """Whether the model's budget bears one more retry; if so it is counted."""
        if not self._pool.budget.take():
            return False
        self._exchange.retries += 1
        return True

    def answered(self) -> None:
        """The server is there: it has answered with more than an error of its own."""
        self._answered = True
        self._route.upstream.health.succeeded()

    def move_on(self, error: UpstreamError) -> bool:
        """After an error before the answer's first event: whether another server is asked, which `route` then is."""
        if not is_unavailable(error) or not self._pool.several:
            return False
        upstream = self._pool.choose(self._key, self._tried)
        if upstream is None or not self.may_retry():
            return False
        self._leave(error)
        self._ask(upstream)
        return True

    def _ask(self, upstream: Upstream) -> None:
        self._tried.append(upstream)
        self._answered = False
        self._route = self._destination.route(upstream)
        self._exchange.target = upstream.target
        upstream.in_flight += 1
        upstream.health.sent()
        self._note(self._pool.states())

    def _leave(self, error: BaseException | None) -> None:
        upstream = self._route.upstream
        upstream.in_flight -= 1
        if isinstance(error, UpstreamError) and is_fault(error):
            upstream.health.failed()
            self._exchange.target_faults.append((self._pool.name, upstream.target))
        elif isinstance(error, UpstreamError) or error is None:
            upstream.health.succeeded()
        elif not self._answered:
            upstream.health.abandoned()
        self._note(self._pool.states())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._leave(error)

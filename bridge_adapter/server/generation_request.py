"""One checked request from its plan to the last byte of its answer, with the models that stand in for its own."""

from contextlib import aclosing
from typing import Any

from starlette.types import Receive, Send

from bridge_adapter.contract import Done, Event, Failure
from bridge_adapter.errors import APIError, RateLimited, UpstreamError, forget_frames
from bridge_adapter.openai_api.answers import Identity, new_identity
from bridge_adapter.openai_api.operations import Operation, Plan, name_as_requested
from bridge_adapter.openai_api.policy import NO_POLICY
from bridge_adapter.openai_api.sse import Renderer
from bridge_adapter.server.replies import EventStream, send_json
from bridge_adapter.server.state import AdapterState
from bridge_adapter.telemetry.exchange import Exchange
from bridge_adapter.upstream import errors as upstream_errors
from bridge_adapter.upstream.affinity import conversation_key
from bridge_adapter.upstream.attempts import Attempts
from bridge_adapter.upstream.calls import UpstreamCalls
from bridge_adapter.upstream.routing import Destination
from bridge_adapter.upstream.watchdog import Watchdog

FALLBACK = "x-bridge-fallback"


class GenerationRequest:
    """The state of one request. Call `direct_to`, then `answer`, once. Both raise APIError."""

    __slots__ = (
        "_body",
        "_destination",
        "_exchange",
        "_key",
        "_operation",
        "_plan",
        "_receive",
        "_reply",
        "_send",
        "_state",
    )
    _destination: Destination
    _plan: Plan

    def __init__(
        self,
        state: AdapterState,
        operation: Operation,
        body: dict[str, Any],
        key: str | None,
        exchange: Exchange,
        receive: Receive,
        send: Send,
    ) -> None:
        self._state = state
        self._operation = operation
        self._body = body
        self._key = key
        self._exchange = exchange
        self._receive = receive
        self._send = send
        self._reply = EventStream(send)

    def direct_to(self, destination: Destination) -> None:
        """Plan the request under the policy of this model. Raises InvalidRequest."""
        pool, exchange = destination.pool, self._exchange
        exchange.model = pool.name
        exchange.price = pool.price
        self._destination = destination
        self._plan = self._operation.plan(self._body, self._state.policies.get(pool.name, NO_POLICY))
        exchange.dropped = self._plan.job.dropped
        exchange.stream = self._plan.job.stream

    async def answer(self) -> None:
        """Answer from the model or, where none of its servers can, from those that stand in for it."""
        exchange, reply = self._exchange, self._reply
        for fallback in (*self._destination.pool.fallbacks, None):
            try:
                with self._attempts() as attempts:
                    await (self._stream(attempts) if exchange.stream else self._whole(attempts))
                return
            except APIError as error:
                name_as_requested(error, self._plan.job)
                if fallback is None or not _elsewhere(error):
                    if not reply.started:
                        raise
                    # A stream that was kept alive while it waited ends with the error.
                    await self._end_with(error, self._plan.renderer(self._identity()))
                    return
                forget_frames(error)
                exchange.fallback_of = exchange.fallback_of or self._destination.pool.name
                exchange.add_headers({FALLBACK: fallback})
                self.direct_to(self._state.router.by_name(fallback, self._key))

    def _attempts(self) -> Attempts:
        key = conversation_key(self._body) if self._destination.pool.several else None
        return Attempts(self._destination, key, self._exchange, self._state.observer.metrics.note_upstreams)

    def _identity(self) -> Identity:
        return new_identity(self._operation.id_prefix, self._destination.model)

    def _calls(self, attempts: Attempts, watchdog: Watchdog) -> UpstreamCalls:
        return UpstreamCalls(self._state.client, attempts, self._plan.job, self._exchange, watchdog)

    async def _whole(self, attempts: Attempts) -> None:
        """Answer from one of the model's servers. Raises as long as nothing but comments was sent."""
        async with Watchdog(self._receive, attempts.route.upstream.timeouts) as watchdog:
            result = await self._calls(attempts, watchdog).whole()
        self._exchange.note_result(result)
        await send_json(self._send, 200, self._plan.answer(self._identity(), result))

    async def _stream(self, attempts: Attempts) -> None:
        """Likewise, event by event."""
        server, reply = self._state.settings.server, self._reply
        renderer = self._plan.renderer(self._identity())
        begun = False
        watchdog = Watchdog(
            self._receive,
            attempts.route.upstream.timeouts,
            beat=reply.beat,
            beat_after=server.cold_start_after,
            beat_every=server.keep_alive,
        )
        try:
            async with watchdog:
                async with aclosing(self._calls(attempts, watchdog).events()) as batches:
                    async for events in batches:
                        failure = _failure(events)
                        data = renderer.render(events[:-1] if failure else events)
                        if data:
                            begun = True
                            await reply.write(data)
                            watchdog.sent()
                        self._state.observer.note_events(self._exchange, events)
                        if failure:
                            raise failure
                        if isinstance(events[-1], Done):  # the client need not wait for the end of the upstream's body
                            watchdog.stand_down()
                            await reply.end()
                            break
        except APIError as error:
            if not begun:
                raise
            await self._end_with(error, renderer)

    async def _end_with(self, error: APIError, renderer: Renderer) -> None:
        """The end of a stream that has begun."""
        self._exchange.note_error(error)
        await self._reply.write(renderer.fail(error))
        await self._reply.end()
        forget_frames(error)


def _elsewhere(error: APIError) -> bool:
    """Whether a fallback is asked: no server of the model could take the request."""
    return isinstance(error, RateLimited) or (
        isinstance(error, UpstreamError) and upstream_errors.is_unavailable(error)
    )


def _failure(events: list[Event]) -> UpstreamError | None:
    last = events[-1]
    return upstream_errors.failure(last) if type(last) is Failure else None

"""One face of the API as an ASGI app: checks, routes, generates, answers. Logs and unrendered errors are the edge's."""

from contextlib import aclosing, nullcontext
from typing import Any

from starlette.types import Receive, Scope, Send

from bridge_adapter import bodies, upstream_errors
from bridge_adapter.errors import APIError, UpstreamError
from bridge_adapter.exchange import Exchange
from bridge_adapter.generation import Generation
from bridge_adapter.jobs import Identity, new_identity
from bridge_adapter.keys import Caller, key_of
from bridge_adapter.plans import Face, Plan
from bridge_adapter.replies import EventStream, send_json
from bridge_adapter.routing import Route
from bridge_adapter.service import Place, Service
from bridge_adapter.watch import Watch
from bridge_adapter.wire import Done, Event, Failure


class Endpoint:
    """`POST .../chat/completions` and its like. Expects the edge's Exchange in the scope's state."""

    def __init__(self, service: Service, face: Face) -> None:
        self._service = service
        self._face = face

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["state"]["exchange"]
        exchange.route = self._face.route
        headers = dict(scope["headers"])
        self._service.check_open()
        key = key_of(headers.get(b"authorization", b"").decode("latin-1"))
        caller = self._service.keyring.identify(key)
        exchange.client = caller.name
        exchange.add_headers(caller.admit())
        server = self._service.settings.server
        body = await bodies.read_body(receive, headers, limit=server.max_body, seconds=server.body_timeout)
        route, plan = self._plan(body, scope.get("path_params", {}).get("model_id"), key, caller, exchange)
        identity = new_identity(self._face.id_prefix, route.model)
        with Place(route.upstream), caller.stream() if plan.job.stream else nullcontext():
            if plan.job.stream:
                await self._stream(receive, send, route, plan, identity, exchange)
            else:
                await self._whole(receive, send, route, plan, identity, exchange)

    def _plan(
        self, body: dict[str, Any], model_id: str | None, key: str | None, caller: Caller, exchange: Exchange
    ) -> tuple[Route, Plan]:
        router = self._service.router
        if model_id is None:
            route = router.by_name(bodies.model_of(body), key)
        else:
            route = router.by_path(model_id, key)
        upstream = route.upstream
        exchange.model = upstream.name
        exchange.price = upstream.price
        caller.check_model(upstream.name, route.model)
        body, exchange.dropped = bodies.without_unknown(body, self._face.known, drop=upstream.drop_unknown)
        if exchange.dropped:
            exchange.add_headers({"x-bridge-dropped-fields": exchange.dropped_header()})
        body = bodies.with_defaults(body, upstream, self._face.known)
        plan = self._face.plan(body)
        bodies.check_caps(upstream, body)
        exchange.stream = plan.job.stream
        return route, plan

    async def _whole(
        self, receive: Receive, send: Send, route: Route, plan: Plan, identity: Identity, exchange: Exchange
    ) -> None:
        async with Watch(receive, route.upstream.timeouts) as watch:
            generation = Generation(self._service.client, route, plan.job, exchange, watch)
            result = await generation.whole()
        exchange.note_result(result)
        await send_json(send, 200, plan.answer(identity, result))

    async def _stream(
        self, receive: Receive, send: Send, route: Route, plan: Plan, identity: Identity, exchange: Exchange
    ) -> None:
        server = self._service.settings.server
        reply = EventStream(send)
        renderer = plan.renderer(identity)
        watch = Watch(
            receive,
            route.upstream.timeouts,
            beat=reply.beat,
            beat_after=server.cold_start_after,
            beat_every=server.keep_alive,
        )
        try:
            async with watch:
                generation = Generation(self._service.client, route, plan.job, exchange, watch)
                async with aclosing(generation.events()) as batches:
                    async for events in batches:
                        failure = _failure(events)
                        data = renderer.feed(events[:-1] if failure else events)
                        if data:
                            await reply.write(data)
                            watch.sent()
                        self._service.observer.heard(exchange, events)
                        if failure:
                            raise failure
                        if isinstance(events[-1], Done):  # the client need not wait for the end of the upstream's body
                            watch.stand_down()
                            await reply.end()
                            break
        except APIError as error:
            if not reply.started:
                raise
            exchange.note_error(error)
            await reply.write(renderer.fail(error))
            await reply.end()


def _failure(events: list[Event]) -> UpstreamError | None:
    last = events[-1]
    return upstream_errors.failure(last) if type(last) is Failure else None

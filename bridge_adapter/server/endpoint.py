"""One operation as an ASGI app: checks, limits, routes. Errors and logging are the middleware's."""

from collections.abc import Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from bridge_adapter.errors import APIError
from bridge_adapter.openai_api.operations import Operation, model_of
from bridge_adapter.openai_api.policy import DROPPED_FIELDS, header_of
from bridge_adapter.server import request_body as bodies
from bridge_adapter.server.auth import key_of
from bridge_adapter.server.generation_request import GenerationRequest
from bridge_adapter.server.http_protocol import body_arrived
from bridge_adapter.server.state import AdapterState
from bridge_adapter.telemetry.exchange import Exchange
from bridge_adapter.upstream.routing import Destination


class Endpoint:
    """`POST .../chat/completions` and its like. Expects the middleware's Exchange and headers in the scope's state."""

    def __init__(self, state: AdapterState, operation: Operation) -> None:
        self._state = state
        self._operation = operation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope["state"]["exchange"]
        exchange.route = self._operation.route
        headers: Mapping[bytes, bytes] = scope["state"]["headers"]
        self._state.check_open()
        key = key_of(headers.get(b"authorization", b"").decode("latin-1"))
        caller = self._state.keyring.identify(key)
        exchange.client = caller.name
        caller.limits.check()
        server = self._state.settings.server
        try:
            seconds = None if body_arrived(scope) else server.body_timeout
            body = await bodies.read_body(receive, headers, limit=server.max_body, seconds=seconds)
            destination = self._destination(body, scope.get("path_params", {}).get("model_id"), key)
            caller.check_model(destination.pool.name, destination.model)
            request = GenerationRequest(self._state, self._operation, body, key, exchange, receive, send)
            request.direct_to(destination)
        except APIError:
            exchange.add_headers(await caller.limits.admit())  # what is refused counts as well
            raise
        if exchange.dropped:
            exchange.add_headers({DROPPED_FIELDS: header_of(exchange.dropped)})
        async with caller.limits.work(body, exchange.stream) as work:
            exchange.add_headers(work.headers)
            try:
                await request.answer()
            finally:
                work.used = exchange.prompt_tokens + exchange.completion_tokens

    def _destination(self, body: dict[str, Any], model_id: str | None, key: str | None) -> Destination:
        router = self._state.router
        return router.by_name(model_of(body), key) if model_id is None else router.by_path(model_id, key)

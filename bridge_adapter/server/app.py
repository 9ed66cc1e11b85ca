"""create_app(settings) -> FastAPI: routes and lifespan. Nothing global; every app has its own AdapterState."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge_adapter import __version__
from bridge_adapter.openai_api.operations import OPERATIONS
from bridge_adapter.openai_api.policy import DROPPED_FIELDS
from bridge_adapter.server.endpoint import Endpoint
from bridge_adapter.server.generation_request import FALLBACK
from bridge_adapter.server.health import health_router
from bridge_adapter.server.limits import RATE_HEADERS
from bridge_adapter.server.middleware import RequestMiddleware
from bridge_adapter.server.models import models_router
from bridge_adapter.server.openapi import describe
from bridge_adapter.server.state import AdapterState
from bridge_adapter.settings import AdapterSettings

# What scripts of another origin may read, as OpenAI exposes it: all that answers hold beside what HTTP itself has.
_FOR_SCRIPTS = ("x-request-id", "retry-after", "x-should-retry", DROPPED_FIELDS, FALLBACK, *RATE_HEADERS)


class Bridge(FastAPI):
    """FastAPI serves everything but the operations; the middleware wraps both."""

    def __init__(self, state: AdapterState) -> None:
        super().__init__(title="Truss OpenAI bridge", version=__version__, lifespan=_lifespan, redoc_url=None)
        self._state = state
        self.state.adapter = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """FastAPI's and Starlette's in one frame, for it is around every request; there is no root path here."""
        scope["app"] = self
        if self.middleware_stack is None:
            self.middleware_stack = self.build_middleware_stack()
        await self.middleware_stack(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        endpoints = {path: Endpoint(self._state, operation) for path, operation in OPERATIONS.items()}
        middleware = RequestMiddleware(Dispatch(endpoints, super().build_middleware_stack()), self._state)
        origins = self._state.settings.server.cors_origins
        if not origins:
            return middleware
        return CORSMiddleware(
            middleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=_FOR_SCRIPTS,
        )


def create_app(settings: AdapterSettings) -> FastAPI:
    state = AdapterState(settings)
    app = Bridge(state)
    app.include_router(models_router(state))
    app.include_router(health_router(state))
    if _shows_page(settings):
        from bridge_adapter.web import router

        app.include_router(router())
    for kind in (HTTPException, Exception):
        app.add_exception_handler(kind, _leave_to_the_edge)
    describe(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state: AdapterState = app.state.adapter
    await state.client.start()
    if state.store is not None:
        await state.store.start()
    try:
        yield
    finally:
        await state.client.close()
        if state.store is not None:
            await state.store.close()
        await asyncio.to_thread(state.observer.close)


async def _leave_to_the_edge(request: Request, error: Exception) -> Response:
    raise error


def _shows_page(settings: AdapterSettings) -> bool:
    """By default only where nobody else can reach it."""
    wanted = settings.server.web
    if wanted is None:
        wanted = settings.local
    return wanted and importlib.util.find_spec("bridge_adapter.web") is not None


class Dispatch:
    """Sends `POST /v1{path}` and `POST /{model_id}/v1{path}` to the path's endpoint, all else to `rest`."""

    def __init__(self, endpoints: Mapping[str, ASGIApp], rest: ASGIApp) -> None:
        self._endpoints = endpoints
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        prefix, _, path = scope["path"].partition("/v1/")
        endpoint = self._endpoints.get(f"/{path}")
        if endpoint is None or (prefix and not _is_segment(prefix)):
            if scope["method"] == "HEAD":  # the server leaves the body out by its own scope's method
                scope = {**scope, "method": "GET"}
            await self._rest(scope, receive, send)
            return
        if scope["method"] != "POST":
            raise HTTPException(405, headers={"Allow": "POST"})
        scope["path_params"] = {"model_id": prefix[1:]} if prefix else {}
        await endpoint(scope, receive, send)


def _is_segment(prefix: str) -> bool:
    return prefix.rfind("/") == 0 and len(prefix) > 1

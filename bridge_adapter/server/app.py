"""create_app(settings) -> FastAPI: routes and lifespan. Nothing global; every app has its own Service."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from bridge_adapter import __version__
from bridge_adapter.dispatch import Dispatch
from bridge_adapter.docs import describe
from bridge_adapter.edge import Edge
from bridge_adapter.endpoint import Endpoint
from bridge_adapter.faces import FACES
from bridge_adapter.health import health_router
from bridge_adapter.models_list import models_router
from bridge_adapter.service import Service
from bridge_adapter.settings import Settings


class Bridge(FastAPI):
    """Everything but the faces is FastAPI's; the edge is around all of it."""

    def __init__(self, service: Service) -> None:
        super().__init__(title="Truss OpenAI bridge", version=__version__, lifespan=_lifespan, redoc_url=None)
        self._service = service
        self.state.service = service

    def build_middleware_stack(self) -> ASGIApp:
        endpoints = {path: Endpoint(self._service, face) for path, face in FACES.items()}
        edge = Edge(Dispatch(endpoints, super().build_middleware_stack()), self._service)
        origins = self._service.settings.server.cors_origins
        if not origins:
            return edge
        return CORSMiddleware(
            edge,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", "x-should-retry"],
        )


def create_app(settings: Settings) -> FastAPI:
    service = Service(settings)
    app = Bridge(service)
    app.include_router(models_router(service))
    app.include_router(health_router(service))
    if _shows_page(settings):
        from bridge_adapter.web import router

        app.include_router(router())
    for kind in (HTTPException, Exception):
        app.add_exception_handler(kind, _leave_to_the_edge)
    describe(app)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    service: Service = app.state.service
    await service.client.start()
    try:
        yield
    finally:
        await service.client.close()
        await asyncio.to_thread(service.observer.close)


async def _leave_to_the_edge(request: Request, error: Exception) -> Response:
    raise error


def _shows_page(settings: Settings) -> bool:
    """By default only where nobody else can reach it."""
    wanted = settings.server.web
    if wanted is None:
        wanted = settings.local
    return wanted and importlib.util.find_spec("bridge_adapter.web") is not None

"""create_app(settings) -> FastAPI: routes and lifespan. Nothing global; every app has its own Service."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bridge_adapter import __version__
from bridge_adapter.docs import describe
from bridge_adapter.edge import Edge, http_exception
from bridge_adapter.endpoint import Endpoint
from bridge_adapter.faces import FACES
from bridge_adapter.health import health_router
from bridge_adapter.models_list import models_router
from bridge_adapter.service import Service
from bridge_adapter.settings import Settings


def create_app(settings: Settings) -> FastAPI:
    service = Service(settings)
    app = FastAPI(title="Truss OpenAI bridge", version=__version__, lifespan=_lifespan, redoc_url=None)
    app.state.service = service
    # Plain routes to ASGI apps: what FastAPI does around a handler would be a third of a request's time.
    for path, face in FACES.items():
        endpoint = Endpoint(service, face)
        for prefix in ("/v1", "/{model_id}/v1"):
            app.router.routes.append(Route(f"{prefix}{path}", endpoint, methods=["POST"]))
    app.include_router(models_router(service))
    app.include_router(health_router(service))
    if _shows_page(settings):
        from bridge_adapter.web import router

        app.include_router(router())
    app.add_exception_handler(HTTPException, _refuse)
    app.add_middleware(Edge, service=service)
    if settings.server.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.server.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", "x-should-retry"],
        )
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


async def _refuse(request: Request, error: Any) -> Response:
    raise http_exception(error, request.method, request.url.path)


def _shows_page(settings: Settings) -> bool:
    """By default only where nobody else can reach it."""
    wanted = settings.server.web
    if wanted is None:
        wanted = settings.local
    return wanted and importlib.util.find_spec("bridge_adapter.web") is not None

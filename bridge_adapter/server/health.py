"""GET /health, /health/live, /health/ready, /metrics: for the platform that runs the service. No keys, no content."""

import asyncio
import time
from typing import Any
from urllib.parse import urlsplit

import orjson
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from bridge_adapter.server.state import AdapterState
from bridge_adapter.telemetry.metrics import CONTENT_TYPE
from bridge_adapter.upstream.pool import Upstream

_PROBE_SECONDS = 2.0
_REMEMBERED_SECONDS = 1.0


class Readiness:
    """The upstreams' states, asked for at most once a second. A hosted deployment is not asked: that could wake it."""

    def __init__(self, state: AdapterState) -> None:
        self._state = state
        self._states: dict[str, str] = {}
        self._asked = float("-inf")
        self._lock = asyncio.Lock()

    async def states(self) -> dict[str, str]:
        async with self._lock:
            if time.monotonic() - self._asked > _REMEMBERED_SECONDS:
                upstreams = self._state.router.upstreams
                states = await asyncio.gather(*(self._probe(upstream) for upstream in upstreams))
                self._states = {_label(upstream): state for upstream, state in zip(upstreams, states, strict=True)}
                self._asked = time.monotonic()
            return self._states

    async def _probe(self, upstream: Upstream) -> str:
        if (urlsplit(upstream.url).hostname or "").endswith(".api.baseten.co"):
            return "not asked"
        return "ready" if await self._state.client.is_ready(upstream.url, _PROBE_SECONDS) else "unavailable"


def _label(upstream: Upstream) -> str:
    return f"{upstream.name}/{upstream.target}" if upstream.target else upstream.name


def health_router(state: AdapterState) -> APIRouter:
    router = APIRouter(tags=["health"])
    readiness = Readiness(state)

    def answer(request: Request, status: int, value: dict[str, Any]) -> Response:
        request.state.exchange.route = "health"
        return Response(orjson.dumps(value), status, media_type="application/json")

    @router.get("/health/live", summary="The process runs")
    async def live(request: Request) -> Response:
        return answer(request, 200, {"status": "ok"})

    # vLLM's path, which its benchmarks ask before they start.
    @router.get("/health", summary="The same as /health/ready")
    @router.get("/health/ready", summary="New requests are taken, and an upstream is there to serve them")
    async def ready(request: Request) -> Response:
        if state.draining:
            return answer(request, 503, {"status": "draining", "upstreams": {}})
        states = await readiness.states()
        usable = not states or any(state != "unavailable" for state in states.values())
        return answer(
            request, 200 if usable else 503, {"status": "ok" if usable else "unavailable", "upstreams": states}
        )

    if state.settings.observe.metrics:

        @router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
        async def metrics(request: Request) -> Response:
            request.state.exchange.route = "metrics"
            return Response(state.observer.metrics.text(), media_type=CONTENT_TYPE)

    return router

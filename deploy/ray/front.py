"""The HTTP side: the Truss server's routes on Serve's proxies, each passed to a replica and streamed back.

It exists beside the replicas because only whoever has read the body can tell which replica holds its prefix, and only
whoever survives a replica can answer in its place.
"""

import logging
from collections.abc import AsyncIterator
from typing import Any

import orjson
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from deploy.ray.call import ROUTES, Head, ModelCall

logger = logging.getLogger("ray.serve")

ATTEMPTS = 4  # a replica each; what has not begun is begun again elsewhere
PASSED_ON = ("accept", "authorization", "user-agent", "x-request-id", "x-baseten-request-id", "traceparent")
LOST = "The replica that made this answer was lost."

READY = "/v1/models/model"


class Front:
    """Passes requests to `model`, a handle of ModelReplica. Holds no state of its own."""

    def __init__(self, model: "DeploymentHandle[Any]") -> None:
        self._model = model.options(stream=True, method_name="answer")

    async def __call__(self, request: Request) -> Response:
        path = request.url.path
        if request.method == "GET" and path in ("/", READY):
            return JSONResponse({})
        if path not in ROUTES:
            return _error(404, f"There is no {request.method} {path}.", "invalid_request_error")
        if request.method != "POST":
            return _error(
                405, f"Not allowed to {request.method} on {path}.", "invalid_request_error", {"allow": "POST"}
            )
        raw = await request.body()
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            return _error(400, "The body is not valid JSON.", "invalid_request_error")
        headers = {name: value for name in PASSED_ON if (value := request.headers.get(name)) is not None}
        return await self._answer(ModelCall(path, headers, body, len(raw)))

    async def _answer(self, call: ModelCall) -> Response:
        for _ in range(ATTEMPTS):
            items: Any = self._model.remote(call)
            try:
                head: Head = await anext(items)
                if "json" in head.headers.get("content-type", ""):
                    return Response(b"".join([piece async for piece in items]), head.status, head.headers)
                first: bytes = await anext(items, b"")  # nothing has begun for the caller before that
                return StreamingResponse(_body(first, items, call.path), head.status, head.headers)
            except (BackPressureError, DeploymentUnavailableError):
                break
            except RayTaskError:
                logger.exception("A replica failed before it answered.")
                return _error(500, "The server had an error while processing your request.", "server_error")
            except RayError as error:
                logger.warning("A replica was lost before it answered; another one is asked. %s", error)
        return _error(503, "No replica can answer now.", "service_unavailable_error", {"retry-after": "1"})


async def _body(first: bytes, items: Any, path: str) -> AsyncIterator[bytes]:
    try:
        yield first
        async for piece in items:
            yield piece
    except RayError as error:
        logger.warning("A replica was lost, or failed, in the middle of an answer. %s", error)
        yield _last_words(path)
    finally:
        items.cancel()


def _last_words(path: str) -> bytes:
    """How a stream of this route ends when it cannot go on: the wire's error line, or an error as OpenAI sends it."""
    if path == "/v1/models/model:predict":
        event = {"event": "error", "status": 502, "type": "server_error", "message": LOST, "param": None, "code": None}
        return orjson.dumps(event) + b"\n"
    if path == "/v1/responses":
        event = {"type": "error", "code": "server_error", "message": LOST, "param": None}
        return b"event: error\ndata: %b\n\n" % orjson.dumps(event)
    error = {"error": {"message": LOST, "type": "server_error", "param": None, "code": None}}
    return b"data: %b\n\ndata: [DONE]\n\n" % orjson.dumps(error)


def _error(status: int, message: str, kind: str, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"message": message, "type": kind, "param": None, "code": None}}
    return JSONResponse(body, status, headers)

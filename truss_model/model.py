"""The Truss model class, and the only file that knows Truss. What it does is done by the Service behind it."""

import asyncio
import functools
import logging
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from truss_model.collector import collector_at_rest
from truss_model.errors import LoadError
from truss_model.openai_routes import OpenAIRoutes, RequestContext

if TYPE_CHECKING:
    from truss_model.service import Service

logger = logging.getLogger(__name__)

TOKEN_SECRET = "hf_access_token"
TRUSS_WATCHER = "watch_disconnect"
Message = MutableMapping[str, Any]  # ASGI's
Send = Callable[[Message], Awaitable[None]]


def build_service(config: Mapping[str, Any], token: str | None) -> "Service":
    """The real one. Imported when it is wanted: importing transformers is much of the time to load."""
    from truss_model import startup

    return startup.build_service(config, token)


class StreamedResponse(Response):
    """Pieces of an answer, each sent when it is made; a client that reads slowly gets larger ones.

    A native generator would go through Truss's unbounded queue, at two tasks and a timeout a piece, and Truss holds the
    slot of a StreamingResponse until that is garbage collected. The slot of any other response is free at once: the
    engine's own queue is the bound. Nothing here watches the client: the answer itself ends when it disconnects.
    """

    media_type = "application/octet-stream"

    def __init__(self, pieces: AsyncIterator[bytes], headers: Mapping[str, str] | None = None) -> None:
        """headers: may name another content-type."""
        self.body_iterator = pieces
        self.status_code = 200
        self.background = None
        self.init_headers(headers)  # without a body there is no content-length, and the server sends chunks

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self.body_iterator:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(request: Request) -> bool:
    """Return when the client has gone. The body was read before, so nothing else is received."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return True


class Model:
    """Truss makes one, calls load once in a thread, then predict on its event loop for every request."""

    def __init__(
        self,
        config: Mapping[str, Any],
        secrets: Mapping[str, str],
        environment: Mapping[str, Any] | None = None,
        build: Callable[[Mapping[str, Any], str | None], "Service"] = build_service,
    ) -> None:
        self._config = config
        self._secrets = secrets
        self._environment = environment
        self._build = build
        self._service: Service | None = None
        self._drains = False
        self._refusal: LoadError | None = None
        self._retried = False

    def load(self) -> None:
        """Return when requests can be answered at full speed. Truss calls it a second time when it has failed.

        Raises LoadError; what cannot succeed is not tried again.
        """
        if self._refusal is not None:
            raise self._refusal
        if self._environment:
            logger.info("Loading for the environment %s.", self._environment.get("name"))
        try:
            with collector_at_rest():
                self._service = self._build(self._config, self._token())
        except LoadError as error:
            if error.transient and not self._retried:
                self._retried = True
                logger.warning("%s It is tried once more.", error.message)
                raise
            self._refusal = error
            logger.error("The model cannot be loaded. %s", error.message)
            raise

    async def predict(self, inputs: dict[str, Any], request: Request) -> Any:
        """A dict, a response of NDJSON lines, or a response with an error: the shapes of output.events.

        Everything that can be refused is refused before lines are returned.
        """
        _drop_cycle(request)
        reply = await self._loaded().predict(inputs, _size(request), functools.partial(_disconnected, request))
        if reply.lines is not None:
            return StreamedResponse(reply.lines)
        if reply.status == 200:
            return reply.body
        # Truss drops the headers of an HTTPException, and so would lose Retry-After.
        return JSONResponse(reply.body, reply.status, reply.headers)

    async def chat_completions(self, model_input: Any, request: Request) -> Response:
        """`POST /v1/chat/completions`. Always a response, which Truss passes on for every Accept and User-Agent."""
        return await self._openai("/chat/completions", model_input, request)

    async def completions(self, model_input: Any, request: Request) -> Response:
        """`POST /v1/completions`."""
        return await self._openai("/completions", model_input, request)

    async def responses(self, model_input: Any, request: Request) -> Response:
        """`POST /v1/responses`."""
        return await self._openai("/responses", model_input, request)

    async def is_healthy(self) -> bool:
        return self._service is not None and self._service.healthy

    async def _openai(self, path: str, model_input: Any, request: Request) -> Response:
        """On these routes Truss holds no slot of `predict_concurrency`: the engine's queue is the only bound."""
        _drop_cycle(request)
        request_id = request.headers.get("x-request-id") or request.headers.get("x-baseten-request-id")
        context = RequestContext(_size(request), functools.partial(_disconnected, request), request_id)
        service = self._loaded()
        answer = await OpenAIRoutes(service, service.settings).answer(path, model_input, context)
        if answer.events is not None:
            return StreamedResponse(answer.events, answer.headers)
        return Response(answer.body, answer.status, answer.headers)

    def _loaded(self) -> "Service":
        if self._service is None:
            raise RuntimeError("The model was called before load.")
        self._drain_on_sigterm(self._service)
        return self._service

    def _token(self) -> str | None:
        try:
            return self._secrets[TOKEN_SECRET] or None
        except Exception:  # Truss's SecretNotFound is no KeyError and is importable in its server only
            return None

    def _drain_on_sigterm(self, service: "Service") -> None:
        """Truss waits for running requests for up to an hour after SIGTERM and has no hook: its handler gets a guest.

        Handlers can be set in the main thread only, where its event loop is, and not before that runs: at a request.
        """
        if self._drains or threading.current_thread() is not threading.main_thread():
            return
        self._drains = True
        loop = asyncio.get_running_loop()
        previous = signal.getsignal(signal.SIGTERM)

        def drain(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(service.drain)
            if callable(previous):
                previous(number, frame)

        signal.signal(signal.SIGTERM, drain)


def _drop_cycle(request: Request) -> None:
    """Truss keeps a function in the request's state that refers to the request, for models that ask it whether the
    client is there. With it every request would wait for the garbage collector."""
    if hasattr(request.state, TRUSS_WATCHER):
        delattr(request.state, TRUSS_WATCHER)


def _size(request: Request) -> int:
    """Of the body in bytes; a large number if it is not known."""
    return int(request.headers.get("content-length") or 1 << 30)

"""The Truss model class, and the only file that knows Truss. What it does is done by the Service behind it."""

# No `from __future__ import annotations` here: Truss looks at the annotations of predict as objects.

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.responses import JSONResponse

from truss_model.collector import collector_at_rest
from truss_model.errors import LoadError

if TYPE_CHECKING:
    from truss_model.service import Service

logger = logging.getLogger(__name__)

TOKEN_SECRET = "hf_access_token"


def build_service(config: Mapping[str, Any], token: str | None) -> "Service":
    """The real one. Imported when it is wanted: importing torch and transformers is most of the time to load."""
    from truss_model import startup

    return startup.build_service(config, token)


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

    def load(self) -> None:
        """Return when requests can be answered at full speed."""
        if self._environment:
            logger.info("Loading for the environment %s.", self._environment.get("name"))
        try:
            with collector_at_rest():
                self._service = self._build(self._config, self._token())
        except LoadError as error:
            logger.error("The model cannot be loaded. %s", error.message)
            raise

    async def predict(self, inputs: dict[str, Any], request: Request) -> Any:
        """A dict, a native generator of NDJSON lines, or a response with an error; truss_model.events has the shapes.

        Everything that can be refused is refused before a generator is returned. A returned StreamingResponse would
        hold Truss's slot until it is garbage collected; a generator gives it back when it ends.
        """
        if self._service is None:
            raise RuntimeError("predict was called before load.")
        self._drain_on_sigterm(self._service)
        size = int(request.headers.get("content-length") or 1 << 30)
        reply = await self._service.predict(inputs, size, request.is_disconnected)
        if reply.lines is not None:
            return reply.lines
        if reply.status == 200:
            return reply.body
        # Truss drops the headers of an HTTPException, and so would lose Retry-After.
        return JSONResponse(reply.body, reply.status, reply.headers)

    async def is_healthy(self) -> bool:
        return self._service is not None and self._service.healthy

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

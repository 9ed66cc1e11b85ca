"""One process that serves: uvicorn, a drain on SIGTERM, a reload on SIGHUP. Knows no routes."""

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from bridge_adapter.server.app import create_app
from bridge_adapter.server.http_protocol import BridgeProtocol
from bridge_adapter.server.state import AdapterState
from bridge_adapter.settings import AdapterSettings, SettingsError

_logger = logging.getLogger("bridge_adapter")
_POLL_SECONDS = 0.05


class BridgeServer(uvicorn.Server):
    """The first SIGTERM or SIGINT: no new requests, running ones may end, for `drain` seconds. A second: at once."""

    def __init__(self, settings: AdapterSettings, reread: Callable[[], AdapterSettings] | None = None) -> None:
        app = create_app(settings)
        self.state: AdapterState = app.state.adapter
        self._reread = reread
        self._drain: asyncio.Task[None] | None = None
        super().__init__(
            uvicorn.Config(
                app,
                host=settings.server.host,
                port=settings.server.port,
                loop="auto",
                http=BridgeProtocol,
                ws="none",
                lifespan="on",
                access_log=False,
                proxy_headers=False,  # no answer depends on the address of the client
                log_level="warning",
                server_header=False,
                timeout_graceful_shutdown=1,
                # Longer than clients and load balancers keep an idle connection: who closes first breaks no request.
                timeout_keep_alive=75,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._reread is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # blocked by the parent of several workers
        # What was made to start lives as long as the process: the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        gc.collect()  # of nothing: a full collection waits for a quarter as many new objects as the last one left
        gc.enable()
        # Few and small collections keep the tail short; who leaves and who is refused does leave cycles behind.
        gc.set_threshold(20_000, 5, 5)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.state.draining or self.state.in_flight == 0 or not self.started:
            super().handle_exit(sig, frame)
            return
        self._captured_signals.append(sig)
        self.state.draining = True

    async def on_tick(self, counter: int) -> bool:
        if self.state.draining and not self.should_exit and self._drain is None:
            self._drain = asyncio.create_task(self._wait_until_drained())
        return await super().on_tick(counter)

    async def _wait_until_drained(self) -> None:
        try:
            async with asyncio.timeout(self.state.settings.server.drain):
                while self.state.in_flight:
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            _logger.warning("drain: %d requests did not end in time", self.state.in_flight)
        self.should_exit = True

    def _reload(self) -> None:
        if self._reread is None:
            return
        try:
            self.state.reload(self._reread())
        except SettingsError as error:
            _logger.error("reload: the settings are not used: %s", error)
        else:
            _logger.warning("reload: the settings are used from now on")

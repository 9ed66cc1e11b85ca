"""Several worker processes on one socket: started, told the signals, started again when they die."""

import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import time
from multiprocessing.process import BaseProcess
from types import FrameType

from prometheus_client.multiprocess import mark_process_dead

from bridge_adapter.server.process import BridgeServer
from bridge_adapter.settings import AdapterSettings
from bridge_adapter.settings_file import load_settings

_SHORTEST_LIFE = 1.0
_CONTEXT = multiprocessing.get_context("spawn")


def serve_socket(listener: socket.socket, path: str | None, overrides: dict[str, str]) -> None:
    """One worker's whole life."""

    def reread() -> AdapterSettings:
        return load_settings(path, {**os.environ, **overrides})

    BridgeServer(reread(), reread).run(sockets=[listener])


class Workers:
    """The parent of `count` workers. Limits of models, and of keys without `keys.store`, hold in each by itself."""

    def __init__(self, count: int, listener: socket.socket, path: str | None, overrides: dict[str, str]) -> None:
        self._arguments = (listener, path, overrides)
        self._count = count
        self._stopping = False
        self._running: dict[BaseProcess, float] = {}

    def run(self) -> None:
        folder = tempfile.mkdtemp(prefix="bridge-adapter-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, self._stop)
        signal.signal(signal.SIGHUP, self._pass_on)
        try:
            while not self._stopping or self._running:
                self._replace_dead()
                multiprocessing.connection.wait([process.sentinel for process in self._running], timeout=0.5)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _replace_dead(self) -> None:
        for process, born in list(self._running.items()):
            if not process.is_alive():
                process.join()
                # Its gauges end with it, its counters stay in the sum.
                mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
                del self._running[process]
                if time.monotonic() - born < _SHORTEST_LIFE and not self._stopping:
                    time.sleep(_SHORTEST_LIFE)  # what dies at once would die at once again
        while not self._stopping and len(self._running) < self._count:
            process = _CONTEXT.Process(target=serve_socket, args=self._arguments)
            process.start()
            self._running[process] = time.monotonic()

    def _stop(self, sig: int, frame: FrameType | None) -> None:
        self._stopping = True
        self._pass_on(sig, frame)

    def _pass_on(self, sig: int, frame: FrameType | None) -> None:
        for process in self._running:
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, sig)

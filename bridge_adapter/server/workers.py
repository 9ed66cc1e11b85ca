"""Several worker processes on one socket: started, told the signals, started again when they die."""

import multiprocessing
import os
import shutil
import signal
import socket
import tempfile
import time
from collections import deque
from multiprocessing.connection import wait
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
        self._signals: deque[int] = deque()
        self._woken, self._waking = _CONTEXT.Pipe(duplex=False)

    def run(self) -> None:
        folder = tempfile.mkdtemp(prefix="bridge-adapter-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(sig, self._note)
        try:
            while not self._stopping or self._running:
                self._pass_on_signals()
                self._replace_dead()
                wait([self._woken, *(process.sentinel for process in self._running)], timeout=0.5)
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
                    self._woken.poll(_SHORTEST_LIFE)  # what dies at once would die at once again
        while not self._stopping and not self._signals and len(self._running) < self._count:
            process = _CONTEXT.Process(target=serve_socket, args=self._arguments)
            # Without a handler yet it would end by a reload. It inherits the mask, and lifts it with its handler.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
            process.start()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
            self._running[process] = time.monotonic()

    def _note(self, sig: int, frame: FrameType | None) -> None:
        # No more than that: a handler may run in the middle of a start, when the new worker is not yet known.
        self._signals.append(sig)
        self._waking.send_bytes(b"")

    def _pass_on_signals(self) -> None:
        while self._woken.poll():  # each was sent behind its signal
            self._woken.recv_bytes()
        while self._signals:
            sig = self._signals.popleft()
            if sig != signal.SIGHUP:
                self._stopping = True
            for process in self._running:
                if process.pid is not None and process.is_alive():
                    os.kill(process.pid, sig)

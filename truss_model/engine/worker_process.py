"""The engine's process as the server holds it: a child at the other end of a socket. Knows no requests."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from truss_model.engine.messages import FrameReader, frame
from truss_model.engine.stats import Attempt
from truss_model.errors import GpuLost, LoadError

WORKER = "truss_model.worker"
GRACE_SECONDS = 1.0


class WorkerProcess:
    """A started process, ready. Raises LoadError where it could not get ready."""

    def __init__(self, module: str, config: Mapping[str, Any], token: str | None) -> None:
        self.connection, theirs = socket.socketpair()
        descriptor = theirs.fileno()
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, str(descriptor)],
            pass_fds=[descriptor],
            env={**os.environ, "PYTHONPATH": paths},
            stdin=subprocess.DEVNULL,
        )
        theirs.close()
        self.frames = FrameReader(self.connection)
        try:
            self.send((dict(config), token))
            [(kind, *rest)] = self.frames.wait()
        except (EOFError, OSError):
            ended = self.end()
            hint = " The system may have run out of memory." if ended == "SIGKILL" else ""
            raise LoadError(f"The engine's process ended with {ended} while it started.{hint}") from None
        if kind == "failed":
            self.end()
            message, transient, gpu_lost = rest
            raise (GpuLost if gpu_lost else LoadError)(message, transient=transient)
        self.max_model_len, folder, self.name, attempts = rest
        self.folder = Path(folder)
        self.attempts = [Attempt(*attempt) for attempt in attempts]

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: tuple[Any, ...]) -> None:
        self.connection.sendall(frame(message))

    def end(self) -> str:
        """How it ended, in words; it is killed if it does not end by itself when its socket is closed."""
        self.connection.close()
        try:
            code = self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        return f"exit code {code}" if code >= 0 else signal.Signals(-code).name

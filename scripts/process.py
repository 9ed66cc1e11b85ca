"""A server as a child process: its own process group, its output in a file, ready or dead, stopped for certain."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import IO, Self


class ServerFailed(Exception):
    """The server did not become ready; the message ends with the last lines it wrote."""


class ServerProcess:
    """Started when made. `echo` is called with every line of output besides the log file, until `quiet`."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        log: Path,
        echo: Callable[[str], None] | None = None,
    ) -> None:
        self.name = name
        self.log = log
        self._echo = echo
        self._popen = subprocess.Popen(
            [str(part) for part in command],
            cwd=cwd,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own: Ctrl-C reaches only the parent, which then stops the group
        )
        output = self._popen.stdout
        if output is None:
            raise ServerFailed(f"{name} has no output pipe.")
        self._reader = Thread(target=self._copy_output, args=(output,), name=f"{name}-output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        return self._popen.poll()

    def quiet(self) -> None:
        self._echo = None

    def wait_ready(self, url: str, timeout: float) -> None:
        """Poll `url` until it answers 200; raise ServerFailed when the process ends or the time is over."""
        end = time.monotonic() + timeout
        while not _answers(url):
            if self.exit_code is not None:
                self._reader.join(5)
                raise ServerFailed(f"{self.name} ended with exit code {self.exit_code}.\n{self.last_lines()}")
            if time.monotonic() > end:
                raise ServerFailed(f"{self.name} was not ready after {timeout:.0f} s.\n{self.last_lines()}")
            time.sleep(0.1)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and everything it has started."""
        try:
            os.killpg(self._popen.pid, number)
        except ProcessLookupError:
            pass

    def wait(self, timeout: float) -> int:
        return self._popen.wait(timeout)

    def stop(self, grace: float = 0.0) -> None:
        """End the group: SIGTERM first if there is a grace period, SIGKILL for what is left after it."""
        if grace > 0:
            self.signal(signal.SIGTERM)
            try:
                self._popen.wait(grace)
            except subprocess.TimeoutExpired:
                pass
        self.signal(signal.SIGKILL)
        self._popen.wait()
        self._reader.join(5)

    def last_lines(self, count: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-count:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _copy_output(self, output: IO[bytes]) -> None:
        with output, self.log.open("ab", buffering=0) as log:
            for line in output:
                log.write(line)
                if (echo := self._echo) is not None:
                    echo(line.decode(errors="replace").rstrip("\n"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def require_free(port: int, variable: str) -> None:
    """Exit with a clear message when something listens on the port already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            sys.exit(f"Port {port} is taken. Choose another one: make serve {variable}={port + 1}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False

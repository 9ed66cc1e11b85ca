"""A server as a child process: its own process group, its output in a file, ready or dead, stopped for certain."""

import os
import random
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import IO, Self


class ServerFailed(Exception):
    """The server did not become ready; `reason` is one line, and the message ends with the last lines it wrote."""

    def __init__(self, reason: str, last_lines: str = "") -> None:
        super().__init__(f"{reason}\n{last_lines}" if last_lines else reason)
        self.reason = reason


class ServerProcess:
    """Started when made, with a new log file. `echo` is called with every line of output as well, until `quiet`.

    A carriage return ends a line, too, so that progress bars are seen while they grow.
    """

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
        log.write_bytes(b"")
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

    def end(self) -> str:
        """How the process has ended, in a sentence."""
        if self.exit_code == -signal.SIGKILL:
            return f"{self.name} was killed (signal 9), most often by the system because memory ran out."
        return f"{self.name} ended with exit code {self.exit_code}."

    def quiet(self) -> None:
        self._echo = None

    def wait_ready(self, url: str, timeout: float, waiting: Callable[[], None] = lambda: None) -> None:
        """Poll `url` until it answers 200; raise ServerFailed when the process ends or the time is over.

        `waiting` is called before each look; what it raises ends the wait.
        """
        end = time.monotonic() + timeout
        while not _answers(url):
            waiting()
            if self.exit_code is not None:
                self._reader.join(5)
                raise ServerFailed(self.end(), self.last_lines())
            if time.monotonic() > end:
                raise ServerFailed(f"{self.name} was not ready after {timeout:.0f} s.", self.last_lines())
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
        """A log that can no longer be written is cut short: a server whose output nobody reads would stand still."""
        rest = b""
        with output, self.log.open("ab", buffering=0) as log:
            while piece := os.read(output.fileno(), 65536):
                with suppress(OSError):
                    log.write(piece)
                *lines, rest = re.split(rb"[\r\n]+", rest + piece)
                for line in lines:
                    self._say(line)
        if rest:
            self._say(rest)

    def _say(self, line: bytes) -> None:
        if line and (echo := self._echo) is not None:
            echo(line.decode(errors="replace"))


_given: set[int] = set()


def free_port() -> int:
    """One that this process was not given before, below Linux's range for connections: none takes it meanwhile."""
    chance = random.SystemRandom()
    while (port := chance.randrange(10_000, 32_000)) in _given or not is_free(port):
        pass
    _given.add(port)
    return port


def is_free(port: int) -> bool:
    """Whether a server could listen on the port, on any address of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False

"""A Redis or Valkey of the tests' own: a free port, a password, nothing on disk."""

import asyncio
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import redis.asyncio

from scripts.process import free_port

PASSWORD = "opensesame"
ENVIRONMENT = "TEST_LIMITS_URL"
PATIENT = 10.0  # seconds, for a machine that does much else


def program() -> str | None:
    return shutil.which("redis-server") or shutil.which("valkey-server")


class RedisServer:
    """`start` after `stop` uses the same port, with nothing in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        found = program()
        assert found is not None
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        command = [found, *options, "--dir", str(self._folder), "--requirepass", PASSWORD]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        async with asyncio.timeout(20), self.client() as client:
            while True:
                assert self._process.poll() is None, "the server ended"
                try:
                    await client.ping()
                    return
                except redis.ConnectionError:
                    await asyncio.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """It accepts connections and answers nothing, from the return on."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    async def scripts_run(self) -> int:
        async with self.client() as client:
            found = await client.info("commandstats")
        return sum(found.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("evalsha", "eval"))

    def client(self) -> Any:
        return redis.asyncio.Redis.from_url(self.url)

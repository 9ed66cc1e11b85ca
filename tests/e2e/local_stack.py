"""`make serve` and `make demo` as child processes, on free ports and with a cache of their own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from scripts.process import free_port, is_free
from scripts.serve import REPOSITORY


def local_environment(cache: Path) -> dict[str, str]:
    """What a person's shell would have, but for the hub, which is not asked, and the folder of everything kept."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TRUSS_MODEL_", "HF_"))}
    return inherited | {
        "PORT": str(free_port()),
        "TRUSS_PORT": str(free_port()),
        "XDG_CACHE_HOME": str(cache),
        "HF_HOME": str(cache / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "MODEL": "",
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def start(
    module: str, environment: Mapping[str, str], python: str | Path = sys.executable, file_blocks: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Told to stop when the block ends, so that a failed assertion in it does not wait for ever.

    file_blocks: no file may grow beyond so many times 512 bytes, which is as near to a full disk as a test comes.
    """
    limit = [] if file_blocks is None else ["sh", "-c", f'ulimit -f {file_blocks}; exec "$@"', "sh"]
    with subprocess.Popen(
        [*limit, python, "-m", f"scripts.{module}"],
        cwd=REPOSITORY,
        env=dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def read_until(process: subprocess.Popen[str], beginning: str) -> str:
    """What is printed up to the first line that begins so; nothing is waited for if that is empty."""
    assert process.stdout is not None
    printed = ""
    while beginning:
        line = process.stdout.readline()
        printed += line
        assert line, printed
        if line.startswith(beginning):
            break
    return printed


def left_over(environment: Mapping[str, str]) -> list[str]:
    """The servers of this environment's ports that run, and those of the ports that are not free."""
    ports = {port for port in (environment["PORT"], environment["TRUSS_PORT"]) if port.isdecimal()}
    found = [f"port {port}" for port in ports if not is_free(int(port)) or _listens(int(port))]
    for process in psutil.process_iter():
        try:
            told, command = process.environ(), process.cmdline()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if {told.get("BRIDGE_SERVER_PORT"), told.get("INFERENCE_SERVER_PORT")} & ports:
            found.append(" ".join(command))
    return found


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

"""`make demo` holds its conversation; `make serve` tells how to talk to it and leaves no process behind."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from scripts.process import free_port
from scripts.serve import REPOSITORY
from tests.e2e.server import LOAD_SECONDS

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def environment(demo_weights: Path) -> Iterator[dict[str, str]]:
    """Free ports, and the demo model as a machine without GPU and weights would find it."""
    port, truss_port = free_port(), free_port()
    yield {
        **os.environ,
        "PORT": str(port),
        "TRUSS_PORT": str(truss_port),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
    shutil.rmtree(REPOSITORY / ".cache" / f"serve-{port}", ignore_errors=True)


@contextmanager
def start(module: str, environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """Told to stop when the block ends, so that a failed assertion in it does not wait for ever."""
    with subprocess.Popen(
        [sys.executable, "-m", f"scripts.{module}"],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def running(environment: dict[str, str]) -> list[str]:
    """The servers that this environment's ports belong to."""
    mine = {environment["PORT"], environment["TRUSS_PORT"]}
    found = []
    for process in psutil.process_iter():
        try:
            told = process.environ()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if {told.get("BRIDGE_SERVER_PORT"), told.get("INFERENCE_SERVER_PORT")} & mine:
            found.append(" ".join(process.cmdline()))
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_demo(environment: dict[str, str]) -> None:
    with start("demo", environment) as demo:
        printed, _ = demo.communicate(timeout=LOAD_SECONDS)
    assert demo.returncode == 0, printed
    answers = re.findall(r"assistant: (.+)|streamed: (.+)", printed)
    assert len(answers) == 3  # the guide's own, the plain one, the streamed one
    assert answers[1][0].strip() == answers[2][1].strip()
    assert re.findall(r"finish_reason=(\w+) usage=prompt_tokens (\d+)", printed)[0][0] in ("stop", "length")
    assert "prompt_tokens 0" not in printed
    assert running(environment) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_until_it_is_told_to_stop(environment: dict[str, str], number: signal.Signals) -> None:
    url = f"http://127.0.0.1:{environment['PORT']}"
    with start("serve", environment) as serve:
        assert serve.stdout is not None
        printed = ""
        for line in serve.stdout:
            printed += line
            if "Ctrl-C stops" in line:
                break
        assert f"localhost:{environment['PORT']}/v1" in printed and "curl" in printed, printed
        assert httpx.get(f"{url}/v1/models", timeout=30).json()["data"][0]["id"] == "mistral-7b"
        assert len(running(environment)) == 2
        serve.send_signal(number)
        serve.communicate(timeout=60)
    assert serve.returncode == 0
    assert running(environment) == []


def test_a_stop_while_the_model_loads(environment: dict[str, str]) -> None:
    with start("serve", environment) as serve:
        wait_until(lambda: len(running(environment)) == 2, LOAD_SECONDS)
        serve.terminate()
        serve.communicate(timeout=60)
    assert running(environment) == []


def test_a_taken_port_is_named(environment: dict[str, str]) -> None:
    with socket.create_server(("0.0.0.0", int(environment["PORT"]))), start("serve", environment) as serve:
        printed, _ = serve.communicate(timeout=60)
    assert serve.returncode == 1
    assert f"Port {environment['PORT']} is taken" in printed


def test_a_model_that_cannot_be_loaded_says_why(environment: dict[str, str], tmp_path: Path) -> None:
    with start("serve", {**environment, "MODEL": str(tmp_path)}) as serve:
        printed, _ = serve.communicate(timeout=LOAD_SECONDS)
    assert serve.returncode == 1
    assert "config.json" in printed and "cannot be loaded" in printed
    assert running(environment) == []

"""The services that stand between a client and the mock upstream: nginx bare, LiteLLM's proxy, and ours."""

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.process_tree import ProcessTree
from benchmarks.report import say
from scripts.process import ServerFailed, ServerProcess, free_port
from scripts.stack import start_adapter

CHAT = "/v1/chat/completions"
MODEL = "mock"
LITELLM = "litellm[proxy]==1.106.2"
LITELLM_KEY = "sk-benchmark-1234-abcdefghijklmnop"  # it refuses to start without one
READY_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Proxy:
    """`key`: what its clients send. `start_seconds`: from its start to its first answer."""

    name: str
    port: int
    server: ServerProcess
    start_seconds: float
    key: str = "none"

    @property
    def tree(self) -> ProcessTree:
        return ProcessTree([self.server.pid])


Starter = Callable[[Path, int, int], AbstractContextManager[Proxy]]  # run folder, the upstream's port, workers


@contextmanager
def ours(
    run_dir: Path, upstream: int, workers: int = 1, name: str = "ours", source: Path | None = None
) -> Iterator[Proxy]:
    """Speaks the predict contract to the upstream, ChatCompletions to the client. Defaults, but for the access log,
    which the others write none of either. source: the work tree of another commit."""
    port = free_port()
    run_dir = run_dir / name
    run_dir.mkdir(exist_ok=True)
    environment = {"PYTHONPATH": str(source)} if source else {}
    url = f"http://127.0.0.1:{upstream}/v1/models/model:predict"
    settings = {"models": {MODEL: {"url": url}}, "observe": {"access_log": "off"}, "server": {"workers": workers}}
    began = time.perf_counter()
    with start_adapter(settings, port, run_dir, environment=environment) as server:
        yield Proxy(name, port, server, _wait(server, f"http://127.0.0.1:{port}/health/ready", began))


@contextmanager
def nginx(run_dir: Path, upstream: int, workers: int = 1) -> Iterator[Proxy]:
    """No buffering, no log: bytes in, bytes out."""
    port = free_port()
    program = _nginx_program()
    if program is None:
        raise ServerFailed("nginx is not installed: apt-get install nginx-light")
    folder = run_dir / "nginx"
    folder.mkdir(exist_ok=True)
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes {workers}; pid {folder}/pid; error_log stderr error;\n"
        "events { worker_connections 4096; }\n"
        f"http {{ access_log off; {paths} keepalive_requests 1000000;\n"
        f"  upstream mock {{ server 127.0.0.1:{upstream}; keepalive 1024; keepalive_requests 1000000; }}\n"
        f"  server {{ listen 127.0.0.1:{port} backlog=2048; location / {{ proxy_pass http://mock;\n"
        f'    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }} }}\n'
    )
    began = time.perf_counter()
    command: list[str | Path] = [program, "-e", "stderr", "-p", folder, "-c", folder / "nginx.conf"]
    with _started("nginx", command, run_dir) as server:
        yield Proxy("nginx", port, server, _wait(server, f"http://127.0.0.1:{port}/", began))


@contextmanager
def litellm(run_dir: Path, upstream: int, workers: int = 1) -> Iterator[Proxy]:
    """In an environment of its own, made at the first run; no telemetry and no download of prices."""
    port = free_port()
    program = _litellm_program(run_dir)
    model = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    config = run_dir / "litellm.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "model_list": [{"model_name": MODEL, "litellm_params": model}],
                "litellm_settings": {"telemetry": False},
                "general_settings": {"master_key": LITELLM_KEY},
            }
        )
    )
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    command: list[str | Path] = [
        program,
        "--config",
        config,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        str(workers),
    ]
    began = time.perf_counter()
    with _started("litellm", command, run_dir, environment) as server:
        seconds = _wait(server, f"http://127.0.0.1:{port}/health/liveliness", began)
        yield Proxy("LiteLLM", port, server, seconds, LITELLM_KEY)


@contextmanager
def mock_upstream(run_dir: Path, port: int | None = None, wait: int = 0) -> Iterator[Proxy]:
    """The upstream itself: what the load can do with nothing in between. wait: milliseconds before an answer."""
    port = port or free_port()
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.mock_upstream", str(port), str(wait)]
    with _started(f"mock-{port}", command, run_dir) as server:
        yield Proxy("direct", port, server, _wait(server, f"http://127.0.0.1:{port}/", began))


def installed(name: str, run_dir: Path) -> bool:
    return _nginx_program() is not None if name == "nginx" else _litellm_stamp(run_dir).exists()


def _nginx_program() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


def _litellm_stamp(run_dir: Path) -> Path:
    return run_dir / "litellm-venv" / ".installed"


def _litellm_program(run_dir: Path) -> Path:
    stamp = _litellm_stamp(run_dir)
    environment = stamp.parent
    if not stamp.exists() or stamp.read_text() != LITELLM:
        say(f"installing {LITELLM} into {environment}, once: some minutes")
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", environment], check=True)
        subprocess.run([environment / "bin/pip", "install", "--quiet", LITELLM], check=True)
        stamp.write_text(LITELLM)
    return environment / "bin/litellm"


@contextmanager
def _started(
    name: str, command: Sequence[str | Path], run_dir: Path, environment: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    log = run_dir / f"{name}.log"
    log.unlink(missing_ok=True)
    repository = Path(__file__).resolve().parent.parent
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(repository), **(environment or {})}
    with ServerProcess(name, command, cwd=run_dir, environment=variables, log=log) as server:
        yield server


def _wait(server: ServerProcess, url: str, began: float) -> float:
    """Seconds since `began` until the URL answers 200, to about 10 ms."""
    while time.perf_counter() - began < READY_SECONDS:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                if response.status == 200:
                    return time.perf_counter() - began
        except (urllib.error.URLError, OSError):
            pass
        if server.exit_code is not None:
            break
        time.sleep(0.01)
    raise ServerFailed(f"{server.name} did not become ready.\n{server.last_lines()}")

"""The process itself: `bridge-adapter serve` started, told signals, stopped; and several workers on one socket."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from bridge_adapter.cli import main

PATIENCE = 60.0  # seconds; only what hangs takes so long
BODY = b'{"model": "%s", "messages": [{"role": "user", "content": "Hi"}], "stream": %s}'


class Truss(BaseHTTPRequestHandler):
    """Streams two deltas, the second when `go` is set."""

    protocol_version = "HTTP/1.1"
    go = threading.Event()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self._piece(b'{"event":"start"}\n{"event":"delta","index":0,"text":"one "}\n')
        self.go.wait(PATIENCE)
        end = b'{"event":"finish","index":0,"reason":"stop"}\n{"event":"done"}\n'
        self._piece(b'{"event":"delta","index":0,"text":"two"}\n' + end)
        self.wfile.write(b"0\r\n\r\n")

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def _piece(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def truss() -> Iterator[str]:
    Truss.go = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Truss)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Truss.go.set()
    server.shutdown()
    server.server_close()
    thread.join()


class Process:
    """A served settings file; `port` is that of the socket that the process listens on, `log` its standard error."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes], port: int, log: list[bytes]) -> None:
        self.path = path
        self.process = process
        self.port = port
        self._log = log

    @property
    def log(self) -> bytes:
        return b"".join(self._log)

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def chat(self, model: str = "m", *, stream: bool = False) -> tuple[HTTPConnection, HTTPResponse]:
        connection = self.connect()
        body = BODY % (model.encode(), b"true" if stream else b"false")
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        return connection, connection.getresponse()

    def get(self, path: str) -> tuple[int, bytes]:
        connection = self.connect()
        connection.request("GET", path)
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer


@contextmanager
def serving(path: Path, tree: dict[str, Any], *arguments: str) -> Iterator[Process]:
    path.write_text(yaml.safe_dump(tree))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    command = [sys.executable, "-m", "bridge_adapter.cli", "serve", "--config", str(path), "--port", "0", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=environment, start_new_session=True)
    assert process.stderr is not None
    log: list[bytes] = []
    drain = threading.Thread(target=log.extend, args=(process.stderr,))
    try:
        said = b""
        while not (found := re.search(rb"listens on http://127.0.0.1:(\d+)", said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        drain.start()
        yield Process(path, process, int(found[1]), log)
    finally:
        # With its workers, which are of its session: an orphan would keep the standard error open.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if drain.ident is not None:
            drain.join()
        process.stderr.close()


def settings(truss: str, *models: str) -> dict[str, Any]:
    return {"models": {name: {"url": truss} for name in models}, "observe": {"access_log": "off"}}


def workers_of(pid: int) -> set[int]:
    """The workers of a parent; multiprocessing's resource tracker is no worker."""
    workers = set()
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                workers.add(int(child))
    return workers


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_drain_lets_streams_end_and_takes_nothing_new(truss: str, tmp_path: Path) -> None:
    with serving(tmp_path / "s.yaml", settings(truss, "m")) as served:
        connection, stream = served.chat(stream=True)
        assert b"one" in stream.readline() + stream.readline() + stream.readline()
        served.process.send_signal(signal.SIGTERM)
        eventually(lambda: served.get("/health/ready")[0] == 503)
        other, refused = served.chat()
        assert refused.status == 503
        assert b"shutting down" in refused.read()
        assert served.get("/health/live")[0] == 200
        Truss.go.set()
        assert stream.read().endswith(b"data: [DONE]\n\n")
        assert served.process.wait(PATIENCE) == -signal.SIGTERM
        connection.close()
        other.close()


def test_a_drain_has_an_end(truss: str, tmp_path: Path) -> None:
    tree = settings(truss, "m") | {"server": {"drain": 0.1}}
    with serving(tmp_path / "s.yaml", tree) as served:
        connection, stream = served.chat(stream=True)
        stream.readline()
        served.process.send_signal(signal.SIGTERM)
        with pytest.raises(HTTPException):  # the stream is cut, although the Truss goes on with it
            stream.read()
        assert not Truss.go.is_set()
        assert served.process.wait(PATIENCE) == -signal.SIGTERM
        eventually(lambda: b"drain: 1 requests did not end in time" in served.log)
        connection.close()


def test_a_reload_changes_the_models_and_keeps_the_streams(truss: str, tmp_path: Path) -> None:
    with serving(tmp_path / "s.yaml", settings(truss, "m")) as served:
        connection, stream = served.chat(stream=True)
        stream.readline()
        served.path.write_text(yaml.safe_dump(settings(truss, "n")))
        served.process.send_signal(signal.SIGHUP)
        eventually(lambda: b'"n"' in served.get("/v1/models")[1])
        served.path.write_text("models: [broken")
        served.process.send_signal(signal.SIGHUP)
        eventually(lambda: b"reload: the settings are not used" in served.log)
        assert b'"n"' in served.get("/v1/models")[1]
        Truss.go.set()
        assert stream.read().endswith(b"data: [DONE]\n\n")
        connection.close()
        other, answered = served.chat("m")
        assert answered.status == 404
        other.close()


def test_workers_share_a_socket_and_their_metrics(truss: str, tmp_path: Path) -> None:
    Truss.go.set()
    with serving(tmp_path / "s.yaml", settings(truss, "m"), "--workers", "2") as served:
        for _ in range(6):
            connection, answered = served.chat()
            assert answered.status == 200
            answered.read()
            connection.close()
        eventually(
            lambda: (
                b'bridge_requests_total{model="m",route="chat.completions",status="200",stream="false"} 6.0'
                in served.get("/metrics")[1]
            )
        )
        workers = workers_of(served.process.pid)
        os.kill(min(workers), signal.SIGKILL)
        eventually(lambda: len(workers_of(served.process.pid) - workers) == 1)
        eventually(lambda: b"bridge_in_flight 1.0" in served.get("/metrics")[1])
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(PATIENCE) == 0


_TOLD_WHILE_WORKERS_START = """
import os, signal, socket, sys
from bridge_adapter.server.workers import Workers

def reloaded():
    "In the new worker, before anything of its own runs."
    os.kill(os.getpid(), signal.SIGHUP)
    return {}

class Told(dict):
    "Is pickled for the new worker: after the parent began to start it, before it can know of it."
    def __reduce__(self):
        if sys.argv[2] == "reload":
            return reloaded, ()
        os.kill(os.getpid(), signal.SIGTERM)
        return dict, (dict(self),)

if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        Workers(2, listener, sys.argv[1], Told()).run()
"""


@contextmanager
def workers_told(truss: str, folder: Path, what: str) -> Iterator[Process]:
    (folder / "s.yaml").write_text(yaml.safe_dump(settings(truss, "m")))
    (folder / "told.py").write_text(_TOLD_WHILE_WORKERS_START)
    command = [sys.executable, str(folder / "told.py"), str(folder / "s.yaml"), what]
    with subprocess.Popen(command, process_group=0, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield Process(folder / "s.yaml", process, int(process.stdout.readline()), [])
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_worker_that_was_being_started_is_told_to_stop(truss: str, tmp_path: Path) -> None:
    with workers_told(truss, tmp_path, "stop") as told:
        assert told.process.wait(PATIENCE) == 0


def test_a_reload_does_not_end_a_worker_that_is_being_started(truss: str, tmp_path: Path) -> None:
    with workers_told(truss, tmp_path, "reload") as told:
        assert told.get("/health/live")[0] == 200
        told.process.send_signal(signal.SIGTERM)
        assert told.process.wait(PATIENCE) == 0


def test_a_taken_port_is_told(truss: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump(settings(truss, "m")))
    port = truss.rpartition(":")[2]
    assert main(["serve", "--config", str(path), "--port", port]) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_a_process_that_is_killed_leaves_no_worker_to_wait_for(truss: str, tmp_path: Path) -> None:
    """Of the tests' own: what a failing test leaves behind must not keep its reader waiting."""
    with serving(tmp_path / "s.yaml", settings(truss, "m"), "--workers", "2") as served:
        eventually(lambda: len(workers_of(served.process.pid)) == 2)
        workers = workers_of(served.process.pid)
        served.process.kill()
    eventually(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers))

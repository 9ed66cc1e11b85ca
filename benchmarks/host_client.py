"""Many streams read over raw sockets, in a process of its own: counts tokens and lines, decodes nothing.

`python -m benchmarks.host_client '{"port": 8080, "streams": 64, "body": {...}, "warmup": 2, "seconds": 8}'`
Prints a line when the counted time begins and one, the figures as JSON, when it ends.
"""

import json
import re
import resource
import selectors
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

_TOKENS = re.compile(rb'"tokens":(\d+)')
_END = b"\r\n0\r\n\r\n"
REST = 0.002  # seconds between two looks: what has come meanwhile is read at once, which costs the machine less


@dataclass(slots=True)
class Stream:
    """One connection, which asks again when its answer has ended."""

    connection: socket.socket
    request: bytes
    tail: bytes = b""  # of a line that has not ended
    last: bytes = b""  # as long as _END, which may come in any cut
    done: bool = False
    tokens: int = 0
    lines: int = 0
    answers: int = 0
    failures: int = 0

    def ask(self) -> None:
        self.tail, self.last, self.done = b"", b"", False
        self.connection.sendall(self.request)

    def read(self) -> None:
        """Raises RuntimeError for a refused request and for a connection that the server has closed."""
        received = self.connection.recv(1 << 20)
        if not received or (not self.last and not received.startswith(b"HTTP/1.1 200")):
            raise RuntimeError(f"The server refused or left: {received[:500]!r}")
        whole, _, self.tail = (self.tail + received).rpartition(b"\n")
        found = _TOKENS.findall(whole)
        self.lines += len(found)
        self.tokens += sum(map(int, found))
        self.done |= b'"event":"done"' in whole
        self.last = (self.last + received)[-len(_END) :]
        if self.last == _END:
            self.answers += 1
            self.failures += not self.done
            self.ask()


def measure(port: int, streams: int, body: dict[str, Any], warmup: float, seconds: float) -> dict[str, float]:
    payload = json.dumps(body).encode()
    head = (
        f"POST /v1/models/model:predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: */*\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
    )
    made = [Stream(socket.create_connection(("127.0.0.1", port)), head.encode() + payload) for _ in range(streams)]
    with selectors.EpollSelector() as selector:
        for stream in made:
            selector.register(stream.connection, selectors.EVENT_READ, stream)
            stream.ask()
        _read_for(selector, warmup)
        before, cpu = _counts(made), _cpu_seconds()
        began = time.monotonic()
        print("begin", flush=True)
        _read_for(selector, seconds)
        passed = time.monotonic() - began
    names = ("tokens", "lines", "answers", "failures")
    counted = dict(zip(names, (now - then for now, then in zip(_counts(made), before, strict=True)), strict=True))
    return {**counted, "seconds": passed, "client_cpu_seconds": _cpu_seconds() - cpu}


def _read_for(selector: selectors.BaseSelector, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for key, _ in selector.select(0.05):
            key.data.read()
        time.sleep(REST)


def _counts(streams: list[Stream]) -> tuple[int, ...]:
    return tuple(sum(getattr(one, name) for one in streams) for name in ("tokens", "lines", "answers", "failures"))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))), flush=True)

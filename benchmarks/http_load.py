"""A light HTTP load for proxies: raw connections on uvloop, in a process of its own. Prints one line of JSON.

`python -m benchmarks.http_load '{"port": 8000, "path": "/v1/chat/completions", "connections": 16, ...}'` (see Load).
"""

import asyncio
import json
import re
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import uvloop

from benchmarks.figures import quantile
from benchmarks.mock_upstream import PIECE

_PIECE = PIECE.encode()
_STAMP = re.compile(rb"@(\d+\.\d{6})@")
_LONGEST_STAMP = 32  # bytes
_CHUNKED_END = b"\r\n0\r\n\r\n"
LATE_ANSWERS, LATE_STREAMS = 0.5, 3.0  # seconds after which what has not come is not waited for


@dataclass(frozen=True, slots=True)
class Load:
    """Closed loop: a connection sends its next request when it has the answer, until `requests` are sent or
    `seconds` are over. `chunks` 0: plain JSON answers. `pace`: milliseconds between the chunks of a stream.
    `spread`: seconds over which the connections begin, as independent clients do; 0: all at once."""

    port: int
    path: str
    model: str
    connections: int = 1
    seconds: float = 2.0
    requests: int | None = None
    chunks: int = 0
    pace: int = 0
    spread: float = 0.0
    key: str = "none"
    all: bool = False  # tell the latency of every answer too

    def request(self) -> bytes:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": [{"role": "user", "content": "Hello there, how are you?"}],
        }
        if self.chunks:
            body |= {"stream": True, "max_tokens": self.chunks}
        if self.pace:
            body["seed"] = self.pace
        payload = json.dumps(body).encode()
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.key}\r\n"
            f"Content-Type: application/json\r\nAccept: application/json\r\nContent-Length: {len(payload)}\r\n\r\n"
        )
        return head.encode() + payload


@dataclass(slots=True)
class Tally:
    """Times in seconds. `on_the_way`: of every stamped chunk, from the upstream's write to our read."""

    left: int | None
    began: float = 0.0
    answers: int = 0
    chunks: int = 0
    failures: int = 0
    latencies: list[float] = field(default_factory=list)
    firsts: list[float] = field(default_factory=list)
    on_the_way: list[float] = field(default_factory=list)
    last: float = 0.0

    def take_one(self) -> bool:
        if self.left is None:
            return True
        self.left -= 1
        return self.left >= 0

    def figures(self) -> dict[str, float]:
        seconds = max(self.last - self.began, 1e-9)
        return {
            "requests": self.answers,
            "requests_per_second": self.answers / seconds,
            "chunks_per_second": self.chunks / seconds,
            "latency_p50_ms": quantile(self.latencies, 0.5) * 1e3,
            "latency_p99_ms": quantile(self.latencies, 0.99) * 1e3,
            "ttft_p50_ms": quantile(self.firsts, 0.5) * 1e3,
            "ttft_p99_ms": quantile(self.firsts, 0.99) * 1e3,
            "chunk_p50_ms": quantile(self.on_the_way, 0.5) * 1e3,
            "chunk_p95_ms": quantile(self.on_the_way, 0.95) * 1e3,
            "chunk_p99_ms": quantile(self.on_the_way, 0.99) * 1e3,
            "chunks": self.chunks,
            "failures": self.failures,
        }


class Connection(asyncio.Protocol):
    """Sends the same request again and again."""

    def __init__(self, load: Load, request: bytes, tally: Tally) -> None:
        self._load, self._request, self._tally = load, request, tally
        self._until = 0.0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._head = b""
        self._left: int | None = None  # bytes of a body of known length
        self._in_body = self._first_seen = False
        self._tail = b""
        self._sent = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def go(self, until: float) -> None:
        self._until = until
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if self._sent:
            self._tally.failures += 1
        if not self.closed.done():
            self.closed.set_result(None)

    def _next(self) -> None:
        self._head, self._tail, self._in_body, self._first_seen = b"", b"", False, False
        self._sent = 0.0
        if self._transport is None:
            return
        if time.monotonic() < self._until and self._tally.take_one():
            self._sent = time.monotonic()
            self._transport.write(self._request)
        else:
            self._transport.close()

    def give_up(self) -> None:
        """The time is over: what has arrived counts, the rest of the answer does not."""
        self._sent = 0.0
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if not self._in_body:
            self._head += data
            head, found, data = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._open(head.lower())
        self._tally.last = now
        if self._load.chunks:
            self._count(data, now)
        if self._left is not None:
            self._left -= len(data)
        if self._left == 0 or (self._left is None and (self._tail + data).endswith(_CHUNKED_END)):
            self._tally.answers += 1
            self._tally.latencies.append(now - self._sent)
            self._next()
        else:
            self._tail = (
                data[-_LONGEST_STAMP:] if len(data) >= _LONGEST_STAMP else (self._tail + data)[-_LONGEST_STAMP:]
            )

    def _open(self, head: bytes) -> None:
        self._in_body = True
        if b" 200 " not in head[:20]:
            self._tally.failures += 1
        _, known, rest = head.partition(b"content-length:")
        self._left = int(rest.split(b"\r\n", 1)[0]) if known else None

    def _count(self, data: bytes, now: float) -> None:
        """Chunks of the upstream, however the proxy has joined or cut them."""
        if self._load.pace:
            # A stamp across two packets is found whole in the second; one that was counted is not found again.
            joined = self._tail + data
            stamps = [match for match in _STAMP.finditer(joined) if match.end() > len(self._tail)]
            self._tally.on_the_way += [now - float(match[1]) for match in stamps]
            found = len(stamps)
        else:
            found = (self._tail[-(len(_PIECE) - 1) :] + data).count(_PIECE)
        self._tally.chunks += found
        if found and not self._first_seen:
            self._first_seen = True
            self._tally.firsts.append(now - self._sent)


async def run(load: Load) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    tally = Tally(load.requests)
    request = load.request()
    made = [
        (await loop.create_connection(lambda: Connection(load, request, tally), "127.0.0.1", load.port))[1]
        for _ in range(load.connections)
    ]
    tally.began = time.monotonic()
    for number, connection in enumerate(made):
        until = tally.began + load.seconds
        loop.call_later(load.spread * number / load.connections, connection.go, until)
    grace = load.seconds + (LATE_STREAMS + load.chunks * load.pace / 1000 if load.pace else LATE_ANSWERS)
    _, pending = await asyncio.wait([connection.closed for connection in made], timeout=grace)
    for connection in made:
        if connection.closed in pending:
            connection.give_up()
    return {**tally.figures(), "latencies": tally.latencies} if load.all else dict(tally.figures())


if __name__ == "__main__":
    print(json.dumps(uvloop.run(run(Load(**json.loads(sys.argv[1]))))))

"""A Truss for the adapter's tests: a raw socket that answers what the test's play says, byte for byte."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

STREAM_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """The answer's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def whole(self, status: int, body: bytes, media_type: str, headers: Sequence[str] = ()) -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-type: {media_type}", f"content-length: {len(body)}", *headers]
        await self.raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def json(self, value: Any, status: int = 200, headers: Sequence[str] = ()) -> None:
        await self.whole(status, json.dumps(value).encode(), "application/json", headers)

    async def start(self, media_type: str = STREAM_TYPE) -> None:
        await self.raw(f"HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ntransfer-encoding: chunked\r\n\r\n".encode())

    async def piece(self, data: bytes) -> None:
        if data:  # an empty chunk would be the end
            await self.raw(b"%x\r\n%b\r\n" % (len(data), data))

    async def end(self) -> None:
        await self.raw(b"0\r\n\r\n")

    async def stream(self, data: bytes, media_type: str = STREAM_TYPE) -> None:
        await self.start(media_type)
        await self.piece(data)
        await self.end()

    def reset(self) -> None:
        """A RST instead of an end."""
        held: socket.socket = self._writer.get_extra_info("socket")
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()

    async def peer_left(self) -> None:
        """Return when the adapter has closed its side."""
        try:
            while await self._reader.read(65536):
                pass
        except ConnectionError:
            pass


Play = Callable[[Request, Wire], Awaitable[None]]


@dataclass(slots=True)
class Stub:
    """`play` may be set by a test at any time; `requests` are all that came."""

    url: str
    play: Play
    requests: list[Request] = field(default_factory=list)
    connections: int = 0

    @property
    def last(self) -> Any:
        return self.requests[-1].json


def line(**event: Any) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode() + b"\n"


def usage(prompt: int = 5, completion: int = 3, cached: int = 2) -> dict[str, int]:
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "cached_tokens": cached,
    }


def ndjson(*texts: str, n: int = 1, reason: str = "stop") -> bytes:
    """A good stream of the predict contract."""
    deltas = b"".join(line(event="delta", index=i, text=text) for text in texts for i in range(n))
    ends = b"".join(line(event="finish", index=i, reason=reason) for i in range(n))
    start = line(event="start", prompt_tokens=5, cached_tokens=2, model="m")
    return start + deltas + ends + line(event="done", usage=usage())


def answer(*texts: str, **fields: Any) -> dict[str, Any]:
    """A good plain answer of the predict contract."""
    plain = {"tool_calls": [], "finish_reason": "stop", "logprobs": None} | fields
    return {
        "choices": [{"index": i, "text": text, **plain} for i, text in enumerate(texts)],
        "usage": usage(),
        "model": "m",
    }


def says(*pieces: str) -> Play:
    """Answers any request with this text, streamed or not as it asks, n times if it asks."""

    async def play(request: Request, wire: Wire) -> None:
        n = request.json.get("n", 1)
        if request.json.get("stream"):
            await wire.stream(ndjson(*pieces, n=n))
        else:
            await wire.json(answer(*["".join(pieces)] * n))

    return play


def sends(data: bytes, media_type: str = STREAM_TYPE) -> Play:
    async def play(request: Request, wire: Wire) -> None:
        await wire.stream(data, media_type)

    return play


def replies(value: Any, status: int = 200, headers: Sequence[str] = ()) -> Play:
    async def play(request: Request, wire: Wire) -> None:
        await wire.json(value, status, headers)

    return play


@asynccontextmanager
async def running_stub(play: Play, port: int = 0) -> AsyncIterator[Stub]:
    stub = Stub("", play)
    tasks: set[asyncio.Task[None]] = set()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        stub.connections += 1
        try:
            while (request := await _read(reader)) is not None:
                stub.requests.append(request)
                await stub.play(request, Wire(reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port)
    stub.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield stub
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Request | None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = await reader.readline()
        if not part:
            return None
        head += part
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (item.partition(":") for item in rest if item)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    method, path, _ = first.split(" ")
    return Request(method, path, headers, body)

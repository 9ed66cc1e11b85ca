"""Answers as ASGI messages: one JSON object, or a stream of events that can be kept alive. Knows no content."""

from collections.abc import Iterable, Mapping

import orjson
from starlette.types import Send

from bridge_adapter.errors import APIError
from bridge_adapter.openai_api.sse import COMMENT, HEADERS

Headers = Iterable[tuple[bytes, bytes]]


def encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]


_STREAM_HEADERS = encoded(HEADERS)


async def send_json(send: Send, status: int, body: bytes, headers: Headers = ()) -> None:
    fixed = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})


async def send_error(send: Send, error: APIError, headers: Headers = ()) -> None:
    await send_json(send, error.status, orjson.dumps(error.body()), [*encoded(error.headers()), *headers])


class EventStream:
    """One streamed answer. `started` is set before anything is sent, so that two tasks cannot both begin."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def write(self, data: bytes) -> None:
        if not self.started:
            await self._start()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def beat(self) -> None:
        """Send a comment, which every reader of events skips."""
        await self.write(COMMENT)

    async def end(self) -> None:
        if not self.started:
            await self._start()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})

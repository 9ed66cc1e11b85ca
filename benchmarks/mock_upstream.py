"""An upstream that does not think and speaks a Truss's predict contract and ChatCompletions: raw asyncio, no checks.

`python -m benchmarks.mock_upstream PORT [WAIT]`, with WAIT milliseconds before each answer. The request says what to
answer: `max_tokens` is the number of chunks of a stream, `seed` the milliseconds between two of them (absent: none).
Every chunk is a packet of its own. A paced one holds the clock's time at which it was sent, so that the reader can tell
how long it was on its way.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from typing import Any

import orjson
import uvloop

PIECE = "tok "
USAGE = {"prompt_tokens": 12, "completion_tokens": 100, "total_tokens": 112}
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\n"


def stamped_piece() -> str:
    return f"@{time.monotonic():.6f}@"


def _whole(body: dict[str, Any]) -> bytes:
    payload = orjson.dumps(body)
    return _HEAD % b"application/json" + b"Content-Length: %d\r\n\r\n" % len(payload) + payload


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


class TrussSpeech:
    """The predict contract: NDJSON."""

    stream_head = _HEAD % b"application/octet-stream" + b"Transfer-Encoding: chunked\r\n\r\n"
    whole = _whole(
        {
            "choices": [{"index": 0, "text": PIECE * 8, "tool_calls": [], "finish_reason": "stop", "logprobs": None}],
            "usage": {**USAGE, "cached_tokens": 0},
            "model": "mock",
        }
    )
    first = _chunk(b'{"event":"start","prompt_tokens":12,"cached_tokens":0,"model":"mock"}\n')
    last = _chunk(b'{"event":"finish","index":0,"reason":"stop"}\n') + _chunk(
        orjson.dumps({"event": "done", "usage": {**USAGE, "cached_tokens": 0}}) + b"\n"
    )

    @staticmethod
    def piece(text: str) -> bytes:
        return _chunk(b'{"event":"delta","index":0,"text":"%s","tokens":1}\n' % text.encode())


class OpenAISpeech:
    """ChatCompletions: server-sent events."""

    stream_head = _HEAD % b"text/event-stream" + b"Transfer-Encoding: chunked\r\n\r\n"
    _top = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1760000000,"model":"mock","choices":'
    whole = _whole(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1760000000,
            "model": "mock",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": PIECE * 8, "refusal": None},
                    "finish_reason": "stop",
                    "logprobs": None,
                }
            ],
            "usage": USAGE,
        }
    )
    first = _chunk(_top + b'[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n')
    last = (
        _chunk(_top + b'[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n')
        + _chunk(_top + b'[],"usage":' + orjson.dumps(USAGE) + b"}\n\n")
        + _chunk(b"data: [DONE]\n\n")
    )

    @classmethod
    def piece(cls, text: str) -> bytes:
        middle = b'[{"index":0,"delta":{"content":"%s"},"finish_reason":null}]}\n\n' % text.encode()
        return _chunk(cls._top + middle)


Speech = type[TrussSpeech] | type[OpenAISpeech]
_PLAIN = {speech: speech.piece(PIECE) for speech in (TrussSpeech, OpenAISpeech)}


class Connection(asyncio.Protocol):
    """One request at a time, connections kept. wait: seconds before an answer."""

    def __init__(self, wait: float = 0.0) -> None:
        self._wait = wait
        self._loop = asyncio.get_running_loop()
        self._held = b""
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._held += data
        head, found, rest = self._held.partition(b"\r\n\r\n")
        if not found:
            return
        length = _content_length(head)
        if len(rest) < length:
            return
        self._held = rest[length:]
        speech: Speech = TrussSpeech if b":predict" in head[:200] else OpenAISpeech
        body = orjson.loads(rest[:length]) if length else {}
        if self._wait and length:
            self._timer = self._loop.call_later(self._wait, self._answer, speech, body)
        else:
            self._answer(speech, body)

    def _answer(self, speech: Speech, body: dict[str, Any]) -> None:
        if not body.get("stream"):
            self._write(speech.whole)
            return
        self._write(speech.stream_head + speech.first)
        pace = (body.get("seed") or 0) / 1000
        chunks = int(body.get("max_tokens") or 16)
        self._send(speech, iter(range(chunks)), pace, self._loop.time() + pace)

    def _send(self, speech: Speech, left: Iterator[int], pace: float, due: float) -> None:
        if next(left, None) is None:
            self._write(speech.last + b"0\r\n\r\n")
            return
        if pace:
            self._write(speech.piece(stamped_piece()))
            self._timer = self._loop.call_at(due, self._send, speech, left, pace, due + pace)
        else:
            self._write(_PLAIN[speech])
            self._timer = self._loop.call_soon(self._send, speech, left, pace, due)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)


def _content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"content-length:")
    return int(rest.split(b"\r\n", 1)[0]) if found else 0


async def serve(port: int, wait: float) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Connection(wait), "127.0.0.1", port, backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) / 1000 if len(sys.argv) > 2 else 0.0))

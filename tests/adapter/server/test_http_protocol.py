"""Clients that offer another protocol, or speak an older one: answered as if they spoke plain HTTP/1.1."""

import asyncio
import json

import pytest

from tests.adapter.harness import Bridge
from tests.adapter.stub import Stub

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}'
STREAMED = BODY[:-1] + b', "stream": true}'
LENGTH = b"content-length: %d"
JDK = [
    b"Connection: Upgrade, HTTP2-Settings",
    b"Upgrade: h2c",
    b"HTTP2-Settings: AAEAAEAAAAIAAAAB",
]
WEBSOCKET = [
    b"Connection: Upgrade",
    b"Upgrade: websocket",
    b"Sec-WebSocket-Version: 13",
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
]


def request(*headers: bytes, body: bytes = BODY, version: bytes = b"1.1", length: bool = True) -> bytes:
    lines = [b"POST /v1/chat/completions HTTP/" + version, b"host: localhost", b"content-type: application/json"]
    lines += [*headers, LENGTH % len(body)] if length else headers
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def exchange(bridge: Bridge, *pieces: bytes) -> bytes:
    """All that comes back until the server closes; the pieces are sent as packets of their own."""
    host, port = bridge.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    return answer


def split(answer: bytes) -> tuple[int, bytes, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), head.lower(), body


CLOSE = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize("offer", [JDK, WEBSOCKET, [b"Connection: upgrade", b"Upgrade: TLS/1.0, IRC/6.9"]])
async def test_an_upgrade_is_declined_and_the_body_is_read(bridge: Bridge, stub: Stub, offer: list[bytes]) -> None:
    status, _, body = split(await exchange(bridge, request(*offer), CLOSE))
    assert status == 200
    assert b'"content":"Hello, world"' in body
    assert b'{"status":"ok"}' in body  # the connection goes on
    assert stub.last["messages"][0]["content"] == "Hi"


async def test_an_upgrade_with_a_streamed_answer(bridge: Bridge) -> None:
    status, head, body = split(await exchange(bridge, request(*JDK, body=STREAMED), CLOSE))
    assert (status, b"transfer-encoding: chunked" in head) == (200, True)
    assert b"data: [DONE]\n\n" in body


@pytest.mark.parametrize("cut", range(0, len(request(*JDK)), 7))
async def test_an_upgrade_in_two_packets(bridge: Bridge, cut: int) -> None:
    whole = request(*JDK)
    assert split(await exchange(bridge, whole[:cut], whole[cut:], CLOSE))[0] == 200


async def test_an_upgrade_with_a_chunked_body(bridge: Bridge) -> None:
    chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
    sent = request(*JDK, b"transfer-encoding: chunked", body=chunks, length=False)
    assert split(await exchange(bridge, sent, CLOSE))[0] == 200


async def test_many_upgrades_on_one_connection(bridge: Bridge) -> None:
    """More than the stack is deep, and sent at once."""
    ask = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n%b\r\n\r\n" % b"\r\n".join(JDK)
    answer = await exchange(bridge, ask * 2000 + CLOSE)
    assert answer.count(b"HTTP/1.1 200 OK") == 2001


async def test_an_upgrade_with_two_lengths_is_refused(bridge: Bridge, stub: Stub) -> None:
    assert split(await exchange(bridge, request(*JDK, b"transfer-encoding: chunked")))[0] == 400
    assert stub.requests == []


async def test_a_tunnel_is_refused(bridge: Bridge) -> None:
    answer = await exchange(bridge, b"CONNECT example.com:443 HTTP/1.1\r\nhost: example.com\r\n\r\n\x16\x03\x01")
    assert split(answer)[0] == 400


@pytest.mark.parametrize("headers", [[], [b"connection: keep-alive"], JDK])
async def test_http_1_0_gets_no_chunks(bridge: Bridge, headers: list[bytes]) -> None:
    status, head, body = split(await exchange(bridge, request(*headers, body=STREAMED, version=b"1.0")))
    assert (status, b"transfer-encoding" in head, b"connection: close" in head) == (200, False, True)
    assert body.startswith(b"data: {") and body.endswith(b"data: [DONE]\n\n")
    status, head, body = split(await exchange(bridge, request(*headers, version=b"1.0")))
    assert (status, LENGTH % len(body) in head) == (200, True)
    assert json.loads(body)["choices"][0]["message"]["content"] == "Hello, world"

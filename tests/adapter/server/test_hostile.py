"""Bytes that no client library sends: nothing of them gets into another request, a header or a second meaning."""

import asyncio

import pytest

from tests.adapter.harness import Bridge, running_bridge, settings_for
from tests.adapter.stub import Stub

BODY = b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}'
LENGTH = b"content-length: %d" % len(BODY)
EVERY_BYTE = [bytes([value]) for value in range(256) if value not in b"\r\n"]


async def send(bridge: Bridge, headers: list[bytes], body: bytes = BODY) -> tuple[int, bytes]:
    """The status and all the bytes of the answer to a request of just these headers."""
    host, port = bridge.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    lines = [b"POST /v1/chat/completions HTTP/1.1", b"host: localhost", b"connection: close"]
    writer.write(b"\r\n".join([*lines, b"content-type: application/json", *headers]) + b"\r\n\r\n" + body)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return int(answer.split(b" ", 2)[1]), answer


async def test_any_byte_in_a_passed_on_key_is_sent_as_it_is_or_refused(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url, keys={"mode": "pass_through"})) as bridge:
        for byte in EVERY_BYTE:
            status, answer = await send(bridge, [b"authorization: Bearer a" + byte + b"b", LENGTH])
            assert status in (200, 400, 401), (byte, answer)
            assert len(stub.requests) == (status == 200), byte
            for request in stub.requests:
                assert request.headers["authorization"] == f"Api-Key a{byte.decode('latin-1')}b"
            stub.requests.clear()


async def test_any_byte_in_a_request_id_is_kept_out_of_headers(bridge: Bridge, stub: Stub) -> None:
    for byte in EVERY_BYTE:
        status, answer = await send(bridge, [b"x-request-id: a" + byte + b"b", LENGTH])
        head, _, _ = answer.partition(b"\r\n\r\n")
        assert status in (200, 400), byte
        if status == 200:
            (told,) = [line for line in head.split(b"\r\n") if line.startswith(b"x-request-id: ")]
            harmless = byte.isalnum() or byte in b"._:-"
            assert (told == b"x-request-id: a" + byte + b"b") is harmless, byte
            assert f"x-request-id: {stub.requests[-1].headers['x-request-id']}".encode() == told


@pytest.mark.parametrize(
    "headers",
    [
        [LENGTH, b"content-length: 1"],
        [LENGTH, b"transfer-encoding: chunked"],
        [b"transfer-encoding: chunked, identity"],
        [b"content-length: -1"],
        [b"content-length: 0x40"],
        [LENGTH, b"bad name: 1"],
        [LENGTH, b"no colon"],
    ],
)
async def test_a_request_of_two_lengths_is_none(bridge: Bridge, stub: Stub, headers: list[bytes]) -> None:
    status, _ = await send(bridge, headers)
    assert status == 400
    assert stub.requests == []


async def test_of_a_field_given_twice_one_is_checked_and_the_same_is_sent(bridge: Bridge, stub: Stub) -> None:
    twice = b'{"temperature": 9, "model": "none", ' + BODY[1:-1] + b', "temperature": 1}'
    status, _ = await send(bridge, [b"content-length: %d" % len(twice)], twice)
    assert status == 200
    assert stub.requests[0].json["temperature"] == 1
    assert stub.requests[0].body.count(b"temperature") == 1


@pytest.mark.parametrize(
    "number", [b"9" * 400, b"9" * 5000, b"1e400", b"NaN", b"Infinity", b"01", b"18446744073709551616"]
)
@pytest.mark.parametrize("field", [b"seed", b"max_tokens", b"temperature"])
async def test_a_number_out_of_range(bridge: Bridge, stub: Stub, field: bytes, number: bytes) -> None:
    body = BODY[:-1] + b', "%b": %b}' % (field, number)
    status, answer = await send(bridge, [b"content-length: %d" % len(body)], body)
    assert status == 400
    assert b'"type":"invalid_request_error"' in answer
    assert stub.requests == []

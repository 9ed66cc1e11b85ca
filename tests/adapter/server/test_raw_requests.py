"""Made-up requests over raw sockets: upgrades, encodings, old versions and cut bodies are answered, in time, no 5xx."""

import asyncio
import gzip
import json
import random
import re
import zlib

from backports import zstd

from tests.adapter.harness import Bridge, running_bridge, settings_for
from tests.adapter.stub import Request, Stub, Wire, replies, says
from tests.e2e.server import FUZZ_TIMES

COUNT = 250 * FUZZ_TIMES
BODY_SECONDS = 0.5
SLACK_SECONDS = 20.0  # of a machine with other work
AT_ONCE = 16
LAST = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
STATUS_LINE = re.compile(rb"HTTP/1\.1 (\d{3}) [A-Z]")

CONNECTIONS = [b"", b"close", b"keep-alive", b"upgrade", b"Upgrade, HTTP2-Settings", b"upgrade, close", b"Upgrade,,x"]
UPGRADES = [b"", b"h2c", b"websocket", b"WebSocket", b"TLS/1.0, IRC/6.9", b"\xff", b","]
ENCODINGS = {
    b"": bytes,
    b"identity": bytes,
    b"gzip": gzip.compress,
    b"deflate": zlib.compress,
    b"zstd": zstd.compress,
    b"br": bytes,
    b"gzip, zstd": lambda data: zstd.compress(gzip.compress(data)),
}
ENCODERS = list(ENCODINGS.values())
HI = [{"role": "user", "content": "Hi"}]
METHODS = [b"POST"] * 12 + [b"GET", b"HEAD", b"OPTIONS", b"PUT", b"CONNECT", b"PRI"]
PATHS = [b"/v1/chat/completions"] * 6 + [b"/v1/completions", b"/v1/models", b"/health", b"//v1/models", b"/", b"*"]
VERSIONS = [b"1.1"] * 5 + [b"1.0", b"1.0", b"0.9", b"2.0", b"1.9"]


def body(chance: random.Random) -> bytes:
    asked = {"model": "m", "stream": chance.random() < 0.4, "prompt" if chance.random() < 0.1 else "messages": HI}
    return chance.choice([json.dumps(asked).encode()] * 8 + [b"", b"{", b"\xff" * 40, b" " * 300_000])


def request(chance: random.Random) -> bytes:
    """A whole head and a body that may be spoilt, cut, of another length or another encoding than the head says."""
    encoding = chance.choice([*ENCODINGS, b""])
    encoder = ENCODERS[chance.randrange(len(ENCODERS))] if chance.random() < 0.1 else ENCODINGS[encoding]
    data = encoder(body(chance))
    if data and chance.random() < 0.1:
        place = chance.randrange(len(data))
        data = data[:place] + bytes([chance.randrange(256)]) + data[place + 1 :]
    chunked = chance.random() < 0.25
    length = len(data) + chance.choice([0] * 10 + [1, 7, -1])
    headers = {
        b"host": chance.choice([b"localhost"] * 9 + [b"", b"evil.example", b"192.168.1.5"]),
        b"content-type": chance.choice([b"application/json"] * 9 + [b"", b"text/plain"]),
        b"connection": chance.choice(CONNECTIONS),
        b"upgrade": chance.choice(UPGRADES),
        b"content-encoding": encoding,
        b"expect": chance.choice([b""] * 9 + [b"100-continue"]),
        b"te": chance.choice([b"", b"trailers"]),
        b"transfer-encoding": chance.choice([b"chunked"] * 6 + [b"gzip, chunked"]) if chunked else b"",
        b"content-length": b"" if chunked and chance.random() < 0.9 else b"%d" % max(length, 0),
    }
    if chunked:
        pieces = [data[start : start + 700] for start in range(0, len(data), 700)]
        data = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
        data += chance.choice([b"0\r\n\r\n"] * 6 + [b"", b"0\r\nx: y\r\n\r\n"])
    lines = [b"%b %b HTTP/%b" % (chance.choice(METHODS), chance.choice(PATHS), chance.choice(VERSIONS))]
    lines += [b"%b: %b" % header for header in headers.items() if header[1]]
    return b"\r\n".join(lines) + b"\r\n\r\n" + data


async def answer(bridge: Bridge, sent: bytes, cut: int) -> bytes:
    host, port = bridge.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for piece in (sent[:cut], sent[cut:] + LAST):
            writer.write(piece)
            await writer.drain()
        return await reader.read()
    except ConnectionError:  # closed before it had read all, which a refusal may do
        return b"HTTP/1.1 400 Reset"
    finally:
        writer.close()


async def truss(request: Request, wire: Wire) -> None:
    """Answers predict, and says that it is ready."""
    play = says("Hello", ", ", "world") if request.method == "POST" else replies({})
    await play(request, wire)


async def test_made_up_requests_are_answered_in_time(stub: Stub) -> None:
    stub.play = truss
    chance = random.Random(FUZZ_TIMES)
    slots = asyncio.Semaphore(AT_ONCE)
    good = 0

    async def one(sent: bytes, cut: int) -> None:
        nonlocal good
        async with slots:
            async with asyncio.timeout(BODY_SECONDS + SLACK_SECONDS):
                came = await answer(bridge, sent, cut)
        statuses = [int(status) for status in STATUS_LINE.findall(came)]
        assert statuses and all(100 <= status < 500 for status in statuses), (
            sent[:600],
            came,
        )
        head, _, rest = came.partition(b"\r\n\r\n")
        if sent.split(b"\r\n", 1)[0].endswith(b" HTTP/1.0"):
            assert b"transfer-encoding" not in head.lower(), sent[:600]
        if statuses[0] == 200 and sent.startswith(b"POST"):
            good += 1
            assert b"Hello, world" in rest or b"[DONE]" in rest, (sent[:600], came)

    server = {"body_timeout": BODY_SECONDS, "max_body": 200_000}
    async with running_bridge(settings_for(stub.url, server=server)) as bridge:
        made = [request(chance) for _ in range(COUNT)]
        await asyncio.gather(*(one(sent, chance.randrange(len(sent))) for sent in made))
        await bridge.idle()
    assert good > COUNT / 20

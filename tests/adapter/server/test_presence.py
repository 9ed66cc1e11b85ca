"""Who waits for whom: clients that leave, Trusses that are slow to start, readers that are slow to read."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.adapter.expect import HALF
from tests.adapter.harness import Answered, Bridge, running_bridge, settings_for
from tests.adapter.stub import Request, Stub, Wire, answer, ndjson, says

LONG_ENOUGH = 30.0
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Waiting:
    """A Truss that sends `first`, then nothing. `asked` and `left`: requests that came, and that the adapter left."""

    def __init__(self, first: bytes) -> None:
        self._first = first
        self.asked = asyncio.Semaphore(0)
        self.left = asyncio.Semaphore(0)

    async def __call__(self, request: Request, wire: Wire) -> None:
        if self._first:
            await wire.start()
            await wire.piece(self._first)
        self.asked.release()
        await wire.peer_left()
        self.left.release()


@asynccontextmanager
async def raw_request(
    bridge: Bridge, **fields: object
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}).encode()
    host, _, port = bridge.url.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    writer.write(head.encode() + b"\r\n\r\n" + body)
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("stream", "first"), [(True, b""), (True, HALF), (False, b"")], ids=["before the first byte", "mid-stream", "plain"]
)
async def test_a_client_that_leaves_frees_the_truss(stub: Stub, stream: bool, first: bytes) -> None:
    truss = Waiting(first)
    stub.play = truss
    async with running_bridge(settings_for(stub.url)) as bridge:
        async with raw_request(bridge, stream=stream) as (reader, _):
            await asyncio.wait_for(truss.asked.acquire(), LONG_ENOUGH)
            if first:
                await reader.readuntil(b"Hel")
        await asyncio.wait_for(truss.left.acquire(), LONG_ENOUGH)
        await bridge.idle()
        metrics = bridge.state.observer.metrics.text().decode()
    assert 'bridge_cancels_total{model="m",route="chat.completions"} 1.0' in metrics
    assert "bridge_in_flight 0.0" in metrics


async def test_a_client_that_leaves_while_a_retry_waits(stub: Stub) -> None:
    async def busy(request: Request, wire: Wire) -> None:
        await wire.json({}, 503)

    stub.play = busy
    model = {"retries": {"attempts": 5, "backoff": 1000.0, "longest_wait": 10_000.0}}
    async with running_bridge(settings_for(stub.url, model=model)) as bridge:
        async with raw_request(bridge):
            while not stub.requests:
                await asyncio.sleep(0.01)
        await bridge.idle()
    assert len(stub.requests) == 1


async def test_all_calls_of_a_fan_out_are_left(stub: Stub) -> None:
    truss = Waiting(b"")
    stub.play = truss
    async with running_bridge(settings_for(stub.url, model={"dialect": "text"})) as bridge:
        async with raw_request(bridge, n=4, stream=True):
            for _ in range(4):
                await asyncio.wait_for(truss.asked.acquire(), LONG_ENOUGH)
        for _ in range(4):
            await asyncio.wait_for(truss.left.acquire(), LONG_ENOUGH)
        await bridge.idle()


class Parked:
    """A cold start: answers when it is told to."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()

    async def __call__(self, request: Request, wire: Wire) -> None:
        await self.ready.wait()
        if request.json.get("stream"):
            await wire.stream(ndjson("Good morning"))
        else:
            await wire.json(answer("Good morning"))


async def test_a_cold_start_keeps_a_stream_alive(stub: Stub) -> None:
    truss = Parked()
    stub.play = truss
    server = {"cold_start_after": 0.05, "keep_alive": 0.05}
    async with running_bridge(settings_for(stub.url, server=server)) as bridge:
        async with raw_request(bridge, stream=True) as (reader, _):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK")
            for _ in range(3):
                await reader.readuntil(b": keep-alive\n\n")
            truss.ready.set()
            assert b"Good morning" in await reader.readuntil(b"data: [DONE]\n\n")


async def test_an_error_after_a_cold_start_is_an_event(stub: Stub) -> None:
    begun = asyncio.Event()

    async def play(request: Request, wire: Wire) -> None:
        await begun.wait()
        await wire.json({"error": "not ready"}, 503)

    stub.play = play
    server = {"cold_start_after": 0.02}
    async with running_bridge(settings_for(stub.url, server=server, model={"retries": {"attempts": 0}})) as bridge:
        async with bridge.streaming() as response:
            begun.set()
            answered = Answered(response.status, response.headers, await response.read())
    assert answered.status == 200
    assert answered.chunks[-1]["error"]["message"] == "not ready"


async def test_a_plain_request_waits_for_a_cold_start(stub: Stub) -> None:
    truss = Parked()
    stub.play = truss
    async with running_bridge(settings_for(stub.url, server={"cold_start_after": 0.01})) as bridge:
        asked = asyncio.create_task(bridge.chat())
        while not stub.requests:
            await asyncio.sleep(0.01)
        truss.ready.set()
        assert (await asked).json["choices"][0]["message"]["content"] == "Good morning"


async def test_silence_between_tokens_is_filled(stub: Stub) -> None:
    truss = Waiting(HALF)
    stub.play = truss
    async with running_bridge(settings_for(stub.url, server={"cold_start_after": 0.05, "keep_alive": 0.05})) as bridge:
        async with raw_request(bridge, stream=True) as (reader, _):
            await reader.readuntil(b"Hel")
            for _ in range(2):
                await reader.readuntil(b": keep-alive\n\n")


async def test_a_slow_reader_holds_the_truss_back(stub: Stub) -> None:
    """What a client does not read is not gathered in the adapter's memory."""
    sent = 0
    stopped = asyncio.Event()
    data = b'{"event":"delta","index":0,"text":"%s"}\n' % (b"x" * 60_000)

    async def play(request: Request, wire: Wire) -> None:
        nonlocal sent
        await wire.start()
        await wire.piece(b'{"event":"start"}\n')
        try:
            async with asyncio.timeout(0.5):
                while sent < 500:
                    await wire.piece(data)
                    sent += 1
        except TimeoutError:
            stopped.set()

    stub.play = play
    async with running_bridge(settings_for(stub.url)) as bridge:
        async with raw_request(bridge, stream=True):
            await asyncio.wait_for(stopped.wait(), 30)
    assert sent < 400


async def test_connections_are_used_again(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url)) as bridge:
        for stream in (False, True, True, False):
            assert (await bridge.chat(stream=stream)).status == 200
    assert stub.connections == 1


async def test_a_truss_that_ends_late_is_kept_and_nobody_is_said_to_have_left(stub: Stub) -> None:
    """The client has its whole answer with `done`; the end of the body may come after it."""

    async def play(request: Request, wire: Wire) -> None:
        await wire.start()
        await wire.piece(ndjson("whole"))
        await client_has_it.wait()
        await wire.end()

    stub.play = play
    async with running_bridge(settings_for(stub.url)) as bridge:
        for _ in range(2):
            client_has_it = asyncio.Event()
            assert (await bridge.chat(stream=True)).text == "whole"
            client_has_it.set()
            await bridge.idle()
        metrics = bridge.state.observer.metrics.text().decode()
    assert stub.connections == 1
    assert "bridge_cancels_total{" not in metrics


async def test_many_streams_do_not_mix(stub: Stub) -> None:
    async def play(request: Request, wire: Wire) -> None:
        name = request.json["messages"][0]["content"]
        await says(*(f"{name}." for _ in range(20)))(request, wire)

    stub.play = play
    async with running_bridge(settings_for(stub.url)) as bridge:
        names = [f"n{i}" for i in range(64)]
        asked = [bridge.chat(messages=[{"role": "user", "content": name}], stream=True) for name in names]
        answers = await asyncio.gather(*asked)
    assert [answered.text for answered in answers] == [f"{name}." * 20 for name in names]


async def test_a_client_that_leaves_within_its_body(bridge: Bridge, stub: Stub) -> None:
    host, _, port = bridge.url.removeprefix("http://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{")
    await writer.drain()
    while not bridge.state.in_flight:
        await asyncio.sleep(0.01)
    writer.close()
    await bridge.idle()
    assert stub.requests == []
    async with aiohttp.ClientSession() as other, other.get(f"{bridge.url}/health/live") as live:
        assert live.status == 200


async def test_hundreds_of_slow_streams(stub: Stub) -> None:
    """All of them run at once, none waits for another to end, all complete."""
    streams = 512
    all_there = asyncio.Event()
    running = 0

    async def play(request: Request, wire: Wire) -> None:
        nonlocal running
        running += 1
        if running == streams:
            all_there.set()
        data = ndjson("slow ", "and ", "whole")
        await wire.start()
        await wire.piece(data[:80])
        await all_there.wait()
        for start in range(80, len(data), 50):
            await wire.piece(data[start : start + 50])
            await asyncio.sleep(0.01)
        await wire.end()

    stub.play = play
    async with running_bridge(settings_for(stub.url)) as bridge:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as http:
            many = Bridge(bridge.url, bridge.state, http, bridge.openai)
            answers = await asyncio.gather(*(many.chat(stream=True) for _ in range(streams)))
    assert {answered.text for answered in answers} == {"slow and whole"}
    assert {answered.status for answered in answers} == {200}

"""Processes die, ports close, clients misbehave: each has a defined outcome, and the next request succeeds."""

import asyncio
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from scripts.assemble import Image
from scripts.process import ServerProcess, free_port
from scripts.stack import start_adapter, start_truss, truss_url, wait_adapter, wait_truss
from tests.e2e.engine_counts import until
from tests.e2e.server import BASE_ENVIRONMENT, LOAD_SECONDS, Service
from tests.e2e.wall_clock import WallClock

pytestmark = pytest.mark.timeout(900)
LONG: dict[str, Any] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "Go on."}],
    "max_tokens": 1500,
    "temperature": 0,
    "extra_body": {"ignore_eos": True},
}
SHORT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
IDLE_CONNECTIONS = 2000
ENDED = (0, -signal.SIGTERM)  # uvicorn raises the signal again when it has shut down


class Stack:
    """A Truss and an adapter whose processes a test may end and start again, at the same ports."""

    def __init__(self, image: Image, weights: Path, folder: Path) -> None:
        self._image = image
        self._folder = folder
        self.clock = WallClock(folder)
        self._environment = {**BASE_ENVIRONMENT, **self.clock.environment, "TRUSS_MODEL_PATH": str(weights)}
        self.truss_port, self.port = free_port(), free_port()
        self.truss: ServerProcess
        self.adapter: ServerProcess

    def start_truss(self) -> None:
        self.truss = start_truss(self._image, self.truss_port, self._folder, environment=self._environment)
        wait_truss(self.truss, self.truss_port, LOAD_SECONDS)

    def start_adapter(self) -> None:
        settings = {"models": {"tiny": {"url": truss_url(self.truss_port)}}}
        self.adapter = start_adapter(settings, self.port, self._folder, environment=self.clock.environment)
        wait_adapter(self.adapter, self.port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> AsyncOpenAI:
        return AsyncOpenAI(api_key="none", base_url=f"{self.url}/v1", max_retries=0, timeout=60)

    def engine(self) -> Service:
        return Service(self.truss, self.truss_port)


@pytest.fixture(scope="module")
def stack(image: Image, tiny_mistral: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(image, tiny_mistral, tmp_path_factory.mktemp("faults"))
    stack.start_truss()
    stack.start_adapter()
    yield stack
    stack.truss.stop()
    stack.adapter.stop()


@pytest.fixture(autouse=True)
def next_request_succeeds(stack: Stack) -> Iterator[None]:
    yield
    answer = httpx.post(f"{stack.url}/v1/chat/completions", json=SHORT, timeout=60)
    assert answer.status_code == 200, answer.text


async def first_pieces(stream: Any, count: int = 3) -> str:
    text = ""
    async for chunk in stream:
        text += "".join(choice.delta.content or "" for choice in chunk.choices)
        count -= 1
        if count == 0:
            break
    return text


async def test_the_truss_is_killed_in_the_middle_of_a_stream(stack: Stack) -> None:
    async with stack.client as client:
        stream = await client.chat.completions.create(**LONG, stream=True)
        await first_pieces(stream)
        stack.truss.signal(signal.SIGKILL)
        reasons = []
        with pytest.raises(openai.APIError, match="closed the connection"):
            async for chunk in stream:
                reasons += [choice.finish_reason for choice in chunk.choices]
        assert not any(reasons)
        stack.truss.stop()
        with pytest.raises(openai.InternalServerError) as down:
            await client.chat.completions.create(**SHORT)
        assert down.value.status_code == 503
        assert httpx.get(f"{stack.url}/health/live").status_code == 200
    stack.start_truss()


async def test_the_adapter_is_killed_in_the_middle_of_a_stream(stack: Stack) -> None:
    async with stack.client as client:
        stream = await client.chat.completions.create(**LONG, stream=True)
        await first_pieces(stream)
        stack.adapter.stop()
        with pytest.raises((openai.APIConnectionError, httpx2.TransportError)):
            async for _ in stream:
                pass
    await until(stack.engine(), lambda counts: counts["rows_running"] == 0)
    stack.start_adapter()


async def test_sigterm_lets_the_truss_finish_what_runs(stack: Stack) -> None:
    async with stack.client as client:
        stream = await client.chat.completions.create(**{**LONG, "max_tokens": 400}, stream=True)
        await first_pieces(stream)
        stack.truss.signal(signal.SIGTERM)
        reasons = [choice.finish_reason async for chunk in stream for choice in chunk.choices]
        assert reasons[-1] == "length"
    assert await asyncio.to_thread(stack.truss.wait, 60) in ENDED
    stack.truss.stop()
    stack.start_truss()


async def test_sigterm_lets_the_adapter_finish_what_runs(stack: Stack) -> None:
    async with stack.client as client:
        stream = await client.chat.completions.create(**{**LONG, "max_tokens": 400}, stream=True)
        await first_pieces(stream)
        stack.adapter.signal(signal.SIGTERM)
        reasons = [choice.finish_reason async for chunk in stream for choice in chunk.choices]
        assert reasons[-1] == "length"
    assert await asyncio.to_thread(stack.adapter.wait, 60) in ENDED
    stack.adapter.stop()
    stack.start_adapter()


@pytest.mark.parametrize("hours", [6, -6])
async def test_the_wall_clock_jumps(stack: Stack, hours: int) -> None:
    """Nothing that runs or waits is timed by it."""
    async with stack.client as client:
        try:
            stream = await client.chat.completions.create(**{**LONG, "max_tokens": 200}, stream=True)
            await first_pieces(stream)
            stack.clock.put(3600 * hours)
            reasons = [choice.finish_reason async for chunk in stream for choice in chunk.choices]
            assert reasons[-1] == "length"
            answer = await client.chat.completions.create(**SHORT)
            assert abs(answer.created - time.time() - 3600 * hours) < 600
        finally:
            stack.clock.put(0)


async def test_a_client_that_stops_reading_holds_up_nobody(stack: Stack) -> None:
    """Its answer waits in bounded buffers while the others go on; what it was owed is all there when it reads again."""
    async with stack.client as client:
        alone = (await client.chat.completions.create(**LONG)).choices[0].message.content
        stuck = await client.chat.completions.create(**LONG, stream=True)
        text = await first_pieces(stuck, 1)
        others = await asyncio.gather(*(client.chat.completions.create(**SHORT) for _ in range(8)))
        assert len(others) == 8
        await until(stack.engine(), lambda counts: counts["rows_running"] == 0)
        async for chunk in stuck:
            text += "".join(choice.delta.content or "" for choice in chunk.choices)
    assert text == alone


async def test_thousands_of_idle_connections(stack: Stack) -> None:
    held = [socket.create_connection(("127.0.0.1", stack.port)) for _ in range(IDLE_CONNECTIONS)]
    try:
        async with stack.client as client:
            assert (await client.chat.completions.create(**SHORT)).choices
    finally:
        for connection in held:
            connection.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-A: ",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 999\r\n\r\n{",
    ],
    ids=["head", "body"],
)
async def test_requests_that_never_end_hold_up_nobody(stack: Stack, sent: bytes) -> None:
    held = [socket.create_connection(("127.0.0.1", stack.port)) for _ in range(200)]
    try:
        for connection in held:
            connection.sendall(sent)
        async with stack.client as client:
            assert (await client.chat.completions.create(**SHORT)).choices
    finally:
        for connection in held:
            connection.close()

"""Streams that fail halfway or before they begin: the truth is told, nothing is made up."""

import asyncio
from typing import Any

import pytest
from openai import APIError

from tests.adapter.expect import HALF, ONCE, SOON, closed_halfway, error, fault, last_event, page, unusable
from tests.adapter.harness import Answered, Bridge, running_bridge, settings_for
from tests.adapter.stub import Play, Request, Stub, Wire, line, ndjson, says, sends

CUT = "The model's server closed the connection before the end of its answer."


async def quiet_end_of_text(request: Request, wire: Wire) -> None:
    await wire.start()
    await wire.piece(b"Half a sen")
    wire.close()


MIDSTREAM: list[tuple[Play, dict[str, Any]]] = [
    (closed_halfway, fault(CUT)),
    (quiet_end_of_text, fault(CUT)),
    (sends(HALF), unusable("the end of the stream before its last event")),
    (sends(HALF + b"garbage\n"), unusable("a line that is not an event")),
    (sends(HALF + b"x" * 9_000_000), unusable("a line above the size limit")),
    (sends(HALF + line(event="delta", index=4, text="x")), unusable("text of a choice that is not open")),
    (
        sends(HALF + line(event="done", usage={})),
        unusable("the end of the stream before the end of every choice"),
    ),
    (sends(HALF + line(event="error", status=500, type="t", message="OOM")), fault("OOM", "t")),
    (
        sends(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"error": "Boom"}\n\n'),
        fault("Boom"),
    ),
    (
        sends(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\ndata: {"choices":[{"finish_reason":"abort"}]}\n\n'),
        unusable("an unknown finish reason"),
    ),
    (
        sends(b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'),
        unusable("the end of the stream before its finish reason"),
    ),
]


@pytest.mark.parametrize(("play", "expected"), MIDSTREAM)
async def test_a_stream_that_fails_halfway(stub: Stub, play: Play, expected: dict[str, Any]) -> None:
    stub.play = play
    async with running_bridge(settings_for(stub.url, model=ONCE)) as bridge:
        answered = await bridge.chat(stream=True)
        metrics = bridge.state.observer.metrics.text().decode()
    assert last_event(answered) == expected
    assert "bridge_upstream_errors_total{" in metrics


async def test_a_stream_that_is_reset_halfway(stub: Stub) -> None:
    """After the client has what came before: a reset drops what the peer has not read yet."""
    client_has_it = asyncio.Event()

    async def play(request: Request, wire: Wire) -> None:
        await wire.start()
        await wire.piece(HALF)
        await client_has_it.wait()
        wire.reset()

    stub.play = play
    async with running_bridge(settings_for(stub.url, model=ONCE)) as bridge:
        async with bridge.streaming() as response:
            begun = await response.content.readuntil(b"Hel")
            client_has_it.set()
            answered = Answered(response.status, response.headers, begun + await response.content.read())
        metrics = bridge.state.observer.metrics.text().decode()
    assert last_event(answered) == fault(CUT)
    assert "bridge_upstream_errors_total{" in metrics


AT_ONCE: list[tuple[Play, tuple[int, dict[str, Any]]]] = [
    (page, (502, unusable("a web page"))),
    (sends(b""), (502, unusable("an empty answer"))),
    (sends(b"\n\n"), (502, unusable("an empty answer"))),
    (sends(line(event="start")), (502, unusable("the end of the stream before its last event"))),
    (
        sends(line(event="start") + line(event="error", status=503, type="overloaded", message="Full")),
        (503, fault("Full", "overloaded")),
    ),
    (sends(b"", "text/event-stream"), (502, unusable("the end of the stream before its finish reason"))),
]


@pytest.mark.parametrize(("play", "expected"), AT_ONCE)
async def test_a_stream_that_fails_before_it_begins_has_a_status(
    stub: Stub, play: Play, expected: tuple[int, dict[str, Any]]
) -> None:
    stub.play = play
    async with running_bridge(settings_for(stub.url, model=ONCE)) as bridge:
        assert error(await bridge.chat(stream=True)) == expected


async def test_one_byte_a_packet(stub: Stub) -> None:
    async def play(request: Request, wire: Wire) -> None:
        await wire.start()
        for byte in ndjson("Grü", "ße 👋"):
            await wire.piece(bytes([byte]))
        await wire.end()

    stub.play = play
    async with running_bridge(settings_for(stub.url)) as bridge:
        assert (await bridge.chat(stream=True)).text == "Grüße 👋"


async def test_a_giant_line_below_the_limit(stub: Stub) -> None:
    text = "x" * 2_000_000
    stub.play = says(text)
    async with running_bridge(settings_for(stub.url)) as bridge:
        assert (await bridge.chat(stream=True)).text == text


async def stall(request: Request, wire: Wire) -> None:
    await wire.start()
    await wire.piece(HALF)
    await wire.peer_left()


@pytest.mark.parametrize(
    ("phase", "said"),
    [("idle", "stopped sending in the middle of its answer"), ("total", "did not finish its answer in time")],
)
async def test_a_stall(stub: Stub, phase: str, said: str) -> None:
    stub.play = stall
    async with running_bridge(settings_for(stub.url, model={"timeouts": {phase: SOON}})) as bridge:
        answered = await bridge.chat(stream=True)
    assert last_event(answered) == fault(f"The model's server {said}.")


async def test_the_official_client_sees_the_error_of_a_stream(bridge: Bridge, stub: Stub) -> None:
    stub.play = sends(HALF)
    stream: Any = await bridge.openai.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "Hi"}], stream=True
    )
    with pytest.raises(APIError, match="unusable answer"):
        async for _ in stream:
            pass

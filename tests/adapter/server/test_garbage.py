"""A request leaves nothing to the garbage collector, however it ends: collections stay rare and memory flat."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from bridge_adapter.errors import APIError
from bridge_adapter.server.generation_request import GenerationRequest
from bridge_adapter.upstream.watchdog import Watchdog
from tests.adapter.expect import HALF
from tests.adapter.harness import Bridge
from tests.adapter.server.test_presence import Waiting, raw_request
from tests.adapter.stub import Request, Stub, Wire, answer, line, ndjson, sends
from tests.garbage import still_held, uncollected  # noqa: F401

HELD = (Watchdog, GenerationRequest, APIError)


async def slow(request: Request, wire: Wire) -> None:
    await asyncio.sleep(0.1)  # longer than a request is at its ease, so that a task watches it
    if request.json.get("stream"):
        await wire.stream(ndjson("Good", " morning"))
    else:
        await wire.json(answer("Good morning"))


async def plain(bridge: Bridge, stub: Stub) -> None:
    stub.play = slow
    assert (await bridge.chat()).status == 200


async def streamed(bridge: Bridge, stub: Stub) -> None:
    stub.play = slow
    assert (await bridge.chat(stream=True)).text == "Good morning"


async def refused(bridge: Bridge, stub: Stub) -> None:
    async def refuses(request: Request, wire: Wire) -> None:
        await asyncio.sleep(0.1)
        await wire.json({"error": "no"}, 400)

    stub.play = refuses
    assert (await bridge.chat()).status == 400


async def unknown_field(bridge: Bridge, stub: Stub) -> None:
    assert (await bridge.chat(no_such_field=1)).status == 400


async def no_model(bridge: Bridge, stub: Stub) -> None:
    assert (await bridge.chat(model="other")).status == 404


async def no_answer(bridge: Bridge, stub: Stub) -> None:
    async def senseless(request: Request, wire: Wire) -> None:
        await wire.json({"choices": "none"})

    stub.play = senseless
    assert (await bridge.chat()).status == 502


async def broken(bridge: Bridge, stub: Stub, *, data: bytes, status: int) -> None:
    stub.play = sends(data)
    answered = await bridge.chat(stream=True)
    assert answered.status == status and b"error" in answered.body


async def left(bridge: Bridge, stub: Stub, *, stream: bool) -> None:
    truss = Waiting(b"")
    stub.play = truss
    async with raw_request(bridge, stream=stream):
        await truss.asked.acquire()
    await bridge.idle()


@pytest.mark.parametrize(
    "ends",
    [
        plain,
        streamed,
        refused,
        unknown_field,
        no_model,
        no_answer,
        partial(broken, data=line(event="delta", index=4, text="x"), status=502),
        partial(broken, data=HALF + b"garbage\n", status=200),
        partial(broken, data=HALF + line(event="error", status=500, type="t", message="OOM"), status=200),
        partial(left, stream=True),
        partial(left, stream=False),
    ],
    ids=[
        "plain", "streamed", "refused", "unknown_field", "no_model", "no_answer", "broken", "broken_halfway",
        "failed_halfway", "left_stream", "left_plain",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("uncollected")
async def test_nothing_is_left_to_the_collector(
    bridge: Bridge, stub: Stub, ends: Callable[[Bridge, Stub], Awaitable[None]]
) -> None:
    await ends(bridge, stub)
    assert await still_held(HELD) == []

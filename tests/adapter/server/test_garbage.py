"""A request leaves nothing to the garbage collector, however it ends: collections stay rare and memory flat."""

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

import pytest

from bridge_adapter.watch import Watch
from tests.adapter.harness import Bridge
from tests.adapter.stub import Request, Stub, Wire, answer, ndjson
from tests.adapter.test_presence import Waiting, raw_request

TICKS = 50


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


async def left(bridge: Bridge, stub: Stub, *, stream: bool) -> None:
    truss = Waiting(b"")
    stub.play = truss
    async with raw_request(bridge, stream=stream):
        await truss.asked.wait()
    await bridge.idle()


@pytest.fixture
async def uncollected() -> AsyncIterator[None]:
    gc.collect()
    gc.freeze()  # what was made before is not looked at below
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def watches() -> int:
    return sum(type(it) is Watch for it in gc.get_objects())


@pytest.mark.parametrize(
    "ends",
    [plain, streamed, refused, partial(left, stream=True), partial(left, stream=False)],
    ids=["plain", "streamed", "refused", "left_stream", "left_plain"],
)
@pytest.mark.usefixtures("uncollected")
async def test_nothing_is_left_to_the_collector(
    bridge: Bridge, stub: Stub, ends: Callable[[Bridge, Stub], Awaitable[None]]
) -> None:
    await ends(bridge, stub)
    for _ in range(TICKS):
        if watches() == 0:
            break
        await asyncio.sleep(0.01)
    assert watches() == 0

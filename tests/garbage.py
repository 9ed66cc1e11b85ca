"""What a request leaves to the garbage collector: `uncollected`, a fixture, and what is still held under it."""

import asyncio
import gc
from collections.abc import AsyncIterator

import pytest

TICKS = 2000


@pytest.fixture
async def uncollected() -> AsyncIterator[None]:
    gc.collect()
    gc.freeze()  # what was made before is not looked at below
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


async def still_held(kinds: tuple[type, ...]) -> list[str]:
    """The names of the objects of these kinds that are left once the tasks that hold some have ended."""
    for _ in range(TICKS):
        if not _held(kinds):
            break
        await asyncio.sleep(0.01)
    return _held(kinds)


def _held(kinds: tuple[type, ...]) -> list[str]:
    return [type(it).__name__ for it in gc.get_objects() if isinstance(it, kinds)]

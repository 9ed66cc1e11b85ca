"""A stub Truss and an adapter in front of it, both on real sockets."""

from collections.abc import AsyncIterator

import pytest

from tests.adapter.harness import Bridge, running_bridge, settings_for
from tests.adapter.stub import Stub, running_stub, says


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with running_stub(says("Hello", ", ", "world")) as stub:
        yield stub


@pytest.fixture
async def bridge(stub: Stub) -> AsyncIterator[Bridge]:
    async with running_bridge(settings_for(stub.url)) as bridge:
        yield bridge

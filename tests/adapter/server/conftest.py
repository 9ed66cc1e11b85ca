"""A store of limits for the tests that need one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest


@pytest.fixture
async def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[object]:
    """A RedisServer that runs; its URL is in the environment."""
    from tests.adapter.server.redis_server import ENVIRONMENT, RedisServer, program

    if program() is None:
        pytest.skip("needs redis-server or valkey-server: tests/adapter/server/find-redis")
    server = RedisServer(tmp_path)
    monkeypatch.setenv(ENVIRONMENT, server.url)
    await server.start()
    yield server
    server.stop()

"""One of two servers of a model, a process of its own, is killed while it holds requests."""

import asyncio
import signal
import sys
from pathlib import Path

import msgspec
import pytest

from bridge_adapter.settings import AdapterSettings
from scripts.process import ServerProcess, free_port
from tests.adapter.harness import running_bridge

REPOSITORY = Path(__file__).resolve().parents[3]
REQUESTS = 12
NEVER = 3_600_000  # milliseconds


def upstream(folder: Path, port: int, wait: int) -> ServerProcess:
    command = [sys.executable, "-m", "benchmarks.mock_upstream", str(port), str(wait)]
    return ServerProcess("upstream", command, cwd=REPOSITORY, environment={}, log=folder / f"{port}.log")


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_that_a_killed_server_had_not_begun_are_answered_by_the_other(
    tmp_path: Path, stream: bool
) -> None:
    ports = {"a": free_port(), "b": free_port()}
    targets = [{"name": name, "url": f"http://127.0.0.1:{port}"} for name, port in ports.items()]
    rows = {"m": {"upstreams": targets, "retries": {"backoff": 0.0}}}
    settings = msgspec.convert({"models": rows, "observe": {"access_log": "off"}}, AdapterSettings)
    with upstream(tmp_path, ports["a"], 0) as other, upstream(tmp_path, ports["b"], NEVER) as killed:
        for process, port in ((other, ports["a"]), (killed, ports["b"])):
            await asyncio.to_thread(process.wait_ready, f"http://127.0.0.1:{port}/", 30)
        async with running_bridge(settings) as bridge:
            chats = [
                asyncio.create_task(
                    bridge.chat({"messages": [{"role": "user", "content": f"Conversation {number}"}]}, stream=stream)
                )
                for number in range(REQUESTS)
            ]
            b = bridge.state.router.by_name("m", None).pool.upstreams[1]
            while b.in_flight + sum(chat.done() for chat in chats) < REQUESTS:
                await asyncio.sleep(0.01)
            held = b.in_flight
            killed.signal(signal.SIGKILL)
            answers = await asyncio.gather(*chats)
            assert 0 < held < REQUESTS and b.in_flight == 0
    assert [answer.status for answer in answers] == [200] * REQUESTS
    assert all(b"tok" in answer.body and b'"error"' not in answer.body for answer in answers)

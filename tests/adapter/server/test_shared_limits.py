"""Limits that hold over processes: a real Redis, adapters that share it, and what happens while it is away."""

import asyncio
import hashlib
import logging
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from bridge_adapter.cli import main
from bridge_adapter.server.auth import Keyring
from bridge_adapter.settings import SettingsError
from bridge_adapter.settings_file import load_settings
from tests.adapter.expect import hang
from tests.adapter.harness import Answered, Bridge, running_bridge, settings_for
from tests.adapter.server.test_process import serving
from tests.adapter.stub import Stub, replies, says

pytest.importorskip("limits")
pytest.importorskip("redis")

from tests.adapter.server.redis_server import ENVIRONMENT, PASSWORD, PATIENT, RedisServer

HI = [{"role": "user", "content": "Hi"}]


def keys(fail: str = "closed", timeout: float = PATIENT, **limits: Any) -> dict[str, Any]:
    digest = hashlib.sha256(b"sk-ann").hexdigest()
    store = {"url_env": ENVIRONMENT, "fail": fail, "timeout": timeout}
    return {"mode": "list", "clients": [{"name": "ann", "sha256": digest, **limits}], "store": store}


async def chat(bridge: Bridge, **fields: Any) -> Answered:
    asked = {"model": "m", "messages": HI, **fields}
    return await bridge.post("/v1/chat/completions", asked, {"authorization": "Bearer sk-ann"})


async def statuses(ports: list[int], count: int, at_once: int) -> list[int]:
    """Of `count` chats, over new connections, to each port in turn."""
    headers = {"authorization": "Bearer sk-ann"}
    gate = asyncio.Semaphore(at_once)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), headers=headers) as http:

        async def one(port: int) -> int:
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            async with gate, http.post(url, json={"model": "m", "messages": HI}) as response:
                await response.read()
                return response.status

        return await asyncio.gather(*(one(ports[number % len(ports)]) for number in range(count)))


@pytest.mark.parametrize(
    ("limits", "count", "at_once", "cost", "limit"),
    [
        ({"requests_per_minute": 100}, 200, 16, 1, 100),
        ({"tokens_per_minute": 4000}, 600, 2, 8, 4000),  # the stub's usage is 5 and 3 tokens, the estimate 2
    ],
    ids=["requests", "tokens"],
)
async def test_two_adapters_of_two_workers_share_a_limit_within_one_percent(
    store: RedisServer, stub: Stub, tmp_path: Path, limits: Any, count: int, at_once: int, cost: int, limit: int
) -> None:
    stub.play = says("Hello")
    tree = {"models": {"m": {"url": stub.url}}, "keys": keys(**limits), "observe": {"access_log": "off"}}
    with ExitStack() as stack:
        adapters = [stack.enter_context(serving(tmp_path / f"{n}.yaml", tree, "--workers", "2")) for n in range(2)]
        found = await statuses([adapter.port for adapter in adapters], count, at_once)
        for adapter in adapters:
            adapter.process.terminate()  # its workers with it
            await asyncio.to_thread(adapter.process.wait, 30)
        logs = b"".join(adapter.log for adapter in adapters)
    assert {*found} == {200, 429}
    assert abs(found.count(200) * cost - limit) <= limit / 100
    assert PASSWORD.encode() not in logs


async def test_the_headers_tell_what_is_left_of_requests_and_tokens(store: RedisServer, stub: Stub) -> None:
    stub.play = says("Hello")
    settings = settings_for(stub.url, keys=keys(requests_per_minute=2, tokens_per_minute=100))
    async with running_bridge(settings) as one, running_bridge(settings) as two:
        first, second, third = await chat(one), await chat(two), await chat(one)
    names = [f"x-ratelimit-{what}-{unit}" for unit in ("requests", "tokens") for what in ("limit", "remaining")]
    assert [first.headers[name] for name in names] == ["2", "1", "100", "98"]
    assert [second.headers[name] for name in names] == ["2", "0", "100", "90"]
    assert float(second.headers["x-ratelimit-reset-tokens"].removesuffix("s")) > 0
    assert (third.status, third.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(third.headers["retry-after"]) <= 120


async def test_a_request_that_fails_gives_its_tokens_back(store: RedisServer, stub: Stub) -> None:
    settings = settings_for(stub.url, keys=keys(tokens_per_minute=100))
    async with running_bridge(settings) as bridge:
        stub.play = replies({"error": {"message": "no"}}, status=500)
        failed = await chat(bridge)
        stub.play = says("Hello")
        answered = await chat(bridge)
    assert failed.status == 500
    assert answered.headers["x-ratelimit-remaining-tokens"] == "98"


async def test_streams_at_once_end_with_the_stream_and_with_its_client(store: RedisServer, stub: Stub) -> None:
    stub.play = hang
    settings = settings_for(stub.url, keys=keys(concurrent_streams=1))
    async with running_bridge(settings) as one, running_bridge(settings) as two:
        first = asyncio.create_task(chat(one, stream=True))
        while not stub.requests:
            await asyncio.sleep(0.01)
        beside = await chat(two, stream=True)
        whole = asyncio.create_task(chat(two))  # no stream
        while len(stub.requests) < 2:
            await asyncio.sleep(0.01)
        whole.cancel()
        first.cancel()
        await one.idle()
        stub.play = says("Hello")
        after_leaving = await chat(two, stream=True)
        await two.idle()
        after_end = await chat(one, stream=True)
        await one.idle()
        async with store.client() as client:
            assert not [key async for key in client.scan_iter("*STREAMS*")]
    assert beside.json["error"]["message"] == "Rate limit reached for concurrent streams: the limit is 1."
    assert (beside.status, after_leaving.status, after_end.status) == (429, 200, 200)


async def test_the_streams_of_a_killed_process_are_free_again(store: RedisServer, stub: Stub, tmp_path: Path) -> None:
    stub.play = hang
    limits = keys(concurrent_streams=1)
    tree = {"models": {"m": {"url": stub.url}}, "keys": limits, "observe": {"access_log": "off"}}
    async with running_bridge(settings_for(stub.url, keys=limits)) as bridge:
        with serving(tmp_path / "s.yaml", tree) as adapter:
            killed = replace(bridge, url=f"http://127.0.0.1:{adapter.port}")
            lost = asyncio.create_task(chat(killed, stream=True))
            while not stub.requests:
                await asyncio.sleep(0.01)
            adapter.process.kill()
            with pytest.raises(aiohttp.ClientError):
                await lost
        stub.play = says("Hello")
        assert (await chat(bridge, stream=True)).status == 429  # its lease is not over
        async with asyncio.timeout(60):
            while (await chat(bridge, stream=True)).status == 429:
                await asyncio.sleep(0.2)


@pytest.mark.parametrize(("fail", "expected"), [("closed", [503, 503, 503]), ("open", [200, 200, 429])])
async def test_a_dead_store_does_as_the_setting_says_until_it_is_back(
    store: RedisServer, stub: Stub, fail: str, expected: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    stub.play = says("Hello")
    limits = keys(fail, requests_per_minute=2, tokens_per_minute=1000, concurrent_streams=1)
    store.stop()
    with caplog.at_level(logging.WARNING):
        async with running_bridge(settings_for(stub.url, keys=limits)) as bridge:
            answers = [await chat(bridge, stream=number == 0) for number in range(3)]
            await store.start()
            async with store.client() as client, asyncio.timeout(30):
                while not await client.keys("*requests*"):
                    await chat(bridge)
                    await asyncio.sleep(0.05)
    assert [answer.status for answer in answers] == expected
    assert int(answers[-1].headers["retry-after"]) >= 1
    if fail == "closed":
        assert answers[0].json["error"]["type"] == "service_unavailable_error"
        assert answers[0].headers["x-should-retry"] == "true"
        assert not stub.requests[2:]
    assert "keys.store: cannot be asked" in caplog.text
    assert PASSWORD not in caplog.text


async def test_what_was_counted_before_the_store_died_still_counts_in_the_process(
    store: RedisServer, stub: Stub
) -> None:
    stub.play = says("Hello")
    async with running_bridge(settings_for(stub.url, keys=keys("open", requests_per_minute=2))) as bridge:
        found = [(await chat(bridge)).status]
        store.stop()
        found += [(await chat(bridge)).status for _ in range(2)]
    assert found == [200, 200, 429]


async def test_a_request_with_all_limits_asks_the_store_once_and_then_returns_what_it_took(
    store: RedisServer, stub: Stub
) -> None:
    stub.play = says("Hello")
    limits = keys(requests_per_minute=2, tokens_per_minute=1000, concurrent_streams=1)
    settings = settings_for(stub.url, keys=limits)
    async with running_bridge(settings) as bridge:
        bridge.state.keyring = Keyring(settings.keys, lambda: 0.0, bridge.state.store)
        asked = []
        for count in range(3):
            await chat(bridge, stream=count == 0)
            async with asyncio.timeout(30):
                while (ran := await store.scripts_run()) < min(2 * (count + 1), 5):
                    await asyncio.sleep(0.01)
            asked.append(ran)
        refused = await chat(bridge)  # known for a second to be over
        assert (refused.status, await store.scripts_run()) == (429, 5)
    assert asked == [2, 4, 5]
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"


async def test_what_is_refused_for_its_body_counts_as_a_request(store: RedisServer, stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url, keys=keys(requests_per_minute=1))) as bridge:
        answers = [await chat(bridge, messages=[]) for _ in range(2)]
    assert [answer.status for answer in answers] == [400, 429]
    assert answers[0].headers["x-ratelimit-remaining-requests"] == "0"


async def test_an_answer_does_not_wait_until_the_store_has_taken_back(store: RedisServer, stub: Stub) -> None:
    stub.play = hang
    limits = keys(timeout=1e6, tokens_per_minute=1000, concurrent_streams=1)
    async with running_bridge(settings_for(stub.url, keys=limits)) as bridge:
        asked = asyncio.create_task(chat(bridge, stream=True))
        while not stub.requests:
            await asyncio.sleep(0.01)
        store.freeze()
        asked.cancel()
        await bridge.idle()
        store.thaw()


def written(tmp_path: Path, store: dict[str, Any]) -> str:
    tree = {"models": {"m": {"url": "http://127.0.0.1:1"}}, "keys": keys() | {"store": store}}
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(tree))
    return str(path)


def test_check_tells_the_store_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(ENVIRONMENT, f"valkeys://me:{PASSWORD}@store.example:7000/2")
    assert main(["check", written(tmp_path, {"url_env": ENVIRONMENT})]) == 0
    told = capsys.readouterr()
    assert "limits: counted at store.example:7000, fail open" in told.out
    assert PASSWORD not in told.out + told.err


@pytest.mark.parametrize(
    "url", [f"http://:{PASSWORD}@h", f"redis://:{PASSWORD}@h:x", f":{PASSWORD}", f"redis://{PASSWORD}@"]
)
def test_a_wrong_url_is_refused_and_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str
) -> None:
    monkeypatch.setenv(ENVIRONMENT, url)
    assert main(["check", written(tmp_path, {"url_env": ENVIRONMENT})]) == 2
    told = capsys.readouterr()
    assert ENVIRONMENT in told.err
    assert PASSWORD not in told.out + told.err


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ({}, "give exactly one of `url` and `url_env`"),
        ({"url": "redis://h", "url_env": "X"}, "give exactly one of `url` and `url_env`"),
        ({"url": f"redis://:{PASSWORD}@h"}, "the password does not belong into the file"),
    ],
)
def test_a_store_without_one_address_or_with_its_password_is_refused(
    tmp_path: Path, store: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message) as refused:
        load_settings(written(tmp_path, store), {})
    assert PASSWORD not in str(refused.value)


def test_without_the_extra_a_store_is_refused_by_its_name_and_nothing_else_needs_it(tmp_path: Path) -> None:
    path = written(tmp_path, {"url": "redis://store.example"})
    lines = "import sys; sys.modules['redis'] = sys.modules['limits'] = None; from bridge_adapter.cli import main"
    command = [sys.executable, "-c", f"{lines}; sys.exit(main(['check', sys.argv[1]]))", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "truss-openai-bridge[shared-limits]" in done.stderr) == (2, True)
    plain = "from bridge_adapter.server.app import create_app; from bridge_adapter.settings import AdapterSettings"
    command = [sys.executable, "-c", f"{lines}; {plain}; create_app(AdapterSettings())"]
    assert subprocess.run(command).returncode == 0

"""Who may call: open, a list of hashed keys with their limits, or the caller's own Baseten key passed on."""

import asyncio
import hashlib
from typing import Any

import pytest
from openai import AuthenticationError, RateLimitError

from bridge_adapter.errors import RateLimited
from bridge_adapter.server.auth import Keyring
from bridge_adapter.server.limits import LocalLimits
from bridge_adapter.settings import ClientKey, Keys
from tests.adapter.expect import hang
from tests.adapter.harness import Answered, Bridge, running_bridge, settings_for
from tests.adapter.stub import Stub, replies

HI = [{"role": "user", "content": "Hi"}]


def client(name: str, **limits: Any) -> dict[str, Any]:
    """The key is `sk-` and the name."""
    return {"name": name, "sha256": hashlib.sha256(f"sk-{name}".encode()).hexdigest(), **limits}


def listed(*clients: dict[str, Any]) -> dict[str, Any]:
    return {"mode": "list", "clients": clients}


async def chat(bridge: Bridge, authorization: str | None, path: str = "/v1", **fields: Any) -> Answered:
    headers = {} if authorization is None else {"authorization": authorization}
    return await bridge.post(f"{path}/chat/completions", {"model": "m", "messages": HI, **fields}, headers)


async def test_a_list_of_keys(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url, keys=listed(client("ann"), client("bob")))) as bridge:
        assert (await chat(bridge, "Bearer sk-ann")).status == 200
        assert (await chat(bridge, "Api-Key sk-bob")).status == 200
        missing = await chat(bridge, None)
        wrong = await chat(bridge, "Bearer sk-eve")
        models = await bridge.get("/v1/models")
        live = await bridge.get("/health/live")
    assert (missing.status, wrong.status, models.status, live.status) == (401, 401, 401, 200)
    assert wrong.json["error"] == {
        "message": "Incorrect API key provided.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
    assert missing.json["error"]["message"].startswith("You didn't provide an API key.")
    assert "authorization" not in stub.requests[0].headers


@pytest.mark.parametrize("given", ["sk-ann", "Basic sk-ann", "Bearer ", "Bearer sk-ann x", "Bearer \xff"])
async def test_keys_of_another_form(stub: Stub, given: str) -> None:
    async with running_bridge(settings_for(stub.url, keys=listed(client("ann")))) as bridge:
        assert (await chat(bridge, given)).status == 401


async def test_a_key_for_some_models(stub: Stub) -> None:
    settings = settings_for(
        stub.url, model={"aliases": ["n"]}, keys=listed(client("ann", models=["m"]), client("bob", models=[]))
    )
    async with running_bridge(settings) as bridge:
        assert (await chat(bridge, "Bearer sk-ann", model="n")).status == 200
        refused = await chat(bridge, "Bearer sk-bob")
        anns = await bridge.get("/v1/models", {"authorization": "Bearer sk-ann"})
        bobs = await bridge.get("/v1/models", {"authorization": "Bearer sk-bob"})
    assert (refused.status, refused.json["error"]["code"]) == (403, "model_not_allowed")
    assert [model["id"] for model in anns.json["data"]] == ["m", "n"]
    assert bobs.json["data"] == []


async def test_requests_a_minute(stub: Stub) -> None:
    keys = listed(client("ann", requests_per_minute=2), client("bob"))
    settings = settings_for(stub.url, keys=keys)
    async with running_bridge(settings, api_key="sk-ann") as bridge:
        bridge.state.keyring = Keyring(settings.keys, lambda: 0.0)
        first = await chat(bridge, "Bearer sk-ann")
        await chat(bridge, "Bearer sk-ann")
        third = await chat(bridge, "Bearer sk-ann")
        with pytest.raises(RateLimitError):
            await bridge.openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
        assert (await chat(bridge, "Bearer sk-bob")).status == 200
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert (third.status, third.json["error"]["code"]) == (429, "rate_limit_exceeded")
    assert third.headers["retry-after"] == "30"
    assert third.headers["x-ratelimit-remaining-requests"] == "0"


async def test_the_minute_fills_again() -> None:
    now = 0.0
    limits = LocalLimits(ClientKey(name="a", sha256="0" * 64, requests_per_minute=60), lambda: now)
    for _ in range(60):
        await limits.admit()
    with pytest.raises(RateLimited) as refused:
        await limits.admit()
    assert refused.value.retry_after == 1.0
    now = 2.0
    await limits.admit()
    await limits.admit()
    with pytest.raises(RateLimited):
        await limits.admit()


async def test_a_reload_forgives_nothing_unless_the_limits_change() -> None:
    entry = ClientKey(name="a", sha256="0" * 64, requests_per_minute=1)
    older, newer = (Keyring(Keys(mode="list", clients=(entry,)), lambda: 0.0) for _ in range(2))
    await older._callers[0][1].limits.admit()
    newer.keep_counts_of(older)
    with pytest.raises(RateLimited):
        await newer._callers[0][1].limits.admit()


async def test_streams_at_once(stub: Stub) -> None:
    stub.play = hang
    keys = listed(client("ann", concurrent_streams=1))
    async with running_bridge(settings_for(stub.url, keys=keys)) as bridge:
        first = asyncio.create_task(chat(bridge, "Bearer sk-ann", stream=True))
        while not stub.requests:
            await asyncio.sleep(0.01)
        second = await chat(bridge, "Bearer sk-ann", stream=True)
        first.cancel()
        await bridge.idle()
        stub.play = replies("again")
        third = await chat(bridge, "Bearer sk-ann", stream=True)
    assert (second.status, third.status) == (429, 200)
    assert second.json["error"]["message"] == "Rate limit reached for concurrent streams: the limit is 1."


async def test_limits_hold_when_all_ask_at_once(stub: Stub) -> None:
    stub.play = hang
    keys = listed(client("ann", concurrent_streams=3), client("bob", requests_per_minute=1))
    async with running_bridge(settings_for(stub.url, keys=keys)) as bridge:
        streams = [asyncio.create_task(chat(bridge, "Bearer sk-ann", stream=True)) for _ in range(20)]
        done: set[asyncio.Task[Answered]] = set()
        async with asyncio.timeout(30):
            while len(done) < 17:
                done, _ = await asyncio.wait(streams, timeout=0.05)
        assert {task.result().status for task in done} == {429}
        for task in streams:
            task.cancel()
        await bridge.idle()
        stub.play = replies("again")
        asked = await asyncio.gather(*(chat(bridge, "Bearer sk-bob") for _ in range(20)))
    assert len(stub.requests) == 4
    assert sorted(answered.status for answered in asked) == [200] + [429] * 19


async def test_places_at_a_model(stub: Stub) -> None:
    stub.play = hang
    async with running_bridge(settings_for(stub.url, model={"concurrency": 1})) as bridge:
        first = asyncio.create_task(bridge.chat())
        while not stub.requests:
            await asyncio.sleep(0.01)
        second = await bridge.chat()
        first.cancel()
        await bridge.idle()
    assert (second.status, second.headers["retry-after"]) == (429, "1")


async def test_the_callers_key_is_passed_on(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url, keys={"mode": "pass_through"}), api_key="theirs") as bridge:
        assert (await chat(bridge, None)).status == 401
        await bridge.openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
        assert stub.requests[0].headers["authorization"] == "Api-Key theirs"
        stub.play = replies({"error": "bad key"}, 401)
        with pytest.raises(AuthenticationError) as refused:
            await bridge.openai.chat.completions.create(model="m", messages=[{"role": "user", "content": "Hi"}])
    assert refused.value.code == "invalid_api_key"


async def test_a_model_with_a_key_of_its_own(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSTREAM_KEY", "ours")
    model = {"key_env": "UPSTREAM_KEY", "key_scheme": "Bearer"}
    async with running_bridge(settings_for(stub.url, model=model, keys={"mode": "pass_through"})) as bridge:
        await chat(bridge, "Bearer theirs")
    assert stub.requests[0].headers["authorization"] == "Bearer ours"


async def test_the_path_form_reaches_a_deployment_with_the_callers_key(stub: Stub) -> None:
    form = {"url": f"{stub.url}/{{model_id}}/predict"}
    async with running_bridge(settings_for(stub.url, path_form=form)) as bridge:
        answered = await chat(bridge, "Bearer baseten-key", "/abcd1234/v1")
        without = await chat(bridge, None, "/abcd1234/v1")
        listed_models = await bridge.get("/abcd1234/v1/models", {"authorization": "Bearer baseten-key"})
        one = await bridge.get("/abcd1234/v1/models/abcd1234", {"authorization": "Bearer baseten-key"})
    assert answered.json["model"] == "abcd1234"
    assert (stub.requests[0].path, stub.requests[0].headers["authorization"]) == (
        "/abcd1234/predict",
        "Api-Key baseten-key",
    )
    assert (without.status, without.json["error"]["code"]) == (401, "invalid_api_key")
    assert [model["id"] for model in listed_models.json["data"]] == [one.json["id"]] == ["abcd1234"]


@pytest.mark.parametrize(
    "model_id", ["evil.com", "a", "ab%2Fcd12", "abcd1234%00", "x" * 40, "abcd-1234", "abcd1234@h", "%E2%91%A0234"]
)
async def test_no_id_reaches_another_host(stub: Stub, model_id: str) -> None:
    async with running_bridge(settings_for(stub.url, path_form={"url": f"{stub.url}/{{model_id}}/predict"})) as bridge:
        answered = await chat(bridge, "Bearer k", f"/{model_id}/v1")
    assert answered.status == 404
    assert stub.requests == []


async def test_the_path_form_can_be_off(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url, path_form={"enabled": False})) as bridge:
        assert (await chat(bridge, "Bearer k", "/abcd1234/v1")).status == 404
        assert (await chat(bridge, "Bearer k", "/m/v1")).status == 404


async def test_a_listed_key_is_never_sent_to_a_deployment(stub: Stub) -> None:
    form = {"url": f"{stub.url}/{{model_id}}/predict"}
    async with running_bridge(settings_for(stub.url, path_form=form, keys=listed(client("ann")))) as bridge:
        assert (await chat(bridge, "Bearer sk-ann", "/abcd1234/v1")).status == 404
        assert (await chat(bridge, "Bearer sk-ann", "/m/v1")).status == 200
    assert all("authorization" not in request.headers for request in stub.requests)

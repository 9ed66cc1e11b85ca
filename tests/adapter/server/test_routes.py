"""URLs as clients make them: with a slash too many, without /v1, asked with HEAD; and the health checks."""

import pytest

from tests.adapter.harness import Bridge, running_bridge, settings_for
from tests.adapter.stub import Stub, replies

HINTS = {
    "/chat/completions": "/v1/chat/completions",
    "//v1/chat/completions": "/v1/chat/completions",
    "/v1//chat/completions": "/v1/chat/completions",
    "/v1/chat/completions/": "/v1/chat/completions",
    "/v1/v1/chat/completions": "/v1/chat/completions",
    "/v1/chat/completions/chat/completions": "/v1/chat/completions",
    "/v1/completions/chat/completions": "/v1/chat/completions",
    "/api/completions": "/v1/completions",
    "/responses": "/v1/responses",
    "/abcd1234/chat/completions": "/abcd1234/v1/chat/completions",
    "/abcd1234/v1//responses": "/abcd1234/v1/responses",
    "/openai/models": "/v1/models",
    "//v1/models/m": "/v1/models/m",
}


@pytest.mark.parametrize(("path", "known"), HINTS.items())
async def test_a_wrong_url_gets_a_hint(bridge: Bridge, path: str, known: str) -> None:
    answered = await bridge.post(path, {})
    assert answered.status == 404
    assert answered.json["error"]["message"] == f"Invalid URL (POST {path}) (HINT: Perhaps you meant {known}?)"


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/embeddings", "/v1/chat", "/mychat/completionsx"])
async def test_a_url_like_no_route_gets_none(bridge: Bridge, path: str) -> None:
    answered = await bridge.post(path, {})
    assert (answered.status, answered.json["error"]["message"]) == (404, f"Invalid URL (POST {path})")


@pytest.mark.parametrize("path", ["/v1/models/", "/m/v1/models/", "/v1/models//"])
async def test_models_with_a_slash_at_the_end_are_the_list(bridge: Bridge, path: str) -> None:
    answered = await bridge.get(path)
    assert (answered.status, answered.json["object"], answered.json["data"][0]["id"]) == (200, "list", "m")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/m", "/health", "/health/live", "/metrics", "/docs"])
async def test_head_tells_what_get_would(bridge: Bridge, stub: Stub, path: str) -> None:
    stub.play = replies({})
    told = await bridge.get(path)
    async with bridge.http.head(bridge.url + path) as head:
        assert (head.status, await head.read()) == (200, b"")
        assert head.headers["content-type"] == told.headers["content-type"]
        if path != "/metrics":  # which counts the requests
            assert head.headers["content-length"] == str(len(told.body))
    assert (await bridge.get(path)).status == 200  # on the same connection


async def test_head_of_what_is_posted_to_is_not_allowed(bridge: Bridge) -> None:
    async with bridge.http.head(f"{bridge.url}/v1/chat/completions") as head:
        assert (head.status, head.headers["allow"]) == (405, "POST")
    async with bridge.http.head(f"{bridge.url}/v1/models/none") as head:
        assert head.status == 404


async def test_health_is_what_ready_is(bridge: Bridge, stub: Stub) -> None:
    stub.play = replies({})
    health, ready = await bridge.get("/health"), await bridge.get("/health/ready")
    assert (health.status, health.body) == (200, ready.body)
    async with running_bridge(settings_for("http://127.0.0.1:1")) as down:
        health, ready = await down.get("/health"), await down.get("/health/ready")
    assert (health.status, health.body) == (ready.status, ready.body)
    assert health.status == 503

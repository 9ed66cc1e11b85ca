"""Pages of other origins: who may ask, and what their scripts may read of an answer."""

import hashlib
from typing import Any

from tests.adapter.harness import Answered, running_bridge, settings_for
from tests.adapter.stub import Stub, replies

ORIGIN = "https://app.example.com"
ASKING = {"origin": ORIGIN}
ALLOWED = {"cors_origins": [ORIGIN]}
READABLE_ANYWAY = {"cache-control", "content-length", "content-type"}  # the Fetch standard's safelist
OF_HTTP = {"connection", "date", "server", "transfer-encoding", "vary", "x-accel-buffering"}


def hidden(answered: Answered) -> set[str]:
    """The headers of an answer that its page cannot read, although they are for it."""
    headers = {name.lower() for name in answered.headers if not name.lower().startswith("access-control-")}
    exposed = {name.strip() for name in answered.headers["access-control-expose-headers"].split(",")}
    return headers - exposed - READABLE_ANYWAY - OF_HTTP


async def test_it_is_off_unless_asked_for(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url)) as bridge:
        assert "access-control-allow-origin" not in (await bridge.get("/v1/models", ASKING)).headers
    async with running_bridge(settings_for(stub.url, server=ALLOWED)) as bridge:
        allowed = await bridge.get("/v1/models", ASKING)
        other = await bridge.get("/v1/models", {"origin": "https://evil.example.com"})
    assert allowed.headers["access-control-allow-origin"] == ORIGIN
    assert "access-control-allow-origin" not in other.headers


async def test_a_page_reads_every_header_that_is_for_it(stub: Stub) -> None:
    key = {"name": "a", "sha256": hashlib.sha256(b"k").hexdigest(), "tokens_per_minute": 9999, "requests_per_minute": 4}
    parts: dict[str, Any] = {
        "server": ALLOWED,
        "keys": {"mode": "list", "clients": [key]},
        "model": {
            "unknown_fields": "drop",
            "fallbacks": ["n"],
            "url": "http://127.0.0.1:1",
            "retries": {"attempts": 0},
        },
    }
    settings = settings_for(stub.url, **parts)
    settings.models["n"] = settings_for(stub.url, model={"unknown_fields": "drop"}).models["m"]
    headers = {**ASKING, "authorization": "Bearer k"}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "colour": "red"}
    async with running_bridge(settings) as bridge:
        for stream in (False, True):
            good = await bridge.post("/v1/chat/completions", {**body, "stream": stream}, headers)
            assert good.status == 200
            for name in ("x-request-id", "x-bridge-dropped-fields", "x-bridge-fallback", "x-ratelimit-limit-tokens"):
                assert name in good.headers
            assert hidden(good) == set()
        stub.play = replies({}, 503)
        broken = await bridge.post("/v1/chat/completions", body, headers)
        unknown = await bridge.post("/v1/chat/completions", {**body, "model": "x"}, headers)
        limited = await bridge.post("/v1/chat/completions", body, headers)
        keyless = await bridge.post("/v1/chat/completions", body, ASKING)
    assert [one.status for one in (broken, unknown, limited, keyless)] == [503, 404, 429, 401]
    assert "retry-after" in limited.headers and "x-should-retry" in broken.headers
    assert all(hidden(one) == set() for one in (broken, unknown, limited, keyless))


async def test_what_the_sdks_send_is_asked_for_beforehand(stub: Stub) -> None:
    wanted = "authorization,content-type,x-stainless-lang,x-stainless-retry-count,idempotency-key"
    headers = {**ASKING, "access-control-request-method": "POST", "access-control-request-headers": wanted}
    async with running_bridge(settings_for(stub.url, server=ALLOWED)) as bridge:
        async with bridge.http.options(f"{bridge.url}/v1/chat/completions", headers=headers) as response:
            assert response.status == 200
            assert response.headers["access-control-allow-headers"] == wanted
            assert "POST" in response.headers["access-control-allow-methods"]

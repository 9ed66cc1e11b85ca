"""By which names a service may be called: DNS rebinding needs one that an attacker can point here."""

import pytest

from tests.adapter.harness import running_bridge, settings_for
from tests.adapter.stub import Stub


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:8000",
        "localhost",
        "LOCALHOST:1",
        "[::1]:8000",
        "host.docker.internal:8000",
        "host.containers.internal",
        "192.168.1.5",
        "172.17.0.1:8000",
        "[fd00::5]:8000",
        "adapter:8000",
        "truss_adapter-1",
        "chat.localhost:8000",
    ],
)
async def test_a_local_service_answers_to_names_that_no_page_can_have(stub: Stub, host: str) -> None:
    async with running_bridge(settings_for(stub.url)) as bridge:
        assert (await bridge.get("/v1/models", {"host": host})).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example.com:8000",
        "evil.example",
        "127.0.0.1.evil.example",
        "192.168.1.5.nip.io",
        "localhost.evil.example",
        "internal.evil.example:80",
        "evil.example.",
        "evil.internal.",
        "xn--e1aybc.com",
        "[evil.example]",
        ".internal",
        "adapter.",
        "1.2.3.4.5",
    ],
)
async def test_a_page_whose_name_points_here_does_not_get_through(stub: Stub, host: str) -> None:
    async with running_bridge(settings_for(stub.url)) as bridge:
        answered = await bridge.get("/v1/models", {"host": host})
    assert answered.status == 403
    assert answered.json["error"]["message"].startswith("This service does not answer to the host name '")


async def test_what_the_settings_list_is_all(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url, server={"trusted_hosts": ["b.example.com"]})) as bridge:
        assert (await bridge.get("/v1/models", {"host": "b.example.com"})).status == 200
        for host in ("localhost", "192.168.1.5", "adapter:8000"):
            assert (await bridge.get("/v1/models", {"host": host})).status == 403


async def test_a_public_address_answers_to_any_name(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url, server={"host": "0.0.0.0"})) as bridge:
        assert (await bridge.get("/v1/models", {"host": "any.example.com"})).status == 200

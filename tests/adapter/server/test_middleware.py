"""The outermost middleware around apps that go wrong in ways that no route does."""

import json
from collections.abc import MutableMapping
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from bridge_adapter.server.middleware import RequestMiddleware
from bridge_adapter.server.state import AdapterState
from tests.adapter.harness import settings_for

CONTENT = "words of a message"


async def unexpected(scope: Scope, receive: Receive, send: Send) -> None:
    raise ValueError(CONTENT)


async def unexpected_halfway(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise ValueError(CONTENT)


async def sent_by(app: ASGIApp) -> list[MutableMapping[str, Any]]:
    service = AdapterState(settings_for("http://127.0.0.1:1"))
    sent: list[MutableMapping[str, Any]] = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"x-request-id", b"mine-1")]}
    await RequestMiddleware(app, service)(scope, receive, send)
    assert service.in_flight == 0
    return sent


async def test_an_unexpected_error_is_a_500_and_its_message_stays_inside(caplog: pytest.LogCaptureFixture) -> None:
    start, body = await sent_by(unexpected)
    assert start["status"] == 500
    assert (b"x-request-id", b"mine-1") in start["headers"]
    assert json.loads(body["body"]) == {
        "error": {
            "message": "The server had an error while processing your request.",
            "type": "server_error",
            "param": None,
            "code": None,
        }
    }
    assert "request_id=mine-1 failed: ValueError at middleware.py:" in caplog.text
    assert CONTENT not in caplog.text


async def test_after_the_answer_began_nothing_is_made_up(caplog: pytest.LogCaptureFixture) -> None:
    """The server sees an answer without an end and cuts the connection, which is the truth."""
    sent = await sent_by(unexpected_halfway)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[-1]["more_body"] is True
    assert CONTENT not in caplog.text

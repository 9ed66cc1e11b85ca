"""What the adapter makes of a Truss that fails: one outcome for each fault, asserted whole."""

import socket
from typing import Any

import pytest

from scripts.process import free_port
from tests.adapter.expect import ONCE, SOON, closed_halfway, error, fault, hang, page, unusable
from tests.adapter.harness import Bridge, running_bridge, settings_for
from tests.adapter.stub import Play, Request, Stub, Wire, answer, replies, running_stub, says


@pytest.mark.parametrize("stream", [False, True])
async def test_nobody_listens(stream: bool) -> None:
    async with running_bridge(settings_for(f"http://127.0.0.1:{free_port()}")) as bridge:
        answered = await bridge.chat(stream=stream)
    expected = fault("The model's server cannot be reached.", "service_unavailable_error")
    assert error(answered) == (503, expected)
    assert (answered.headers["retry-after"], answered.headers["x-should-retry"]) == ("1", "true")


async def test_a_port_that_closes_and_opens_again() -> None:
    """The pool's connection dies with it; no answer after that is lost to a connection that is no more."""
    port = free_port()
    async with running_stub(says("before"), port) as stub:
        bridged = running_bridge(settings_for(stub.url, model=ONCE))
        bridge = await bridged.__aenter__()
        assert (await bridge.chat()).status == 200
    try:
        assert (await bridge.chat()).status == 503
        async with running_stub(says("after"), port):
            for stream in (False, True):
                assert (await bridge.chat(stream=stream)).status == 200
    finally:
        await bridged.__aexit__(None, None, None)


async def test_the_connection_is_not_accepted() -> None:
    """A listener whose queue is full answers no SYN."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        model = {"timeouts": {"connect": 0.2}, **ONCE}
        async with running_bridge(settings_for(f"http://127.0.0.1:{port}", model=model)) as bridge:
            answered = await bridge.chat()
        for filler in fillers:
            filler.close()
    assert error(answered) == (504, fault("The model's server did not accept a connection in time."))


JSON_BODY = {"error": {"message": "No.", "type": "their_type", "param": "x", "code": "their_code"}}
STATUSES: list[tuple[int, Any, tuple[int, dict[str, Any]]]] = [
    *(
        (status, JSON_BODY, (status, fault("No.", "their_type", "their_code", "x")))
        for status in (400, 402, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504)
    ),
    (
        401,
        JSON_BODY,
        (502, fault("The model's server refused the key that this service is configured with.")),
    ),
    (400, {"error": "max_tokens: wrong"}, (400, fault("max_tokens: wrong", "invalid_request_error"))),
    (
        500,
        {"error": "Internal Server Error (in model/chainlet)."},
        (500, fault("Internal Server Error (in model/chainlet).")),
    ),
    (
        503,
        {"error": "Model with name model is not ready."},
        (503, fault("Model with name model is not ready.", "service_unavailable_error")),
    ),
    (404, {"detail": "Not Found"}, (404, fault("Not Found", "invalid_request_error", "model_not_found"))),
    (429, {}, (429, fault("The model's server answered with status 429.", "rate_limit_error", "rate_limit_exceeded"))),
    (307, {}, (502, fault("The model's server answered with status 307."))),
    (201, {}, (502, fault("The model's server answered with status 201."))),
]


@pytest.mark.parametrize("stream", [False, True])
async def test_statuses_with_json(stub: Stub, stream: bool) -> None:
    async with running_bridge(settings_for(stub.url, model=ONCE)) as bridge:
        for status, body, expected in STATUSES:
            stub.play = replies(body, status, ["location: http://127.0.0.1:1/"])
            assert error(await bridge.chat(stream=stream)) == expected


@pytest.mark.parametrize("body", [b"<html><body>nginx secret</body></html>", b"", b"{broken", b"[1]"])
@pytest.mark.parametrize("status", [400, 403, 500, 502, 503])
async def test_statuses_without_json(stub: Stub, status: int, body: bytes) -> None:
    async def play(request: Request, wire: Wire) -> None:
        await wire.whole(status, body, "text/html")

    stub.play = play
    async with running_bridge(settings_for(stub.url, model=ONCE)) as bridge:
        answered = await bridge.chat()
    assert answered.status == (502 if status == 403 else status)
    assert "<" not in answered.json["error"]["message"]
    assert "nginx" not in answered.body.decode()


async def broken_json(request: Request, wire: Wire) -> None:
    await wire.whole(200, b'{"choices": [', "application/json")


async def no_http(request: Request, wire: Wire) -> None:
    await wire.raw(b"\x00\x01\x02 garbage\r\n\r\n")
    wire.close()


WHOLE: list[tuple[Play, tuple[int, dict[str, Any]]]] = [
    (page, (502, unusable("a web page"))),
    (broken_json, (502, unusable("invalid JSON"))),
    (replies([1]), (502, unusable("JSON that is not a completion"))),
    (replies({"a": 1}), (502, unusable("JSON without choices"))),
    (replies({"choices": []}), (502, unusable("other choices than requested"))),
    (replies(answer("a", "b")), (502, unusable("other choices than requested"))),
    (replies({"choices": [{"index": "x"}]}), (502, unusable("choices of an unknown form"))),
    (replies({"error": {"message": "Boom", "type": "t", "code": 5}}), (502, fault("Boom", "t"))),
    (replies({"status": "error", "message": "Boom"}), (502, fault("Boom"))),
    (no_http, (502, unusable("an invalid HTTP response"))),
]


@pytest.mark.parametrize(("play", "expected"), WHOLE)
async def test_a_200_that_is_no_answer(stub: Stub, play: Play, expected: tuple[int, dict[str, Any]]) -> None:
    stub.play = play
    async with running_bridge(settings_for(stub.url, model=ONCE)) as bridge:
        answered = await bridge.chat()
    assert error(answered) == expected


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("phase", "said"), [("first_byte", "begin"), ("total", "finish")])
async def test_no_first_byte(stub: Stub, stream: bool, phase: str, said: str) -> None:
    stub.play = hang
    async with running_bridge(settings_for(stub.url, model={"timeouts": {phase: SOON}})) as bridge:
        answered = await bridge.chat(stream=stream)
    assert error(answered) == (504, fault(f"The model's server did not {said} its answer in time."))
    assert len(stub.requests) == 1


class Flaky:
    """Fails with these plays, then answers."""

    def __init__(self, *plays: Play) -> None:
        self._plays = list(plays)

    async def __call__(self, request: Request, wire: Wire) -> None:
        await (self._plays.pop(0) if self._plays else says("ok"))(request, wire)


async def drop(request: Request, wire: Wire) -> None:
    wire.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("play", [drop, replies({}, 502), replies({}, 503), replies({}, 429, ["retry-after: 0"])])
async def test_what_is_tried_again(stub: Stub, play: Play, stream: bool) -> None:
    stub.play = Flaky(play, play)
    async with running_bridge(settings_for(stub.url)) as bridge:
        answered = await bridge.chat(stream=stream)
        metrics = bridge.state.observer.metrics.text().decode()
    assert answered.status == 200
    assert len(stub.requests) == 3
    assert 'bridge_retries_total{model="m"} 2.0' in metrics


@pytest.mark.parametrize(
    "play",
    [replies({}, 400), replies({}, 500), replies({}, 504), replies({}, 429, ["retry-after: 60"]), closed_halfway],
)
async def test_what_is_not_tried_again(stub: Stub, play: Play) -> None:
    stub.play = play
    async with running_bridge(settings_for(stub.url)) as bridge:
        await bridge.chat(stream=True)
    assert len(stub.requests) == 1


async def test_retry_after_is_kept(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url)) as bridge:
        stub.play = replies(JSON_BODY, 429, ["retry-after: 60"])
        assert (await bridge.chat()).headers["retry-after"] == "60"
        stub.play = replies({}, 503, ["retry-after: Wed, 21 Oct 2015 07:28:00 GMT"])
        assert (await bridge.chat()).headers["retry-after"] == "0"


async def test_request_ids_go_all_the_way(bridge: Bridge, stub: Stub) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    answered = await bridge.post("/v1/chat/completions", body, {"x-request-id": "mine-1"})
    assert answered.headers["x-request-id"] == "mine-1"
    assert stub.requests[0].headers["x-request-id"] == "mine-1"
    odd = await bridge.post("/v1/chat/completions", body, {"x-request-id": "a b<c>"})
    assert odd.headers["x-request-id"].startswith("req_")
    failed = await bridge.post("/v1/chat/completions", b"{", {"x-request-id": "mine-2"})
    assert failed.headers["x-request-id"] == "mine-2"

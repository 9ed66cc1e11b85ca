"""What operators see: metrics by value, the log line, traces; and that no secret is in any of them."""

import asyncio
import json
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from prometheus_client.parser import text_string_to_metric_families

from tests.adapter.expect import HALF, hang
from tests.adapter.harness import Bridge, running_bridge, settings_for
from tests.adapter.stub import Request, Stub, Wire, line, replies, running_stub, says, sends

SECRET = "sk-planted-secret-in-a-key"
CONTENT = "planted words of a message"


async def values(bridge: Bridge) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample but times and the requests for metrics themselves."""
    answered = await bridge.get("/metrics")
    found = {}
    for family in text_string_to_metric_families(answered.body.decode()):
        for sample in family.samples:
            timed = sample.name.endswith(("_created", "_bucket", "_sum"))
            if not timed and sample.labels.get("route") != "metrics":
                found[(sample.name, tuple(sorted(sample.labels.items())))] = sample.value
    return found


def sample(name: str, **labels: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    return name, tuple(sorted(labels.items()))


async def test_metrics_after_a_mix_of_requests(stub: Stub) -> None:
    settings = settings_for(
        stub.url, model={"price": {"input": 2, "output": 4}, "retries": {"attempts": 1, "backoff": 0}}
    )
    async with running_bridge(settings) as bridge:
        await bridge.chat()
        await bridge.chat(stream=True, n=2)
        await bridge.chat(temperature=9)
        await bridge.chat(model="unknown")
        stub.play = replies({}, 503)
        await bridge.chat()
        stub.play = sends(HALF)
        await bridge.chat(stream=True)
        stub.play = hang
        left = asyncio.create_task(bridge.chat(stream=True))
        while len(stub.requests) < 6:
            await asyncio.sleep(0.01)
        left.cancel()
        await bridge.idle()
        found = await values(bridge)
    chat = {"model": "m", "route": "chat.completions"}
    nobody = {"model": "", "route": "chat.completions"}
    assert found == {
        sample("bridge_requests_total", **chat, stream="false", status="200"): 1,
        sample("bridge_requests_total", **chat, stream="true", status="200"): 2,
        sample("bridge_requests_total", **chat, stream="false", status="400"): 1,
        sample("bridge_requests_total", **nobody, stream="false", status="404"): 1,
        sample("bridge_requests_total", **chat, stream="false", status="503"): 1,
        sample("bridge_requests_total", **chat, stream="true", status="499"): 1,
        sample("bridge_choices_total", **chat, finish_reason="stop"): 3,
        sample("bridge_request_seconds_count", **chat): 6,
        sample("bridge_request_seconds_count", **nobody): 1,
        sample("bridge_first_token_seconds_count", **chat): 2,
        sample("bridge_inter_token_seconds_count", **chat): 0,  # each stream came in one piece
        sample("bridge_tokens_total", model="m", direction="input"): 10,
        sample("bridge_tokens_total", model="m", direction="cached"): 4,
        sample("bridge_tokens_total", model="m", direction="output"): 6,
        sample("bridge_cost_dollars_total", model="m"): pytest.approx((10 * 2 + 6 * 4) / 1e6),
        sample("bridge_upstream_errors_total", model="m", kind="status_503"): 1,
        sample("bridge_upstream_errors_total", model="m", kind="broken"): 1,
        sample("bridge_retries_total", model="m"): 1,
        sample("bridge_cancels_total", **chat): 1,
        sample("bridge_in_flight"): 1,  # the request for the metrics
    }


async def test_time_between_tokens(stub: Stub) -> None:
    client_has_it = asyncio.Semaphore(0)

    async def play(request: Request, wire: Wire) -> None:
        await wire.start()
        for text in ("one", "two", "three"):
            await wire.piece(line(event="delta", index=0, text=text))
            await client_has_it.acquire()
        await wire.piece(b'{"event":"finish","index":0,"reason":"stop"}\n{"event":"done"}\n')
        await wire.end()

    stub.play = play
    async with running_bridge(settings_for(stub.url)) as bridge:
        async with bridge.streaming() as response:
            for text in (b"one", b"two", b"three"):
                await response.content.readuntil(text)
                client_has_it.release()
            await response.content.read()
        found = await values(bridge)
    assert found[sample("bridge_inter_token_seconds_count", model="m", route="chat.completions")] == 2


async def test_metrics_can_be_off(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url, observe={"metrics": False, "access_log": "off"})) as bridge:
        assert (await bridge.get("/metrics")).status == 404


async def test_a_log_line_in_json(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    async def play(request: Request, wire: Wire) -> None:
        await wire.json("Hello", 200, ["x-baseten-request-id: theirs-1"])

    stub.play = play
    headers = {"x-request-id": "mine-1"}
    async with running_bridge(settings_for(stub.url, observe={"access_log": "json"})) as bridge:
        body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
        await bridge.post("/v1/chat/completions", body, headers)
    line = json.loads(capsys.readouterr().out)
    assert line.pop("time") > 0
    assert line.pop("duration_ms") > 0
    assert line == {
        "request_id": "mine-1",
        "upstream_request_id": "theirs-1",
        "method": "POST",
        "path": "/v1/chat/completions",
        "route": "chat.completions",
        "status": 200,
        "error": None,
        "model": "m",
        "client": None,
        "stream": False,
        "cancelled": False,
        "retries": 0,
        "first_token_ms": None,
        "prompt_tokens": 0,
        "completion_tokens": 0,
        "cached_tokens": 0,
        "finish_reasons": ["stop"],
    }


async def test_a_log_line_in_text(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    async with running_bridge(settings_for(stub.url, observe={"access_log": "text"})) as bridge:
        await bridge.chat(stream=True)
    (line,) = capsys.readouterr().out.splitlines()
    assert ' path="/v1/chat/completions" route=chat.completions status=200 model=m stream=True' in line
    assert line.endswith("prompt_tokens=5 completion_tokens=3 cached_tokens=2 finish_reasons=stop")


@pytest.mark.parametrize("form", ["json", "text"])
async def test_secrets_and_content_are_nowhere(
    stub: Stub, form: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes well or wrong: answers, refusals, faults."""

    async def play(request: Request, wire: Wire) -> None:
        await wire.json({"error": CONTENT}, 500)

    settings = settings_for(stub.url, keys={"mode": "pass_through"}, observe={"access_log": form})
    async with running_bridge(settings) as bridge:
        bridge.default_headers["authorization"] = f"Bearer {SECRET}"
        asked: dict[str, Any] = {"messages": [{"role": "user", "content": CONTENT}]}
        stub.play = says(CONTENT)
        await bridge.chat(asked)
        await bridge.chat(asked, stream=True)
        await bridge.chat(asked, temperature=CONTENT)
        await bridge.chat(asked, model=CONTENT)
        await bridge.chat(asked, **{CONTENT: 1})
        stub.play = sends(HALF + CONTENT.encode() + b"\n")
        await bridge.chat(asked, stream=True)
        stub.play = play
        await bridge.chat(asked)
        metrics = bridge.state.observer.metrics.text().decode()
    written = capsys.readouterr()
    everything = written.out + written.err + caplog.text + metrics
    assert "route=chat.completions" in everything or '"route":"chat.completions"' in everything
    assert SECRET not in everything
    assert CONTENT not in everything


async def test_traces(stub: Stub) -> None:
    got = asyncio.Event()

    async def collect(request: Request, wire: Wire) -> None:
        await wire.whole(200, b"", "application/x-protobuf")
        got.set()

    async with running_stub(collect) as collector:
        observe = {"access_log": "off", "otlp_endpoint": f"{collector.url}/v1/traces"}
        async with running_bridge(settings_for(stub.url, observe=observe)) as bridge:
            parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
            bridge.default_headers["traceparent"] = parent
            await bridge.chat(stream=True)
            stub.play = replies({}, 500)
            await bridge.chat()
        await asyncio.wait_for(got.wait(), 30)
    export = ExportTraceServiceRequest.FromString(collector.requests[0].body)
    good, bad = export.resource_spans[0].scope_spans[0].spans
    told = {item.key: item.value for item in good.attributes}
    assert (good.name, good.trace_id.hex()) == ("chat m", "0af7651916cd43dd8448eb211c80319c")
    assert told["gen_ai.operation.name"].string_value == "chat"
    assert told["gen_ai.request.model"].string_value == "m"
    assert (told["gen_ai.usage.input_tokens"].int_value, told["gen_ai.usage.output_tokens"].int_value) == (5, 3)
    assert told["gen_ai.response.finish_reasons"].array_value.values[0].string_value == "stop"
    assert {item.key: item.value.string_value for item in bad.attributes}["error.type"] == "status_500"
    assert stub.requests[0].headers["traceparent"].split("-")[1:3] == [good.trace_id.hex(), good.span_id.hex()]


async def test_readiness_tells_the_upstreams(stub: Stub) -> None:
    async def play(request: Request, wire: Wire) -> None:
        await wire.json({}, 200 if request.path == "/v1/models/model" else 404)

    stub.play = play
    async with running_bridge(settings_for(stub.url)) as bridge:
        ready = await bridge.get("/health/ready")
        bridge.state.draining = True
        draining = await bridge.get("/health/ready")
        refused = await bridge.chat()
    assert (ready.status, ready.json) == (200, {"status": "ok", "upstreams": {"m": "ready"}})
    assert (draining.status, draining.json["status"]) == (503, "draining")
    assert (refused.status, refused.headers["connection"]) == (503, "close")
    stub.play = replies({}, 503)
    async with running_bridge(settings_for(stub.url)) as bridge:
        down = await bridge.get("/health/ready")
        assert (await bridge.get("/health/live")).status == 200
    assert (down.status, down.json) == (503, {"status": "unavailable", "upstreams": {"m": "unavailable"}})

"""Everything a client can do wrong: its own 4xx with OpenAI's error object naming the field, and no upstream call."""

import asyncio
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError
from openai.resources.chat.completions import AsyncCompletions

from bridge_adapter.openai_api.operations import OPERATIONS
from tests.adapter.harness import Bridge, running_bridge, settings_for
from tests.adapter.stub import Stub

USER = {"role": "user", "content": "Hi"}
CASES = [json.loads(line) for line in Path(__file__).with_name("wrong_fields.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stream", [False, True])
async def test_wrong_fields(bridge: Bridge, stub: Stub, stream: bool) -> None:
    for case in CASES:
        fields = case["fields"]
        if stream and "stream_options" in fields and "stream" not in fields:
            continue  # right when streamed
        answered = await bridge.chat({**({"stream": True} if stream else {}), **fields})
        told = {
            "message": case["message"],
            "type": "invalid_request_error",
            "param": case["param"],
            "code": case["code"],
        }
        assert (answered.status, answered.json) == (400, {"error": told})
        assert answered.headers["content-type"] == "application/json"
    assert stub.requests == []


@pytest.mark.parametrize(
    ("body", "headers", "status", "error"),
    [
        (b"{", {}, 400, "We could not parse the JSON body of your request"),
        (b"", {}, 400, "We could not parse the JSON body of your request"),
        (b'{"model": "m", "x": "\\ud800"}', {}, 400, "We could not parse the JSON body of your request"),
        (b"[]", {}, 400, "Invalid type for the request body: expected an object, but got an array instead."),
        (b"{}", {}, 400, "you must provide a model parameter"),
        (b'{"model": 5}', {}, 400, "Invalid type for 'model': expected a string, but got an integer instead."),
        (b'{"model": "x"}', {}, 404, "The model `x` does not exist or you do not have access to it."),
        (
            b"{}",
            {"content-type": "text/plain"},
            415,
            "Invalid Content-Type header (text/plain), expected application/json.",
        ),
        (b" " * 2000, {}, 413, "The request body is too large: the limit is 1000 bytes."),
    ],
)
async def test_wrong_bodies(stub: Stub, body: bytes, headers: dict[str, str], status: int, error: str) -> None:
    async with running_bridge(settings_for(stub.url, server={"max_body": 1000})) as bridge:
        answered = await bridge.post("/v1/chat/completions", body, headers)
    assert answered.status == status
    assert answered.json["error"]["message"].startswith(error)
    assert answered.json["error"]["type"] == "invalid_request_error"
    assert set(answered.json["error"]) == {"message", "type", "param", "code"}
    assert stub.requests == []


@pytest.mark.parametrize("levels", [199, 200, 260, 900])
async def test_a_schema_is_as_deep_as_can_be_passed_on(bridge: Bridge, stub: Stub, levels: int) -> None:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"not": schema}
    tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
    answered = await bridge.chat({"messages": [USER], "tools": [tool]})
    assert answered.status == (200 if levels < 200 else 400)
    if levels >= 200:
        assert answered.json["error"]["param"] == "tools[0].function.parameters"
        assert stub.requests == []


async def test_a_body_without_length_over_the_limit(stub: Stub) -> None:
    async def endless() -> Any:
        for _ in range(4):
            yield b" " * 500

    async with running_bridge(settings_for(stub.url, server={"max_body": 1000})) as bridge:
        url = f"{bridge.url}/v1/chat/completions"
        headers = {"content-type": "application/json"}
        async with bridge.http.post(url, data=endless(), headers=headers) as response:
            assert response.status == 413


async def test_a_body_that_does_not_come(stub: Stub) -> None:
    async def never() -> Any:
        yield b"{"
        await asyncio.Event().wait()

    async with running_bridge(settings_for(stub.url, server={"body_timeout": 0.1})) as bridge:
        url = f"{bridge.url}/v1/chat/completions"
        headers = {"content-type": "application/json"}
        async with bridge.http.post(url, data=never(), headers=headers) as response:
            assert response.status == 408


async def test_wrong_methods_and_paths(bridge: Bridge) -> None:
    wrong_method = await bridge.get("/v1/chat/completions")
    assert (wrong_method.status, wrong_method.json["error"]["message"]) == (
        405,
        "Not allowed to GET on /v1/chat/completions. (HINT: Perhaps you meant to use a different HTTP method?)",
    )
    assert wrong_method.headers["allow"] == "POST"
    wrong_path = await bridge.post("/v1/embeddings", {})
    assert (wrong_path.status, wrong_path.json["error"]["message"]) == (404, "Invalid URL (POST /v1/embeddings)")
    assert (await bridge.get("/v1/models/x")).json["error"]["code"] == "model_not_found"


async def test_the_official_client_raises_its_own_errors(bridge: Bridge) -> None:
    with pytest.raises(NotFoundError) as missing:
        await bridge.openai.chat.completions.create(model="x", messages=[{"role": "user", "content": "Hi"}])
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(BadRequestError) as wrong:
        await bridge.openai.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "Hi"}], temperature=9, stream=True
        )
    assert (wrong.value.code, wrong.value.param) == ("decimal_above_max_value", "temperature")


async def test_unknown_fields_can_be_dropped(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url, model={"unknown_fields": "drop"})) as bridge:
        answered = await bridge.chat(foo=1, guided_json={})
        metrics = bridge.state.observer.metrics.text().decode()
    assert answered.status == 200
    assert answered.headers["x-bridge-dropped-fields"] == "foo,guided_json"
    assert 'bridge_dropped_fields_total{model="m"} 2.0' in metrics
    assert stub.last == {"messages": [USER]}


async def test_defaults_and_caps(stub: Stub) -> None:
    model = {"defaults": {"max_tokens": 50, "temperature": 0.5}, "caps": {"max_tokens": 100}}
    async with running_bridge(settings_for(stub.url, model=model)) as bridge:
        await bridge.chat()
        assert stub.last == {"messages": [USER], "max_tokens": 50, "temperature": 0.5}
        await bridge.chat(max_completion_tokens=20, temperature=1)
        assert stub.last == {"messages": [USER], "max_tokens": 20, "temperature": 1}
        refused = await bridge.chat(max_completion_tokens=101)
    assert refused.status == 400
    assert refused.json["error"] == {
        "message": "max_completion_tokens is too large: 101. This model supports at most 100, "
        "whereas you provided 101.",
        "type": "invalid_request_error",
        "param": "max_completion_tokens",
        "code": "integer_above_max_value",
    }


def test_every_field_of_the_official_client_is_known() -> None:
    parameters = set(inspect.signature(AsyncCompletions.create).parameters)
    assert (
        parameters - {"self", "extra_headers", "extra_query", "extra_body", "timeout"}
        <= OPERATIONS["/chat/completions"].known
    )


def test_the_documented_fields_are_the_accepted_ones() -> None:
    refused = {"audio", "prediction", "web_search_options", "moderation", "prompt_cache_options"}
    chat = OPERATIONS["/chat/completions"]
    assert set(chat.schema["properties"]) == chat.known - refused


async def test_the_docs_describe_every_route(bridge: Bridge) -> None:
    schema = json.loads((await bridge.get("/openapi.json")).body)
    for prefix in ("/v1", "/{model_id}/v1"):
        operation = schema["paths"][f"{prefix}/chat/completions"]["post"]
        assert "temperature" in operation["requestBody"]["content"]["application/json"]["schema"]["properties"]
        assert "get" in schema["paths"][f"{prefix}/models"]
    assert (await bridge.get("/docs")).status == 200

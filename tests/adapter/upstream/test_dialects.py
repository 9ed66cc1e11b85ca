"""Trusses that do not speak the predict contract: bare strings, raw text, ChatCompletions of their own."""

from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from tests.adapter.harness import running_bridge, settings_for
from tests.adapter.stub import Request, Stub, Wire, replies, sends

TEXT = {"model": {"dialect": "text"}}
AUTO: dict[str, Any] = {}
TOOL = {"type": "function", "function": {"name": "f"}}


async def classic(request: Request, wire: Wire) -> None:
    """A bridge-compatible Truss of old: a string, or raw pieces."""
    if request.json.get("stream"):
        await wire.start()
        for piece in (b"In Texas", b", at Globe Life", b" Field\xe2\x80", b"\xa6"):
            await wire.piece(piece)
        await wire.end()
    else:
        await wire.json("In Texas, at Globe Life Field…")


@pytest.mark.parametrize("parts", [TEXT, AUTO], ids=["told", "recognised"])
async def test_a_classic_truss(stub: Stub, parts: dict[str, Any]) -> None:
    stub.play = classic
    async with running_bridge(settings_for(stub.url, **parts)) as bridge:
        plain = await bridge.chat()
        streamed = await bridge.chat(stream=True, stream_options={"include_usage": True})
        again = await bridge.chat(max_tokens=9)
    ChatCompletion.model_validate(plain.json, strict=True)
    choice = plain.json["choices"][0]
    assert choice["message"]["content"] == streamed.text == "In Texas, at Globe Life Field…"
    assert choice["finish_reason"] == streamed.chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert plain.json["usage"] is streamed.chunks[-1]["usage"] is None  # such a Truss counts nothing
    assert again.status == 200
    assert stub.last["max_new_tokens"] == 9


async def test_generator_that_truss_gathered_or_that_cannot_do_without_streaming(stub: Stub) -> None:
    stub.play = sends(b"raw text")
    async with running_bridge(settings_for(stub.url)) as bridge:
        assert (await bridge.chat()).json["choices"][0]["message"]["content"] == "raw text"
    assert stub.requests[0].headers["accept"] == "application/json"


@pytest.mark.parametrize("parts", [TEXT, AUTO], ids=["told", "recognised"])
@pytest.mark.parametrize("stream", [False, True])
async def test_n_by_several_calls(stub: Stub, parts: dict[str, Any], stream: bool) -> None:
    stub.play = classic
    async with running_bridge(settings_for(stub.url, **parts)) as bridge:
        answered = await bridge.chat(n=3, seed=5, stream=stream)
    choices = (
        [choice for chunk in answered.chunks for choice in chunk["choices"]] if stream else answered.json["choices"]
    )
    assert {choice["index"] for choice in choices} == {0, 1, 2}
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"] * 3
    asked = [request.json for request in stub.requests if "n" not in request.json]
    assert sorted(body["seed"] for body in asked) == [5, 6, 7]


@pytest.mark.parametrize("parts", [TEXT, AUTO], ids=["told", "recognised"])
async def test_stop_strings_outside_the_model(stub: Stub, parts: dict[str, Any]) -> None:
    stub.play = classic
    async with running_bridge(settings_for(stub.url, **parts)) as bridge:
        plain = await bridge.chat(stop=["Globe", "Life F"])
        streamed = await bridge.chat(stop=["as, at", "zzz"], stream=True)
    assert plain.json["choices"][0]["message"]["content"] == "In Texas, at "
    assert streamed.text == "In Tex"
    assert streamed.chunks[-1]["choices"][0]["finish_reason"] == "stop"


async def test_the_upstream_is_left_at_a_stop_string(stub: Stub) -> None:
    async def endless(request: Request, wire: Wire) -> None:
        await wire.start()
        await wire.piece(b"one two")
        await wire.peer_left()

    stub.play = endless
    async with running_bridge(settings_for(stub.url, **TEXT)) as bridge:
        assert (await bridge.chat(stop=" two", stream=True)).text == "one"


@pytest.mark.parametrize("parts", [TEXT, AUTO], ids=["told", "recognised"])
@pytest.mark.parametrize("stream", [False, True])
async def test_json_is_checked_afterwards(stub: Stub, parts: dict[str, Any], stream: bool) -> None:
    wanted = {"response_format": {"type": "json_object"}, "stream": stream}
    async with running_bridge(settings_for(stub.url, **parts)) as bridge:
        stub.play = sends(b' {"a": 1}')
        good = await bridge.chat(wanted)
        stub.play = sends(b"No JSON.")
        bad = await bridge.chat(wanted)
    content = good.text if stream else good.json["choices"][0]["message"]["content"]
    assert content == ' {"a": 1}'
    error = bad.chunks[-1]["error"] if stream else bad.json["error"]
    assert (error["code"], error["param"]) == ("invalid_json_output", "response_format")
    assert stream or bad.status == 502


@pytest.mark.parametrize("parts", [TEXT, AUTO], ids=["told", "recognised"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [TOOL]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 1}}, "logit_bias"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
    ],
)
async def test_what_cannot_be_done_outside_is_refused(
    stub: Stub, parts: dict[str, Any], stream: bool, fields: dict[str, Any], param: str
) -> None:
    stub.play = classic
    async with running_bridge(settings_for(stub.url, **parts)) as bridge:
        answered = await bridge.chat(fields, stream=stream)
    assert (answered.status, answered.json["error"]["code"]) == (400, "unsupported_parameter")
    assert answered.json["error"]["param"] == param


async def test_messages_are_flattened_for_a_classic_truss(stub: Stub) -> None:
    stub.play = classic
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    messages = [{"role": "developer", "content": "x"}, {"role": "user", "content": parts, "name": "ann"}]
    async with running_bridge(settings_for(stub.url, **TEXT)) as bridge:
        await bridge.chat(messages=messages)
    assert stub.last == {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "a\nb"}]}


COMPLETION = {
    "id": "theirs",
    "choices": [{"message": {"content": "Hey", "reasoning_content": "hm"}, "finish_reason": "eos"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
}
CHUNKS = b"".join(
    (
        b'data: {"id":"theirs","choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"role":"assistant","reasoning_content":"hm"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"role":"","content":"He"}}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{"content":"y"},"finish_reason":"stop"}]}\n\n',
        b'data: {"choices":[{"index":0,"delta":{}}],'
        b'"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}\n\n',
    )
)


@pytest.mark.parametrize("dialect", ["openai", "auto"])
async def test_a_truss_that_answers_chat_completions_is_repaired(stub: Stub, dialect: str) -> None:
    async with running_bridge(settings_for(stub.url, model={"dialect": dialect, "upstream_model": "theirs"})) as bridge:
        stub.play = replies(COMPLETION)
        plain = await bridge.chat()
        stub.play = sends(CHUNKS, "text/event-stream")
        streamed = await bridge.chat(stream=True, stream_options={"include_usage": True})
    ChatCompletion.model_validate(plain.json, strict=True)
    assert plain.json["model"] == "m"
    assert plain.json["choices"][0]["finish_reason"] == "stop"
    assert plain.json["choices"][0]["message"] == {
        "role": "assistant",
        "content": "Hey",
        "refusal": None,
        "reasoning_content": "hm",
    }
    assert [choice["delta"] for chunk in streamed.chunks for choice in chunk["choices"]] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"reasoning_content": "hm"},
        {"content": "He"},
        {"content": "y"},
        {},
    ]
    assert streamed.chunks[-1]["usage"]["total_tokens"] == 3
    assert stub.last["model"] == "theirs"
    assert stub.last["stream_options"] == {"include_usage": True}


async def test_usage_that_a_server_of_openais_api_does_not_tell_is_null(stub: Stub) -> None:
    chunks = CHUNKS.rpartition(b"data: ")[0]
    async with running_bridge(settings_for(stub.url, model={"dialect": "openai"})) as bridge:
        stub.play = replies({"choices": COMPLETION["choices"]})
        assert (await bridge.chat()).json["usage"] is None
        stub.play = sends(chunks, "text/event-stream")
        options = {"include_usage": True, "continuous_usage_stats": True}
        streamed = (await bridge.chat(stream=True, stream_options=options)).chunks
    assert [chunk["usage"] for chunk in streamed] == [None] * len(streamed)
    assert streamed[-1]["choices"] == []


async def test_the_chat_route_of_a_truss_itself(stub: Stub) -> None:
    stub.play = replies(COMPLETION)
    async with running_bridge(settings_for(stub.url + "/v1/chat/completions")) as bridge:
        assert (await bridge.chat()).status == 200
    assert stub.requests[0].path == "/v1/chat/completions"
    assert stub.last["model"] == "m"


async def test_a_stream_answered_as_a_whole(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url)) as bridge:
        stub.play = replies("Just text")
        assert (await bridge.chat(stream=True)).text == "Just text"
        stub.play = replies(COMPLETION)
        assert (await bridge.chat(stream=True)).text == "Hey"

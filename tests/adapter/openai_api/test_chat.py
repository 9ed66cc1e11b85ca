"""Chat completions end to end over sockets: the shapes that OpenAI's client sees, and what the Truss is asked."""

from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.adapter.harness import Bridge
from tests.adapter.stub import Stub, answer, line, ndjson, replies, sends, usage

CALL = {"id": "abcdefghi", "name": "weather", "arguments": '{"city":"Oslo"}'}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
FUNCTIONS = [{"name": "weather", "parameters": {"type": "object"}}]


def whole(chat: Any) -> dict[str, Any]:
    """A chat completion, strictly of the client's types, without what is new each time."""
    ChatCompletion.model_validate(chat, strict=True)
    assert chat.pop("id").startswith("chatcmpl-")
    assert chat.pop("created") > 0
    return dict(chat)


def deltas(chunks: list[Any]) -> list[Any]:
    """The choices of all chunks; the chunks strictly of the client's types, with one head for all."""
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk, strict=True)
    heads = {(chunk["id"], chunk["created"], chunk["model"], chunk["object"]) for chunk in chunks}
    assert len(heads) == 1
    return [choice for chunk in chunks for choice in chunk["choices"]]


def piece(delta: dict[str, Any], reason: str | None = None, index: int = 0, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


OPENING = {"role": "assistant", "content": "", "refusal": None}


async def test_a_plain_answer(bridge: Bridge, stub: Stub) -> None:
    answered = await bridge.chat()
    assert answered.status == 200
    assert answered.headers["content-type"] == "application/json"
    assert answered.headers["x-request-id"].startswith("req_")
    assert whole(answered.json) == {
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello, world", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 5,
            "completion_tokens": 3,
            "total_tokens": 8,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
        "system_fingerprint": None,
    }
    request = stub.requests[0]
    assert (request.method, request.path) == ("POST", "/v1/models/model:predict")
    assert request.json == {"messages": [{"role": "user", "content": "Hi"}]}


async def test_a_streamed_answer(bridge: Bridge, stub: Stub) -> None:
    answered = await bridge.chat(stream=True, stream_options={"include_usage": True})
    assert answered.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answered.headers["cache-control"] == "no-cache, no-transform"
    assert answered.headers["x-accel-buffering"] == "no"
    assert deltas(answered.chunks) == [
        piece(OPENING),
        piece({"content": "Hello"}),
        piece({"content": ", "}),
        piece({"content": "world"}),
        piece({}, "stop"),
    ]
    *chunks, last = answered.chunks
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 3
    assert stub.last == {"messages": [{"role": "user", "content": "Hi"}], "stream": True}


async def test_no_usage_unless_asked(bridge: Bridge) -> None:
    answered = await bridge.chat(stream=True)
    assert all("usage" not in chunk for chunk in answered.chunks)


async def test_continuous_usage(bridge: Bridge, stub: Stub) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = (await bridge.chat(stream=True, stream_options=options)).chunks
    deltas(chunks)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [0, 1, 2, 3, 3, 3]
    assert {chunk["usage"]["prompt_tokens"] for chunk in chunks} == {5}


async def test_obfuscation_makes_chunks_of_one_length(bridge: Bridge, stub: Stub) -> None:
    stub.play = sends(ndjson("a", "seven..", "eleven....."))
    answered = await bridge.chat(stream=True, stream_options={"include_obfuscation": True})
    deltas(answered.chunks)
    sizes = [len(item) for item in answered.data[1:4]]
    assert all(chunk["obfuscation"].isascii() for chunk in answered.chunks)
    assert len(set(sizes)) == 1


async def test_truss_is_not_told_who_asks(bridge: Bridge, stub: Stub) -> None:
    """Truss gathers a stream into one string for some Accept headers, and tells by the User-Agent."""
    headers = {"user-agent": "OpenAI/Python", "accept": "application/json", "authorization": "Bearer sk-caller"}
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    await bridge.post("/v1/chat/completions", body, headers)
    sent = stub.requests[0].headers
    assert sent["user-agent"] == "truss-openai-bridge"
    assert sent["accept"] == "text/event-stream, application/x-ndjson, */*"
    assert "authorization" not in sent


async def test_the_path_form_names_the_model_by_its_path(bridge: Bridge) -> None:
    messages = [{"role": "user", "content": "Hi"}]
    answered = await bridge.post("/m/v1/chat/completions", {"model": "mistral-7b", "messages": messages})
    assert answered.json["model"] == "m"
    assert (await bridge.post("/m/v1/chat/completions", {"messages": messages})).json["model"] == "m"


async def test_n_choices(bridge: Bridge, stub: Stub) -> None:
    assert [choice["index"] for choice in (await bridge.chat(n=3)).json["choices"]] == [0, 1, 2]
    choices = deltas((await bridge.chat(n=3, stream=True)).chunks)
    for index in range(3):
        own = [choice for choice in choices if choice["index"] == index]
        assert own[0]["delta"] == OPENING
        assert own[-1] == piece({}, "stop", index)
        assert sum("role" in choice["delta"] for choice in own) == 1
        assert [choice["finish_reason"] for choice in own[:-1]] == [None] * (len(own) - 1)
    assert stub.last["n"] == 3


async def test_logprobs(bridge: Bridge, stub: Stub) -> None:
    token = {"token": "Hé", "logprob": -0.5, "bytes": [72, 195, 169]}
    entry = {**token, "top_logprobs": [token]}
    stub.play = replies(answer("Hé", logprobs=[entry]))
    answered = await bridge.chat(logprobs=True, top_logprobs=1)
    assert whole(answered.json)["choices"][0]["logprobs"] == {"content": [entry], "refusal": None}
    assert (stub.last["logprobs"], stub.last["top_logprobs"]) == (True, 1)
    stream = line(event="start", prompt_tokens=1) + line(event="delta", index=0, text="Hé", logprobs=[entry])
    stub.play = sends(stream + line(event="finish", index=0, reason="stop") + line(event="done", usage=usage()))
    choices = deltas((await bridge.chat(logprobs=True, top_logprobs=1, stream=True)).chunks)
    assert choices[1] == piece({"content": "Hé"}, logprobs={"content": [entry], "refusal": None})


def called(*pieces: bytes, text: str = "") -> bytes:
    said = line(event="delta", index=0, text=text) if text else b""
    end = line(event="finish", index=0, reason="tool_calls") + line(event="done", usage=usage())
    return line(event="start", prompt_tokens=1) + said + b"".join(pieces) + end


CALL_STREAM = called(
    line(event="tool_call", index=0, call=0, id="abcdefghi", name="weather", arguments='{"city"'),
    line(event="tool_call", index=0, call=0, arguments=':"Oslo"}'),
    line(event="tool_call", index=0, call=1, id="bbbbbbbbb", name="time", arguments="{}"),
    text="Let me see. ",
)


async def test_tool_calls(bridge: Bridge, stub: Stub) -> None:
    stub.play = replies(answer("", tool_calls=[CALL], finish_reason="tool_calls"))
    choice = whole((await bridge.chat(tools=TOOLS, tool_choice="auto")).json)["choices"][0]
    function = {"name": "weather", "arguments": '{"city":"Oslo"}'}
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": function}],
    }
    assert choice["finish_reason"] == "tool_calls"
    assert (stub.last["tools"], stub.last["tool_choice"]) == (TOOLS, "auto")


async def test_streamed_tool_calls(bridge: Bridge, stub: Stub) -> None:
    stub.play = sends(CALL_STREAM)
    first = {"index": 0, "id": "abcdefghi", "type": "function"}
    second = {"index": 1, "id": "bbbbbbbbb", "type": "function"}
    assert deltas((await bridge.chat(tools=TOOLS, stream=True)).chunks) == [
        piece(OPENING),
        piece({"content": "Let me see. "}),
        piece({"tool_calls": [{**first, "function": {"name": "weather", "arguments": '{"city"'}}]}),
        piece({"tool_calls": [{"index": 0, "function": {"arguments": ':"Oslo"}'}}]}),
        piece({"tool_calls": [{**second, "function": {"name": "time", "arguments": "{}"}}]}),
        piece({}, "tool_calls"),
    ]


async def test_deprecated_functions(bridge: Bridge, stub: Stub) -> None:
    stub.play = replies(answer("", tool_calls=[CALL], finish_reason="tool_calls"))
    choice = whole((await bridge.chat(functions=FUNCTIONS, function_call={"name": "weather"})).json)["choices"][0]
    assert choice["finish_reason"] == "stop"  # as OpenAI says after a forced call
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city":"Oslo"}'}
    assert "tool_calls" not in choice["message"]
    assert stub.last["tools"] == TOOLS
    assert stub.last["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert stub.last["parallel_tool_calls"] is False
    stub.play = sends(called(line(event="tool_call", index=0, call=0, id="a", name="weather", arguments="{}")))
    choices = deltas((await bridge.chat(functions=FUNCTIONS, stream=True)).chunks)
    assert choices == [
        piece({**OPENING, "content": None}),
        piece({"function_call": {"name": "weather", "arguments": "{}"}}),
        piece({}, "function_call"),
    ]


async def test_roles_and_history_reach_the_truss_normalised(bridge: Bridge, stub: Stub) -> None:
    function = {"name": "weather", "arguments": "{}"}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}], "name": "ann"},
        {"role": "assistant", "content": None, "refusal": None, "annotations": [], "function_call": function},
        {"role": "function", "name": "weather", "content": "Sun"},
        {"role": "assistant", "content": "", "audio": None, "tool_calls": None},
        {"role": "user", "content": "More"},
    ]
    assert (await bridge.chat(messages=messages)).status == 200
    assert stub.last["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}], "name": "ann"},
        {"role": "assistant", "tool_calls": [{"id": "fn0000002", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "fn0000002", "name": "weather", "content": "Sun"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": "More"},
    ]


SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "object"}}}


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"temperature": 0, "top_p": 0.5, "seed": -7}, {"temperature": 0, "top_p": 0.5, "seed": -7}),
        ({"presence_penalty": -2, "frequency_penalty": 2}, {"presence_penalty": -2, "frequency_penalty": 2}),
        ({"max_tokens": 7}, {"max_tokens": 7}),
        ({"max_completion_tokens": 7}, {"max_tokens": 7}),
        ({"max_new_tokens": 7}, {"max_tokens": 7}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"stop": ["x", "y"]}, {"stop": ["x", "y"]}),
        ({"stop": []}, {}),
        ({"stop": None, "n": None, "tools": None}, {}),
        ({"n": 1, "logprobs": False, "stream": False}, {}),
        ({"logit_bias": {"5": -100}}, {"logit_bias": {"5": -100}}),
        ({"top_k": 40, "min_p": 0.1, "min_tokens": 2}, {"top_k": 40, "min_p": 0.1, "min_tokens": 2}),
        ({"top_k": -1, "ignore_eos": True}, {"top_k": 0, "ignore_eos": True}),
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"response_format": {"type": "text"}}, {}),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        ({"response_format": SCHEMA}, {"response_format": SCHEMA}),
        ({"user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto"}, {}),
        ({"safety_identifier": "s", "prompt_cache_key": "k", "verbosity": "medium"}, {}),
        ({"reasoning_effort": "none", "modalities": ["text"], "prompt_cache_retention": "in_memory"}, {}),
    ],
)
async def test_what_becomes_of_a_field(bridge: Bridge, stub: Stub, asked: dict[str, Any], sent: dict[str, Any]) -> None:
    answered = await bridge.chat(asked)
    assert answered.status == 200, answered.body
    assert stub.last == {"messages": [{"role": "user", "content": "Hi"}], **sent}


async def test_continuing_the_last_message(bridge: Bridge, stub: Stub) -> None:
    messages = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "1 2", "prefix": True}]
    await bridge.chat(messages=messages)
    assert stub.last["messages"] == messages
    await bridge.chat(messages=messages, continue_final_message=True)
    assert stub.last["continue_final_message"] is True


async def test_the_service_tier_is_told_when_asked_for(bridge: Bridge) -> None:
    assert (await bridge.chat(service_tier="auto")).json["service_tier"] == "default"
    chunks = (await bridge.chat(service_tier="auto", stream=True)).chunks
    assert {chunk["service_tier"] for chunk in chunks} == {"default"}


async def test_the_official_client(bridge: Bridge) -> None:
    messages: Any = [{"role": "user", "content": "Hi"}]
    plain = await bridge.openai.chat.completions.create(model="m", messages=messages)
    assert plain.choices[0].message.content == "Hello, world"
    assert plain._request_id is not None
    async with bridge.openai.chat.completions.stream(model="m", messages=messages) as stream:
        events = [event async for event in stream]
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hello, world"
    assert events[-1].type == "content.done"
    assert [model.id async for model in bridge.openai.models.list()] == ["m"]
    assert (await bridge.openai.models.retrieve("m")).object == "model"

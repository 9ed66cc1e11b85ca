"""/v1/responses: text and function calls in and out, as a whole and as events."""

import inspect
import json
from typing import Any

import pytest
from openai.resources.responses import AsyncResponses
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from bridge_adapter.openai_api.operations import OPERATIONS
from bridge_adapter.openai_api.parameter import refuse
from tests.adapter.harness import Answered, Bridge
from tests.adapter.stub import Stub, answer, line, replies, sends, usage

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
CALL = {"id": "abcdefghi", "name": "f", "arguments": '{"a":1}'}


async def respond(bridge: Bridge, **fields: Any) -> Answered:
    return await bridge.post("/v1/responses", {"model": "m", "input": "Hi", **fields})


def whole(answered: Answered) -> Any:
    assert answered.status == 200, answered.body
    Response.model_validate(answered.json, strict=True)
    return answered.json


def events(answered: Answered) -> list[Any]:
    """All events, strictly of the client's types, named as they say and numbered without a gap."""
    found = []
    for part in answered.body.decode().removesuffix("\n\n").split("\n\n"):
        name, data = part.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        EVENT.validate_python(event, strict=True)
        found.append(event)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


async def test_a_plain_response(bridge: Bridge, stub: Stub) -> None:
    response = whole(await respond(bridge, instructions="Be brief.", max_output_tokens=9, temperature=0, store=False))
    assert response["id"].startswith("resp_")
    assert (response["status"], response["incomplete_details"]) == ("completed", None)
    item = response["output"][0]
    assert item["content"] == [{"type": "output_text", "text": "Hello, world", "annotations": [], "logprobs": []}]
    assert (item["type"], item["role"], item["status"]) == ("message", "assistant", "completed")
    assert response["usage"] == {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2, "cache_write_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 8,
    }
    assert (response["instructions"], response["store"], response["temperature"]) == ("Be brief.", False, 0)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert stub.last == {"messages": messages, "max_tokens": 9, "temperature": 0}


async def test_an_answer_cut_by_its_length(bridge: Bridge, stub: Stub) -> None:
    stub.play = replies(answer("Hal", finish_reason="length"))
    response = whole(await respond(bridge))
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert response["output"][0]["status"] == "incomplete"


async def test_function_calls(bridge: Bridge, stub: Stub) -> None:
    stub.play = replies(answer("", tool_calls=[CALL], finish_reason="tool_calls"))
    choice = {"type": "function", "name": "f"}
    response = whole(await respond(bridge, tools=[TOOL], tool_choice=choice, parallel_tool_calls=False))
    (item,) = response["output"]
    assert item.pop("id").startswith("fc_")
    assert item == {
        "type": "function_call",
        "call_id": "abcdefghi",
        "name": "f",
        "arguments": '{"a":1}',
        "status": "completed",
    }
    assert (response["tools"], response["tool_choice"]) == ([TOOL], choice)
    function = {"name": "f", "parameters": {"type": "object"}, "strict": True}
    assert stub.last["tools"] == [{"type": "function", "function": function}]
    assert stub.last["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert stub.last["parallel_tool_calls"] is False


async def test_a_conversation_as_input(bridge: Bridge, stub: Stub) -> None:
    said = {"type": "output_text", "text": "Let me see.", "annotations": [], "logprobs": []}
    items = [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "r", "summary": []},
        {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [said]},
        {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "f", "arguments": "{}", "status": "completed"},
        {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "sun"},
        {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "rain"}]},
    ]
    assert (await respond(bridge, input=items)).status == 200
    calls = [
        {"id": call_id, "type": "function", "function": {"name": name, "arguments": "{}"}}
        for call_id, name in (("a", "f"), ("b", "g"))
    ]
    assert stub.last["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Let me see."}], "tool_calls": calls},
        {"role": "tool", "tool_call_id": "a", "content": "sun"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "rain"}]},
    ]


async def test_the_events_of_a_text(bridge: Bridge) -> None:
    found = events(await respond(bridge, stream=True))
    assert [event["type"].removeprefix("response.") for event in found] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert "".join(event["delta"] for event in found[4:7]) == found[7]["text"] == "Hello, world"
    last = found[-1]["response"]
    assert last["output"] == [found[-2]["item"]]
    assert last["usage"]["output_tokens"] == 3
    assert {event["response"]["id"] for event in (found[0], found[1], found[-1])} == {last["id"]}
    assert (found[0]["response"]["status"], last["status"]) == ("in_progress", "completed")


async def test_the_events_of_function_calls(bridge: Bridge, stub: Stub) -> None:
    stub.play = sends(
        line(event="start")
        + line(event="delta", index=0, text="Wait. ")
        + line(event="tool_call", index=0, call=0, id="aaaaaaaaa", name="f", arguments='{"a"')
        + line(event="tool_call", index=0, call=0, arguments=":1}")
        + line(event="tool_call", index=0, call=1, id="bbbbbbbbb", name="g", arguments="{}")
        + line(event="finish", index=0, reason="tool_calls")
        + line(event="done", usage=usage())
    )
    found = events(await respond(bridge, tools=[TOOL, {**TOOL, "name": "g"}], stream=True))
    added = [event["item"] for event in found if event["type"] == "response.output_item.added"]
    assert [item["type"] for item in added] == ["message", "function_call", "function_call"]
    assert [item["arguments"] for item in added[1:]] == ["", ""]
    done = [event for event in found if event["type"] == "response.function_call_arguments.done"]
    assert [(event["name"], event["arguments"], event["output_index"]) for event in done] == [
        ("f", '{"a":1}', 1),
        ("g", "{}", 2),
    ]
    output = found[-1]["response"]["output"]
    assert [item.get("call_id") for item in output] == [None, "aaaaaaaaa", "bbbbbbbbb"]
    assert {item["status"] for item in output} == {"completed"}


async def test_a_stream_that_fails(bridge: Bridge, stub: Stub) -> None:
    stub.play = sends(line(event="start") + line(event="delta", index=0, text="Hal"))
    last = events(await respond(bridge, stream=True))[-1]
    assert last["type"] == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"


async def test_logprobs(bridge: Bridge, stub: Stub) -> None:
    token = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105]}
    stub.play = replies(answer("Hi", logprobs=[{**token, "top_logprobs": [token]}]))
    response = whole(await respond(bridge, include=["message.output_text.logprobs"], top_logprobs=1))
    assert response["output"][0]["content"][0]["logprobs"] == [{**token, "top_logprobs": [token]}]
    assert (stub.last["logprobs"], stub.last["top_logprobs"]) == (True, 1)


async def test_a_format(bridge: Bridge, stub: Stub) -> None:
    given = {"type": "json_schema", "name": "x", "schema": {"type": "object"}, "strict": True}
    response = whole(await respond(bridge, text={"format": given}))
    assert response["text"]["format"] == given
    schema = {"name": "x", "schema": {"type": "object"}, "strict": True}
    assert stub.last["response_format"] == {"type": "json_schema", "json_schema": schema}


async def test_noise(bridge: Bridge) -> None:
    found = events(await respond(bridge, stream=True, stream_options={"include_obfuscation": True}))
    deltas = [event for event in found if event["type"].endswith(".delta")]
    assert {len(event["delta"] + event["obfuscation"]) for event in deltas} == {32}


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": [{"role": "bot", "content": "x"}]}, "input[0].role", "invalid_value"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0]",
            "unsupported_value",
        ),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type", "unsupported_value"),
        ({"input": [{"type": "function_call_output", "call_id": "a", "output": "x"}]}, "input", None),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter"),
        ({"conversation": "x"}, "conversation", "unsupported_parameter"),
        ({"truncation": "auto"}, "truncation", "unsupported_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "mcp"}}, "tool_choice.type", "unsupported_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}}, "tool_choice", None),
        ({"reasoning": {"effort": "high"}}, "reasoning.effort", "unsupported_value"),
        ({"include": ["file_search_call.results"]}, "include[0]", "unsupported_value"),
        (
            {"text": {"format": {"type": "json_schema", "name": "x"}}},
            "text.format.schema",
            "missing_required_parameter",
        ),
        ({"messages": []}, "messages", "unknown_parameter"),
    ],
)
async def test_refusals(bridge: Bridge, stub: Stub, fields: dict[str, Any], param: str, code: str | None) -> None:
    answered = await respond(bridge, **fields)
    assert answered.status == 400
    assert (answered.json["error"]["param"], answered.json["error"]["code"]) == (param, code)
    assert stub.requests == []


async def test_the_official_client(bridge: Bridge) -> None:
    plain = await bridge.openai.responses.create(model="m", input="Hi")
    assert plain.output_text == "Hello, world"
    async with bridge.openai.responses.stream(model="m", input="Hi") as stream:
        final = await stream.get_final_response()
    assert final.output_text == "Hello, world"


def test_every_field_of_the_official_client_is_known() -> None:
    parameters = set(inspect.signature(AsyncResponses.create).parameters)
    assert (
        parameters - {"self", "extra_headers", "extra_query", "extra_body", "timeout"} <= OPERATIONS["/responses"].known
    )


def test_the_documented_fields_are_the_accepted_ones() -> None:
    responses = OPERATIONS["/responses"]
    refused = {parameter.name for parameter in responses.parameters if parameter.check is refuse}
    assert set(responses.schema["properties"]) == responses.known - refused

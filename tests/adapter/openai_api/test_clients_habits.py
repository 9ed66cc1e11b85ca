"""What clients send although it has no effect: accepted as OpenAI or the lenient servers accept it."""

from typing import Any

import pytest
from openai import AsyncOpenAI, pydantic_function_tool
from pydantic import BaseModel

from bridge_adapter.errors import InvalidRequest
from bridge_adapter.openai_api.operations import OPERATIONS
from bridge_adapter.openai_api.policy import Policy, default_fields
from tests.adapter.harness import Bridge, running_bridge, settings_for
from tests.adapter.stub import Stub, answer, line, replies, sends, usage

USER = {"role": "user", "content": "Hi"}
TOOL = {"type": "function", "function": {"name": "GetWeather"}}
NAMED = {"type": "function", "function": {"name": "GetWeather"}}
PLAIN: dict[str, Any] = {"messages": [USER]}
CONTINUED = [USER, {"role": "assistant", "content": "He"}]


class GetWeather(BaseModel):
    city: str


class Verdict(BaseModel):
    mood: str


def chat_body(**fields: Any) -> dict[str, Any]:
    return OPERATIONS["/chat/completions"].plan({**PLAIN, **fields}).job.bodies[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"functions": []},
        {"functions": [], "function_call": "none"},
        {"chat_template_kwargs": {}},
        {"add_generation_prompt": True},
    ],
)
def test_fields_without_effect(fields: dict[str, Any]) -> None:
    assert chat_body(**fields) == PLAIN


def test_a_required_call_of_no_tool_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="'tool_choice' is only allowed when 'tools' are specified"):
        chat_body(tools=[], tool_choice="required")


def test_no_generation_prompt_beside_a_message_that_is_continued() -> None:
    body = chat_body(messages=CONTINUED, continue_final_message=True, add_generation_prompt=False)
    assert body == {"messages": CONTINUED, "continue_final_message": True}
    with pytest.raises(InvalidRequest) as refused:
        chat_body(add_generation_prompt=False)
    assert refused.value.param == "add_generation_prompt"


def test_template_arguments_would_have_an_effect() -> None:
    with pytest.raises(InvalidRequest) as refused:
        chat_body(chat_template_kwargs={"enable_thinking": False})
    assert refused.value.param == "chat_template_kwargs.enable_thinking"


def test_a_schema_beside_json_object_is_held_to() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = chat_body(response_format={"type": "json_object", "schema": schema})
    assert body["response_format"] == {"type": "json_schema", "json_schema": {"name": "response", "schema": schema}}


@pytest.mark.parametrize("fields", [{"suffix": ""}, {"best_of": 0}, {"echo": False}])
def test_fields_of_completions_without_effect(fields: dict[str, Any]) -> None:
    bodies = OPERATIONS["/completions"].plan({"prompt": "x", **fields}).job.bodies
    assert bodies == [{"prompt": "x", "max_tokens": 16}]


DROPPED = [
    ("/chat/completions", {**PLAIN, "store": True}, "store"),
    ("/chat/completions", {**PLAIN, "reasoning_effort": "high"}, "reasoning_effort"),
    ("/chat/completions", {**PLAIN, "reasoning_effort": "extreme"}, "reasoning_effort"),
    ("/chat/completions", {**PLAIN, "verbosity": "low"}, "verbosity"),
    ("/responses", {"input": "x", "store": True}, "store"),
    ("/responses", {"input": "x", "reasoning": {"effort": "low"}}, "reasoning.effort"),
    ("/responses", {"input": "x", "text": {"verbosity": "high"}}, "text.verbosity"),
]


@pytest.mark.parametrize(("path", "body", "name"), DROPPED)
def test_unsupported_values_are_dropped_like_unknown_fields(path: str, body: dict[str, Any], name: str) -> None:
    assert OPERATIONS[path].plan(body, Policy(drop_unknown=True)).job.dropped == (name,)
    with pytest.raises(InvalidRequest) as refused:
        OPERATIONS[path].plan(body)
    assert refused.value.param == name


def test_the_settings_lift_the_limit_of_stop_strings() -> None:
    stops = [str(i) for i in range(14)]
    body = {**PLAIN, "stop": stops}
    job = OPERATIONS["/chat/completions"].plan(body, Policy(max_stop_strings=16)).job
    assert job.bodies[0]["stop"] == stops
    with pytest.raises(InvalidRequest) as refused:
        OPERATIONS["/chat/completions"].plan(body)
    assert (refused.value.param, refused.value.code) == ("stop", "array_above_max_length")
    assert "maximum length 4" in refused.value.message


async def test_fourteen_stop_strings_reach_the_truss(stub: Stub) -> None:
    async with running_bridge(settings_for(stub.url, model={"max_stop_strings": 16})) as bridge:
        assert (await bridge.chat(stop=[str(i) for i in range(14)])).status == 200
    assert len(stub.last["stop"]) == 14


@pytest.mark.parametrize(
    ("path", "body", "names"),
    [
        ("/chat/completions", PLAIN, ("max_tokens", "max_completion_tokens", "max_new_tokens")),
        ("/completions", {"prompt": "x"}, ("max_tokens", "max_new_tokens")),
    ],
)
def test_names_of_one_limit_may_all_be_given_with_one_value(
    path: str, body: dict[str, Any], names: tuple[str, ...]
) -> None:
    job = OPERATIONS[path].plan({**body, **dict.fromkeys(names, 9)}).job
    assert job.bodies == [{**body, "max_tokens": 9}]
    for name in names:
        with pytest.raises(InvalidRequest) as refused:
            OPERATIONS[path].plan({**body, **dict.fromkeys(names, 9), name: 8})
        assert refused.value.code == "invalid_parameter_combination"


def test_a_default_of_no_token_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        default_fields({"max_tokens": 0})


CALLED = [{"id": "abcdefghi", "name": "GetWeather", "arguments": '{"city":"Oslo"}'}]
STREAM = (
    line(event="start")
    + line(event="tool_call", index=0, call=0, id="abcdefghi", name="GetWeather", arguments='{"city":"Oslo"}')
    + line(event="finish", index=0, reason="tool_calls")
    + line(event="done", usage=usage())
)


@pytest.mark.parametrize(
    ("choice", "reason"), [("auto", "tool_calls"), ("required", "tool_calls"), (NAMED, "stop"), (None, "tool_calls")]
)
async def test_a_call_forced_by_name_ends_with_stop(bridge: Bridge, stub: Stub, choice: Any, reason: str) -> None:
    """As OpenAI does, streamed or not: vllm-project/vllm 25054 has its answers."""
    fields: dict[str, Any] = {"tools": [TOOL], "tool_choice": choice}
    stub.play = replies(answer("", tool_calls=CALLED, finish_reason="tool_calls"))
    assert (await bridge.chat(**fields)).json["choices"][0]["finish_reason"] == reason
    stub.play = sends(STREAM)
    assert (await bridge.chat(**fields, stream=True)).chunks[-1]["choices"][0]["finish_reason"] == reason


async def sent_back(bridge: Bridge, stub: Stub, message: Any, *, tool: bool) -> list[dict[str, Any]]:
    """What the Truss gets of a message that a helper returned, in all ways in which users send it."""
    reply = [{"role": "tool", "tool_call_id": "abcdefghi", "content": "Sun"}] if tool else []
    stub.play = replies(answer("Fine"))
    seen = []
    for form in (message, *(message.model_dump(warnings=False, exclude_none=nulls) for nulls in (False, True))):
        await bridge.openai.chat.completions.create(model="m", messages=[USER, form, *reply, USER])  # type: ignore[list-item]
        seen.append(stub.last["messages"][1])
    assert all(each == seen[0] for each in seen)
    return seen


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of the client, at its own message
async def test_a_parsed_message_sent_back(bridge: Bridge, stub: Stub) -> None:
    stub.play = replies(answer('{"mood":"good"}'))
    parsed = await bridge.openai.chat.completions.parse(model="m", messages=[USER], response_format=Verdict)  # type: ignore[list-item]
    message = parsed.choices[0].message
    assert message.parsed == Verdict(mood="good")
    assert (await sent_back(bridge, stub, message, tool=False))[0] == {
        "role": "assistant",
        "content": '{"mood":"good"}',
    }


async def test_a_parsed_tool_call_sent_back(bridge: Bridge, stub: Stub) -> None:
    stub.play = replies(answer("", tool_calls=CALLED, finish_reason="tool_calls"))
    tool = pydantic_function_tool(GetWeather)
    parsed = await bridge.openai.chat.completions.parse(model="m", messages=[USER], tools=[tool])  # type: ignore[list-item]
    message = parsed.choices[0].message
    assert message.tool_calls and message.tool_calls[0].function.parsed_arguments == GetWeather(city="Oslo")
    expected = {"id": "abcdefghi", "type": "function"}
    expected["function"] = {"name": "GetWeather", "arguments": '{"city":"Oslo"}'}  # type: ignore[assignment]
    assert (await sent_back(bridge, stub, message, tool=True))[0] == {"role": "assistant", "tool_calls": [expected]}


async def test_a_streamed_helper_s_message_sent_back(bridge: Bridge, stub: Stub) -> None:
    stub.play = sends(STREAM)
    tool = pydantic_function_tool(GetWeather)
    async with bridge.openai.chat.completions.stream(model="m", messages=[USER], tools=[tool]) as stream:  # type: ignore[list-item]
        message = (await stream.get_final_completion()).choices[0].message
    sent = (await sent_back(bridge, stub, message, tool=True))[0]
    assert sent["tool_calls"][0]["function"] == {"name": "GetWeather", "arguments": '{"city":"Oslo"}'}


async def test_parsed_output_of_responses_sent_back(bridge: Bridge, stub: Stub) -> None:
    client: AsyncOpenAI = bridge.openai
    tool = pydantic_function_tool(GetWeather)
    function: Any = {"type": "function", **tool["function"]}
    stub.play = replies(answer("", tool_calls=CALLED, finish_reason="tool_calls"))
    called = await client.responses.parse(model="m", input="Weather?", tools=[function])
    stub.play = replies(answer('{"mood":"good"}'))
    parsed = await client.responses.parse(model="m", input="Mood?", text_format=Verdict)
    assert parsed.output_parsed == Verdict(mood="good")
    items = [*called.output, {"type": "function_call_output", "call_id": "abcdefghi", "output": "Sun"}, *parsed.output]
    for form in (items, [item if isinstance(item, dict) else item.model_dump(warnings=False) for item in items]):
        await client.responses.create(model="m", input=[USER, *form, USER])  # type: ignore[list-item]
        roles = [message["role"] for message in stub.last["messages"]]
        assert roles == ["user", "assistant", "tool", "assistant", "user"]
        assert "parsed" not in stub.requests[-1].body.decode()


def test_node_s_helpers_messages_sent_back() -> None:
    """openai-node adds null where nothing was parsed, and `parsed_arguments` to every call."""
    function = {"name": "GetWeather", "arguments": "{}", "parsed_arguments": None}
    message = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "parsed": None,
        "tool_calls": [{"id": "abcdefghi", "type": "function", "function": function}],
    }
    reply = {"role": "tool", "tool_call_id": "abcdefghi", "content": "Sun"}
    body = chat_body(messages=[USER, message, reply])
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "GetWeather", "arguments": "{}"}

"""Tools over the whole stack: who may be called, how a call is streamed and cut, results and the deprecated forms."""

import json
from typing import Any

import pytest
from openai import OpenAI


def function(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "parameters": {**parameters, "additionalProperties": False}}


WEATHER = function("get_weather", city={"type": "string", "enum": ["Paris", "Oslo"]})
TIME = function("get_time", zone={"type": "string", "enum": ["UTC"]})
TOOLS: Any = [{"type": "function", "function": each} for each in (WEATHER, TIME)]
STORY = function("tell", story={"type": "string", "minLength": 200, "maxLength": 300})
NAMED: Any = {"type": "function", "function": {"name": "get_time"}}
BODY: dict[str, Any] = {
    "model": "smollm2",
    "messages": [{"role": "user", "content": "What is the weather in Paris?"}],
    "temperature": 0,
    "max_tokens": 60,
}


def names(choice: Any) -> list[str]:
    for call in choice.message.tool_calls or ():
        json.loads(call.function.arguments)
    return [call.function.name for call in choice.message.tool_calls or ()]


@pytest.mark.parametrize("model", ["tiny", "smollm2"])
@pytest.mark.parametrize(
    ("choice", "allowed"),
    [
        ("none", set()),
        (NAMED, {"get_time"}),
        ("required", {"get_time", "get_weather"}),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}, {"get_time"}),
    ],
)
def test_tool_choice(client: OpenAI, model: str, choice: Any, allowed: set[str]) -> None:
    body = {**BODY, "model": model, "parallel_tool_calls": False, "max_tokens": 200 if allowed else 8}
    answer = client.chat.completions.create(**body, tools=TOOLS, tool_choice=choice).choices[0]
    assert len(names(answer)) == bool(allowed) and set(names(answer)) <= allowed
    assert (answer.message.content is None) == bool(allowed)
    if allowed:
        assert answer.finish_reason == ("stop" if choice == NAMED else "tool_calls")  # as OpenAI has it


def test_a_named_function_is_called_once(client: OpenAI) -> None:
    answer = client.chat.completions.create(**BODY, tools=TOOLS, tool_choice=NAMED).choices[0]
    assert (names(answer), answer.finish_reason) == (["get_time"], "stop")


def test_a_call_is_streamed_as_it_is_made(client: OpenAI) -> None:
    """A long one: a busy machine puts several tokens into one piece."""
    tools: Any = [{"type": "function", "function": STORY}]
    body = {**BODY, "max_tokens": 400, "tools": tools, "parallel_tool_calls": False}
    chunks = client.chat.completions.create(**body, tool_choice="required", stream=True)
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    assert deltas[0].role == "assistant" and deltas[0].content is None
    pieces = [call for delta in deltas for call in delta.tool_calls or ()]
    first, *others = pieces
    assert (first.index, first.type, first.function.name) == (0, "function", "tell")
    assert first.id and len(others) > 2
    assert {(each.index, each.id, each.type, each.function.name) for each in others} == {(0, None, None, None)}
    assert 200 <= len(json.loads("".join(piece.function.arguments for piece in pieces))["story"]) <= 300


@pytest.mark.parametrize("model", ["tiny", "smollm2"])
def test_a_cut_call_says_so(client: OpenAI, model: str) -> None:
    """At every length: what is whole or has begun as a call is one, and nothing of its marks is content then."""
    body = {**BODY, "model": model, "tools": TOOLS, "tool_choice": NAMED}
    for limit in range(12, 40, 4):
        choice = client.chat.completions.create(**{**body, "max_tokens": limit}).choices[0]
        calls = choice.message.tool_calls or []
        assert choice.message.content is None
        assert choice.finish_reason in ("length", "stop")
        if calls:
            assert [call.function.name for call in calls] == ["get_time"]
        if choice.finish_reason == "stop":
            assert json.loads(calls[0].function.arguments) == {"zone": "UTC"}
            break


def test_results_are_answered(client: OpenAI) -> None:
    for model in ("tiny", "smollm2"):
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city":"Paris"}'},
        }
        history = [
            *BODY["messages"],
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "18 degrees and sunny"}]},
        ]
        body = {**BODY, "model": model, "messages": history, "max_tokens": 24}
        answer = client.chat.completions.create(**body, tools=TOOLS, tool_choice="none")
        assert answer.choices[0].message.content
        assert answer.usage is not None
        shorter = client.chat.completions.create(**{**BODY, "model": model, "max_tokens": 1}, tools=TOOLS)
        assert shorter.usage is not None and answer.usage.prompt_tokens > shorter.usage.prompt_tokens + 10


def test_the_deprecated_forms(client: OpenAI) -> None:
    asked: dict[str, Any] = {"functions": [WEATHER, TIME], "function_call": {"name": "get_time"}}
    choice = client.chat.completions.create(**BODY, **asked).choices[0]
    call = choice.message.function_call
    assert choice.finish_reason == "stop" and choice.message.tool_calls is None
    assert call is not None and (call.name, json.loads(call.arguments)) == ("get_time", {"zone": "UTC"})
    chunks = client.chat.completions.create(**BODY, **asked, stream=True)
    pieces = [choice.delta.function_call for chunk in chunks for choice in chunk.choices if choice.delta.function_call]
    assert pieces[0].name == "get_time" and not any(piece.name for piece in pieces[1:])
    assert "".join(piece.arguments or "" for piece in pieces) == call.arguments
    history = [
        *BODY["messages"],
        {"role": "assistant", "content": None, "function_call": {"name": "get_time", "arguments": call.arguments}},
        {"role": "function", "name": "get_time", "content": "noon"},
    ]
    body = {**BODY, "messages": history, "max_tokens": 2}
    silent = client.chat.completions.create(**body, **{"functions": [TIME], "function_call": "none"}).choices[0]
    assert silent.message.content and silent.message.function_call is None

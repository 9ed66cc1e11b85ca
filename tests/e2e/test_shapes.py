"""Every shape of answer is what OpenAI's own types allow, strictly, and every stream is ordered as theirs are."""

import json
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.e2e.front import Front

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}},
    "required": ["ok"],
    "additionalProperties": False,
}
SHAPES: dict[str, dict[str, Any]] = {
    "text": {},
    "choices": {"n": 3, "seed": 1},
    "stopped": {"stop": ["e", "a", "o", "i"]},
    "logprobs": {"logprobs": True, "top_logprobs": 2},
    "tool": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 100},
    "schema": {
        "response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}},
        "max_tokens": 100,
    },
    "deprecated": {"functions": [TOOL["function"]], "function_call": {"name": "get_weather"}, "max_tokens": 100},
}


def body(shape: str, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is the weather?"}]
    return {"model": "tiny", "messages": messages, "temperature": 0, "max_tokens": 12, **SHAPES[shape], **more}


@pytest.mark.parametrize("shape", SHAPES)
def test_plain_answers(front: Front, shape: str) -> None:
    response = httpx.post(f"{front.url()}/v1/chat/completions", json=body(shape), timeout=60)
    assert response.status_code == 200, response.text
    assert response.headers["x-request-id"]
    answer = ChatCompletion.model_validate_json(response.content, strict=True)
    assert {"id", "object", "created", "model", "choices", "usage"} <= response.json().keys()
    assert [choice.index for choice in answer.choices] == list(range(len(answer.choices)))
    for choice in response.json()["choices"]:
        assert {"index", "message", "finish_reason", "logprobs"} <= choice.keys()
        assert {"role", "content", "refusal"} <= choice["message"].keys()
    check_content(shape, answer.model_dump()["choices"][0]["message"], answer.choices[0].finish_reason)


@pytest.mark.parametrize("shape", SHAPES)
def test_streams(front: Front, shape: str) -> None:
    asked = body(shape, stream=True, stream_options={"include_usage": True})
    with httpx.stream("POST", f"{front.url()}/v1/chat/completions", json=asked, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        data = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert data.pop() == "[DONE]"
    chunks = [ChatCompletionChunk.model_validate_json(piece, strict=True) for piece in data]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert all(json.loads(piece)["usage"] is None for piece in data[:-1])
    for index in range(asked.get("n", 1)):
        mine = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert [choice.delta.role for choice in mine] == ["assistant"] + [None] * (len(mine) - 1)
        assert [bool(choice.finish_reason) for choice in mine] == [False] * (len(mine) - 1) + [True]
        check_content(shape, put_together(mine), mine[-1].finish_reason)


def put_together(choices: list[Any]) -> dict[str, Any]:
    message: dict[str, Any] = {"content": None, "tool_calls": [], "function_call": None}
    for delta in (choice.delta for choice in choices):
        if delta.content is not None:
            message["content"] = (message["content"] or "") + delta.content
        for call in delta.tool_calls or ():
            if call.index == len(message["tool_calls"]):
                assert call.id and call.type == "function" and call.function.name
                message["tool_calls"].append({"function": {"name": call.function.name, "arguments": ""}})
            message["tool_calls"][call.index]["function"]["arguments"] += call.function.arguments or ""
        if delta.function_call is not None:
            held = message["function_call"] or {"name": delta.function_call.name, "arguments": ""}
            message["function_call"] = {**held, "arguments": held["arguments"] + (delta.function_call.arguments or "")}
    return message


def check_content(shape: str, message: dict[str, Any], finish_reason: str | None) -> None:
    if shape == "tool":
        assert finish_reason == "tool_calls"
        called = message["tool_calls"][0]["function"]
        assert called["name"] == "get_weather" and json.loads(called["arguments"])["n"] in (1, 2)
    elif shape == "deprecated":
        assert finish_reason == "stop"  # as OpenAI ends a call that is forced by name
        assert json.loads(message["function_call"]["arguments"])["n"] in (1, 2)
    elif shape == "schema":
        assert finish_reason == "stop"
        assert list(json.loads(message["content"])) == ["ok"]
    elif shape == "stopped":
        assert finish_reason == "stop"
        assert not set("eaoi") & set(message["content"] or "")
    else:
        assert finish_reason in ("stop", "length")
        assert message["content"]

"""OpenAI's own client, told to check every answer and event against its types, over the whole stack."""

import json
from collections.abc import Iterator
from typing import Any, Literal

import httpx
import openai
import pytest
from openai import OpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletionMessageParam
from openai.types.responses import Response
from pydantic import BaseModel, ConfigDict

from tests.e2e.front import Front

WEATHER: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is the weather in Paris?"}]


class Verdict(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mood: Literal["good", "bad"]
    stars: Literal[1, 2]


class GetWeather(BaseModel):
    """The weather in a city now."""

    model_config = ConfigDict(extra="forbid")

    city: Literal["Paris", "Oslo"]


TOOL = openai.pydantic_function_tool(GetWeather)
RESPONSES_TOOL: Any = {"type": "function", **TOOL["function"]}


@pytest.fixture(scope="module")
def strict(front: Front) -> Iterator[OpenAI]:
    with front.client(_strict_response_validation=True) as strict:
        yield strict


def test_parse(strict: OpenAI) -> None:
    body: dict[str, Any] = {"model": "smollm2", "messages": WEATHER, "max_tokens": 80, "temperature": 0}
    structured = strict.chat.completions.parse(**body, response_format=Verdict)
    assert isinstance(structured.choices[0].message.parsed, Verdict)
    called = strict.chat.completions.parse(**body, tools=[TOOL], tool_choice="required", parallel_tool_calls=False)
    (call,) = called.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, GetWeather)
    with pytest.raises(openai.LengthFinishReasonError):
        strict.chat.completions.parse(**{**body, "max_tokens": 3}, response_format=Verdict)


def test_stream(strict: OpenAI) -> None:
    body: dict[str, Any] = {"model": "smollm2", "messages": WEATHER, "max_tokens": 80, "temperature": 0}
    options: Any = {"include_usage": True, "include_obfuscation": True}
    with strict.chat.completions.stream(
        **body, response_format=Verdict, logprobs=True, top_logprobs=1, stream_options=options
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert {"content.delta", "content.done", "logprobs.content.delta", "logprobs.content.done"} < set(kinds)
    assert isinstance(final.choices[0].message.parsed, Verdict)
    assert final.usage is not None and final.choices[0].logprobs is not None
    # The end of the answer is a token too, and shows nothing.
    assert final.usage.completion_tokens - len(final.choices[0].logprobs.content or ()) in (0, 1)

    call: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
    with strict.chat.completions.stream(**body, **call) as calls:
        kinds = [event.type for event in calls]
        streamed = calls.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in kinds  # how many tokens come in one is the machine's affair
    assert kinds[-1] == "tool_calls.function.arguments.done"
    plain = strict.chat.completions.create(**body, **call).choices[0]
    assert told(streamed.message) == told(plain.message)
    assert streamed.finish_reason == plain.finish_reason == "tool_calls"


def told(message: Any) -> Any:
    """All but the ids of calls, which are new each time."""
    calls = [(call.function.name, call.function.arguments) for call in message.tool_calls]
    assert all(len(call.id) == 9 and call.id.isalnum() for call in message.tool_calls)
    return message.role, message.content, calls


def test_completions(strict: OpenAI, front: Front) -> None:
    plain = strict.completions.create(model="tiny", prompt=["Once", "Twice"], n=2, seed=1, max_tokens=3, logprobs=2)
    assert [choice.index for choice in plain.choices] == [0, 1, 2, 3]
    for choice in plain.choices:
        assert choice.finish_reason == "length" and choice.logprobs is not None
        assert "".join(choice.logprobs.tokens or ()) == choice.text
    echoed = strict.completions.create(model="tiny", prompt="Once", echo=True, best_of=2, max_tokens=2)
    assert echoed.choices[0].text.startswith("Once")
    ids = strict.completions.create(model="tiny", prompt=[1, 4070], max_tokens=2)
    assert ids.usage is not None and ids.usage.prompt_tokens == 2

    body = {"model": "tiny", "prompt": ["Once", "Twice"], "n": 2, "seed": 1, "max_tokens": 3, "logprobs": 2}
    texts = ["", "", "", ""]
    for event in events(front, "/v1/completions", body | {"stream": True}):
        for piece in event["choices"]:
            texts[piece["index"]] += piece["text"]
            # The type has no null, which OpenAI itself sends until the last piece of a choice.
            piece["finish_reason"] = piece["finish_reason"] or "stop"
        Completion.model_validate_json(json.dumps(event), strict=True)
    assert texts == [choice.text for choice in plain.choices]


def events(front: Front, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    with httpx.stream("POST", f"{front.url(body['model'])}{path}", json=body, timeout=60) as response:
        assert response.status_code == 200
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_responses(strict: OpenAI, front: Front) -> None:
    body: dict[str, Any] = {"model": "smollm2", "input": "What is the capital of France?", "temperature": 0}
    plain = strict.responses.create(**body, instructions="Answer in one sentence.", max_output_tokens=24)
    assert "Paris" in plain.output_text
    raw = httpx.post(f"{front.url('smollm2')}/v1/responses", json=body | {"max_output_tokens": 2}, timeout=60)
    cut = Response.model_validate_json(raw.content, strict=True)
    assert (cut.status, cut.incomplete_details and cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    parsed = strict.responses.parse(**body, text_format=Verdict, max_output_tokens=80)
    assert isinstance(parsed.output_parsed, Verdict)
    for field in ({"store": True}, {"previous_response_id": "resp_1"}):
        with pytest.raises(openai.BadRequestError) as refused:
            strict.responses.create(**body, **field)
        assert (refused.value.param, refused.value.code) == (next(iter(field)), "unsupported_parameter")


def test_responses_streamed(strict: OpenAI) -> None:
    body: dict[str, Any] = {"model": "smollm2", "temperature": 0, "max_output_tokens": 80}
    with strict.responses.stream(**body, input="Judge this.", text_format=Verdict) as stream:
        seen = list(stream)
        final = stream.get_final_response()
    assert isinstance(final.output_parsed, Verdict)
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    kinds = [event.type for event in seen]
    opening = ["created", "in_progress", "output_item.added", "content_part.added"]
    assert kinds[:4] == [f"response.{name}" for name in opening]
    closing = ["output_text.done", "content_part.done", "output_item.done", "completed"]
    assert kinds[-4:] == [f"response.{name}" for name in closing]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}

    asked: dict[str, Any] = {"input": "The weather?", "tools": [RESPONSES_TOOL], "tool_choice": "required"}
    with strict.responses.stream(**body, **asked, parallel_tool_calls=False) as calls:
        kinds = [event.type for event in calls]
        (call,) = calls.get_final_response().output
    assert "response.function_call_arguments.delta" in kinds  # how many tokens come in one is the machine's affair
    assert call.type == "function_call" and call.name == "GetWeather"
    assert json.loads(call.arguments)["city"] in ("Paris", "Oslo")
    made = {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
    history: Any = [{"role": "user", "content": "The weather?"}, made]
    history.append({"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"})
    assert strict.responses.create(**{**body, "max_output_tokens": 2}, input=history, tools=[RESPONSES_TOOL]).output

"""LangChain against the addresses of smollm2 and tiny: prints what it made of the answers as one JSON object."""

import json
import sys
from typing import Any, Literal

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, SecretStr

WORDS = {"base_url": sys.argv[1], "api_key": SecretStr("none"), "max_retries": 0, "temperature": 0}
TINY = {**WORDS, "base_url": sys.argv[2]}


class GetWeather(BaseModel):
    """The weather in a city now."""

    city: Literal["Paris", "Oslo"]


class Verdict(BaseModel):
    mood: Literal["good", "bad"]
    stars: Literal[1, 2]


def said(message: BaseMessage) -> dict[str, Any]:
    if not isinstance(message, AIMessage):
        raise TypeError(type(message))
    return {
        "content": message.content,
        "calls": [{"name": call["name"], "args": call["args"], "id": call["id"]} for call in message.tool_calls],
        "usage": message.usage_metadata,
        "finish_reason": message.response_metadata.get("finish_reason"),
        "logprobs": message.response_metadata.get("logprobs"),
        "refused": [call["name"] for call in message.invalid_tool_calls],
    }


def joined(pieces: Any) -> tuple[AIMessageChunk, int]:
    whole, count = AIMessageChunk(""), 0
    for piece in pieces:
        whole, count = whole + piece, count + 1
    return whole, count


tiny: Any = ChatOpenAI(model="tiny", max_completion_tokens=4, **TINY)
words: Any = ChatOpenAI(model="smollm2", max_completion_tokens=100, stream_usage=True, **WORDS)
tools = words.bind_tools([GetWeather], tool_choice="required", parallel_tool_calls=False)
called = tools.invoke("What is the weather?")
streamed, _ = joined(tools.stream("What is the weather?"))
text, _ = joined(words.stream("What is the capital of France?"))
result = ToolMessage("18 degrees", tool_call_id=called.tool_calls[0]["id"])

print(
    json.dumps(
        {
            "plain": said(words.invoke("What is the capital of France?")),
            "streamed": said(text),
            "pieces": joined(words.stream("Tell me a long story of a bridge."))[1],
            "called": said(called),
            "called_streamed": said(streamed),
            "named": said(words.bind_tools([GetWeather], tool_choice="GetWeather").invoke("The weather?")),
            "after_a_result": said(tiny.bind_tools([GetWeather]).invoke([HumanMessage("Weather?"), called, result])),
            "structured": {
                method: words.with_structured_output(Verdict, method=method).invoke("Judge.").model_dump()
                for method in ("json_schema", "function_calling")
            },
            "structured_streamed": [
                part.model_dump() for part in words.with_structured_output(Verdict).stream("Judge this.")
            ][-1],
            "logprobs": said(tiny.bind(logprobs=True, top_logprobs=2).invoke("Hi")),
            "batch": [said(message)["usage"] for message in tiny.batch(["a", "b", "c"])],
            "responses": ChatOpenAI(model="tiny", max_completion_tokens=4, use_responses_api=True, **TINY)  # type: ignore[arg-type]
            .invoke("Hi")
            .usage_metadata,
            "completion": OpenAI(model="smollm2", max_tokens=8, **WORDS).invoke("The capital of France is"),  # type: ignore[arg-type]
        }
    )
)

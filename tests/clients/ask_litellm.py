"""The litellm SDK against the addresses of smollm2 and tiny: prints what it made of the answers as one JSON object."""

import json
import sys
from typing import Any, Literal

import litellm
from pydantic import BaseModel

litellm.suppress_debug_info = True
ADDRESS = {"api_base": sys.argv[1], "api_key": "none", "max_retries": 0, "temperature": 0}
TINY = {**ADDRESS, "api_base": sys.argv[2]}
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Verdict(BaseModel):
    mood: Literal["good", "bad"]
    stars: Literal[1, 2]


def ask(text: str, *, model: str = "smollm2", max_tokens: int = 100, **more: Any) -> Any:
    messages = [{"role": "user", "content": text}]
    address = TINY if model == "tiny" else ADDRESS
    return litellm.completion(model=f"openai/{model}", messages=messages, max_tokens=max_tokens, **address | more)


def streamed(text: str, **more: Any) -> dict[str, Any]:
    pieces = list(ask(text, stream=True, stream_options={"include_usage": True}, **more))
    whole: Any = litellm.stream_chunk_builder(pieces)
    return whole.model_dump() | {"pieces": len(pieces)}  # type: ignore[no-any-return]


def failure(text: str = "Hi", **more: Any) -> str:
    try:
        ask(text, max_tokens=2, **more)
    except Exception as error:
        return type(error).__name__
    return "none"


CALL = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False}
print(
    json.dumps(
        {
            "plain": ask("What is the capital of France?", max_tokens=24).model_dump(),
            "streamed": streamed("What is the capital of France?", max_tokens=24),
            "story": streamed("Tell me a long story of a bridge."),
            "called": ask("What is the weather?", **CALL).model_dump(),
            "called_streamed": streamed("What is the weather?", **CALL),
            "structured": ask("Judge this.", response_format=Verdict).model_dump(),
            "choices": ask(
                "Hi", model="tiny", n=2, temperature=1, seed=1, logprobs=True, top_logprobs=2, max_tokens=2
            ).model_dump(),
            "completion": litellm.text_completion(
                model="text-completion-openai/tiny", prompt="Hi", max_tokens=3, **TINY
            ).model_dump(),
            "responses": litellm.responses(model="openai/tiny", input="Hi", max_output_tokens=16, **TINY).model_dump(),
            "too_warm": failure(temperature=9),
            "no_such_model": failure(model="nobody"),
            "too_long": failure("word " * 9000),
        }
    )
)

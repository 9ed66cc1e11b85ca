"""ChatCompletions request -> predict body; Result -> chat.completion. Pure."""

from collections.abc import Mapping
from typing import Any

from bridge_adapter.jobs import Identity, Job, StreamOptions
from bridge_adapter.messages import normalise
from bridge_adapter.openai_types import TOKEN_LIMITS
from bridge_adapter.wire import Call, Choice, Result, TokenLogprob, Usage

_SAME = (
    "temperature",
    "top_p",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "top_k",
    "min_p",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
    "top_logprobs",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
)


def sampling_body(checked: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that the predict contract shares with OpenAI's requests, without the prompt."""
    body = {name: checked[name] for name in _SAME if name in checked}
    for name in TOKEN_LIMITS:
        if name in checked:
            body["max_tokens"] = checked[name]
    if checked.get("stop"):
        body["stop"] = checked["stop"]
    if checked.get("n", 1) > 1:
        body["n"] = checked["n"]
    if checked.get("logprobs"):
        body["logprobs"] = True
    response_format = checked.get("response_format")
    if response_format is not None and response_format["type"] != "text":
        body["response_format"] = response_format
    return body


def chat_job(checked: Mapping[str, Any]) -> Job:
    """`checked` is what `openai_types.check_chat` returned."""
    body = sampling_body(checked)
    body["messages"] = normalise(checked["messages"])
    if checked.get("continue_final_message"):
        body["continue_final_message"] = True
    legacy = "functions" in checked
    if legacy:
        body["tools"] = checked["functions"]
        body["parallel_tool_calls"] = False  # a message has room for one function_call
        if "function_call" in checked:
            body["tool_choice"] = checked["function_call"]
    if checked.get("stream"):
        body["stream"] = True
    tier = "default" if "service_tier" in checked else None
    return Job(
        [body], checked.get("n", 1), checked.get("stream", False), stream_options(checked), legacy, service_tier=tier
    )


def stream_options(checked: Mapping[str, Any]) -> StreamOptions:
    given = checked.get("stream_options", {})
    return StreamOptions(
        include_usage=given.get("include_usage", False),
        continuous_usage=given.get("continuous_usage_stats", False),
        obfuscation=given.get("include_obfuscation", False),
    )


def chat_completion(job: Job, identity: Identity, result: Result) -> dict[str, Any]:
    answer = {
        "id": identity.id,
        "object": "chat.completion",
        "created": identity.created,
        "model": identity.model,
        "choices": [_choice(choice, job.legacy_functions) for choice in result.choices],
        "usage": usage(result.usage),
        "system_fingerprint": None,
    }
    if job.service_tier is not None:
        answer["service_tier"] = job.service_tier
    return answer


def usage(counts: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": counts.prompt_tokens,
        "completion_tokens": counts.completion_tokens,
        "total_tokens": counts.total_tokens,
        "prompt_tokens_details": {"cached_tokens": counts.cached_tokens},
    }


def _choice(choice: Choice, legacy_functions: bool) -> dict[str, Any]:
    calls = choice.tool_calls or []
    message: dict[str, Any] = {"role": "assistant", "content": choice.text or (None if calls else ""), "refusal": None}
    if calls and legacy_functions:
        message["function_call"] = called(calls[0])
    elif calls:
        message["tool_calls"] = [tool_call(call) for call in calls]
    message.update(choice.extra or {})
    return {
        "index": choice.index,
        "message": message,
        "logprobs": logprobs(choice.logprobs),
        "finish_reason": finish_reason(choice.finish_reason, legacy_functions),
    }


def tool_call(call: Call) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": called(call)}


def called(call: Call) -> dict[str, str]:
    return {"name": call.name, "arguments": call.arguments}


def logprobs(tokens: list[TokenLogprob] | None) -> dict[str, Any] | None:
    return None if tokens is None else {"content": tokens, "refusal": None}


def finish_reason(reason: str, legacy_functions: bool) -> str:
    return "function_call" if legacy_functions and reason == "tool_calls" else reason

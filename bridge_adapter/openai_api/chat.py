"""ChatCompletions request -> predict body; Result -> chat.completion. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from bridge_adapter.contract import Choice, Job, Result
from bridge_adapter.errors import InvalidRequest, unsupported_parameter
from bridge_adapter.openai_api import validators
from bridge_adapter.openai_api.answers import (
    Identity,
    called,
    finish_reason,
    logprobs,
    prompt_logprobs,
    tool_call,
    usage,
)
from bridge_adapter.openai_api.chat_stream import ChatChunks
from bridge_adapter.openai_api.messages import check_messages, normalise
from bridge_adapter.openai_api.parameter import (
    Parameter,
    Parameters,
    boolean,
    integer,
    only,
    refused,
    without_effect,
)
from bridge_adapter.openai_api.parameters import (
    MAX_NEW_TOKENS,
    MODEL,
    PROMPT_LOGPROBS,
    SAME_AS_MAX_TOKENS,
    SAMPLING,
    STREAM,
    STREAM_OPTIONS,
    WITHOUT_EFFECT,
    check_prompt_logprobs,
    check_stream_pair,
    check_token_limits,
    only_with,
    stream_options,
    token_limit,
)
from bridge_adapter.openai_api.schemas import ARRAY_OF_FUNCTIONS, CHOICE, MESSAGES, RESPONSE_FORMAT, TOOLS
from bridge_adapter.openai_api.sse import Renderer
from bridge_adapter.openai_api.tools import (
    check_choice_among,
    check_function_call,
    check_functions,
    check_response_format,
    check_tool_choice,
    check_tools,
    demands_call,
)


def _modalities(value: Any, param: str) -> list[str]:
    for i, item in enumerate(validators.array(value, param, of="strings")):
        validators.only("text", known=("audio",))(item, f"{param}[{i}]")
    return list(value)


def _no_fields(value: Any, param: str) -> dict[str, Any]:
    return validators.shape(value, param, {})


_ADD_PROMPT = {
    "enum": [True, False, None],
    "description": "False only beside continue_final_message, where it changes nothing. Not OpenAI's.",
}
_NO_KWARGS = {"type": ["object", "null"], "maxProperties": 0, "description": "No effect."}
_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
CHAT = Parameters(
    MODEL,
    Parameter("messages", check_messages, MESSAGES, in_predict=False),
    MAX_NEW_TOKENS,
    *SAMPLING,
    Parameter("max_completion_tokens", *token_limit(SAME_AS_MAX_TOKENS), predict_name="max_tokens"),
    Parameter("logprobs", *boolean("Return the log probabilities of the answer's tokens."), neutral=False),
    Parameter("top_logprobs", *integer(0, 20, "Number of likeliest tokens to list at each position.")),
    Parameter("response_format", check_response_format, RESPONSE_FORMAT, neutral={"type": "text"}),
    PROMPT_LOGPROBS,
    Parameter("tools", check_tools, TOOLS, neutral=[]),
    Parameter("tool_choice", check_tool_choice, CHOICE),
    Parameter("parallel_tool_calls", *boolean("Whether the answer may hold several tool calls.")),
    Parameter("functions", check_functions, ARRAY_OF_FUNCTIONS, in_predict=False),
    Parameter("function_call", check_function_call, CHOICE | {"deprecated": True}, in_predict=False),
    Parameter(
        "continue_final_message",
        *boolean("Continue the last message, which must be an assistant's. Not OpenAI's."),
        neutral=False,
    ),
    without_effect("add_generation_prompt", validators.boolean, _ADD_PROMPT),
    without_effect(
        "chat_template_kwargs",
        _no_fields,
        {"type": ["object", "null"], "maxProperties": 0, "description": "No effect."},
    ),
    STREAM,
    STREAM_OPTIONS,
    *WITHOUT_EFFECT,
    without_effect("modalities", _modalities, {"type": ["array", "null"], "items": {"enum": ["text"]}}),
    without_effect("verbosity", *only("medium", known=("low", "high"), droppable=True)),
    without_effect("reasoning_effort", *only("none", known=_EFFORTS, droppable=True)),
    refused("audio"),
    refused("prediction"),
    refused("web_search_options"),
)


def check_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    checked = CHAT.check(body)
    if "messages" not in checked:
        raise validators.missing("messages")
    check_token_limits(checked, CHAT, least=0 if "prompt_logprobs" in checked else 1)
    check_prompt_logprobs(checked)
    check_stream_pair(checked)
    if "top_logprobs" in checked and not checked.get("logprobs"):
        if checked.pop("top_logprobs"):  # some clients send 0 beside the false
            raise only_with("top_logprobs", "logprobs", "enabled")
    _check_tool_fields(checked)
    if checked.get("add_generation_prompt") is False and not checked.get("continue_final_message"):
        raise unsupported_parameter("add_generation_prompt")
    if checked.get("continue_final_message") and checked["messages"][-1]["role"] != "assistant":
        raise InvalidRequest(
            "'continue_final_message' is only allowed when the last message is an assistant's.",
            param="continue_final_message",
        )
    return checked


def _check_tool_fields(checked: dict[str, Any]) -> None:
    for offered, others in (("tools", ("tool_choice", "parallel_tool_calls")), ("functions", ("function_call",))):
        if checked.get(offered) == []:  # some clients always send the field; there is nothing to choose from then
            del checked[offered]
            for name in others:
                if checked.get(name) in ("none", "auto", True, False):
                    del checked[name]
    if "tools" in checked and "functions" in checked:
        raise InvalidRequest("'functions' and 'tools' are mutually exclusive.", param="functions")
    for needs, field in (("tools", "tool_choice"), ("tools", "parallel_tool_calls"), ("functions", "function_call")):
        if field in checked and needs not in checked:
            raise only_with(field, needs, "specified")
    check_choice_among(checked.get("tools", ()), checked.get("tool_choice"), "tool_choice")
    check_choice_among(checked.get("functions", ()), checked.get("function_call"), "function_call")


def chat_job(checked: Mapping[str, Any]) -> Job:
    """The job of a request that `check_chat` returned, or of another operation's in the same form."""
    body = CHAT.predict_fields(checked)
    body["messages"] = normalise(checked["messages"])
    legacy = "functions" in checked
    if legacy:
        body["tools"] = checked["functions"]
        body["parallel_tool_calls"] = False  # a message has room for one function_call
        if "function_call" in checked:
            body["tool_choice"] = checked["function_call"]
    choice = body.get("tool_choice")
    tier = "default" if "service_tier" in checked else None
    return Job(
        [body],
        checked.get("n", 1),
        checked.get("stream", False),
        stream_options(checked),
        legacy,
        service_tier=tier,
        forced_call=isinstance(choice, dict) and choice["type"] == "function",
        names=CHAT.predict_names(checked),
    )


def chat_completion(job: Job, identity: Identity, result: Result) -> dict[str, Any]:
    answer = {
        "id": identity.id,
        "object": "chat.completion",
        "created": identity.created,
        "model": identity.model,
        "choices": [_choice(choice, job) for choice in result.choices],
        "usage": usage(result.usage),
        "system_fingerprint": None,
    }
    if "prompt_logprobs" in job.bodies[0]:
        answer["prompt_logprobs"] = prompt_logprobs(result.prompt(0))
    if job.service_tier is not None:
        answer["service_tier"] = job.service_tier
    return answer


def _choice(choice: Choice, job: Job) -> dict[str, Any]:
    calls = choice.tool_calls or []
    # A call that was demanded and cut before its name leaves neither a call nor text.
    silent = None if calls or demands_call(job.bodies[0].get("tool_choice")) else ""
    message: dict[str, Any] = {"role": "assistant", "content": choice.text or silent, "refusal": None}
    if calls and job.legacy_functions:
        message["function_call"] = called(calls[0])
    elif calls:
        message["tool_calls"] = [tool_call(call) for call in calls]
    message.update(choice.extra or {})
    return {
        "index": choice.index,
        "message": message,
        "logprobs": logprobs(choice.logprobs),
        "finish_reason": finish_reason(choice.finish_reason, job),
    }


@dataclass(frozen=True, slots=True)
class ChatPlan:
    job: Job

    def answer(self, identity: Identity, result: Result) -> bytes:
        return msgspec.json.encode(chat_completion(self.job, identity, result))

    def renderer(self, identity: Identity) -> Renderer:
        return ChatChunks(self.job, identity)


def plan_chat(body: Mapping[str, Any]) -> ChatPlan:
    return ChatPlan(chat_job(check_chat(body)))

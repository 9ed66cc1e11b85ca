"""What a chat completions request may hold: every field of OpenAI's, what HF and vLLM users add, and nothing else."""

from collections.abc import Mapping
from typing import Any

from bridge_adapter import fields
from bridge_adapter.errors import InvalidRequest, unsupported_parameter
from bridge_adapter.fields import Check
from bridge_adapter.messages import check_messages
from bridge_adapter.tools import (
    check_choice_among,
    check_function_call,
    check_functions,
    check_response_format,
    check_tool_choice,
    check_tools,
)

TOKEN_LIMITS = ("max_completion_tokens", "max_tokens", "max_new_tokens")


def refused(value: Any, param: str) -> Any:
    raise unsupported_parameter(param)


def never_stored(value: Any, param: str) -> bool:
    if fields.boolean(value, param):
        raise unsupported_parameter(param)
    return False


def check_stop(value: Any, param: str) -> list[str]:
    if isinstance(value, str):
        return [_stop_string(value, param)]
    if not isinstance(value, list):
        raise fields.wrong_type(param, "one of a string or array of strings", value)
    items = fields.array(value, param, of="strings", shortest=0, longest=4)
    return [_stop_string(item, f"{param}[{i}]") for i, item in enumerate(items)]


def _stop_string(value: Any, param: str) -> str:
    if fields.string(value, param) == "":
        raise InvalidRequest(
            f"Invalid '{param}': empty string. Expected a string with minimum length 1, "
            "but got an empty string instead.",
            param=param,
            code="empty_string",
        )
    return str(value)


def check_logit_bias(value: Any, param: str) -> dict[str, float]:
    within = fields.decimal(-100, 100)
    for token, bias in fields.mapping(value, param).items():
        if not (token.isascii() and token.isdigit()):
            raise InvalidRequest(
                f"Invalid key in '{param}': '{token[:50]}'. Expected a token id, which is an integer of 0 or more.",
                param=param,
                code="invalid_value",
            )
        within(bias, f"{param}.{token}")
    return dict(value)


def check_metadata(value: Any, param: str) -> dict[str, str]:
    if len(fields.mapping(value, param)) > 16:
        raise InvalidRequest(
            f"Invalid '{param}': too many properties. Expected an object with at most 16 properties, "
            f"but got an object with {len(value)} properties instead.",
            param=param,
            code="object_above_max_properties",
        )
    for name, item in value.items():
        fields.text(64)(name, param)
        fields.text(512)(item, f"{param}.{name}")
    return dict(value)


def _modalities(value: Any, param: str) -> list[str]:
    for i, item in enumerate(fields.array(value, param, of="strings")):
        fields.only("text", known=("audio",))(item, f"{param}[{i}]")
    return list(value)


def check_stream_options(value: Any, param: str) -> dict[str, bool]:
    known: dict[str, Check] = dict.fromkeys(
        ("include_usage", "include_obfuscation", "continuous_usage_stats"), fields.boolean
    )
    return fields.shape(value, param, known)


def _top_k(value: Any, param: str) -> int:
    number: int = fields.integer(-1)(value, param)
    return max(number, 0)  # vLLM's users write -1 for off


SAMPLING: dict[str, Check] = {
    "temperature": fields.decimal(0, 2),
    "top_p": fields.decimal(0, 1),
    "presence_penalty": fields.decimal(-2, 2),
    "frequency_penalty": fields.decimal(-2, 2),
    "logit_bias": check_logit_bias,
    "seed": fields.integer(-(2**63)),
    "stop": check_stop,
    "n": fields.integer(1, 128),
    "max_tokens": fields.integer(1),
    "top_k": _top_k,
    "min_p": fields.decimal(0, 1),
    "repetition_penalty": fields.decimal(0.01, 100),
    "min_tokens": fields.integer(0),
    "ignore_eos": fields.boolean,
}

HARMLESS: dict[str, Check] = {
    "user": fields.string,
    "metadata": check_metadata,
    "store": never_stored,
    "service_tier": fields.only("auto", "default", known=("flex", "scale", "priority", "fast")),
    "safety_identifier": fields.text(128),
    "prompt_cache_key": fields.string,
    "prompt_cache_retention": fields.only("in_memory", known=("24h",)),
    "prompt_cache_options": refused,
    "moderation": refused,
}

CHAT: dict[str, Check] = {
    **SAMPLING,
    **HARMLESS,
    "model": fields.string,
    "messages": check_messages,
    "stream": fields.boolean,
    "stream_options": check_stream_options,
    "max_completion_tokens": fields.integer(1),
    "max_new_tokens": fields.integer(1),
    "logprobs": fields.boolean,
    "top_logprobs": fields.integer(0, 20),
    "response_format": check_response_format,
    "tools": check_tools,
    "tool_choice": check_tool_choice,
    "parallel_tool_calls": fields.boolean,
    "functions": check_functions,
    "function_call": check_function_call,
    "continue_final_message": fields.boolean,
    "modalities": _modalities,
    "verbosity": fields.only("medium", known=("low", "high")),
    "reasoning_effort": fields.only("none", known=("minimal", "low", "medium", "high", "xhigh", "max")),
    "audio": refused,
    "prediction": refused,
    "web_search_options": refused,
}


def check_fields(body: Mapping[str, Any], known: Mapping[str, Check]) -> dict[str, Any]:
    """The fields that are there, checked; null means absent. Which fields are unknown has been seen to before."""
    return {name: known[name](value, name) for name, value in body.items() if value is not None}


def check_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    checked = check_fields(body, CHAT)
    if "messages" not in checked:
        raise fields.missing("messages")
    check_token_limits(checked, TOKEN_LIMITS)
    check_stream_pair(checked)
    if "top_logprobs" in checked and not checked.get("logprobs"):
        raise _only_with("top_logprobs", "logprobs", "enabled")
    _check_tool_fields(checked)
    if checked.get("continue_final_message") and checked["messages"][-1]["role"] != "assistant":
        raise InvalidRequest(
            "'continue_final_message' is only allowed when the last message is an assistant's.",
            param="continue_final_message",
        )
    return checked


def check_token_limits(checked: Mapping[str, Any], names: tuple[str, ...]) -> None:
    given = [name for name in names if name in checked]
    if len(given) > 1:
        raise InvalidRequest(
            f"Setting '{given[1]}' and '{given[0]}' at the same time is not supported.",
            param=given[1],
            code="invalid_parameter_combination",
        )


def check_stream_pair(checked: Mapping[str, Any]) -> None:
    if "stream_options" in checked and not checked.get("stream"):
        raise _only_with("stream_options", "stream", "enabled")


def _check_tool_fields(checked: Mapping[str, Any]) -> None:
    if "tools" in checked and "functions" in checked:
        raise InvalidRequest("'functions' and 'tools' are mutually exclusive.", param="functions")
    for needs, field in (("tools", "tool_choice"), ("tools", "parallel_tool_calls"), ("functions", "function_call")):
        if field in checked and needs not in checked:
            raise _only_with(field, needs, "specified")
    check_choice_among(checked.get("tools", ()), checked.get("tool_choice"), "tool_choice")
    check_choice_among(checked.get("functions", ()), checked.get("function_call"), "function_call")


def _only_with(field: str, needs: str, how: str) -> InvalidRequest:
    verb = "are" if needs.endswith("s") and needs != "logprobs" else "is"
    return InvalidRequest(
        f"'{field}' is only allowed when '{needs}' {verb} {how}.", param=field, code="invalid_parameter_combination"
    )

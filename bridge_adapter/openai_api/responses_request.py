"""The fields of a /responses request, and their translation to a chat request. Pure; nothing is stored."""

from collections.abc import Mapping
from typing import Any

from bridge_adapter.openai_api import validators
from bridge_adapter.openai_api.parameter import (
    Parameter,
    Parameters,
    boolean,
    integer,
    only,
    refuse,
    refused,
    string,
    without_effect,
)
from bridge_adapter.openai_api.parameters import (
    MAX_TOKENS,
    MODEL,
    SAMPLING,
    STREAM,
    WITHOUT_EFFECT,
    never,
    only_with,
)
from bridge_adapter.openai_api.responses_input import check_input
from bridge_adapter.openai_api.schemas import CHOICE
from bridge_adapter.openai_api.tools import FUNCTION_NAME, check_choice_among
from bridge_adapter.openai_api.validators import Check

_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
_LOGPROBS = "message.output_text.logprobs"
_INCLUDED = (_LOGPROBS, "reasoning.encrypted_content")  # accepted, as there is no reasoning to include
_FORMAT: dict[str, Check] = {
    "type": validators.string,
    "name": FUNCTION_NAME,
    "schema": validators.json_schema,
    "description": validators.string,
    "strict": validators.boolean,
}
_TOOL: dict[str, Check] = {
    "type": validators.string,
    "name": FUNCTION_NAME,
    "description": validators.string,
    "parameters": validators.json_schema,
    "strict": validators.boolean,
}


def _include(value: Any, param: str) -> list[str]:
    items = validators.array(value, param, of="strings", shortest=0)
    for i, item in enumerate(items):
        if validators.string(item, f"{param}[{i}]") not in _INCLUDED:
            raise validators.unsupported_value(f"{param}[{i}]", item, _INCLUDED)
    return items


def _reasoning(value: Any, param: str) -> dict[str, Any]:
    effort = validators.only("none", known=_EFFORTS, droppable=True)
    return validators.shape(value, param, {"effort": effort, "summary": refuse, "generate_summary": refuse})


def _text(value: Any, param: str) -> dict[str, Any]:
    verbosity = validators.only("medium", known=("low", "high"), droppable=True)
    return validators.shape(value, param, {"format": _format, "verbosity": verbosity})


def _format(value: Any, param: str) -> dict[str, Any]:
    checked = validators.shape(value, param, _FORMAT, ("type",))
    kind = validators.one_of("text", "json_object", "json_schema")(checked["type"], f"{param}.type")
    for name in ("name", "schema") if kind == "json_schema" else ():
        if name not in checked:
            raise validators.missing(f"{param}.{name}")
    return checked


def _tools(value: Any, param: str) -> list[dict[str, Any]]:
    items = validators.array(value, param, shortest=0, longest=128)
    return [_tool(item, f"{param}[{i}]") for i, item in enumerate(items)]


def _tool(value: Any, param: str) -> dict[str, Any]:
    kind = validators.mapping(value, param).get("type")
    if kind is None:
        raise validators.missing(f"{param}.type")
    if kind != "function":
        raise validators.unsupported_value(f"{param}.type", kind, ("function",))
    checked = validators.shape(value, param, _TOOL, ("name",))
    del checked["type"]
    return {"type": "function", "function": checked}


def _tool_choice(value: Any, param: str) -> str | dict[str, Any]:
    if isinstance(value, str):
        choice: str = validators.one_of("none", "auto", "required")(value, param)
        return choice
    kind = validators.mapping(value, param).get("type")
    if kind == "function":
        checked = validators.shape(value, param, {"type": validators.string, "name": FUNCTION_NAME}, ("name",))
        return {"type": "function", "function": {"name": checked["name"]}}
    if kind == "allowed_tools":
        known: dict[str, Check] = {
            "type": validators.string,
            "mode": validators.one_of("auto", "required"),
            "tools": _tools,
        }
        checked = validators.shape(value, param, known, ("mode", "tools"))
        return {"type": kind, "allowed_tools": {"mode": checked["mode"], "tools": checked["tools"]}}
    raise validators.unsupported_value(f"{param}.type", kind, ("function", "allowed_tools"))


def _stream_options(value: Any, param: str) -> dict[str, bool]:
    return validators.shape(value, param, {"include_obfuscation": validators.boolean})


RESPONSES = Parameters(
    MODEL,
    Parameter(
        "input",
        check_input,
        {"type": ["string", "array"], "description": "Text, or messages, function calls and their outputs."},
    ),
    Parameter("instructions", *string("A system message before the input.")),
    Parameter("max_output_tokens", *integer(1, text=MAX_TOKENS), predict_name="max_tokens"),
    *(parameter for parameter in SAMPLING if parameter.in_responses),
    STREAM,
    Parameter(
        "stream_options",
        _stream_options,
        {"type": ["object", "null"], "properties": {"include_obfuscation": {"type": "boolean"}}},
    ),
    Parameter(
        "text",
        _text,
        {
            "type": ["object", "null"],
            "properties": {"format": {"type": "object"}, "verbosity": {"enum": ["medium", None]}},
        },
    ),
    Parameter("tools", _tools, {"type": ["array", "null"], "maxItems": 128, "items": {"type": "object"}}),
    Parameter("tool_choice", _tool_choice, CHOICE),
    Parameter("parallel_tool_calls", *boolean("Whether the answer may hold several function calls.")),
    Parameter("top_logprobs", *integer(0, 20, "Number of likeliest tokens to list at each position.")),
    Parameter("include", _include, {"type": ["array", "null"], "items": {"type": "string"}}),
    *WITHOUT_EFFECT,
    without_effect(
        "reasoning",
        _reasoning,
        {"type": ["object", "null"], "properties": {"effort": {"enum": ["none", None], "description": "No effect."}}},
    ),
    without_effect("background", never, {"enum": [False, None], "description": "No effect."}),
    without_effect("truncation", *only("disabled", known=("auto",))),
    *map(
        refused,
        (
            "previous_response_id",
            "conversation",
            "prompt",
            "context_management",
            "max_tool_calls",
            "access_programs",
            "background_options",
            "image",
        ),
    ),
)


def check_response(body: Mapping[str, Any]) -> dict[str, Any]:
    checked = RESPONSES.check(body)
    if "input" not in checked:
        raise validators.missing("input")
    if "stream_options" in checked and not checked.get("stream"):
        raise only_with("stream_options", "stream", "enabled")
    check_choice_among(checked.get("tools", ()), checked.get("tool_choice"), "tool_choice")
    return checked


def chat_fields(checked: Mapping[str, Any]) -> dict[str, Any]:
    """The same request as checked fields of a chat request."""
    chat = {parameter.name: checked[parameter.name] for parameter in SAMPLING if parameter.name in checked}
    instructions = checked.get("instructions")
    opening = [{"role": "system", "content": instructions}] if instructions else []
    chat["messages"] = [*opening, *checked["input"]]
    if "max_output_tokens" in checked:
        chat["max_tokens"] = checked["max_output_tokens"]
    if checked.get("tools"):
        chat["tools"] = checked["tools"]
        chat |= {name: checked[name] for name in ("tool_choice", "parallel_tool_calls") if name in checked}
    if _LOGPROBS in checked.get("include", ()) or "top_logprobs" in checked:
        chat |= {"logprobs": True, "top_logprobs": checked.get("top_logprobs", 0)}
    chat_format = _chat_format(checked.get("text", {}).get("format"))
    if chat_format is not None:
        chat["response_format"] = chat_format
    if checked.get("stream"):
        chat |= {"stream": True, "stream_options": checked.get("stream_options", {})}
    return chat


def _chat_format(given: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if given is None or given["type"] == "text":
        return None
    if given["type"] == "json_object":
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {name: item for name, item in given.items() if name != "type"}}

"""What a /responses request may hold, and how it is said as chat messages and tools. Pure; nothing is stored."""

from collections.abc import Mapping
from typing import Any

from bridge_adapter import fields
from bridge_adapter.errors import InvalidRequest
from bridge_adapter.fields import Check
from bridge_adapter.openai_types import HARMLESS, SAMPLING, check_fields, never_stored, refused
from bridge_adapter.responses_input import check_input
from bridge_adapter.tools import FUNCTION_NAME, check_choice_among

_EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")
_LOGPROBS = "message.output_text.logprobs"
_INCLUDED = (_LOGPROBS, "reasoning.encrypted_content")  # there is no reasoning, so nothing of it to include
_FORMAT: dict[str, Check] = {
    "type": fields.string,
    "name": FUNCTION_NAME,
    "schema": fields.json_schema,
    "description": fields.string,
    "strict": fields.boolean,
}
_TOOL: dict[str, Check] = {
    "type": fields.string,
    "name": FUNCTION_NAME,
    "description": fields.string,
    "parameters": fields.json_schema,
    "strict": fields.boolean,
}


def _include(value: Any, param: str) -> list[str]:
    items = fields.array(value, param, of="strings", shortest=0)
    for i, item in enumerate(items):
        if fields.string(item, f"{param}[{i}]") not in _INCLUDED:
            raise fields.unsupported_value(f"{param}[{i}]", item, _INCLUDED)
    return items


def _reasoning(value: Any, param: str) -> dict[str, Any]:
    effort = fields.only("none", known=_EFFORTS)
    return fields.shape(value, param, {"effort": effort, "summary": refused, "generate_summary": refused})


def _text(value: Any, param: str) -> dict[str, Any]:
    verbosity = fields.only("medium", known=("low", "high"))
    return fields.shape(value, param, {"format": _format, "verbosity": verbosity})


def _format(value: Any, param: str) -> dict[str, Any]:
    checked = fields.shape(value, param, _FORMAT, ("type",))
    kind = fields.one_of("text", "json_object", "json_schema")(checked["type"], f"{param}.type")
    for name in ("name", "schema") if kind == "json_schema" else ():
        if name not in checked:
            raise fields.missing(f"{param}.{name}")
    return checked


def _tools(value: Any, param: str) -> list[dict[str, Any]]:
    items = fields.array(value, param, shortest=0, longest=128)
    return [_tool(item, f"{param}[{i}]") for i, item in enumerate(items)]


def _tool(value: Any, param: str) -> dict[str, Any]:
    kind = fields.mapping(value, param).get("type")
    if kind is None:
        raise fields.missing(f"{param}.type")
    if kind != "function":
        raise fields.unsupported_value(f"{param}.type", kind, ("function",))
    checked = fields.shape(value, param, _TOOL, ("name",))
    del checked["type"]
    return {"type": "function", "function": checked}


def _tool_choice(value: Any, param: str) -> str | dict[str, Any]:
    if isinstance(value, str):
        choice: str = fields.one_of("none", "auto", "required")(value, param)
        return choice
    kind = fields.mapping(value, param).get("type")
    if kind == "function":
        checked = fields.shape(value, param, {"type": fields.string, "name": FUNCTION_NAME}, ("name",))
        return {"type": "function", "function": {"name": checked["name"]}}
    if kind == "allowed_tools":
        known: dict[str, Check] = {
            "type": fields.string,
            "mode": fields.one_of("auto", "required"),
            "tools": _tools,
        }
        checked = fields.shape(value, param, known, ("mode", "tools"))
        return {"type": kind, "allowed_tools": {"mode": checked["mode"], "tools": checked["tools"]}}
    raise fields.unsupported_value(f"{param}.type", kind, ("function", "allowed_tools"))


def _stream_options(value: Any, param: str) -> dict[str, bool]:
    return fields.shape(value, param, {"include_obfuscation": fields.boolean})


RESPONSES: dict[str, Check] = {
    **{name: check for name, check in HARMLESS.items() if name != "store"},
    **{name: SAMPLING[name] for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")},
    **{name: SAMPLING[name] for name in ("min_tokens", "ignore_eos")},
    "model": fields.string,
    "input": check_input,
    "instructions": fields.string,
    "max_output_tokens": fields.integer(1),
    "stream": fields.boolean,
    "stream_options": _stream_options,
    "text": _text,
    "tools": _tools,
    "tool_choice": _tool_choice,
    "parallel_tool_calls": fields.boolean,
    "top_logprobs": fields.integer(0, 20),
    "include": _include,
    "reasoning": _reasoning,
    "store": never_stored,
    "background": never_stored,
    "truncation": fields.only("disabled", known=("auto",)),
    "previous_response_id": refused,
    "conversation": refused,
    "prompt": refused,
    "context_management": refused,
    "max_tool_calls": refused,
    "access_programs": refused,
    "background_options": refused,
    "image": refused,
}


def check_response(body: Mapping[str, Any]) -> dict[str, Any]:
    checked = check_fields(body, RESPONSES)
    if "input" not in checked:
        raise fields.missing("input")
    if "stream_options" in checked and not checked.get("stream"):
        raise InvalidRequest(
            "'stream_options' is only allowed when 'stream' is enabled.",
            param="stream_options",
            code="invalid_parameter_combination",
        )
    check_choice_among(checked.get("tools", ()), checked.get("tool_choice"), "tool_choice")
    return checked


def chat_fields(checked: Mapping[str, Any]) -> dict[str, Any]:
    """The same request as checked fields of a chat request."""
    chat = {name: checked[name] for name in SAMPLING if name in checked}
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

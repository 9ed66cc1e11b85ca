"""tools, tool_choice, response_format and their deprecated forms: checked, converted to the predict contract's."""

from collections.abc import Sequence
from typing import Any

from bridge_adapter.errors import InvalidRequest
from bridge_adapter.openai_api import validators as fields
from bridge_adapter.openai_api.validators import Check

FUNCTION_NAME = fields.text(64, r"[a-zA-Z0-9_-]+")
_FUNCTION: dict[str, Check] = {
    "name": FUNCTION_NAME,
    "description": fields.string,
    "parameters": fields.json_schema,
    "strict": fields.boolean,
}


def check_tools(value: Any, param: str) -> list[dict[str, Any]]:
    return [_tool(item, f"{param}[{i}]") for i, item in enumerate(fields.array(value, param, shortest=0, longest=128))]


def check_functions(value: Any, param: str) -> list[dict[str, Any]]:
    known = {name: check for name, check in _FUNCTION.items() if name != "strict"}
    items = fields.array(value, param, shortest=0, longest=128)
    return [
        {"type": "function", "function": fields.shape(item, f"{param}[{i}]", known, ("name",))}
        for i, item in enumerate(items)
    ]


def check_tool_choice(value: Any, param: str) -> str | dict[str, Any]:
    if isinstance(value, str):
        choice: str = fields.one_of("none", "auto", "required")(value, param)
        return choice
    kind = _kind(value, param, ("function", "allowed_tools"))
    if kind == "function":
        return fields.shape(value, param, {"type": fields.string, "function": _named}, ("function",))
    return fields.shape(value, param, {"type": fields.string, "allowed_tools": _allowed}, ("allowed_tools",))


def check_function_call(value: Any, param: str) -> str | dict[str, Any]:
    if isinstance(value, str):
        choice: str = fields.one_of("none", "auto")(value, param)
        return choice
    return {"type": "function", "function": _named(value, param)}


def check_choice_among(tools: Sequence[dict[str, Any]], choice: Any, param: str) -> None:
    """A choice that names a function must name one that is offered."""
    if not isinstance(choice, dict):
        return
    offered = {tool["function"]["name"] for tool in tools}
    chosen = choice["allowed_tools"]["tools"] if choice["type"] == "allowed_tools" else [choice]
    for tool in chosen:
        name = tool["function"]["name"]
        if name not in offered:
            raise InvalidRequest(f"Tool choice '{name}' not found in 'tools' parameter.", param=param)


def check_response_format(value: Any, param: str) -> dict[str, Any]:
    kind = _kind(value, param, ("text", "json_object", "json_schema"))
    if kind == "json_object" and value.get("schema") is not None:  # as llama.cpp and others take a schema
        checked = fields.shape(value, param, {"type": fields.string, "schema": fields.json_schema})
        return {"type": "json_schema", "json_schema": {"name": "response", "schema": checked["schema"]}}
    if kind == "json_schema":
        return fields.shape(value, param, {"type": fields.string, "json_schema": _json_schema}, ("json_schema",))
    return fields.shape(value, param, {"type": fields.string})


def _kind(value: Any, param: str, supported: Sequence[str]) -> str:
    kind = fields.mapping(value, param).get("type")
    if kind is None:
        raise fields.missing(f"{param}.type")
    if kind in ("custom", "grammar", "python"):
        raise fields.unsupported_value(f"{param}.type", kind, supported)
    name: str = fields.one_of(*supported)(kind, f"{param}.type")
    return name


def _tool(value: Any, param: str) -> dict[str, Any]:
    _kind(value, param, ("function",))
    return fields.shape(value, param, {"type": fields.string, "function": _function}, ("function",))


def _function(value: Any, param: str) -> dict[str, Any]:
    return fields.shape(value, param, _FUNCTION, ("name",))


def _named(value: Any, param: str) -> dict[str, Any]:
    return fields.shape(value, param, {"name": FUNCTION_NAME}, ("name",))


def _allowed(value: Any, param: str) -> dict[str, Any]:
    known: dict[str, Check] = {"mode": fields.one_of("auto", "required"), "tools": _allowed_tools}
    return fields.shape(value, param, known, ("mode", "tools"))


def _allowed_tools(value: Any, param: str) -> list[dict[str, Any]]:
    known: dict[str, Check] = {"type": fields.one_of("function"), "function": _named}
    items = fields.array(value, param, longest=128)
    return [fields.shape(item, f"{param}[{i}]", known, ("type", "function")) for i, item in enumerate(items)]


def _json_schema(value: Any, param: str) -> dict[str, Any]:
    known: dict[str, Check] = {
        "name": FUNCTION_NAME,
        "description": fields.string,
        "schema": fields.json_schema,
        "strict": fields.boolean,
    }
    return fields.shape(value, param, known, ("name",))


def demands_call(choice: Any) -> bool:
    """Whether a checked `tool_choice` leaves no answer but a call."""
    if isinstance(choice, dict):
        return bool(choice["type"] == "function" or choice["allowed_tools"]["mode"] == "required")
    return bool(choice == "required")

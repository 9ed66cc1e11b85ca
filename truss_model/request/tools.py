"""OpenAI's `tools` and `tool_choice` -> what a model is shown and what it may call. Knows no model's prompt format."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn

from truss_model.errors import RequestError
from truss_model.json_schema import check_schema
from truss_model.unicode import check_unicode

MAX_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
NAME_RULE = "expected 1 to 64 of the characters a-z, A-Z, 0-9, '_' and '-'"


def is_function_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """`parameters` is None where the caller described none. `path` is where the tool stood in the request."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool = False
    path: str = "tools[0]"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools part of a request. `shown` are in the prompt; `callable` are those the answer may, or must, call.

    mode "none": the model is shown the tools, as the history may speak of them, and writes text.
    """

    shown: Sequence[FunctionTool] = field(default=())
    callable: Sequence[FunctionTool] = field(default=())
    mode: Literal["none", "auto", "required"] = "none"
    parallel: bool = True


NO_TOOLS = ToolUse()


def parse_tool_use(
    tools: object = None, tool_choice: object = None, parallel_tool_calls: bool | None = None
) -> ToolUse:
    """Check the three fields as the wire carries them.

    Raises RequestError with `param` such as `tools[0].function.parameters` or `tool_choice`.
    """
    if tools is None:
        if tool_choice not in (None, "none"):
            _refuse("tool_choice", "it is only allowed when 'tools' are given")
        return ToolUse()
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        _refuse("tools", "expected an array of objects")
    if not tools:
        raise RequestError(
            "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            param="tools",
            code="empty_array",
        )
    if len(tools) > MAX_TOOLS:
        _refuse("tools", f"expected at most {MAX_TOOLS} tools, but got {len(tools)}")
    shown = [_tool(item, f"tools[{index}]") for index, item in enumerate(tools)]
    check_schema({"tools": [tool.parameters for tool in shown]}, "tools")  # the limits hold for all of them together
    by_name: dict[str, FunctionTool] = {}
    for tool in shown:
        if tool.name in by_name:
            _refuse(f"{tool.path}.function.name", f"a tool before it is named '{tool.name}' too")
        by_name[tool.name] = tool
    mode, names = _choice(tool_choice, by_name)
    # One function by name is asked for once: clients that name one read the first call only, or refuse a second.
    named = isinstance(tool_choice, Mapping) and tool_choice["type"] == "function"
    parallel = not named if parallel_tool_calls is None else parallel_tool_calls
    return ToolUse(shown, [by_name[name] for name in names], mode, parallel)


def _choice(
    choice: object, tools: Mapping[str, FunctionTool]
) -> tuple[Literal["none", "auto", "required"], Sequence[str]]:
    if choice is None or choice == "auto":
        return "auto", list(tools)
    if choice == "none":
        return "none", []
    if choice == "required":
        return "required", list(tools)
    if not isinstance(choice, Mapping):
        _refuse("tool_choice", "expected 'none', 'auto', 'required' or an object")
    if choice.get("type") == "function":
        return "required", [_chosen(choice, tools, "tool_choice")]
    if choice.get("type") != "allowed_tools":
        _refuse("tool_choice.type", "expected 'function' or 'allowed_tools'")
    allowed = choice.get("allowed_tools")
    if not isinstance(allowed, Mapping) or not isinstance(allowed.get("tools"), list) or not allowed["tools"]:
        _refuse("tool_choice.allowed_tools", "expected an object with 'mode' and a list of 'tools'")
    mode = allowed.get("mode")
    if mode != "auto" and mode != "required":
        _refuse("tool_choice.allowed_tools.mode", "expected 'auto' or 'required'")
    path = "tool_choice.allowed_tools.tools"
    names = [_chosen(item, tools, f"{path}[{index}]") for index, item in enumerate(allowed["tools"])]
    return mode, list(dict.fromkeys(names))


def _chosen(item: object, tools: Mapping[str, FunctionTool], path: str) -> str:
    function = item.get("function") if isinstance(item, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        _refuse(path, "expected {'type': 'function', 'function': {'name': ...}}")
    if name not in tools:
        _refuse(path, f"'{name[:64]}' is not among 'tools'")
    return name


def _tool(item: object, tool_path: str) -> FunctionTool:
    path = tool_path
    if not isinstance(item, Mapping):
        _refuse(path, "expected an object")
    if item.get("type") != "function":
        _refuse(f"{path}.type", "only 'function' is supported")
    function = item.get("function")
    path = f"{path}.function"
    if not isinstance(function, Mapping):
        _refuse(path, "expected an object")
    name = function.get("name")
    if not isinstance(name, str) or not is_function_name(name):
        _refuse(f"{path}.name", NAME_RULE)
    description = function.get("description")
    if description is not None:
        if not isinstance(description, str):
            _refuse(f"{path}.description", "expected a string")
        check_unicode(description, f"{path}.description")
    strict = function.get("strict")
    if strict is not None and not isinstance(strict, bool):
        _refuse(f"{path}.strict", "expected a boolean")
    for key in function:
        if key not in ("name", "description", "parameters", "strict"):
            raise RequestError(f"Unknown parameter: '{path}.{key}'.", param=f"{path}.{key}", code="unknown_parameter")
    parameters = function.get("parameters")
    if parameters is not None:
        check_schema(parameters, f"{path}.parameters")
    return FunctionTool(name, description or "", parameters, bool(strict), tool_path)


def _refuse(path: str, why: str) -> NoReturn:
    raise RequestError(f"Invalid value for '{path}': {why}.", param=path, code="invalid_value")

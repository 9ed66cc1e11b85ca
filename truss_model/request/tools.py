"""OpenAI's `tools` and `tool_choice` -> what a model is shown and what it may call. Knows no model's prompt format."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from truss_model.errors import RequestError
from truss_model.request.json_schema import check_schema
from truss_model.request.validators import (
    check_array,
    check_boolean,
    check_choice,
    check_known,
    check_object,
    check_string,
    optional_boolean,
    optional_string,
    required,
    wrong_type,
    wrong_value,
)

MAX_TOOLS = 128
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
ONLY_WITH_TOOLS = "it is only allowed when 'tools' are given"
_FUNCTION_FIELDS = frozenset({"name", "description", "parameters", "strict"})


def check_function_name(value: object, param: str) -> str:
    name = check_string(value, param)
    if _NAME.fullmatch(name) is None:
        raise wrong_value(param, "expected 1 to 64 of the characters a-z, A-Z, 0-9, '_' and '-'")
    return name


def tools_unsupported() -> RequestError:
    """The error for tools sent to a model that has no way to write calls."""
    return RequestError("This model cannot call tools.", param="tools", code="unsupported_parameter")


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """`parameters` is None if the caller described none. `path` is where the tool stood in the request."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool = False
    path: str = "tools[0]"


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools part of a request. `shown` are in the prompt; `callable` are those the answer may, or must, call.

    mode "none": the model is shown the tools, since the history may contain calls of them, and writes text.
    """

    shown: Sequence[FunctionTool] = field(default=())
    callable: Sequence[FunctionTool] = field(default=())
    mode: Literal["none", "auto", "required"] = "none"
    parallel: bool = True


NO_TOOLS = ToolUse()


def parse_tool_use(tools: object = None, tool_choice: object = None, parallel_tool_calls: object = None) -> ToolUse:
    """Check the three fields as the wire carries them.

    Raises RequestError with `param` such as `tools[0].function.parameters` or `tool_choice`.
    """
    if parallel_tool_calls is not None:
        check_boolean(parallel_tool_calls, "parallel_tool_calls")
    if tools is None:
        if tool_choice not in (None, "none"):
            raise wrong_value("tool_choice", ONLY_WITH_TOOLS)
        if parallel_tool_calls is not None:
            raise wrong_value("parallel_tool_calls", ONLY_WITH_TOOLS)
        return ToolUse()
    items = check_array(tools, "tools", "objects", shortest=1, longest=MAX_TOOLS)
    shown = [_tool(item, f"tools[{index}]") for index, item in enumerate(items)]
    check_schema({"tools": [tool.parameters for tool in shown]}, "tools")  # the limits hold for all of them together
    by_name: dict[str, FunctionTool] = {}
    for tool in shown:
        if tool.name in by_name:
            raise wrong_value(f"{tool.path}.function.name", f"'{tool.name}' is the name of an earlier tool")
        by_name[tool.name] = tool
    mode, names = _choice(tool_choice, by_name)
    # A function chosen by name is called once: clients that name one read only the first call, or refuse a second.
    named = isinstance(tool_choice, Mapping) and tool_choice["type"] == "function"
    parallel = not named if parallel_tool_calls is None else bool(parallel_tool_calls)
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
    if isinstance(choice, str):
        raise wrong_value("tool_choice", f"expected 'none', 'auto' or 'required', but got '{choice[:64]}' instead")
    if not isinstance(choice, Mapping):
        raise wrong_type("tool_choice", "one of a string or object", choice)
    kind = check_choice(required(choice, "type", "tool_choice"), "tool_choice.type", ["function", "allowed_tools"])
    if kind == "function":
        return "required", [_chosen(choice, tools, "tool_choice")]
    path = "tool_choice.allowed_tools"
    allowed = check_object(choice.get("allowed_tools"), path)
    mode = check_choice(required(allowed, "mode", path), f"{path}.mode", ["auto", "required"])
    items = check_array(required(allowed, "tools", path), f"{path}.tools", "objects", shortest=1)
    names = [_chosen(item, tools, f"{path}.tools[{index}]") for index, item in enumerate(items)]
    return "auto" if mode == "auto" else "required", list(dict.fromkeys(names))


def _chosen(item: object, tools: Mapping[str, FunctionTool], path: str) -> str:
    function = item.get("function") if isinstance(item, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise wrong_value(path, "expected {'type': 'function', 'function': {'name': ...}}")
    if name not in tools:
        raise wrong_value(path, f"'{name[:64]}' is not one of 'tools'")
    return name


def _tool(item: object, tool_path: str) -> FunctionTool:
    tool, path = check_object(item, tool_path), f"{tool_path}.function"
    check_choice(required(tool, "type", tool_path), f"{tool_path}.type", ["function"])
    function = check_object(required(tool, "function", tool_path), path)
    name = check_function_name(required(function, "name", path), f"{path}.name")
    description = optional_string(function, "description", path)
    strict = optional_boolean(function, "strict", path)
    check_known(function, _FUNCTION_FIELDS, path)
    parameters = function.get("parameters")
    if parameters is not None:
        check_schema(parameters, f"{path}.parameters")
    return FunctionTool(name, description or "", parameters, strict, tool_path)

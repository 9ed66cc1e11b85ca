"""`tools`, `tool_choice` and `parallel_tool_calls` of a body, checked against each other. Knows no prompt format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truss_model.fields import check_array, missing, unknown, wrong_type, wrong_value


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """The tools in OpenAI's shape. `choice` is never None: "auto" with tools, "none" without.

    visible: the tools that the model is told of and may call.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    choice: str | Mapping[str, Any] = "none"
    parallel: bool = True
    visible: tuple[Mapping[str, Any], ...] = ()


def parse_tool_request(fields: Mapping[str, Any]) -> ToolRequest:
    """Read the three fields; raises RequestError naming the one that is wrong."""
    if "tools" not in fields:
        for name in ("tool_choice", "parallel_tool_calls"):
            if name in fields and not (name == "tool_choice" and fields[name] == "none"):
                raise wrong_value(name, "it is only allowed when 'tools' are specified.")
        return ToolRequest()
    tools = _tools(fields["tools"])
    choice = fields.get("tool_choice", "auto")
    parallel = fields.get("parallel_tool_calls", True)
    if not isinstance(parallel, bool):
        raise wrong_type("parallel_tool_calls", "a boolean", parallel)
    return ToolRequest(tools, choice, parallel, _visible(tools, choice))


def _tools(value: object) -> tuple[Mapping[str, Any], ...]:
    tools = check_array(value, "tools", "objects", shortest=1, longest=128)
    for index, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise wrong_type(f"tools[{index}]", "an object", tool)
    return tuple(tools)


def _visible(tools: tuple[Mapping[str, Any], ...], choice: object) -> tuple[Mapping[str, Any], ...]:
    if isinstance(choice, str):
        if choice not in ("none", "auto", "required"):
            raise wrong_value("tool_choice", f"'{choice[:64]}' is not one of 'none', 'auto' and 'required'.")
        return () if choice == "none" else tools
    if not isinstance(choice, Mapping):
        raise wrong_type("tool_choice", "one of a string or an object", choice)
    kind = choice.get("type")
    if kind == "function":
        _refuse_unknown(choice, "tool_choice", ("type", "function"))
        _named(tools, choice, "tool_choice")
        return tools
    if kind == "allowed_tools":
        _refuse_unknown(choice, "tool_choice", ("type", "allowed_tools"))
        return _allowed(tools, choice.get("allowed_tools"))
    if kind is None:
        raise missing("tool_choice.type")
    raise wrong_value("tool_choice.type", f"'{str(kind)[:64]}' is not one of 'function' and 'allowed_tools'.")


def _allowed(tools: tuple[Mapping[str, Any], ...], allowed: object) -> tuple[Mapping[str, Any], ...]:
    path = "tool_choice.allowed_tools"
    if not isinstance(allowed, Mapping):
        raise missing(path) if allowed is None else wrong_type(path, "an object", allowed)
    _refuse_unknown(allowed, path, ("mode", "tools"))
    if allowed.get("mode") not in ("auto", "required"):
        raise wrong_value(f"{path}.mode", f"'{str(allowed.get('mode'))[:64]}' is not one of 'auto' and 'required'.")
    chosen: Sequence[Any] = check_array(allowed.get("tools"), f"{path}.tools", "objects", shortest=1, longest=128)
    names = {_named(tools, tool, f"{path}.tools[{index}]") for index, tool in enumerate(chosen)}
    return tuple(tool for tool in tools if _name(tool) in names)


def _named(tools: Sequence[Mapping[str, Any]], choice: object, path: str) -> str:
    """The name of the function that `choice` names, which must be one of the tools."""
    if not isinstance(choice, Mapping):
        raise wrong_type(path, "an object", choice)
    name = _name(choice)
    if choice.get("type") != "function" or name is None:
        raise missing(f"{path}.function.name")
    if name not in {_name(tool) for tool in tools}:
        raise wrong_value(path, f"the function '{name[:64]}' is not one of 'tools'.")
    return name


def _name(tool: Mapping[str, Any]) -> str | None:
    function = tool.get("function")
    name = function.get("name") if isinstance(function, Mapping) else None
    return name if isinstance(name, str) else None


def _refuse_unknown(value: Mapping[str, Any], path: str, known: Sequence[str]) -> None:
    for key in value:
        if key not in known:
            raise unknown(f"{path}.{str(key)[:64]}")

"""What an answer may look like -> a grammar in llguidance's dialect of Lark, with JSON schemas inside. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from truss_model.tool_format import CALL_END, CALL_START, ToolFormat, ToolStyle
from truss_model.tools import FunctionTool

# Enough for pretty-printed JSON. Without a bound a model that is not sure goes on with blanks for ever.
_WHITE_SPACE = r"[ \t\r\n]{1,40}"
_MAX_CALLS = 32
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
_TYPING_KEYWORDS = ("type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const")


def json_rule(schema: Mapping[str, Any], *, strict: bool) -> str:
    """A JSON value by the schema. Not strict: keywords that cannot be enforced are left to the model."""
    options = {"whitespace_pattern": _WHITE_SPACE, "lenient": not strict}
    return "%json " + json.dumps({**schema, "x-guidance": options})


def json_answer(rule: str, *, leading_space: bool) -> str:
    """`leading_space`: the tokenizer's first word has one before it, which the answer's reader takes off."""
    return f"start: {_space(leading_space)}{rule}\n"


def calls_answer(
    tools: Sequence[FunctionTool],
    tool_format: ToolFormat,
    parallel: bool,
    *,
    leading_space: bool,
    instead: str | None = None,
) -> str:
    """Calls of these tools. `instead` is what may come in their place: a JSON rule, or "text" (before them, too)."""
    calls, between, end = _frame(tool_format)
    more = f"({between}call){{0,{_MAX_CALLS - 1}}}" if parallel else ""
    rules = [f"calls: {calls}call{more}{end}", "call: " + " | ".join(f"call_{n}" for n in range(len(tools)))]
    rules += [f"call_{number}: {_call(tool, tool_format)}" for number, tool in enumerate(tools)]
    if instead is None:
        lead = _space(leading_space and tool_format.style is ToolStyle.HERMES)
        rules.insert(0, f"start: {lead}calls")
    elif instead == "text":
        rules.insert(0, "start: TEXT? calls?")
        rules.append(_text(tool_format))
    else:
        rules.insert(0, f"start: calls | {_space(leading_space)}json")
        rules.append(f"json: {instead}")
    return "\n".join(rules) + "\n"


def _frame(tool_format: ToolFormat) -> tuple[str, str, str]:
    """What stands before the first call, between two, and after the last."""
    match tool_format.style:
        case ToolStyle.MISTRAL_LIST:
            return f'<[{tool_format.calls_id}]> " "? "[" ', '"," " "? ', ' "]"'
        case ToolStyle.MISTRAL_ARGS:
            return "", "", ""
        case ToolStyle.HERMES:
            return "", '"\\n" ', ""


def _call(tool: FunctionTool, tool_format: ToolFormat) -> str:
    """Spaced as the families were trained on, which is how json.dumps does it."""
    schema = _NO_PARAMETERS if tool.parameters is None else _object_schema(tool.parameters)
    arguments = json_rule(schema, strict=tool.strict)
    head = json.dumps(f'{{"name": "{tool.name}", "arguments": ')
    match tool_format.style:
        case ToolStyle.MISTRAL_LIST:
            return f'{head} {arguments} "}}"'
        case ToolStyle.MISTRAL_ARGS:
            return f'<[{tool_format.calls_id}]> "{tool.name}" <[{tool_format.args_id}]> {arguments}'
        case ToolStyle.HERMES:
            return f'"{CALL_START}\\n" {head} {arguments} "}}\\n{CALL_END}"'


def _object_schema(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments are an object even where the schema does not say so."""
    return parameters if any(key in parameters for key in _TYPING_KEYWORDS) else {**parameters, "type": "object"}


def _text(tool_format: ToolFormat) -> str:
    """Any text; control tokens are none, but a Hermes tag is text and must begin a call."""
    if tool_format.style is ToolStyle.HERMES:
        return rf"TEXT: /(?s:.+)/ & ~/(?s:.*){CALL_START}(?s:.*)/"
    return "TEXT: /(?s:.+)/"


def _space(allowed: bool) -> str:
    return '" "? ' if allowed else ""

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
    more = f"more{{0,{_MAX_CALLS - 1}}}" if parallel else ""
    rules = [f"call_{number}: {_call(tool, tool_format)}" for number, tool in enumerate(tools)]
    rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(tools))))
    match tool_format.style:
        case ToolStyle.MISTRAL_LIST:
            rules += [f'calls: <[{tool_format.calls_id}]> " "? "[" call {more} "]"', 'more: "," " "? call']
        case ToolStyle.MISTRAL_ARGS:
            rules += [f"calls: call {more}", "more: call"]
        case ToolStyle.HERMES:
            rules += [f"calls: open call {more}", f'more: "\\n{CALL_START}" call']
            rules.append(_hermes_open(after_text=instead == "text", leading_space=leading_space))
    if instead is None:
        return "\n".join(["start: calls", *rules])
    if instead != "text":
        return "\n".join([f"start: calls | {_space(leading_space)}json", f"json: {instead}", *rules])
    if tool_format.style is ToolStyle.HERMES:
        text = rf"TEXT: /(?s:.+)/ & ~/(?s:.*){CALL_START}(?s:.*)/"
        return "\n".join(["start: TEXT | calls |", text, *rules])
    return "\n".join(["start: TEXT? calls?", "TEXT: /(?s:.+)/", *rules])


def _hermes_open(*, after_text: bool, leading_space: bool) -> str:
    """The tag is text as what stands before it is: one lexeme, which ends where the tag does for the first time."""
    if after_text:
        return f"open[lazy]: /(?s:.*){CALL_START}/"
    return f'open: {_space(leading_space)}"{CALL_START}"'


def _call(tool: FunctionTool, tool_format: ToolFormat) -> str:
    """Spaced as the families were trained on, which is how json.dumps does it."""
    schema = _NO_PARAMETERS if tool.parameters is None else _object_schema(tool.parameters)
    arguments = json_rule(schema, strict=tool.strict)
    head = f'{{\\"name\\": \\"{tool.name}\\", \\"arguments\\": '
    match tool_format.style:
        case ToolStyle.MISTRAL_LIST:
            return f'"{head}" {arguments} "}}"'
        case ToolStyle.MISTRAL_ARGS:
            return f'<[{tool_format.calls_id}]> "{tool.name}" <[{tool_format.args_id}]> {arguments}'
        case ToolStyle.HERMES:
            return f'"\\n{head}" {arguments} "}}\\n{CALL_END}"'


def _object_schema(parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    """Arguments are an object even where the schema does not say so."""
    return parameters if any(key in parameters for key in _TYPING_KEYWORDS) else {**parameters, "type": "object"}


def _space(allowed: bool) -> str:
    return '" "? ' if allowed else ""

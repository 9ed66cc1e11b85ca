"""The allowed forms of an answer -> a grammar in llguidance's dialect of Lark, with JSON schemas inside. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from truss_model.grammar.schema import close_objects
from truss_model.request.tools import FunctionTool
from truss_model.tokenizer.tool_format import CALL_END, CALL_START, ToolFormat, ToolStyle

# One blank, or one newline and the indent: an uncertain model writes as many blanks as it may.
_WHITE_SPACE = r"( |\n[ \t]{0,20})"
_MAX_CALLS = 32
_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
_WITHOUT_MEMBERS = {"type", "properties", "required", "title", "description", "additionalProperties", "$schema"}
_TYPING_KEYWORDS = ("type", "$ref", "anyOf", "oneOf", "allOf", "enum", "const")


def json_rule(schema: Mapping[str, Any], *, strict: bool) -> str:
    """A JSON value that fits the schema. Not strict: keywords that cannot be enforced are left to the model."""
    options = {"whitespace_pattern": _WHITE_SPACE, "lenient": not strict}
    return "%json " + json.dumps({**close_objects(schema), "x-guidance": options})


def json_answer(rule: str, *, leading_space: bool) -> str:
    """`leading_space`: the tokenizer's first word begins with a space, which TokenReader removes."""
    return f"start: {_space(leading_space)}{rule}\n"


def calls_answer(
    tools: Sequence[FunctionTool],
    tool_format: ToolFormat,
    parallel: bool,
    *,
    leading_space: bool,
    instead: str | None = None,
) -> str:
    """Calls of these tools. `instead` is the alternative to them: a JSON rule, or "text" (also before them)."""
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
    if instead is None and tool_format.style is ToolStyle.HERMES:
        # A model that is done with its calls often goes on with text: a mask that leaves it only another call, once it
        # has written the newline, makes the end unlikely. RowDecoder ends the answer at such text.
        return "\n".join(["start: calls BEHIND?", r"BEHIND: /\n[^<](?s:.*)/", *rules])
    if instead is None:
        return "\n".join(["start: calls", *rules])
    if instead != "text":
        return "\n".join([f"start: calls | {_space(leading_space)}json", f"json: {instead}", *rules])
    if tool_format.style is ToolStyle.HERMES:
        text = rf"TEXT: /(?s:.+)/ & ~/(?s:.*){CALL_START}(?s:.*)/"
        return "\n".join(["start: TEXT | calls |", text, *rules])
    return "\n".join(["start: TEXT? calls?", "TEXT: /(?s:.+)/", *rules])


def _hermes_open(*, after_text: bool, leading_space: bool) -> str:
    """The tag is text like the text before it: one lexeme, which ends with the first tag."""
    if after_text:
        return f"open[lazy]: /(?s:.*){CALL_START}/"
    return f'open: {_space(leading_space)}"{CALL_START}"'


def _call(tool: FunctionTool, tool_format: ToolFormat) -> str:
    """With the spaces of json.dumps, on which the families were trained."""
    schema = arguments_schema(tool)
    arguments = '"{}"' if schema is _NO_PARAMETERS else json_rule(schema, strict=tool.strict)
    head = f'{{\\"name\\": \\"{tool.name}\\", \\"arguments\\": '
    match tool_format.style:
        case ToolStyle.MISTRAL_LIST:
            return f'"{head}" {arguments} "}}"'
        case ToolStyle.MISTRAL_ARGS:
            return f'<[{tool_format.calls_id}]> "{tool.name}" <[{tool_format.args_id}]> {arguments}'
        case ToolStyle.HERMES:
            return f'"\\n{head}" {arguments} "}}\\n{CALL_END}"'


def arguments_schema(tool: FunctionTool) -> Mapping[str, Any]:
    """Arguments are an object even if the schema does not say so, and `{}` for a function without parameters."""
    parameters = tool.parameters or {}
    members = any(parameters.get(key) for key in ("properties", "required", "additionalProperties"))
    if not members and not parameters.keys() - _WITHOUT_MEMBERS and parameters.get("type") in (None, "object"):
        return _NO_PARAMETERS
    return parameters if any(key in parameters for key in _TYPING_KEYWORDS) else {**parameters, "type": "object"}


def _space(allowed: bool) -> str:
    return '" "? ' if allowed else ""

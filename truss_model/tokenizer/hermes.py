"""Tools for models whose chat template has none: described, called and answered in text, as Hermes does. Pure."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from truss_model.request.messages import Message, PastCall
from truss_model.request.tools import FunctionTool
from truss_model.tokenizer.tool_format import CALL_END, CALL_START

_INSTRUCTIONS = """\
You can call these functions, given one a line as JSON:
<tools>
{tools}
</tools>
To call one, answer with its name and its arguments as JSON, like this:
<tool_call>
{{"name": "function_name", "arguments": {{"argument": "value"}}}}
</tool_call>
You may call several, one after the other. The results then come in <tool_response> tags."""


def function_object(tool: FunctionTool) -> dict[str, Any]:
    """The tool in OpenAI's shape, which chat templates print as it is."""
    parameters: Mapping[str, Any] = tool.parameters or {"type": "object", "properties": {}}
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function}


def tools_text(tools: Sequence[FunctionTool]) -> str:
    lines = (json.dumps(function_object(tool), ensure_ascii=False) for tool in tools)
    return _INSTRUCTIONS.format(tools="\n".join(lines))


def call_text(call: PastCall) -> str:
    """A call as the model wrote it: its arguments are printed unchanged, valid JSON or not."""
    name = json.dumps(call.name, ensure_ascii=False)
    return f'{CALL_START}\n{{"name": {name}, "arguments": {call.arguments or "{}"}}}\n{CALL_END}'


def fold(turns: Sequence[Message], tools: Sequence[FunctionTool]) -> list[dict[str, str]]:
    """The same chat in turns of system, user and assistant with text only; tools go into the first system turn."""
    messages: list[dict[str, str]] = []
    for turn in turns:
        text = "\n".join(turn.parts)
        if turn.role == "assistant":
            text = "\n".join([*([text] if text else []), *map(call_text, turn.calls)])
        if turn.role == "tool":
            result = f"<tool_response>\n{text}\n</tool_response>"
            if messages and messages[-1]["role"] == "user" and messages[-1]["content"].endswith("</tool_response>"):
                messages[-1]["content"] += "\n" + result
            else:
                messages.append({"role": "user", "content": result})
            continue
        messages.append({"role": turn.role, "content": text} | ({"name": turn.name} if turn.name else {}))
    if tools:
        if not messages or messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": ""})
        messages[0]["content"] = "\n\n".join(filter(None, (messages[0]["content"], tools_text(tools))))
    return messages

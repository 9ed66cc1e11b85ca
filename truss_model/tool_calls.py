"""Pure machines: the text a model generates -> content and tool calls, as they are made. Knows no ids but its own."""

from enum import StrEnum


class ToolFormat(StrEnum):
    """How a model family writes its calls."""

    MISTRAL_LIST = "mistral_list"  # v2 to v7: [TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]
    MISTRAL_ARGS = "mistral_args"  # v11 and up: [TOOL_CALLS]name[ARGS]{...}[TOOL_CALLS]...
    HERMES = "hermes"  # <tool_call>{"name": ..., "arguments": {...}}</tool_call>

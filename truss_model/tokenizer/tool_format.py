"""How model families write tool calls: the styles, and their marks."""

from dataclasses import dataclass
from enum import StrEnum

CALL_START = "<tool_call>"
CALL_END = "</tool_call>"


class ToolStyle(StrEnum):
    """How a model family writes its calls."""

    MISTRAL_LIST = "mistral_list"  # v2 to v7: [TOOL_CALLS] [{"name": ..., "arguments": {...}}, ...]
    MISTRAL_ARGS = "mistral_args"  # v11 and up: [TOOL_CALLS]name[ARGS]{...}[TOOL_CALLS]...
    HERMES = "hermes"  # <tool_call>{"name": ..., "arguments": {...}}</tool_call>


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """The style, and the ids of its control tokens (only Mistral's have them)."""

    style: ToolStyle
    calls_id: int | None = None  # [TOOL_CALLS]
    args_id: int | None = None  # [ARGS]
    call_id_id: int | None = None  # [CALL_ID], v11's, between the name and [ARGS]

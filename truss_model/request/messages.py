"""OpenAI's `messages` -> a checked list of turns. Knows the shapes and OpenAI's rules, but no model's prompt format."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from truss_model.request.tools import check_function_name
from truss_model.request.validators import (
    check_array,
    check_choice,
    check_known,
    check_object,
    check_string,
    missing,
    optional_boolean,
    optional_string,
    required,
    required_string,
    wrong_type,
    wrong_value,
)

Role = Literal["system", "user", "assistant", "tool"]

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_COMMON = frozenset({"role", "content", "name"})
# annotations and reasoning come back from clients that append an answer as they received it
_FIELDS = {
    "assistant": _COMMON
    | {"refusal", "tool_calls", "function_call", "audio", "prefix", "annotations", "reasoning", "reasoning_content"},
    "tool": _COMMON | {"tool_call_id"},
}


@dataclass(frozen=True, slots=True)
class PastCall:
    """A tool call of an earlier answer; `arguments` is the text the model wrote, not always valid JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `parts` are the texts of its content, without empty ones. A tool result's `name` is its function's.

    prefix: the last turn, an assistant's, is the beginning of the answer.
    """

    role: Role
    parts: tuple[str, ...] = ()
    name: str | None = None
    calls: tuple[PastCall, ...] = ()
    call_id: str | None = None
    prefix: bool = False


def parse_messages(
    raw: object, *, continue_final_message: bool = False, continues_last_answer: bool = False
) -> list[Message]:
    """Check every field; raises RequestError with `param` such as `messages[1].content[0]`.

    continues_last_answer: whether the model continues a last assistant turn even if the caller does not ask for it.
    """
    items = check_array(raw, "messages", "objects", shortest=1)
    messages = [_message(item, f"messages[{index}]", index) for index, item in enumerate(items)]
    _link_results(messages)
    for index, message in enumerate(messages[:-1]):
        if message.prefix:
            raise wrong_value(f"messages[{index}].prefix", "only the last message can be a prefix of the answer")
    if continue_final_message:
        if messages[-1].role != "assistant":
            raise wrong_value("continue_final_message", "the last message is not an assistant's")
        messages[-1] = replace(messages[-1], prefix=True)
    if continues_last_answer:
        messages = _continue_last_answer(messages)
    if messages[-1].prefix and messages[-1].calls:
        path = f"messages[{len(messages) - 1}].tool_calls"
        raise wrong_value(path, "an answer cannot be continued after its tool calls")
    return messages


def _continue_last_answer(messages: list[Message]) -> list[Message]:
    """The same chat, ending in a prefix if its last answer has text; empty turns behind that are left out."""
    end = len(messages)
    while end and messages[end - 1].role == "assistant" and not messages[end - 1].parts and not messages[end - 1].calls:
        end -= 1
    if end == 0 or messages[end - 1].role != "assistant" or messages[end - 1].calls:
        return messages
    return [*messages[: end - 1], replace(messages[end - 1], prefix=True)]


def _message(item: object, path: str, index: int) -> Message:
    fields = check_object(item, path)
    role = check_choice(required(fields, "role", path), f"{path}.role", list(_ROLES))
    check_known(fields, _FIELDS.get(role, _COMMON), path)
    name = optional_string(fields, "name", path)
    if role == "assistant":
        return _assistant(fields, path, index, name)
    parts = _parts(fields, path, may_be_null=_ROLES[role] == "tool")
    if role == "tool":
        return Message("tool", parts, name, call_id=required_string(fields, "tool_call_id", path))
    if role == "function":
        return Message("tool", parts, required_string(fields, "name", path))
    return Message(_ROLES[role], parts, name)


def _assistant(fields: Mapping[str, Any], path: str, index: int, name: str | None) -> Message:
    if fields.get("audio") is not None:
        raise wrong_value(f"{path}.audio", "this model takes text only")
    prefix = optional_boolean(fields, "prefix", path)
    parts = _parts(fields, path, may_be_null=True)
    refusal = optional_string(fields, "refusal", path)
    calls = _calls(fields, path, index)
    return Message("assistant", (*parts, refusal) if refusal else parts, name, calls, prefix=prefix)


def _calls(fields: Mapping[str, Any], path: str, index: int) -> tuple[PastCall, ...]:
    calls: list[PastCall] = []
    if fields.get("tool_calls") is not None:
        for number, item in enumerate(check_array(fields["tool_calls"], f"{path}.tool_calls", "objects")):
            where = f"{path}.tool_calls[{number}]"
            call = check_object(item, where)
            check_choice(call.get("type", "function"), f"{where}.type", ["function"])
            calls.append(_call(call.get("function"), f"{where}.function", required_string(call, "id", where)))
    if fields.get("function_call") is not None:
        calls.append(_call(fields["function_call"], f"{path}.function_call", f"function_call_{index}"))
    return tuple(calls)


def _call(raw: object, path: str, call_id: str) -> PastCall:
    function = check_object(raw, path)
    name = check_function_name(required(function, "name", path), f"{path}.name")
    return PastCall(call_id, name, required_string(function, "arguments", path))


def _parts(fields: Mapping[str, Any], path: str, *, may_be_null: bool) -> tuple[str, ...]:
    path = f"{path}.content"
    content = fields.get("content")
    if content is None and may_be_null:
        return ()
    if content is None and "content" not in fields:
        raise missing(path)
    if isinstance(content, str):
        return (check_string(content, path),) if content else ()
    if not isinstance(content, list | tuple):
        raise wrong_type(path, "one of a string or array of objects", content)
    texts = [_part(part, f"{path}[{number}]") for number, part in enumerate(content)]
    return tuple(text for text in texts if text)


def _part(part: object, path: str) -> str:
    if isinstance(part, str):
        return check_string(part, path)
    fields = check_object(part, path)
    kind = required_string(fields, "type", path)
    if kind not in ("text", "refusal"):
        why = f"this model takes text only, no content of the type '{kind[:64]}'"
        raise wrong_value(path, why, "unsupported_value")
    return required_string(fields, kind, path)


def _link_results(messages: list[Message]) -> None:
    """Give each tool result its call's id and function name. Every call must have one result, every result its call."""
    open_calls: dict[str, str] = {}
    caller = 0
    for index, message in enumerate(messages):
        if message.role == "tool":
            by_name = next((key for key, name in open_calls.items() if name == message.name), None)
            call_id = message.call_id if message.call_id is not None else by_name
            if call_id is None or call_id not in open_calls:
                raise wrong_value(
                    f"messages[{index}].{'name' if message.call_id is None else 'tool_call_id'}",
                    "a tool message must answer a tool call of the assistant message before it, once",
                )
            messages[index] = replace(message, call_id=call_id, name=open_calls.pop(call_id))
            continue
        if open_calls:
            break
        caller = index
        open_calls = {call.id: call.name for call in message.calls}
        if len(open_calls) < len(message.calls):
            raise wrong_value(f"messages[{index}].tool_calls", "two calls have the same id")
    if open_calls:
        unanswered = ", ".join(f"'{key[:64]}'" for key in open_calls)
        raise wrong_value(f"messages[{caller}].tool_calls", f"these calls have no tool message: {unanswered}")

"""OpenAI's `messages` -> a checked list of turns. Knows the shapes and OpenAI's refusals, no model's prompt format."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn

from truss_model.errors import RequestError
from truss_model.tools import NAME_RULE, is_function_name
from truss_model.unicode import check_unicode

Role = Literal["system", "user", "assistant", "tool"]

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
_FIELDS = {
    "system": {"role", "content", "name"},
    "developer": {"role", "content", "name"},
    "user": {"role", "content", "name"},
    # annotations and reasoning come back from clients that append an answer as they got it
    "assistant": {
        *("role", "content", "name", "refusal", "tool_calls", "function_call", "audio", "prefix"),
        *("annotations", "reasoning", "reasoning_content"),
    },
    "tool": {"role", "content", "name", "tool_call_id"},
    "function": {"role", "content", "name"},
}


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of an earlier answer; `arguments` is the text the model wrote, not always valid JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn. `parts` are the texts of its content, none of them empty. A tool result's `name` is its function's."""

    role: Role
    parts: tuple[str, ...] = ()
    name: str | None = None
    calls: tuple[Call, ...] = ()
    call_id: str | None = None
    prefix: bool = False


def parse_messages(raw: object, *, continue_final_message: bool = False) -> list[Message]:
    """Check every field; raises RequestError with `param` such as `messages[1].content[0]`."""
    if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
        _wrong_type("messages", "an array of objects", raw)
    if not raw:
        raise RequestError(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            param="messages",
            code="empty_array",
        )
    messages: list[Message] = []
    for index, item in enumerate(raw):
        messages.append(_message(item, f"messages[{index}]", index))
    _link_results(messages)
    for index, message in enumerate(messages[:-1]):
        if message.prefix:
            _refuse(f"messages[{index}].prefix", "only the last message can be a prefix of the answer")
    if continue_final_message:
        if messages[-1].role != "assistant":
            _refuse("continue_final_message", "the last message is not an assistant's")
        messages[-1] = replace(messages[-1], prefix=True)
    if messages[-1].prefix and messages[-1].calls:
        _refuse(f"messages[{len(messages) - 1}].tool_calls", "an answer cannot go on after its tool calls")
    return messages


def _message(item: object, path: str, index: int) -> Message:
    if not isinstance(item, Mapping):
        _wrong_type(path, "an object", item)
    role = _string(item, "role", path)
    if role not in _ROLES:
        expected = ", ".join(f"'{name}'" for name in _ROLES)
        raise RequestError(
            f"Invalid value: '{role[:64]}'. Supported values are: {expected}.",
            param=f"{path}.role",
            code="invalid_value",
        )
    for key in item:
        if key not in _FIELDS[role]:
            raise RequestError(f"Unknown parameter: '{path}.{key}'.", param=f"{path}.{key}", code="unknown_parameter")
    name = _optional_string(item, "name", path)
    if role == "assistant":
        return _assistant(item, path, index, name)
    parts = _parts(item, path, may_be_null=_ROLES[role] == "tool")
    if role == "tool":
        return Message("tool", parts, name, call_id=_string(item, "tool_call_id", path))
    if role == "function":
        return Message("tool", parts, _string(item, "name", path))
    return Message(_ROLES[role], parts, name)


def _assistant(item: Mapping[str, Any], path: str, index: int, name: str | None) -> Message:
    if item.get("audio") is not None:
        _refuse(f"{path}.audio", "this model takes text only")
    prefix = item.get("prefix")
    if prefix is not None and not isinstance(prefix, bool):
        _wrong_type(f"{path}.prefix", "a boolean", prefix)
    parts = _parts(item, path, may_be_null=True)
    refusal = _optional_string(item, "refusal", path)
    calls = _calls(item, path, index)
    return Message("assistant", (*parts, refusal) if refusal else parts, name, calls, prefix=bool(prefix))


def _calls(item: Mapping[str, Any], path: str, index: int) -> tuple[Call, ...]:
    calls: list[Call] = []
    raw = item.get("tool_calls")
    if raw is not None:
        if not isinstance(raw, Sequence) or isinstance(raw, str | bytes):
            _wrong_type(f"{path}.tool_calls", "an array of objects", raw)
        for number, call in enumerate(raw):
            where = f"{path}.tool_calls[{number}]"
            if not isinstance(call, Mapping):
                _wrong_type(where, "an object", call)
            if call.get("type", "function") != "function":
                _refuse(f"{where}.type", "only 'function' is supported")
            calls.append(_call(call.get("function"), f"{where}.function", _string(call, "id", where)))
    if item.get("function_call") is not None:
        calls.append(_call(item["function_call"], f"{path}.function_call", f"function_call_{index}"))
    return tuple(calls)


def _call(raw: object, path: str, call_id: str) -> Call:
    if not isinstance(raw, Mapping):
        _wrong_type(path, "an object", raw)
    name = _string(raw, "name", path)
    if not is_function_name(name):
        _refuse(f"{path}.name", NAME_RULE)
    return Call(call_id, name, _string(raw, "arguments", path))


def _parts(item: Mapping[str, Any], path: str, *, may_be_null: bool) -> tuple[str, ...]:
    path = f"{path}.content"
    content = item.get("content")
    if content is None and may_be_null:
        return ()
    if content is None and "content" not in item:
        raise RequestError(f"Missing required parameter: '{path}'.", param=path, code="missing_required_parameter")
    if isinstance(content, str):
        return (check_unicode(content, path),) if content else ()
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        _wrong_type(path, "one of a string or array of objects", content)
    texts = [_part(part, f"{path}[{number}]") for number, part in enumerate(content)]
    return tuple(text for text in texts if text)


def _part(part: object, path: str) -> str:
    if isinstance(part, str):
        return check_unicode(part, path)
    if not isinstance(part, Mapping):
        _wrong_type(path, "an object", part)
    kind = _string(part, "type", path)
    if kind in ("text", "refusal"):
        return _string(part, kind, path)
    raise RequestError(
        f"Invalid content part '{kind[:64]}' in '{path}': this model takes text only. "
        "Supported values are: 'text' and 'refusal'.",
        param=path,
        code="unsupported_value",
    )


def _link_results(messages: list[Message]) -> None:
    """Give each tool result its call's id and function name; every call has one result, and no result lacks a call."""
    open_calls: dict[str, str] = {}
    caller = 0
    for index, message in enumerate(messages):
        if message.role == "tool":
            by_name = next((key for key, name in open_calls.items() if name == message.name), None)
            call_id = message.call_id if message.call_id is not None else by_name
            if call_id is None or call_id not in open_calls:
                _refuse(
                    f"messages[{index}].{'name' if message.call_id is None else 'tool_call_id'}",
                    "a tool's message must answer a tool call of the assistant's message before it, once",
                )
            messages[index] = replace(message, call_id=call_id, name=open_calls.pop(call_id))
            continue
        if open_calls:
            break
        caller = index
        open_calls = {call.id: call.name for call in message.calls}
        if len(open_calls) < len(message.calls):
            _refuse(f"messages[{index}].tool_calls", "two calls have the same id")
    if open_calls:
        missing = ", ".join(f"'{key[:64]}'" for key in open_calls)
        _refuse(f"messages[{caller}].tool_calls", f"no tool message answers: {missing}")


def _string(item: Mapping[str, Any], key: str, path: str) -> str:
    if key not in item:
        raise RequestError(
            f"Missing required parameter: '{path}.{key}'.", param=f"{path}.{key}", code="missing_required_parameter"
        )
    value = item[key]
    if not isinstance(value, str):
        _wrong_type(f"{path}.{key}", "a string", value)
    return check_unicode(value, f"{path}.{key}")


def _optional_string(item: Mapping[str, Any], key: str, path: str) -> str | None:
    return None if item.get(key) is None else _string(item, key, path)


def _refuse(path: str, why: str) -> NoReturn:
    raise RequestError(f"Invalid value for '{path}': {why}.", param=path, code="invalid_value")


def _wrong_type(path: str, expected: str, value: object) -> NoReturn:
    kind = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(
        type(value), "a number" if isinstance(value, int | float) else type(value).__name__
    )
    raise RequestError(
        f"Invalid type for '{path}': expected {expected}, but got {kind} instead.", param=path, code="invalid_type"
    )

"""The messages of a chat request: checked as OpenAI checks them, converted to the roles of the predict contract."""

from collections.abc import Mapping
from typing import Any

from bridge_adapter.errors import InvalidRequest, unsupported_parameter
from bridge_adapter.openai_api import validators as fields
from bridge_adapter.openai_api.validators import Check

ROLES = ("system", "assistant", "user", "function", "tool", "developer")
_REFUSED_PARTS = ("image_url", "input_audio", "file")
_NAME = fields.text(64, r"[^\s<|\\/>]+")
_FUNCTION_NAME = fields.text(64, r"[a-zA-Z0-9_-]+")
_role = fields.one_of(*ROLES)


def check_messages(value: Any, param: str = "messages") -> list[dict[str, Any]]:
    messages = [_check_message(item, f"{param}[{i}]") for i, item in enumerate(fields.array(value, param))]
    _check_tool_replies(messages, param)
    return messages


def normalise(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """developer -> system; the deprecated function_call and role function -> tool calls and role tool."""
    normal: list[dict[str, Any]] = []
    call_id = ""
    for i, message in enumerate(messages):
        role = message["role"]
        if role == "developer":
            message = {**message, "role": "system"}
        elif role == "assistant" and "function_call" in message:
            call_id = f"fn{i:07d}"  # nine letters or digits, the only form that Mistral's encoding accepts
            call = {"id": call_id, "type": "function", "function": message["function_call"]}
            message = {key: item for key, item in message.items() if key != "function_call"} | {"tool_calls": [call]}
        elif role == "function":
            content = message.get("content", "")
            message = {"role": "tool", "tool_call_id": call_id, "name": message["name"], "content": content}
        normal.append(message)
    return normal


def _check_message(value: Any, param: str) -> dict[str, Any]:
    role = fields.mapping(value, param).get("role")
    if role is None:
        raise fields.missing(f"{param}.role")
    known = _FIELDS[_role(role, f"{param}.role")]
    checked: dict[str, Any] = {}
    for name, item in value.items():
        check = known.get(name)
        if check is None:
            fields.drop_unknown(item, f"{param}.{name}")
        elif item is not None and check is not fields.left_out:
            checked[name] = check(item, f"{param}.{name}")
    if checked.get("tool_calls") == []:  # as answers of some servers have it
        del checked["tool_calls"]
    if role in ("system", "developer", "user") and "content" not in checked:
        raise _no_content(value, param)
    for name in _REQUIRED.get(role, ()):
        if name not in checked:
            raise fields.missing(f"{param}.{name}")
    return checked


def _no_content(value: Mapping[str, Any], param: str) -> InvalidRequest:
    path = f"{param}.content"
    if "content" in value:
        return fields.wrong_type(path, "one of a string or array of objects", None)
    return fields.missing(path)


def _content(*kinds: str) -> Check:
    def check(value: Any, param: str) -> str | list[dict[str, Any]]:
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise fields.wrong_type(param, "one of a string or array of objects", value)
        return [_part(item, f"{param}[{i}]", kinds) for i, item in enumerate(fields.array(value, param))]

    return check


def _part(value: Any, param: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    kind = fields.mapping(value, param).get("type")
    if kind is None:
        raise fields.missing(f"{param}.type")
    if kind in _REFUSED_PARTS:
        raise InvalidRequest(
            f"Invalid content type. '{kind}' content is not supported by this model, which reads text only.",
            param=param,
            code="unsupported_value",
        )
    fields.one_of(*kinds)(kind, f"{param}.type")
    return fields.shape(value, param, {"type": fields.string, kind: fields.string}, (kind,))


def _tool_calls(value: Any, param: str) -> list[dict[str, Any]]:
    calls = fields.array(value, param, shortest=0, longest=128)
    return [_tool_call(item, f"{param}[{i}]") for i, item in enumerate(calls)]


def _tool_call(value: Any, param: str) -> dict[str, Any]:
    if fields.mapping(value, param).get("type", "function") == "custom":
        raise fields.unsupported_value(f"{param}.type", "custom", ("function",))
    known: dict[str, Check] = {
        "id": fields.text(256),
        "type": fields.one_of("function"),
        "function": _called,
        "index": fields.integer(0),  # left in by clients that collect a stream's deltas
    }
    call = fields.shape(value, param, known, ("id", "function"))
    return {"id": call["id"], "type": "function", "function": call["function"]}


def _called(value: Any, param: str) -> dict[str, Any]:
    known: dict[str, Check] = {
        "name": _FUNCTION_NAME,
        "arguments": fields.string,
        "parsed_arguments": fields.left_out,  # by the helpers of OpenAI's SDKs
    }
    return fields.shape(value, param, known, ("name", "arguments"))


def _refuse(value: Any, param: str) -> Any:
    raise unsupported_parameter(param)


def _check_tool_replies(messages: list[dict[str, Any]], param: str) -> None:
    """Each tool message answers a call of the assistant turn before it, and each such call is answered."""
    open_calls: list[str] = []
    function_called = False
    for i, message in enumerate(messages):
        role = message["role"]
        if role == "tool":
            if message["tool_call_id"] not in open_calls:
                raise InvalidRequest(
                    f"Invalid parameter: '{param}[{i}]' with role 'tool' must be a response to a preceding message "
                    "with 'tool_calls'.",
                    param=f"{param}[{i}].tool_call_id",
                )
            open_calls.remove(message["tool_call_id"])
            continue
        if role == "function" and not function_called:
            raise InvalidRequest(
                f"Invalid parameter: '{param}[{i}]' with role 'function' must be a response to a preceding message "
                "with 'function_call'.",
                param=f"{param}[{i}].role",
            )
        if open_calls:
            raise _unanswered(open_calls, f"{param}[{i}].role")
        function_called = "function_call" in message
        open_calls = [call["id"] for call in message.get("tool_calls", ())]
    if open_calls:
        raise _unanswered(open_calls, f"{param}[{len(messages) - 1}].tool_calls")


def _unanswered(calls: list[str], param: str) -> InvalidRequest:
    return InvalidRequest(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. "
        f"The following tool_call_ids did not have response messages: {', '.join(calls)[:300]}",
        param=param,
    )


_PLAIN: dict[str, Check] = {"role": fields.string, "content": _content("text"), "name": _NAME}
_FIELDS: dict[str, dict[str, Check]] = {
    "system": _PLAIN,
    "developer": _PLAIN,
    "user": _PLAIN,
    "assistant": {
        "role": fields.string,
        "content": _content("text", "refusal"),
        "name": _NAME,
        "refusal": fields.string,
        "tool_calls": _tool_calls,
        "function_call": _called,
        "prefix": fields.boolean,
        "annotations": fields.left_out,
        "parsed": fields.left_out,
        "reasoning": fields.left_out,
        "reasoning_content": fields.left_out,
        "audio": _refuse,
    },
    "tool": {**_PLAIN, "tool_call_id": fields.text(256)},
    "function": {**_PLAIN, "name": _FUNCTION_NAME},
}
_REQUIRED = {"tool": ("tool_call_id",), "function": ("name",)}

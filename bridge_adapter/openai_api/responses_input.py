"""The `input` of a /responses request -> chat messages. Pure; items of other modalities and stored ones are refused."""

from typing import Any

from bridge_adapter.errors import InvalidRequest
from bridge_adapter.openai_api import validators as fields
from bridge_adapter.openai_api.tools import FUNCTION_NAME
from bridge_adapter.openai_api.validators import Check

_ROLES = ("user", "assistant", "system", "developer")
_TEXT_PARTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
_REFUSED_PARTS = ("input_image", "input_file", "input_audio")


def _any(value: Any, param: str) -> Any:
    return value


_MESSAGE: dict[str, Check] = {
    "type": fields.string,
    "id": fields.string,
    "role": fields.one_of(*_ROLES),
    "content": _any,
    "status": fields.string,
    "phase": fields.string,
}
_CALL: dict[str, Check] = {
    "type": fields.string,
    "id": fields.string,
    "call_id": fields.text(256),
    "name": FUNCTION_NAME,
    "arguments": fields.string,
    "parsed_arguments": fields.left_out,
    "async": fields.left_out,
    "async_": fields.left_out,  # what openai-python's model_dump() makes of it
    "caller": fields.left_out,
    "namespace": fields.left_out,
    "status": fields.string,
}
_OUTPUT: dict[str, Check] = {
    "type": fields.string,
    "id": fields.string,
    "call_id": fields.text(256),
    "output": _any,
    "status": fields.string,
}
_PART: dict[str, Check] = {
    "type": fields.string,
    "text": fields.string,
    "refusal": fields.string,
    "annotations": fields.left_out,
    "logprobs": fields.left_out,
    "parsed": fields.left_out,
}


def check_input(value: Any, param: str) -> list[dict[str, Any]]:
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise fields.wrong_type(param, "one of a string or array of objects", value)
    messages: list[dict[str, Any]] = []
    for i, item in enumerate(fields.array(value, param)):
        _add(messages, item, f"{param}[{i}]")
    if not messages:
        raise InvalidRequest(f"Invalid '{param}': there is no message in it.", param=param)
    _check_outputs(messages, param)
    return messages


def _check_outputs(messages: list[dict[str, Any]], param: str) -> None:
    """Outputs follow their calls, and each call has one; in OpenAI's words for items."""
    open_calls: list[str] = []
    for message in [*messages, {"role": "end"}]:
        if message["role"] != "tool":
            if open_calls:
                raise InvalidRequest(f"No tool output found for function call {open_calls[0]}.", param=param)
            open_calls = [call["id"] for call in message.get("tool_calls", ())]
        elif message["tool_call_id"] in open_calls:
            open_calls.remove(message["tool_call_id"])
        else:
            raise InvalidRequest(
                f"No tool call found for function call output with call_id {message['tool_call_id']}.", param=param
            )


def _add(messages: list[dict[str, Any]], item: Any, param: str) -> None:
    kind = fields.mapping(item, param).get("type") or "message"
    match kind:
        case "message":
            messages.append(_message(item, param))
        case "function_call":
            _add_call(messages, fields.shape(item, param, _CALL, ("call_id", "name", "arguments")))
        case "function_call_output":
            checked = fields.shape(item, param, _OUTPUT, ("call_id", "output"))
            content = _content(checked["output"], f"{param}.output")
            messages.append({"role": "tool", "tool_call_id": checked["call_id"], "content": content})
        case "reasoning":
            pass  # what another model thought; no message of the conversation
        case _:
            supported = ("message", "function_call", "function_call_output", "reasoning")
            raise fields.unsupported_value(f"{param}.type", kind, supported)


def _message(item: Any, param: str) -> dict[str, Any]:
    checked = fields.shape(item, param, _MESSAGE, ("role", "content"))
    role = "system" if checked["role"] == "developer" else checked["role"]
    return {"role": role, "content": _content(checked["content"], f"{param}.content")}


def _add_call(messages: list[dict[str, Any]], call: dict[str, Any]) -> None:
    """Calls that follow each other, or the text before them, are one turn."""
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant"})
    function = {"name": call["name"], "arguments": call["arguments"]}
    messages[-1].setdefault("tool_calls", []).append({"id": call["call_id"], "type": "function", "function": function})


def _content(value: Any, param: str) -> str | list[dict[str, Any]]:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise fields.wrong_type(param, "one of a string or array of objects", value)
    return [_part(item, f"{param}[{i}]") for i, item in enumerate(value)]


def _part(item: Any, param: str) -> dict[str, Any]:
    kind = fields.mapping(item, param).get("type")
    if kind is None:
        raise fields.missing(f"{param}.type")
    if kind in _REFUSED_PARTS:
        raise InvalidRequest(
            f"Invalid content type. '{kind}' content is not supported by this model, which reads text only.",
            param=param,
            code="unsupported_value",
        )
    name = _TEXT_PARTS[fields.one_of(*_TEXT_PARTS)(kind, f"{param}.type")]
    return {"type": name, name: fields.shape(item, param, _PART, (name,))[name]}

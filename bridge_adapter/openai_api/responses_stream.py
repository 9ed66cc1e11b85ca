"""Events of the contract -> the named events of a streamed /responses answer. Pure."""

import secrets
from collections.abc import Iterable
from typing import Any, Protocol

import msgspec

from bridge_adapter.contract import Delta, Done, Event, Finish, Start, TokenLogprob, ToolCall, Usage
from bridge_adapter.errors import APIError
from bridge_adapter.openai_api.answers import Identity
from bridge_adapter.openai_api.stream_extras import padding

_json = msgspec.json.encode


class ResponseBuilder(Protocol):
    """Builds the response object of the first and the last events."""

    def response(
        self, identity: Identity, output: list[dict[str, Any]], reason: str | None, counts: Usage | None
    ) -> dict[str, Any]: ...


class _Message:
    """A text item while it is written."""

    def __init__(self) -> None:
        self.id = f"msg_{secrets.token_hex(12)}"
        self.text: list[str] = []
        self.logprobs: list[dict[str, Any]] = []


class _Call:
    """A function call while it is written."""

    def __init__(self, event: ToolCall) -> None:
        self.id = f"fc_{secrets.token_hex(12)}"
        self.number = event.call
        self.call_id = event.id or ""
        self.name = event.name or ""
        self.arguments: list[str] = []


class ResponseEvents:
    """The stream of one answer. Items are sent one after the other: the first piece of one ends the one before."""

    def __init__(self, builder: ResponseBuilder, identity: Identity, *, obfuscated: bool) -> None:
        self._obfuscated = obfuscated
        self._builder = builder
        self._identity = identity
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._open: _Message | _Call | None = None
        self._opened = False
        self._reason = "stop"

    def render(self, events: Iterable[Event]) -> bytes:
        pieces: list[bytes] = []
        for event in events:
            if not self._opened and not isinstance(event, Start):
                self._begin(pieces)
            match event:
                case Delta():
                    self._add_text(event, pieces)
                case ToolCall():
                    self._add_call(event, pieces)
                case Finish(reason=reason):
                    self._reason = reason
                    self._close("incomplete" if reason == "length" else "completed", pieces)
                case Done(usage=counts):
                    self._end(counts, pieces)
        return b"".join(pieces)

    def fail(self, error: APIError) -> bytes:
        pieces: list[bytes] = []
        if not self._opened:
            self._begin(pieces)
        code = "rate_limit_exceeded" if error.status == 429 else "server_error"
        response = self._builder.response(self._identity, self._output, None, None)
        response |= {"status": "failed", "error": {"code": code, "message": error.message}}
        pieces.append(self._event("response.failed", response=response))
        return b"".join(pieces)

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._number, **fields}
        if self._obfuscated and kind.endswith(".delta"):
            data["obfuscation"] = padding(len(fields["delta"]))
        self._number += 1
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _json(data))

    def _begin(self, pieces: list[bytes]) -> None:
        self._opened = True
        response = self._builder.response(self._identity, [], None, None)
        pieces.append(self._event("response.created", response=response))
        pieces.append(self._event("response.in_progress", response=response))

    def _end(self, counts: Usage | None, pieces: list[bytes]) -> None:
        if not self._output:
            self._open_message(pieces)
            self._close("completed", pieces)
        kind = "response.incomplete" if self._reason == "length" else "response.completed"
        response = self._builder.response(self._identity, self._output, self._reason, counts)
        pieces.append(self._event(kind, response=response))

    def _open_message(self, pieces: list[bytes]) -> _Message:
        message = self._open = _Message()
        index = len(self._output)
        item = message_item(message.id, None, [], "in_progress")
        pieces.append(self._event("response.output_item.added", output_index=index, item=item))
        position = {"item_id": message.id, "output_index": index, "content_index": 0}
        pieces.append(self._event("response.content_part.added", **position, part=text_part("", [])))
        return message

    def _add_text(self, event: Delta, pieces: list[bytes]) -> None:
        message = self._open
        if not isinstance(message, _Message):
            self._close("completed", pieces)
            message = self._open_message(pieces)
        logprobs = shown_logprobs(event.logprobs)
        message.text.append(event.text)
        message.logprobs += logprobs
        position = {"item_id": message.id, "output_index": len(self._output), "content_index": 0}
        pieces.append(self._event("response.output_text.delta", **position, delta=event.text, logprobs=logprobs))

    def _add_call(self, event: ToolCall, pieces: list[bytes]) -> None:
        call = self._open
        if not isinstance(call, _Call) or call.number != event.call:
            self._close("completed", pieces)
            call = self._open = _Call(event)
            item = function_call_item(call.id, call.call_id, call.name, "", "in_progress")
            pieces.append(self._event("response.output_item.added", output_index=len(self._output), item=item))
        if event.arguments:
            call.arguments.append(event.arguments)
            position = {"item_id": call.id, "output_index": len(self._output)}
            pieces.append(self._event("response.function_call_arguments.delta", **position, delta=event.arguments))

    def _close(self, status: str, pieces: list[bytes]) -> None:
        if isinstance(self._open, _Message):
            self._close_message(self._open, status, pieces)
        elif isinstance(self._open, _Call):
            self._close_call(self._open, status, pieces)
        self._open = None

    def _close_message(self, message: _Message, status: str, pieces: list[bytes]) -> None:
        index, text = len(self._output), "".join(message.text)
        position = {"item_id": message.id, "output_index": index, "content_index": 0}
        pieces.append(self._event("response.output_text.done", **position, text=text, logprobs=message.logprobs))
        part = text_part(text, message.logprobs)
        pieces.append(self._event("response.content_part.done", **position, part=part))
        item = message_item(message.id, text, message.logprobs, status)
        self._output.append(item)
        pieces.append(self._event("response.output_item.done", output_index=index, item=item))

    def _close_call(self, call: _Call, status: str, pieces: list[bytes]) -> None:
        index, arguments = len(self._output), "".join(call.arguments)
        position = {"item_id": call.id, "output_index": index, "name": call.name}
        pieces.append(self._event("response.function_call_arguments.done", **position, arguments=arguments))
        item = function_call_item(call.id, call.call_id, call.name, arguments, status)
        self._output.append(item)
        pieces.append(self._event("response.output_item.done", output_index=index, item=item))


def text_part(text: str, logprobs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def message_item(item_id: str, text: str | None, logprobs: list[dict[str, Any]], status: str) -> dict[str, Any]:
    """`text` None: an item that has just begun."""
    content = [] if text is None else [text_part(text, logprobs)]
    return {"id": item_id, "type": "message", "role": "assistant", "status": status, "content": content}


def function_call_item(item_id: str, call_id: str, name: str, arguments: str, status: str) -> dict[str, Any]:
    return {
        "id": item_id,
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def shown_logprobs(tokens: list[TokenLogprob] | None) -> list[dict[str, Any]]:
    return [
        {
            "token": token.token,
            "logprob": token.logprob,
            "bytes": token.bytes or [],
            "top_logprobs": [
                {"token": top.token, "logprob": top.logprob, "bytes": top.bytes or []} for top in token.top_logprobs
            ],
        }
        for token in tokens or ()
    ]

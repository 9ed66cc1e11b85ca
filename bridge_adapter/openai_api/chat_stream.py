"""Events -> chat.completion.chunk -> bytes of server-sent events. Pure; the role comes first, [DONE] last."""

from collections.abc import Iterable
from typing import Any

import orjson

from bridge_adapter.contract import Delta, Done, Event, Finish, Job, ToolCall
from bridge_adapter.errors import APIError
from bridge_adapter.openai_api.answers import Identity, finish_reason, logprobs, usage
from bridge_adapter.openai_api.sse import DONE, _json, failed
from bridge_adapter.openai_api.stream_extras import StreamExtras


class ChatChunks:
    """The chunks of one answer."""

    def __init__(self, job: Job, identity: Identity) -> None:
        self._job = job
        self._options = job.options
        head: dict[str, Any] = {
            "id": identity.id,
            "object": "chat.completion.chunk",
            "created": identity.created,
            "model": identity.model,
            "system_fingerprint": None,
        }
        if job.service_tier is not None:
            head["service_tier"] = job.service_tier
        self._head = b"data: " + _json(head)[:-1] + b',"choices":['
        self._end = b'],"usage":null}\n\n' if self._options.include_usage else b"]}\n\n"
        self._extra = StreamExtras(job.options)
        self._plain = self._extra.plain
        self._before_text = [self._head + b'{"index":%d,"delta":{"content":' % index for index in range(job.choices)]
        self._after_text = b'},"logprobs":null,"finish_reason":null}' + self._end
        self._opened: set[int] = set()
        self._calls_seen: set[tuple[int, int]] = set()

    def render(self, events: Iterable[Event]) -> bytes:
        pieces: list[bytes] = []
        for event in events:
            if isinstance(event, Delta | ToolCall | Finish) and event.index not in self._opened:
                self._open(event, pieces)
            if type(event) is Delta and self._plain and event.logprobs is None and event.extra is None:
                pieces += (self._before_text[event.index], orjson.dumps(event.text), self._after_text)
            else:
                self._render_event(event, pieces)
        return b"".join(pieces)

    def fail(self, error: APIError) -> bytes:
        return failed(error)

    def _render_event(self, event: Event, pieces: list[bytes]) -> None:
        self._extra.count(event)
        match event:
            case Delta():
                delta = {"content": event.text} if event.text or not event.extra else {}
                pieces.append(self._chunk(event.index, delta | (event.extra or {}), logprobs(event.logprobs)))
            case ToolCall():
                pieces.append(self._chunk(event.index, self._tool_delta(event)))
            case Finish(index=index, reason=reason):
                pieces.append(self._chunk(index, {}, None, finish_reason(reason, self._job)))
            case Done(usage=counts):
                if self._options.include_usage:
                    pieces.append(self._head + b'],"usage":' + _json(usage(counts)) + b"}\n\n")
                pieces.append(DONE)

    def _open(self, event: Delta | ToolCall | Finish, pieces: list[bytes]) -> None:
        """Not before the first piece of a choice: until then an error can still have its own HTTP status."""
        self._opened.add(event.index)
        content = None if isinstance(event, ToolCall) else ""
        pieces.append(self._chunk(event.index, {"role": "assistant", "content": content, "refusal": None}))

    def _tool_delta(self, event: ToolCall) -> dict[str, Any]:
        first = (event.index, event.call) not in self._calls_seen
        self._calls_seen.add((event.index, event.call))
        function = {"arguments": event.arguments}
        if first:
            function = {"name": event.name or "", "arguments": event.arguments}
        if self._job.legacy_functions:
            return {"function_call": function}
        call: dict[str, Any] = {"index": event.call, "function": function}
        if first:
            call = {"index": event.call, "id": event.id, "type": "function", "function": function}
        return {"tool_calls": [call]}

    def _chunk(self, index: int, delta: dict[str, Any], probs: Any = None, reason: str | None = None) -> bytes:
        choice = _json({"index": index, "delta": delta, "logprobs": probs, "finish_reason": reason})
        if self._plain:
            return self._head + choice + self._end
        return self._head + choice + b"]," + _json(self._extra.fields(len(choice)))[1:] + b"\n\n"

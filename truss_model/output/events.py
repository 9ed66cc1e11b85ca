"""What an answer consists of: events and their lines, the object of a plain answer, the body of an error. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from typing import Any

from truss_model.errors import TrussModelError
from truss_model.output.answer import AnswerFinish, TextDelta, ToolCallDelta

KEEP_ALIVE = "\n"

Entry = Mapping[str, Any]
"""One token's log-probability in OpenAI's shape: token, logprob, bytes, top_logprobs."""


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int

    def as_dict(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "cached_tokens": self.cached_tokens,
        }


@dataclass(slots=True)
class StartEvent:
    """The first event of an answer."""

    prompt_tokens: int
    cached_tokens: int
    model: str


@dataclass(slots=True)
class PromptEvent:
    """The prompt's log probabilities, an entry a token."""

    prompt_logprobs: Sequence[Entry]


@dataclass(slots=True)
class TextEvent:
    """Text of one row. `tokens`: the number of the row's tokens since its last event that had text or a call."""

    index: int
    text: str
    tokens: int
    logprobs: Sequence[Entry] | None = None


@dataclass(slots=True)
class ToolCallEvent:
    """A piece of call number `call`; `id` and `name` only in its first piece."""

    index: int
    call: int
    id: str | None
    name: str | None
    arguments: str
    tokens: int


@dataclass(slots=True)
class FinishEvent:
    index: int
    reason: AnswerFinish


@dataclass(slots=True)
class DoneEvent:
    """The last event of a complete answer."""

    usage: Usage


@dataclass(slots=True)
class ErrorEvent:
    """The last event of an answer that failed."""

    error: TrussModelError


AnswerEvent = StartEvent | PromptEvent | TextEvent | ToolCallEvent | FinishEvent | DoneEvent | ErrorEvent


def lines(events: Sequence[AnswerEvent]) -> str:
    """The wire's NDJSON of a batch of events: a keep-alive if there are none."""
    return "".join(map(_line, events)) or KEEP_ALIVE


def _line(event: AnswerEvent) -> str:
    if type(event) is TextEvent and event.logprobs is None:  # nearly every line
        text = encode_basestring(event.text)
        return f'{{"event":"delta","index":{event.index},"text":{text},"tokens":{event.tokens}}}\n'
    return json.dumps(_fields(event), ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"


def _fields(event: AnswerEvent) -> dict[str, Any]:
    match event:
        case TextEvent(index, text, tokens, logprobs):
            fields: dict[str, Any] = {"event": "delta", "index": index, "text": text, "tokens": tokens}
            return fields if logprobs is None else fields | {"logprobs": logprobs}
        case ToolCallEvent(index, call, call_id, name, arguments, tokens):
            named = {} if call_id is None else {"id": call_id, "name": name}
            return {
                "event": "tool_call",
                "index": index,
                "call": call,
                **named,
                "arguments": arguments,
                "tokens": tokens,
            }
        case FinishEvent(index, reason):
            return {"event": "finish", "index": index, "reason": reason}
        case StartEvent(prompt_tokens, cached_tokens, model):
            counts = {"prompt_tokens": prompt_tokens, "cached_tokens": cached_tokens}
            return {"event": "start", **counts, "model": model}
        case PromptEvent(entries):
            return {"event": "prompt", "prompt_logprobs": entries}
        case DoneEvent(usage):
            return {"event": "done", "usage": usage.as_dict()}
        case ErrorEvent(error):
            fields = {"event": "error", "status": error.status, "type": error.type, "message": error.message}
            return fields | {"param": error.param, "code": error.code}


def error_body(error: TrussModelError) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


class RowAnswer:
    """One row's answer, collected from its deltas."""

    def __init__(self, index: int, *, logprobs: bool) -> None:
        self.index = index
        self.finish_reason: AnswerFinish | None = None
        self._text: list[str] = []
        self._calls: dict[int, tuple[ToolCallDelta, list[str]]] = {}
        self._logprobs: list[Entry] | None = [] if logprobs else None

    def add_text(self, delta: TextDelta, logprobs: Sequence[Entry] | None) -> None:
        self._text.append(delta.text)
        if self._logprobs is not None and logprobs is not None:
            self._logprobs += logprobs

    def add_tool_call(self, delta: ToolCallDelta) -> None:
        _, arguments = self._calls.setdefault(delta.call, (delta, []))
        arguments.append(delta.arguments)

    def as_dict(self) -> dict[str, Any]:
        calls = [
            {"id": first.id, "name": first.name, "arguments": "".join(arguments)}
            for _, (first, arguments) in sorted(self._calls.items())
        ]
        return {
            "index": self.index,
            "text": "".join(self._text),
            "tool_calls": calls,
            "finish_reason": self.finish_reason,
            "logprobs": self._logprobs,
        }


def result(
    rows: Sequence[RowAnswer], usage: Usage, model: str, prompt_logprobs: Sequence[Entry] | None = None
) -> dict[str, Any]:
    """The whole of a plain answer."""
    answer = {"choices": [row.as_dict() for row in rows], "usage": usage.as_dict(), "model": model}
    return answer if prompt_logprobs is None else answer | {"prompt_logprobs": prompt_logprobs}

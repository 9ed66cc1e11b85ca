"""What predict answers with: the lines of a stream, the object of a plain answer, the body of an error. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from truss_model.answer import AnswerFinish, TextDelta, ToolCallDelta
from truss_model.errors import TrussModelError

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


def start_line(prompt_tokens: int, cached_tokens: int, model: str) -> str:
    return _line({"event": "start", "prompt_tokens": prompt_tokens, "cached_tokens": cached_tokens, "model": model})


def text_line(index: int, delta: TextDelta, logprobs: Sequence[Entry] | None, tokens: int) -> str:
    """`tokens`: how many of the row's were made since its last line."""
    event: dict[str, Any] = {"event": "delta", "index": index, "text": delta.text, "tokens": tokens}
    if logprobs is not None:
        event["logprobs"] = logprobs
    return _line(event)


def tool_call_line(index: int, delta: ToolCallDelta, tokens: int) -> str:
    event: dict[str, Any] = {"event": "tool_call", "index": index, "call": delta.call}
    if delta.id is not None:
        event |= {"id": delta.id, "name": delta.name}
    return _line(event | {"arguments": delta.arguments, "tokens": tokens})


def finish_line(index: int, reason: AnswerFinish) -> str:
    return _line({"event": "finish", "index": index, "reason": reason})


def done_line(usage: Usage) -> str:
    return _line({"event": "done", "usage": usage.as_dict()})


def error_line(error: TrussModelError) -> str:
    told = {"status": error.status, "type": error.type, "message": error.message}
    return _line({"event": "error", **told, "param": error.param, "code": error.code})


def error_body(error: TrussModelError) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


class Choice:
    """One row's answer, gathered from its deltas."""

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


def result(choices: Sequence[Choice], usage: Usage, model: str) -> dict[str, Any]:
    """The whole of a plain answer."""
    return {"choices": [choice.as_dict() for choice in choices], "usage": usage.as_dict(), "model": model}


def _line(event: Mapping[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")) + "\n"

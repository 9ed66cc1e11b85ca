"""The predict contract's answers as types: stream events, and the one object of an answer that is not streamed.

Every dialect is read into these; every OpenAI shape is made from them.
"""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class Broken(Exception):
    """The upstream's answer is not what any dialect allows. Says what was found; never holds the answer's content."""


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None


class TokenLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int] | None = None
    top_logprobs: list[TopLogprob] = []


class Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0
    cached_tokens: int = 0

    def add(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
            self.cached_tokens + other.cached_tokens,
        )


class Start(msgspec.Struct, tag="start", tag_field="event"):
    prompt_tokens: int = 0
    cached_tokens: int = 0


class Delta(msgspec.Struct, tag="delta", tag_field="event"):
    """Text of one choice. `tokens`: how many it stands for; `extra`: OpenAI's fields that have no name here."""

    index: int
    text: str = ""
    logprobs: list[TokenLogprob] | None = None
    tokens: int | None = None
    extra: dict[str, Any] | None = None


class ToolCall(msgspec.Struct, tag="tool_call", tag_field="event"):
    """A piece of call number `call`; id and name in its first piece."""

    index: int
    call: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""
    tokens: int | None = None


class Finish(msgspec.Struct, tag="finish", tag_field="event"):
    index: int
    reason: FinishReason


class Done(msgspec.Struct, tag="done", tag_field="event"):
    usage: Usage = msgspec.field(default_factory=Usage)


class Failure(msgspec.Struct, tag="error", tag_field="event"):
    status: int = 500
    type: str = "server_error"
    message: str = "The model failed while generating."
    param: str | None = None
    code: str | None = None


Event = Start | Delta | ToolCall | Finish | Done | Failure


class Call(msgspec.Struct):
    """A finished tool call."""

    id: str
    name: str
    arguments: str = ""


class Choice(msgspec.Struct):
    index: int
    text: str | None = None
    tool_calls: list[Call] | None = None
    finish_reason: FinishReason = "stop"
    logprobs: list[TokenLogprob] | None = None
    extra: dict[str, Any] | None = None


class Result(msgspec.Struct):
    choices: list[Choice]
    usage: Usage = msgspec.field(default_factory=Usage)


def events_of(result: Result) -> list[Event]:
    """A whole answer as the stream that it would have been."""
    events: list[Event] = [Start(result.usage.prompt_tokens, result.usage.cached_tokens)]
    for choice in result.choices:
        if choice.text or choice.logprobs or choice.extra:
            events.append(Delta(choice.index, choice.text or "", choice.logprobs, extra=choice.extra))
        for number, call in enumerate(choice.tool_calls or ()):
            events.append(ToolCall(choice.index, number, call.id, call.name, call.arguments))
        events.append(Finish(choice.index, choice.finish_reason))
    events.append(Done(result.usage))
    return events


class Gathered:
    """A stream's events -> the whole answer. `failure` is set by an error event."""

    def __init__(self) -> None:
        self.failure: Failure | None = None
        self._choices: dict[int, Choice] = {}
        self._usage = Usage()

    def feed(self, events: Iterable[Event]) -> None:
        for event in events:
            match event:
                case Delta():
                    self._add_text(event)
                case ToolCall():
                    self._add_call(event)
                case Finish(index=index, reason=reason):
                    self._choice(index).finish_reason = reason
                case Done(usage=usage):
                    self._usage = usage
                case Failure():
                    self.failure = event
                case Start():
                    pass

    def result(self) -> Result:
        return Result([self._choices[index] for index in sorted(self._choices)], self._usage)

    def _choice(self, index: int) -> Choice:
        return self._choices.setdefault(index, Choice(index))

    def _add_text(self, event: Delta) -> None:
        choice = self._choice(event.index)
        choice.text = (choice.text or "") + event.text
        if event.logprobs:
            choice.logprobs = (choice.logprobs or []) + event.logprobs
        for name, value in (event.extra or {}).items():
            choice.extra = choice.extra or {}
            held = choice.extra.get(name)
            choice.extra[name] = held + value if isinstance(held, str) and isinstance(value, str) else value

    def _add_call(self, event: ToolCall) -> None:
        choice = self._choice(event.index)
        calls = choice.tool_calls = choice.tool_calls or []
        if event.call >= len(calls):
            calls.append(Call(event.id or "", event.name or ""))
        calls[event.call].arguments += event.arguments

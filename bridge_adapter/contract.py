"""The predict contract as types: a request as predict bodies (Job), stream events, and a whole answer (Result).

Every upstream dialect is decoded into these events; every OpenAI operation is rendered from them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]


class Broken(Exception):
    """The upstream's answer is invalid in its dialect. The message never holds content of the answer."""


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


def total(one: Usage | None, other: Usage | None) -> Usage | None:
    """The sum; unknown if one of the two is."""
    if one is None or other is None:
        return None
    return Usage(
        one.prompt_tokens + other.prompt_tokens,
        one.completion_tokens + other.completion_tokens,
        one.total_tokens + other.total_tokens,
        one.cached_tokens + other.cached_tokens,
    )


class PromptAlternative(msgspec.Struct):
    token: str
    id: int
    logprob: float
    bytes: list[int] | None = None


class PromptToken(msgspec.Struct):
    """One token of the prompt. `logprob` and `rank` are None for the first; special tokens have no `bytes`."""

    token: str
    id: int
    logprob: float | None = None
    rank: int | None = None
    bytes: list[int] = []
    top_logprobs: list[PromptAlternative] = []


class Start(msgspec.Struct, tag="start", tag_field="event"):
    """`prompt_tokens` None: the dialect counts no tokens, or only at the end."""

    prompt_tokens: int | None = 0
    cached_tokens: int = 0


class Prompt(msgspec.Struct, tag="prompt", tag_field="event"):
    """Log probabilities of the prompt of body number `body`, before the text of its choices."""

    prompt_logprobs: list[PromptToken]
    body: int = 0


class Delta(msgspec.Struct, tag="delta", tag_field="event"):
    """Text of one choice. `tokens`: the number of tokens in it; `extra`: OpenAI's fields that have no name here."""

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
    """`usage` None: the dialect counts no tokens."""

    usage: Usage | None = msgspec.field(default_factory=Usage)


class Failure(msgspec.Struct, tag="error", tag_field="event"):
    status: int = 500
    type: str = "server_error"
    message: str = "The model failed while generating."
    param: str | None = None
    code: str | None = None


Event = Start | Prompt | Delta | ToolCall | Finish | Done | Failure


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
    """`usage` None: the dialect counts no tokens. `prompts`: those of several calls, by the number of their body."""

    choices: list[Choice]
    usage: Usage | None = msgspec.field(default_factory=Usage)
    prompt_logprobs: list[PromptToken] | None = None
    prompts: list[list[PromptToken] | None] = []

    def prompt(self, body: int) -> list[PromptToken] | None:
        return self.prompts[body] if self.prompts else self.prompt_logprobs


def events_of(result: Result) -> list[Event]:
    """The events of the stream that would have brought this answer."""
    counts = result.usage
    events: list[Event] = [Start(None) if counts is None else Start(counts.prompt_tokens, counts.cached_tokens)]
    if result.prompt_logprobs is not None:
        events.append(Prompt(result.prompt_logprobs))
    for choice in result.choices:
        if choice.text or choice.logprobs or choice.extra:
            events.append(Delta(choice.index, choice.text or "", choice.logprobs, extra=choice.extra))
        for number, call in enumerate(choice.tool_calls or ()):
            events.append(ToolCall(choice.index, number, call.id, call.name, call.arguments))
        events.append(Finish(choice.index, choice.finish_reason))
    events.append(Done(result.usage))
    return events


class ResultBuilder:
    """A stream's events -> the whole answer. `failure` is set by an error event."""

    def __init__(self) -> None:
        self.failure: Failure | None = None
        self._choices: dict[int, Choice] = {}
        self._usage: Usage | None = Usage()
        self._prompt: list[PromptToken] | None = None

    def add(self, events: Iterable[Event]) -> None:
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
                case Prompt(prompt_logprobs=tokens):
                    self._prompt = tokens
                case Start():
                    pass

    def result(self) -> Result:
        return Result([self._choices[index] for index in sorted(self._choices)], self._usage, self._prompt)

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


class Merge:
    """Several calls as one answer: call k's choices are k*each and so on; one start, one end with all usage."""

    def __init__(self, calls: int, each: int) -> None:
        self._running = calls
        self._each = each
        self._started = False
        self._usage: Usage | None = Usage()

    @property
    def running(self) -> bool:
        return self._running > 0

    def merge(self, call: int, events: list[Event]) -> list[Event]:
        return list(self._merge(call * self._each, events))

    def _merge(self, offset: int, events: list[Event]) -> Iterator[Event]:
        for event in events:
            if isinstance(event, Delta | ToolCall | Finish):
                event.index += offset
            if isinstance(event, Prompt):
                event.body = offset // self._each
            if isinstance(event, Start):
                if self._started:
                    continue
                self._started = True
            if isinstance(event, Done):
                self._running -= 1
                self._usage = total(self._usage, event.usage)
                if self._running:
                    continue
                event = Done(self._usage)
            yield event


def combined(results: Sequence[Result], each: int) -> Result:
    """The results of a job's calls as one: the choices of call k are k*each and so on, the usage is the sum."""
    usage: Usage | None = Usage()
    choices: list[Choice] = []
    for call, result in enumerate(results):
        usage = total(usage, result.usage)
        for choice in result.choices:
            choice.index += call * each
        choices += result.choices
    return Result(choices, usage, prompts=[result.prompt_logprobs for result in results])


@dataclass(frozen=True, slots=True)
class StreamOptions:
    include_usage: bool = False
    continuous_usage: bool = False
    obfuscation: bool = False


@dataclass(slots=True)
class Job:
    """One request as predict bodies: `bodies[k]` makes the choices k*n to k*n+n-1. n is a field of the bodies too.

    `names`: what the request calls a predict field that has another name there, for error messages.
    `default_max_tokens`: the endpoint's own, used when neither the request nor the model's settings give a limit.
    `forced_call`: the request names the one function to call.
    `dropped`: paths of unknown fields that were left out, without array indices.
    """

    bodies: list[dict[str, Any]]
    n: int = 1
    stream: bool = False
    options: StreamOptions = StreamOptions()
    legacy_functions: bool = False
    service_tier: str | None = None
    forced_call: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    default_max_tokens: int | None = None
    dropped: tuple[str, ...] = ()

    @property
    def choices(self) -> int:
        return self.n * len(self.bodies)

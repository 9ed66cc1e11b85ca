"""One row's token ids -> the pieces of its answer: settled text with its tokens, tool calls. Pure; knows no wire."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from truss_model.engine.generation import FinishReason, TokenLogprob
from truss_model.prompt import ChatTokenizer
from truss_model.tools import NO_TOOLS, ToolUse

AnswerFinish = Literal["stop", "length", "tool_calls"]


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token and the bytes of the content that are its own; all tokens' bytes together are the content."""

    token_id: int
    data: bytes
    logprob: TokenLogprob


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Content that can no longer change; `tokens` only if logprobs were fed."""

    text: str
    tokens: tuple[ShownToken, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of call number `call`: `id` and `name` in its first piece only, then pieces of `arguments`."""

    call: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


Delta = TextDelta | ToolCallDelta


class Answer:
    """The state of one row. Feed what the engine delivers; call `finish` once, at the row's end or when `stopped`.

    tools: calls are looked for in what is generated if any tool is callable.
    continues_text: the prompt ends in text (raw prompt, continued message), so a first leading space is text.
    `stopped`: a stop string was met, or the only allowed call is complete: cancel the row, feed nothing more.
    """

    stopped: bool

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        stop: Sequence[str] = (),
        tools: ToolUse = NO_TOOLS,
        continues_text: bool = False,
        new_call_id: Callable[[], str] | None = None,
    ) -> None:
        raise NotImplementedError

    def feed(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] = ()) -> list[Delta]:
        """Take new tokens (an end-of-sequence token included) and return what has become certain."""
        raise NotImplementedError

    def finish(self) -> list[Delta]:
        """Return all that was held back."""
        raise NotImplementedError

    def finish_reason(self, reason: FinishReason) -> AnswerFinish:
        """The wire's reason, from the engine's (give "stop" for a row cancelled because of `stopped`)."""
        raise NotImplementedError

"""One row's token ids -> the pieces of its answer: settled text with its tokens, tool calls. Pure; knows no wire."""

import secrets
import string
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from truss_model.call_parser import Event, ToolCallDelta
from truss_model.engine.generation import FinishReason, TokenLogprob
from truss_model.prompt import ChatTokenizer
from truss_model.text import Piece, ShownToken, TextDelta, TextStream, TokenReader
from truss_model.tool_calls import call_parser
from truss_model.tools import NO_TOOLS, ToolUse

__all__ = ["Answer", "AnswerFinish", "Delta", "ShownToken", "TextDelta", "ToolCallDelta", "new_call_id"]

AnswerFinish = Literal["stop", "length", "tool_calls"]
Delta = TextDelta | ToolCallDelta


def new_call_id() -> str:
    """Nine letters or digits, as Mistral's validator wants them."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


class Answer:
    """The state of one row. Feed what the engine delivers; call `finish` once, at the row's end or when `stopped`.

    stop: looked for in content only, not in the arguments of calls.
    tools: calls are looked for in what is generated if any tool is callable.
    continues_text: the prompt ends in text (raw prompt, continued message), so a first leading space is text.
    `stopped`: a stop string was met, or the only allowed call is complete: cancel the row, feed nothing more.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        *,
        stop: Sequence[str] = (),
        tools: ToolUse = NO_TOOLS,
        continues_text: bool = False,
        new_call_id: Callable[[], str] = new_call_id,
    ) -> None:
        self.stopped = False
        self._reader = TokenReader(tokenizer.vocabulary, continues_text=continues_text)
        self._stream = TextStream(stop, vocabulary=tokenizer.vocabulary)
        style = tokenizer.tool_format if tools.callable else None
        self._parser = None if style is None else call_parser(style, new_call_id)
        self._parallel = tools.parallel
        self._calls = 0

    def feed(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] = ()) -> list[Delta]:
        """Take new tokens (an end-of-sequence token included) and return what has become certain."""
        deltas: list[Delta] = []
        for index, token_id in enumerate(token_ids):
            if self.stopped:
                break
            piece = Piece(token_id, self._reader.read(token_id), logprobs[index] if logprobs else None)
            deltas += self._accept([piece] if self._parser is None else self._parser.feed(piece))
        return _merged(deltas)

    def finish(self) -> list[Delta]:
        """Return all that was held back."""
        deltas: list[Delta] = []
        if not self.stopped and self._parser is not None:
            deltas += self._accept(self._parser.flush())
        if not self.stopped:
            deltas += self._stream.flush()
        return _merged(deltas)

    def finish_reason(self, reason: FinishReason) -> AnswerFinish:
        """The wire's reason, from the engine's (give "stop" for a row cancelled because of `stopped`)."""
        return "tool_calls" if reason == "stop" and self._calls else reason

    def _accept(self, events: Sequence[Event]) -> list[Delta]:
        deltas: list[Delta] = []
        for event in events:
            if isinstance(event, Piece):
                deltas += self._stream.feed(event)
                self.stopped = self._stream.stopped
            elif event.call == 0 or self._parallel:
                deltas += self._stream.flush() if event.name is not None else []
                deltas.append(event)
                self._calls = event.call + 1
            if self.stopped:
                return deltas
        if self._parser is not None and self._parser.calls_done and not self._parallel:
            self.stopped = True
            deltas += self._stream.flush()
        return deltas


def _merged(deltas: Sequence[Delta]) -> list[Delta]:
    """Neighbours that belong together as one: what a reader gets of several tokens at once is one delta."""
    merged: list[Delta] = []
    for delta in deltas:
        last = merged[-1] if merged else None
        if isinstance(last, TextDelta) and isinstance(delta, TextDelta):
            merged[-1] = TextDelta(last.text + delta.text, last.tokens + delta.tokens)
        elif isinstance(last, ToolCallDelta) and isinstance(delta, ToolCallDelta) and last.call == delta.call:
            merged[-1] = replace(last, arguments=last.arguments + delta.arguments)
        else:
            merged.append(delta)
    return merged

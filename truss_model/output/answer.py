"""One row's token ids -> the deltas of its answer: settled text with its tokens, tool calls. Pure; knows no wire."""

import secrets
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Literal

from truss_model.engine.generation import FinishReason, TokenLogprob
from truss_model.output.detokenizer import Piece, ShownToken, TextDelta, TextStream, TokenReader
from truss_model.output.repeated_calls import RepeatedCalls
from truss_model.output.tool_call_parser import Event, ToolCallDelta
from truss_model.output.tool_call_styles import call_parser
from truss_model.request.tools import NO_TOOLS, ToolUse
from truss_model.tokenizer.chat_tokenizer import ChatTokenizer

__all__ = ["AnswerFinish", "Delta", "RowDecoder", "ShownToken", "TextDelta", "ToolCallDelta", "merged", "new_call_id"]

AnswerFinish = Literal["stop", "length", "tool_calls"]
Delta = TextDelta | ToolCallDelta


def new_call_id() -> str:
    """Nine letters or digits, as Mistral's validator wants them."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


class RowDecoder:
    """The state of one row. `decode` what the engine delivers; call `finish` once, at the row's end or when `stopped`.

    stop: searched in content only, not in the arguments of calls.
    tools: calls are recognised only if a tool is callable. If a call is required, there is no content: what is cut of a
    call is left out, and text behind the calls ends the row. A call that repeats an earlier one word for word is left
    out and ends the row.
    continues_text: the prompt ends in text (raw prompt, continued message), so a leading space is text.
    `tokens`: the number decoded; tokens that the engine generated behind a stop string are not counted.
    `stopped`: a stop string was found, or the calls are complete as above: cancel the row, decode nothing more.
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
        self.tokens = 0
        self._reader = TokenReader(tokenizer.vocabulary, continues_text=continues_text)
        self._stream = TextStream(stop, vocabulary=tokenizer.vocabulary)
        style = tokenizer.tool_format if tools.callable else None
        self._parser = None if style is None else call_parser(style, new_call_id)
        self._parallel = tools.parallel
        self._calls_only = tools.mode == "required"
        self._repeated = RepeatedCalls()
        self._calls = 0  # shown
        self._ended = 0  # of the calls that were read
        self._plain = self._parser is None and not any(stop)  # bytes become text unchanged

    def decode(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob] = ()) -> list[Delta]:
        """Take new tokens (an end-of-sequence token included) and return what can no longer change."""
        if self._plain and not logprobs and (data := self._reader.read_text(token_ids)) is not None:
            self.tokens += len(token_ids)
            text = self._stream.decode(data)
            return [TextDelta(text)] if text else []
        deltas: list[Delta] = []
        for index, token_id in enumerate(token_ids):
            if self.stopped:
                break
            self.tokens += 1
            piece = Piece(token_id, self._reader.read(token_id), logprobs[index] if logprobs else None)
            deltas += self._accept([piece] if self._parser is None else self._parser.parse(piece))
        return list(merged(deltas)) if len(deltas) > 1 else deltas

    def finish(self, *, cut: bool = False) -> list[Delta]:
        """Return everything that was held back. cut: the row ended by max_tokens; half a character is left out."""
        deltas: list[Delta] = []
        if not self.stopped and self._parser is not None:
            deltas += self._accept(self._parser.flush(cut=cut))
        if not self.stopped:
            deltas += self._stream.flush(cut=cut)
        if self._parser is not None:
            self._parser.close()
        return list(merged(deltas))

    def finish_reason(self, reason: FinishReason) -> AnswerFinish:
        """The wire's reason, from the engine's ("stop" for a row that was cancelled because of `stopped`)."""
        return "tool_calls" if reason == "stop" and self._calls else reason

    def _accept(self, events: Sequence[Event]) -> list[Delta]:
        deltas: list[Delta] = []
        for event in events:
            if isinstance(event, Piece):
                deltas += [] if self._calls_only else self._stream.add(event)
                self.stopped = self._stream.stopped or (self._calls_only and self._behind_calls(event))
            elif event.call == 0 or self._parallel:
                if event.name is not None:
                    deltas += [*self._end_calls(event.call), *self._stream.flush()]
                if not self.stopped:
                    deltas += self._show(self._repeated.add(event), event.call)
            if self.stopped:
                return deltas
        if self._parser is not None:
            deltas += self._end_calls(self._parser.calls_done)
            if self._parser.calls_done and not self._parallel:
                self.stopped = True
        return [*deltas, *self._stream.flush()] if self.stopped else deltas

    def _behind_calls(self, piece: Piece) -> bool:
        return self._parser is not None and self._parser.calls_done > 0 and bool(piece.data.strip())

    def _end_calls(self, count: int) -> list[Delta]:
        """Note that `count` calls are complete; the row stops if the last of them repeats an earlier one."""
        if count == self._ended or self.stopped:
            return []
        self._ended = count
        if self._repeated.end_call():
            self.stopped = True
            return []
        return self._show(self._repeated.release(), count - 1)

    def _show(self, deltas: Sequence[ToolCallDelta], call: int) -> list[Delta]:
        if deltas:
            self._calls = call + 1
        return [*deltas]


def merged(deltas: Iterable[Delta]) -> Iterator[Delta]:
    """Join neighbouring text deltas, and neighbouring pieces of one call's arguments."""
    held: Delta | None = None
    for delta in deltas:
        if isinstance(held, TextDelta) and isinstance(delta, TextDelta):
            held = TextDelta(held.text + delta.text, held.tokens + delta.tokens)
        elif isinstance(held, ToolCallDelta) and isinstance(delta, ToolCallDelta) and held.call == delta.call:
            held = replace(held, arguments=held.arguments + delta.arguments)
        else:
            if held is not None:
                yield held
            held = delta
    if held is not None:
        yield held

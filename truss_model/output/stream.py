"""A Completion -> what predict answers with: the lines of a stream, or one object. Knows no Truss and no engine."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from truss_model import events
from truss_model.answer import Delta, TextDelta, ToolCallDelta
from truss_model.completion import Completion, RowNews
from truss_model.errors import ClientGone, GenerationFailed, TrussModelError
from truss_model.events import Choice, Entry
from truss_model.logprobs import logprob_entry
from truss_model.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

FAULT = "The model had an error while generating the answer."


class Narrator:
    """Tells one request's completion on the wire. `logprobs`: whether the caller asked for them."""

    def __init__(self, completion: Completion, vocabulary: Vocabulary, model: str, *, logprobs: bool) -> None:
        self._completion = completion
        self._vocabulary = vocabulary
        self._model = model
        self._logprobs = logprobs
        self._untold: Counter[int] = Counter()  # tokens by row that no line has counted yet

    async def lines(self, keepalive_seconds: float) -> AsyncGenerator[str, None]:
        """The stream: start, then the rows' events, then done; whatever goes wrong on the way is its last line."""
        clock = asyncio.get_running_loop().time
        try:
            usage = self._completion.usage
            yield events.start_line(usage.prompt_tokens, usage.cached_tokens, self._model)
            told = clock()
            async with aclosing(self._completion.news(patience=keepalive_seconds)) as all_news:
                async for news in all_news:
                    lines = "".join(line for row in news for line in self._row_lines(row))
                    # A row may make tokens for long that show nothing yet: then, too, the line is kept alive.
                    if lines or clock() - told >= keepalive_seconds:
                        yield lines or events.KEEP_ALIVE
                        told = clock()
            yield events.done_line(self._completion.usage)
        except TrussModelError as error:
            yield events.error_line(error)
        except Exception:
            logger.exception("A stream failed.")
            yield events.error_line(GenerationFailed(FAULT))
        finally:
            self._completion.abort(ClientGone("The stream was closed."))

    async def whole(self, rows: int) -> dict[str, Any]:
        """The plain answer. Raises what goes wrong on the way."""
        choices = [Choice(index, logprobs=self._logprobs) for index in range(rows)]
        async for news in self._completion.news(patience=None):
            for row in news:
                choice = choices[row.index]
                for delta in row.deltas:
                    if isinstance(delta, TextDelta):
                        choice.add_text(delta, self._entries(delta))
                    else:
                        choice.add_tool_call(delta)
                choice.finish_reason = row.finish_reason
        return events.result(choices, self._completion.usage, self._model)

    def _row_lines(self, row: RowNews) -> Iterator[str]:
        self._untold[row.index] += row.tokens
        for delta in _joined(row.deltas):
            tokens = self._untold.pop(row.index, 0)
            if isinstance(delta, TextDelta):
                yield events.text_line(row.index, delta, self._entries(delta), tokens)
            else:
                yield events.tool_call_line(row.index, delta, tokens)
        if row.finish_reason is not None:
            yield events.finish_line(row.index, row.finish_reason)

    def _entries(self, delta: TextDelta) -> list[Entry] | None:
        return [logprob_entry(token, self._vocabulary) for token in delta.tokens] if self._logprobs else None


def _joined(deltas: Sequence[Delta]) -> Iterator[Delta]:
    """Text that arrived in pieces at one time, and pieces of one call's arguments, go out as one event."""
    held: Delta | None = None
    for delta in deltas:
        if isinstance(held, TextDelta) and isinstance(delta, TextDelta):
            held = TextDelta(held.text + delta.text, held.tokens + delta.tokens)
        elif isinstance(held, ToolCallDelta) and isinstance(delta, ToolCallDelta) and held.call == delta.call:
            held = ToolCallDelta(held.call, held.id, held.name, held.arguments + delta.arguments)
        else:
            if held is not None:
                yield held
            held = delta
    if held is not None:
        yield held

"""A Completion -> the events of its answer, or the whole of it as one object. Knows no Truss and no engine."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from truss_model.errors import ClientGone, GenerationFailed, TrussModelError, forget_frames
from truss_model.output.answer import TextDelta, merged
from truss_model.output.completion import Completion, RowUpdate
from truss_model.output.events import (
    AnswerEvent,
    DoneEvent,
    Entry,
    ErrorEvent,
    FinishEvent,
    PromptEvent,
    RowAnswer,
    StartEvent,
    TextEvent,
    ToolCallEvent,
    result,
)
from truss_model.output.logprobs import logprob_entry, prompt_entries
from truss_model.tokenizer.vocabulary import Vocabulary

logger = logging.getLogger(__name__)

FAULT = "The model had an error while generating the answer."


class Silence:
    """Calls `wake` when nothing was sent for `seconds`, and again after as many. One timer per stream, not per token.

    An object rather than a closure: a function that schedules itself refers to itself, and what it holds of a request
    would be freed by the garbage collector only.
    """

    def __init__(self, seconds: float, wake: Callable[[], None]) -> None:
        self._seconds = seconds
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._timer = self._loop.call_later(seconds, self._look)

    @property
    def too_long(self) -> bool:
        return self._loop.time() - self._since >= self._seconds

    def end(self) -> None:
        """Something is sent."""
        self._since = self._loop.time()

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        rest = self._since + self._seconds - self._loop.time()
        if rest <= 0:
            self._wake()
        self._timer = self._loop.call_later(rest if rest > 0 else self._seconds, self._look)


class AnswerWriter:
    """Writes one request's answer. `logprobs`: whether the caller requested them.

    scored_prompt: the prompt, if the caller requested its log probabilities.
    """

    def __init__(
        self,
        completion: Completion,
        vocabulary: Vocabulary,
        model: str,
        *,
        logprobs: bool,
        scored_prompt: Sequence[int] | None = None,
    ) -> None:
        self._completion = completion
        self._vocabulary = vocabulary
        self._model = model
        self._logprobs = logprobs
        self._scored_prompt = scored_prompt
        self._uncounted: dict[int, int] = {}  # tokens by row that are in no event yet

    async def events(
        self, keepalive_seconds: float, release: Callable[[], None] = lambda: None
    ) -> AsyncGenerator[list[AnswerEvent], None]:
        """Batches: start, then the rows' events, then done or error; an empty one after `keepalive_seconds` without.

        release: called when it ends or is closed.
        """
        silence = Silence(keepalive_seconds, self._completion.wake)
        try:
            usage = self._completion.usage
            yield [StartEvent(usage.prompt_tokens, usage.cached_tokens, self._model)]
            while self._completion.running:
                updates = await self._completion.updates()
                batch = [event for row in updates for event in self._row_events(row)]
                if self._scored_prompt is not None and updates:
                    batch.insert(0, PromptEvent(await self._prompt_entries() or []))
                # A row may generate tokens for long without settled text: the connection is kept alive then, too.
                if batch or silence.too_long:
                    silence.end()
                    yield batch
            yield [DoneEvent(self._completion.usage)]
        except TrussModelError as error:
            forget_frames(error)
            yield [ErrorEvent(error)]
        except Exception:
            logger.exception("A stream failed.")
            yield [ErrorEvent(GenerationFailed(FAULT))]
        finally:
            silence.close()
            self._completion.abort(ClientGone("The stream was closed."))
            release()

    async def whole(self, rows: int) -> dict[str, Any]:
        """The plain answer. Raises TrussModelError if the generation fails."""
        answers = [RowAnswer(index, logprobs=self._logprobs) for index in range(rows)]
        while self._completion.running:
            for row in await self._completion.updates():
                answer = answers[row.index]
                for delta in row.deltas:
                    if isinstance(delta, TextDelta):
                        answer.add_text(delta, self._entries(delta))
                    else:
                        answer.add_tool_call(delta)
                answer.finish_reason = row.finish_reason
        return result(answers, self._completion.usage, self._model, await self._prompt_entries())

    def _row_events(self, row: RowUpdate) -> list[AnswerEvent]:
        index, events = row.index, list[AnswerEvent]()
        tokens = self._uncounted.pop(index, 0) + row.tokens
        for delta in merged(row.deltas) if len(row.deltas) > 1 else row.deltas:
            if isinstance(delta, TextDelta):
                events.append(TextEvent(index, delta.text, tokens, self._entries(delta)))
            else:
                events.append(ToolCallEvent(index, delta.call, delta.id, delta.name, delta.arguments, tokens))
            tokens = 0
        if tokens:
            self._uncounted[index] = tokens
        if row.finish_reason is not None:
            events.append(FinishEvent(index, row.finish_reason))
        return events

    async def _prompt_entries(self) -> list[Entry] | None:
        """The prompt's log probabilities, once, if requested. In a thread: a long prompt's may take long."""
        prompt, self._scored_prompt = self._scored_prompt, None
        if prompt is None:
            return None
        scores = self._completion.prompt_scores
        return list(await asyncio.to_thread(prompt_entries, prompt, scores, self._vocabulary))

    def _entries(self, delta: TextDelta) -> list[Entry] | None:
        return [logprob_entry(token, self._vocabulary) for token in delta.tokens] if self._logprobs else None

"""One running request: what the engine delivers, fed to each row's Answer. Knows neither the wire nor Truss."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from truss_model.answer import Answer, AnswerFinish, Delta
from truss_model.engine.generation import Generation, TokenOutput
from truss_model.errors import GenerationFailed, TrussModelError
from truss_model.events import Usage


@dataclass(frozen=True, slots=True)
class RowNews:
    """What one row has got: `tokens` is how many were made for it, shown or not."""

    index: int
    deltas: Sequence[Delta]
    tokens: int
    finish_reason: AnswerFinish | None = None


class Completion:
    """Follow it once: `admitted`, then `news` to the end. `abort` may be called at any point, more than once."""

    def __init__(self, generation: Generation, answers: Sequence[Answer]) -> None:
        self._generation = generation
        self._answers = answers
        self._running = set(range(len(answers)))
        self._completion_tokens = 0
        self._aborted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._abort_reason: TrussModelError | None = None

    @property
    def usage(self) -> Usage:
        return Usage(self._generation.prompt_tokens, self._completion_tokens, self._generation.cached_tokens)

    def abort(self, reason: TrussModelError) -> None:
        """Drop what still runs; `admitted` or `news` raises the reason."""
        if self._abort_reason is None:
            self._abort_reason = reason
            self._aborted.set_result(None)
        self._generation.cancel()

    async def admitted(self) -> None:
        """Wait until the request has left the queue. Raises what speaks against it, or the reason of an abort."""
        admitted = asyncio.ensure_future(self._generation.admitted())
        try:
            await asyncio.wait((admitted, self._aborted), return_when=asyncio.FIRST_COMPLETED)
            if self._abort_reason is not None:
                raise self._abort_reason
            admitted.result()
        finally:
            admitted.cancel()

    async def news(self, *, patience: float | None) -> AsyncGenerator[list[RowNews], None]:
        """Yield news of the rows until all have finished; an empty list after `patience` seconds without."""
        outputs = self._generation.outputs()
        try:
            while self._running:
                try:
                    async with asyncio.timeout(patience):
                        batch = await anext(outputs)
                except TimeoutError:
                    # The generator ended with the wait, but what it waits for is the generation's: nothing is lost.
                    outputs = self._generation.outputs()
                    yield []
                except StopAsyncIteration:
                    raise self._abort_reason or GenerationFailed("The engine ended the request early.") from None
                else:
                    yield [self._feed(output) for output in batch if output.index in self._running]
        finally:
            await outputs.aclose()

    def _feed(self, output: TokenOutput) -> RowNews:
        answer = self._answers[output.index]
        deltas: list[Delta] = []
        fed = 0
        # One by one: a token behind a stop string, which the engine made before it could know, is not counted.
        for position, token_id in enumerate(output.token_ids):
            deltas += answer.feed((token_id,), output.logprobs[position : position + 1])
            fed += 1
            if answer.stopped:
                break
        self._completion_tokens += fed
        reason = "stop" if answer.stopped else output.finish_reason
        if reason is None:
            return RowNews(output.index, deltas, fed)
        self._running.discard(output.index)
        self._generation.cancel(output.index)
        deltas += answer.finish()
        return RowNews(output.index, deltas, fed, answer.finish_reason(reason))

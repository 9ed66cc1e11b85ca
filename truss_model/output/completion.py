"""One running request: decodes the tokens of its rows, counts its usage, ends it early. Knows no JSON and no Truss."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from truss_model.engine.generation import Generation, PromptScore, TokenOutput
from truss_model.errors import GenerationFailed, TrussModelError
from truss_model.output.answer import AnswerFinish, Delta, RowDecoder
from truss_model.output.events import Usage


@dataclass(slots=True)
class RowUpdate:
    """The new deltas of one row; `tokens` is the number generated for it, with or without text."""

    index: int
    deltas: Sequence[Delta]
    tokens: int
    finish_reason: AnswerFinish | None = None


class Completion:
    """Follow it once: `admitted`, then `updates` while `running`. `abort` may be called at any time, more than once."""

    def __init__(self, generation: Generation, decoders: Sequence[RowDecoder]) -> None:
        self._generation = generation
        self._decoders = decoders
        self._running = set(range(len(decoders)))
        self._completion_tokens = 0
        self._aborted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._abort_reason: TrussModelError | None = None

    @property
    def usage(self) -> Usage:
        return Usage(self._generation.prompt_tokens, self._completion_tokens, self._generation.cached_tokens)

    @property
    def prompt_scores(self) -> list[PromptScore]:
        """Complete from the first update on, if the caller requested them."""
        return self._generation.prompt_scores

    def abort(self, reason: TrussModelError) -> None:
        """Drop the rows that still run; `admitted` or `updates` raises the reason."""
        if self._abort_reason is None:
            self._abort_reason = reason
            self._aborted.set_result(None)
        self._generation.cancel()

    async def admitted(self) -> None:
        """Wait until the request has left the queue. Raises the engine's refusal, or the reason of an abort."""
        admitted = asyncio.ensure_future(self._generation.admitted())
        try:
            await asyncio.wait((admitted, self._aborted), return_when=asyncio.FIRST_COMPLETED)
            if self._abort_reason is not None:
                raise self._abort_reason
            admitted.result()
        finally:
            admitted.cancel()

    @property
    def running(self) -> bool:
        """Whether a row has not finished."""
        return bool(self._running)

    async def updates(self) -> list[RowUpdate]:
        """Wait for updates of the rows; an empty list if there are none at a `wake`. Raises the reason of an abort."""
        await self._generation.wait()
        batch = self._generation.take()
        if not batch and not self._generation.open:
            raise self._abort_reason or GenerationFailed("The engine ended the request early.")
        return [self._decode(output) for output in batch if output.index in self._running]

    def wake(self) -> None:
        """End a wait for updates."""
        self._generation.wake()

    def _decode(self, output: TokenOutput) -> RowUpdate:
        decoder = self._decoders[output.index]
        before = decoder.tokens
        deltas = decoder.decode(output.token_ids, output.logprobs)
        decoded = decoder.tokens - before
        self._completion_tokens += decoded
        reason = "stop" if decoder.stopped else output.finish_reason
        if reason is None:
            return RowUpdate(output.index, deltas, decoded)
        self._running.discard(output.index)
        self._generation.cancel(output.index)
        deltas += decoder.finish(cut=reason == "length")
        return RowUpdate(output.index, deltas, decoded, decoder.finish_reason(reason))

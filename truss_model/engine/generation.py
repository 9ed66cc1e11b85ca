"""The caller's side of a request in the engine: its rows' tokens as an async stream, merged if the reader is slow."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Literal

from truss_model.errors import TrussModelError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Natural logarithms of probabilities: the chosen token's, and the most likely ones', in descending order."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class PromptScore:
    """A prompt token's log probability, its rank (1: the most likely), and the most likely tokens at its place."""

    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...] = ()


@dataclass(slots=True)
class TokenOutput:
    """New tokens of one row since the last delivery.

    `finish_reason` "stop": the last token id is an end-of-sequence token. It counts in the usage but is not text.
    `logprobs` has one entry per token id if requested, else it is empty.
    """

    index: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None


class Generation:
    """Returned by `Engine.submit`. Belongs to the event loop on which it was made; the engine delivers through it."""

    def __init__(self, prompt_tokens: int, rows: int, cancel: Callable[["Generation", int | None], None]) -> None:
        self.prompt_tokens = prompt_tokens
        self.cached_tokens = 0
        self.prompt_scores: list[PromptScore] = []  # of every prompt token but the first, if requested
        self._cancel = cancel
        self._open = set(range(rows))
        self._pending: dict[int, TokenOutput] = {}
        self._error: TrussModelError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._admitted = asyncio.Event()

    async def admitted(self) -> None:
        """Return when the request leaves the queue; `cached_tokens` is set then.

        Raises QueueFull if it waited longer than the engine's queue time, EngineUnwell or GenerationFailed on faults.
        """
        await self._admitted.wait()
        if self._error is not None:
            raise self._error

    async def outputs(self) -> AsyncGenerator[list[TokenOutput], None]:
        """Yield what each row has got since the last time, until every row has finished or was cancelled.

        Raises GenerationFailed or EngineUnwell after the tokens that were made before the fault.
        """
        while self._open or self._pending or self._error:
            await self.wait()
            if batch := self.take():
                yield batch

    async def wait(self) -> None:
        """Return when there is something to `take`, when a row is cancelled, or at `wake`. One waits at a time."""
        if self._pending or self._error is not None or not self._open:
            return
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def take(self) -> list[TokenOutput]:
        """What each row has got since the last time. Raises what `outputs` does."""
        if self._pending:
            batch, self._pending = list(self._pending.values()), {}
            return batch
        if self._error is not None:
            raise self._error
        return []

    def wake(self) -> None:
        """End a `wait`."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def cancel(self, index: int | None = None) -> None:
        """Drop one row or all; their pages are free after the running step. Does nothing if they have finished."""
        dropped = set(self._open) if index is None else self._open & {index}
        if not dropped:
            return
        self._open -= dropped
        self.wake()
        self._cancel(self, index)

    @property
    def open(self) -> bool:
        """Whether a row of it still runs or waits."""
        return bool(self._open)

    # Called by the engine, through the event loop.

    def admit(self, cached_tokens: int) -> None:
        self.cached_tokens = cached_tokens
        self._admitted.set()

    def score(self, scores: list[PromptScore]) -> None:
        """The scores of the next prompt tokens; all are there before the first token is delivered."""
        self.prompt_scores += scores

    def deliver(self, output: TokenOutput) -> None:
        if output.index not in self._open:
            return
        held = self._pending.get(output.index)
        if held is None:
            self._pending[output.index] = output
        else:
            held.token_ids += output.token_ids
            held.logprobs += output.logprobs
            held.finish_reason = output.finish_reason
        if output.finish_reason is not None:
            self._open.discard(output.index)
        self.wake()

    def fail(self, error: TrussModelError) -> None:
        if not self._open:
            return
        self._open.clear()
        self._error = error
        self._admitted.set()
        self.wake()
